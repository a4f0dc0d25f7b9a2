//! What gregw's programs may cost each kernel: `bench/budget.toml`, and how what `gre-bench cost` measured compares.
//!
//! Only what is the same each time is judged: instructions that the verifier walks and bytes of machine code. Time is
//! for `cargo xtask bench --against`.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The name of the check, which is no test of the harness.
pub(crate) const CHECK: &str = "no_program_costs_more_than_stored";
/// Most instructions of one program that any verifier may have to walk: half of what it gives up at.
const MOST_INSTRUCTIONS: u32 = 500_000;
/// How much more than stored is too much, as a part of that, for a kernel of the matrix: those are the stored ones.
const MARGIN: f64 = 0.05;
/// The same for the kernel that runs here: it may be another build of its series, and the processor has a say in its
/// machine code.
const MARGIN_HERE: f64 = 0.25;

const HEAD: &str = "\
# What gregw's programs cost each kernel of the matrix. The tests fail where a verifier walks more than half a million
# instructions, or 5 % more than here, or where machine code is 5 % longer; 25 % on the kernel that runs the tests, which
# may be another build of its series on another processor. Kernels without figures have the common limit only.
# Written by `cargo xtask bench --check --save --kernel 6.1`.
#
# A figure is exceeded: find the commit that raised it, and see whether what it brought is worth it. Usually it is
# cheaper to keep the paths of the pipeline from multiplying: the verifier walks each combination of what it cannot tell
# apart, so a branch before a long stretch of code doubles that. A function of its own (`#[inline(never)]` with plain
# arguments) is walked once; a loop over a packet belongs into an exported one. If the price is right, save the new
# figures in the same commit, and say why.
";

/// The stored figures, by kernel series ("6.1") and program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Budget(BTreeMap<Series, BTreeMap<String, Cost>>);

/// Major and minor version of a kernel: `6.1`. In the order of versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Series(u32, u32);

/// Where costs were measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a guest, with a kernel of the matrix.
    Guest,
    /// On this machine, with its own kernel.
    Here,
}

/// What a program costs a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    verified_instructions: u32,
    jited_bytes: u32,
}

/// What `gre-bench --json cost` prints.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Measured {
    machine: Machine,
    programs: BTreeMap<String, MeasuredCost>,
}

#[derive(Clone, Debug, Deserialize)]
struct Machine {
    kernel: String,
}

#[derive(Clone, Debug, Deserialize)]
struct MeasuredCost {
    #[serde(flatten)]
    cost: Cost,
    /// Processor time of loading.
    load_seconds: f64,
}

impl Budget {
    /// Reads what is stored.
    pub(crate) fn stored() -> Result<Self> {
        let path = path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not as it should be", path.display()))
    }

    /// Takes over what was measured on a kernel.
    pub(crate) fn set(&mut self, measured: &Measured) {
        let costs = measured.programs.iter();
        let costs = costs.map(|(name, measured)| (name.clone(), measured.cost));
        self.0.insert(measured.series(), costs.collect());
    }

    /// Stores these figures.
    pub(crate) fn save(&self) -> Result<()> {
        let path = path();
        fs::write(&path, format!("{HEAD}\n{}", toml::to_string(self)?))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// What of `measured` is too much, a line each. Kernels without stored figures have only the common limit.
    pub(crate) fn exceeded(&self, measured: &Measured, place: Place) -> Vec<String> {
        let kernel = &measured.machine.kernel;
        let stored = self.0.get(&measured.series());
        let mut exceeded = Vec::new();
        for (name, MeasuredCost { cost: found, .. }) in &measured.programs {
            let instructions = found.verified_instructions;
            if instructions > MOST_INSTRUCTIONS {
                exceeded.push(format!(
                    "{name} on {kernel}: {instructions} verified instructions, more than {MOST_INSTRUCTIONS}"
                ));
            }
            match stored.map(|programs| programs.get(name)) {
                None => {}
                Some(None) => exceeded.push(format!("{name} on {kernel}: nothing is stored of it")),
                Some(Some(stored)) => exceeded.extend(
                    found
                        .above(stored, place)
                        .map(|what| format!("{name} on {kernel}: {what}")),
                ),
            }
        }
        exceeded
    }
}

impl Cost {
    /// Which of the figures are too far above the stored ones.
    fn above(self, stored: &Self, place: Place) -> impl Iterator<Item = String> {
        let margin = match place {
            Place::Guest => MARGIN,
            Place::Here => MARGIN_HERE,
        };
        let figures = [
            (
                "verified instructions",
                self.verified_instructions,
                stored.verified_instructions,
            ),
            (
                "bytes of machine code",
                self.jited_bytes,
                stored.jited_bytes,
            ),
        ];
        figures
            .into_iter()
            .filter_map(move |(what, found, stored)| {
                let (is, was) = (f64::from(found), f64::from(stored));
                (is > was * (1.0 + margin)).then(|| {
                    let percent = (is / was - 1.0) * 100.0;
                    format!("{found} {what}, {percent:+.1} % of the stored {stored}")
                })
            })
    }
}

impl Measured {
    /// Reads what `gre-bench --json cost` printed.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).context("`gre-bench --json cost` printed something else")
    }

