//! A git revision beside the working tree: checked out and built below `target/against`, for `cargo xtask bench --against`.
//!
//! All revisions share one checkout and its artefacts, so that the next one builds only what differs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{build, command};

/// A commit of this repository.
pub(crate) struct Revision {
    /// Its shortest name that is unique.
    pub(crate) hash: String,
}

impl Revision {
    /// The commit that git knows by this name: a hash, a branch, `HEAD~3`.
    pub(crate) fn find(name: &str) -> Result<Self> {
        let commit = format!("{name}^{{commit}}");
        let mut git = git(gre_build::workspace());
        git.args([
            "rev-parse",
            "--verify",
            "--quiet",
            "--short",
            "--end-of-options",
        ]);
        match answer(git.arg(&commit)) {
            Ok(hash) => Ok(Self { hash }),
            Err(_) => bail!("git knows no revision {name}; `git log --oneline` lists them"),
        }
    }

    /// Builds its gregw as a plain `cargo build` does and returns where it lies.
    pub(crate) fn build(&self) -> Result<PathBuf> {
        let tree = build::target_directory()?.join("against");
        self.check_out(&tree)
            .with_context(|| format!("cannot check out {} in {}", self.hash, tree.display()))?;
        let target = tree.join("target");
        let mut cargo = command::cargo();
        cargo
            .current_dir(&tree)
            .args(["build", "--package", "gre-userspace", "--bin", "gregw"])
            .arg("--target-dir")
            .arg(&target);
        command::run(&mut cargo).with_context(|| format!("cannot build {}", self.hash))?;
        Ok(target.join("debug/gregw"))
    }

    fn check_out(&self, tree: &Path) -> Result<()> {
        if is_worktree(tree)? {
            let mut git = git(tree);
            return command::run(
                git.args(["checkout", "--quiet", "--force", "--detach", &self.hash]),
            );
        }
        // What came with a copied target directory would change the repository that it belongs to.
        if tree.exists() {
            fs::remove_dir_all(tree)?;
        }
        let mut git = git(gre_build::workspace());
        git.args(["worktree", "add", "--quiet", "--force", "--detach"]);
        command::run(git.arg(tree).arg(&self.hash))
    }
}

/// Whether this repository has a worktree there, and it has not been removed.
fn is_worktree(tree: &Path) -> Result<bool> {
    if !tree.join(".git").exists() {
        return Ok(false);
    }
    let mut git = git(gre_build::workspace());
    let list = answer(git.args(["worktree", "list", "--porcelain"]))?;
    let line = format!("worktree {}", fs::canonicalize(tree)?.display());
    Ok(list.lines().any(|found| found == line))
}

fn git(directory: &Path) -> Command {
    let mut git = command::command("git");
    git.current_dir(directory);
    git
}

/// What a command prints, without the line's end.
fn answer(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot run git")?;
    if !output.status.success() {
        bail!(
            "{} failed: {}",
            command::readable(command),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
