//! A stream of numbered packets at a constant rate, and an exact account of those that arrived.
//!
//! Suites run one beside an operation that must be hitless. The number stands at the end of each frame, so that it is
//! found whether the frame arrives bare or inside a tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::link::End;
use crate::sys;
use crate::wire::Wire;

/// Packets per second that "zero loss" is claimed at.
pub const FULL_RATE: u64 = 100_000;

/// Bytes at the end of the payload: marker, stream, number.
const TRAILER: usize = 8 + 4 + 8;
const MARKER: [u8; 8] = *b"GREstrm\0";
/// Frames sent back to back at most; a veth ring holds 256.
const BURST: u64 = 32;
const PAUSE: Duration = Duration::from_micros(150);
/// Runs of lost packets that a report names.
const GAPS_SHOWN: usize = 10;
/// After the sender has stopped, this long without a packet means that none is under way.
const QUIET: Duration = Duration::from_millis(300);

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

/// A stream under way.
pub struct Stream {
    egress: End,
    overflowed_before: u64,
    stop_sending: Arc<AtomicBool>,
    stop_receiving: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Receiver>,
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
    /// Packets that were sent to the last link while its ring of 256 frames was full: a busy machine did not let the
    /// receiving end empty it. They are lost, but not by whom the test is about.
    pub overflowed: u64,
    /// First and last numbers of the first runs of lost packets.
    pub gaps: Vec<(u64, u64)>,
    /// Packets that arrived more than once.
    pub repeated: u64,
    /// Packets that arrived after one with a higher number.
    pub late: u64,
    /// Frames that the receiving socket itself lost; anything but 0 makes the account unusable.
    pub overruns: u32,
    /// Time during which packets were sent.
    pub duration: Duration,
}

impl Report {
    /// Fails the test unless every packet that reached the last link arrived exactly once, at no less than two fifths
    /// of `rate`. A busy machine may cost a few at that link, and some of the rate.
    ///
    /// # Panics
    /// With the whole account.
    #[track_caller]
    pub fn assert_lossless(&self, rate: u64) {
        assert_eq!(
            self.overruns, 0,
            "the test's own socket lost frames: {self:?}"
        );
        assert_eq!(self.repeated, 0, "{self:?}");
        assert!(
            self.lost <= self.overflowed,
            "packets were lost before the last link: {self:?}"
        );
        assert!(
            self.lost <= self.sent / 100,
            "the last link lost too many packets to tell: {self:?}"
        );
        // Speed is the benchmark's matter: sender, gateway and daemon share two cores here, and a loss shows at less, too.
        let achieved = self.sent as f64 / self.duration.as_secs_f64();
        assert!(
            achieved >= rate as f64 * 0.4,
            "only {achieved:.0} packets/s were sent: {self:?}"
        );
    }
}

impl Stream {
    /// Sends copies of `frame`, whose payload was made by [`payload`], at `rate` packets per second, and counts what
    /// arrives at the other end of the path.
    ///
    /// # Panics
    /// If a socket or thread cannot be made.
    pub fn start(path: Path<'_>, frame: Vec<u8>, rate: u64) -> Self {
        let Path { from, egress, to } = path;
        let stop_sending = Arc::new(AtomicBool::new(false));
        let stop_receiving = Arc::new(AtomicBool::new(false));
        let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let stream = frame[frame.len() - TRAILER + MARKER.len()..frame.len() - 8].to_vec();
        let receiver = {
            let (wire, stop, received) = (
                Wire::open(to),
                Arc::clone(&stop_receiving),
                Arc::clone(&received),
            );
            std::thread::spawn(move || Receiver::default().run(wire, &stream, &stop, &received))
        };
        let sender = {
            let (wire, stop, sent) = (
                Wire::open(from),
                Arc::clone(&stop_sending),
                Arc::clone(&sent),
            );
            std::thread::spawn(move || send(&wire, frame, rate, &stop, &sent))
        };
        let (egress, overflowed_before) = (egress.clone(), overflowed(egress));
        Self {
            egress,
            overflowed_before,
            stop_sending,
            stop_receiving,
            sent,
            received,
            sender,
            receiver,
        }
    }

    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Packets received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for what is under way and returns the account.
    ///
    /// # Panics
    /// If a thread of the stream did.
    pub fn stop(self) -> Report {
        self.stop_sending.store(true, Ordering::Relaxed);
        self.sender.join().expect("the sender of a stream panicked");
        let sent = self.sent.load(Ordering::Relaxed);
        crate::wait::settled(QUIET, Duration::from_secs(10), || {
            self.received.load(Ordering::Relaxed)
        });
        self.stop_receiving.store(true, Ordering::Relaxed);
        let receiver = self
            .receiver
            .join()
            .expect("the receiver of a stream panicked");
        Report {
            overflowed: overflowed(&self.egress) - self.overflowed_before,
            ..receiver.report(sent)
        }
    }
}

fn send(wire: &Wire, mut frame: Vec<u8>, rate: u64, stop: &AtomicBool, sent: &AtomicU64) {
    // Sender and data plane share one processor, the receiver has the other; elsewhere it has to do without.
    let _ = sys::favour_thread(0);
    let mut frames = vec![frame.clone(); usize::try_from(BURST).unwrap_or_default()];
    let number_at = frame.len() - 8;
    frame.clear();
    let start = Instant::now();
    let mut next = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let due =
            u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX) / (1_000_000_000 / rate);
        if due <= next {
            std::thread::sleep(PAUSE);
            continue;
        }
        let count = usize::try_from((due - next).min(BURST)).unwrap_or_default();
        for (frame, number) in frames[..count].iter_mut().zip(next..) {
            frame[number_at..].copy_from_slice(&number.to_be_bytes());
        }
        let batch: Vec<&[u8]> = frames[..count].iter().map(Vec::as_slice).collect();
        match wire.socket().send(&batch) {
            Ok(taken) => next += taken as u64,
            // The queue of the device is full; nothing was taken and nothing is lost.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => std::thread::yield_now(),
            Err(error) => panic!("sending a stream: {error}"),
        }
        sent.store(next, Ordering::Relaxed);
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
    duration: Duration,
}

impl Receiver {
    fn run(
        mut self,
        mut wire: Wire,
        stream: &[u8],
        stop: &AtomicBool,
        received: &AtomicU64,
    ) -> Self {
        let _ = sys::favour_thread(1);
        let mut first = None;
        while !stop.load(Ordering::Relaxed) {
            let mut arrived = 0;
            wire.for_each(Duration::from_millis(20), |frame| {
                if let Some(number) = number_in(frame, stream) {
                    arrived += 1;
                    self.note(number);
                }
            });
            if arrived > 0 {
                received.fetch_add(arrived, Ordering::Relaxed);
                self.duration = first.get_or_insert_with(Instant::now).elapsed();
            }
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
            duration: self.duration,
            ..Report::default()
        };
        for number in 0..sent {
            let seen = usize::try_from(number)
                .ok()
                .and_then(|index| self.seen.get(index))
                .copied()
                .unwrap_or_default();
            if seen {
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

/// Frames redirected to a veth device whose other end had no room, since the device exists.
fn overflowed(device: &End) -> u64 {
    let statistics = device
        .namespace
        .sh(&format!("ethtool -S {}", device.device));
    let errors = statistics
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tx_queue_0_xdp_xmit_errors: "));
    errors.filter_map(|count| count.parse::<u64>().ok()).sum()
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
}
