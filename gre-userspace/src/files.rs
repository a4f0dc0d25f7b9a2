//! Removal of files that may have gone already: state, sockets, logs and pins.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// Removes a file; that there is none is no mistake.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path, source))
        }
        _ => Ok(()),
    }
}
