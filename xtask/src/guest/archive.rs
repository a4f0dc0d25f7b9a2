//! Kernels of Debian's archive with the modules that tests need, in a cache outside the workspace.
//!
//! apt fetches them with package lists of its own, so that nothing of the host's changes. Holds: what is in the cache is
//! complete; a kernel that is there is not fetched again, and the list of what the archive has is a week old at most
//! wherever the archive can be reached.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use super::modules;
use crate::{budget::Series, command};

/// Where Debian's kernels of all ages are; suites that a mirror no longer has are passed over.
const SUITES: [&str; 5] = ["bullseye", "bookworm", "trixie", "trixie-backports", "sid"];
/// The same of the security archive, whose kernels are newer.
const SECURITY_SUITES: [&str; 3] = ["bullseye-security", "bookworm-security", "trixie-security"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Names the archive where the host's own sources are not Debian's.
const MIRROR: &str = "GREGW_DEBIAN_MIRROR";
/// How long the list of packages is good for.
const LIST_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// `6.1.0-57-amd64`
    pub(crate) release: String,
    directory: PathBuf,
}

/// Which kernel is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The newest of a series.
    Series(Series),
    /// The newest of all.
    Newest,
}

/// The cache and what the archive has.
pub(crate) struct Archive {
    cache: PathBuf,
    /// Names of all packages whose names begin with `linux-`.
    packages: BTreeSet<String>,
    /// Whether they were asked for just now.
    is_fresh: bool,
}

impl Kernel {
    /// The kernel's image, as a boot loader takes it.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The directory that stands for `/` above its `lib/modules`.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }
}

impl Archive {
    /// Opens the cache and looks at what the archive has.
    ///
    /// # Errors
    /// If there is neither an archive nor a list of it from earlier.
    pub(crate) fn open() -> Result<Self> {
        let cache = cache_directory()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let list = cache.join("packages");
        let is_fresh = !is_recent(&list);
        if is_fresh && let Err(error) = refresh(&cache, &list) {
            if !list.exists() {
                return Err(error);
            }
            eprintln!("xtask: {error:#}; going on with the kernels that are known from earlier");
        }
        Ok(Self {
            packages: packages(&list)?,
            cache,
            is_fresh,
        })
    }

    /// The kernel, out of the cache or fetched.
    ///
    /// # Errors
    /// If the archive has none such, or cannot be reached.
    pub(crate) fn kernel(&mut self, choice: &Choice) -> Result<Kernel> {
        let found = self.find(choice);
        if found.is_ok() || self.is_fresh {
            return found;
        }
        // What the list names may have been replaced by something newer.
        self.is_fresh = true;
        let list = self.cache.join("packages");
        refresh(&self.cache, &list)?;
        self.packages = packages(&list)?;
        self.find(choice)
    }

    fn find(&self, choice: &Choice) -> Result<Kernel> {
        let mut releases: Vec<&str> = self
            .packages
            .iter()
            .filter_map(|package| release_of(package))
            .collect();
        releases.retain(|release| choice.admits(release));
        releases.sort_by_key(|release| Reverse(numbers(release)));
        let newest = releases
            .first()
            .with_context(|| format!("Debian's archive has no kernel {choice}"))?;
        if let Some(kernel) = self.cached(newest) {
            return Ok(kernel);
        }
        self.fetch(newest).or_else(|error| {
            // An older one of its series is as good for most purposes.
            let series = Series::of_release(newest);
            let mut older = releases
                .iter()
                .filter(|release| Series::of_release(release) == series);
            let kernel = older.find_map(|release| self.cached(release));
            kernel
                .inspect(|kernel| eprintln!("xtask: {error:#}; taking {}", kernel.release))
                .ok_or(error)
        })
    }

    fn cached(&self, release: &str) -> Option<Kernel> {
        let directory = self.cache.join(release);
        directory.exists().then(|| Kernel {
            release: release.to_owned(),
            directory,
        })
    }

