//! A stream of numbered packets, and an exact account of those that arrived.
//!
//! Suites run one beside an operation that must be hitless. The number stands at the end of each frame, so that it is
//! found whether the frame arrives bare or inside a tunnel. The sender has no more packets under way than the rings of
//! the links hold, and ends with one that has arrived: the account rests on numbers, not on time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::link::End;
use crate::wait::PATIENCE;
use crate::wire::Wire;
use crate::{sys, wait};

/// Packets per second that a stream has at most. How many a busy machine lets through is no test's matter.
pub const FULL_RATE: u64 = 100_000;

/// Bytes at the end of the payload: marker, stream, number.
const TRAILER: usize = 8 + 4 + 8;
const MARKER: [u8; 8] = *b"GREstrm\0";
/// Frames sent back to back at most.
const BURST: u64 = 32;
/// Packets under way at most: half of what the ring of a veth holds.
const WINDOW: u64 = 128;
const PAUSE: Duration = Duration::from_micros(150);
/// When nothing has arrived for so long, all packets under way may be lost, and one more asks whether the way is open.
const STALL: Duration = Duration::from_millis(20);
/// Runs of lost packets that a report names.
const GAPS_SHOWN: usize = 10;

/// A UDP payload of `length` bytes for a stream of this id; streams that run at once need different ids.
///
/// # Panics
/// If `length` is below 20.
pub fn payload(stream: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length - TRAILER];
    bytes.extend(MARKER);
    bytes.extend(stream.to_be_bytes());
    bytes.extend([0; 8]);
    bytes
}

/// The way of a stream.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    /// Where frames are sent.
    pub from: &'a End,
    /// The device from which they leave towards `to`: the other end of its link.
    pub egress: &'a End,
    /// Where frames are counted.
    pub to: &'a End,
}

/// A stream under way; it ends when this is dropped.
pub struct Stream {
    links: [End; 2],
    overflowed_before: u64,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Receiver>,
    progress: EndWhenDropped,
}

/// The account of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived, each counted once.
    pub received: u64,
    /// Packets that never arrived.
    pub lost: u64,
    /// Frames that the first and the last link lost: their rings were full, as a busy machine did not empty them.
    pub overflowed: u64,
    /// Frames that the receiving socket lost: it was full.
    pub overruns: u32,
    /// First and last numbers of the first runs of lost packets.
    pub gaps: Vec<(u64, u64)>,
    /// Packets that arrived more than once.
    pub repeated: u64,
    /// Packets that arrived after one with a higher number.
    pub late: u64,
}

impl Report {
    /// Fails the test unless the gateway forwarded every packet exactly once: none is repeated, and none is missing but
    /// what the test's own links and socket lost.
    ///
    /// # Panics
    /// With the whole account.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        assert!(self.received > 0, "nothing arrived: {self:?}");
        assert_eq!(self.repeated, 0, "{self:?}");
        let beside_the_gateway = self.overflowed + u64::from(self.overruns);
        assert!(
            self.lost <= beside_the_gateway,
            "the gateway lost packets: {self:?}"
        );
    }
}

impl Stream {
    /// Sends copies of `frame`, whose payload was made by [`payload`], at most `rate` packets per second, and counts
    /// what arrives at the other end of the path.
    ///
    /// # Panics
    /// If a socket or thread cannot be made.
    pub fn start(path: Path<'_>, frame: Vec<u8>, rate: u64) -> Self {
        let Path { from, egress, to } = path;
        let stream = frame[frame.len() - TRAILER + MARKER.len()..frame.len() - 8].to_vec();
        let links = [from, egress].map(Clone::clone);
        let overflowed_before = overflowed(&links);
        let progress = Arc::new(Progress::default());
        let receiver = {
            let (wire, progress) = (Wire::open(to), Arc::clone(&progress));
            std::thread::spawn(move || Receiver::default().run(wire, &stream, &progress))
        };
        let sender = {
            let (wire, progress) = (Wire::open(from), Arc::clone(&progress));
            std::thread::spawn(move || Sender::new(&frame, rate).run(&wire, &progress))
        };
        Self {
            links,
            overflowed_before,
            sender,
            receiver,
            progress: EndWhenDropped(progress),
        }
    }

