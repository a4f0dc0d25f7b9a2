//! Puts the embedded XDP program and fresh maps into the kernel, attached to nothing.

use std::path::PathBuf;

use aya::maps::{MapError, ProgramArray};
use aya::programs::{ProgramError, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader};

use gre_common::limits;

use crate::error::{Error, Result};
use crate::object::{GATEWAY, OBJECT, RESOLVER};

/// All programs of the object.
pub(super) const PROGRAMS: [&str; 2] = [GATEWAY, RESOLVER];

/// Lines of the verifier's log that a message quotes.
const VERIFIER_LINES: usize = 8;

/// The features that the program and its attachment need, by the kernel that brought them.
const FEATURES: [(u8, u8, &str); 3] = [
    (5, 9, "XDP links (Linux 5.9)"),
    (5, 12, "atomic BPF instructions (Linux 5.12)"),
    (5, 18, "XDP for frames in fragments (Linux 5.18)"),
];

/// Loads the object; the programs pass the verifier here. `shared` are pinned maps, by name, that are used as they are;
/// all others are fresh.
///
/// # Errors
/// [`Error::MissingKernelFeature`] on kernels that are too old, [`Error::Bpf`] with the verifier's words otherwise.
pub(super) fn load(shared: &[(&'static str, PathBuf)]) -> Result<Ebpf> {
    check_kernel()?;
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
struct Missing;

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

fn check_kernel() -> Result<()> {
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
