//! `all`: every measurement of one run, and with `--save` its place in history and documentation.
//!
//! `bench/history/` gets the figures as JSON, `docs/performance.md` the tables between its two markers, and the charts
//! beside it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::case::Stage;
use crate::cores::CoresReport;
use crate::growth::GrowthReport;
use crate::lookup::LookUpReport;
use crate::plot::{Chart, Line};
use crate::report::Report;
use crate::tables::Shape;
use crate::updates::UpdateReport;

/// All that one run has found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    /// When it ended: the day, UTC.
    pub(crate) date: String,
    /// Packets a second.
    pub(crate) throughput: Report,
    /// What larger tables cost.
    pub(crate) growth: GrowthReport,
    /// What a second core adds.
    pub(crate) cores: CoresReport,
    /// What look-ups cost.
    pub(crate) look_ups: LookUpReport,
    /// How fast tables change.
    pub(crate) updates: UpdateReport,
}

const BEGIN: &str = "<!-- written by `cargo xtask bench all --save` from here -->\n";
const END: &str = "<!-- to here -->\n";

impl Record {
    /// Writes history and documentation.
    pub(crate) fn save(&self) -> Result<()> {
        let history = workspace().join("bench/history");
        fs::create_dir_all(&history)
            .with_context(|| format!("cannot create {}", history.display()))?;
        let json = serde_json::to_string_pretty(self)?;
        write(&free_name(&history, &self.date), &(json + "\n"))?;
        let docs = workspace().join("docs");
        write(
            &docs.join("performance-growth.svg"),
            &self.growth_chart().svg(),
        )?;
        write(
            &docs.join("performance-fib.svg"),
            &self.look_up_chart().svg(),
        )?;
        let page = docs.join("performance.md");
        let text =
            fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
        let (before, rest) = text.split_once(BEGIN).context(MARKERS)?;
        let (_, after) = rest.split_once(END).context(MARKERS)?;
        write(
            &page,
            &format!("{before}{BEGIN}\n{}\n{END}{after}", self.markdown()),
        )
    }

    fn growth_chart(&self) -> Chart {
        let line = |stage: Stage| {
            let points = self
                .growth
                .growth
                .iter()
                .filter(|point| point.grows == "all");
            let points =
                points.filter_map(|point| Some((f64::from(point.routes), point.figures(stage)?.0)));
            Line {
                name: stage.to_string(),
                points: points.collect(),
            }
        };
        let stages = [Stage::Redirect].into_iter().chain(Stage::GATEWAY);
        Chart {
            title: "Nanoseconds of a packet as tunnels, networks and routes grow".to_owned(),
            across: "routes; a tenth as many tunnels, a hundredth as many networks".to_owned(),
            lines: stages.map(line).collect(),
        }
    }

    fn look_up_chart(&self) -> Chart {
        let lines = Shape::ALL.into_iter().flat_map(|shape| {
            let tables = self.look_ups.fib.iter();
            let tables: Vec<_> = tables.filter(|table| table.table == shape).collect();
            let line = |who: &str, time: fn(&crate::lookup::TableReport) -> f64| Line {
                name: format!("{who}, {}", shape.name()),
                points: tables
                    .iter()
                    // Below what can be told, a look-up is free.
                    .map(|table| (table.routes as f64, time(table).max(0.1)))
                    .collect(),
            };
            [
                line("gregw", |table| table.fib_ns),
                line("LPM trie", |table| table.trie_ns),
            ]
        });
        Chart {
            title: "Nanoseconds of a look-up".to_owned(),
            across: "routes".to_owned(),
            lines: lines.collect(),
        }
    }

    fn markdown(&self) -> String {
        let block =
            |text: &dyn fmt::Display| format!("```\n{}\n```\n", text.to_string().trim_end());
        [
            format!("Of {}.\n", self.date),
            "### Packets per second\n".to_owned(),
            block(&self.throughput),
            "### Growth\n".to_owned(),
            "![Nanoseconds of a packet over the size of the tables](performance-growth.svg)\n"
                .to_owned(),
            block(&self.growth),
            "### Cores\n".to_owned(),
            block(&self.cores),
            "### Look-ups\n".to_owned(),
            "![Nanoseconds of a look-up over the number of routes](performance-fib.svg)\n"
                .to_owned(),
            block(&self.look_ups),
            "### Updates\n".to_owned(),
            block(&self.updates),
        ]
        .join("\n")
    }
}

const MARKERS: &str =
    "docs/performance.md has lost the two comments that the figures stand between";

/// Today, UTC, as `2026-01-31`.
pub(crate) fn today() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (year, month, day) = civil(since.as_secs() / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(is_leap(year)) {
        rest -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

/// A file for each run, also of one day.
fn free_name(directory: &Path, date: &str) -> PathBuf {
    let name = |number: u32| match number {
        1 => format!("{date}.json"),
        number => format!("{date}-{number}.json"),
    };
    let mut path = directory.join(name(1));
    for number in 2.. {
        if !path.exists() {
            break;
        }
        path = directory.join(name(number));
    }
    path
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            throughput,
            growth,
            cores,
            look_ups,
            updates,
            ..
        } = self;
        write!(f, "{throughput}\n{growth}\n{cores}\n{look_ups}\n{updates}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(19_722), (2023, 12, 31));
        assert_eq!(civil(20_778), (2026, 11, 21));
    }
}
