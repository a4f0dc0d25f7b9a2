//! The index by which a GRE packet finds its tunnel: a perfect hash, one probe for every key that it holds.
//!
//! Hash and displace (Belazzougui, Botelho, Dietzfelbinger 2009): a key's hash names a bucket, the bucket's displacement
//! and the hash name a slot, and the slot holds the tunnel's id. The program looks up here; the daemon chooses
//! displacements so that no two keys share a slot (`gre-userspace::dataplane::demux`). Holds: a slot only proposes a
//! tunnel and its network; the tunnel's own entry then says whether both are true, so that an unknown key is never
//! mistaken. (The network's routes can be looked up while the entry is still on its way from memory.)
//!
//! Tables of all sizes, which are powers of two, lie in one memory: the one of `size` slots begins at slot `size`.
//! Growing is filling the next one and then telling its size.

use crate::id::{Family, NetworkId, TunnelId};
use crate::key::DemuxKey;
use crate::limits;

/// Slots of the smallest table.
pub const LEAST_SIZE: u32 = 16;
/// Slots of the greatest table: half of them stay free.
pub const GREATEST_SIZE: u32 = 2 * limits::TUNNELS as u32;
/// Slots for each bucket.
const SLOTS_PER_BUCKET: u32 = 4;

/// Slots of the tables of all sizes.
pub const SLOTS: usize = 2 * GREATEST_SIZE as usize;
/// Buckets of the tables of all sizes.
pub const BUCKETS: usize = SLOTS / SLOTS_PER_BUCKET as usize;

/// A tunnel and its network; zero: none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot(pub u32);

const TUNNEL_BITS: u32 = limits::TUNNELS.trailing_zeros();
const _: () = assert!(TUNNEL_BITS + limits::NETWORKS.trailing_zeros() <= u32::BITS);

impl Slot {
    /// A slot that leads to this tunnel.
    pub const fn new(TunnelId(tunnel): TunnelId, NetworkId(network): NetworkId) -> Self {
        Self(network << TUNNEL_BITS | tunnel)
    }

    /// The tunnel.
    #[inline(always)]
    pub const fn tunnel(self) -> TunnelId {
        TunnelId(self.0 & (limits::TUNNELS as u32 - 1))
    }

    /// The tunnel's network.
    #[inline(always)]
    pub const fn network(self) -> NetworkId {
        NetworkId(self.0 >> TUNNEL_BITS)
    }
}

/// Where the displacement for this hash is.
#[inline(always)]
pub const fn bucket(size: u32, hash: u64) -> u32 {
    place(size / SLOTS_PER_BUCKET, (hash >> 40) as u32)
}

/// Where the tunnel for this hash is.
#[inline(always)]
pub const fn slot(size: u32, hash: u64, displacement: u16) -> u32 {
    let step = (hash as u32) << 1 | 1;
    let start = (hash >> 20) as u32;
    place(
        size,
        start.wrapping_add(step.wrapping_mul(displacement as u32)),
    )
}

#[inline(always)]
const fn place(size: u32, index: u32) -> u32 {
    size | index & size.wrapping_sub(1)
}

/// Mixes a key: a sum of products, whose high bits depend on every bit, and once more for the low ones.
#[inline(always)]
pub const fn hash(key: &DemuxKey) -> u64 {
    let (remote, local) = (key.remote.words(), key.local.words());
    let is_v6 = matches!(key.local.family(), Family::V6);
    let id = (is_v6 as u64) << 33 | (key.has_key as u64) << 32 | key.key as u64;
    // Odd numbers without a pattern: from the fractional parts of square roots of primes.
    let sum = remote[0]
        .wrapping_mul(0x6a09_e667_f3bc_c909)
        .wrapping_add(remote[1].wrapping_mul(0xbb67_ae85_84ca_a73b))
        .wrapping_add(local[0].wrapping_mul(0x3c6e_f372_fe94_f82b))
        .wrapping_add(local[1].wrapping_mul(0xa54f_f53a_5f1d_36f1))
        .wrapping_add(id.wrapping_mul(0x510e_527f_ade6_82d1));
    (sum ^ sum >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
