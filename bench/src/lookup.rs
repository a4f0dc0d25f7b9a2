//! `fib`: look-ups in gregw's compiled tables beside the kernel's LPM trie, in the kernel, on the same tables.
//!
//! Each program does the same look-ups; one that looks nothing up tells what the loop takes. All answers are compared.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, MapData};
use aya::programs::{TestRun, TestRunOptions};
use aya::{Ebpf, include_bytes_aligned};
use gre_bench_ebpf::{ADDRESSES, BATCH, FIB_BYTES, LookUps};
use gre_common::id::{NetworkId, TunnelId};
use gre_common::next_hop::{NextHop, Target};
use gre_userspace::fib::{Change, Fib, KernelGracePeriod, MappedArray};
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::cpu;
use crate::machine::Machine;
use crate::programs::{Plain, array, fill, program, take, uninterrupted};
use crate::statistics::{quartile, round};
use crate::tables::{Shape, destinations};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gre-bench-lookup.bpf.o"));

const NETWORK: NetworkId = NetworkId(1);
/// Look-ups that are measured at once: each address several times.
const LOOK_UPS: u32 = 4 * ADDRESSES as u32;
const ROUNDS: usize = 9;
const PROGRAMS: [&str; 3] = ["none", "fib", "trie"];

/// What look-ups take.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LookUpReport {
    #[serde(flatten)]
    machine: Machine,
    /// One entry for each table.
    pub(crate) fib: Vec<TableReport>,
}

/// What look-ups in a table take. Times are in nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TableReport {
    /// Its kind.
    pub(crate) table: Shape,
    /// Its size.
    pub(crate) routes: usize,
    /// A look-up by gregw, many under way at once.
    pub(crate) fib_ns: f64,
    /// The same in the LPM trie.
    pub(crate) trie_ns: f64,
    /// A look-up by gregw that begins when the last one has ended.
    pub(crate) fib_in_turn_ns: f64,
    /// The same in the LPM trie.
    pub(crate) trie_in_turn_ns: f64,
    /// Memory of gregw's table.
    pub(crate) bytes_per_route: f64,
    /// Compiling gregw's table at once.
    pub(crate) build_seconds: f64,
}

/// Compares look-ups in tables of up to `most` routes.
pub(crate) fn measure(most: usize) -> Result<LookUpReport> {
    cpu::stay_on_one()?;
    let mut fib = Vec::new();
    for shape in Shape::ALL {
        for size in shape.sizes().into_iter().filter(|size| *size <= most) {
            eprintln!("bench: {shape:?}, {size} routes");
            let table = Table::new(&shape.prefixes(size));
            let report = table.and_then(|mut table| table.report(shape, size));
            fib.push(report.with_context(|| format!("{shape:?} with {size} routes"))?);
        }
    }
    Ok(LookUpReport {
        machine: Machine::this(),
        fib,
    })
}

/// The programs with the same routes in gregw's table and in the kernel's.
struct Table {
    ebpf: Ebpf,
    look_ups: Array<MapData, Plain<LookUps>>,
    root: u32,
    family: &'static str,
    build: Duration,
    bytes: u64,
}

impl Table {
    fn new(prefixes: &[IpNet]) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("cannot load the maps for look-ups")?;
        let family = if prefixes.iter().any(|prefix| prefix.addr().is_ipv4()) {
            "v4"
        } else {
            "v6"
        };
        for program_name in PROGRAMS {
            for suffix in ["", "_in_turn"] {
                let name = format!("{program_name}_{family}{suffix}");
                program(&mut ebpf, &name)?
                    .load()
                    .with_context(|| format!("cannot load BPF program {name}"))?;
            }
        }
        fill_trie(&mut ebpf, prefixes)?;
        store_destinations(&mut ebpf, &destinations(prefixes, ADDRESSES))?;
        let memory = array(&ebpf, "FIB")?;
        let memory = MappedArray::new(memory.fd().as_fd(), FIB_BYTES)
            .context("cannot map the memory of map FIB")?;
        let mut fib = Fib::new(memory, KernelGracePeriod)?;
        let changes: Vec<Change> = prefixes
            .iter()
            .zip(0..)
            .map(|(prefix, number)| Change::Set(*prefix, next_hop(number)))
            .collect();
        let mut root = 0;
        let start = Instant::now();
        fib.update(NETWORK, &changes, |_, published| root = published.0)?;
        Ok(Self {
            look_ups: take(&mut ebpf, "LOOK_UPS")?,
            build: start.elapsed(),
            bytes: fib.usage(NETWORK).bytes,
            root,
            family,
            ebpf,
        })
    }

    fn report(&mut self, shape: Shape, routes: usize) -> Result<TableReport> {
        ensure!(
            self.answers("fib")? == self.answers("trie")?,
            "gregw and the kernel's trie find different routes"
        );
        let [fib, trie] = self.times("")?;
        let [fib_in_turn, trie_in_turn] = self.times("_in_turn")?;
        Ok(TableReport {
            table: shape,
            routes,
            fib_ns: round(fib, 1),
            trie_ns: round(trie, 1),
            fib_in_turn_ns: round(fib_in_turn, 1),
            trie_in_turn_ns: round(trie_in_turn, 1),
            bytes_per_route: round(self.bytes as f64 / routes as f64, 1),
            build_seconds: round(self.build.as_secs_f64(), 3),
        })
    }

    /// Nanoseconds of a look-up by gregw and in the trie. What else the machine does only adds to them.
    fn times(&mut self, suffix: &str) -> Result<[f64; 2]> {
        let (mut fib, mut trie) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let [none, in_fib, in_trie] = PROGRAMS.map(|name| self.run(name, suffix, LOOK_UPS));
            let none = none?;
            fib.push(in_fib? - none);
            trie.push(in_trie? - none);
        }
        let nanoseconds = |times: Vec<f64>| quartile(&times) / f64::from(LOOK_UPS);
        Ok([nanoseconds(fib), nanoseconds(trie)])
    }

    /// The sum of the answers to all look-ups.
    fn answers(&mut self, name: &str) -> Result<u64> {
        self.run(name, "", ADDRESSES as u32)?;
        let look_ups = self
            .look_ups
            .get(&0, 0)
            .context("cannot read map LOOK_UPS")?;
        Ok(look_ups.0.sum)
    }

    /// The nanoseconds of so many look-ups, from the first address on.
    fn run(&mut self, name: &str, suffix: &str, look_ups: u32) -> Result<f64> {
        let name = format!("{name}_{}{suffix}", self.family);
        let first = LookUps {
            root: self.root,
            ..LookUps::default()
        };
        let frame = [0; 64];
        uninterrupted(|| {
            self.look_ups
                .set(0, Plain(first), 0)
                .context("cannot write map LOOK_UPS")?;
            let mut options = TestRunOptions::new();
            options.data_in = Some(&frame);
            options.repeat = look_ups / BATCH;
            let program = program(&mut self.ebpf, &name)?;
            let start = cpu_time()?;
            program
                .test_run(options)
                .with_context(|| format!("cannot run BPF program {name}"))?;
            Ok((cpu_time()? - start).as_nanos() as f64)
        })
    }
}

