//! Text and JSON of reports; `snapshots/` holds the text.

use gre_userspace::report::Tunnel;
use gre_userspace::show::{Row, changes, table};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::sample;

macro_rules! assert_text {
    ($name:literal, $text:expr) => {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($name, $text);
        });
    };
}

#[test]
fn every_object_is_one_aligned_line() {
    assert_text!("show_tunnel", table(&sample::tunnels()));
    assert_text!("show_network", table(&sample::networks()));
    assert_text!("show_port", table(&sample::ports()));
    assert_text!("show_peering", table(&sample::peerings()));
    assert_text!("show_route", table(&sample::routes()));
    assert_text!("show_neighbour", table(&sample::neighbours()));
    assert_text!("show_drop", table(&sample::drops()));
    assert_text!("show_device", table(&sample::devices()));
}

#[test]
fn changes_are_lines_with_a_sign_and_a_sum() {
    assert_text!("changes", changes(&sample::changes()));
    assert_eq!(changes(&[]), "no changes\n");
}

#[test]
fn an_empty_list_still_shows_its_titles() {
    let text = table::<Tunnel>(&[]);
    assert_eq!(text.lines().count(), 1);
    assert!(text.starts_with("NAME"));
}

#[test]
fn lines_can_be_cut_at_spaces() {
    assert_cells_hold_no_spaces(&sample::tunnels(), 1);
    assert_cells_hold_no_spaces(&sample::networks(), 0);
    assert_cells_hold_no_spaces(&sample::ports(), 0);
    assert_cells_hold_no_spaces(&sample::peerings(), 1);
    assert_cells_hold_no_spaces(&sample::routes(), 0);
    assert_cells_hold_no_spaces(&sample::neighbours(), 0);
    assert_cells_hold_no_spaces(&sample::drops(), 1);
    assert_cells_hold_no_spaces(&sample::devices(), 1);
}

/// Holds for all cells but the last `free` of a line.
fn assert_cells_hold_no_spaces<R: Row>(rows: &[R], free: usize) {
    for row in rows {
        let cells = row.cells();
        assert_eq!(cells.len(), R::COLUMNS.len());
        for cell in &cells[..cells.len() - free] {
            assert!(
                !cell.is_empty() && !cell.contains(char::is_whitespace),
                "{cells:?}"
            );
        }
    }
    let lines: Vec<_> = table(rows).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), rows.len() + 1);
    assert!(lines.iter().all(|line| line == line.trim_end()));
}

#[test]
fn a_tunnel_in_json_has_the_names_and_nesting_of_the_contract() {
    let json = serde_json::to_value(&sample::tunnels()[..2]).expect("serialisable");
    assert_eq!(
        json,
        json!([
            {
                "name": "hub-branch",
                "tenant": "contoso",
                "network": "contoso-hub",
                "local": "203.0.113.1",
                "remote": "198.51.100.7",
                "receive_key": 1001,
                "transmit_key": 1001,
                "state": "up",
                "since": "2026-11-30T09:00:00Z",
                "reason": null,
                "explanation": null,
                "mtu": 1400,
                "adjacency": {"device": "eth0", "mac": "02:00:00:00:00:01", "state": "resolved"},
                "rx": {"packets": 1200, "bytes": 120_000, "dropped": 3},
                "tx": {"packets": 1180, "bytes": 118_000, "dropped": 2},
                "drops": {"exceeds_tunnel_mtu": 2, "gre_checksum": 3},
            },
            {
                "name": sample::LONG_NAME,
                "tenant": "fabrikam",
                "network": "fabrikam-net",
                "local": "2001:db8:ffff:ffff:ffff:ffff:ffff:fff1",
                "remote": "2001:db8:ffff:ffff:ffff:ffff:ffff:fff2",
                "receive_key": 0,
                "transmit_key": u32::MAX,
                "state": "down",
                "since": "2026-11-30T09:00:07Z",
                "reason": "no_route",
                "explanation": "the host has no route",
                "mtu": 1448,
                "adjacency": {"device": null, "mac": null, "state": "unresolved"},
                "rx": {"packets": 0, "bytes": 0, "dropped": 0},
                "tx": {"packets": 0, "bytes": 0, "dropped": u64::MAX},
                "drops": {"adjacency_unresolved": u64::MAX},
            },
        ])
    );
}

#[test]
fn a_network_in_json_tells_what_its_compiled_tables_take() {
    let json = serde_json::to_value(&sample::networks()[..1]).expect("serialisable");
    assert_eq!(
        json,
        json!([
            {
                "name": "contoso-hub",
                "tenant": "contoso",
                "address_space": ["10.10.30.0/24", "fd00:10:30::/48"],
                "ports": 1,
                "tunnels": 1,
                "peerings": 1,
                "routes": 5,
                "fib_routes": 6,
                "fib_nodes": 4,
                "fib_leaves": 17,
                "fib_bytes": 256,
            },
        ])
    );
}

#[test]
fn reports_survive_json() {
    assert_survives(&sample::tunnels());
    assert_survives(&sample::networks());
    assert_survives(&sample::ports());
    assert_survives(&sample::peerings());
    assert_survives(&sample::routes());
    assert_survives(&sample::neighbours());
    assert_survives(&sample::drops());
    assert_survives(&sample::devices());
    assert_survives(&sample::changes());
}

fn assert_survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(items: &[T]) {
    let json = serde_json::to_string(items).expect("serialisable");
    let read: Vec<T> = serde_json::from_str(&json).expect("readable");
    assert_eq!(read, items);
}
