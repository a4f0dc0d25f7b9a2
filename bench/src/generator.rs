//! What makes the frames of one case: a BPF program of its own, with what the frames have in common as constants.
//!
//! Run with `BPF_PROG_TEST_RUN` on live frames. Per frame it reads 16 bytes, so that it leaves the caches to what is
//! under test.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use gre_bench_ebpf::{Flow, Progress, SECTION};
use memmap2::MmapOptions;

use crate::bed::Device;
use crate::head::Frames;
use crate::programs::{OBJECT, Plain, program, take};

/// Frames that the kernel makes at once: the budget of one NAPI poll, so that no queue on the way overflows.
const BATCH: u32 = 64;
/// Bytes of `struct xdp_md`.
const CONTEXT_LENGTH: usize = 24;

/// A loaded generator.
pub(crate) struct Generator {
    ebpf: Ebpf,
    progress: PerCpuArray<MapData, Plain<Progress>>,
    frame: Vec<u8>,
}

impl Generator {
    /// Loads a generator of these frames.
    pub(crate) fn load(frames: &Frames) -> Result<Self> {
        let (template, flows) = frames.compress()?;
        let mut ebpf = EbpfLoader::new()
            .override_global("TEMPLATE", &Plain(template), true)
            .map_max_entries("FLOWS", u32::try_from(flows.len())?)
            .load(OBJECT)
            .context("cannot load the generator's BPF maps")?;
        program(&mut ebpf, "generator")?
            .load()
            .context("cannot load BPF program generator")?;
        store(&mut ebpf, &flows)?;
        Ok(Self {
            progress: take(&mut ebpf, "PROGRESS")?,
            frame: frames.example().to_vec(),
            ebpf,
        })
    }

    /// Bytes of a frame.
    pub(crate) const fn bytes(&self) -> usize {
        self.frame.len()
    }

    /// Sends `repeat` frames off a device of the calling thread's namespace; if they carry numbers, from `first_number`
    /// on. Returns, once all have been dealt with on
    /// this CPU, how many were sent a second. (The call takes some 30 ms more: the kernel makes and gives back the
    /// frames' memory.)
    pub(crate) fn send(&mut self, device: Device, repeat: u32, first_number: u64) -> Result<f64> {
        let cpus = nr_cpus()
            .map_err(|(_, source)| source)
            .context("cannot count the CPUs")?;
        let unmade = Progress {
            first_number,
            ..Progress::default()
        };
        let unmade = PerCpuValues::try_from(vec![Plain(unmade); cpus])?;
        self.progress
            .set(0, unmade, 0)
            .context("cannot write map PROGRESS")?;
        let mut context = [0; CONTEXT_LENGTH];
        // `data_end` and `ingress_ifindex`; the others stay 0.
        context[4..8].copy_from_slice(&u32::try_from(self.frame.len())?.to_ne_bytes());
        context[12..16].copy_from_slice(&device.index.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.ctx_in = Some(&context);
        options.repeat = repeat;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        program(&mut self.ebpf, "generator")?
            .test_run(options)
            .with_context(|| format!("cannot send frames from {}", device.name))?;
        self.rate()
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
            ..
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
}

/// Writes the flows into the memory of their map.
fn store(ebpf: &mut Ebpf, flows: &[Flow]) -> Result<()> {
    let Some(Map::Array(map)) = ebpf.map("FLOWS") else {
        bail!("the object has no array FLOWS");
    };
    let memory = MmapOptions::new()
        .len(size_of_val(flows))
        .map_raw(map.fd().as_fd().as_raw_fd())
        .context("cannot map the memory of map FLOWS")?;
    let first = memory.as_mut_ptr().cast::<Flow>();
    for (number, flow) in flows.iter().enumerate() {
        // SAFETY: the mapping has as many entries, page-aligned; the generator is not running.
        unsafe { first.wrapping_add(number).write(*flow) };
    }
    Ok(())
}
