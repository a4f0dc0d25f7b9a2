//! The sites' side of the tunnels: one `gre-site` process per underlay link, which knows nothing of gregw.
//!
//! Ending a process makes it print what it has counted; dropping one ends it without.

use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use gre_tests::netns::{Handle, Namespace};
use gre_tests::topology::{Underlay, address_inside};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What lies behind one tunnel of a site's host.
pub(crate) struct Inside {
    /// The customer's own namespace.
    pub(crate) namespace: Namespace,
    device: &'static str,
    addresses: &'static [&'static str],
}

/// A running `gre-site`.
pub(crate) struct SiteHost {
    child: Child,
    output: BufReader<ChildStdout>,
}

/// What a site counted for one tunnel: packets and bytes of inner packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) sent: (u64, u64),
    pub(crate) received: (u64, u64),
}

impl Inside {
    /// A site's inside: its tunnel will be the device `device`, with these addresses.
    pub(crate) fn new(device: &'static str, addresses: &'static [&'static str]) -> Self {
        Self {
            namespace: Namespace::new(&format!("{device}-site")),
            device,
            addresses,
        }
    }

    /// The value of `--tunnel`; `options` are keys and fields.
    pub(crate) fn tunnel(&self, underlay: &Underlay, ipv6: bool, options: &str) -> String {
        let (local, remote): (IpAddr, IpAddr) =
            (underlay.site_address(ipv6), underlay.gateway_address(ipv6));
        format!(
            "tun={},netns={},local={local},remote={remote}{options}",
            self.device,
            self.namespace.name()
        )
    }
}

impl SiteHost {
    /// Starts `gre-site` on the site's end of `underlay` with these tunnels, and gives their insides addresses.
    pub(crate) fn start(underlay: &Underlay, tunnels: &[(&Inside, String)]) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("gre-site");
        let mut command = underlay.host.command(&program);
        command.args(["--underlay", &underlay.site.device]);
        for (_, tunnel) in tunnels {
            command.args(["--tunnel", tunnel]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let output = child.stdout.take().context("gre-site has no output")?;
        let mut host = Self {
            child,
            output: BufReader::new(output),
        };
        let mut line = String::new();
        host.output.read_line(&mut line)?;
        ensure!(line == "ready\n", "gre-site did not start");
        for (inside, _) in tunnels {
            let namespace: &Handle = &inside.namespace;
            address_inside(namespace, inside.device, inside.addresses);
        }
        Ok(host)
    }

    /// Ends the process and returns what it printed about its tunnels: one line each, and one for each reason for which
    /// it refused packets.
    pub(crate) fn end(mut self) -> Result<String> {
        kill(self.pid(), Signal::SIGTERM)?;
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "gre-site: {status}");
        Ok(text)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default())
    }
}

impl Drop for SiteHost {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Account {
    /// Reads `DEVICE: sent N packets N bytes, received N packets N bytes`.
    pub(crate) fn parse(line: &str) -> Result<(&str, Self)> {
        let (device, rest) = line
            .split_once(": ")
            .with_context(|| format!("gre-site said {line:?}"))?;
        let numbers: Vec<u64> = rest
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let &[sent, sent_bytes, received, received_bytes] = &numbers[..] else {
            anyhow::bail!("gre-site said {line:?}");
        };
        let account = Self {
            sent: (sent, sent_bytes),
            received: (received, received_bytes),
        };
        Ok((device, account))
    }
}
