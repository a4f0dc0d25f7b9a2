//! What a run says: rates, costs and ratios, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt;

use nix::sys::utsname::uname;
use serde::Serialize;

use crate::lane::Case;

/// What the cases of gregw are compared with.
const REFERENCES: [Case; 3] = [Case::Redirect, Case::KernelForward, Case::KernelVxlan];

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The kernel's release.
    kernel: String,
    /// The processor's name.
    cpu: String,
    /// Rounds of which medians were taken.
    rounds: usize,
    /// One entry for each case, in the order of measurement.
    cases: Vec<CaseReport>,
    /// Packet rates of gregw's cases by those of others, named "case/reference".
    ratios: BTreeMap<String, f64>,
}

/// The result of a case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CaseReport {
    /// The case.
    pub(crate) name: Case,
    /// Bytes of a frame that enters, without frame check sequence.
    pub(crate) bytes: usize,
    /// Millions of packets a second; median of the rounds.
    pub(crate) mpps: f64,
    /// Nanoseconds a packet takes longer than with nothing between generator and sink.
    pub(crate) stage_ns: f64,
}

impl Report {
    /// From the cases' rounds, in packets a second; the first case is [`Case::Sink`].
    pub(crate) fn new(rounds: usize, measured: Vec<(Case, usize, Vec<f64>)>) -> Self {
        let rates: Vec<(Case, usize, f64)> = measured
            .into_iter()
            .map(|(case, bytes, rates)| (case, bytes, median(rates)))
            .collect();
        let base = rates.first().map_or(0.0, |(_, _, rate)| nanoseconds(*rate));
        let ratios = rates
            .iter()
            .filter(|(case, ..)| case.is_gateway())
            .flat_map(|gateway| rates.iter().map(move |reference| (gateway, reference)))
            .filter(|(_, (reference, ..))| REFERENCES.contains(reference))
            .map(|((case, _, rate), (reference, _, other))| {
                (
                    format!("{}/{}", name(*case), name(*reference)),
                    round(rate / other, 3),
                )
            })
            .collect();
        let cases = rates
            .iter()
            .map(|(case, bytes, rate)| CaseReport {
                name: *case,
                bytes: *bytes,
                mpps: round(rate / 1e6, 3),
                stage_ns: round(nanoseconds(*rate) - base, 1),
            })
            .collect();
        Self {
            kernel: kernel(),
            cpu: cpu(),
            rounds,
            cases,
            ratios,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Linux {}, one core of {}, medians of {} rounds\n",
            self.kernel, self.cpu, self.rounds
        )?;
        writeln!(
            f,
            "{:<18}{:>6}{:>9}{:>12}",
            "case", "bytes", "Mpps", "stage ns"
        )?;
        for case in &self.cases {
            writeln!(
                f,
                "{:<18}{:>6}{:>9.3}{:>12.1}",
                name(case.name),
                case.bytes,
                case.mpps,
                case.stage_ns
            )?;
        }
        writeln!(f)?;
        for (name, ratio) in &self.ratios {
            writeln!(f, "{name:<34}{ratio:>9.3}")?;
        }
        Ok(())
    }
}

/// The case as it is called on the command line and in reports.
pub(crate) fn name(case: Case) -> String {
    clap::ValueEnum::to_possible_value(&case)
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        values[middle - 1].midpoint(values[middle])
    }
}

fn nanoseconds(rate: f64) -> f64 {
    1e9 / rate
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

fn kernel() -> String {
    uname().map_or_else(
        |_| "unknown".to_owned(),
        |names| names.release().to_string_lossy().into_owned(),
    )
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |(_, name)| name.to_owned(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_costs_what_a_packet_takes_longer_than_without_it() {
        let report = Report::new(
            3,
            vec![
                (Case::Sink, 64, vec![5e6, 4e6, 6e6]),
                (Case::Redirect, 64, vec![4e6, 1.0, 9e6]),
                (Case::PortToTunnel, 64, vec![2e6; 3]),
            ],
        );
        let costs: Vec<f64> = report.cases.iter().map(|case| case.stage_ns).collect();
        assert_eq!(costs, [0.0, 50.0, 300.0]);
        assert_eq!(
            report.ratios,
            BTreeMap::from([("port_to_tunnel/redirect".to_owned(), 0.5)])
        );
    }
}
