//! The gateway under test: one `gregw run` in a namespace, its configuration file, and the command line against it.
//!
//! The binary is the one that cargo built beside the tests (`cargo xtask test` builds it), or `$GREGW`. Each gateway is
//! an instance of its own; dropping it ends the daemon and detaches everything, also when the test panics.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::Once;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::{Handle, NAMESPACE_DIRECTORY, is_leftover, maker, unique_name};
use crate::wait;

/// Where bpffs belongs.
pub const BPFFS: &str = "/sys/fs/bpf";
const RUN_DIRECTORY: &str = "/run/gregw";

/// A running (or killed) gregw daemon.
pub struct Gateway {
    namespace: Handle,
    instance: String,
    directory: TempDir,
    daemon: Option<Child>,
    launcher: Vec<String>,
}

impl Gateway {
    /// Starts a daemon with this configuration and waits until it answers.
    ///
    /// # Panics
    /// If it ends or does not answer, with its log.
    #[track_caller]
    pub fn start(namespace: &Handle, configuration: &str) -> Self {
        let mut gateway = Self::prepare(namespace, configuration);
        gateway.run();
        gateway
    }

    /// As [`Gateway::start`], with a program before the daemon's own that starts it as the same process: `env`,
    /// `prlimit`.
    ///
    /// # Panics
    /// If it ends or does not answer, with its log.
    #[track_caller]
    pub fn start_by(launcher: &[&str], namespace: &Handle, configuration: &str) -> Self {
        let mut gateway = Self::prepare(namespace, configuration);
        gateway.launcher = launcher.iter().map(ToString::to_string).collect();
        gateway.run();
        gateway
    }

    /// Runs a daemon that is expected to end by itself, and returns its status and what it printed.
    ///
    /// # Panics
    /// If it runs on, or has left something behind.
    #[track_caller]
    pub fn start_refused(namespace: &Handle, configuration: &str) -> Output {
        let mut gateway = Self::prepare(namespace, configuration);
        gateway.spawn();
        let ended = wait::until(|| gateway.status().is_some());
        let log = gateway.log();
        assert!(
            ended,
            "gregw runs although it should have refused to:\n{log}"
        );
        let status = gateway.status().expect("it has ended");
        gateway.daemon = None;
        let left: Vec<PathBuf> = left_by(std::process::id())
            .into_iter()
            .filter(|path| path.to_string_lossy().contains(&gateway.instance))
            .collect();
        assert!(left.is_empty(), "a refused start has left {left:?}");
        Output {
            status,
            stdout: Vec::new(),
            stderr: log.into_bytes(),
        }
    }

    /// Starts the daemon again, after [`Gateway::kill`], with the file as it stands.
    ///
    /// # Panics
    /// If it ends or does not answer, with its log.
    #[track_caller]
    pub fn run(&mut self) {
        self.spawn();
        let mut ended = None;
        let answered = wait::until(|| {
            ended = self.status();
            ended.is_some() || self.cli(&["-j", "show", "tunnel"]).status.success()
        });
        assert!(
            answered && ended.is_none(),
            "gregw did not start ({ended:?}):\n{}",
            self.log()
        );
    }

