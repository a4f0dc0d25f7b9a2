//! Random traffic around the example gateway: well-formed packets of every kind, and mutations of them.
//!
//! Seeded, so that a run can be repeated. Well-formed frames come from `frames`; mutations know where fields lie, and
//! mostly mend the checksums around what they break, so that the damage is found as deep as possible.

use std::net::{IpAddr, Ipv6Addr};

use gre_common::id::{IfIndex, PortId, TunnelId};
use gre_model::HostGateway;
use gre_model::example::{self, Devices, Options, host, to};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::frames::{
    self, ADVERTISEMENT, ARP_REPLY, ARP_REQUEST, BROADCAST, GRE_OVER_V4, GRE_OVER_V6, OUTER,
    SOLICITATION,
};
use crate::gre::{self, Tunnel};
use crate::kernel_gateway::LINEAR;
use crate::packet::{self, Fields};

/// A frame and the device that receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The device.
    pub device: IfIndex,
    /// The frame.
    pub frame: Vec<u8>,
}

/// A source of random frames.
pub struct Random {
    random: SmallRng,
    devices: Devices,
    tunnels: Vec<TunnelId>,
}

/// The seed of this run: `GREGW_SEED`, or another one each time. It is printed.
///
/// # Panics
/// If `GREGW_SEED` is not a number.
pub fn seed() -> u64 {
    let seed = std::env::var("GREGW_SEED").map_or_else(
        |_| rand::rng().random(),
        |seed| seed.parse().expect("GREGW_SEED is a number"),
    );
    println!("GREGW_SEED={seed} repeats these packets");
    seed
}

