//! The benchmark's own BPF programs that stand on devices, loaded once for all cases: the bare redirect and the sink.
//!
//! Only one case runs at a time; [`Programs::expect`] tells the sink which.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, xdp::DevMap};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramError, ProgramFd, Xdp};
use aya::sys::SyscallError;
use aya::{Ebpf, Pod, include_bytes_aligned};
use gre_bench_ebpf::{Counts, Expectation, LookUps, Progress, Template};
use memmap2::MmapOptions;

use crate::bed::Device;

/// Built by the build script.
pub(crate) static OBJECT: &[u8] =
    include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gre-bench-programs.bpf.o"));

/// The loaded programs and their maps.
pub(crate) struct Programs {
    ebpf: Ebpf,
    expectation: Array<MapData, Plain<Expectation>>,
    counts: PerCpuArray<MapData, Plain<Counts>>,
    target: DevMap<MapData>,
    numbers: u64,
}

impl Programs {
    /// Loads the programs, attached to nothing.
    pub(crate) fn load() -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("cannot load the benchmark's BPF maps")?;
        for name in ["empty", "pass", "redirect", "sink"] {
            program(&mut ebpf, name)?
                .load()
                .with_context(|| format!("cannot load BPF program {name}"))?;
        }
        Ok(Self {
            expectation: take(&mut ebpf, "EXPECTATION")?,
            counts: take(&mut ebpf, "COUNTS")?,
            target: take(&mut ebpf, "TARGET")?,
            numbers: 0,
            ebpf,
        })
    }

    /// Drops and counts what arrives at a device of the calling thread's namespace.
    pub(crate) fn attach_sink(&mut self, device: Device) -> Result<()> {
        self.attach("sink", device)
    }

    /// Sends what arrives at `device` out of `target`, both of the calling thread's namespace.
    pub(crate) fn attach_redirect(&mut self, device: Device, target: Device) -> Result<()> {
        self.aim_redirect(target)?;
        self.attach("redirect", device)
    }

    /// Makes a device of the calling thread's namespace the target of the redirect.
    pub(crate) fn aim_redirect(&mut self, target: Device) -> Result<()> {
        self.target
            .set(0, target.index, None, 0)
            .with_context(|| format!("cannot make {} the target of the redirect", target.name))
    }

    /// The first of `count` numbers that no frame has carried yet: a tunnel may be fed by several generators.
    pub(crate) fn number(&mut self, count: u32) -> u64 {
        let first = self.numbers;
        self.numbers += u64::from(count);
        first
    }

    /// Makes the sink ready for a case.
    pub(crate) fn expect(&mut self, expectation: Expectation) -> Result<()> {
        self.expectation
            .set(0, Plain(expectation), 0)
            .context("cannot write map EXPECTATION")
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

    /// How many frames have arrived at sinks on each CPU.
    pub(crate) fn arrived_by_cpu(&self) -> Result<Vec<u64>> {
        let counts = self.counts.get(&0, 0).context("cannot read map COUNTS")?;
        Ok(counts.iter().map(|cpu| cpu.0.expected).collect())
    }

    /// One of the programs.
    pub(crate) fn program(&mut self, name: &str) -> Result<&ProgramFd> {
        program(&mut self.ebpf, name)?
            .fd()
            .with_context(|| format!("BPF program {name} is not loaded"))
    }

    /// Lets a device of the calling thread's namespace receive frames from the generator, for the kernel.
    pub(crate) fn attach_pass(&mut self, device: Device) -> Result<()> {
        self.attach("pass", device)
    }

    fn attach(&mut self, name: &str, device: Device) -> Result<()> {
        // The object keeps the link.
        program(&mut self.ebpf, name)?
            .attach_to_if_index(device.index, XdpMode::Driver)
            .with_context(|| format!("cannot attach BPF program {name} to {}", device.name))?;
        Ok(())
    }
}

/// An entry or a constant, as aya wants to see it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: `repr(C)` over integers, without padding.
unsafe impl Pod for Plain<Template> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Expectation> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Progress> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Counts> {}
// SAFETY: as above.
unsafe impl Pod for Plain<LookUps> {}

/// A program of a loaded object.
pub(crate) fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    ebpf.program_mut(name)
        .with_context(|| format!("the object has no program {name}"))?
        .try_into()
        .with_context(|| format!("program {name} is not for XDP"))
}

/// Runs a program again if a signal interrupted it, which a process that is stopped and continued gets too.
pub(crate) fn uninterrupted<T>(mut run: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        let result = run();
        let is_interrupted = |error: &anyhow::Error| match error.downcast_ref() {
            Some(ProgramError::SyscallError(SyscallError { io_error, .. })) => {
                io_error.kind() == ErrorKind::Interrupted
            }
            _ => false,
        };
        if !result.as_ref().is_err_and(is_interrupted) {
            return result;
        }
    }
}

/// An array of a loaded object.
pub(crate) fn array<'e>(ebpf: &'e Ebpf, name: &str) -> Result<&'e MapData> {
    match ebpf.map(name) {
        Some(Map::Array(map)) => Ok(map),
        _ => bail!("the object has no array {name}"),
    }
}

/// Writes the entries of an array that can be mapped, whose entries have the size of `T`.
pub(crate) fn fill<T: Copy>(map: &MapData, entries: &[T]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let memory = MmapOptions::new()
        .len(size_of_val(entries))
        .map_raw(map.fd().as_fd().as_raw_fd())
        .context("cannot map the memory of an array")?;
    let first = memory.as_mut_ptr().cast::<T>();
    for (number, entry) in entries.iter().enumerate() {
        // SAFETY: the mapping has as many entries, page-aligned; no program that reads them is running.
        unsafe { first.wrapping_add(number).write(*entry) };
    }
    Ok(())
}

/// Takes a map out of a loaded object.
pub(crate) fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("cannot use map {name}"))
}
