//! One gateway twice: in the kernel and on the host. Every frame goes through both, and whatever differs panics.
//!
//! The suites of tier 2 share one such pair for each process: its network namespace has no name and goes away with it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gre_common::entry::TunnelFlags;
use gre_common::event::Event;
use gre_common::id::{IfIndex, TunnelId};
use gre_common::pipeline::sequence;
use gre_common::tables::SequenceEntry;
use gre_common::verdict::DropReason;
use gre_model::example::{self, Devices};
use gre_model::{Action, Counters, Gateway, HostGateway, Outcome};
use nix::time::ClockId;

use crate::bpf::Attachment;
use crate::kernel_gateway::KernelGateway;
use crate::link::Veth;
use crate::netns::{Handle, Namespace};

/// The pair, and what both have counted so far.
pub struct BothSides {
    /// The gateway in the kernel.
    pub kernel: KernelGateway,
    /// The gateway on the host.
    pub host: HostGateway,
    /// The devices of both.
    pub devices: Devices,
    /// The links of the devices.
    pub links: Links,
    /// What both were made from.
    pub tables: Gateway,
    /// The tunnels that require sequence numbers.
    numbered: Vec<TunnelId>,
    counters: Counters,
}

/// The gateway's devices with what faces them.
pub struct Links {
    /// Link of the underlay device.
    pub underlay: Veth,
    /// Link of the access device.
    pub access: Veth,
    /// Link of the trunk device.
    pub trunk: Veth,
    _receivers: Vec<Attachment>,
}

/// What both sides did with one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Action and resulting bytes.
    pub outcome: Outcome,
    /// Why it was dropped, if it was.
    pub reason: Option<DropReason>,
    /// What was counted.
    pub counted: Counters,
    /// What the daemon was told.
    pub events: Vec<Event>,
}

impl BothSides {
    /// The pair of this process, and the calling thread in its network namespace.
    ///
    /// # Panics
    /// If a device or program cannot be made.
    pub fn shared() -> MutexGuard<'static, Self> {
        static SHARED: OnceLock<(Handle, Mutex<BothSides>)> = OnceLock::new();
        let (namespace, both) = SHARED.get_or_init(|| {
            let named = Namespace::new("both");
            let namespace = (*named).clone();
            let both = namespace.run(|| Self::new(&namespace));
            // Dropping it takes the name away; the namespace lives as long as this process has it open.
            drop(named);
            (namespace, Mutex::new(both))
        });
        namespace.enter();
        // A test that failed has told so; the next one may still find out something else.
        both.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new(namespace: &Handle) -> Self {
        let link = |name: &str| Veth::new((namespace, name), (namespace, &format!("{name}-far")));
        let (underlay, access, trunk) = (link("underlay"), link("access"), link("trunk"));
        let receivers = [&underlay, &access, &trunk].map(|link| link.far.face_gateway());
        let index = |link: &Veth| IfIndex(namespace.interface_index(&link.near.device));
        let devices = Devices {
            underlay: index(&underlay),
            access: index(&access),
            trunk: index(&trunk),
        };
        let tables = example::gateway(devices);
        Self {
            kernel: KernelGateway::load(&tables),
            host: HostGateway::new(&tables),
            devices,
            links: Links {
                underlay,
                access,
                trunk,
                _receivers: receivers.into(),
            },
            numbered: numbered(&tables),
            tables,
            counters: Counters::default(),
        }
    }

    /// Runs one frame through both.
    ///
    /// # Panics
    /// If they differ in action, bytes, events or what this frame counts for.
    #[track_caller]
    pub fn run(&mut self, device: IfIndex, frame: &[u8]) -> Seen {
        self.run_after(Duration::ZERO, device, frame)
    }

    /// Runs one frame through both, so long after each tunnel has accepted its last sequence number.
    ///
    /// # Panics
    /// As [`BothSides::run`].
    #[track_caller]
    pub fn run_after(&mut self, silence: Duration, device: IfIndex, frame: &[u8]) -> Seen {
        self.date_sequences(silence);
        let in_kernel = self.kernel.run(device, frame);
        self.host.set_time(coarse_time());
        let (outcome, reason) = self.host.run(device, frame);
        assert_eq!(
            in_kernel, outcome,
            "kernel, host ({reason:?}); frame {frame:02x?}"
        );
        let events = self.host.take_events();
        assert_eq!(
            self.kernel.take_events(),
            events,
            "kernel, host; frame {frame:02x?}"
        );
        self.renew_event_budgets(&events);
        let counted = self.counted(frame);
        check_accounts(&outcome, reason, &counted);
        Seen {
            outcome,
            reason,
            counted,
            events,
        }
    }

