//! Runs the inner cargo that compiles a BPF object and says where it lies.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, Object, Toolchain, linker, workspace};

const TARGET: &str = "bpfel-unknown-none";
/// The profile of the workspace's `Cargo.toml` for what the kernel loads.
const PROFILE: &str = "ebpf";

/// Variables of the caller that the inner cargo may see. All others, above all `RUSTFLAGS`, `RUSTUP_TOOLCHAIN`,
/// compiler wrappers and what cargo and rustup set for their children, are meant for the host build.
const INHERITED: [&str; 13] = [
    "ALL_PROXY",
    "CARGO_HOME",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "NO_PROXY",
    "RUSTUP_HOME",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TMPDIR",
    "USER",
];
const INHERITED_PREFIXES: [&str; 5] = [
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];

/// Compiles `object` below `target_directory` (the workspace's `target`) and returns its path. The inner build has a target directory of its own in there: it shares neither lock nor artefacts with the outer one, and
/// all host profiles share it.
///
/// # Errors
/// [`Error`] if the toolchain is incomplete or the code does not compile; compiler messages go to standard error.
pub fn compile(object: &Object, target_directory: &Path) -> Result<PathBuf, Error> {
    let directory = target_directory.join("bpf");
    let mut command = command(object, &Toolchain::find()?, &linker::find()?, &directory);
    let status = command.status().map_err(|source| Error::Io {
        action: "run",
        path: command.get_program().into(),
        source,
    })?;
    if !status.success() {
        return Err(Error::Compile {
            command: readable(&command),
        });
    }
    Ok(directory.join(TARGET).join(PROFILE).join(object.binary))
}

/// The target directory that `inside` (the `OUT_DIR` of a build script, or a built program) lies in: cargo marks it
/// with a `CACHEDIR.TAG`. Falls back to the workspace's own `target`.
#[must_use]
pub fn target_directory(inside: &Path) -> PathBuf {
    inside
        .ancestors()
        .find(|ancestor| ancestor.join("CACHEDIR.TAG").exists())
        .map_or_else(|| workspace().join("target"), Path::to_path_buf)
}

fn command(object: &Object, toolchain: &Toolchain, linker: &Path, directory: &Path) -> Command {
    let mut command = Command::new(toolchain.cargo());
    command
        .args([
            "build",
            "--locked",
            "--package",
            object.package,
            "--bin",
            object.binary,
        ])
        .args([
            "--profile",
            PROFILE,
            "--target",
            TARGET,
            "-Z",
            "build-std=core",
        ])
        .arg("--target-dir")
        .arg(directory)
        .current_dir(workspace())
        .stdin(Stdio::null())
        .env_clear()
        .envs(env::vars_os().filter(|(name, _)| is_inherited(&name.to_string_lossy())))
        .env("PATH", search_path(toolchain))
        .env("RUSTC", toolchain.rustc())
        // Unstable options (`-Z build-std`) also on a compiler of the stable channel.
        .env("RUSTC_BOOTSTRAP", "1")
        // Set and empty: also overrides a wrapper of the user's cargo configuration.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(linker));
    command
}

fn is_inherited(name: &str) -> bool {
    INHERITED
        .iter()
        .any(|inherited| name.eq_ignore_ascii_case(inherited))
        || INHERITED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// The toolchain's own programs before rustup's proxies.
fn search_path(toolchain: &Toolchain) -> OsString {
    let outer = env::var_os("PATH").unwrap_or_default();
    let own = toolchain.cargo().parent().map(Path::to_path_buf);
    env::join_paths(own.into_iter().chain(env::split_paths(&outer))).unwrap_or(outer)
}

fn rust_flags(linker: &Path) -> OsString {
    let mut flags = OsString::from("-Clinker=");
    flags.push(linker);
    for argument in linker::ARGUMENTS {
        flags.push("\x1f-Clink-arg=");
        flags.push(argument);
    }
    flags
}

fn readable(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}
