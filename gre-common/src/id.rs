//! Newtypes for everything that would otherwise be a bare integer.
//!
//! All hold host byte order. Dense ids index arrays of the data plane; their names live in userspace only.

use core::fmt;

/// Declares a transparent integer newtype with `Display` as its number.
macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }
    };
}

newtype! {
    /// The key of a GRE packet (RFC 2890 §2.1).
    GreKey(u32)
}
newtype! {
    /// Index of a tunnel in `TUNNELS`, `TUNNEL_STATS` and `SEQUENCES`.
    TunnelId(u32)
}
newtype! {
    /// Index of a port in `PORTS` and `PORT_STATS`.
    PortId(u32)
}
newtype! {
    /// Index of a network in `NETWORKS`.
    NetworkId(u32)
}
newtype! {
    /// Index of a machine's layer-2 address in `NEIGHBOURS`.
    NeighbourId(u32)
}
newtype! {
    /// Index of an underlay next hop's layer-2 rewrite in `ADJACENCIES`.
    AdjacencyId(u32)
}
newtype! {
    /// A kernel interface index.
    IfIndex(u32)
}
newtype! {
    /// An IEEE 802.1Q VLAN id, 1 to 4094; 0 means untagged.
    VlanId(u16)
}
newtype! {
    /// An Ethernet protocol type (IEEE 802.3 registry).
    EtherType(u16)
}
newtype! {
    /// An IP protocol or IPv6 next-header number (IANA registry).
    IpProto(u8)
}

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// Address resolution protocol.
    pub const ARP: Self = Self(0x0806);
    /// An IEEE 802.1Q tag.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
}

impl IpProto {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// IPv6 fragment header.
    pub const FRAGMENT: Self = Self(44);
    /// GRE.
    pub const GRE: Self = Self(47);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: Self = Self(60);
}

/// An Ethernet address in transmission order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address of all stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set: multicast or broadcast.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// An IP address of either family, in transmission order.
///
/// The wide tag aligns the bytes, which the verifier wants of copies on the stack.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4.
    V4([u8; 4]),
    /// IPv6.
    V6([u8; 16]),
}

impl Address {
    /// The address as the 16 bytes of table entries: IPv4 in the first four, zeros behind.
    #[inline(always)]
    pub fn to_bytes(self) -> [u8; 16] {
        match self {
            Self::V4([a, b, c, d]) => [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Self::V6(bytes) => bytes,
        }
    }

    /// The family number used in entries and events: 4 or 6.
    #[inline(always)]
    pub const fn family(self) -> u8 {
        match self {
            Self::V4(_) => 4,
            Self::V6(_) => 6,
        }
    }

    /// The inverse of [`Address::to_bytes`]; `None` for a family other than 4 or 6.
    pub const fn from_bytes(family: u8, bytes: [u8; 16]) -> Option<Self> {
        match family {
            4 => Some(Self::V4([bytes[0], bytes[1], bytes[2], bytes[3]])),
            6 => Some(Self::V6(bytes)),
            _ => None,
        }
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(address) => Self::V4(address.octets()),
            core::net::IpAddr::V6(address) => Self::V6(address.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        match address {
            Address::V4(octets) => Self::from(octets),
            Address::V6(octets) => Self::from(octets),
        }
    }
}
