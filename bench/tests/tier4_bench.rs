//! The benchmark itself: one short run measures every case and says so. The figures are not judged here; that frames
//! arrive as they should, the benchmark judges itself.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

const CASES: [&str; 7] = [
    "sink",
    "redirect",
    "port_to_tunnel",
    "tunnel_to_port",
    "tunnel_to_tunnel",
    "kernel_forward",
    "kernel_vxlan",
];

/// A little more than half of a thousandth.
const ROUNDING: f64 = 0.00051;

#[test]
fn a_short_run_measures_every_case_and_compares_gregw_with_every_other_way() {
    let Some(report) = run(&[]) else { return };
    let names: Vec<&str> = cases(&report)
        .map(|case| case["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, CASES);
    for case in cases(&report) {
        assert!(case["mpps"].as_f64().unwrap() > 0.0, "{case}");
        let gre = case["name"].as_str().unwrap().starts_with("tunnel");
        assert_eq!(case["bytes"], if gre { 92 } else { 64 }, "{case}");
    }
    let ratios = report["ratios"].as_object().unwrap();
    assert_eq!(ratios.len(), 9);
    for case in ["port_to_tunnel", "tunnel_to_port", "tunnel_to_tunnel"] {
        for reference in ["redirect", "kernel_forward", "kernel_vxlan"] {
            let ratio = ratios[&format!("{case}/{reference}")].as_f64().unwrap();
            let [own, other] = [case, reference].map(|name| mpps(&report, name));
            // All three are rounded to thousandths: on a slow machine that is much.
            let [least, greatest] =
                [-ROUNDING, ROUNDING].map(|error| (own + error) / (other - error));
            assert!(
                least - ROUNDING <= ratio && ratio <= greatest + ROUNDING,
                "{case}/{reference}: {ratio}"
            );
        }
    }
}

#[test]
fn frames_of_every_size_pass_through_every_kind_of_tunnel() {
    let Some(report) = run(&["throughput"]) else {
        return;
    };
    for (suffix, bytes) in [
        ("ipv6", 112),
        ("checksum", 96),
        ("sequence", 96),
        ("512", 540),
        ("1400", 1428),
    ] {
        let name = format!("tunnel_to_tunnel_{suffix}");
        assert!(mpps(&report, &name) > 0.0);
        assert_eq!(case(&report, &name)["bytes"], bytes, "{name}");
    }
    let ratio = &report["ratios"]["port_to_tunnel_1400/kernel_vxlan_1400"];
    assert!(ratio.as_f64().unwrap() > 0.0);
}

#[test]
fn traffic_over_many_tunnels_networks_and_routes_arrives_as_it_should() {
    let options = ["--cases", "port_to_tunnel,tunnel_to_port,tunnel_to_tunnel"];
    let scale = ["--tunnels", "300", "--networks", "30", "--routes", "3000"];
    let Some(report) = run(&[options.as_slice(), scale.as_slice()].concat()) else {
        return;
    };
    let names: Vec<&str> = cases(&report)
        .map(|case| case["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "sink",
            "port_to_tunnel",
            "tunnel_to_port",
            "tunnel_to_tunnel"
        ]
    );
    // A VLAN tag for each network.
    assert_eq!(cases(&report).nth(1).unwrap()["bytes"], 68);
    assert_eq!(report["ratios"].as_object().unwrap().len(), 0);
}

#[test]
fn growth_compares_tables_of_different_sizes() {
    let Some(report) = run(&["growth", "--up-to", "1000"]) else {
        return;
    };
    let points = report["growth"].as_array().unwrap();
    let routes: Vec<&Value> = points.iter().map(|point| &point["routes"]).collect();
    assert_eq!(routes, [10, 10, 1000]);
    for point in points {
        assert!(
            point["ratios"]["port_to_tunnel/redirect"].as_f64().unwrap() > 0.0,
            "{point}"
        );
    }
}

#[test]
fn two_cores_forward_on_two_queues() {
    let Some(report) = run(&["cores"]) else {
        return;
    };
    for cores in ["one", "two", "one_queue"] {
        let rate = report[cores]["port_to_tunnel"].as_f64().unwrap();
        assert!(rate > 0.0, "{report}");
    }
    assert_eq!(
        (&report["cpus"]["one"], &report["cpus"]["two"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn look_ups_agree_with_the_kernels_trie_and_are_compared_with_it() {
    let Some(report) = run(&["fib", "--up-to", "1000"]) else {
        return;
    };
    let tables = report["fib"].as_array().unwrap();
    assert_eq!(tables.len(), 6);
    for table in tables {
        assert!(table["trie_ns"].as_f64().unwrap() > 0.0, "{table}");
        assert!(table["bytes_per_route"].as_f64().unwrap() > 0.0, "{table}");
    }
}

#[test]
fn routes_change_under_traffic_and_the_daemon_applies_a_configuration() {
    let Some(report) = run(&["updates", "--tunnels", "50"]) else {
        return;
    };
    assert!(report["changes_per_second"].as_f64().unwrap() > 0.0);
    assert!(report["mpps_meanwhile"].as_f64().unwrap() > 0.0);
    assert_eq!(report["apply"]["tunnels"], 50);
    assert!(report["apply"]["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn two_builds_are_compared_in_every_case_and_equal_ones_are_recognised() {
    let gregw = beside_this("gregw");
    let both = ["--old", &gregw, "--new", &gregw, "--loads", "2"];
    let Some(report) = run(&[["against"].as_slice(), &both].concat()) else {
        return;
    };
    let names = cases(&report).map(|case| case["name"].as_str().unwrap());
    let stages = ["port_to_tunnel", "tunnel_to_port", "tunnel_to_tunnel"];
    let kinds = ["", "_ipv6", "_checksum", "_sequence"];
    let all = kinds.map(|kind| stages.map(|stage| format!("{stage}{kind}")));
    assert_eq!(Vec::from_iter(names), all.concat());
    assert_eq!(report["same_program"], true);
    assert!(report["old"]["tag"].is_string(), "{report}");
    assert_eq!(report["old"]["tag"], report["new"]["tag"]);
    for case in cases(&report) {
        for figure in ["redirect_ns", "old_ns", "new_ns", "change_ns"] {
            assert!(case[figure].is_number(), "{case}");
        }
        // Two loads tell nothing of chance.
        assert_eq!(case["interval_ns"], Value::Null, "{case}");
        assert_eq!(case["verdict"], "too few loads", "{case}");
    }
}

#[test]
fn a_build_that_does_not_start_is_named() {
    let Some(output) = output(&["against", "--old", "/bin/false", "--new", "/bin/false"]) else {
        return;
    };
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cannot start /bin/false"), "{error}");
}

/// What a run that succeeds says. `None` where it cannot run.
fn run(options: &[&str]) -> Option<Value> {
    let rounds = ["--rounds", "1", "--round-seconds", "0.05"];
    let output = output(&[&rounds, options].concat())?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(serde_json::from_slice(&output.stdout).expect("nothing but JSON"))
}

/// `None` where it cannot run.
fn output(options: &[&str]) -> Option<Output> {
    // Measurements disturb each other.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !nix::unistd::Uid::effective().is_root() {
        println!("SKIPPED: the benchmark needs root");
        return None;
    }
    let bench = Command::new(env!("CARGO_BIN_EXE_gre-bench"))
        .arg("--json")
        .args(options)
        .output();
    Some(bench.expect("gre-bench runs"))
}

/// A program that cargo has built beside the benchmark.
fn beside_this(name: &str) -> String {
    let bench = Path::new(env!("CARGO_BIN_EXE_gre-bench"));
    let path = bench.with_file_name(name);
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn cases(report: &Value) -> impl Iterator<Item = &Value> {
    report["cases"].as_array().unwrap().iter()
}

fn case<'r>(report: &'r Value, name: &str) -> &'r Value {
    cases(report).find(|case| case["name"] == name).unwrap()
}

fn mpps(report: &Value, name: &str) -> f64 {
    case(report, name)["mpps"].as_f64().unwrap()
}
