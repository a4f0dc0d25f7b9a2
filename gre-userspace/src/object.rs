//! The BPF object that the build script compiled from `gre-ebpf`: what the daemon and the tests load.

use aya::include_bytes_aligned;

/// The object: an ELF file, aligned as its parser wants.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gregw.bpf.o"));

/// The program that is attached to devices.
pub const GATEWAY: &str = "gregw";
/// The program that answers ARP and neighbour discovery; the other one hands over to it.
pub const RESOLVER: &str = "gregw_resolve";