    fn series(&self) -> Series {
        Series::of_release(&self.machine.kernel)
    }
}

/// The figures of several kernels, one line for each kernel and program.
pub(crate) fn table(measured: &[Measured]) -> String {
    let mut table = format!(
        "{:<24}{:<16}{:>24}{:>16}{:>10}\n",
        "kernel", "program", "verified instructions", "machine code", "load"
    );
    for Measured { machine, programs } in measured {
        for (name, MeasuredCost { cost, load_seconds }) in programs {
            let _ = writeln!(
                table,
                "{:<24}{name:<16}{:>24}{:>16}{load_seconds:>8.2} s",
                machine.kernel, cost.verified_instructions, cost.jited_bytes
            );
        }
    }
    table
}

impl Series {
    pub(crate) const fn new(major: u32, minor: u32) -> Self {
        Self(major, minor)
    }

    /// The series of a release: `6.1` of `6.1.0-57-amd64`.
    pub(crate) fn of_release(release: &str) -> Self {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit());
        let mut number = || numbers.next().and_then(|digits| digits.parse().ok());
        Self(number().unwrap_or(0), number().unwrap_or(0))
    }
}

impl std::str::FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('.');
        let numbers = numbers.and_then(|(major, minor)| major.parse().ok().zip(minor.parse().ok()));
        let (major, minor) =
            numbers.ok_or_else(|| format!("`{text}` is no kernel series like 6.1"))?;
        Ok(Self(major, minor))
    }
}

impl TryFrom<String> for Series {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.0, self.1)
    }
}

impl From<Series> for String {
    fn from(series: Series) -> Self {
        series.to_string()
    }
}

fn path() -> PathBuf {
    gre_build::workspace().join("bench/budget.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(kernel: &str, verified_instructions: u32, jited_bytes: u32) -> Measured {
        let json = serde_json::json!({
            "machine": {"kernel": kernel, "cpu": "any"},
            "programs": {"gregw": {
                "verified_instructions": verified_instructions,
                "jited_bytes": jited_bytes,
                "load_seconds": 0.5,
            }},
        });
        Measured::parse(&json.to_string()).expect("it is as gre-bench prints it")
    }

    fn stored() -> Budget {
        let mut budget = Budget::default();
        budget.set(&measured("6.1.0-57-amd64", 10_000, 1_000));
        budget
    }

    #[test]
    fn what_costs_over_a_twentieth_more_than_stored_is_named() {
        let exceeded = |instructions, bytes| {
            stored().exceeded(&measured("6.1.99", instructions, bytes), Place::Guest)
        };
        assert_eq!(exceeded(10_500, 1_050), [""; 0]);
        let [instructions, code] = &exceeded(10_600, 1_060)[..] else {
            panic!("two figures are exceeded");
        };
        assert!(instructions.starts_with("gregw on 6.1.99: 10600 verified instructions, +6.0 %"));
        assert!(code.contains("1060 bytes of machine code"), "{code}");
    }

    #[test]
    fn the_kernel_that_runs_here_may_cost_a_quarter_more() {
        let exceeded = |bytes| {
            stored()
                .exceeded(&measured("6.1.99", 10_000, bytes), Place::Here)
                .len()
        };
        assert_eq!((exceeded(1_240), exceeded(1_260)), (0, 1));
    }

    #[test]
    fn no_kernel_may_walk_more_than_half_a_million_instructions() {
        let exceeded = |instructions| {
            let foreign = measured("6.8.0-generic", instructions, 1);
            stored().exceeded(&foreign, Place::Here).len()
        };
        assert_eq!((exceeded(500_000), exceeded(500_001)), (0, 1));
    }

    #[test]
    fn a_program_without_stored_figures_is_not_passed_over() {
        let mut budget = stored();
        budget.0.values_mut().for_each(BTreeMap::clear);
        assert_eq!(
            budget
                .exceeded(&measured("6.1.0", 1, 1), Place::Guest)
                .len(),
            1
        );
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let text = toml::to_string(&stored()).expect("it can be written");
        assert!(text.contains("[\"6.1\".gregw]"), "{text}");
        assert_eq!(
            toml::from_str::<Budget>(&text).expect("it can be read"),
            stored()
        );
    }
}