    /// Waits until so many more packets have arrived.
    ///
    /// # Panics
    /// If they do not.
    #[track_caller]
    pub fn flow(&self, packets: u64) {
        let received = || self.progress.0.received.load(Ordering::Relaxed);
        let goal = received() + packets;
        wait::expect("more packets of a stream have arrived", || {
            received() >= goal
        });
    }

    /// Stops sending once all that was sent has arrived or is lost, and returns the account.
    ///
    /// # Panics
    /// If a thread of the stream did.
    pub fn stop(self) -> Report {
        let progress = &self.progress.0;
        progress.stop_sending.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender of a stream panicked");
        progress.stop_receiving.store(true, Ordering::Relaxed);
        let receiver = self.receiver.join();
        let receiver = receiver.expect("the receiver of a stream panicked");
        Report {
            overflowed: overflowed(&self.links) - self.overflowed_before,
            ..receiver.report(sent)
        }
    }
}

/// What the threads of a stream tell each other.
#[derive(Default)]
struct Progress {
    received: AtomicU64,
    /// The number behind the highest that arrived. Packets keep their order: all below have arrived or are lost.
    passed: AtomicU64,
    stop_sending: AtomicBool,
    stop_receiving: AtomicBool,
}

/// Lets the threads end, also when a test fails.
struct EndWhenDropped(Arc<Progress>);

impl Drop for EndWhenDropped {
    fn drop(&mut self) {
        self.0.stop_receiving.store(true, Ordering::Relaxed);
    }
}

struct Sender {
    frames: Vec<Vec<u8>>,
    interval: Duration,
    next: u64,
}

impl Sender {
    fn new(frame: &[u8], rate: u64) -> Self {
        Self {
            frames: (0..BURST).map(|_| frame.to_vec()).collect(),
            interval: Duration::from_nanos(1_000_000_000 / rate),
            next: 0,
        }
    }

    /// Returns how many packets are to be accounted for: all up to one that was sent after the stop and has arrived, or,
    /// where nothing arrives, all.
    fn run(mut self, wire: &Wire, progress: &Progress) -> u64 {
        // Sender and data plane share one processor, the receiver has the other; elsewhere it has to do without.
        let _ = sys::favour_thread(0);
        let mut last = None;
        let mut active = Instant::now();
        while !progress.stop_receiving.load(Ordering::Relaxed) {
            let passed = progress.passed.load(Ordering::Relaxed);
            if progress.stop_sending.load(Ordering::Relaxed) {
                let (number, since) = *last.get_or_insert((self.next, Instant::now()));
                if passed > number {
                    return passed;
                }
                if since.elapsed() >= PATIENCE {
                    break;
                }
            }
            let room = WINDOW.saturating_sub(self.next - passed);
            let stalled = u64::from(active.elapsed() >= STALL);
            let count = room.max(stalled).min(BURST);
            if count > 0 {
                self.send(wire, count);
                active = Instant::now();
            } else {
                std::thread::sleep(PAUSE);
            }
        }
        self.next
    }

    /// Sends so many packets, and rests at least as long as that took: others need the processor, too.
    fn send(&mut self, wire: &Wire, count: u64) {
        let start = Instant::now();
        let frames = &mut self.frames[..usize::try_from(count).unwrap_or_default()];
        for (frame, number) in frames.iter_mut().zip(self.next..) {
            let end = frame.len();
            frame[end - 8..].copy_from_slice(&number.to_be_bytes());
        }
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        wire.send_all(&frames);
        self.next += count;
        let took = start.elapsed();
        let due = self.interval * u32::try_from(count).unwrap_or_default();
        std::thread::sleep(due.saturating_sub(took).max(took));
    }
}

