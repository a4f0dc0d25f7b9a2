//! Tier 3: what the service manager and the unit in `dist/` rely on.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use gre_tests::configuration as toml;
use gre_tests::gateway::{Gateway, describe};
use gre_tests::netns::Handle;
use gre_tests::scenario::{NETWORK, Office};
use gre_tests::wait;
use gre_tests::{can_use_namespaces, skip};
use nix::sys::signal::Signal;

/// The event loop itself says that it is alive, from the moment on that it is ready.
#[test]
fn the_event_loop_answers_the_watchdog() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a free path");
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    let launcher = ["env", &socket, "WATCHDOG_USEC=200000"];
    let gateway = Gateway::start_by(&launcher, &office.namespace, &office.configuration());
    let next = || {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length])
            .trim()
            .to_owned()
    };
    assert_eq!(next(), "READY=1");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    drop(gateway);
}

/// A snapshot is taken piece by piece, between which the configuration may change; one of many tunnels holds each once.
#[test]
fn a_scrape_of_many_tunnels_holds_each_once() {
    if !can_use_namespaces() {
        return;
    }
    const MANY: u32 = 2500;
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    office.namespace.sh("ip link set lo up");
    let mut many = office
        .configuration()
        .replace("[gateway]\n", "[gateway]\nmetrics = \"127.0.0.1:9469\"\n");
    for key in 1..=MANY {
        let tunnel = office.tunnel.clone().with_key(10_000 + key);
        many += &toml::tunnel(&format!("extra-{key}"), NETWORK, &tunnel, &[]);
    }
    let gateway = Gateway::start(&office.namespace, &many);
    let all = MANY as usize + 1;
    let tunnels = |text: &str| -> BTreeSet<String> {
        let lines = text.lines();
        let ups: Vec<&str> = lines
            .filter(|line| line.starts_with("gregw_tunnel_up{"))
            .collect();
        let names: BTreeSet<String> = ups.iter().map(ToString::to_string).collect();
        assert_eq!(ups.len(), names.len());
        names
    };
    assert_eq!(tunnels(&scrape(&office.namespace)).len(), all);
    let file = gateway.configuration_file();
    std::thread::scope(|scope| {
        let scrapers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| tunnels(&scrape(&office.namespace)).len()))
            .collect();
        gateway.cli_ok(&["apply", &file.to_string_lossy()]);
        for scraper in scrapers {
            assert_eq!(scraper.join().expect("a scrape"), all);
        }
    });
    let one = gateway.cli_ok(&["-j", "show", "tunnel", "extra-7"]);
    assert!(
        one.contains("extra-7") && !one.contains("extra-70"),
        "{one}"
    );
    assert_eq!(gateway.show("tunnel").len(), all);
}

/// The answer to `GET /metrics`.
fn scrape(namespace: &Handle) -> String {
    namespace.run(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9469").expect("a listener");
        let request = b"GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("an open connection");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "all of it");
        answer
    })
}

/// Starting, answering, changing, taking over and ending make no system call that the unit's filter refuses.
#[test]
fn the_unit_lets_every_system_call_of_the_daemon_through() {
    if !can_use_namespaces() {
        return;
    }
    let Some(allowed) = allowed_by_the_unit() else {
        return skip("systemd-analyze is missing");
    };
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("strace is missing");
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let trace = directory.path().join("trace");
    let trace = trace.to_str().expect("UTF-8");
    // The tracer is a process aside.
    let launcher = ["strace", "-D", "-f", "-qq", "-A", "-o", trace];
    let configuration = office
        .configuration()
        .replace("[gateway]\n", "[gateway]\nmetrics = \"127.0.0.1:9469\"\n");
    let mut gateway = Gateway::start_by(&launcher, &office.namespace, &configuration);
    for what in ["tunnel", "device", "route", "network"] {
        assert!(!gateway.show(what).is_empty());
    }
    gateway.apply(&office.configuration());
    gateway.signal(Signal::SIGHUP);
    wait::expect("the file is read again", || {
        gateway.log().contains("reloaded")
    });
    gateway.stop();
    gateway.run();
    gateway.apply(&configuration);
    gateway.stop();
    wait::expect("the tracer has written the end", || {
        read(trace).matches(" exit_group(0)").count() >= 2
    });

    let made: BTreeSet<String> = read(trace).lines().filter_map(call).collect();
    assert!(made.contains("bpf") && made.contains("mmap"), "{made:?}");
    let refused: Vec<_> = made.difference(&allowed).collect();
    assert!(refused.is_empty(), "the unit would refuse {refused:?}");
}

/// The name of the system call in a line of strace: `PID name(arguments) = result`.
fn call(line: &str) -> Option<String> {
    let (_, line) = line.split_once(' ')?;
    let (name, _) = line.trim_start().split_once('(')?;
    let is_name = |letter: char| letter == '_' || letter.is_ascii_alphanumeric();
    name.chars().all(is_name).then(|| name.to_owned())
}

/// What `SystemCallFilter` comes to, without systemd `None`: words are calls or sets, later lines with `~` take away.
fn allowed_by_the_unit() -> Option<BTreeSet<String>> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/gregw.service");
    let unit = read(unit.to_str().expect("UTF-8"));
    let mut allowed = BTreeSet::new();
    for line in unit.lines() {
        let Some(words) = line.strip_prefix("SystemCallFilter=") else {
            continue;
        };
        let (takes_away, words) = match words.strip_prefix('~') {
            Some(words) => (true, words),
            None => (false, words),
        };
        for word in words.split_whitespace() {
            for call in calls_of(word)? {
                if takes_away {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
    }
    assert!(!allowed.is_empty(), "the unit has a filter");
    // An allow-list always has these (systemd.exec(5)).
    allowed.extend(calls_of("@default")?);
    Some(allowed)
}

/// A system call, or all of a set.
fn calls_of(word: &str) -> Option<BTreeSet<String>> {
    if !word.starts_with('@') {
        return Some([word.to_owned()].into());
    }
    let mut command = Command::new("systemd-analyze");
    let output = command.args(["syscall-filter", word]).output().ok()?;
    assert!(output.status.success(), "{}", describe(&output));
    let mut calls = BTreeSet::new();
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.lines().map(str::trim);
    for inner in words.filter(|line| !line.starts_with('#') && !line.is_empty() && *line != word) {
        calls.extend(calls_of(inner)?);
    }
    Some(calls)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
