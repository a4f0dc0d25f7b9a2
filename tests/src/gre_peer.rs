//! A customer's site: GRE endpoints in userspace on an underlay device, each joined to a TUN device behind which a real
//! kernel sends and receives.
//!
//! Suites start it in-process with [`Endpoint::start`], the `gre-site` binary does for the demo. Every packet is judged
//! by `gre`; what a correct gateway would not send is refused and counted, never passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::gre::{Header, Outer, Refusal, Tunnel, version};
use crate::link::End;
use crate::netns::Handle;
use crate::packet::ETHERNET_HEADER;
use crate::sys::{self, BATCH, PacketSocket, ReceiveBatch};

/// Larger than any frame of a link between namespaces.
const FRAME_SIZE: usize = 1 << 16;
const RECEIVE_BUFFER: usize = 64 << 20;

/// One tunnel of a site with the device that is its inside.
pub struct Site {
    /// The tunnel as this side sees it.
    pub tunnel: Tunnel,
    /// Reads and writes whole inner packets without blocking: a TUN device.
    pub inside: File,
}

impl Site {
    /// Creates a TUN device in `namespace` and brings it up.
    ///
    /// # Errors
    /// What the kernel reports; `EBUSY` if the name is taken.
    pub fn with_tun(
        tunnel: Tunnel,
        namespace: &Handle,
        device: &str,
        mtu: u16,
    ) -> io::Result<Self> {
        let inside = namespace.run(|| sys::tun(device))?;
        namespace.sh(&format!(
            "ip link set dev {device} mtu {mtu} txqueuelen 10000 up"
        ));
        Ok(Self { tunnel, inside })
    }
}

/// What a tunnel of a site has done so far. Bytes are those of inner packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets encapsulated and handed to the underlay.
    pub sent_packets: u64,
    /// Their inner bytes.
    pub sent_bytes: u64,
    /// Packets that the underlay refused to take (too long, no route).
    pub unsent_packets: u64,
    /// Packets accepted and handed to the inside.
    pub received_packets: u64,
    /// Their inner bytes.
    pub received_bytes: u64,
    /// Sequence number of the first packet accepted.
    pub first_sequence: Option<u32>,
    /// Sequence number of the last packet accepted.
    pub last_sequence: Option<u32>,
    /// IPv6 flow labels seen; [`FLOW_LABEL_LIMIT`] at most are kept.
    pub flow_labels: BTreeSet<u32>,
}

/// Flow labels remembered per tunnel.
pub const FLOW_LABEL_LIMIT: usize = 1024;

/// A thread that runs the tunnels of one underlay device; it ends when this is dropped.
pub struct Endpoint {
    state: Arc<Mutex<State>>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Starts the tunnels on the underlay device `underlay`, whose namespace answers ARP and neighbour solicitations.
    /// There must be a route to each tunnel's remote.
    ///
    /// # Errors
    /// What the kernel reports about sockets.
    pub fn start(underlay: &End, sites: Vec<Site>) -> io::Result<Self> {
        let index = underlay.namespace.interface_index(&underlay.device);
        let state = Arc::new(Mutex::new(State {
            tunnels: vec![Counters::default(); sites.len()],
            refused: BTreeMap::new(),
        }));
        let (stop_reader, stop) = io::pipe()?;
        let runner = underlay
            .namespace
            .run(|| Runner::open(index, underlay.mac, sites, Arc::clone(&state)))?;
        let thread = std::thread::Builder::new()
            .name("gre-site".to_owned())
            .spawn(move || runner.run(&stop_reader))?;
        Ok(Self {
            state,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The counters of the tunnel that stood at this place in [`Endpoint::start`]'s list.
    ///
    /// # Panics
    /// If there is no such tunnel.
    pub fn counters(&self, tunnel: usize) -> Counters {
        lock(&self.state).tunnels[tunnel].clone()
    }

    /// What was refused, by reason.
    pub fn refused(&self) -> BTreeMap<Refusal, u64> {
        lock(&self.state).refused.clone()
    }

    /// Fails the test if the gateway sent anything that it should not have.
    ///
    /// # Panics
    /// With the reasons and numbers.
    #[track_caller]
    pub fn assert_nothing_refused(&self) {
        let refused = self.refused();
        assert!(
            refused.is_empty(),
            "the peer refused packets of the gateway: {refused:?}"
        );
    }

    /// Whether the thread has ended, which it does only when its devices fail.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Closing the pipe wakes the thread.
        self.stop.take();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the thread of a site panicked");
        }
    }
}

struct State {
    tunnels: Vec<Counters>,
    refused: BTreeMap<Refusal, u64>,
}

/// One tunnel at work.
struct Running {
    tunnel: Tunnel,
    inside: File,
    underlay: File,
    next_sequence: u32,
    expected_sequence: Option<u32>,
}

struct Runner {
    socket: PacketSocket,
    mac: [u8; 6],
    tunnels: Vec<Running>,
    state: Arc<Mutex<State>>,
    /// An inner packet on its way out, and the outer one made of it.
    inner: Vec<u8>,
    packet: Vec<u8>,
    /// While these are open the kernel leaves GRE to us.
    _claims: [OwnedFd; 2],
}

impl Runner {
    /// Opens everything in the namespace of the calling thread.
    fn open(
        index: u32,
        mac: [u8; 6],
        sites: Vec<Site>,
        state: Arc<Mutex<State>>,
    ) -> io::Result<Self> {
        let claims = [sys::gre_claim(false)?, sys::gre_claim(true)?];
        let socket = PacketSocket::open(index, RECEIVE_BUFFER)?;
        let tunnels = sites
            .into_iter()
            .map(|Site { tunnel, inside }| {
                let underlay = sys::raw_ip_sender(tunnel.remote)?;
                Ok(Running {
                    tunnel,
                    inside,
                    underlay,
                    next_sequence: 0,
                    expected_sequence: None,
                })
            })
            .collect::<io::Result<_>>()?;
        let (inner, packet) = (vec![0; FRAME_SIZE], Vec::with_capacity(FRAME_SIZE));
        Ok(Self {
            socket,
            mac,
            tunnels,
            state,
            inner,
            packet,
            _claims: claims,
        })
    }

