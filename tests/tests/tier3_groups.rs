//! Tier 3: tunnels that share the flows to one prefix. Sites come and go; only the flows of those that do move.

use std::collections::{BTreeMap, BTreeSet};

use gre_tests::can_use_namespaces;
use gre_tests::configuration as toml;
use gre_tests::gateway::Gateway;
use gre_tests::gre::{Outer, Tunnel};
use gre_tests::netns::Namespace;
use gre_tests::packet::{self, ETHERNET_HEADER, Fields};
use gre_tests::stream::{self, Path, Stream};
use gre_tests::topology::{Machine, Underlay};
use gre_tests::wait;
use gre_tests::wire::Wire;

const NETWORK: &str = "office";
const PORT: &str = "vms";
const MACHINE: &str = "10.10.30.4";
const PREFIX: &str = "10.11.0.0/16";
/// Names and weights of the tunnels.
const SITES: [(&str, u16); 3] = [("fibre", 2), ("copper", 1), ("radio", 1)];
const FIBRE: usize = 0;
const COPPER: usize = 1;
const RADIO: usize = 2;
const FLOWS: u16 = 400;
/// So many packets find room in the ring of a site's link.
const AT_ONCE: usize = 100;
const STREAM_RATE: u64 = 10_000;
/// Packets of a stream before and after an event.
const AROUND: u64 = 1000;

/// Three sites for one prefix. Flows are spread by weight and stay; one whose next hop falls silent, one that is taken
/// out of the configuration and one that is put back move its own flows only, while a stream over another one loses
/// nothing; and the daemon may die meanwhile.
#[test]
fn only_the_flows_of_a_site_that_goes_or_comes_move() {
    if !can_use_namespaces() {
        return;
    }
    let mut place = Place::new();
    let mut gateway = Gateway::start(
        &place.namespace,
        &place.configuration(&[FIBRE, COPPER, RADIO]),
    );
    place.wait_for_members(
        &gateway,
        &[("copper", "up"), ("fibre", "up"), ("radio", "up")],
    );
    let all = place.flows();
    let share = |site| all.values().filter(|of| **of == site).count();
    for (site, expected) in [(FIBRE, 200), (COPPER, 100), (RADIO, 100)] {
        assert!(
            share(site).abs_diff(expected) < 50,
            "site {site}: {}",
            share(site)
        );
    }
    assert_eq!(place.flows(), all, "flows stay");

    place.beside_a_stream(&all, FIBRE, |place| {
        place.silence(RADIO);
        place.wait_for_members(
            &gateway,
            &[("copper", "up"), ("fibre", "up"), ("radio", "down")],
        );
    });
    let without_radio = place.flows();
    assert_moved(&all, &without_radio, RADIO);

    place.beside_a_stream(&all, COPPER, |place| {
        place.restore(RADIO);
        place.wait_for_members(
            &gateway,
            &[("copper", "up"), ("fibre", "up"), ("radio", "up")],
        );
    });
    assert_eq!(place.flows(), all, "its flows return, and no others");

    place.beside_a_stream(&all, COPPER, |place| {
        gateway.apply(&place.configuration(&[FIBRE, COPPER]));
    });
    let removed = place.flows();
    assert_moved(&all, &removed, RADIO);

    place.beside_a_stream(&removed, FIBRE, |place| {
        gateway.apply(&place.configuration(&[FIBRE, COPPER, RADIO]));
        place.wait_for_members(
            &gateway,
            &[("copper", "up"), ("fibre", "up"), ("radio", "up")],
        );
    });
    let again = place.flows();
    assert_moved(&again, &removed, RADIO);

    place.beside_a_stream(&again, COPPER, |place| {
        gateway.kill();
        gateway.run();
        place.wait_for_members(
            &gateway,
            &[("copper", "up"), ("fibre", "up"), ("radio", "up")],
        );
    });
    assert_eq!(
        place.flows(),
        again,
        "another daemon finds the flows where they are"
    );
}