    /// Runs `gregw --instance … ARGUMENTS` in the gateway's namespace.
    ///
    /// # Panics
    /// If there is no gregw binary.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.namespace
            .command(binary())
            .args(["--instance", &self.instance])
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("running {}: {error}", binary().display()))
    }

    /// Runs a command that must succeed, and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert!(
            output.status.success(),
            "gregw {}: {}\n{}",
            arguments.join(" "),
            describe(&output),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Writes a configuration to a file beside the running one and applies it.
    ///
    /// # Panics
    /// If it is refused.
    #[track_caller]
    pub fn apply(&self, configuration: &str) {
        let output = self.try_apply(configuration);
        assert!(
            output.status.success(),
            "gregw apply: {}\n{}\n{configuration}",
            describe(&output),
            self.log()
        );
    }

    /// Writes a configuration to a file and tries to apply it.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[track_caller]
    pub fn try_apply(&self, configuration: &str) -> Output {
        let path = self.directory.path().join("next.toml");
        std::fs::write(&path, configuration).expect("the temporary directory is writable");
        self.cli(&["apply", &path.to_string_lossy()])
    }

    /// The rows of `gregw -j show WHAT`.
    ///
    /// # Panics
    /// If it fails or does not print a JSON array.
    #[track_caller]
    pub fn show(&self, what: &str) -> Vec<Value> {
        let text = self.cli_ok(&["-j", "show", what]);
        match serde_json::from_str(&text) {
            Ok(Value::Array(rows)) => rows,
            other => panic!("`gregw -j show {what}` is not an array: {other:?}\n{text}"),
        }
    }

    /// The row of this name in `gregw -j show WHAT`.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn show_one(&self, what: &str, name: &str) -> Value {
        let rows = self.show(what);
        rows.iter()
            .find(|row| row["name"] == name)
            .cloned()
            .unwrap_or_else(|| panic!("no {what} {name:?} in {rows:?}"))
    }

    /// Packets and drops of a tunnel or port so far. What a test has sent is in them for certain behind a barrier.
    ///
    /// # Panics
    /// If there is no such object, or it has no counters.
    #[track_caller]
    pub fn traffic(&self, what: &str, name: &str) -> Traffic {
        Traffic::of(&self.show_one(what, name))
    }

    /// Kills the daemon without giving it a chance to clean up.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.wait().expect("a child can be waited for");
    }

    /// Ends the daemon as an operator does; what it has attached stays.
    ///
    /// # Panics
    /// If it does not run.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.wait().expect("a child can be waited for");
    }

    /// Sends the daemon a signal.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the daemon can be signalled");
    }

    /// The process id of the daemon.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self) -> i32 {
        let daemon = self.daemon.as_ref().expect("the daemon runs");
        i32::try_from(daemon.id()).expect("a process id fits")
    }

    /// The instance name; programs and maps are pinned under it.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The directory of its pins.
    pub fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join("gregw").join(&self.instance)
    }

    /// The configuration file that it was started with.
    pub fn configuration_file(&self) -> PathBuf {
        self.directory.path().join("gregw.toml")
    }

    /// What the daemon has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn prepare(namespace: &Handle, configuration: &str) -> Self {
        static PREPARED: Once = Once::new();
        PREPARED.call_once(|| {
            mount_bpffs();
            sweep();
        });
        let directory = tempfile::tempdir().expect("a temporary directory");
        let gateway = Self {
            namespace: namespace.clone(),
            instance: unique_name("gateway"),
            directory,
            daemon: None,
            launcher: Vec::new(),
        };
        std::fs::write(gateway.configuration_file(), configuration)
            .expect("the temporary directory is writable");
        gateway
    }

    fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the log can be written");
        let also_log = log.try_clone().expect("a descriptor can be copied");
        let mut words: Vec<OsString> = self.launcher.iter().map(OsString::from).collect();
        words.push(binary().into_os_string());
        let daemon = self
            .namespace
            .command(&words[0])
            .args(&words[1..])
            .args(["--instance", &self.instance, "run", "-c"])
            .arg(self.configuration_file())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also_log)
            .spawn()
            .unwrap_or_else(|error| panic!("running {}: {error}", binary().display()));
        self.daemon = Some(daemon);
    }

    fn status(&mut self) -> Option<std::process::ExitStatus> {
        self.daemon
            .as_mut()
            .and_then(|daemon| daemon.try_wait().expect("a child can be waited for"))
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("gregw.log")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.instance, self.log());
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(
                Pid::from_raw(i32::try_from(daemon.id()).unwrap_or_default()),
                Signal::SIGTERM,
            );
            if !wait::until(|| !matches!(daemon.try_wait(), Ok(None))) {
                eprintln!("gregw did not end on SIGTERM");
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
        }
        if self.pins().exists() {
            let output = self.cli(&["detach"]);
            if !output.status.success() {
                eprintln!("gregw detach: {}", describe(&output));
            }
        }
    }
}

