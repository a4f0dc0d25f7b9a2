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
    /// A tunnel's place in its table, in `TUNNEL_STATS` and `SEQUENCES`.
    TunnelId(u32)
}
newtype! {
    /// A port's place in its table and in `PORT_STATS`.
    PortId(u32)
}
newtype! {
    /// A network's place in its table.
    NetworkId(u32)
}
newtype! {
    /// The place of a machine's layer-2 address in its table.
    NeighbourId(u32)
}
newtype! {
    /// The place of an underlay next hop's layer-2 rewrite in its table.
    AdjacencyId(u32)
}
newtype! {
    /// The place of a group of tunnels in its table.
    GroupId(u32)
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
    /// IPv6 routing header.
    pub const ROUTING: Self = Self(43);
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

    /// The address and two zero bytes, as they lie in memory.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// The inverse of [`MacAddress::to_word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let [a, b, c, d, e, f, _, _] = word.to_ne_bytes();
        Self([a, b, c, d, e, f])
    }

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

/// An IP address family.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// An IP address of either family, in transmission order.
///
/// Held as whole words that are always defined, which an enum over the two families could not promise: the verifier
/// refuses copies of undefined registers, and unaligned ones on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// The 16 bytes of [`Address::to_bytes`], as they lie in memory.
    words: [u64; 2],
    family: Family,
}

impl Family {
    /// What a frame that carries a packet of this family says in its type field.
    #[inline(always)]
    pub const fn ether_type(self) -> EtherType {
        match self {
            Self::V4 => EtherType::IPV4,
            Self::V6 => EtherType::IPV6,
        }
    }
}

impl Address {
    /// An IPv4 address.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self {
            words: [(u32::from_le_bytes(bytes) as u64).to_le(), 0],
            family: Family::V4,
        }
    }

    /// An IPv6 address.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        // By way of one number: taken apart byte by byte, the compiler would keep it so.
        let number = u128::from_le_bytes(bytes);
        Self {
            words: [(number as u64).to_le(), ((number >> 64) as u64).to_le()],
            family: Family::V6,
        }
    }

    /// The address as the 16 bytes of table entries: IPv4 in the first four, zeros behind.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; 16] {
        let [low, high] = self.words;
        ((u64::from_le(high) as u128) << 64 | u64::from_le(low) as u128).to_le_bytes()
    }

    /// The first four bytes: all of an IPv4 address.
    #[inline(always)]
    pub const fn to_v4(self) -> [u8; 4] {
        (u64::from_le(self.words[0]) as u32).to_le_bytes()
    }

    /// The 16 bytes of [`Address::to_bytes`] as two words, as they lie in memory.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        self.words
    }

    /// An IPv6 address as a number, in two halves.
    #[inline(always)]
    pub const fn halves(self) -> (u64, u64) {
        (u64::from_be(self.words[0]), u64::from_be(self.words[1]))
    }

    /// Its family, whose number entries and events hold.
    #[inline(always)]
    pub const fn family(self) -> Family {
        self.family
    }

    /// The inverse of [`Address::to_bytes`]; `None` for a family other than 4 or 6.
    pub const fn from_bytes(family: u8, bytes: [u8; 16]) -> Option<Self> {
        match family {
            4 => Some(Self::v4([bytes[0], bytes[1], bytes[2], bytes[3]])),
            6 => Some(Self::v6(bytes)),
            _ => None,
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&core::net::IpAddr::from(*self), formatter)
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(address) => Self::v4(address.octets()),
            core::net::IpAddr::V6(address) => Self::v6(address.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        match address.family {
            Family::V4 => Self::from(address.to_v4()),
            Family::V6 => Self::from(address.to_bytes()),
        }
    }
}