impl Random {
    /// Traffic around the example gateway with these devices.
    pub fn new(seed: u64, devices: Devices) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            devices,
            tunnels: tunnels(),
        }
    }

    /// A well-formed frame. Sequence numbers are mostly those that `state` has next.
    pub fn valid(&mut self, state: &HostGateway) -> Arrival {
        match self.random.random_range(0..20) {
            0..10 => self.site_sends(state),
            10..17 => self.machine_sends(),
            17 => self.arp(),
            18 => self.discovery(),
            _ => self.foreign(),
        }
    }

    /// A frame that is well-formed or, as often, damaged.
    pub fn any(&mut self, state: &HostGateway) -> Arrival {
        let mut arrival = self.valid(state);
        if self.random.random() {
            self.damage(&mut arrival.frame);
        }
        arrival
    }

    /// Changes a frame in one to three places; one that lies in several buffers stays as it is, because there the
    /// kernel reads headers in the first buffer only.
    pub fn damage(&mut self, frame: &mut Vec<u8>) {
        if frame.len() > LINEAR {
            return;
        }
        for _ in 0..self.random.random_range(1..=3) {
            self.damage_once(frame);
        }
        // BPF_PROG_TEST_RUN takes no less than an Ethernet header.
        frame.resize(frame.len().clamp(14, LINEAR), 0);
    }

    fn site_sends(&mut self, state: &HostGateway) -> Arrival {
        let id = self.pick_tunnel();
        let inner = self.inner_packet();
        let tunnel = self.site(id);
        let sequence = self.sequence(state.sequence(id).received as u32);
        let mut frame = frames::through_as(&tunnel, &inner, sequence);
        if self.chance(3) {
            let outer = frames::with_tos(&frame[OUTER..], self.random.random());
            frame[OUTER..].copy_from_slice(&outer);
        }
        if self.chance(8) && frame.len() + 64 < LINEAR {
            frame = self.with_odd_headers(&frame);
        }
        if self.chance(8) && frame.len() + 64 < LINEAR {
            let padding = self.random.random_range(1..64);
            frame.extend(std::iter::repeat_with(|| self.random.random::<u8>()).take(padding));
        }
        Arrival {
            device: self.devices.underlay,
            frame,
        }
    }

    fn machine_sends(&mut self) -> Arrival {
        let port = self.pick_port();
        let packet = self.inner_packet();
        Arrival {
            device: frames::device(self.devices, port),
            frame: frames::from_machine(port, &packet),
        }
    }

    fn arp(&mut self) -> Arrival {
        let port = self.pick_port();
        let machine = self.pick_mac(port);
        let own = frames::port_mac(port);
        let sender = frames::ipv4(self.host(home(port), false));
        let target = frames::ipv4(self.host(home(port), false));
        let (operation, destination) = if self.random.random() {
            (ARP_REQUEST, BROADCAST)
        } else {
            (ARP_REPLY, own)
        };
        let ends = (machine, destination);
        let vlan = frames::vlan(port);
        Arrival {
            device: frames::device(self.devices, port),
            frame: frames::arp(ends, vlan, operation, (machine, sender), ([0; 6], target)),
        }
    }

    fn discovery(&mut self) -> Arrival {
        let port = self.pick_port();
        let machine = self.pick_mac(port);
        let asker = frames::ipv6(self.host(home(port), true));
        let target = frames::ipv6(self.host(home(port), true));
        let (group, group_mac) = frames::solicited_node(target);
        let with_option: bool = self.random.random();
        let (packet, destination) = match self.random.random_range(0..4) {
            0 => {
                let option = with_option.then_some((2, machine));
                let message = frames::discovery(ADVERTISEMENT, 0x60, asker, option);
                let packet = frames::icmpv6(asker, target, 255, &message);
                (packet, frames::port_mac(port))
            }
            1 => {
                let message = frames::discovery(SOLICITATION, 0, target, None);
                (
                    frames::icmpv6(Ipv6Addr::UNSPECIFIED, group, 255, &message),
                    group_mac,
                )
            }
            _ => {
                let option = with_option.then_some((1, machine));
                let message = frames::discovery(SOLICITATION, 0, target, option);
                (frames::icmpv6(asker, group, 255, &message), group_mac)
            }
        };
        Arrival {
            device: frames::device(self.devices, port),
            frame: packet::ethernet(machine, destination, frames::vlan(port), &packet),
        }
    }

    /// What the gateway has nothing to do with.
    fn foreign(&mut self) -> Arrival {
        let is_v6: bool = self.random.random();
        let family = usize::from(is_v6);
        let (site, local) = (example::SITE[family], example::LOCAL[family]);
        let frame = match self.random.random_range(0..3) {
            0 => frames::from_site(&packet::udp(
                site,
                local,
                (1, 2),
                Fields::default(),
                b"kernel's",
            )),
            1 => {
                let tunnel = Tunnel::new(site, example::NOT_LOCAL[family]).with_key(1001);
                frames::through_as(&tunnel, &self.inner_packet(), 0)
            }
            _ => {
                let packet = self.inner_packet();
                let mac = self.random.random();
                packet::ethernet(
                    [2; 6],
                    mac,
                    Some(self.random.random_range(0..4096)),
                    &packet,
                )
            }
        };
        let devices = [
            self.devices.underlay,
            self.devices.access,
            self.devices.trunk,
        ];
        let device = self.choose(&devices);
        Arrival { device, frame }
    }

    fn inner_packet(&mut self) -> Vec<u8> {
        let is_v6 = self.random.random();
        let source = self.pick_host(is_v6);
        let destination = self.pick_host(is_v6);
        let packet = if self.chance(6) {
            let own = host(
                self.choose(&[to::HOME, to::GREEN, to::NARROW_PORT]),
                1,
                is_v6,
            );
            packet::echo_request(
                source,
                own,
                self.random.random(),
                self.random.random(),
                b"echo",
            )
        } else {
            let length = match self.random.random_range(0..20) {
                0..12 => self.random.random_range(0..100),
                12..19 => self.random.random_range(100..1600),
                _ => self.random.random_range(1600..8900),
            };
            let fields = Fields {
                ttl: 64,
                tos: if self.random.random() {
                    0
                } else {
                    self.random.random()
                },
            };
            let ports = (self.random.random(), self.random.random());
            packet::udp(source, destination, ports, fields, &vec![0x5a; length])
        };
        if self.chance(5) {
            let ttl = self.choose(&[0, 1, 2, 255]);
            return frames::with_ttl(&packet, ttl);
        }
        packet
    }

    /// A tunnel as its site has it, now and then with the options of another one.
    fn site(&mut self, id: TunnelId) -> Tunnel {
        let mut tunnel = frames::site(id);
        if self.chance(12) {
            tunnel.checksum = !tunnel.checksum;
        }
        if self.chance(12) {
            tunnel.sequence = !tunnel.sequence;
        }
        if self.chance(20) {
            tunnel.transmit_key = self.choose(&[None, Some(0), Some(1001), Some(3099), Some(9999)]);
        }
        tunnel
    }

    fn sequence(&mut self, last: u32) -> u32 {
        match self.random.random_range(0..10) {
            0 => last,
            1 => last.wrapping_sub(self.random.random_range(1..1000)),
            2 => last.wrapping_add(self.random.random_range(1..1000)),
            3 => self.random.random(),
            _ => last.wrapping_add(1),
        }
    }

    fn with_odd_headers(&mut self, frame: &[u8]) -> Vec<u8> {
        if gre::version(&frame[OUTER..]) == Some(4) {
            return frames::with_ipv4_options(frame, self.random.random_range(5..=15));
        }
        let kinds = [0, 60, 43, 44, 51];
        let mut chain: Vec<(u8, &[u8])> = Vec::new();
        for _ in 0..self.random.random_range(1..=4) {
            let body = [
                &[1, 4, 0, 0, 0, 0][..],
                &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ];
            let kind = if self.chance(3) {
                self.choose(&kinds)
            } else {
                60
            };
            chain.push((kind, self.choose(&body)));
        }
        frames::with_extension_headers(frame, &chain)
    }

    fn damage_once(&mut self, frame: &mut Vec<u8>) {
        let length = frame.len();
        match self.random.random_range(0..12) {
            0 => frame.truncate(self.random.random_range(0..=length)),
            1 => {
                let more = self.random.random_range(1..40);
                frame.extend(std::iter::repeat_with(|| self.random.random::<u8>()).take(more));
            }
            2 => {
                let at = self.random.random_range(0..=length);
                let bytes: [u8; 4] = self.random.random();
                frame.splice(at..at, bytes);
            }
            3..6 => self.damage_field(frame, 0..length),
            // Ethernet, outer IP, GRE and inner IP lie in the first hundred bytes.
            6..9 => self.damage_field(frame, 0..length.min(120)),
            9 => self.damage_field(frame, OUTER..(OUTER + 40).min(length)),
            10 => self.damage_field(frame, GRE_OVER_V4..(GRE_OVER_V4 + 16).min(length)),
            _ => self.damage_field(frame, GRE_OVER_V6..(GRE_OVER_V6 + 16).min(length)),
        }
        if !self.chance(4) {
            mend(frame);
        }
    }

    fn damage_field(&mut self, frame: &mut [u8], range: std::ops::Range<usize>) {
        if range.is_empty() || range.end > frame.len() {
            return;
        }
        let at = self.random.random_range(range);
        let byte = &mut frame[at];
        *byte = match self.random.random_range(0..4) {
            0 => *byte ^ (1 << self.random.random_range(0..8)),
            1 => byte.wrapping_add(self.choose(&[1, 255])),
            2 => self.choose(&[0, 1, 4, 6, 0x0f, 0x40, 0x7f, 0x80, 0xff]),
            _ => self.random.random(),
        };
    }

    fn pick_tunnel(&mut self) -> TunnelId {
        self.tunnels
            .choose(&mut self.random)
            .copied()
            .unwrap_or_default()
    }

    fn pick_port(&mut self) -> PortId {
        self.choose(&[
            example::RED_PORT,
            example::RED_PORT,
            example::RED_PORT,
            example::BLUE_PORT,
            example::GREEN_PORT,
            example::YELLOW_PORT,
            example::NARROW_PORT,
        ])
    }

    fn pick_mac(&mut self, port: PortId) -> [u8; 6] {
        self.choose(&[
            example::machine_mac(port).0,
            [2, 7, 7, 7, 7, 7],
            [3, 0, 0, 0, 0, 1],
            [0; 6],
        ])
    }

    fn pick_host(&mut self, is_v6: bool) -> IpAddr {
        if self.chance(40) {
            let odd = ["127.0.0.1", "224.0.0.1", "169.254.1.1", "255.255.255.255"];
            let odd_v6 = ["::1", "ff02::1", "fe80::1", "::"];
            let text = self.choose(if is_v6 { &odd_v6 } else { &odd });
            return text.parse().expect("an address");
        }
        let number = match self.random.random_range(0..10) {
            0..3 => to::HOME,
            3..8 => self.random.random_range(1..=to::LAST),
            8 => to::OPTIONS_OVER_V4 + self.random.random_range(0..8),
            _ => to::OPTIONS_OVER_V6 + self.random.random_range(0..8),
        };
        self.host(number, is_v6)
    }

    fn host(&mut self, number: u8, is_v6: bool) -> IpAddr {
        host(number, self.choose(&[1, 2, 2, 2, 2, 3, 9, 77, 88]), is_v6)
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.random_range(0..from.len())]
    }

    /// True once in `times`.
    fn chance(&mut self, times: u32) -> bool {
        self.random.random_range(0..times) == 0
    }
}

