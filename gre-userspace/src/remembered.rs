//! What a daemon leaves to the next one of its instance, beside the data plane itself: ids, peering states, and what
//! must not change while peerings stand.
//!
//! Written by the gateway before each change of the data plane; a file that is missing or not understood means a fresh
//! start.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::config::Standing;
use crate::error::{Error, Result};
use crate::files;
use crate::instance::Instance;
use crate::peering::States;
use crate::plan::Ids;

/// Contents of `/run/gregw/<instance>.state.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// Which name has which id.
    pub(crate) ids: Ids,
    /// The states of peerings.
    pub(crate) peerings: States,
    /// What binds the next configuration. An older daemon leaves none.
    #[serde(default)]
    pub(crate) standing: Standing,
}

impl Remembered {
    /// Reads what the last daemon left, if it did.
    pub(crate) fn load(instance: &Instance) -> Option<Self> {
        let path = instance.state();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("cannot read {}: {error}; ids start anew", path.display());
                return None;
            }
        };
        serde_json::from_slice(&text)
            .inspect_err(|error| {
                tracing::warn!(
                    "{} is not understood: {error}; ids start anew",
                    path.display()
                );
            })
            .ok()
    }

    /// Replaces the file at once, or leaves it as it is: on a full disk nothing is left aside.
    pub(crate) fn save(&self, instance: &Instance) -> Result<()> {
        let path = instance.state();
        let aside = instance.next_state();
        let text = serde_json::to_vec(self)
            .map_err(|source| Error::file("write", &aside, io::Error::from(source)))?;
        fs::write(&aside, text).map_err(|source| {
            let _ = fs::remove_file(&aside);
            Error::file("write", &aside, source)
        })?;
        fs::rename(&aside, &path).map_err(|source| Error::file("replace", &path, source))
    }

    /// Removes the file, and what a daemon that was killed while writing it has left.
    pub(crate) fn remove(instance: &Instance) -> Result<()> {
        files::remove(&instance.state())?;
        files::remove(&instance.next_state())
    }
}
