//! Puts the embedded XDP program and fresh maps into the kernel, attached to nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{MapError, ProgramArray};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};

use gre_common::limits;

use crate::error::{Error, Result};
use crate::fib::GracePeriod;
use crate::files;
use crate::kernel;
use crate::object::{GATEWAY, OBJECT, RESOLVER};

/// All programs of the object.
pub(super) const PROGRAMS: [&str; 2] = [GATEWAY, RESOLVER];

/// Lines of the verifier's log that a message quotes: what it objects to, which new ones explain at length.
const VERIFIER_LINES: usize = 32;

/// Makes sure that the daemon can wait until no CPU reads what it has replaced.
///
/// # Errors
/// [`Error::MissingKernelFeature`].
pub(super) fn check_grace_period(grace: &mut impl GracePeriod) -> Result<()> {
    grace.wait().map_err(|source| Error::MissingKernelFeature {
        feature: "waiting for all CPUs by membarrier(2), MEMBARRIER_CMD_GLOBAL".to_owned(),
        help: "boot without `nohz_full`, which rules it out, on a kernel with CONFIG_MEMBARRIER",
        source: Some(Box::new(source)),
    })
}

/// Loads the object; the programs pass the verifier here. `shared` are pinned maps, by name, that are used as they are;
/// all others are fresh. What the verifier says of a program that it refuses is written to `log`.
///
/// # Errors
/// [`Error::MissingKernelFeature`] where a kind of map is missing, [`Error::ProgramRefused`] by the verifier.
pub(super) fn load(shared: &[(&'static str, PathBuf)], log: &Path) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    // Statistics would stand behind the verifier's objection: many lines, from Linux 7.2 on.
    loader.verifier_log_level(VerifierLogLevel::DEBUG);
    for (name, path) in shared {
        loader.map_pin_path(name, path.as_path());
    }
    let mut ebpf = loader.load(OBJECT).map_err(without_feature)?;
    for name in PROGRAMS {
        program(&mut ebpf, name)?
            .load()
            .map_err(|error| refused(name, error, log))?;
    }
    // One of an earlier refusal.
    files::remove(log)?;
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

/// An error without a log is not the verifier's.
fn refused(program: &'static str, error: ProgramError, log: &Path) -> Error {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } if !verifier_log.to_string().is_empty() => {
            refused_by_verifier(program, io_error, &verifier_log.to_string(), log)
        }
        error => Error::bpf(format!("load program {program}"), error),
    }
}

/// The verifier's words fill many screens; the last ones say what it did not like.
fn refused_by_verifier(program: &'static str, reason: io::Error, text: &str, log: &Path) -> Error {
    let written = match fs::write(log, text) {
        Ok(()) => format!("its whole log, {}", log.display()),
        Err(error) => format!(
            "these lines (its whole log cannot be written to {}: {error})",
            log.display()
        ),
    };
    Error::ProgramRefused {
        release: kernel::release().unwrap_or_else(|_| "(unknown)".to_owned()),
        program,
        reason,
        log: written,
        last_lines: last_lines(text),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(VERIFIER_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::ExitCode;

    /// As a kernel with `nohz_full`.
    struct Refusing;

    impl GracePeriod for Refusing {
        fn wait(&mut self) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    #[test]
    fn a_kernel_without_grace_periods_is_refused_by_name_before_anything_is_made() {
        let refusal = check_grace_period(&mut Refusing).expect_err("no grace periods");
        assert_eq!(refusal.exit_code(), ExitCode::MissingKernelFeature);
        let text = refusal.to_string();
        assert!(text.contains("MEMBARRIER_CMD_GLOBAL"), "{text}");
        assert!(text.contains("nohz_full"), "{text}");
    }

    fn refusal(text: &str, log: &Path) -> Error {
        let reason = io::Error::from_raw_os_error(libc::EACCES);
        refused_by_verifier(GATEWAY, reason, text, log)
    }

    #[test]
    fn a_refusal_quotes_the_end_of_the_verifiers_log_and_says_where_all_of_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("verifier.log");
        let text: String = (1..=60).map(|line| format!("line {line}\n")).collect();
        let refusal = refusal(&text, &log);
        assert_eq!(refusal.exit_code(), ExitCode::MissingKernelFeature);
        let message = refusal.to_string();
        for part in [
            &kernel::release().expect("a kernel"),
            GATEWAY,
            "Permission denied",
            "line 60",
            &log.display().to_string(),
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!message.contains("line 20"), "{message}");
        assert_eq!(fs::read_to_string(&log).expect("it is written"), text);
        files::remove(&log).expect("it goes with the next success");
        files::remove(&log).expect("nothing to remove is no mistake");
    }

    #[test]
    fn a_log_that_cannot_be_written_does_not_hide_the_refusal() {
        let message = refusal("R2 !read_ok", Path::new("/nonexistent/verifier.log")).to_string();
        assert!(message.contains("R2 !read_ok"), "{message}");
        assert!(message.contains("cannot be written"), "{message}");
    }
}