/// Without a site that can be reached packets are dropped for a reason of their own.
#[test]
fn a_group_without_a_reachable_site_drops_and_says_so() {
    if !can_use_namespaces() {
        return;
    }
    let mut place = Place::new();
    let gateway = Gateway::start(&place.namespace, &place.configuration(&[COPPER, RADIO]));
    place.wait_for_members(&gateway, &[("copper", "up"), ("radio", "up")]);
    place.silence(COPPER);
    place.silence(RADIO);
    place.wait_for_members(&gateway, &[("copper", "down"), ("radio", "down")]);
    let frames = place.frames();
    place.wire.send_all(&slices(&frames));
    place.machine.barrier();
    assert_eq!(place.arrived(), []);
    let port = gateway.traffic("port", PORT);
    assert_eq!(port.dropped("group_down"), u64::from(FLOWS), "{port:?}");
}

/// A machine, and a site behind each tunnel.
struct Place {
    wire: Wire,
    site_wires: Vec<Wire>,
    machine: Machine,
    sites: Vec<Underlay>,
    tunnels: Vec<Tunnel>,
    round: u32,
    namespace: Namespace,
}

impl Place {
    fn new() -> Self {
        let namespace = Namespace::new("gateway");
        let machine = Machine::on_port(&namespace, PORT, &["10.10.30.4/25"], &["10.10.30.1"]);
        let sites: Vec<Underlay> = (0..3)
            .map(|number| Underlay::new(&namespace, number))
            .collect();
        // One over IPv6: outer families do not matter to a group.
        let tunnels = sites.iter().enumerate().map(|(number, site)| {
            let key = 1001 + number as u32;
            site.tunnel(number == COPPER).with_key(key)
        });
        Self {
            wire: Wire::open(&machine.end),
            site_wires: sites.iter().map(|site| Wire::open(&site.site)).collect(),
            tunnels: tunnels.collect(),
            machine,
            sites,
            round: 0,
            namespace,
        }
    }

    /// The configuration with these of the tunnels.
    fn configuration(&self, sites: &[usize]) -> String {
        let mut text = toml::gateway();
        for site in &self.sites {
            text += &site.configuration();
        }
        text += &toml::tenant_with_network(NETWORK, &["10.10.30.0/24"]);
        text += &toml::port(NETWORK, PORT, None, &["10.10.30.1/25"]);
        for site in sites {
            let (name, weight) = SITES[*site];
            let route = format!("{{ prefix = {PREFIX:?}, weight = {weight} }}");
            let tunnel = toml::tunnel(name, NETWORK, &self.tunnels[*site], &[PREFIX]);
            text += &tunnel.replace(&format!("{PREFIX:?}"), &route);
        }
        text
    }

    /// Waits until `gregw show route` shows these members, with these states.
    #[track_caller]
    fn wait_for_members(&self, gateway: &Gateway, expected: &[(&str, &str)]) {
        let mut shown = Vec::new();
        let arrived = wait::until(|| {
            let routes = gateway.show("route");
            let route = routes.iter().find(|row| row["prefix"] == PREFIX);
            let members = route.and_then(|route| route["next_hop"]["members"].as_array().cloned());
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            shown = members
                .into_iter()
                .flatten()
                .map(|member| (text(&member["tunnel"]), text(&member["state"])))
                .collect();
            shown
                .iter()
                .map(|(name, state)| (&**name, &**state))
                .eq(expected.iter().copied())
        });
        assert!(
            arrived,
            "{shown:?} instead of {expected:?}\n{}",
            gateway.log()
        );
    }

    /// The site's host no longer answers for its address.
    fn silence(&self, site: usize) {
        let underlay = &self.sites[site];
        underlay.host.sh("ip address flush dev wan");
        let device = &underlay.gateway.device;
        self.namespace
            .sh(&format!("ip neighbour flush dev {device}"));
    }

    /// The site's host answers again.
    fn restore(&self, site: usize) {
        let underlay = &self.sites[site];
        for address in [
            format!("{}/24", underlay.site_address(false)),
            format!("{}/64", underlay.site_address(true)),
        ] {
            underlay.site.add_address(&address);
        }
    }

