//! Which kernel runs, and whether gregw runs on it.
//!
//! The daemon asks before it makes anything, `gregw check` to warn. What the verifier makes of the program is another
//! question, which loading answers.

use gre_common::limits::OLDEST_KERNEL;
use nix::sys::utsname::uname;

use crate::error::{Error, Result};

/// The release of the kernel that runs, as `uname -r` prints it.
pub fn release() -> Result<String> {
    let names =
        uname().map_err(|errno| Error::system("find out which kernel this machine runs", errno))?;
    Ok(names.release().to_string_lossy().into_owned())
}

/// Makes sure that the kernel is not older than [`OLDEST_KERNEL`].
///
/// # Errors
/// [`Error::OldKernel`].
pub fn check_version() -> Result<()> {
    let release = release()?;
    if is_old(&release) {
        return Err(Error::OldKernel { release });
    }
    Ok(())
}

/// A release that cannot be read is not called old: what the kernel lacks will show.
fn is_old(release: &str) -> bool {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    (major, minor) < OLDEST_KERNEL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_first_two_numbers() {
        for release in ["5.10.0-46-amd64", "4.19.0", "6.0.12", "5.19"] {
            assert!(is_old(release), "{release}");
        }
        for release in ["6.1.0-57-amd64", "6.12.117+deb13-amd64", "7.2.13", "10.0.1"] {
            assert!(!is_old(release), "{release}");
        }
    }

    #[test]
    fn a_release_in_a_form_of_its_own_is_not_called_old() {
        assert!(!is_old("rolling"));
    }
}
