//! Compiles the XDP program and puts the object where the crate embeds it from: `$OUT_DIR/gregw.bpf.o`. Runs again
//! only when the sources of the program, or the choice of its compiler, have changed.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    for source in gre_build::SOURCES {
        println!(
            "cargo::rerun-if-changed={}",
            gre_build::workspace().join(source).display()
        );
    }
    for variable in ["CARGO_HOME", "RUSTUP_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(
        env::var_os("OUT_DIR").context("OUT_DIR is not set: run this through cargo")?,
    );
    let object = gre_build::compile(&gre_build::target_directory(&out))?;
    let embedded = out.join("gregw.bpf.o");
    fs::copy(&object, &embedded)
        .with_context(|| format!("cannot copy {} to {}", object.display(), embedded.display()))?;
    Ok(())
}
