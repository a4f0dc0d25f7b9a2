//! What becomes of a packet: the one table of verdicts and drop reasons.
//!
//! Numbers of drop reasons are part of the map ABI and of every counter ever exported: they are never reused.

use crate::frame::{NoRoom, Truncated};

/// The outcome for a packet that is not dropped. Carries no data, so that every value of a
/// `Result<Verdict, DropReason>` is defined in full: the verifier refuses copies of undefined registers.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Not the gateway's: the kernel gets it untouched.
    Pass,
    /// Address resolution on a port: [`crate::pipeline::resolve`] decides.
    Resolve,
    /// An answer to a question of the gateway, which is used up.
    Consume,
    /// The frame leaves on [`crate::counters::Ledger::egress`].
    Transmit,
}

/// Declares the reasons with number, name and explanation in one place.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal, $text:literal;)*) => {
        /// Why a packet was dropped. As wide as a register: in a `Result` it shares memory with what else might be there,
        /// and a narrow part would split that into accesses that the verifier finds unaligned.
        #[repr(u64)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $(#[doc = $text] $name = $number,)*
        }

        impl DropReason {
            /// All reasons, in order of number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name in metrics, JSON and documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// One sentence for operators.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The reason with this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

drop_reasons! {
    Truncated = 1, "truncated", "The frame ends within a header or before its IP length.";
    OuterChecksum = 2, "outer_checksum", "The outer IPv4 header checksum is wrong.";
    OuterFragment = 3, "outer_fragment", "The outer packet is a fragment; GRE packets must not be fragmented on the way.";
    OuterMalformed = 4, "outer_malformed", "The outer IP header's lengths contradict each other.";
    UnknownTunnel = 5, "unknown_tunnel", "No tunnel has this pair of addresses and this key.";
    GreReserved = 6, "gre_reserved", "A reserved GRE bit is set that a receiver must not accept.";
    GreVersion = 7, "gre_version", "The GRE version is not 0.";
    GreChecksum = 8, "gre_checksum", "The GRE checksum is wrong.";
    GreChecksumMissing = 9, "gre_checksum_missing", "The tunnel requires a GRE checksum and the packet has none.";
    SequenceMissing = 10, "sequence_missing", "The tunnel requires sequence numbers and the packet has none.";
    SequenceOld = 11, "sequence_old", "The sequence number is not newer than the last one.";
    GreProtocol = 12, "gre_protocol", "The GRE protocol type is neither IPv4 nor IPv6.";
    InnerVersion = 13, "inner_version", "The inner packet's IP version contradicts the protocol type.";
    InnerMalformed = 14, "inner_malformed", "The inner IP header's lengths contradict each other.";
    InnerChecksum = 15, "inner_checksum", "The inner IPv4 header checksum is wrong.";
    EcnForbidden = 16, "ecn_forbidden", "Congestion was marked outside a packet that is not ECN-capable.";
    NotForwardable = 17, "not_forwardable", "Source or destination is multicast, broadcast, loopback or link-local.";
    NoRoute = 18, "no_route", "The network has no route to the destination.";
    Blackhole = 19, "blackhole", "The route to the destination is a blackhole.";
    TtlExpired = 20, "ttl_expired", "TTL or hop limit does not allow another hop.";
    ExceedsTunnelMtu = 21, "exceeds_tunnel_mtu", "The packet is larger than the tunnel's MTU.";
    ExceedsUnderlayMtu = 22, "exceeds_underlay_mtu", "The encapsulated packet is larger than the underlay device's MTU.";
    ExceedsPortMtu = 23, "exceeds_port_mtu", "The packet is larger than the port's MTU.";
    AdjacencyUnresolved = 24, "adjacency_unresolved", "The layer-2 address towards the tunnel's remote is not known.";
    NeighbourUnresolved = 25, "neighbour_unresolved", "The layer-2 address of the machine is not known yet.";
    LocalUnsupported = 26, "local_unsupported", "The packet is for the gateway itself, which answers echo requests only.";
    PeeringTransit = 27, "peering_transit", "A peering does not lead on into tunnels or further peerings.";
    NoHeadroom = 28, "no_headroom", "There is no room before the frame for the outer headers.";
    TransmitFailed = 29, "transmit_failed", "The device to send on is not attached, or cannot take the frame.";
    MissingEntry = 30, "missing_entry", "A table entry refers to one that is not there.";
    GroupDown = 31, "group_down", "No tunnel of the group that the route leads to can be used.";
    SequenceJump = 32, "sequence_jump", "The sequence number is far ahead of the last one, and too few packets have confirmed it.";
    EchoChecksum = 33, "echo_checksum", "The ICMP checksum of an echo request for the gateway itself is wrong.";
}

impl DropReason {
    /// One more than the greatest number.
    pub const LIMIT: u16 = 34;
}

impl From<Truncated> for DropReason {
    #[inline(always)]
    fn from(Truncated: Truncated) -> Self {
        Self::Truncated
    }
}

impl From<NoRoom> for DropReason {
    #[inline(always)]
    fn from(NoRoom: NoRoom) -> Self {
        Self::NoHeadroom
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_below_the_limit() {
        let mut names = std::collections::HashSet::new();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert!((*reason as u16) < DropReason::LIMIT);
            assert_eq!(DropReason::from_number(*reason as u16), Some(*reason));
            assert!(index == 0 || DropReason::ALL[index - 1] < *reason);
            assert!(names.insert(reason.name()));
        }
    }
}
