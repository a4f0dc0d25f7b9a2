//! The file system of a guest: programs of the host with the libraries that they name, as one initial RAM file system.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cpio::newc;

use crate::command;

/// Directories that processes expect.
const DIRECTORIES: [&str; 8] = ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var"];

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;

/// Files of a guest by their paths in it, without the leading slash.
pub(super) struct Image<W: Write> {
    out: W,
    directories: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
    inodes: u32,
}

impl Image<BufWriter<File>> {
    /// Begins an image in the file at `path`.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut image = Self::new(BufWriter::new(file));
        DIRECTORIES
            .iter()
            .try_for_each(|directory| image.add_directory(Path::new(directory)))?;
        Ok(image)
    }
}

impl<W: Write> Image<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            directories: BTreeSet::new(),
            files: BTreeSet::new(),
            inodes: 0,
        }
    }

    /// Adds a program of the host, without its debug information, and the libraries that it is linked with.
    pub(super) fn add_program(&mut self, host: &Path, guest: &Path) -> Result<()> {
        for library in libraries(host)? {
            let guest = library.strip_prefix("/").unwrap_or(&library);
            self.add_file(&fs::read(&library)?, guest, PROGRAM)?;
        }
        self.add_file(&stripped(host)?, guest, PROGRAM)
    }

    /// Adds text.
    pub(super) fn add_text(&mut self, text: &str, guest: &Path) -> Result<()> {
        self.add_file(text.as_bytes(), guest, PLAIN)
    }

    /// Adds all that lies below a directory of the host, at the same places.
    pub(super) fn add_tree(&mut self, host: &Path) -> Result<()> {
        self.add_below(host, Path::new(""))
    }

    /// Ends the image.
    pub(super) fn finish(self) -> Result<()> {
        newc::trailer(self.out)?.flush()?;
        Ok(())
    }

    fn add_below(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let entries =
            fs::read_dir(host).with_context(|| format!("cannot read {}", host.display()))?;
        for entry in entries {
            let entry = entry?;
            let guest = guest.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.add_below(&entry.path(), &guest)?;
            } else {
                self.add_file(&fs::read(entry.path())?, &guest, PLAIN)?;
            }
        }
        Ok(())
    }

    /// Adds a file once, after the directories that it lies in.
    fn add_file(&mut self, content: &[u8], guest: &Path, mode: u32) -> Result<()> {
        if !self.files.insert(guest.to_path_buf()) {
            return Ok(());
        }
        if let Some(parent) = guest.parent() {
            self.add_directory(parent)?;
        }
        self.write(guest, mode, content)
    }

    fn add_directory(&mut self, guest: &Path) -> Result<()> {
        let mut ancestors: Vec<&Path> = guest
            .ancestors()
            .filter(|path| *path != Path::new(""))
            .collect();
        ancestors.reverse();
        for directory in ancestors {
            if self.directories.insert(directory.to_path_buf()) {
                self.write(directory, DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    fn write(&mut self, guest: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.inodes += 1;
        let name = guest.to_str().context("paths in a guest are UTF-8")?;
        let length = u32::try_from(content.len())?;
        let mut entry = newc::Builder::new(name)
            .ino(self.inodes)
            .mode(mode)
            .write(&mut self.out, length);
        entry.write_all(content)?;
        entry.finish()?;
        Ok(())
    }
}

/// The shared libraries that the loader would load, and the loader itself; none of a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = command::command("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", program.display(), missing.trim());
    }
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words
        .map(|word| PathBuf::from(word.trim_end_matches(':')))
        .collect())
}

fn stripped(program: &Path) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("stripped");
    fs::copy(program, &path).with_context(|| format!("cannot read {}", program.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    command::run_quietly(command::command("strip").arg(&path))?;
    Ok(fs::read(&path)?)
}

/// Writes images one behind the other: the kernel unpacks them in turn.
pub(super) fn join(parts: &[&Path], path: &Path) -> Result<()> {
    let mut out = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    for part in parts {
        io::copy(&mut File::open(part)?, &mut out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_once_and_behind_its_directories() {
        let mut image = Image::new(Vec::new());
        for _ in 0..2 {
            image
                .add_text("hello", Path::new("a/b/c"))
                .expect("it is written");
        }
        image
            .add_text("hello", Path::new("a/d"))
            .expect("it is written");
        let bytes = newc::trailer(image.out).expect("it ends");
        let mut names = Vec::new();
        let mut rest = &bytes[..];
        loop {
            let reader = newc::Reader::new(rest).expect("an archive");
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_owned());
            rest = reader.finish().expect("an entry");
        }
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/d"]);
    }
}
