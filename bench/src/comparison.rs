//! What a comparison of two builds says: nanoseconds of a packet, their change with its spread, and a verdict.
//!
//! A change counts if it cannot be chance and is greater than what equal builds differ by.

use std::fmt;

use aya::programs::ProgramInfo;
use serde::Serialize;

use crate::case::Case;
use crate::machine::Machine;
use crate::statistics::{Shift, median, round};

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ComparisonReport {
    /// Where it ran.
    #[serde(flatten)]
    pub(crate) machine: Machine,
    /// What the old build is called.
    pub(crate) revision: String,
    /// The old build.
    pub(crate) old: Build,
    /// The new one.
    pub(crate) new: Build,
    /// Whether the kernel runs the same instructions in both.
    pub(crate) same_program: bool,
    /// Times that both were started.
    pub(crate) loads: u16,
    /// In the order of measurement.
    pub(crate) cases: Vec<Comparison>,
}

/// The program of a build.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Build {
    /// The kernel's sum of its instructions.
    pub(crate) tag: String,
    /// Instructions that the verifier walked, where the kernel tells that.
    verified_instructions: Option<u32>,
    /// Bytes of machine code.
    jited_bytes: u32,
}

/// Nanoseconds of a packet in one load.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Load {
    /// Whether the old gregw was started before the new one.
    pub(crate) old_first: bool,
    /// In the old gregw.
    pub(crate) old: f64,
    /// In the new one.
    pub(crate) new: f64,
    /// In a bare redirect.
    pub(crate) redirect: f64,
}

/// A case of both builds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    /// The case.
    name: Case,
    /// Nanoseconds of a packet in a bare redirect; medians of the loads, as the next two.
    redirect_ns: f64,
    old_ns: f64,
    new_ns: f64,
    /// By how much the new one is slower: what the loads say together.
    change_ns: f64,
    /// The same as a part of the old one's time, in percent.
    change_percent: f64,
    /// Where the change lies with a probability of 95 %.
    interval_ns: Option<[f64; 2]>,
    verdict: Verdict,
    /// What all of it was made of.
    loads_ns: Vec<Load>,
}

/// Whether there is a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Verdict {
    /// Yes.
    #[serde(rename = "changed")]
    Changed,
    /// None that can be told.
    #[serde(rename = "no change")]
    NoChange,
    /// There is no interval.
    #[serde(rename = "too few loads")]
    TooFewLoads,
}

/// What equal builds may differ by, in nanoseconds and as a part of the time.
const FLOOR: (f64, f64) = (3.0, 0.03);

impl Build {
    /// What the kernel tells about the program.
    pub(crate) fn new(program: &ProgramInfo) -> Self {
        Self {
            tag: format!("{:016x}", program.tag()),
            verified_instructions: program.verified_instruction_count(),
            jited_bytes: program.size_jitted(),
        }
    }
}

impl Comparison {
    /// Of the loads of a case.
    pub(crate) fn new(name: Case, loads: &[Load]) -> Self {
        let each = |figure: fn(&Load) -> f64| loads.iter().map(figure).collect::<Vec<f64>>();
        let old = median(&each(|load| load.old));
        let change = change(loads);
        Self {
            name,
            redirect_ns: round(median(&each(|load| load.redirect)), 1),
            old_ns: round(old, 1),
            new_ns: round(median(&each(|load| load.new)), 1),
            change_ns: round(change.middle, 1),
            change_percent: round(change.middle / old * 100.0, 1),
            interval_ns: change
                .interval
                .map(|(low, high)| [round(low, 1), round(high, 1)]),
            verdict: Verdict::of(change, old),
            loads_ns: loads.to_vec(),
        }
    }
}

/// Who is started first may be slower or faster for that.
fn change(loads: &[Load]) -> Shift {
    let of_order = |old_first: bool| {
        let of_order = loads.iter().filter(|load| load.old_first == old_first);
        let changes: Vec<f64> = of_order.map(|load| load.new - load.old).collect();
        changes
    };
    Shift::of(&of_order(true), &of_order(false))
}

impl Verdict {
    fn of(change: Shift, old: f64) -> Self {
        let Some((low, high)) = change.interval else {
            return Self::TooFewLoads;
        };
        let is_certain = low > 0.0 || high < 0.0;
        if is_certain && change.middle.abs() > FLOOR.0.max(FLOOR.1 * old) {
            Self::Changed
        } else {
            Self::NoChange
        }
    }
}

impl fmt::Display for ComparisonReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, cpu } = &self.machine;
        writeln!(
            f,
            "Linux {kernel}, one core of {cpu}, {} loads\n",
            self.loads
        )?;
        writeln!(
            f,
            "{:<20}{:>18}{:>24}{:>16}",
            "program", "tag", "verified instructions", "machine code"
        )?;
        let old = format!("old: {}", self.revision);
        for (name, build) in [(old.as_str(), &self.old), ("new", &self.new)] {
            let verified = build.verified_instructions;
            writeln!(
                f,
                "{name:<20}{:>18}{:>24}{:>16}",
                build.tag,
                verified.map_or_else(String::new, |count| count.to_string()),
                build.jited_bytes
            )?;
        }
        if self.same_program {
            writeln!(
                f,
                "same program: the kernel runs the same instructions in both"
            )?;
        }
        writeln!(
            f,
            "\n{:<26}{:>10}{:>8}{:>8}{:>10}{:>9}{:>20}",
            "nanoseconds", "redirect", "old", "new", "change", "", "95 % between"
        )?;
        self.cases.iter().try_for_each(|case| writeln!(f, "{case}"))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = self.interval_ns;
        let interval = interval.map(|[low, high]| format!("{low:+.1} and {high:+.1}"));
        write!(
            f,
            "{:<26}{:>10.1}{:>8.1}{:>8.1}{:>+10.1}{:>+7.1} %{:>20}  {}",
            self.name.to_string(),
            self.redirect_ns,
            self.old_ns,
            self.new_ns,
            self.change_ns,
            self.change_percent,
            interval.unwrap_or_default(),
            self.verdict
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::NoChange => "no change",
            Self::TooFewLoads => "too few loads",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(old: f64, changes: &[f64]) -> Verdict {
        let (old_first, new_first) = changes.split_at(changes.len() / 2);
        Verdict::of(Shift::of(old_first, new_first), old)
    }

    #[test]
    fn a_change_is_named_if_it_is_certain_and_greater_than_noise() {
        let around = |change: f64, spread: f64| {
            [-1.0, 0.2, 0.6, -0.4, 1.0, -0.6, -0.2, 0.4].map(|part| change + part * spread)
        };
        assert_eq!(verdict(60.0, &around(10.0, 2.0)), Verdict::Changed);
        assert_eq!(verdict(60.0, &around(-10.0, 2.0)), Verdict::Changed);
        assert_eq!(verdict(60.0, &around(10.0, 20.0)), Verdict::NoChange);
        assert_eq!(verdict(60.0, &around(2.0, 0.1)), Verdict::NoChange);
        assert_eq!(verdict(600.0, &around(10.0, 0.1)), Verdict::NoChange);
        assert_eq!(verdict(60.0, &[10.0; 6]), Verdict::TooFewLoads);
    }
}
