//! Ctrl-C, SIGTERM and a closed terminal as a value that is asked for, so that what was built is taken down in order.
//!
//! Called between the steps of the demonstration; every step ends by itself within seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The signal that has arrived, if one has.
pub(crate) struct Interrupt(Arc<AtomicUsize>);

/// A signal asked the demonstration to end.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl Interrupt {
    /// From now on signals do not end the process.
    pub(crate) fn install() -> Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGHUP, SIGINT, SIGTERM] {
            let value = usize::try_from(number).unwrap_or_default();
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value)
                .with_context(|| format!("cannot handle signal {number}"))?;
        }
        Ok(Self(signal))
    }

    /// An error once a signal has arrived.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        match self.signal() {
            0 => Ok(()),
            _ => Err(Interrupted),
        }
    }

    /// The number of the signal, or 0.
    pub(crate) fn signal(&self) -> u8 {
        u8::try_from(self.0.load(Ordering::Relaxed)).unwrap_or_default()
    }
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}
