//! What makes the frames of one case: a BPF program of its own, with what the frames have in common as constants.
//!
//! Run with `BPF_PROG_TEST_RUN`, on live frames or to time a single program. Per frame it reads 16 bytes, so that it
//! leaves the caches to what is under test.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{MapData, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunAttrs, TestRunOptions};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use gre_bench_ebpf::{Progress, SECTION};

use crate::bed::Device;
use crate::head::Frames;
use crate::programs::{OBJECT, Plain, array, fill, program, take, uninterrupted};

/// Frames that the kernel makes at once: the budget of one NAPI poll, so that no queue on the way overflows.
const BATCH: u32 = 64;
/// Room for whatever a program makes of a frame.
const LONGEST_FRAME: usize = 2048;
/// Bytes of `struct xdp_md`.
const CONTEXT_LENGTH: usize = 24;

/// A loaded generator.
pub(crate) struct Generator {
    ebpf: Ebpf,
    progress: PerCpuArray<MapData, Plain<Progress>>,
    frame: Vec<u8>,
    // The kernel empties the array once nobody holds it open.
    under_test: Option<ProgramArray<MapData>>,
}

/// What became of frames that a program alone was given.
pub(crate) struct Trial {
    /// How long each took in the quickest section, from making it to the verdict.
    pub(crate) nanoseconds: f64,
    /// What the program said of the last one.
    pub(crate) verdict: u32,
    /// The last one as the program left it.
    pub(crate) frame: Vec<u8>,
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
        fill(array(&ebpf, "FLOWS")?, &flows)?;
        Ok(Self {
            progress: take(&mut ebpf, "PROGRESS")?,
            frame: frames.example().to_vec(),
            under_test: None,
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
        self.start_over(first_number)?;
        let context = self.context(device);
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

    /// Makes [`Generator::time`] hand frames to this program from now on.
    pub(crate) fn hand_to(&mut self, under_test: &ProgramFd) -> Result<()> {
        let programs = match &mut self.under_test {
            Some(programs) => programs,
            None => {
                program(&mut self.ebpf, "trial")?
                    .load()
                    .context("cannot load BPF program trial")?;
                self.under_test.insert(take(&mut self.ebpf, "UNDER_TEST")?)
            }
        };
        programs
            .set(0, under_test, 0)
            .context("cannot write map UNDER_TEST")
    }

    /// Hands `repeat` frames, as if they had come in at a device of the calling thread's namespace, to the program given
    /// before.
    pub(crate) fn time(&mut self, device: Device, repeat: u32, first_number: u64) -> Result<Trial> {
        let context = self.context(device);
        let mut frame = vec![0; LONGEST_FRAME];
        let (verdict, length) = uninterrupted(|| {
            self.start_over(first_number)?;
            let mut options = TestRunOptions::new();
            options.data_in = Some(&self.frame);
            options.data_out = Some(&mut frame);
            options.ctx_in = Some(&context);
            options.repeat = repeat;
            let result = program(&mut self.ebpf, "trial")?
                .test_run(options)
                .with_context(|| format!("cannot run a program for {}", device.name))?;
            Ok((result.return_value, result.data_size_out))
        })?;
        frame.truncate(length as usize);
        let quickest = self.progress()?.quickest;
        ensure!(quickest > 0, "{repeat} frames are too few");
        Ok(Trial {
            nanoseconds: quickest as f64 / SECTION as f64,
            verdict,
            frame,
        })
    }

    /// The number of the next frame is `first_number`, and the first flow's turn comes.
    fn start_over(&mut self, first_number: u64) -> Result<()> {
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
        Ok(())
    }

    /// What the kernel makes a `struct xdp_md` of.
    fn context(&self, device: Device) -> [u8; CONTEXT_LENGTH] {
        let mut context = [0; CONTEXT_LENGTH];
        // `data_end` and `ingress_ifindex`; the others stay 0.
        context[4..8].copy_from_slice(&(self.frame.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&device.index.to_ne_bytes());
        context
    }

    fn rate(&self) -> Result<f64> {
        let Progress {
            made,
            start,
            section,
            ..
        } = self.progress()?;
        let frames = (made - 1) / SECTION * SECTION;
        ensure!(
            frames > 0,
            "{made} frames are too few to tell their rate: make rounds longer"
        );
        Ok(frames as f64 / Duration::from_nanos(section - start).as_secs_f64())
    }

    /// Of the CPU that the frames were made on.
    fn progress(&self) -> Result<Progress> {
        let progress = self
            .progress
            .get(&0, 0)
            .context("cannot read map PROGRESS")?;
        let mut cpus = progress.iter().map(|cpu| cpu.0);
        cpus.find(|progress| progress.made > 0)
            .context("the generator has made no frame")
    }
}
