//! What each case sends and what must arrive: pairs of frames, in random order over all routes and tunnels.

use std::net::Ipv4Addr;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::bed::{Cable, Mac};
use crate::case::{Case, Stage, TunnelKind};
use crate::frame::{Inner, Link, Outer, encapsulated, plain, vxlan};
use crate::head::{Field, Frames};
use crate::scale::{LOCAL_V4, MACHINE, Route, Scale, local};

/// Frames to send and what must arrive for them.
#[derive(Debug, Default)]
pub(crate) struct Trip {
    /// What is sent: a power of two of frames.
    pub(crate) sent: Frames,
    /// What must arrive.
    pub(crate) arriving: Frames,
}

/// The other end of the kernel's tunnel.
pub(crate) const KERNEL_REMOTE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The key of the kernel's GRE tunnel.
pub(crate) const KERNEL_GRE_KEY: u32 = 1_000_000;
/// The kernel's VXLAN device.
pub(crate) const VXLAN_MAC: Mac = crate::bed::mac(100);
/// The router behind it.
pub(crate) const VXLAN_ROUTER_MAC: Mac = crate::bed::mac(101);

/// Where a site's machine sends from that no route leads to.
const SITE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
/// Identification and checksum of the outer IP header, which the kernel makes up.
const IDENTIFICATION: [Field; 2] = [(18, 2), (24, 2)];
/// The outer UDP source port, which tells flows apart.
const UDP_SOURCE_PORT: Field = (34, 2);
/// The flow label of the outer IPv6 header, and half of its traffic class.
const FLOW_LABEL: Field = (15, 3);

const LEAST_FRAMES: usize = 256;
const MOST_FRAMES: usize = 1 << 17;
const SEED: u64 = 0x6772_6567_772d_6232;

/// Makes the traffic of one bed.
#[derive(Clone, Copy)]
pub(crate) struct Traffic<'a> {
    /// The tables' size.
    pub(crate) scale: Scale,
    /// All routes of it.
    pub(crate) routes: &'a [Route],
    /// What is measured.
    pub(crate) case: Case,
    /// The side of the machines.
    pub(crate) left: Cable,
    /// The side of the underlay.
    pub(crate) right: Cable,
}

