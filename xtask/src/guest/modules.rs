//! The modules of a kernel that guests need, with those that these need in turn, uncompressed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result, bail};

use crate::command;

/// What the tests' devices, tunnels and queues are made of. The kernel asks for most by itself.
const NEEDED: [&str; 12] = [
    "8021q",
    "bridge",
    "cls_bpf",
    "gre",
    "ip6_gre",
    "ip_gre",
    "sch_ingress",
    "tun",
    "veth",
    "virtio_console",
    "virtio_net",
    "vrf",
];
/// Drivers of the bus that cards and ports of guests are on.
const BUS: &str = "virtio_pci";
/// Files that `depmod` wants beside the modules.
const LISTS: [&str; 3] = [
    "modules.order",
    "modules.builtin",
    "modules.builtin.modinfo",
];

/// Copies them from below `base` to below `root`, both directories that have a `lib/modules`.
///
/// # Errors
/// If the kernel has one of them neither as a module nor built in. Where no list tells what is built in, tests will.
pub(super) fn select(base: &Path, release: &str, root: &Path) -> Result<()> {
    depmod(base, release)?;
    let from = base.join("lib/modules").join(release);
    let to = root.join("lib/modules").join(release);
    let dependencies =
        fs::read_to_string(from.join("modules.dep")).context("cannot read modules.dep")?;
    let dependencies: BTreeMap<&str, Vec<&str>> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect();
    let built_in = fs::read_to_string(from.join("modules.builtin")).ok();
    let mut selected = BTreeSet::new();
    for name in NEEDED.into_iter().chain([BUS]) {
        if let Some((module, needs)) = dependencies
            .iter()
            .find(|(module, _)| name_of(module) == name)
        {
            selected.insert(*module);
            selected.extend(needs);
        } else if let Some(built_in) = &built_in
            && !built_in.lines().any(|module| name_of(module) == name)
        {
            bail!("it has no module {name}");
        }
    }
    for module in selected {
        copy(&from, &to, module).with_context(|| format!("cannot copy module {module}"))?;
    }
    for list in LISTS {
        if from.join(list).exists() {
            fs::copy(from.join(list), to.join(list))?;
        }
    }
    depmod(root, release)
}

fn depmod(base: &Path, release: &str) -> Result<()> {
    let depmod = command::find("depmod").context("`depmod` is missing, of the package kmod")?;
    command::run_quietly(command::command(depmod).arg("-b").arg(base).arg(release))
}

/// `ip6_gre` of `kernel/net/ipv6/ip6_gre.ko.xz`.
fn name_of(module: &str) -> String {
    let file = module.rsplit('/').next().unwrap_or(module);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn copy(from: &Path, to: &Path, module: &str) -> Result<()> {
    let plain = module.strip_suffix(".xz").unwrap_or(module);
    let target = to.join(plain);
    fs::create_dir_all(target.parent().context("a module lies in a directory")?)?;
    if plain == module {
        fs::copy(from.join(module), &target)?;
        return Ok(());
    }
    let status = command::command("xz")
        .arg("-dc")
        .arg(from.join(module))
        .stdout(File::create(&target)?)
        .status()
        .context("cannot run xz")?;
    if !status.success() {
        bail!("xz ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_named_as_the_kernel_names_it() {
        assert_eq!(name_of("kernel/net/ipv6/ip6_gre.ko.xz"), "ip6_gre");
        assert_eq!(name_of("kernel/drivers/char/virtio-rng.ko"), "virtio_rng");
    }
}
