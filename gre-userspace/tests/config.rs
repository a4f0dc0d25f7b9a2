//! What the configuration promises: every mistake is told at once, where it stands; the examples are clean; no input
//! makes the reader panic.
//!
//! Each file in `broken/` names the complaints it must give in comments `# expect LINE:COLUMN part of the message`;
//! `snapshots/` holds how they are drawn.

use std::path::{Path, PathBuf};

use gre_userspace::config::{
    Config, Diagnostic, Diagnostics, Keys, NextHop, Standing, Tos, Ttl, check_transition,
};
use proptest::prelude::*;

const MINIMAL: &str = include_str!("../../dist/examples/minimal.toml");
const HUB_AND_SPOKE: &str = include_str!("../../dist/examples/hub-and-spoke.toml");

#[test]
fn every_broken_file_gives_exactly_the_expected_complaints() {
    for path in toml_files("tests/broken") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let complaints = Config::parse(name, text.as_bytes()).expect_err(name);
        let expected: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# expect "))
            .collect();
        let found = places_and_messages(&complaints);
        let agree = expected.len() == found.len()
            && expected.iter().zip(&found).all(|(expected, found)| {
                let (place, part) = expected.split_once(' ').unwrap();
                found.starts_with(&format!("{place} ")) && found.contains(part)
            });
        assert!(agree, "{name}: expected {expected:#?}, found {found:#?}");
        let helpful = complaints
            .iter()
            .all(|complaint| !complaint.help().is_empty());
        assert!(helpful, "{name}: a complaint without help");
    }
}

#[test]
fn complaints_are_drawn_with_the_offending_text_underlined() {
    for path in toml_files("tests/broken") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let complaints = Config::parse(name, &bytes).expect_err(name);
        let stem = path.file_stem().unwrap().to_str().unwrap();
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(stem, complaints.to_string());
        });
    }
}

#[test]
fn complaints_are_flat_objects_in_json() {
    let text = "[[tenant]]\nname = \"ä\"  # two bytes\n";
    let complaints = Config::parse("gregw.toml", text.as_bytes()).unwrap_err();
    let json = serde_json::to_value(&complaints).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{
            "severity": "error",
            "file": "gregw.toml",
            "line": 2,
            "column": 8,
            "message": "tenant `ä`: `name` is not a name: \"ä\" must not contain 'ä' here",
            "help": "use 1–63 letters, digits, `.`, `_` and `-`, beginning with a letter or a digit",
            "text": "\"ä\"",
            "related": null,
        }])
    );
}

#[test]
fn a_drawing_is_headed_by_the_place_of_the_mistake() {
    for path in toml_files("tests/broken") {
        let bytes = std::fs::read(&path).unwrap();
        for complaint in &Config::parse("file.toml", &bytes).unwrap_err() {
            let (line, column) = complaint.line_column();
            let drawing = Diagnostics::from(complaint.clone()).to_string();
            let heads: Vec<&str> = drawing
                .lines()
                .filter(|line| line.contains("╭─["))
                .collect();
            assert_eq!(heads.len(), 1, "{drawing}");
            assert!(
                heads[0].contains(&format!("[file.toml:{line}:{column}]")),
                "{drawing}"
            );
        }
    }
}

#[test]
fn every_example_is_clean() {
    let examples = toml_files("../dist/examples");
    assert!(examples.len() >= 2);
    for path in examples {
        if let Err(error) = Config::load(&path) {
            panic!("{}:\n{error}", path.display());
        }
    }
}

