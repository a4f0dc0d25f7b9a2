//! What a run of cases says: rates, costs and ratios, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::case::{Case, Stage};
use crate::machine::Machine;
use crate::statistics::{median, round};

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Where it ran.
    #[serde(flatten)]
    machine: Machine,
    /// Rounds of which medians were taken.
    rounds: usize,
    /// One entry for each case, in the order of measurement.
    pub(crate) cases: Vec<CaseReport>,
    /// Packet rates of gregw's cases by those of others with packets of the same size, named "case/reference".
    pub(crate) ratios: BTreeMap<String, f64>,
    /// Cases that this kernel cannot run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unavailable: Vec<Case>,
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

/// The rounds of a case.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// The case.
    pub(crate) case: Case,
    /// Bytes of a frame that enters.
    pub(crate) bytes: usize,
    /// Packets a second.
    pub(crate) rates: Vec<f64>,
}

impl Report {
    /// From the cases' rounds; there is one with nothing between generator and sink for each size.
    pub(crate) fn new(measured: &[Measured], unavailable: Vec<Case>) -> Self {
        let rate = |case: Case| {
            let found = measured.iter().find(|measured| measured.case == case)?;
            Some(median(&found.rates))
        };
        let gateways = measured
            .iter()
            .filter(|measured| measured.case.stage.is_gateway());
        let mut ratios = BTreeMap::new();
        for case in gateways.map(|measured| measured.case) {
            for stage in Stage::REFERENCES {
                if let (Some(own), Some(other)) = (rate(case), rate(case.beside(stage))) {
                    ratios.insert(ratio_name(case, stage), round(own / other, 3));
                }
            }
        }
        let cases = measured
            .iter()
            .map(|Measured { case, bytes, rates }| {
                let time = 1e9 / median(rates);
                let base = rate(case.beside(Stage::Sink)).map_or(time, |rate| 1e9 / rate);
                CaseReport {
                    name: *case,
                    bytes: *bytes,
                    mpps: round(median(rates) / 1e6, 3),
                    stage_ns: round(time - base, 1),
                }
            })
            .collect();
        Self {
            machine: Machine::this(),
            rounds: measured.first().map_or(0, |measured| measured.rates.len()),
            cases,
            ratios,
            unavailable,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Linux {}, one core of {}, medians of {} rounds\n",
            self.machine.kernel, self.machine.cpu, self.rounds
        )?;
        write!(
            f,
            "{:<26}{:>6}{:>9}{:>10}",
            "case", "bytes", "Mpps", "stage ns"
        )?;
        for stage in Stage::REFERENCES {
            write!(f, "{:>18}", format!("/{stage}"))?;
        }
        writeln!(f)?;
        for case in &self.cases {
            writeln!(f, "{}", self.line(case).trim_end())?;
        }
        for case in &self.unavailable {
            writeln!(f, "{case}: not available: the kernel has no such device")?;
        }
        Ok(())
    }
}

impl Report {
    /// The figures of a case.
    pub(crate) fn case(&self, case: Case) -> Option<&CaseReport> {
        self.cases.iter().find(|report| report.name == case)
    }

    /// A case's figures and its rate by those of the references.
    fn line(&self, case: &CaseReport) -> String {
        let mut line = format!(
            "{:<26}{:>6}{:>9.3}{:>10.1}",
            case.name.to_string(),
            case.bytes,
            case.mpps,
            case.stage_ns
        );
        for stage in Stage::REFERENCES {
            let ratio = self.ratios.get(&ratio_name(case.name, stage));
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
            let _ = write!(line, "{ratio:>18}");
        }
        line
    }
}

fn ratio_name(case: Case, reference: Stage) -> String {
    format!("{case}/{}", case.beside(reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_costs_what_a_packet_takes_longer_than_without_it() {
        let measured = |stage, rates| Measured {
            case: Case::small(stage),
            bytes: 64,
            rates,
        };
        let report = Report::new(
            &[
                measured(Stage::Sink, vec![5e6, 4e6, 6e6]),
                measured(Stage::Redirect, vec![4e6, 1.0, 9e6]),
                measured(Stage::PortToTunnel, vec![2e6; 3]),
            ],
            Vec::new(),
        );
        let costs: Vec<f64> = report.cases.iter().map(|case| case.stage_ns).collect();
        assert_eq!(costs, [0.0, 50.0, 300.0]);
        assert_eq!(
            report.ratios,
            BTreeMap::from([("port_to_tunnel/redirect".to_owned(), 0.5)])
        );
    }
}