/// Next hops of a table: more neighbours than most routers with a full table have.
const NEXT_HOPS: u32 = 32;

/// Where a route leads: neighbouring ones mostly to different tunnels.
fn next_hop(number: u32) -> NextHop {
    NextHop::new(Target::Tunnel(TunnelId(1 + number % NEXT_HOPS)))
}

fn fill_trie(ebpf: &mut Ebpf, prefixes: &[IpNet]) -> Result<()> {
    let mut v4: LpmTrie<MapData, [u8; 4], u32> = take(ebpf, "TRIE_V4")?;
    let mut v6: LpmTrie<MapData, [u8; 16], u32> = take(ebpf, "TRIE_V6")?;
    for (prefix, number) in prefixes.iter().zip(0..) {
        let (length, value) = (prefix.prefix_len().into(), next_hop(number).0);
        match prefix.network() {
            IpAddr::V4(address) => v4.insert(&Key::new(length, address.octets()), value, 0),
            IpAddr::V6(address) => v6.insert(&Key::new(length, address.octets()), value, 0),
        }
        .with_context(|| format!("cannot add {prefix} to the trie"))?;
    }
    Ok(())
}

fn store_destinations(ebpf: &mut Ebpf, destinations: &[IpAddr]) -> Result<()> {
    let v4: Vec<[u8; 8]> = destinations
        .iter()
        .filter_map(|address| match address {
            // Entries of arrays have a multiple of eight bytes.
            IpAddr::V4(address) => {
                Some(u64::from(u32::from_ne_bytes(address.octets())).to_ne_bytes())
            }
            IpAddr::V6(_) => None,
        })
        .collect();
    let v6: Vec<[u8; 16]> = destinations
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        })
        .collect();
    fill(array(ebpf, "ADDRESSES_V4")?, &v4)?;
    fill(array(ebpf, "ADDRESSES_V6")?, &v6)
}

/// CPU time of this thread.
fn cpu_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("cannot read the clock")?;
    Ok(Duration::from(time))
}

impl fmt::Display for LookUpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, cpu } = &self.machine;
        writeln!(
            f,
            "Linux {kernel}, one core of {cpu}, nanoseconds of a look-up\n"
        )?;
        writeln!(
            f,
            "{:<10}{:>9}{:>8}{:>8}{:>8}{:>18}{:>9}{:>8}{:>9}{:>9}",
            "table",
            "routes",
            "gregw",
            "trie",
            "ratio",
            "  in turn: gregw",
            "trie",
            "ratio",
            "B/route",
            "build s"
        )?;
        for table in &self.fib {
            writeln!(
                f,
                "{:<10}{:>9}{:>8.1}{:>8.1}{:>8.1}{:>18.1}{:>9.1}{:>8.1}{:>9.1}{:>9.3}",
                table.table.name(),
                table.routes,
                table.fib_ns,
                table.trie_ns,
                table.trie_ns / table.fib_ns,
                table.fib_in_turn_ns,
                table.trie_in_turn_ns,
                table.trie_in_turn_ns / table.fib_in_turn_ns,
                table.bytes_per_route,
                table.build_seconds,
            )?;
        }
        Ok(())
    }
}
