//! The stored figures that `--check` compares with: `bench/budget.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::statistics::round;

/// What gregw's programs cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budget {
    /// Where it was measured.
    pub(crate) machine: Machine,
    /// By the name of the program.
    pub(crate) programs: BTreeMap<String, ProgramCost>,
    /// Least time of a frame with a bare redirect, in nanoseconds.
    pub(crate) redirect: f64,
    /// Time of a packet by case, without making the frame, as a multiple of what a frame with a bare redirect takes.
    pub(crate) time: BTreeMap<String, f64>,
}

/// What a program costs the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProgramCost {
    /// Instructions that the verifier walked.
    pub(crate) verified_instructions: u32,
    /// Bytes of machine code.
    pub(crate) jited_bytes: u32,
}

/// A figure beside the stored one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comparison {
    /// What it is of.
    pub(crate) name: String,
    /// What was found now.
    pub(crate) found: f64,
    /// What is stored; `None`: nothing.
    pub(crate) stored: Option<f64>,
    /// Whether it is the same each time.
    pub(crate) exact: bool,
    /// How much more is too much, as a part of the stored figure.
    pub(crate) margin: f64,
}

/// How much more than stored is too much, as a part of the stored figure.
struct Margins {
    /// For figures that are the same each time.
    exact: f64,
    /// For times.
    time: f64,
}

impl Margins {
    const SAME_MACHINE: Self = Self {
        exact: 0.05,
        time: 0.05,
    };
    /// A neighbour on the core takes from each program what that needs most: a part of the caches, or of the units.
    const DISTURBED: Self = Self {
        exact: 0.05,
        time: 0.5,
    };
    /// Other processors and kernels weigh instructions differently.
    const FOREIGN: Self = Self {
        exact: 0.25,
        time: 0.5,
    };
}

/// A machine is disturbed if a bare redirect takes more than this part longer than when the figures were stored.
const DISTURBANCE: f64 = 0.05;

/// What names of times end in.
const TIME: &str = ": time";

const HEAD: &str = "\
# What gregw's programs cost: `cargo xtask bench --check` fails where one costs 5 % more. Another processor or kernel than
# that of these figures may want 25 % more code, and half more time; half more time may also pass where a bare redirect
# takes longer than when these figures were stored, because something else uses the core.
# Written by `cargo xtask bench --check --save`.
#
# A figure is exceeded: find the commit that raised it, and see whether what it brought is worth it. Usually it is
# cheaper to keep the paths of the pipeline from multiplying: the verifier walks each combination of what it cannot tell
# apart, so a branch before a long stretch of code doubles that. A function of its own (`#[inline(never)]` with plain
# arguments) is walked once; a loop over a packet belongs into an exported one. If the price is right, save the new
# figures in the same commit, and say why.
#
# `redirect`: nanoseconds of a frame with a bare redirect.
# `time`: what a packet takes without making the frame, as a multiple of what a frame with a bare redirect takes; the
# median of several loads of the programs, which three of four loads have to exceed.
";

impl Budget {
    /// Reads stored figures.
    pub(crate) fn stored(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!("cannot read {}; `--check --save` writes it", path.display())
        })?;
        toml::from_str(&text).with_context(|| format!("{} is not as it should be", path.display()))
    }

    /// Stores these figures.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let mut rounded = self.clone();
        rounded.redirect = round(rounded.redirect, 1);
        for time in rounded.time.values_mut() {
            *time = round(*time, 3);
        }
        fs::write(path, format!("{HEAD}\n{}", toml::to_string(&rounded)?))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Each figure beside that of `stored`.
    pub(crate) fn beside(&self, stored: &Self) -> Vec<Comparison> {
        let margins = self.margins(stored);
        let comparison = |name: String, found, stored| {
            let exact = !name.ends_with(TIME);
            Comparison {
                exact,
                name,
                found,
                stored,
                margin: if exact { margins.exact } else { margins.time },
            }
        };
        let programs = self.programs.iter().flat_map(|(name, cost)| {
            let stored = stored.programs.get(name);
            [
                comparison(
                    format!("{name}: verified instructions"),
                    cost.verified_instructions.into(),
                    stored.map(|cost| cost.verified_instructions.into()),
                ),
                comparison(
                    format!("{name}: bytes of machine code"),
                    cost.jited_bytes.into(),
                    stored.map(|cost| cost.jited_bytes.into()),
                ),
            ]
        });
        let times = self.time.iter().map(|(name, time)| {
            comparison(
                format!("{name}{TIME}"),
                *time,
                stored.time.get(name).copied(),
            )
        });
        programs.chain(times).collect()
    }

    fn margins(&self, stored: &Self) -> Margins {
        if self.machine != stored.machine {
            Margins::FOREIGN
        } else if self.redirect > stored.redirect * (1.0 + DISTURBANCE) {
            Margins::DISTURBED
        } else {
            Margins::SAME_MACHINE
        }
    }
}

impl Comparison {
    /// Whether it is more than may be; a figure that is not stored is.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.change().is_none_or(|change| change > self.margin)
    }

    /// How much more it is than stored, as a part of that.
    pub(crate) fn change(&self) -> Option<f64> {
        Some(self.found / self.stored? - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(cpu: &str, instructions: u32, time: f64) -> Budget {
        Budget {
            machine: Machine {
                kernel: "6.18".to_owned(),
                cpu: cpu.to_owned(),
            },
            programs: BTreeMap::from([(
                "gregw".to_owned(),
                ProgramCost {
                    verified_instructions: instructions,
                    jited_bytes: 1000,
                },
            )]),
            redirect: 44.0,
            time: BTreeMap::from([("port_to_tunnel".to_owned(), time)]),
        }
    }

    fn exceeded(found: &Budget, stored: &Budget) -> Vec<String> {
        let comparisons = found.beside(stored).into_iter();
        comparisons
            .filter(Comparison::is_exceeded)
            .map(|comparison| comparison.name)
            .collect()
    }

    #[test]
    fn what_costs_over_a_twentieth_more_than_stored_is_named() {
        let stored = budget("a", 10_000, 2.0);
        assert_eq!(exceeded(&budget("a", 10_400, 2.09), &stored), [""; 0]);
        assert_eq!(
            exceeded(&budget("a", 10_600, 2.09), &stored),
            ["gregw: verified instructions"]
        );
        assert_eq!(
            exceeded(&budget("a", 9_000, 2.11), &stored),
            ["port_to_tunnel: time"]
        );
    }

    #[test]
    fn another_processor_may_weigh_instructions_differently() {
        let stored = budget("a", 10_000, 2.0);
        assert_eq!(exceeded(&budget("b", 12_400, 2.9), &stored), [""; 0]);
        assert_eq!(
            exceeded(&budget("b", 12_600, 3.1), &stored),
            ["gregw: verified instructions", "port_to_tunnel: time"]
        );
    }

    #[test]
    fn times_of_a_disturbed_machine_are_judged_mildly_and_nothing_else() {
        let stored = budget("a", 10_000, 2.0);
        let mut found = budget("a", 10_600, 2.9);
        found.redirect = 50.0;
        assert_eq!(exceeded(&found, &stored), ["gregw: verified instructions"]);
    }

    #[test]
    fn a_case_without_a_stored_figure_is_not_passed_over() {
        let mut stored = budget("a", 10_000, 2.0);
        stored.time.clear();
        assert_eq!(
            exceeded(&budget("a", 10_000, 2.0), &stored),
            ["port_to_tunnel: time"]
        );
    }
}