    /// Runs one frame through both, and sends what becomes of the kernel's one.
    ///
    /// # Panics
    /// If they count differently.
    pub fn run_live(&mut self, device: IfIndex, frame: &[u8]) {
        self.kernel.run_live(device, frame);
        self.host.set_time(coarse_time());
        self.host.run(device, frame);
        self.counted(frame);
    }

    /// Compares everything that the sides have written so far: all counters, machines in use, sequence numbers. When a
    /// number was accepted may differ, as the sides ran one after the other.
    ///
    /// # Panics
    /// If they differ.
    pub fn compare(&self) {
        assert_eq!(self.kernel.counters(), self.host.counters(), "kernel, host");
        assert_eq!(
            self.kernel.used_neighbours(),
            self.host.used_neighbours(),
            "kernel, host"
        );
        for id in self.tables.tunnels.keys() {
            let (kernel, host) = (self.kernel.sequence(*id), self.host.sequence(*id));
            assert_eq!(kernel.sent, host.sent, "next number of tunnel {id}");
            assert_eq!(
                kernel.received as u32, host.received as u32,
                "last number of tunnel {id}"
            );
        }
    }

    /// Forgets all sequence numbers and learnt machines on both sides.
    pub fn forget(&mut self) {
        self.kernel.forget();
        self.host.forget();
    }

    /// The kernel's clock runs: without this, a tunnel that had to wait for a busy machine would be a silent one, for one
    /// of the sides or both.
    fn date_sequences(&mut self, silence: Duration) {
        let last = coarse_time().saturating_sub(silence.as_nanos() as u64);
        for id in &self.numbered {
            let entry = self.kernel.sequence(*id);
            if entry.received != 0 {
                let received = sequence::accepted_at(entry.received, last);
                self.kernel
                    .set_sequence(*id, SequenceEntry { received, ..entry });
                self.host.set_received(*id, received);
            }
        }
    }

    /// Each frame finds the whole budget of events: the sides run one after the other, and if a tick of the budget began
    /// between them, one would be silent about a frame that the other still tells of.
    fn renew_event_budgets(&mut self, spent_on: &[Event]) {
        self.host.renew_event_budgets();
        for event in spent_on {
            self.kernel.renew_event_budget(event.port);
        }
    }

    /// What the host has counted since the last frame; the kernel must have counted as much there.
    fn counted(&mut self, frame: &[u8]) -> Counters {
        let now = self.host.counters();
        let counted = now.since(&self.counters);
        for owner in counted.stats.keys() {
            let in_kernel = self.kernel.stats(*owner);
            assert_eq!(
                in_kernel, now.stats[owner],
                "kernel, host: {owner:?}; frame {frame:02x?}"
            );
        }
        for key in counted.drops.keys() {
            let in_kernel = self.kernel.drops(key.0, key.1, key.2);
            assert_eq!(
                in_kernel, now.drops[key],
                "kernel, host: {key:?}; frame {frame:02x?}"
            );
        }
        self.counters = now;
        counted
    }
}

/// A packet is counted once where it comes in and once where it goes out or ends.
fn check_accounts(outcome: &Outcome, reason: Option<DropReason>, counted: &Counters) {
    let drops = counted.dropped() + counted.dropped_unclaimed();
    assert!(counted.are_balanced(), "{counted:?}");
    assert!(counted.received() <= 1 && drops <= 1, "{counted:?}");
    assert_eq!(drops == 1, reason.is_some(), "{outcome:?} {counted:?}");
    let reasons: BTreeSet<DropReason> = counted.drops.keys().map(|(.., reason)| *reason).collect();
    assert!(reasons.into_iter().eq(reason), "{reason:?} {counted:?}");
    if outcome.action == Action::Pass {
        assert_eq!(counted, &Counters::default(), "what passes is not counted");
    }
}

fn numbered(tables: &Gateway) -> Vec<TunnelId> {
    let tunnels = tables.tunnels.iter();
    tunnels
        .filter(|(_, entry)| entry.flags.contains(TunnelFlags::SEQUENCE))
        .map(|(id, _)| *id)
        .collect()
}

/// What `bpf_ktime_get_coarse_ns` reads.
fn coarse_time() -> u64 {
    let now = ClockId::CLOCK_MONOTONIC_COARSE
        .now()
        .unwrap_or_else(|error| panic!("CLOCK_MONOTONIC_COARSE: {error}"));
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