/// The destination number of a port's subnet.
fn home(port: PortId) -> u8 {
    match port {
        example::GREEN_PORT => to::GREEN,
        example::YELLOW_PORT => to::YELLOW,
        example::NARROW_PORT => to::NARROW_PORT,
        _ => to::HOME,
    }
}

/// Makes the checksum of the outermost IPv4 header correct, and that of an inner one behind four or eight bytes of GRE,
/// where there seem to be such headers.
fn mend(frame: &mut [u8]) {
    for at in [
        OUTER,
        OUTER + 4,
        GRE_OVER_V4 + 4,
        GRE_OVER_V4 + 8,
        GRE_OVER_V6 + 8,
    ] {
        let Some(packet) = frame.get_mut(at..) else {
            continue;
        };
        let is_header = packet
            .first()
            .is_some_and(|byte| (0x45..=0x4f).contains(byte));
        let length = packet
            .first()
            .map_or(0, |byte| usize::from(byte & 0x0f) * 4);
        if is_header && packet.len() >= length {
            frames::correct_header_checksum(packet);
        }
    }
}

fn tunnels() -> Vec<TunnelId> {
    let named = [
        example::RED_TUNNEL[0],
        example::RED_TUNNEL[1],
        example::BLUE_TUNNEL[0],
        example::BLUE_TUNNEL[1],
        example::GREEN_TUNNEL,
        example::YELLOW_TUNNEL,
        example::ASYMMETRIC_TUNNEL,
        example::INHERITING_TUNNEL,
        example::FIXED_TUNNEL,
        example::NARROW_TUNNEL,
        example::OVERSIZED_TUNNEL,
        example::UNRESOLVED_TUNNEL,
        example::WIDE_TUNNEL,
    ];
    let with_options = Options::all().flat_map(|options| {
        [false, true].map(|over_v6| example::options_tunnel(options, over_v6).id)
    });
    named.into_iter().chain(with_options).collect()
}
