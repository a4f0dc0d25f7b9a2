//! Network namespaces: [`Handle`] enters one or starts commands in it, [`Namespace`] also creates and removes it.
//!
//! Entering is setns(2) in a thread or a child, never `ip netns exec`, which mounts another /sys over the one that holds
//! bpffs. Namespaces of test processes that were killed are removed when the next one creates its first.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

use nix::sched::{CloneFlags, setns};

use crate::wait::PATIENCE;
use crate::{sys, wait};

/// Where named namespaces are.
pub const NAMESPACE_DIRECTORY: &str = "/run/netns";
/// Names are `gregw-<pid>-<number>-<label>`; the pid tells whether the owner still runs.
const NAME_PREFIX: &str = "gregw-";

/// A network namespace that somebody else keeps.
#[derive(Clone)]
pub struct Handle {
    name: String,
    file: Arc<File>,
}

impl Handle {
    /// Opens a namespace by its name in /run/netns.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = File::open(Path::new(NAMESPACE_DIRECTORY).join(name))?;
        Ok(Self {
            name: name.to_owned(),
            file: Arc::new(file),
        })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// If /proc is not mounted.
    pub fn current() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        Ok(Self {
            name: "current".to_owned(),
            file: Arc::new(file),
        })
    }

    /// Its name in /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Panics
    /// Without CAP_SYS_ADMIN.
    pub fn enter(&self) {
        setns(&*self.file, CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|error| panic!("entering namespace {}: {error}", self.name));
    }

    /// Runs `action` in a thread of its own inside the namespace. Sockets and devices that it opens stay there.
    ///
    /// # Panics
    /// If `action` does.
    pub fn run<R: Send>(&self, action: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter();
                action()
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run inside the namespace and be killed when the thread that starts it ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::run_in_namespace(&mut command, Arc::clone(&self.file));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command line, split at blanks, and returns what it printed.
    ///
    /// # Panics
    /// If it cannot be run or fails, with what it printed.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let output = self.try_sh(line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "`{line}` in {}: {}\n{text}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Runs a command line, split at blanks, that may fail.
    ///
    /// # Panics
    /// If it cannot be run at all.
    #[track_caller]
    pub fn try_sh(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        self.command(program)
            .args(words)
            .output()
            .unwrap_or_else(|error| {
                panic!("cannot run `{line}`: {error}; `cargo xtask setup` installs what tests need")
            })
    }

    /// Sets a value below /proc/sys/net of this namespace, e.g. `ipv4/ip_forward`.
    ///
    /// # Panics
    /// If there is no such setting.
    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| {
            std::fs::write(Path::new("/proc/sys/net").join(path), value)
                .unwrap_or_else(|error| panic!("setting {path} in {}: {error}", self.name));
        });
    }

    /// Gives a device that is up an address with prefix length, e.g. `10.0.0.1/24`, and returns once it is in force.
    ///
    /// # Panics
    /// If the kernel refuses it.
    #[track_caller]
    pub fn add_address(&self, device: &str, address: &str) {
        if !address.contains(':') {
            self.sh(&format!("ip address add {address} dev {device}"));
            return;
        }
        self.sh(&format!("ip address add {address} dev {device} nodad"));
        // The kernel takes packets for an IPv6 address only after work that it puts off.
        let bare = address.split('/').next().unwrap_or(address);
        let routes = format!("ip -6 route show table all type local root {bare}");
        wait::expect(&format!("{address} is in force"), || {
            !self.sh(&routes).is_empty()
        });
    }

    /// The index of a device.
    ///
    /// # Panics
    /// If there is no such device.
    pub fn interface_index(&self, device: &str) -> u32 {
        self.run(|| {
            nix::net::if_::if_nametoindex(device)
                .unwrap_or_else(|error| panic!("device {device} in {}: {error}", self.name))
        })
    }

    /// Pings `destination` so many times, each once the last has been answered, and fails unless all are, with this TTL
    /// or hop limit.
    ///
    /// # Panics
    /// If an answer is missing or has another TTL, with what `ping` printed.
    #[track_caller]
    pub fn expect_pings(&self, destination: IpAddr, count: u32, ttl: u8, options: &str) {
        for _ in 0..count {
            let ping = self.ping(destination, options);
            assert_eq!((ping.received, ping.ttl), (1, Some(ttl)), "{}", ping.text);
        }
    }

    /// Pings `destination` once and returns how the answer looked; without one, when patience has ended.
    ///
    /// # Panics
    /// If `ping` is not installed.
    pub fn ping(&self, destination: IpAddr, options: &str) -> Ping {
        let patience = PATIENCE.as_secs();
        let output = self.try_sh(&format!(
            "ping -n -c 1 -W {patience} {options} {destination}"
        ));
        Ping::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Whether `destination` answers, sooner or later: packets may get lost until everything is resolved.
    pub fn reaches(&self, destination: IpAddr) -> bool {
        self.reaches_by(destination, "")
    }

    /// The same with options of `ping`.
    pub fn reaches_by(&self, destination: IpAddr, options: &str) -> bool {
        // A request each 0.2 s until one is answered, or until an error, after which it is begun anew.
        let line = format!("ping -n -c 1 -i 0.2 -w 10 {options} {destination}");
        wait::until(|| self.try_sh(&line).status.success())
    }
}

