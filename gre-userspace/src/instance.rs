//! One running gateway among several on a machine: its name, its files, and the lock that makes it the only one.
//!
//! The command line parses the name; daemon and client derive every path from it here.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Result};

const RUN_DIRECTORY: &str = "/run/gregw";

/// The name of an instance: what `--instance` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance(String);

impl Instance {
    /// The longest name, in bytes.
    pub const LIMIT: usize = 64;

    /// The name without `--instance`.
    pub const DEFAULT: &str = "default";

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Where the daemon serves its API.
    pub fn socket(&self) -> PathBuf {
        self.file("sock")
    }

    /// What a restarted daemon reads back.
    pub fn state(&self) -> PathBuf {
        self.file("state.json")
    }

    /// Where [`Instance::state`] is written before it takes the place of the old one.
    pub fn next_state(&self) -> PathBuf {
        self.file("state.json.new")
    }

    /// What the verifier said when it refused a program; no such file once one has been loaded.
    pub fn verifier_log(&self) -> PathBuf {
        self.file("verifier.log")
    }

    /// Held by the running daemon.
    pub fn lock_file(&self) -> PathBuf {
        self.file("lock")
    }

    /// Becomes the only process that may change the instance's data plane.
    ///
    /// # Errors
    /// [`Error::InstanceBusy`] if another process is.
    pub fn lock(&self) -> Result<InstanceLock> {
        fs::create_dir_all(RUN_DIRECTORY)
            .map_err(|source| Error::file("create directory", RUN_DIRECTORY, source))?;
        let path = self.lock_file();
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(|source| Error::file("open", &path, source))?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((file, Errno::EWOULDBLOCK)) => return Err(self.busy(file)),
                Err((_, source)) => return Err(Error::file("lock", &path, source)),
            };
            // The last holder may have removed the file between our open and our lock.
            if same_file(&file, &path) {
                return InstanceLock::new(file, path);
            }
        }
    }

    /// As [`Instance::lock`], but gives a holder this long to end: a process that was killed keeps the lock until the
    /// kernel has taken it down.
    pub fn lock_within(&self, patience: Duration) -> Result<InstanceLock> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lock() {
                Err(Error::InstanceBusy { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    fn file(&self, extension: &str) -> PathBuf {
        Path::new(RUN_DIRECTORY).join(format!("{}.{extension}", self.0))
    }

    fn busy(&self, mut holder: File) -> Error {
        let mut pid = String::new();
        let read = holder.read_to_string(&mut pid);
        let pid = pid.trim();
        Error::InstanceBusy {
            instance: self.0.clone(),
            pid: match read {
                Ok(_) if !pid.is_empty() => pid.to_owned(),
                _ => "unknown".to_owned(),
            },
        }
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A name that no instance can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot name an instance: use 1 to {limit} letters, digits, `-` and `_`",
    limit = Instance::LIMIT
)]
pub struct InvalidInstance(String);

impl FromStr for Instance {
    type Err = InvalidInstance;

    /// The name becomes a directory of bpffs, which allows no dots.
    fn from_str(name: &str) -> std::result::Result<Self, InvalidInstance> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > Self::LIMIT || !name.chars().all(allowed) {
            return Err(InvalidInstance(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

/// The right to change an instance's data plane, held until dropped.
#[derive(Debug)]
pub struct InstanceLock {
    // Unlocks when dropped.
    _file: Flock<File>,
    path: PathBuf,
}

impl InstanceLock {
    fn new(mut file: Flock<File>, path: PathBuf) -> Result<Self> {
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|source| Error::file("write", &path, source))?;
        Ok(Self { _file: file, path })
    }

    /// Gives the right up and leaves no file behind.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|source| Error::file("remove", &self.path, source))
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => held.ino() == named.ino() && held.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for name in ["", "a/b", "..", "a.b", "é", &"x".repeat(65)] {
            assert!(name.parse::<Instance>().is_err(), "{name}");
        }
        for name in ["default", "edge-1", "a_B9"] {
            assert_eq!(name.parse::<Instance>().expect("valid").name(), name);
        }
    }

    #[test]
    fn a_second_holder_is_told_the_first_ones_pid() {
        let instance: Instance = format!("test-{}", std::process::id())
            .parse()
            .expect("valid");
        let first = instance.lock().expect("free");
        let refused = instance.lock().expect_err("held");
        assert!(
            refused
                .to_string()
                .contains(&std::process::id().to_string())
        );
        assert_eq!(refused.exit_code(), crate::failure::ExitCode::Busy);
        first.remove().expect("ours");
        instance.lock().expect("free again").remove().expect("ours");
    }
}