    /// Fetches into a directory of its own, so that the cache never holds half a kernel, whoever else fetches it.
    fn fetch(&self, release: &str) -> Result<Kernel> {
        let directory = tempfile::Builder::new()
            .prefix("fetching-")
            .tempdir_in(&self.cache)?;
        let names = ["image", "binary", "modules"].map(|part| format!("linux-{part}-{release}"));
        let packages = names.iter().filter(|name| self.packages.contains(*name));
        let mut download = apt(&self.cache, "apt-get");
        download
            .arg("download")
            .args(packages)
            .current_dir(directory.path());
        command::run(&mut download)?;
        let unpacked = directory.path().join("unpacked");
        unpack(directory.path(), &unpacked)?;
        let kernel = directory.path().join("kernel");
        keep(&unpacked, &kernel, release)
            .with_context(|| format!("the package of kernel {release} is not as it should be"))?;
        if let Err(error) = fs::rename(&kernel, self.cache.join(release)) {
            // Somebody else may have been quicker.
            return self.cached(release).ok_or_else(|| error.into());
        }
        self.cached(release)
            .with_context(|| format!("kernel {release} has gone from the cache"))
    }
}

impl Choice {
    fn admits(&self, release: &str) -> bool {
        match self {
            Self::Series(series) => Series::of_release(release) == *series,
            Self::Newest => true,
        }
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Series(series) => series.fmt(formatter),
            Self::Newest => formatter.write_str("newest"),
        }
    }
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "newest" => Ok(Self::Newest),
            series => Ok(Self::Series(series.parse()?)),
        }
    }
}

/// Unpacks all packages of a directory.
fn unpack(packages: &Path, unpacked: &Path) -> Result<()> {
    for entry in fs::read_dir(packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = command::command("dpkg-deb");
            command::run_quietly(unpack.arg("-x").arg(&path).arg(unpacked))?;
        }
    }
    Ok(())
}

/// Takes image and modules out of the unpacked packages into a new directory.
fn keep(unpacked: &Path, kernel: &Path, release: &str) -> Result<()> {
    fs::create_dir(kernel)?;
    let in_usr = unpacked.join("usr/lib/modules").join(release);
    let base = if in_usr.exists() {
        unpacked.join("usr")
    } else {
        unpacked.to_path_buf()
    };
    let images = [
        unpacked.join("boot").join(format!("vmlinuz-{release}")),
        in_usr.join("vmlinuz"),
    ];
    let image = images
        .iter()
        .find(|path| path.exists())
        .context("it holds no vmlinuz")?;
    fs::rename(image, kernel.join("vmlinuz"))?;
    modules::select(&base, release, &kernel.join("root"))
}

/// The release in the name of a package with an ordinary kernel: none for the cloud, and no real-time one.
fn release_of(package: &str) -> Option<&str> {
    let release = package.strip_prefix("linux-image-")?;
    let version = release.strip_suffix("-amd64")?;
    let is_ordinary = ["cloud", "rt", "unsigned"]
        .iter()
        .all(|other| !version.contains(other));
    // Two numbers alone are a package that only depends on the newest of a series.
    (is_ordinary && numbers(version).len() > 2).then_some(release)
}

/// The numbers in a version, in their order.
fn numbers(version: &str) -> Vec<u32> {
    let words = version.split(|character: char| !character.is_ascii_digit());
    words.filter_map(|digits| digits.parse().ok()).collect()
}

fn cache_directory() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let base = base.context("neither XDG_CACHE_HOME nor HOME says where a cache may be")?;
    Ok(base.join("gregw/kernels"))
}

fn is_recent(list: &Path) -> bool {
    let modified = fs::metadata(list).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| {
        SystemTime::now()
            .duration_since(at)
            .is_ok_and(|age| age < LIST_AGE)
    })
}

