//! What can be measured: what frames meet between generator and sink, the kind of tunnels, and the size of packets.
//!
//! A case has one name, on the command line and in reports.

use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::gateway::Totals;

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// What frames meet.
    pub(crate) stage: Stage,
    /// The tunnels of gregw.
    pub(crate) tunnels: TunnelKind,
    /// Bytes of a machine's frame, without tag and frame check sequence.
    pub(crate) size: u16,
}

/// What frames meet between the generator and the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Nothing.
    Sink,
    /// An XDP program that sends them to the other device as they are.
    Redirect,
    /// gregw, which encapsulates them.
    PortToTunnel,
    /// gregw, which decapsulates them.
    TunnelToPort,
    /// gregw, which moves them from one tunnel to another.
    TunnelToTunnel,
    /// The kernel's IP forwarding.
    KernelForward,
    /// The kernel's IP forwarding into its VXLAN device.
    KernelVxlan,
    /// The kernel's IP forwarding into its GRE device, where it has one.
    KernelGre,
}

/// What the tunnels of gregw look like on the wire. All have keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TunnelKind {
    /// Over IPv4.
    Ipv4,
    /// Over IPv6.
    Ipv6,
    /// Over IPv4, with checksums.
    Checksum,
    /// Over IPv4, with sequence numbers.
    Sequence,
}

/// The least size, at which costs count most.
pub(crate) const SMALL: u16 = 64;

const SIZES: [u16; 3] = [SMALL, 512, 1400];

impl Case {
    /// With frames of 64 bytes and plain tunnels.
    pub(crate) const fn small(stage: Stage) -> Self {
        Self {
            stage,
            tunnels: TunnelKind::Ipv4,
            size: SMALL,
        }
    }

    /// Every case, in the order of measurement.
    pub(crate) fn all() -> Vec<Self> {
        let mut cases: Vec<Self> = Stage::ALL.map(Self::small).to_vec();
        for tunnels in TunnelKind::ALL.into_iter().skip(1) {
            for stage in Stage::GATEWAY {
                cases.push(Self {
                    tunnels,
                    ..Self::small(stage)
                });
            }
        }
        for size in SIZES.into_iter().skip(1) {
            for stage in Stage::ALL {
                cases.push(Self {
                    size,
                    ..Self::small(stage)
                });
            }
        }
        cases
    }

    /// Those of 64 bytes that every machine can measure.
    pub(crate) fn basic() -> Vec<Self> {
        let stages = Stage::ALL.into_iter();
        stages
            .filter(|stage| *stage != Stage::KernelGre)
            .map(Self::small)
            .collect()
    }

    /// The case of this name.
    ///
    /// # Errors
    /// If there is none; the message lists them.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let all = Self::all();
        let Some(case) = all.iter().find(|case| case.to_string() == name) else {
            let names: Vec<String> = all.iter().map(Self::to_string).collect();
            bail!("there is no case {name}; there are {}", names.join(", "));
        };
        Ok(*case)
    }

    /// What a machine's packets of the same size meet elsewhere.
    pub(crate) const fn beside(self, stage: Stage) -> Self {
        Self {
            stage,
            tunnels: TunnelKind::Ipv4,
            size: self.size,
        }
    }

    /// What gregw must have counted for `packets` packets.
    pub(crate) fn totals(self, packets: u64) -> Totals {
        let none = Totals::default();
        match self.stage {
            Stage::PortToTunnel => Totals {
                from_ports: packets,
                to_tunnels: packets,
                ..none
            },
            Stage::TunnelToPort => Totals {
                from_tunnels: packets,
                to_ports: packets,
                ..none
            },
            Stage::TunnelToTunnel => Totals {
                from_tunnels: packets,
                to_tunnels: packets,
                ..none
            },
            _ => none,
        }
    }
}

impl Stage {
    /// What gregw does.
    pub(crate) const GATEWAY: [Self; 3] =
        [Self::PortToTunnel, Self::TunnelToPort, Self::TunnelToTunnel];
    /// What gregw is compared with.
    pub(crate) const REFERENCES: [Self; 4] = [
        Self::Redirect,
        Self::KernelForward,
        Self::KernelVxlan,
        Self::KernelGre,
    ];
    const ALL: [Self; 8] = [
        Self::Sink,
        Self::Redirect,
        Self::PortToTunnel,
        Self::TunnelToPort,
        Self::TunnelToTunnel,
        Self::KernelForward,
        Self::KernelVxlan,
        Self::KernelGre,
    ];

    /// Whether gregw is under test.
    pub(crate) fn is_gateway(self) -> bool {
        Self::GATEWAY.contains(&self)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sink => "sink",
            Self::Redirect => "redirect",
            Self::PortToTunnel => "port_to_tunnel",
            Self::TunnelToPort => "tunnel_to_port",
            Self::TunnelToTunnel => "tunnel_to_tunnel",
            Self::KernelForward => "kernel_forward",
            Self::KernelVxlan => "kernel_vxlan",
            Self::KernelGre => "kernel_gre",
        })
    }
}

impl TunnelKind {
    /// All kinds, the usual one first.
    pub(crate) const ALL: [Self; 4] = [Self::Ipv4, Self::Ipv6, Self::Checksum, Self::Sequence];

    /// The kind as it is called in names; nothing for the usual one.
    const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "",
            Self::Ipv6 => "_ipv6",
            Self::Checksum => "_checksum",
            Self::Sequence => "_sequence",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stage, self.tunnels.name())?;
        match self.size {
            SMALL => Ok(()),
            size => write!(f, "_{size}"),
        }
    }
}

impl Serialize for Case {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_and_is_found_by_it() {
        let names: HashSet<String> = Case::all().iter().map(Case::to_string).collect();
        assert_eq!(names.len(), Case::all().len());
        for case in Case::all() {
            assert_eq!(Case::named(&case.to_string()).unwrap(), case);
        }
        assert!(Case::named("port_to_nowhere").is_err());
    }
}
