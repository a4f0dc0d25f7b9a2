//! `cost`: what gregw's programs cost the kernel that runs, and how long it takes to check them. Nothing is attached.
//!
//! `cargo xtask bench --check` compares the answer with what is stored, here and on other kernels.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::Xdp;
use gre_userspace::object;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

use crate::machine::Machine;

/// The programs on one kernel.
#[derive(Debug, Serialize)]
pub(crate) struct Costs {
    machine: Machine,
    programs: BTreeMap<&'static str, Cost>,
}

/// One program.
#[derive(Debug, Serialize)]
struct Cost {
    /// Instructions that the verifier walked.
    verified_instructions: u32,
    /// Bytes of machine code.
    jited_bytes: u32,
    /// Processor time that loading took, in seconds.
    load_seconds: f64,
}

/// Loads each program and asks the kernel about it.
///
/// # Errors
/// If the verifier refuses one, with its words, or the kernel does not tell (before 5.16, or without its JIT).
pub(crate) fn measure() -> Result<Costs> {
    let mut ebpf = Ebpf::load(object::OBJECT).context("cannot create gregw's BPF maps")?;
    let mut programs = BTreeMap::new();
    for name in [object::GATEWAY, object::RESOLVER] {
        programs.insert(name, load(&mut ebpf, name)?);
    }
    Ok(Costs {
        machine: Machine::this(),
        programs,
    })
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<Cost> {
    let program = ebpf.program_mut(name);
    let program: &mut Xdp = program
        .with_context(|| format!("there is no BPF program {name}"))?
        .try_into()?;
    let before = processor_time()?;
    program
        .load()
        .with_context(|| format!("cannot load BPF program {name}"))?;
    let load_seconds = (processor_time()? - before).as_secs_f64();
    let info = program.info()?;
    let verified_instructions = info.verified_instruction_count().context(
        "the kernel does not tell how many instructions it verified (5.16 and newer do)",
    )?;
    let jited_bytes = info.size_jitted();
    ensure!(
        jited_bytes > 0,
        "{name} is interpreted: net.core.bpf_jit_enable is 0"
    );
    Ok(Cost {
        verified_instructions,
        jited_bytes,
        load_seconds,
    })
}

/// What this thread has taken so far, in the kernel and outside.
fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).context("cannot tell the processor time")?;
    let microseconds =
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.try_into()?))
}

impl fmt::Display for Costs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, cpu } = &self.machine;
        writeln!(formatter, "Linux {kernel}, {cpu}\n")?;
        writeln!(
            formatter,
            "{:<16}{:>24}{:>16}{:>12}",
            "", "verified instructions", "machine code", "load"
        )?;
        for (name, cost) in &self.programs {
            writeln!(
                formatter,
                "{name:<16}{:>24}{:>16}{:>10.2} s",
                cost.verified_instructions, cost.jited_bytes, cost.load_seconds
            )?;
        }
        Ok(())
    }
}
