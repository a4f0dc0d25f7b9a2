//! What kernel and host share: wire formats, table entries, the FIB look-up and the packet pipeline.
//!
//! No allocation, no I/O, no BPF helper: packet memory is reached through [`frame::Frame`] and every table through
//! [`tables::Tables`], so that the same code forwards packets in XDP, under host tests and in `gregw explain`.
#![cfg_attr(not(test), no_std)]
// Hides bounds from the compiler that the verifier has to see.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod bound;
pub mod checksum;
pub mod counters;
pub mod demux;
pub mod entry;
pub mod event;
pub mod event_budget;
pub mod fib;
pub mod frame;
pub mod id;
pub mod key;
pub mod limits;
pub mod memory;
pub mod next_hop;
pub mod pipeline;
pub mod tables;
pub mod verdict;
pub mod wire;
