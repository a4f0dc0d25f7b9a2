//! Snapshots for the metrics, taken piece by piece between the other work of the event loop, so that many tunnels do not
//! hold anybody else up.
//!
//! Held by `daemon`, which calls it whenever nothing keeps it from going on. A change of the configuration begins anew.

use std::collections::VecDeque;

use crate::gateway::Gateway;
use crate::inventory::Collection;
use crate::report::Snapshot;
use crate::request::Reply;

/// Tunnels that are read before the loop looks at anything else.
const PIECE: usize = 250;

/// Those who wait for a snapshot, and the one that is being taken for the first of them.
#[derive(Default)]
pub(crate) struct Snapshots {
    waiting: VecDeque<Reply<Snapshot>>,
    begun: Option<Collection>,
}

impl Snapshots {
    /// Takes one for `reply`.
    pub(crate) fn ask(&mut self, gateway: &Gateway, reply: Reply<Snapshot>) {
        self.waiting.push_back(reply);
        self.begun.get_or_insert_with(|| gateway.begin_collection());
    }

    /// Whether [`Snapshots::go_on`] has something to do.
    pub(crate) fn is_at_work(&self) -> bool {
        self.begun.is_some()
    }

    /// Reads the next piece.
    pub(crate) fn go_on(&mut self, gateway: &Gateway) {
        let Some(mut collection) = self.begun.take() else {
            return;
        };
        if gateway.collect(&mut collection, PIECE) {
            self.begun = Some(collection);
            return;
        }
        if let Some(reply) = self.waiting.pop_front() {
            // Whoever asked may have gone.
            let _ = reply.send(gateway.complete(collection));
        }
        self.waiting.retain(|reply| !reply.is_closed());
        if !self.waiting.is_empty() {
            self.begun = Some(gateway.begin_collection());
        }
    }

    /// What was read is of a configuration that is no longer.
    pub(crate) fn begin_anew(&mut self, gateway: &Gateway) {
        if self.begun.is_some() {
            self.begun = Some(gateway.begin_collection());
        }
    }
}
