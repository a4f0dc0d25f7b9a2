//! Puts the embedded XDP program and fresh maps into the kernel, attached to nothing.

use std::path::PathBuf;

use aya::maps::{MapError, ProgramArray};
use aya::programs::{ProgramError, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader};

use gre_common::limits;

use crate::error::{Error, Result};
use crate::fib::GracePeriod;
use crate::object::{GATEWAY, OBJECT, RESOLVER};

/// All programs of the object.
pub(super) const PROGRAMS: [&str; 2] = [GATEWAY, RESOLVER];

/// Lines of the verifier's log that a message quotes.
const VERIFIER_LINES: usize = 8;

/// The features that the program and its attachment need, by the kernel that brought them.
const FEATURES: [(u8, u8, &str); 4] = [
    (5, 9, "XDP links (Linux 5.9)"),
    (5, 12, "atomic BPF instructions (Linux 5.12)"),
    (5, 18, "XDP for frames in fragments (Linux 5.18)"),
    // Commit c8644cd0efe7. The daemon gives CAP_BPF up, and many distributions set kernel.unprivileged_bpf_disabled.
    (
        5,
        19,
        "access to open BPF maps without CAP_BPF (Linux 5.19)",
    ),
];

/// Makes sure that the kernel has what the data plane needs, as far as that can be told beforehand.
///
/// # Errors
/// [`Error::MissingKernelFeature`].
pub(super) fn check_kernel(grace: &mut impl GracePeriod) -> Result<()> {
    check_version()?;
    grace.wait().map_err(|source| Error::MissingKernelFeature {
        feature: "waiting for all CPUs by membarrier(2), MEMBARRIER_CMD_GLOBAL".to_owned(),
        help: "boot without `nohz_full`, which rules it out, on a kernel with CONFIG_MEMBARRIER",
        source: Some(Box::new(source)),
    })
}

/// Loads the object; the programs pass the verifier here. `shared` are pinned maps, by name, that are used as they are;
/// all others are fresh.
///
/// # Errors
/// [`Error::MissingKernelFeature`] where a kind of map is missing, [`Error::Bpf`] with the verifier's words otherwise.
pub(super) fn load(shared: &[(&'static str, PathBuf)]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, path) in shared {
        loader.map_pin_path(name, path.as_path());
    }
    let mut ebpf = loader.load(OBJECT).map_err(without_feature)?;
    for name in PROGRAMS {
        program(&mut ebpf, name)?.load().map_err(refused)?;
    }
    link_resolver(&mut ebpf)?;
    Ok(ebpf)
}

/// One of [`PROGRAMS`] of a loaded object.
pub(super) fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Error::bpf(format!("find program {name}"), Missing))
}

/// The object lacks something that this daemon knows by name.
#[derive(Debug, thiserror::Error)]
#[error("the BPF object that this binary was built with does not have it")]
pub(super) struct Missing;

/// Lets the program hand link control over to the resolver. The kernel empties the array once nobody holds it open and
/// it is pinned nowhere.
fn link_resolver(ebpf: &mut Ebpf) -> Result<()> {
    let fail = |source| Error::bpf("write map PROGRAMS", source);
    let resolver = program(ebpf, RESOLVER)?
        .fd()
        .map_err(|source| Error::bpf(format!("use program {RESOLVER}"), source))?;
    let resolver = resolver
        .try_clone()
        .map_err(|source| Error::system("duplicate a descriptor", source))?;
    let map = ebpf
        .map_mut("PROGRAMS")
        .ok_or_else(|| Error::bpf("find map PROGRAMS", Missing))?;
    ProgramArray::try_from(map)
        .map_err(fail)?
        .set(limits::RESOLVER, &resolver, 0)
        .map_err(fail)
}

fn check_version() -> Result<()> {
    let running = KernelVersion::current()
        .map_err(|source| Error::bpf("find out the kernel's version", source))?;
    for (major, minor, feature) in FEATURES {
        if running < KernelVersion::new(major, minor, 0) {
            return Err(Error::MissingKernelFeature {
                feature: feature.to_owned(),
                help: "boot a newer kernel",
                source: None,
            });
        }
    }
    Ok(())
}

fn without_feature(source: EbpfError) -> Error {
    if is_unsupported(&source) {
        return Error::MissingKernelFeature {
            feature: "a kind of BPF map".to_owned(),
            help: "enable CONFIG_BPF_SYSCALL, CONFIG_NET and CONFIG_DEBUG_INFO_BTF",
            source: Some(Box::new(source)),
        };
    }
    Error::bpf("create the BPF maps", source)
}

fn is_unsupported(error: &EbpfError) -> bool {
    matches!(error, EbpfError::MapError(MapError::CreateError { io_error, .. })
        if matches!(io_error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)))
}

/// The verifier's words fill many screens; the last ones say what it did not like.
fn refused(error: ProgramError) -> Error {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return Error::bpf("load the XDP program", error);
    };
    let log = verifier_log.to_string();
    tracing::debug!("the verifier says:\n{log}");
    let lines: Vec<&str> = log.trim_end().lines().collect();
    let last = lines[lines.len().saturating_sub(VERIFIER_LINES)..].join("\n");
    Error::bpf("load the XDP program", Refused { io_error, last })
}

/// The kernel has not taken the program.
#[derive(Debug, thiserror::Error)]
#[error(
    "the verifier refuses it ({io_error}), GREGW_LOG=debug shows all it says; the last lines are:\n{last}"
)]
struct Refused {
    io_error: std::io::Error,
    last: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::ExitCode;

    /// As a kernel with `nohz_full`.
    struct Refusing;

    impl GracePeriod for Refusing {
        fn wait(&mut self) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    #[test]
    fn a_kernel_without_grace_periods_is_refused_by_name_before_anything_is_made() {
        let refusal = check_kernel(&mut Refusing).expect_err("no grace periods");
        assert_eq!(refusal.exit_code(), ExitCode::MissingKernelFeature);
        let text = refusal.to_string();
        assert!(text.contains("MEMBARRIER_CMD_GLOBAL"), "{text}");
        assert!(text.contains("nohz_full"), "{text}");
    }
}