    /// The site that each flow arrives at: all of its packets at one, each once.
    #[track_caller]
    fn flows(&mut self) -> BTreeMap<u16, usize> {
        const PACKETS: usize = 3;
        let mut packets = Vec::new();
        for _ in 0..PACKETS {
            for batch in self.frames().chunks(AT_ONCE) {
                self.wire.send_all(&slices(batch));
                let goal = packets.len() + batch.len();
                wait::expect("every packet has arrived", || {
                    packets.extend(self.arrived());
                    packets.len() >= goal
                });
            }
        }
        let mut sites: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (flow, site) in packets {
            sites.entry(flow).or_default().push(site);
        }
        let one_site = |(flow, sites): (u16, Vec<usize>)| {
            assert_eq!(sites, [sites[0]; PACKETS], "flow {flow}");
            (flow, sites[0])
        };
        sites.into_iter().map(one_site).collect()
    }

    /// A packet of each flow, of a round of its own.
    fn frames(&mut self) -> Vec<Vec<u8>> {
        self.round += 1;
        (0..FLOWS)
            .map(|flow| self.frame(flow, &marker(self.round, flow)))
            .collect()
    }

    /// Flows and sites of the packets of this round that have arrived since the last call.
    fn arrived(&mut self) -> Vec<(u16, usize)> {
        let mut arrived = Vec::new();
        let sites = self.site_wires.iter_mut().zip(&self.tunnels);
        for (site, (wire, tunnel)) in sites.enumerate() {
            let frames = wire.drain();
            let flows = frames
                .iter()
                .filter_map(|frame| flow_in(tunnel, frame, self.round));
            arrived.extend(flows.map(|flow| (flow, site)));
        }
        arrived
    }

    /// Does something while a stream flows over a site, which loses nothing.
    #[track_caller]
    fn beside_a_stream(
        &mut self,
        flows: &BTreeMap<u16, usize>,
        site: usize,
        event: impl FnOnce(&Self),
    ) {
        let (flow, _) = flows
            .iter()
            .find(|(_, of)| **of == site)
            .expect("a flow of the site");
        let path = Path {
            from: &self.machine.end,
            egress: &self.sites[site].gateway,
            to: &self.sites[site].site,
        };
        let frame = self.frame(*flow, &stream::payload(u32::from(*flow), 64));
        let stream = Stream::start(path, frame, STREAM_RATE);
        stream.flow(AROUND);
        event(self);
        stream.flow(AROUND);
        stream.stop().assert_nothing_lost();
        for wire in &mut self.site_wires {
            wire.drain();
        }
    }

    fn frame(&self, flow: u16, payload: &[u8]) -> Vec<u8> {
        let destination = [10, 11, (flow % 7) as u8, 9].into();
        let source = MACHINE.parse().expect("an address");
        let ports = (20_000 + flow, 443);
        let inner = packet::udp(source, destination, ports, Fields::default(), payload);
        packet::ethernet(self.machine.end.mac, self.machine.gateway.mac, None, &inner)
    }
}

fn slices(frames: &[Vec<u8>]) -> Vec<&[u8]> {
    frames.iter().map(Vec::as_slice).collect()
}

fn marker(round: u32, flow: u16) -> Vec<u8> {
    [b"GREgroup", &round.to_be_bytes()[..], &flow.to_be_bytes()].concat()
}

/// The flow of a packet that a site accepts from its tunnel.
fn flow_in(tunnel: &Tunnel, frame: &[u8], round: u32) -> Option<u16> {
    let outer = Outer::parse(frame.get(ETHERNET_HEADER..)?).ok()??;
    let (inner, _) = tunnel.check(&outer).ok()?;
    let flow = u16::from_be_bytes(inner.last_chunk().copied()?);
    inner.ends_with(&marker(round, flow)).then_some(flow)
}

/// Between two moments only the flows of one site have moved, to all of the others.
#[track_caller]
fn assert_moved(with: &BTreeMap<u16, usize>, without: &BTreeMap<u16, usize>, site: usize) {
    let mut sites = BTreeSet::new();
    for (flow, before) in with {
        let after = without[flow];
        if *before == site {
            assert_ne!(after, site, "flow {flow}");
            sites.insert(after);
        } else {
            assert_eq!(after, *before, "flow {flow} was not of site {site}");
        }
    }
    assert_eq!(sites.len(), SITES.len() - 1, "its flows are spread");
}
