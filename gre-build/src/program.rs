//! Finds programs that cargo installs, by name and least version.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The path of `program` in `version` ("1.2.3") or newer: cargo's own program directory first, then `PATH`.
#[must_use]
pub fn find(program: &str, version: &str) -> Option<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    cargo_home
        .map(|home| home.join("bin"))
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join(program))
        .find(|candidate| version_of(candidate).is_some_and(|found| found >= numbers(version)))
}

/// What `PROGRAM --version` says after the program's name.
fn version_of(program: &Path) -> Option<Vec<u32>> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(numbers(text.split_whitespace().nth(1)?))
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("0.13.0") > numbers("0.9.15"));
        assert!(numbers("0.13.0") >= numbers("0.13.0"));
        assert!(numbers("1.0.0") > numbers("0.99.99"));
    }

    #[test]
    fn a_program_that_is_too_old_is_not_found() {
        assert!(find("cargo", "1.0.0").is_some());
        assert_eq!(find("cargo", "999.0.0"), None);
    }
}