#[test]
fn every_key_of_the_example_arrives() {
    let config = parse(HUB_AND_SPOKE);
    assert_eq!(config.gateway.name.as_str(), "edge-1");
    assert_eq!(config.gateway.metrics, Some("[::1]:9469".parse().unwrap()));
    let locals = config.underlays[0]
        .local
        .iter()
        .map(|local| local.get_ref().to_string());
    assert_eq!(locals.collect::<Vec<_>>(), ["203.0.113.1", "2001:db8::1"]);
    assert_eq!(config.ports[0].vlan.as_ref().unwrap().get_ref().0, 130);

    let [branch, branch_v6] = &config.tunnels[..2] else {
        panic!("two tunnels")
    };
    assert_eq!(key_numbers(branch.keys), (Some(1001), Some(1001)));
    assert_eq!(key_numbers(branch_v6.keys), (Some(2001), Some(2002)));
    assert_eq!((branch.ttl, branch_v6.ttl), (Ttl::Fixed(64), Ttl::Inherit));
    assert_eq!((branch.tos, branch_v6.tos), (Tos::Inherit, Tos::Fixed(184)));
    assert_eq!(branch.mtu.as_ref().map(|mtu| *mtu.get_ref()), Some(1400));
    assert_eq!((branch.overhead(), branch_v6.overhead()), (28, 56));
    assert_eq!(
        branch.routes[1].prefix.get_ref().to_string(),
        "fd00:11::/48"
    );
    assert_eq!(branch.routes[1].metric, 20);

    let peering = &config.peerings[1];
    assert!(peering.use_remote_gateways && peering.allow_forwarded_traffic);
    assert!(peering.allow_virtual_network_access && !peering.allow_gateway_transit);
    let hops: Vec<_> = config
        .routes
        .iter()
        .map(|route| route.next_hop.get_ref())
        .collect();
    assert!(matches!(hops[0], NextHop::Machine(address) if address.to_string() == "10.10.30.4"));
    assert_eq!(hops[1], &NextHop::Blackhole);
    assert!(matches!(hops[2], NextHop::Tunnel(name) if name.as_str() == "hub-branch"));
}

#[test]
fn a_file_without_a_device_is_refused() {
    let tenant = "[[tenant]]\nname = \"contoso\"\n";
    for text in ["", "\n", "# nothing\n", "[gateway]\n", tenant] {
        let complaints = Config::parse("cut.toml", text.as_bytes()).expect_err(text);
        let found = places_and_messages(&complaints);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("1:1 the file has neither an [[underlay]] nor a [[port]]"));
        assert!(complaints.to_string().contains("[cut.toml:1:1]"));
    }
    let config = parse("[[underlay]]\ndevice = \"eth0\"\nlocal = [\"203.0.113.1\"]\n");
    assert_eq!(config.gateway.name.as_str(), "gregw");
    assert!(config.networks.is_empty() && config.tunnels.is_empty());
}

#[test]
fn a_hundred_complaints_are_drawn_and_the_others_counted() {
    let drawn = |mistakes: usize| {
        let text = MINIMAL.to_owned() + &"[[tenant]]\nname = 1\n".repeat(mistakes);
        let complaints = Config::parse("gregw.toml", text.as_bytes()).unwrap_err();
        assert_eq!(complaints.len(), mistakes, "programs get all of them");
        let drawing = complaints.to_string();
        let drawn = drawing.lines().filter(|line| line.contains("╭─[")).count();
        (drawn, drawing.lines().last().unwrap_or_default().to_owned())
    };
    let (number, last) = drawn(100);
    assert!(number == 100 && !last.contains("shown"), "{number}: {last}");
    assert_eq!(drawn(101), (100, "1 more is not shown".to_owned()));
    assert_eq!(drawn(1234), (100, "1134 more are not shown".to_owned()));
}

#[test]
fn more_tunnels_than_a_group_holds_are_refused_at_the_first_too_many() {
    let head = "[[underlay]]\ndevice = \"eth0\"\nlocal = [\"203.0.113.1\"]\n[[tenant]]\nname = \"a\"\n\
        [[network]]\nname = \"a\"\ntenant = \"a\"\naddress_space = [\"10.1.0.0/16\"]\n";
    let with_members = |count: u32| {
        let tunnels = (0..count).map(|key| {
            format!(
                "[[tunnel]]\nname = \"t{key}\"\nnetwork = \"a\"\nlocal = \"203.0.113.1\"\n\
                 remote = \"198.51.100.7\"\nkey = {key}\nroutes = [\"10.2.0.0/16\"]\n"
            )
        });
        let names: Vec<String> = (0..count).map(|key| format!("t{key}")).collect();
        let route = format!(
            "[[route]]\nnetwork = \"a\"\nprefix = \"10.3.0.0/16\"\nnext_hop = {{ tunnels = {names:?} }}\n"
        );
        head.to_owned() + &tunnels.collect::<String>() + &route
    };
    parse(&with_members(32));
    let complaints = Config::parse("test.toml", with_members(34).as_bytes()).unwrap_err();
    let found: Vec<_> = complaints
        .iter()
        .map(|complaint| (complaint.message(), complaint.text()))
        .collect();
    assert_eq!(
        found,
        [
            (
                "tunnel `t32`: route 10.2.0.0/16 with metric 0 is stated by more than 32 tunnels",
                "\"10.2.0.0/16\""
            ),
            (
                "route `a → 10.3.0.0/16`: 34 tunnels are named, 32 have room",
                "\"t32\""
            ),
        ]
    );
}

