//! The fuzz targets: functions from arbitrary bytes that panic when a claim about the packet code does not hold.
//!
//! `tests/replay.rs` runs each over its corpus, `src/main.rs` under the fuzzing engine. A new target is a module and a
//! line in [`TARGETS`]; its corpus is `corpus/NAME/`.

mod frame;
mod gre_header;
mod pipeline;

use std::path::{Path, PathBuf};

/// One fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name on the command line, and its corpus directory.
    pub name: &'static str,
    /// Panics if the bytes show an error.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 3] = [
    Target {
        name: "frame",
        run: frame::run,
    },
    Target {
        name: "gre_header",
        run: gre_header::run,
    },
    Target {
        name: "pipeline",
        run: pipeline::run,
    },
];

impl Target {
    /// The target called `name`.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Where its committed inputs lie: interesting ones, and all that ever failed.
    #[must_use]
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }
}
