//! What the build script of a crate that embeds a BPF object does: compile it, put it into `OUT_DIR`, and run again
//! only when its sources, or the choice of its compiler, have changed.

use std::{env, fs, path::PathBuf};

use crate::{Error, Object, compile, target_directory, workspace};

/// Compiles `object` and copies it to `$OUT_DIR/<binary>.bpf.o`, from where the crate includes it.
///
/// # Errors
/// Those of [`compile`]; [`Error::NoBuildScript`] outside a build script.
pub fn embed(object: &Object) -> Result<(), Error> {
    watch(object);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(Error::NoBuildScript)?);
    let compiled = compile(object, &target_directory(&out))?;
    let embedded = out.join(format!("{}.bpf.o", object.binary));
    fs::copy(&compiled, &embedded).map_err(|source| Error::Io {
        action: "write",
        path: embedded,
        source,
    })?;
    Ok(())
}

fn watch(object: &Object) {
    let packages = object.directories.iter().chain(&["gre-build"]);
    let sources = packages
        .flat_map(|directory| {
            ["Cargo.toml", "src"].map(|source| workspace().join(directory).join(source))
        })
        .chain(["Cargo.toml", "Cargo.lock"].map(|source| workspace().join(source)));
    for source in sources {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    for variable in ["CARGO_HOME", "RUSTUP_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
}