impl Traffic<'_> {
    /// Machines' packets that arrive as they were sent.
    pub(crate) fn unchanged(self) -> Trip {
        self.each(|_, _, host| {
            let frame = plain(inward(self.left), None, self.outbound(host, 0));
            (frame.clone(), frame)
        })
    }

    /// Machines' packets that are routed.
    pub(crate) fn routed(self) -> Trip {
        self.each(|_, _, host| {
            (
                plain(inward(self.left), None, self.outbound(host, 0)),
                plain(outward(self.right), None, self.outbound(host, 1)),
            )
        })
    }

    /// Machines' packets that are routed into a VXLAN tunnel.
    pub(crate) fn routed_into_vxlan(self) -> Trip {
        let link = Link {
            source: VXLAN_MAC,
            destination: VXLAN_ROUTER_MAC,
        };
        let mut trip = self.each(|_, _, host| {
            let inner = plain(link, None, self.outbound(host, 1));
            (
                plain(inward(self.left), None, self.outbound(host, 0)),
                vxlan(outward(self.right), LOCAL_V4, KERNEL_REMOTE, &inner),
            )
        });
        trip.arriving.free(&IDENTIFICATION);
        trip.arriving.free(&[UDP_SOURCE_PORT]);
        trip
    }

    /// Machines' packets that are routed into a GRE tunnel of the kernel.
    pub(crate) fn routed_into_gre(self) -> Trip {
        let outer = Outer {
            source: LOCAL_V4.into(),
            destination: KERNEL_REMOTE.into(),
            key: KERNEL_GRE_KEY,
            checksum: false,
            sequence: false,
        };
        let mut trip = self.each(|_, _, host| {
            (
                plain(inward(self.left), None, self.outbound(host, 0)),
                encapsulated(outward(self.right), outer, self.outbound(host, 1)),
            )
        });
        trip.arriving.free(&IDENTIFICATION);
        trip
    }

    /// Machines' packets that go into tunnels.
    pub(crate) fn port_to_tunnel(self) -> Trip {
        let trip = self.each_with_port(|_, route, host| {
            let vlan = self.scale.vlan(route.network);
            (
                plain(inward(self.left), vlan, self.outbound(host, 0)),
                encapsulated(
                    outward(self.right),
                    self.into(route.tunnel),
                    self.outbound(host, 1),
                ),
            )
        });
        self.with_what_varies(trip)
    }

    /// Sites' packets that go to machines.
    pub(crate) fn tunnel_to_port(self) -> Trip {
        let trip = self.each_with_port(|_, route, host| {
            let vlan = self.scale.vlan(route.network);
            let outer = self.outer(route.tunnel);
            (
                encapsulated(inward(self.right), outer, self.inbound(host, 0)),
                plain(outward(self.left), vlan, self.inbound(host, 1)),
            )
        });
        self.with_what_varies(trip)
    }

    /// Sites' packets that go to other sites of the network, if it has any, else back.
    pub(crate) fn tunnel_to_tunnel(self) -> Trip {
        let trip = self.each(|random, route, host| {
            let from = self.outer(self.scale.any_tunnel(random, route.network));
            let inner = |hops| Inner {
                source: SITE,
                destination: host,
                hops,
                size: self.case.size,
            };
            (
                encapsulated(inward(self.right), from, inner(0)),
                encapsulated(outward(self.right), self.into(route.tunnel), inner(1)),
            )
        });
        self.with_what_varies(trip)
    }

    /// What comes from tunnels carries numbers where it should; what goes into them carries any, and any flow label.
    fn with_what_varies(self, mut trip: Trip) -> Trip {
        let outer = self.outer(0);
        if outer.sequence && self.case.stage != Stage::PortToTunnel {
            trip.sent.number_at(outer.sequence_offset());
        }
        if outer.sequence && self.case.stage != Stage::TunnelToPort {
            trip.arriving.free(&[(outer.sequence_offset(), 4)]);
        }
        if outer.source.is_ipv6() && self.case.stage != Stage::TunnelToPort {
            trip.arriving.free(&[FLOW_LABEL]);
        }
        trip
    }

    /// One pair of frames for each route whose network has a port, in random order, again and again.
    fn each_with_port(
        self,
        frames: impl FnMut(&mut StdRng, &Route, Ipv4Addr) -> (Vec<u8>, Vec<u8>),
    ) -> Trip {
        let ports = self.scale.ports();
        self.each_of(|route| ports.contains(&route.network), frames)
    }

    /// One pair of frames for each route, in random order, again and again.
    fn each(self, frames: impl FnMut(&mut StdRng, &Route, Ipv4Addr) -> (Vec<u8>, Vec<u8>)) -> Trip {
        self.each_of(|_| true, frames)
    }

    fn each_of(
        self,
        applies: impl Fn(&Route) -> bool,
        mut frames: impl FnMut(&mut StdRng, &Route, Ipv4Addr) -> (Vec<u8>, Vec<u8>),
    ) -> Trip {
        let mut random = StdRng::seed_from_u64(SEED);
        let mut routes: Vec<&Route> = self.routes.iter().filter(|route| applies(route)).collect();
        routes.shuffle(&mut random);
        let count = routes
            .len()
            .next_power_of_two()
            .clamp(LEAST_FRAMES, MOST_FRAMES);
        let mut trip = Trip::default();
        for route in routes.into_iter().cycle().take(count) {
            let bits = random.random::<u32>() & route.prefix.hostmask().to_bits();
            let host = Ipv4Addr::from_bits(route.prefix.network().to_bits() | bits);
            let (sent, arriving) = frames(&mut random, route, host);
            trip.sent.push(&sent);
            trip.arriving.push(&arriving);
        }
        trip
    }

    fn outer(self, tunnel: u32) -> Outer {
        Outer {
            source: self.scale.remote_address(self.case.tunnels, tunnel),
            destination: local(self.case.tunnels),
            key: self.scale.receive_key(tunnel),
            checksum: self.case.tunnels == TunnelKind::Checksum,
            sequence: self.case.tunnels == TunnelKind::Sequence,
        }
    }

    fn into(self, tunnel: u32) -> Outer {
        let outer = self.outer(tunnel);
        Outer {
            source: outer.destination,
            destination: outer.source,
            key: self.scale.transmit_key(tunnel),
            ..outer
        }
    }

    /// A packet from a machine.
    fn outbound(self, host: Ipv4Addr, hops: u8) -> Inner {
        Inner {
            source: MACHINE,
            destination: host,
            hops,
            size: self.case.size,
        }
    }

    /// A packet to a machine.
    fn inbound(self, host: Ipv4Addr, hops: u8) -> Inner {
        Inner {
            source: host,
            destination: MACHINE,
            hops,
            size: self.case.size,
        }
    }
}

/// From the far end.
fn inward(cable: Cable) -> Link {
    Link {
        source: cable.far.mac,
        destination: cable.near.mac,
    }
}

/// To the far end.
fn outward(cable: Cable) -> Link {
    Link {
        source: cable.near.mac,
        destination: cable.far.mac,
    }
}
