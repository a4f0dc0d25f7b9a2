//! What scrapers read: one text for all who come within a second, handed out in pieces, and at most two texts in memory,
//! however many scrapers there are and however slowly they read.
//!
//! Held by `metrics`, which turns snapshots into text. Holds: a text that is being read is given up only for the sake of
//! a newer one, and not while it is young; until then others get the newest there is.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::failure::{ExitCode, Failure};
use crate::metrics::encode;
use crate::report::Snapshot;
use crate::request::{Request, Requests, ask};

/// How long a text is handed out before the counters are read anew.
const FRESH: Duration = Duration::from_secs(1);
/// How long a scraper may read before its text is given up for a newer one.
const YOUNG: Duration = Duration::from_secs(10);
/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// The texts that are handed out.
#[derive(Clone)]
pub(crate) struct Expositions {
    requests: Requests,
    kept: Arc<Mutex<Kept>>,
}

/// A place in a text, which may be given up meanwhile.
#[derive(Debug)]
pub(crate) struct Reader {
    text: Weak<Text>,
    next: usize,
}

/// The scraper was too slow.
#[derive(Debug, thiserror::Error)]
#[error("the metrics were not read within {YOUNG:?} and have been given up for newer ones")]
pub(crate) struct GivenUp;

/// Text in pieces, which are shared with the connections that send them.
type Text = Vec<Bytes>;

#[derive(Default)]
struct Kept {
    newest: Option<Exposition>,
    before: Option<Exposition>,
}

struct Exposition {
    made: Instant,
    text: Arc<Text>,
}

impl Expositions {
    /// None yet.
    pub(crate) fn new(requests: Requests) -> Self {
        Self {
            requests,
            kept: Arc::default(),
        }
    }

    /// The beginning of the newest text, which is made first if it is due.
    ///
    /// # Errors
    /// The gateway is ending.
    pub(crate) async fn read(&self) -> Result<Reader, Failure> {
        let this = self.clone();
        // A scraper that goes before its text is made leaves it to the next one: it is made once.
        let made = tokio::spawn(async move { this.newest().await });
        made.await.map_err(|error| cannot_make(&error))?
    }

    async fn newest(self) -> Result<Reader, Failure> {
        let mut kept = self.kept.lock().await;
        if let Some(newest) = kept.newest.as_ref().filter(|_| !kept.is_due()) {
            return Ok(newest.reader());
        }
        kept.make_room();
        let snapshot = ask(&self.requests, Request::Snapshot).await?;
        let made = Instant::now();
        let text = tokio::task::spawn_blocking(|| write(snapshot))
            .await
            .map_err(|error| cannot_make(&error))?
            .map_err(|error| cannot_make(&error))?;
        let text = Arc::new(text);
        let newest = kept.newest.insert(Exposition { made, text });
        Ok(newest.reader())
    }
}

impl Reader {
    /// Bytes of the whole text.
    pub(crate) fn length(&self) -> usize {
        let text = self.text.upgrade().unwrap_or_default();
        text.iter().map(Bytes::len).sum()
    }

    /// The next piece; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Result<Bytes, GivenUp>> {
        let Some(text) = self.text.upgrade() else {
            return Some(Err(GivenUp));
        };
        let piece = text.get(self.next)?;
        self.next += 1;
        Some(Ok(piece.clone()))
    }
}

impl Kept {
    /// Whether the newest text is old, and there is room for another one.
    fn is_due(&self) -> bool {
        let is_held = |exposition: &Option<Exposition>| {
            let exposition = exposition.as_ref();
            exposition.is_some_and(|exposition| exposition.is_read() && exposition.age() < YOUNG)
        };
        let is_fresh = self
            .newest
            .as_ref()
            .is_some_and(|newest| newest.age() < FRESH);
        let is_full = is_held(&self.newest) && is_held(&self.before);
        !(is_fresh || is_full)
    }

