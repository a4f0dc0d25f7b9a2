//! What the programs cost: the verifier's work against stored bounds, and the time of a packet as a multiple of the
//! shortest way through the same program, measured in the same run. Bounds, and what to do about them:
//! `tier4_budget.toml`.

use std::collections::BTreeMap;
use std::time::Duration;

use gre_common::id::IfIndex;
use gre_model::example::{Devices, RED_PORT, RED_TUNNEL, WIDE_TUNNEL, host, to};
use gre_tests::both_sides::BothSides;
use gre_tests::frames::{from_machine, inner_to_red, through, udp, udp_of_length};
use gre_tests::kernel_gateway::Program;
use serde::Deserialize;

/// Runs of each case; odd, so that there is one in the middle.
const RUNS: usize = 4001;
/// Loopback: in every network namespace, and never the gateway's.
const FOREIGN_DEVICE: IfIndex = IfIndex(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    programs: BTreeMap<String, ProgramBounds>,
    time: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgramBounds {
    verified_instructions: u32,
    jited_bytes: u32,
}

#[test]
fn the_verifier_walks_no_more_instructions_than_budgeted() {
    if !gre_tests::can_use_namespaces() {
        return;
    }
    let bounds = bounds();
    for (name, program) in programs() {
        let bound = bounds.programs[name].verified_instructions;
        let info = BothSides::shared().kernel.info(program);
        let Some(found) = info.verified_instruction_count() else {
            gre_tests::skip(
                "the kernel does not tell how many instructions it verified (5.16 does)",
            );
            return;
        };
        println!("{name}: {found} verified instructions, bound {bound}");
        assert!(
            found <= bound,
            "{name}: {found} > {bound}: see tier4_budget.toml"
        );
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_machine_code_is_no_longer_than_budgeted() {
    if !gre_tests::can_use_namespaces() {
        return;
    }
    let bounds = bounds();
    for (name, program) in programs() {
        let bound = bounds.programs[name].jited_bytes;
        let found = BothSides::shared().kernel.info(program).size_jitted();
        println!("{name}: {found} bytes of machine code, bound {bound}");
        assert!(
            found > 0,
            "{name} is interpreted: net.core.bpf_jit_enable is 0"
        );
        assert!(
            found <= bound,
            "{name}: {found} > {bound}: see tier4_budget.toml"
        );
    }
}

#[test]
fn no_way_of_a_packet_takes_longer_than_budgeted() {
    if !gre_tests::can_use_namespaces() {
        return;
    }
    let both = BothSides::shared();
    let cases = cases(both.devices);
    let mut times = vec![Vec::with_capacity(RUNS); cases.len()];
    // One frame a run, since a repeated one would meet what the first made of it; in turn, so that what else the
    // machine does meets all alike.
    for _ in 0..RUNS {
        for ((_, device, frame), times) in cases.iter().zip(&mut times) {
            times.push(both.kernel.time(*device, frame, 1));
        }
    }
    let medians: Vec<Duration> = times.iter_mut().map(|times| median(times)).collect();
    let shortest = medians[0];
    println!(
        "{:>6} ns  shortest way, the clock included",
        shortest.as_nanos()
    );
    let bounds = bounds().time;
    assert_eq!(
        bounds.len() + 1,
        cases.len(),
        "a bound for each case but the shortest way"
    );
    for ((name, ..), time) in cases.iter().zip(&medians).skip(1) {
        let ratio = time.as_secs_f64() / shortest.as_secs_f64();
        let bound = bounds[*name];
        println!(
            "{:>6} ns  {name}: {ratio:.1} times as long, bound {bound}",
            time.as_nanos()
        );
        assert!(
            ratio <= bound,
            "{name}: {ratio:.1} > {bound}: see tier4_budget.toml"
        );
    }
}

fn bounds() -> Bounds {
    toml::from_str(include_str!("tier4_budget.toml")).expect("tier4_budget.toml is as it should be")
}

fn programs() -> [(&'static str, Program); 2] {
    [
        ("gregw", Program::Forwarder),
        ("gregw_resolve", Program::Resolver),
    ]
}

/// The shortest way first; then one frame for each bound.
fn cases(devices: Devices) -> [(&'static str, IfIndex, Vec<u8>); 6] {
    let out = udp(host(to::HOME, 2, false), host(to::SITE_OVER_V4, 9, false));
    let back = inner_to_red(false);
    let on = udp(
        host(to::SITE_OVER_V4, 9, false),
        host(to::SITE_OVER_V6, 9, false),
    );
    let lost = udp(
        host(to::SITE_OVER_V4, 9, false),
        host(to::NOWHERE, 9, false),
    );
    let long = udp_of_length((host(to::WIDE, 9, false), host(to::HOME, 2, false)), 1400);
    [
        ("shortest", FOREIGN_DEVICE, from_machine(RED_PORT, &out)),
        (
            "port_to_tunnel",
            devices.access,
            from_machine(RED_PORT, &out),
        ),
        (
            "tunnel_to_port",
            devices.underlay,
            through(RED_TUNNEL[0], &back, 0),
        ),
        (
            "tunnel_to_tunnel",
            devices.underlay,
            through(RED_TUNNEL[0], &on, 0),
        ),
        (
            "dropped",
            devices.underlay,
            through(RED_TUNNEL[0], &lost, 0),
        ),
        (
            "checksum_of_1400_bytes",
            devices.underlay,
            through(WIDE_TUNNEL, &long, 0),
        ),
    ]
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