/// What has arrived, by number.
#[derive(Default)]
struct Receiver {
    seen: Vec<bool>,
    highest: Option<u64>,
    repeated: u64,
    late: u64,
    overruns: u32,
}

impl Receiver {
    fn run(mut self, mut wire: Wire, stream: &[u8], progress: &Progress) -> Self {
        let _ = sys::favour_thread(1);
        while !progress.stop_receiving.load(Ordering::Relaxed) {
            let mut arrived = 0;
            wire.for_each(Duration::from_millis(20), |frame| {
                if let Some(number) = number_in(frame, stream) {
                    arrived += 1;
                    self.note(number);
                }
            });
            let passed = self.highest.map_or(0, |highest| highest + 1);
            progress.passed.store(passed, Ordering::Relaxed);
            progress.received.fetch_add(arrived, Ordering::Relaxed);
        }
        self.overruns = wire.overruns();
        self
    }

    fn note(&mut self, number: u64) {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if self.seen.len() <= index {
            self.seen.resize((index + 1).next_power_of_two(), false);
        }
        self.repeated += u64::from(self.seen[index]);
        self.seen[index] = true;
        match self.highest {
            Some(highest) if number < highest => self.late += 1,
            _ => self.highest = Some(number),
        }
    }

    fn report(&self, sent: u64) -> Report {
        let mut report = Report {
            sent,
            repeated: self.repeated,
            late: self.late,
            overruns: self.overruns,
            ..Report::default()
        };
        for number in 0..sent {
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            if self.seen.get(index) == Some(&true) {
                report.received += 1;
                continue;
            }
            report.lost += 1;
            match report.gaps.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => report.gaps.push((number, number)),
            }
        }
        report.gaps.truncate(GAPS_SHOWN);
        report
    }
}

fn overflowed(links: &[End]) -> u64 {
    links.iter().map(End::overflowed).sum()
}

/// The number of a frame of this stream.
fn number_in(frame: &[u8], stream: &[u8]) -> Option<u64> {
    let trailer = frame.get(frame.len().checked_sub(TRAILER)?..)?;
    let (marker, rest) = trailer.split_at(MARKER.len());
    let (id, number) = rest.split_at(stream.len());
    (marker == MARKER && id == stream)
        .then(|| u64::from_be_bytes(number.try_into().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_repeated_and_late_packets_are_counted_exactly() {
        let mut receiver = Receiver::default();
        for number in [0, 1, 4, 3, 4, 8] {
            receiver.note(number);
        }
        let report = receiver.report(10);
        assert_eq!(
            (report.received, report.lost, report.repeated, report.late),
            (5, 5, 1, 1)
        );
        assert_eq!(report.gaps, [(2, 2), (5, 7), (9, 9)]);
    }

    #[test]
    fn a_number_is_found_only_in_frames_of_its_stream() {
        let mut frame = payload(7, 64);
        let end = frame.len();
        frame[end - 8..].copy_from_slice(&99_u64.to_be_bytes());
        assert_eq!(number_in(&frame, &7_u32.to_be_bytes()), Some(99));
        assert_eq!(number_in(&frame, &8_u32.to_be_bytes()), None);
        assert_eq!(number_in(&frame[..10], &7_u32.to_be_bytes()), None);
    }

    #[test]
    fn only_what_links_and_socket_have_lost_may_be_missing() {
        let report = Report {
            sent: 10,
            received: 7,
            lost: 3,
            overflowed: 2,
            overruns: 1,
            ..Report::default()
        };
        report.assert_nothing_lost();
        let bad = [
            Report {
                overflowed: 1,
                ..report.clone()
            },
            Report {
                overruns: 0,
                ..report.clone()
            },
            Report {
                repeated: 1,
                ..report.clone()
            },
            Report {
                received: 0,
                ..report
            },
        ];
        for report in bad {
            let judged = std::panic::catch_unwind(|| report.assert_nothing_lost());
            assert!(judged.is_err(), "{report:?}");
        }
    }
}
