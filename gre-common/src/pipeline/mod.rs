//! The way of a packet.
