//! Values of the data plane's tables.
//!
//! Written by the daemon, read by the pipeline. `repr(C)` without padding, `bool` or `Option`; addresses in
//! transmission order, integers in host order. A zeroed entry is an unused one.

use crate::checksum::Sum;
use crate::id::{
    Address, AdjacencyId, EtherType, Family, IfIndex, IpProto, MacAddress, NetworkId, PortId,
    TunnelId, VlanId,
};
use crate::key::DemuxKey;
use crate::limits::{GROUP_BUCKETS, GROUP_MEMBERS};
use crate::wire::ether::LinkAddresses;
use crate::wire::gre::GreHeader;
use crate::wire::ip::{IPV4_LENGTH, IPV4_WITHOUT_OPTIONS, IPV6_LENGTH};

/// Declares a set of flag bits held in a `u16`.
macro_rules! flags {
    ($(#[$doc:meta])* $name:ident { $($(#[$bit_doc:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub u16);

        impl $name {
            $($(#[$bit_doc])* pub const $bit: Self = Self($value);)*

            /// Whether all bits of `other` are set.
            #[inline(always)]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Both sets together.
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// `self`, with `other` added if `condition` holds.
            pub const fn with(self, other: Self, condition: bool) -> Self {
                if condition { self.union(other) } else { self }
            }
        }
    };
}

flags! {
    /// What a device is to the gateway.
    InterfaceFlags {
        /// Untagged frames may carry GRE for the gateway.
        UNDERLAY = 1;
    }
}

/// What to do with frames of a device, by interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceEntry {
    /// The device's own address: other unicast frames are not for the gateway.
    pub mac: MacAddress,
    /// Roles of the device; 0: not the gateway's.
    pub flags: InterfaceFlags,
    /// The port of untagged frames.
    pub untagged: AttachedPort,
    /// Which table has its tagged ports; table 0, which is empty, if it has none.
    pub vlans: u32,
}

/// What ingress needs to know of a port; zero: no port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachedPort {
    /// The port.
    pub id: PortId,
    /// Its network.
    pub network: NetworkId,
}

/// Where machines of a network attach, by port id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortEntry {
    /// The network of the port.
    pub network: NetworkId,
    /// The device of the port.
    pub device: IfIndex,
    /// Source address of frames sent to machines.
    pub mac: MacAddress,
    /// Tag of frames sent to machines; 0: untagged.
    pub vlan: VlanId,
    /// Greatest IP packet that the device carries, in bytes; 0: the entry is not in use.
    pub mtu: u16,
    /// Zero.
    pub reserved: u16,
}

flags! {
    /// Options of a tunnel. The upper byte is the first one of the GRE header to send.
    TunnelFlags {
        /// Send and require the checksum (RFC 2784 C bit).
        CHECKSUM = (GreHeader::CHECKSUM as u16) << 8;
        /// Send a key (RFC 2890 K bit).
        KEY = (GreHeader::KEY as u16) << 8;
        /// Send and require sequence numbers (RFC 2890 S bit).
        SEQUENCE = (GreHeader::SEQUENCE as u16) << 8;
        /// The entry is in use.
        IN_USE = 1;
        /// Packets from the remote carry a key.
        RECEIVE_KEY = 2;
        /// The underlay is IPv6.
        OUTER_V6 = 4;
        /// Outer TTL or hop limit is that of the inner packet.
        INHERIT_TTL = 8;
        /// Outer DSCP is that of the inner packet.
        INHERIT_TOS = 16;
    }
}

/// A tunnel, by tunnel id: one cache line with all that tells its packets and that encapsulation needs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelEntry {
    /// The network of the tunnel.
    pub network: NetworkId,
    /// The layer-2 rewrite towards the remote.
    pub adjacency: AdjacencyId,
    /// Options.
    pub flags: TunnelFlags,
    /// Greatest inner IP packet, in bytes.
    pub mtu: u16,
    /// Outer TTL or hop limit, unless inherited.
    pub ttl: u8,
    /// Outer TOS or traffic class, whose ECN bits are zero, unless inherited.
    pub tos: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Outer source address; IPv4 in the first four bytes.
    pub local: [u8; 16],
    /// Outer destination address; IPv4 in the first four bytes.
    pub remote: [u8; 16],
    /// Key to send, if [`TunnelFlags::KEY`] is set.
    pub transmit_key: u32,
    /// Key to expect, if [`TunnelFlags::RECEIVE_KEY`] is set; else 0.
    pub receive_key: u32,
    /// One's complement sum, as read on this host, of the parts of an outer IPv4 header that never change.
    pub header_sum: u16,
    /// Zero.
    pub reserved_tail: [u16; 3],
}

