//! Why the daemon cannot do what it was asked for, each kind with its exit code.
//!
//! Made where the fault is found (data plane, netlink, start-up), turned into a [`Failure`] where it leaves the daemon.

use std::io;
use std::path::PathBuf;

use gre_common::limits::OLDEST_KERNEL;

use crate::failure::{ExitCode, Failure};

/// A result of the daemon's inner parts.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the daemon cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not do what it has to.
    #[error(
        "capability {capability} is missing, which is needed {purpose}: run gregw as root or grant the capability \
         (systemd: AmbientCapabilities={capability})"
    )]
    MissingCapability {
        /// Its name, like `CAP_BPF`.
        capability: caps::Capability,
        /// What for: "to load …".
        purpose: &'static str,
    },
    /// Another XDP program holds a device.
    #[error(
        "device {device} already carries the XDP program {name} (id {program}): remove it (`ip link set dev {device} \
         xdp off`, or end the process that holds its link) or take the device out of the configuration"
    )]
    DeviceBusy {
        /// The device.
        device: String,
        /// Id of the program.
        program: u32,
        /// Name of the program; `<unknown>` where the kernel does not tell.
        name: String,
    },
    /// Another gateway holds a device.
    #[error(
        "device {device} already carries the program of another gregw, instance {instance}: `gregw --instance {instance} \
         detach` takes it off; or take the device out of one of the two configurations"
    )]
    DeviceTaken {
        /// The device.
        device: String,
        /// Its instance.
        instance: String,
    },
    /// The card takes VLAN tags out of the frames of a device that has tagged ports.
    #[error(
        "device {device} takes VLAN tags out of frames before gregw sees them, so that its ports could not be told \
         apart: switch that off by `ethtool -K {device} rxvlan off`"
    )]
    TagsTaken {
        /// The device.
        device: String,
    },
    /// Somebody else may write where programs and maps are pinned.
    #[error(
        "{} belongs to user {owner} with mode {mode:03o}, so that others than root and the daemon's user could take the \
         gateway's programs away: find out who made it, and remove it",
        path.display()
    )]
    ForeignPins {
        /// The directory, or what stands in its place.
        path: PathBuf,
        /// Its user.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// Another daemon runs under this instance name.
    #[error(
        "instance {instance} is already run by process {pid}: end it first, or choose another name with --instance"
    )]
    InstanceBusy {
        /// The instance.
        instance: String,
        /// Its process, as text; "unknown" if it has not written its number yet.
        pid: String,
    },
    /// The kernel is older than what gregw is tested on.
    #[error(
        "this machine runs Linux {release}, and gregw needs {}.{} or newer: boot a newer kernel",
        OLDEST_KERNEL.0,
        OLDEST_KERNEL.1
    )]
    OldKernel {
        /// Its release.
        release: String,
    },
    /// The kernel's verifier does not take a program.
    #[error(
        "the verifier of Linux {release} refuses program {program} ({reason}): boot another kernel of those that the manual \
         lists, and report this with {log}; it ends:\n{last_lines}"
    )]
    ProgramRefused {
        /// The kernel's release.
        release: String,
        /// The program.
        program: &'static str,
        /// What the system call said.
        reason: io::Error,
        /// Where the whole log is, or why it is nowhere.
        log: String,
        /// The end of the verifier's log, where it says what it does not like.
        last_lines: String,
    },
    /// The kernel cannot do what the data plane needs.
    #[error("the kernel lacks {feature}: {help}")]
    MissingKernelFeature {
        /// What is missing.
        feature: String,
        /// What to do about it.
        help: &'static str,
        /// The kernel's own words.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A table is full.
    #[error("{table} is full ({limit} entries): {help}")]
    Full {
        /// What is full, in words of the configuration.
        table: &'static str,
        /// How many entries fit.
        limit: u64,
        /// What to do about it.
        help: &'static str,
    },
    /// Something that the daemon asked the kernel's BPF part for.
    #[error("cannot {action}")]
    Bpf {
        /// What was tried, with the object's name.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file or socket.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: "open", "remove".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A question to the kernel over rtnetlink.
    #[error("cannot {action} over rtnetlink")]
    Netlink {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Any other service of the operating system.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// The exit status that tells this kind of fault.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::MissingCapability { .. } => ExitCode::MissingCapability,
            Self::DeviceBusy { .. } | Self::DeviceTaken { .. } | Self::InstanceBusy { .. } => {
                ExitCode::Busy
            }
            Self::OldKernel { .. }
            | Self::ProgramRefused { .. }
            | Self::MissingKernelFeature { .. } => ExitCode::MissingKernelFeature,
            Self::TagsTaken { .. }
            | Self::ForeignPins { .. }
            | Self::Full { .. }
            | Self::Bpf { .. }
            | Self::File { .. }
            | Self::Netlink { .. }
            | Self::System { .. } => ExitCode::Failure,
        }
    }

    /// [`Error::Bpf`].
    pub(crate) fn bpf(
        action: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Bpf {
            action: action.into(),
            source: Box::new(source),
        }
    }

    /// [`Error::Netlink`].
    pub(crate) fn netlink(
        action: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Netlink {
            action: action.into(),
            source: Box::new(source),
        }
    }

    /// [`Error::File`].
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::File {
            action,
            path: path.into(),
            source: source.into(),
        }
    }

    /// [`Error::System`].
    pub(crate) fn system(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System {
            action: action.into(),
            source: source.into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit_code = error.exit_code();
        Self::new(exit_code, format!("{:#}", anyhow::Error::from(error)))
    }
}
