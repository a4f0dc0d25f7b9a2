//! The benchmark's own BPF programs, loaded once for all cases: the generator, the bare redirect and the sink.
//!
//! Only one case runs at a time; [`Programs::select`] tells generator and sink which.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuValues, xdp::DevMap};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, Pod, include_bytes_aligned};
use gre_bench_ebpf::{Counts, Expectation, HEADS, Head, Progress, SECTION, Selection};
use memmap2::{MmapOptions, MmapRaw};

use crate::bed::Device;

/// Built by the build script.
static OBJECT: &[u8] =
    include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gre-bench-programs.bpf.o"));

/// Frames that the kernel makes at once: the budget of one NAPI poll, so that no queue on the way overflows.
const BATCH: u32 = 64;
/// Bytes of `struct xdp_md`.
const CONTEXT_LENGTH: usize = 24;

/// The loaded programs and their maps.
pub(crate) struct Programs {
    ebpf: Ebpf,
    heads: Heads,
    selection: Array<MapData, Plain<Selection>>,
    expectation: Array<MapData, Plain<Expectation>>,
    progress: PerCpuArray<MapData, Plain<Progress>>,
    counts: PerCpuArray<MapData, Plain<Counts>>,
    target: DevMap<MapData>,
}

impl Programs {
    /// Loads the programs, attached to nothing.
    pub(crate) fn load() -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("cannot load the benchmark's BPF maps")?;
        for name in ["generator", "pass", "redirect", "sink"] {
            program(&mut ebpf, name)?
                .load()
                .with_context(|| format!("cannot load BPF program {name}"))?;
        }
        Ok(Self {
            heads: Heads::new(&mut ebpf)?,
            selection: take(&mut ebpf, "SELECTION")?,
            expectation: take(&mut ebpf, "EXPECTATION")?,
            progress: take(&mut ebpf, "PROGRESS")?,
            counts: take(&mut ebpf, "COUNTS")?,
            target: take(&mut ebpf, "TARGET")?,
            ebpf,
        })
    }

    /// Stores heads to be sent. Their number must be a power of two.
    pub(crate) fn add_heads(&mut self, heads: &[Head]) -> Result<Selection> {
        self.heads.add(heads)
    }

    /// Drops and counts what arrives at a device of the calling thread's namespace.
    pub(crate) fn attach_sink(&mut self, device: Device) -> Result<()> {
        self.attach("sink", device)
    }

    /// Sends what arrives at `device` out of `target`, both of the calling thread's namespace.
    pub(crate) fn attach_redirect(&mut self, device: Device, target: Device) -> Result<()> {
        self.target
            .set(0, target.index, None, 0)
            .with_context(|| format!("cannot make {} the target of the redirect", target.name))?;
        self.attach("redirect", device)
    }

    /// Makes generator and sink ready for a case.
    pub(crate) fn select(&mut self, selection: Selection, expectation: Expectation) -> Result<()> {
        self.selection
            .set(0, Plain(selection), 0)
            .context("cannot write map SELECTION")?;
        self.expectation
            .set(0, Plain(expectation), 0)
            .context("cannot write map EXPECTATION")
    }

    /// Sends `repeat` frames like `frame`, with the selected heads, off a device of the calling thread's namespace.
    /// Returns, once all have been dealt with on this CPU, how many were sent a second. (The call takes some 30 ms more:
    /// the kernel makes and gives back the frames' memory.)
    pub(crate) fn send(&mut self, device: Device, frame: &[u8], repeat: u32) -> Result<f64> {
        let cpus = nr_cpus()
            .map_err(|(_, source)| source)
            .context("cannot count the CPUs")?;
        let unmade = PerCpuValues::try_from(vec![Plain(Progress::default()); cpus])?;
        self.progress
            .set(0, unmade, 0)
            .context("cannot write map PROGRESS")?;
        let mut context = [0; CONTEXT_LENGTH];
        // `data_end` and `ingress_ifindex`; the others stay 0.
        context[4..8].copy_from_slice(&u32::try_from(frame.len())?.to_ne_bytes());
        context[12..16].copy_from_slice(&device.index.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.repeat = repeat;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        program(&mut self.ebpf, "generator")?
            .test_run(options)
            .with_context(|| format!("cannot send frames from {}", device.name))?;
        self.rate()
    }

    /// What has arrived at sinks since the programs were loaded.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let counts = self.counts.get(&0, 0).context("cannot read map COUNTS")?;
        Ok(counts.iter().fold(Counts::default(), |sum, cpu| {
            let last = if cpu.0.unexpected > 0 { cpu.0 } else { sum };
            Counts {
                expected: sum.expected + cpu.0.expected,
                unexpected: sum.unexpected + cpu.0.unexpected,
                last_length: last.last_length,
                last_head: last.last_head,
            }
        }))
    }

    /// Lets a device of the calling thread's namespace receive frames from the generator, for the kernel.
    pub(crate) fn attach_pass(&mut self, device: Device) -> Result<()> {
        self.attach("pass", device)
    }

    fn rate(&self) -> Result<f64> {
        let progress = self
            .progress
            .get(&0, 0)
            .context("cannot read map PROGRESS")?;
        let Progress {
            made,
            start,
            section,
        } = progress
            .iter()
            .map(|cpu| cpu.0)
            .find(|progress| progress.made > 0)
            .context("the generator has made no frame")?;
        let frames = (made - 1) / SECTION * SECTION;
        ensure!(
            frames > 0,
            "{made} frames are too few to tell their rate: make rounds longer"
        );
        Ok(frames as f64 / Duration::from_nanos(section - start).as_secs_f64())
    }

    fn attach(&mut self, name: &str, device: Device) -> Result<()> {
        // The object keeps the link.
        program(&mut self.ebpf, name)?
            .attach_to_if_index(device.index, XdpMode::Driver)
            .with_context(|| format!("cannot attach BPF program {name} to {}", device.name))?;
        Ok(())
    }
}

/// The heads that the generator chooses from, in the memory of their map.
struct Heads {
    memory: MmapRaw,
    used: usize,
}

impl Heads {
    fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let Some(Map::Array(map)) = ebpf.take_map("HEADS_TO_SEND") else {
            bail!("the object has no array HEADS_TO_SEND");
        };
        let memory = MmapOptions::new()
            .len(HEADS * size_of::<Head>())
            .map_raw(map.fd().as_fd().as_raw_fd())
            .context("cannot map the memory of map HEADS_TO_SEND")?;
        Ok(Self { memory, used: 0 })
    }

    fn add(&mut self, heads: &[Head]) -> Result<Selection> {
        ensure!(
            heads.len().is_power_of_two() && self.used + heads.len() <= HEADS,
            "there is no room for {} more frames to send",
            heads.len()
        );
        for (place, head) in (self.used..).zip(heads) {
            let place = self.memory.as_mut_ptr().cast::<Head>().wrapping_add(place);
            // SAFETY: the mapping has `HEADS` entries, page-aligned; the generator is not running.
            unsafe { place.write(*head) };
        }
        let selection = Selection {
            first: u32::try_from(self.used)?,
            mask: u32::try_from(heads.len() - 1)?,
        };
        self.used += heads.len();
        Ok(selection)
    }
}

/// An entry, as aya wants to see it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);

// SAFETY: `repr(C)` over integers, without padding.
unsafe impl Pod for Plain<Selection> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Expectation> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Progress> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Counts> {}

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    ebpf.program_mut(name)
        .with_context(|| format!("the object has no program {name}"))?
        .try_into()
        .with_context(|| format!("program {name} is not for XDP"))
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("cannot use map {name}"))
}
