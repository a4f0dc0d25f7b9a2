//! The command line: what `gregw` can be told.
//!
//! Parsed by `main`; completions and manual pages are generated from the same definition.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::instance::Instance;

const EXIT_CODES: &str = "\
Exit status:
  0  success
  1  failure
  2  wrong usage or configuration; nothing was changed
  3  no object of that name
  4  a Linux capability is missing
  5  busy: another daemon or XDP program holds what is needed
  6  the kernel lacks a feature

Environment:
  GREGW_LOG  what is logged to standard error, as in GREGW_LOG=debug or GREGW_LOG=gre_userspace::netlink=trace,info
  NO_COLOR   no colour, even on a terminal";

/// Multi-tenant GRE gateway with an XDP data plane.
#[derive(Debug, Parser)]
#[command(name = "gregw", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Options {
    /// Print JSON on standard output, failures as JSON on standard error
    #[arg(short, long, global = true)]
    pub json: bool,
    /// Which gateway of this machine
    #[arg(long, global = true, value_name = "NAME", default_value = Instance::DEFAULT)]
    pub instance: Instance,
    /// How long the daemon may take for an answer; 120 by default
    #[arg(long, global = true, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a gateway in the foreground
    ///
    /// Reload the file with SIGHUP. SIGTERM ends the daemon and leaves the data plane running: packets go on, and the
    /// next `run` takes over without losing one. `detach` removes it.
    Run {
        /// Configuration file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Validate a configuration file, without a daemon
    ///
    /// Prints every mistake with its place and what to do about it.
    Check {
        /// Configuration file
        file: PathBuf,
    },
    /// Show what `apply` would change in the running gateway
    Plan {
        /// Configuration file
        file: PathBuf,
    },
    /// Make the running gateway what a configuration file says, without losing a packet
    ///
    /// The file is validated first; if it is refused, nothing changes.
    Apply {
        /// Configuration file
        file: PathBuf,
    },
    /// Show state and counters of the running gateway
    Show {
        /// Kind of object
        object: Object,
        /// Only this one: the object itself; for `route` and `peering` a network, for `neighbour` a port, for `drop`
        /// a tunnel, port or device
        name: Option<String>,
    },
    /// Stop the gateway and remove its programs, maps and pins, also those that a crash left behind
    Detach,
    /// Print a completion script
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
    /// Print a manual page in roff
    Man {
        /// The page of this command instead of gregw(1)
        command: Option<String>,
    },
}

/// Kind of object that `show` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Object {
    /// Tunnels: keys, state, counters
    Tunnel,
    /// Virtual networks
    Network,
    /// Ports: device, VLAN, addresses, state, counters
    Port,
    /// Stated sides of peerings, and why one is not connected
    Peering,
    /// Routing tables
    Route,
    /// Machines on ports
    Neighbour,
    /// Drop counters that are not zero, with their meaning
    Drop,
    /// Devices: how the program is attached
    Device,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
