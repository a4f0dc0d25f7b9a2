//! What the reader sees: headings, steps with their real results, and text as programs printed it.
//!
//! Every line goes through here. A failed step is shown and counted, and the demonstration goes on; a signal or a
//! closed output ends it.

use std::io::Write;

use anyhow::{Result, bail};

use crate::interrupt::Interrupt;

/// Columns that the description of a step takes.
const DESCRIPTION: usize = 80;

/// The demonstration as it is told.
pub(crate) struct Script<'a> {
    interrupt: &'a Interrupt,
    failed: u32,
}

impl<'a> Script<'a> {
    pub(crate) fn new(interrupt: &'a Interrupt) -> Self {
        Self {
            interrupt,
            failed: 0,
        }
    }

    /// Begins a part.
    pub(crate) fn heading(&self, text: &str) -> Result<()> {
        print(&format!("\n=== {text}\n"))
    }

    /// Text as it is, indented.
    pub(crate) fn text(&self, text: &str) -> Result<()> {
        for line in text.lines() {
            print(format!("  {line}").trim_end())?;
            print("\n")?;
        }
        Ok(())
    }

    /// Does something and shows what came of it.
    pub(crate) fn step(
        &mut self,
        what: &str,
        action: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        print(&format!("  {what:<DESCRIPTION$}"))?;
        let outcome = action();
        if let Err(interrupted) = self.interrupt.check() {
            print("\n")?;
            return Err(interrupted.into());
        }
        match outcome {
            Ok(result) => print(&format!(" ok      {result}\n")),
            Err(error) => {
                self.failed += 1;
                print(&format!(" FAILED  {error:#}\n"))
            }
        }
    }

    /// An error if a step has failed.
    pub(crate) fn conclude(&self) -> Result<()> {
        match self.failed {
            0 => Ok(()),
            1 => bail!("one step failed"),
            number => bail!("{number} steps failed"),
        }
    }
}

fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}