fn packages(list: &Path) -> Result<BTreeSet<String>> {
    let names =
        fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Asks the archive what it has.
fn refresh(cache: &Path, list: &Path) -> Result<()> {
    if command::find("apt-get").is_none() {
        bail!("kernels of other ages come from Debian's archive by apt-get, which is not here");
    }
    let (main, security) = mirrors()?;
    let mut sources = String::new();
    let suites = SUITES.map(|suite| (&main, suite)).into_iter();
    let security_suites = SECURITY_SUITES
        .iter()
        .filter_map(|suite| Some((security.as_ref()?, *suite)));
    for (mirror, suite) in suites.chain(security_suites) {
        sources += &format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n");
    }
    let directory = cache.join("apt");
    fs::create_dir_all(directory.join("lists/partial"))?;
    fs::create_dir_all(directory.join("archives/partial"))?;
    fs::write(directory.join("sources.list"), sources)?;
    let setting =
        |name: &str, file: &str| format!("{name} \"{}\";\n", directory.join(file).display());
    let configuration = [
        setting("Dir::Etc::SourceList", "sources.list"),
        setting("Dir::State::Lists", "lists"),
        setting("Dir::Cache", "."),
        "Dir::Etc::SourceParts \"/dev/null\";\nDir::Etc::Preferences \"/dev/null\";\n".to_owned(),
        "Dir::Etc::PreferencesParts \"/dev/null\";\nAcquire::Languages \"none\";\n".to_owned(),
        // Its own user may not look into a home directory.
        "APT::Sandbox::User \"root\";\n".to_owned(),
    ];
    fs::write(directory.join("apt.conf"), configuration.concat())?;
    // Fails as a whole if one suite is no longer there.
    let updated = command::run(apt(cache, "apt-get").arg("update"));
    let names = apt(cache, "apt-cache")
        .args(["pkgnames", "linux-"])
        .output()?;
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    if !names.lines().any(|name| release_of(name).is_some()) {
        updated?;
        bail!("Debian's archive at {main} lists no kernel");
    }
    fs::write(list, names).with_context(|| format!("cannot write {}", list.display()))
}

/// Debian's archive and its security archive, as the host's own sources name them.
fn mirrors() -> Result<(String, Option<String>)> {
    if let Ok(mirror) = env::var(MIRROR) {
        return Ok((mirror, None));
    }
    let targets = command::command("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(RELEASE) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .output()
        .context("cannot run apt-get")?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let of_debian = || {
        targets
            .lines()
            .filter_map(|line| line.strip_prefix("Debian ")?.split_once(' '))
    };
    let find = |is_security: bool| {
        let mut found =
            of_debian().filter(|(suite, _)| suite.ends_with("-security") == is_security);
        found
            .next()
            .map(|(_, mirror)| mirror.trim_end_matches('/').to_owned())
    };
    let main = find(false).with_context(|| {
        format!("apt's sources do not name Debian's archive: set {MIRROR} to the address of one")
    })?;
    Ok((main, find(true)))
}

fn apt(cache: &Path, program: &str) -> Command {
    debug_assert!(geteuid().is_root(), "only root gets here");
    let mut apt = command::command(program);
    apt.env("APT_CONFIG", cache.join("apt/apt.conf"));
    apt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(packages: &[&str]) -> Archive {
        Archive {
            cache: PathBuf::from("/nonexistent"),
            packages: packages
                .iter()
                .map(|package| (*package).to_owned())
                .collect(),
            is_fresh: true,
        }
    }

    #[test]
    fn only_ordinary_kernels_count() {
        let packages = [
            "linux-image-6.1-amd64",
            "linux-image-6.1.0-57-amd64",
            "linux-image-6.1.0-57-cloud-amd64",
            "linux-image-6.1.0-57-rt-amd64",
            "linux-image-6.1.0-57-amd64-unsigned",
            "linux-image-amd64",
            "linux-headers-6.1.0-57-amd64",
        ];
        let releases: Vec<&str> = packages.into_iter().filter_map(release_of).collect();
        assert_eq!(releases, ["6.1.0-57-amd64"]);
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("6.12.117+deb13-amd64") > numbers("6.12.95+deb13-amd64"));
        assert!(numbers("6.1.0-57-amd64") > numbers("6.1.0-0.deb11.52-amd64"));
        assert!(numbers("7.2.13+deb14-amd64") > numbers("6.19.14+deb13-amd64"));
    }

    #[test]
    fn a_series_that_the_archive_does_not_have_is_named() {
        let choice = "6.2".parse().expect("a series");
        let mut archive = archive(&["linux-image-6.1.0-57-amd64"]);
        let error = archive.kernel(&choice);
        assert_eq!(
            error.expect_err("there is none").to_string(),
            "Debian's archive has no kernel 6.2"
        );
    }
}
