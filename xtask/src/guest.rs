//! Guests: other kernels in emulated PCs that run programs of the host. Tier 5 and `bench --check --kernel` use them.
//!
//! A guest is booted from an initial RAM file system that holds all it needs; its process 1 is `gre-guest` of the tests
//! crate, which runs [`Job`]s one after the other, reports what they print, and switches the guest off.

pub(crate) mod archive;
mod emulator;
mod image;
mod modules;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use self::{archive::Kernel, image::Image};
use crate::{build, command};

/// Programs of the host that tests call, and the one by which a kernel loads modules.
const TOOLS: [&str; 6] = ["bpftool", "ethtool", "ip", "modprobe", "ping", "tc"];
/// Where they are in a guest.
const TOOL_DIRECTORY: &str = "usr/sbin";

/// Something for a guest to run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Job {
    /// Name of a program of [`Programs`].
    pub(crate) program: String,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(String, String)>,
}

/// What a guest reports.
pub(crate) enum News<'a> {
    /// The job of this number begins.
    Begun(usize),
    /// It has printed a line.
    Printed(&'a str),
    /// It has ended with this status; `None`: by a signal.
    Ended(Option<i32>),
}

/// Built programs as guests get them, in a file that all guests share.
pub(crate) struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Collects programs of the host, each with its name in guests.
    pub(crate) fn collect(programs: &[(&str, &Path)]) -> Result<Self> {
        let directory = build::target_directory()?.join("guests");
        fs::create_dir_all(&directory)?;
        let mut image = Image::create(&directory.join("programs.cpio"))?;
        let init = build::target_directory()?.join("debug/gre-guest");
        image.add_program(&init, Path::new("init"))?;
        for tool in TOOLS {
            let path = command::find(tool)
                .with_context(|| format!("{tool} is missing; `cargo xtask setup` installs it"))?;
            image.add_program(&path, &Path::new(TOOL_DIRECTORY).join(tool))?;
        }
        for (name, path) in programs {
            image.add_program(path, &Path::new(TOOL_DIRECTORY).join(name))?;
        }
        image.finish()?;
        Ok(Self { directory })
    }

    /// Boots a kernel, runs the jobs, and tells all that happens.
    ///
    /// # Errors
    /// If the guest does not boot, hangs, or ends before all jobs have.
    pub(crate) fn run(
        &self,
        kernel: &Kernel,
        jobs: &[Job],
        mut news: impl FnMut(News<'_>),
    ) -> Result<()> {
        let path = |what: &str| self.directory.join(format!("{}.{what}", kernel.release));
        let (own, whole) = (path("own.cpio"), path("cpio"));
        let mut image = Image::create(&own)?;
        image.add_tree(&kernel.root())?;
        image.add_text(&serde_json::to_string(jobs)?, Path::new("jobs.json"))?;
        image.finish()?;
        image::join(&[&self.directory.join("programs.cpio"), &own], &whole)?;
        let mut ended = 0;
        let mut failure = None;
        let run = emulator::run(
            &kernel.image(),
            &whole,
            &path("console"),
            |line| match News::parse(line) {
                Some(event) => {
                    ended += usize::from(matches!(event, News::Ended(_)));
                    news(event);
                }
                None => failure = Some(line.to_owned()),
            },
        );
        for file in [own, whole] {
            fs::remove_file(file)?;
        }
        run.with_context(|| format!("kernel {}", kernel.release))?;
        if let Some(line) = failure {
            bail!("the guest of kernel {} says: {line}", kernel.release);
        }
        ensure!(
            ended == jobs.len(),
            "the guest of kernel {} ended after {ended} of {} jobs; its console:\n{}",
            kernel.release,
            jobs.len(),
            fs::read_to_string(path("console")).unwrap_or_default()
        );
        Ok(())
    }
}

impl<'a> News<'a> {
    /// Reads a line of the report as `gre-guest` writes it; `None` is an error of the guest's own.
    fn parse(line: &'a str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "begin" => Some(Self::Begun(rest.parse().ok()?)),
            "|" => Some(Self::Printed(rest)),
            "end" => Some(Self::Ended(rest.parse().ok())),
            _ => None,
        }
    }
}