    fn run(mut self, stop: &PipeReader) {
        let mut batch = ReceiveBatch::new(FRAME_SIZE);
        loop {
            let ready = self.wait(stop);
            if ready[0] {
                return;
            }
            if ready[1]
                && let Err(error) = self.receive(&mut batch)
            {
                eprintln!("a site cannot receive from its underlay: {error}");
                return;
            }
            for (index, ready) in ready[2..].iter().enumerate() {
                if *ready && let Err(error) = self.transmit(index) {
                    eprintln!("a site cannot read its inside: {error}");
                    return;
                }
            }
        }
    }

    /// Waits; tells for the stop pipe, the underlay and each inside whether there is something to do.
    fn wait(&self, stop: &PipeReader) -> Vec<bool> {
        let mut descriptors = vec![
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.socket.file().as_fd(), PollFlags::POLLIN),
        ];
        for running in &self.tunnels {
            descriptors.push(PollFd::new(running.inside.as_fd(), PollFlags::POLLIN));
        }
        if poll(&mut descriptors, PollTimeout::NONE).is_err() {
            return vec![false; descriptors.len()];
        }
        descriptors
            .iter()
            .map(|descriptor| descriptor.any().unwrap_or(false))
            .collect()
    }

    /// Underlay → insides.
    fn receive(&mut self, batch: &mut ReceiveBatch) -> io::Result<()> {
        let mut state = lock(&self.state);
        let (mac, tunnels) = (self.mac, &mut self.tunnels);
        batch.receive(&self.socket, |frame, _| {
            if let Err(refusal) = accept(mac, tunnels, &mut state.tunnels, frame) {
                *state.refused.entry(refusal).or_default() += 1;
            }
        })?;
        Ok(())
    }

    /// One inside → underlay, a batch at most so that the other direction is not starved.
    fn transmit(&mut self, index: usize) -> io::Result<()> {
        let running = &mut self.tunnels[index];
        for _ in 0..BATCH {
            let length = match running.inside.read(&mut self.inner) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The device was set down, or the kernel dropped what we would have read.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(()),
                Err(error) => return Err(error),
            };
            self.packet.clear();
            running.tunnel.encapsulate(
                &self.inner[..length],
                running.next_sequence,
                &mut self.packet,
            );
            let counters = &mut lock(&self.state).tunnels[index];
            if running.underlay.write(&self.packet).is_ok() {
                running.next_sequence = running.next_sequence.wrapping_add(1);
                counters.sent_packets += 1;
                counters.sent_bytes += length as u64;
            } else {
                counters.unsent_packets += 1;
            }
        }
        Ok(())
    }
}

/// Judges one frame and hands its inner packet to the inside that it is for. Frames that are not GRE are the kernel's.
fn accept(
    mac: [u8; 6],
    tunnels: &mut [Running],
    counters: &mut [Counters],
    frame: &[u8],
) -> Result<(), Refusal> {
    let Some(packet) = frame.get(ETHERNET_HEADER..) else {
        return Ok(());
    };
    let expected_version = match frame[12..ETHERNET_HEADER] {
        [0x08, 0x00] => 4,
        [0x86, 0xdd] => 6,
        _ => return Ok(()),
    };
    if version(packet) != Some(expected_version) {
        return Ok(());
    }
    let Some(outer) = Outer::parse(packet)? else {
        return Ok(());
    };
    if frame[..6] != mac {
        return Err(Refusal::DestinationMac);
    }
    let header = Header::parse(outer.payload)?;
    let index = tunnels
        .iter()
        .position(|running| {
            let tunnel = &running.tunnel;
            (tunnel.local, tunnel.remote, tunnel.receive_key)
                == (outer.destination, outer.source, header.key)
        })
        .ok_or(Refusal::UnknownTunnel)?;
    let (running, counters) = (&mut tunnels[index], &mut counters[index]);
    let (inner, sequence) = running.tunnel.check(&outer)?;
    if let Some(sequence) = sequence {
        let in_order = running
            .expected_sequence
            .is_none_or(|expected| expected == sequence);
        running.expected_sequence = Some(sequence.wrapping_add(1));
        if !in_order {
            return Err(Refusal::SequenceOrder);
        }
        counters.first_sequence.get_or_insert(sequence);
        counters.last_sequence = Some(sequence);
    }
    if let Some(label) = outer.flow_label
        && counters.flow_labels.len() < FLOW_LABEL_LIMIT
    {
        counters.flow_labels.insert(label);
    }
    counters.received_packets += 1;
    counters.received_bytes += inner.len() as u64;
    // The inside may be down or full; then the packet is lost there, as on any host.
    let _ = running.inside.write(inner);
    Ok(())
}

/// A panic elsewhere leaves plain counters behind, which are still good to read.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