#[test]
fn bytes_that_are_no_utf8_are_located() {
    let complaints = Config::parse("latin1.toml", b"[[tenant]]\nname = \"caf\xe9\"\n").unwrap_err();
    assert_eq!(
        places_and_messages(&complaints),
        ["2:12 byte 0xe9 is not valid UTF-8"]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/gregw.toml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/gregw.toml"));
}

#[test]
fn the_address_space_of_a_connected_network_cannot_change() {
    let renumbered = HUB_AND_SPOKE.replace(
        "address_space = [\"10.20.0.0/16\"]",
        "address_space = [\"10.20.0.0/16\", \"10.21.0.0/16\"]",
    );
    let complaints = check_transition(&Standing::from(&parse(HUB_AND_SPOKE)), &parse(&renumbered));
    let found = places_and_messages(&complaints);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("network `contoso-spoke`") && found[0].contains("10.21.0.0/16"));
    assert_eq!(complaints.iter().next().unwrap().text(), "\"10.21.0.0/16\"");
}

#[test]
fn the_address_space_may_change_while_the_peering_is_removed() {
    let split = |text: &str| {
        let start = text.find("[[peering]]").unwrap();
        let end = start + text[start..].find("[[route]]").unwrap();
        format!("{}{}", &text[..start], &text[end..])
    };
    // Without the peering the spoke's route through the hub has no meaning either.
    let unpeered =
        split(HUB_AND_SPOKE).replace("next_hop = \"10.10.30.4\"", "next_hop = \"blackhole\"");
    let renumbered = unpeered.replace("[\"10.20.0.0/16\"]", "[\"10.20.0.0/15\"]");
    let repeered = HUB_AND_SPOKE.replace("[\"10.20.0.0/16\"]", "[\"10.20.0.0/15\"]");
    let steps = [HUB_AND_SPOKE, &unpeered, &renumbered, &repeered].map(parse);
    for pair in steps.windows(2) {
        assert!(check_transition(&Standing::from(&pair[0]), &pair[1]).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read_and_draw(&bytes);
    }

    #[test]
    fn random_characters_never_panic(text in "[\\[\\]{}\"'=,.\\n a-z0-9#äß\\\\\r\t]{0,200}") {
        read_and_draw(text.as_bytes());
    }

    #[test]
    fn damaged_examples_never_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, "[\\[\\]{}\"=,.\\n a-z0-9ä]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = HUB_AND_SPOKE.chars().collect();
        for (at, length, insertion) in cuts {
            let start = at.index(text.len() + 1);
            let end = (start + length).min(text.len());
            text.splice(start..end, insertion.chars());
        }
        read_and_draw(text.into_iter().collect::<String>().as_bytes());
    }

    #[test]
    fn complaints_lie_inside_the_file_and_in_order(
        at in any::<prop::sample::Index>(), length in 1usize..30,
    ) {
        let start = MINIMAL.floor_char_boundary(at.index(MINIMAL.len()));
        let end = MINIMAL.ceil_char_boundary((start + length).min(MINIMAL.len()));
        let text = [&MINIMAL[..start], &MINIMAL[end..]].concat();
        if let Err(complaints) = Config::parse("cut.toml", text.as_bytes()) {
            let places: Vec<_> = complaints.iter().map(Diagnostic::line_column).collect();
            prop_assert!(places.is_sorted(), "{places:?}");
            let lines = text.lines().count().max(1);
            prop_assert!(places.iter().all(|(line, _)| (1..=lines + 1).contains(line)));
        }
    }
}

fn read_and_draw(bytes: &[u8]) {
    if let Err(complaints) = Config::parse("random.toml", bytes) {
        assert!(!complaints.is_empty());
        assert!(!complaints.to_string().is_empty());
        serde_json::to_string(&complaints).unwrap();
    }
}

fn parse(text: &str) -> Config {
    Config::parse("test.toml", text.as_bytes()).unwrap_or_else(|complaints| panic!("{complaints}"))
}

fn places_and_messages(complaints: &Diagnostics) -> Vec<String> {
    let located = complaints.iter().map(|complaint| {
        let (line, column) = complaint.line_column();
        format!("{line}:{column} {}", complaint.message())
    });
    located.collect()
}

fn key_numbers(keys: Keys) -> (Option<u32>, Option<u32>) {
    (
        keys.receive.map(|key| key.0),
        keys.transmit.map(|key| key.0),
    )
}

/// The `.toml` files of a folder beside this crate's manifest, in order.
fn toml_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}