/// Tunnels that share the flows of a route, by group id.
///
/// A flow belongs to one bucket, a bucket to one member, and members have as many buckets as their weights give them.
/// While a member is not alive, its flows, and no others, take other members: see [`crate::pipeline::group`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// One bit for each member, that of member 0 the lowest: whether packets can be sent there. 0: entry not in use.
    pub alive: u32,
    /// Zero.
    pub reserved: u32,
    /// The members, in places that they keep as long as they belong to the group; 0: free.
    pub members: [TunnelId; GROUP_MEMBERS],
    /// The member of each bucket.
    pub buckets: [u8; GROUP_BUCKETS],
}

/// The roots of a network's routing tables, by network id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkEntry {
    /// Root of the IPv4 FIB; 0: empty.
    pub root_v4: u32,
    /// Root of the IPv6 FIB; 0: empty.
    pub root_v6: u32,
}

/// A machine on a port, by neighbour id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighbourEntry {
    /// The port behind which the machine is.
    pub port: PortId,
    /// The machine's layer-2 address, if [`NeighbourEntry::resolved`] is 1.
    pub mac: MacAddress,
    /// 1 once the layer-2 address is known.
    pub resolved: u8,
    /// Family of [`NeighbourEntry::address`]: 4 or 6; 0: entry not in use.
    pub family: u8,
    /// The machine's address; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Set to 1 by the data plane when it sends to the machine, cleared by the daemon when it probes.
    pub used: u32,
}

/// The layer-2 rewrite towards an underlay next hop, by adjacency id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdjacencyEntry {
    /// Device to send on.
    pub device: IfIndex,
    /// Addresses of the next hop on the link and of the device.
    pub addresses: LinkAddresses,
    /// Greatest IP packet that the device carries, in bytes; 0 as long as the destination is not known.
    pub mtu: u16,
    /// Zero.
    pub reserved: u16,
}

const _: () = {
    assert!(size_of::<InterfaceEntry>() == 20);
    assert!(size_of::<AttachedPort>() == 8);
    assert!(size_of::<PortEntry>() == 20);
    assert!(size_of::<TunnelEntry>() == 64);
    assert!(size_of::<GroupEntry>() == 392);
    assert!(size_of::<NetworkEntry>() == 8);
    assert!(size_of::<NeighbourEntry>() == 32);
    assert!(size_of::<AdjacencyEntry>() == 20);
};

impl TunnelEntry {
    /// Whether the tunnel is in use and packets with this key are its own.
    #[inline(always)]
    pub fn takes(&self, key: &DemuxKey) -> bool {
        const FORM: TunnelFlags = TunnelFlags::IN_USE
            .union(TunnelFlags::RECEIVE_KEY)
            .union(TunnelFlags::OUTER_V6);
        let form = TunnelFlags::IN_USE
            .with(TunnelFlags::RECEIVE_KEY, key.has_key != 0)
            .with(
                TunnelFlags::OUTER_V6,
                matches!(key.local.family(), Family::V6),
            );
        let [remote, local] = [key.remote, key.local].map(Address::words);
        let [own_remote, own_local] = [self.remote, self.local].map(|own| Address::v6(own).words());
        // Word by word, because a comparison of arrays is a call and a loop. Behind an IPv4 address there are zeros.
        self.flags.0 & FORM.0 == form.0
            && self.receive_key == key.key
            && own_remote[0] == remote[0]
            && own_local[0] == local[0]
            && own_remote[1] == remote[1]
            && own_local[1] == local[1]
    }

    /// Flags of the outer IPv4 header; the identification is 0, which RFC 6864 §4.1 allows with DF.
    pub const IPV4_DONT_FRAGMENT: [u8; 2] = [0x40, 0];

    /// The value of [`TunnelEntry::header_sum`] for a tunnel between these addresses.
    pub const fn header_sum(local: [u8; 4], remote: [u8; 4]) -> u16 {
        Sum(0)
            .add([IPV4_WITHOUT_OPTIONS, 0])
            .add(Self::IPV4_DONT_FRAGMENT)
            .add([0, IpProto::GRE.0])
            .add_4(local)
            .add_4(remote)
            .fold()
    }
}

impl TunnelFlags {
    /// The first byte of the GRE header to send.
    #[inline(always)]
    pub const fn gre(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Bytes of outer IP and GRE header to send (RFC 2890 §2).
    #[inline(always)]
    pub const fn overhead(self) -> usize {
        let ip = if self.contains(Self::OUTER_V6) {
            IPV6_LENGTH
        } else {
            IPV4_LENGTH
        };
        ip + GreHeader::new(self.gre(), EtherType::IPV4).length()
    }
}

impl Default for GroupEntry {
    fn default() -> Self {
        Self {
            alive: 0,
            reserved: 0,
            members: [TunnelId(0); GROUP_MEMBERS],
            buckets: [0; GROUP_BUCKETS],
        }
    }
}

impl NeighbourEntry {
    /// Whether this is the machine's address, given one of the entry's family.
    #[inline(always)]
    pub fn is_at(&self, address: &Address) -> bool {
        Address::v6(self.address).words() == address.words()
    }

    /// The machine's address; `None` if the entry is not in use.
    pub const fn address(&self) -> Option<Address> {
        Address::from_bytes(self.family, self.address)
    }
}