/// Counters of a tunnel or port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that came in here.
    pub rx_packets: u64,
    /// Bytes of their inner IP packets.
    pub rx_bytes: u64,
    /// Packets that came in here and were dropped before their way out was known.
    pub rx_dropped: u64,
    /// Packets that left here.
    pub tx_packets: u64,
    /// Bytes of their inner IP packets.
    pub tx_bytes: u64,
    /// Packets that were to leave here and were dropped.
    pub tx_dropped: u64,
    /// Both kinds of drops by reason, without zeros.
    pub drops: std::collections::BTreeMap<String, u64>,
}

impl Traffic {
    /// Reads one row of `gregw -j show tunnel` or `port`.
    ///
    /// # Panics
    /// If a counter is missing.
    #[track_caller]
    pub fn of(row: &Value) -> Self {
        let counter = |direction: &str, field: &str| {
            row[direction][field]
                .as_u64()
                .unwrap_or_else(|| panic!("no counter {direction}.{field} in {row}"))
        };
        let drops = row["drops"]
            .as_object()
            .unwrap_or_else(|| panic!("no drops in {row}"));
        Self {
            rx_packets: counter("rx", "packets"),
            rx_bytes: counter("rx", "bytes"),
            rx_dropped: counter("rx", "dropped"),
            tx_packets: counter("tx", "packets"),
            tx_bytes: counter("tx", "bytes"),
            tx_dropped: counter("tx", "dropped"),
            drops: drops
                .iter()
                .filter_map(|(reason, count)| Some((reason.clone(), count.as_u64()?)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    /// Drops for one reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops.get(reason).copied().unwrap_or_default()
    }
}

/// Namespaces, pins and files that process `pid` made under [`unique_name`]s and that are still there.
pub fn left_by(pid: u32) -> Vec<PathBuf> {
    let pins = Path::new(BPFFS).join("gregw");
    [
        NAMESPACE_DIRECTORY.as_ref(),
        pins.as_path(),
        RUN_DIRECTORY.as_ref(),
    ]
    .into_iter()
    // A directory that is missing holds nothing.
    .filter_map(|directory| std::fs::read_dir(directory).ok())
    .flat_map(Iterator::flatten)
    .filter(|entry| maker(&entry.file_name().to_string_lossy()) == Some(pid))
    .map(|entry| entry.path())
    .collect()
}

/// Status and output of a command, for messages.
pub fn describe(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The gregw binary: `$GREGW`, or the one that cargo built beside this program.
///
/// # Panics
/// If there is none.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("GREGW").map_or_else(built_binary, PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask test`, or set GREGW",
        path.display()
    );
    path
}

fn built_binary() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its own file");
    let profile = own
        .ancestors()
        .find(|directory| directory.join(".fingerprint").exists())
        .expect("cargo built this program into target/<profile>, or deps below it");
    profile.join("gregw")
}

fn mount_bpffs() {
    let mounted =
        statfs(BPFFS).is_ok_and(|file_system| file_system.filesystem_type() == BPF_FS_MAGIC);
    if !mounted {
        mount(
            Some("bpf"),
            BPFFS,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .unwrap_or_else(|error| panic!("mounting bpffs on {BPFFS}: {error}"));
    }
}

/// Removes the pins of test processes that were killed; a gateway whose pins are gone, and daemon too, is detached.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(Path::new(BPFFS).join("gregw")) else {
        return;
    };
    for entry in entries.flatten() {
        if is_leftover(&entry.file_name().to_string_lossy())
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            eprintln!("removing {}: {error}", entry.path().display());
        }
    }
}
