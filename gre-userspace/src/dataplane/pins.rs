//! Where a data plane lives on bpffs: `/sys/fs/bpf/gregw/<instance>/{maps,links,progs}/`.
//!
//! Links keep the program attached when the daemon ends; maps and program are pinned for tools. Maps of a new
//! generation are pinned aside and take the place of the old ones only once the new program runs.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::links::{FdLink, PinnedLink};
use aya_obj::programs::XdpAttachType;
use gre_common::id::IfIndex;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;

use super::load;
use crate::capability;
use crate::error::{Error, Result};
use crate::files;
use crate::instance::Instance;
use crate::object::GATEWAY;

const BPFFS: &str = "/sys/fs/bpf";

/// The directory of one instance.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// The directory of `instance`, which need not exist.
    pub(super) fn new(instance: &Instance) -> Self {
        Self {
            directory: Path::new(BPFFS).join("gregw").join(instance.name()),
        }
    }

    /// The other instance that holds a device by this program.
    pub(super) fn other_holder(&self, device: IfIndex, program: u32) -> Option<String> {
        let instances = fs::read_dir(self.directory.parent()?).ok()?.flatten();
        instances
            .map(|entry| entry.path())
            .filter(|directory| *directory != self.directory)
            .find(|directory| {
                let pins = Self {
                    directory: directory.clone(),
                };
                let link = PinnedLink::from_pin(pins.link(device));
                let info = link.and_then(|link| FdLink::from(link).info());
                info.is_ok_and(|info| info.program_id() == program)
            })
            .and_then(|directory| Some(directory.file_name()?.to_str()?.to_owned()))
    }

    /// Mounts bpffs if nobody has, creates the directories, and ends what a killed daemon had begun.
    ///
    /// # Errors
    /// [`Error::ForeignPins`]: somebody else could take the program off its devices.
    pub(super) fn create(&self) -> Result<()> {
        mount_bpffs()?;
        let instances = self.directory.parent().map(Path::to_path_buf);
        let directories = instances.into_iter().chain([self.directory.clone()]);
        let directories: Vec<PathBuf> = directories.chain(self.children()).collect();
        let check_owners = || directories.iter().try_for_each(|path| check_owner(path));
        check_owners()?;
        self.finish_replacing_maps()?;
        for directory in [self.links(), self.programs()] {
            create_directory(&directory)?;
        }
        // Somebody may have been quicker.
        check_owners()
    }

    /// Whether anything of the instance is pinned.
    pub(super) fn exist(&self) -> bool {
        self.directory.exists()
    }

    /// The pinned links, by the interface index they were made for; the device may be another one by now.
    pub(super) fn pinned_links(&self) -> Result<Vec<(IfIndex, FdLink)>> {
        let entries = match fs::read_dir(self.links()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::file("list", self.links(), source)),
        };
        let mut links = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| Error::file("list", self.links(), source))?;
            let Some(index) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let link = PinnedLink::from_pin(entry.path()).map_err(|source| {
                Error::bpf(format!("open link {}", entry.path().display()), source)
            })?;
            links.push((IfIndex(index), FdLink::from(link)));
        }
        Ok(links)
    }

    /// Keeps a link beyond the process.
    pub(super) fn pin_link(&self, device: IfIndex, link: FdLink) -> Result<FdLink> {
        let path = self.link(device);
        link.pin(&path)
            .map(FdLink::from)
            .map_err(|source| Error::bpf(format!("pin link {}", path.display()), source))
    }

    /// Forgets a link; it ends once its last descriptor is closed.
    pub(super) fn unpin_link(&self, device: IfIndex) -> Result<()> {
        files::remove(&self.link(device))
    }

    /// Pins the maps of a new generation aside.
    pub(super) fn stage_maps(&self, ebpf: &Ebpf) -> Result<()> {
        let directory = self.staged_maps();
        remove_directory(&directory)?;
        create_directory(&directory)?;
        for (name, map) in ebpf.maps() {
            // Sections for constants have dots in their names, which bpffs does not allow.
            if !name.contains('.') {
                map.pin(directory.join(name))
                    .map_err(|source| Error::bpf(format!("pin map {name}"), source))?;
            }
        }
        Ok(())
    }

    /// Puts the staged maps and the programs in the place of those of the last generation.
    pub(super) fn publish(&self, ebpf: &mut Ebpf) -> Result<()> {
        if self.maps().exists() {
            rename(&self.maps(), &self.old_maps())?;
        }
        rename(&self.staged_maps(), &self.maps())?;
        remove_directory(&self.old_maps())?;
        for name in load::PROGRAMS {
            let path = self.programs().join(name);
            files::remove(&path)?;
            load::program(ebpf, name)?
                .pin(&path)
                .map_err(|source| Error::bpf(format!("pin program {}", path.display()), source))?;
        }
        Ok(())
    }

    /// Does what is left of [`Pins::publish`] if a daemon was killed amid it: from the moment on that the old maps have
    /// stepped aside, the staged ones are those that run.
    fn finish_replacing_maps(&self) -> Result<()> {
        if !self.old_maps().exists() {
            return Ok(());
        }
        if !self.maps().exists() {
            let running = if self.staged_maps().exists() {
                self.staged_maps()
            } else {
                self.old_maps()
            };
            rename(&running, &self.maps())?;
        }
        remove_directory(&self.old_maps())
    }

    /// The gateway's program as the last generation has pinned it.
    pub(super) fn pinned_gateway(&self) -> Option<Xdp> {
        Xdp::from_pin(self.programs().join(GATEWAY), XdpAttachType::Interface).ok()
    }

    /// Gives up what was staged.
    pub(super) fn discard_staged(&self) -> Result<()> {
        remove_directory(&self.staged_maps())
    }

    /// Removes everything, which detaches the program from every device unless a process holds the link open.
    pub(super) fn remove(&self) -> Result<()> {
        for directory in self.children() {
            remove_directory(&directory)?;
        }
        remove_directory(&self.directory)?;
        self.remove_empty();
        Ok(())
    }

    /// Removes the directories that hold nothing: what another generation or instance has pinned stays.
    pub(super) fn remove_empty(&self) {
        let parents = self.directory.ancestors().take(2).map(Path::to_path_buf);
        for directory in [self.links(), self.programs()].into_iter().chain(parents) {
            // A directory that is not empty is refused.
            let _ = fs::remove_dir(directory);
        }
    }

    /// All directories in the instance's, links first.
    fn children(&self) -> [PathBuf; 5] {
        [
            self.links(),
            self.staged_maps(),
            self.old_maps(),
            self.maps(),
            self.programs(),
        ]
    }

    fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    fn link(&self, device: IfIndex) -> PathBuf {
        self.links().join(device.to_string())
    }

    fn maps(&self) -> PathBuf {
        self.directory.join("maps")
    }

    /// Where a map of the generation that runs is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    fn staged_maps(&self) -> PathBuf {
        self.directory.join("maps_next")
    }

    fn old_maps(&self) -> PathBuf {
        self.directory.join("maps_old")
    }

    fn programs(&self) -> PathBuf {
        self.directory.join("progs")
    }
}

