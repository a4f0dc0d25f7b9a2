//! Header formats, one file each with the same anatomy: the bit diagram, the type, its size, its accessors.
//!
//! All are [`crate::frame::Wire`]: alignment 1, no padding, fields in transmission order. IP and ARP headers are those
//! of the `network-types` crate.

pub mod arp;
pub mod ether;
pub mod gre;
pub mod icmp;
pub mod ip;
