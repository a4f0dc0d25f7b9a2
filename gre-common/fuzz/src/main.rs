//! Runs one target, named by `GRE_FUZZ_TARGET`, under libFuzzer, whose arguments are the program's. Called by
//! `cargo xtask fuzz`, which instruments it for coverage.
#![no_main]

use std::{env, sync::LazyLock};

use gre_fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = env::var("GRE_FUZZ_TARGET").expect("GRE_FUZZ_TARGET names the target");
    Target::find(&name).unwrap_or_else(|| panic!("there is no fuzz target {name}"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
