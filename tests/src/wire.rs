//! Frames in and out of one end of a link, byte by byte: what a test sends is on the wire as it stands, and what
//! arrives is seen as it arrived, VLAN tag included.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::link::End;
use crate::packet::contains;
use crate::sys::{BATCH, PacketSocket, ReceiveBatch};
use crate::wait::PATIENCE;

const RECEIVE_BUFFER: usize = 64 << 20;
const FRAME_SIZE: usize = 16 << 10;
/// A VLAN tag stands behind both MAC addresses.
const TAG_OFFSET: usize = 12;

/// A socket on one end of a link.
pub struct Wire {
    socket: PacketSocket,
    batch: ReceiveBatch,
    waiting: std::collections::VecDeque<Vec<u8>>,
}

impl Wire {
    /// Opens the end; frames that arrive from now on are kept.
    ///
    /// # Panics
    /// Without CAP_NET_RAW.
    pub fn open(end: &End) -> Self {
        let index = end.namespace.interface_index(&end.device);
        let socket = end
            .namespace
            .run(|| PacketSocket::open(index, RECEIVE_BUFFER))
            .unwrap_or_else(|error| panic!("packet socket on {}: {error}", end.device));
        Self {
            socket,
            batch: ReceiveBatch::new(FRAME_SIZE),
            waiting: std::collections::VecDeque::new(),
        }
    }

    /// Sends one frame.
    ///
    /// # Panics
    /// If the kernel does not take it.
    pub fn send(&self, frame: &[u8]) {
        self.send_all(&[frame]);
    }

    /// Sends frames in order.
    ///
    /// # Panics
    /// If the kernel does not take one of them.
    pub fn send_all(&self, frames: &[&[u8]]) {
        for chunk in frames.chunks(BATCH) {
            let mut rest = chunk;
            while !rest.is_empty() {
                match self.socket.send(rest) {
                    Ok(sent) => rest = &rest[sent..],
                    // The queue of the device is full: give its consumer the processor.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        std::thread::yield_now();
                    }
                    Err(error) => panic!("sending a frame of {} bytes: {error}", rest[0].len()),
                }
            }
        }
    }

    /// The next frame that `wanted` accepts; frames before it are thrown away.
    ///
    /// # Panics
    /// If there is none; `what` completes the sentence "waited in vain for …".
    #[track_caller]
    pub fn expect<T>(&mut self, what: &str, wanted: impl FnMut(&[u8]) -> Option<T>) -> T {
        let found = self.find(PATIENCE, wanted);
        found.unwrap_or_else(|| panic!("waited in vain for {what}"))
    }

    /// All frames before the first that contains `marker`, which shows that what was sent before it on the same way will
    /// not come any more.
    ///
    /// # Panics
    /// If the marker does not arrive.
    #[track_caller]
    pub fn before(&mut self, marker: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.expect("the marker", |frame| {
            let is_marker = contains(frame, marker);
            if !is_marker {
                frames.push(frame.to_vec());
            }
            is_marker.then_some(())
        });
        frames
    }

    /// Everything that arrived and was not looked at yet.
    pub fn drain(&mut self) -> Vec<Vec<u8>> {
        while self.fetch() > 0 {}
        self.waiting.drain(..).collect()
    }

    /// Frames lost because this socket was not read in time.
    ///
    /// # Panics
    /// If the kernel does not tell.
    pub fn overruns(&self) -> u32 {
        self.socket
            .overruns()
            .unwrap_or_else(|error| panic!("packet socket statistics: {error}"))
    }

    /// The same for who asks again after `limit`.
    pub(crate) fn find<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + limit;
        loop {
            while let Some(frame) = self.waiting.pop_front() {
                if let Some(found) = wanted(&frame) {
                    return Some(found);
                }
            }
            if !self.wait_until(end) {
                return None;
            }
            self.fetch();
        }
    }

    /// Hands every frame that arrived to `each`, without keeping it; waits up to `limit` for the first.
    pub(crate) fn for_each(&mut self, limit: Duration, mut each: impl FnMut(&[u8])) -> usize {
        if !self.wait_until(Instant::now() + limit) {
            return 0;
        }
        self.batch
            .receive(&self.socket, |frame, _| each(frame))
            .unwrap_or_else(|error| panic!("receiving from a packet socket: {error}"))
    }

    fn fetch(&mut self) -> usize {
        let waiting = &mut self.waiting;
        self.batch
            .receive(&self.socket, |frame, tag| {
                waiting.push_back(with_tag(frame, tag));
            })
            .unwrap_or_else(|error| panic!("receiving from a packet socket: {error}"))
    }

    fn wait_until(&self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        let mut descriptors = [PollFd::new(self.socket.file().as_fd(), PollFlags::POLLIN)];
        poll(&mut descriptors, timeout).is_ok_and(|ready| ready > 0)
    }
}

/// The frame as it was on the wire: the kernel takes the tag out before it shows a frame.
fn with_tag(frame: &[u8], tag: Option<(u16, u16)>) -> Vec<u8> {
    let mut whole = frame.to_vec();
    if let Some((tpid, tci)) = tag {
        let bytes = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
        whole.splice(TAG_OFFSET..TAG_OFFSET, bytes);
    }
    whole
}