    /// Keeps one text at most: the newest, if somebody reads it, else the one before it.
    fn make_room(&mut self) {
        match self.newest.take().filter(Exposition::is_read) {
            Some(newest) => self.before = Some(newest),
            None => self.before = self.before.take().filter(Exposition::is_read),
        }
    }
}

impl Exposition {
    fn reader(&self) -> Reader {
        Reader {
            text: Arc::downgrade(&self.text),
            next: 0,
        }
    }

    fn is_read(&self) -> bool {
        Arc::weak_count(&self.text) > 0
    }

    fn age(&self) -> Duration {
        self.made.elapsed()
    }
}

/// A snapshot as text.
fn write(snapshot: Snapshot) -> Result<Text, fmt::Error> {
    let mut pieces = Pieces::default();
    encode(snapshot, &mut pieces)?;
    pieces.cut();
    Ok(pieces.full)
}

/// Cuts what is written to it.
#[derive(Default)]
struct Pieces {
    full: Text,
    last: String,
}

impl Pieces {
    fn cut(&mut self) {
        self.full.push(std::mem::take(&mut self.last).into());
    }
}

impl fmt::Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.last.len() + text.len() > PIECE {
            self.cut();
        }
        if self.last.capacity() == 0 {
            self.last.reserve(PIECE);
        }
        self.last.push_str(text);
        Ok(())
    }
}

fn cannot_make(error: &dyn fmt::Display) -> Failure {
    let text = format!("cannot make the metrics: {error}");
    Failure::new(ExitCode::Failure, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::mpsc;
    use tokio::time::advance;

    /// A gateway of some tunnels' worth of peerings, and how often it was asked.
    fn gateway() -> (Expositions, Arc<AtomicUsize>) {
        let (requests, mut inbox) = mpsc::channel(8);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(request) = inbox.recv().await {
                count.fetch_add(1, Ordering::Relaxed);
                if let Request::Snapshot(reply) = request {
                    let _ = reply.send(snapshot());
                }
            }
        });
        (Expositions::new(requests), asked)
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            gateway: "edge-1".repeat(PIECE),
            tunnels: Vec::new(),
            ports: Vec::new(),
            peerings: Vec::new(),
            drops: Vec::new(),
            tables: Vec::new(),
        }
    }

    fn rest(reader: &mut Reader) -> Result<usize, GivenUp> {
        let pieces = std::iter::from_fn(|| reader.next());
        pieces.map(|piece| Ok(piece?.len())).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_come_within_a_second_share_one_snapshot() {
        let (expositions, asked) = gateway();
        let mut readers = Vec::new();
        for _ in 0..32 {
            readers.push(expositions.read().await.expect("a text"));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        advance(FRESH).await;
        expositions.read().await.expect("a text");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        let length = 6 * PIECE;
        for reader in &mut readers {
            assert!(rest(reader).expect("all of it") > length);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn scrapers_that_never_read_keep_two_texts_at_most_and_nobody_from_new_ones() {
        let (expositions, asked) = gateway();
        let mut stuck: Vec<Reader> = Vec::new();
        for _ in 0..32 {
            stuck.push(expositions.read().await.expect("a text"));
            let mut alive: Vec<_> = stuck.iter().filter_map(|one| one.text.upgrade()).collect();
            alive.sort_by_key(Arc::as_ptr);
            alive.dedup_by_key(|text| Arc::as_ptr(text));
            assert!(alive.len() <= 2, "{} texts", alive.len());
            advance(2 * FRESH).await;
        }
        // One text lasted for ten seconds at most, that is for five of them.
        assert!(asked.load(Ordering::Relaxed) >= 32 / 5);
        assert!(rest(&mut stuck[0]).is_err(), "the first was given up");
        let mut honest = expositions.read().await.expect("a text");
        rest(&mut honest).expect("all of it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_scraper_that_goes_holds_nothing_up() {
        let (expositions, asked) = gateway();
        for _ in 0..5 {
            drop(expositions.read().await);
            advance(FRESH).await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 5);
        let kept = expositions.kept.lock().await;
        assert!(kept.before.is_none());
    }
}