fn mount_bpffs() -> Result<()> {
    let filesystem = statfs(BPFFS).map_err(|source| Error::MissingKernelFeature {
        feature: format!("the BPF file system ({BPFFS} does not exist)"),
        help: "mount sysfs, and build the kernel with CONFIG_BPF_SYSCALL",
        source: Some(Box::new(source)),
    })?;
    if filesystem.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    capability::require_one(
        caps::Capability::CAP_SYS_ADMIN,
        "to mount bpffs at /sys/fs/bpf (or mount it before)",
    )?;
    // As systemd mounts it; without a mode everybody may write.
    let options = Some("mode=0700");
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), options)
        .map_err(|source| Error::file("mount bpffs at", BPFFS, source))?;
    if is_private_mount_namespace() {
        tracing::warn!(
            "bpffs was mounted in a mount namespace of its own: the data plane ends with it (`ip netns exec` makes \
             one; `nsenter --net=/run/netns/NAME` does not)"
        );
    }
    Ok(())
}

/// Whether this process sees other mounts than process 1.
fn is_private_mount_namespace() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let (own, first) = (namespace("self"), namespace("1"));
    own.is_some() && first.is_some() && own != first
}

/// Makes sure that a directory, if it is there, is one in which only root and this process's user may change anything.
fn check_owner(directory: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::file("look at", directory, source)),
    };
    let (owner, mode) = (metadata.uid(), metadata.mode());
    let is_ours = owner == 0 || owner == geteuid().as_raw();
    if metadata.is_dir() && is_ours && mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::ForeignPins {
        path: directory.to_owned(),
        owner,
        mode: mode & 0o7777,
    })
}

/// For this user only, with the directories above it.
fn create_directory(directory: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| Error::file("create directory", directory, source))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| Error::file("rename", from, source))
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path, source))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maps_that_run_are_found_wherever_their_publication_was_cut_off() {
        // Directories as each step leaves them; each holds a file of its own name.
        let moments: [(&[&str], &str); 6] = [
            (&["maps"], "maps"),
            (&["maps", "maps_next"], "maps"),
            (&["maps_old", "maps_next"], "maps_next"),
            (&["maps_old", "maps"], "maps"),
            (&["maps_old"], "maps_old"),
            (&["maps_next"], ""),
        ];
        for (present, running) in moments {
            let temporary = tempfile::tempdir().expect("a directory");
            let pins = Pins {
                directory: temporary.path().to_owned(),
            };
            for name in present {
                let directory = pins.directory.join(name);
                fs::create_dir(&directory).expect("created");
                fs::write(directory.join(name), "").expect("written");
            }
            pins.finish_replacing_maps().expect("renamed and removed");
            if running.is_empty() {
                assert!(!pins.maps().exists(), "{present:?}");
            } else {
                assert!(pins.map(running).exists(), "{present:?}");
            }
            assert!(!pins.old_maps().exists(), "{present:?}");
        }
    }
}
