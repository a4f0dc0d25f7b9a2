//! The configuration file: TOML text in, a validated [`Config`] of plain data out, or every mistake at once.
//!
//! Called by `gregw check`, `plan`, `apply` and `run`. `document` walks the parsed TOML, `draft` reads each section
//! field by field, `check` holds the rules between sections. A [`Config`] exists only when no rule is broken.

mod check;
mod diagnostic;
mod document;
mod draft;
mod model;
mod names;
mod syntax;
mod transition;
mod value;

use std::path::{Path, PathBuf};

pub use diagnostic::{
    Diagnostic, Diagnostics, FlatDiagnostic, Place, Related, Severity, Source, printed,
};
pub(crate) use model::overhead;
pub use model::{
    Config, Gateway, Keys, Network, NextHop, Peering, Port, Route, Tenant, Tos, Ttl, Tunnel,
    TunnelRoute, Underlay, Weight, WeightedTunnel, XdpMode,
};
pub use names::{DeviceName, InvalidName, Name};
pub use toml::Spanned;
pub use transition::{Standing, check_transition};

/// Why a configuration file gave no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read at all.
    #[error("cannot read configuration file {}: check its path and permissions", path.display())]
    Read {
        /// The path as it was given.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file was read and is wrong.
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
}

impl Config {
    /// Reads and validates the file at `path`.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let bytes = std::fs::read(path).map_err(|source| LoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::parse(&path.display().to_string(), &bytes)?)
    }

    /// Validates the contents of a file called `file` (the name only appears in messages).
    ///
    /// Returns all mistakes, ordered by their place in the file.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, Diagnostics> {
        let source = syntax::decode(file, bytes)?;
        let document = syntax::parse(&source);
        let intact = document.damage.is_empty();

        let mut mistakes = document.mistakes;
        let drafts = draft::read(&source, document.root, document.damage, &mut mistakes);
        // What a syntax error hides would look like a missing name to the rules between sections.
        if intact {
            check::check(&source, &drafts, &mut mistakes);
        }

        if !mistakes.is_empty() {
            return Err(mistakes.into_sorted());
        }
        drafts.complete(source.clone()).ok_or_else(|| {
            Diagnostics::from(source.error(
                0..0,
                "a section could not be read, and no rule says why",
                "this is a defect of gregw: please report it together with the file",
            ))
        })
    }
}
