//! Linux capabilities: what the daemon cannot start without, and what it gives up once it runs.
//!
//! Called by `daemon` before anything else and after the programs are attached.

use caps::{CapSet, Capability, CapsHashSet};

use crate::error::{Error, Result};

/// What starting takes, in order of how telling a complaint about it is.
const REQUIRED: [(Capability, &str); 4] = [
    (
        Capability::CAP_NET_ADMIN,
        "to attach XDP programs and to probe next hops",
    ),
    (Capability::CAP_BPF, "to create BPF maps and load programs"),
    (
        Capability::CAP_PERFMON,
        "to load programs that compare packet pointers",
    ),
    (
        Capability::CAP_NET_RAW,
        "to ask for machines' addresses on ports",
    ),
];

/// What a running daemon still needs: `RTM_NEWNEIGH` asks for it. XDP links are made and maps are written through
/// descriptors that are open by then.
const KEPT: [Capability; 1] = [Capability::CAP_NET_ADMIN];

/// Makes sure that the process may start a data plane.
///
/// # Errors
/// [`Error::MissingCapability`] names the first one that is missing.
pub fn require() -> Result<()> {
    REQUIRED
        .into_iter()
        .try_for_each(|(capability, purpose)| require_one(capability, purpose))
}

/// Makes sure that the process has `capability`, which it needs `purpose` ("to …").
///
/// # Errors
/// [`Error::MissingCapability`].
pub fn require_one(capability: Capability, purpose: &'static str) -> Result<()> {
    let held = caps::has_cap(None, CapSet::Effective, capability)
        .map_err(|source| Error::system("read the process's capabilities", other(source)))?;
    if held {
        Ok(())
    } else {
        Err(Error::MissingCapability {
            capability,
            purpose,
        })
    }
}

/// Gives up, for good, all that a running daemon does not need. Call it before threads are started: each has its own.
pub fn drop_unneeded() -> Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(cannot_drop)?;
    let kept: CapsHashSet = KEPT
        .into_iter()
        .filter(|capability| permitted.contains(capability))
        .collect();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).map_err(cannot_drop)?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(cannot_drop)?;
    }
    Ok(())
}

fn cannot_drop(source: caps::errors::CapsError) -> Error {
    Error::system("drop capabilities", other(source))
}

fn other(error: caps::errors::CapsError) -> std::io::Error {
    std::io::Error::other(error)
}