/// A network namespace of a test; dropping it removes it and with it its devices and their peers.
pub struct Namespace {
    handle: Handle,
}

impl Namespace {
    /// Creates a namespace with loopback up and without duplicate address detection, which would delay a test.
    ///
    /// # Panics
    /// Without the needed privileges.
    pub fn new(label: &str) -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let name = unique_name(label);
        host_sh(&format!("ip netns add {name}"));
        let handle =
            Handle::open(&name).unwrap_or_else(|error| panic!("opening namespace {name}: {error}"));
        let namespace = Self { handle };
        namespace.sh("ip link set lo up");
        for family in ["all", "default"] {
            namespace.sysctl(&format!("ipv6/conf/{family}/accept_dad"), "0");
            namespace.sysctl(&format!("ipv6/conf/{family}/router_solicitations"), "0");
        }
        namespace
    }
}

impl std::ops::Deref for Namespace {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.handle.name);
    }
}

/// What `ping` reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ping {
    /// Echo requests sent.
    pub sent: u32,
    /// Echo replies received, repeats not counted.
    pub received: u32,
    /// TTL or hop limit of the last reply.
    pub ttl: Option<u8>,
    /// Who said "time to live exceeded", if somebody did.
    pub exceeded_from: Option<IpAddr>,
    /// What `ping` printed.
    pub text: String,
}

impl Ping {
    fn parse(text: &str) -> Self {
        let mut ping = Self {
            text: text.to_owned(),
            ..Self::default()
        };
        for line in text.lines() {
            if let Some(ttl) = word_after(line, "ttl=") {
                ping.ttl = ttl.parse().ok();
            }
            if line.contains("Time to live exceeded") || line.contains("Hop limit") {
                ping.exceeded_from = word_after(line, "From ")
                    .and_then(|word| word.trim_end_matches(':').parse().ok());
            }
            if line.contains("packets transmitted") {
                let numbers: Vec<u32> = line
                    .split_whitespace()
                    .filter_map(|word| word.parse().ok())
                    .collect();
                ping.sent = numbers.first().copied().unwrap_or_default();
                ping.received = numbers.get(1).copied().unwrap_or_default();
            }
        }
        ping
    }
}

/// A name that no other test uses, neither in this process nor in another; short enough for a gregw instance.
pub fn unique_name(label: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{NAME_PREFIX}{}-{number}-{label}", std::process::id())
}

/// The process in which [`unique_name`] made `name`, if it did.
pub fn maker(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(NAME_PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

/// Whether `name` was made by [`unique_name`] in a process that has ended.
pub fn is_leftover(name: &str) -> bool {
    maker(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// Removes what killed test processes left behind.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(NAMESPACE_DIRECTORY) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_leftover(&name) {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    let outcome = Command::new("ip").args(["netns", "del", name]).output();
    if let Ok(output) = outcome
        && !output.status.success()
    {
        eprintln!(
            "removing namespace {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn host_sh(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run `{line}`: {error}; `cargo xtask setup` installs what tests need")
        });
    assert!(
        output.status.success(),
        "`{line}`: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn word_after<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    let rest = &line[line.find(marker)? + marker.len()..];
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_their_ttl_are_read_from_ping() {
        let ping = Ping::parse(
            "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\
             64 bytes from 10.0.0.2: icmp_seq=1 ttl=62 time=0.3 ms\n\n\
             --- 10.0.0.2 ping statistics ---\n\
             3 packets transmitted, 1 received, 66.6% packet loss, time 0ms\n",
        );
        assert_eq!((ping.sent, ping.received, ping.ttl), (3, 1, Some(62)));
    }

    #[test]
    fn the_router_that_ended_a_packet_is_read_from_ping() {
        let ping = Ping::parse("From 10.10.30.1 icmp_seq=1 Time to live exceeded\n");
        assert_eq!(ping.exceeded_from, Some("10.10.30.1".parse().unwrap()));
    }
}
