//! Longest-prefix-match look-ups for comparison: gregw's compiled tables, the kernel's LPM trie, and none at all.
//!
//! Loaded by `gre-bench`, which fills tables and addresses and runs the programs with `BPF_PROG_TEST_RUN`; each run does
//! [`BATCH`] look-ups. With `_in_turn`, a look-up begins once the answer of the last one is known.
#![no_std]
#![no_main]

use core::ptr;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_action};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::btf_maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use gre_bench_ebpf::{ADDRESSES, BATCH, FIB_BYTES, LookUps};
use gre_common::fib::{Octets, Root, Store, count_below, look_up};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const MOST_ROUTES: usize = 1 << 20;

#[repr(C, align(8))]
struct Memory([u8; FIB_BYTES]);

/// gregw's tables.
#[btf_map]
static FIB: Array<Memory, 1, MMAPABLE> = Array::new();
/// The kernel's IPv4 table.
#[btf_map]
static TRIE_V4: LpmTrie<[u8; 4], u32, MOST_ROUTES> = LpmTrie::new();
/// The kernel's IPv6 table.
#[btf_map]
static TRIE_V6: LpmTrie<[u8; 16], u32, MOST_ROUTES> = LpmTrie::new();
/// What is looked up in IPv4 tables.
#[btf_map]
static ADDRESSES_V4: Array<[u8; 4], ADDRESSES, MMAPABLE> = Array::new();
/// What is looked up in IPv6 tables.
#[btf_map]
static ADDRESSES_V6: Array<[u8; 16], ADDRESSES, MMAPABLE> = Array::new();
/// How far the look-ups have come.
#[btf_map]
static LOOK_UPS: Array<LookUps, 1> = Array::new();

macro_rules! programs {
    ($($name:ident, $in_turn:ident: $addresses:ident, $look_up:ident;)*) => { $(
        #[xdp]
        fn $name(_context: XdpContext) -> u32 {
            verdict(batch::<false>(|number, look_ups| {
                Some($look_up(look_ups, *$addresses.get(number)?))
            }))
        }

        #[xdp]
        fn $in_turn(_context: XdpContext) -> u32 {
            verdict(batch::<true>(|number, look_ups| {
                Some($look_up(look_ups, *$addresses.get(number)?))
            }))
        }
    )* };
}

programs! {
    none_v4, none_v4_in_turn: ADDRESSES_V4, nowhere_v4;
    none_v6, none_v6_in_turn: ADDRESSES_V6, nowhere_v6;
    fib_v4, fib_v4_in_turn: ADDRESSES_V4, in_fib_v4;
    fib_v6, fib_v6_in_turn: ADDRESSES_V6, in_fib_v6;
    trie_v4, trie_v4_in_turn: ADDRESSES_V4, in_trie_v4;
    trie_v6, trie_v6_in_turn: ADDRESSES_V6, in_trie_v6;
}

/// Does the next look-ups and adds up their answers.
#[inline(always)]
fn batch<const IN_TURN: bool>(look_up: impl Fn(u32, &LookUps) -> Option<u32>) -> Option<()> {
    let look_ups = LOOK_UPS.get_ptr_mut(0)?;
    // SAFETY: the host runs one program at a time.
    let look_ups = unsafe { &mut *look_ups };
    let first = look_ups.done as u32;
    let mut last = 0;
    let mut sum = 0;
    for number in 0..BATCH {
        // Answers are below 2³¹, so that this adds nothing; but that has to be waited for.
        let waited = if IN_TURN { last >> 31 } else { 0 };
        let number = (first + number + waited) % ADDRESSES as u32;
        last = look_up(number, look_ups)?;
        sum += u64::from(last);
    }
    look_ups.sum += sum;
    look_ups.done += u64::from(BATCH);
    Some(())
}

#[inline(always)]
fn in_fib_v4(look_ups: &LookUps, address: [u8; 4]) -> u32 {
    gregw_bench_v4(look_ups.root, u32::from_be_bytes(address))
}

#[inline(always)]
fn in_fib_v6(look_ups: &LookUps, address: [u8; 16]) -> u32 {
    let address = u128::from_be_bytes(address);
    gregw_bench_v6(look_ups.root, (address >> 64) as u64, address as u64)
}

/// Exported like the next, because the verifier checks such functions once, not anew for each look-up of the loop. The
/// calls count as time of the look-up.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregw_bench_v4(root: u32, address: u32) -> u32 {
    in_fib(root, address.to_be_bytes())
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregw_bench_v6(root: u32, high: u64, low: u64) -> u32 {
    let address = u128::from(high) << 64 | u128::from(low);
    in_fib(root, address.to_be_bytes())
}

#[inline(always)]
fn in_fib<A: Octets>(root: u32, address: A) -> u32 {
    FIB.get_ptr(0).map_or(0, |memory| {
        look_up(&Mapped(memory.cast()), Root(root), address).0
    })
}

#[inline(always)]
fn in_trie_v4(_: &LookUps, address: [u8; 4]) -> u32 {
    found(TRIE_V4.get(&Key::new(32, address)))
}

#[inline(always)]
fn in_trie_v6(_: &LookUps, address: [u8; 16]) -> u32 {
    found(TRIE_V6.get(&Key::new(128, address)))
}

#[inline(always)]
fn found(answer: Option<&u32>) -> u32 {
    answer.copied().unwrap_or_default()
}

/// Only what the loop takes.
#[inline(always)]
fn nowhere_v4(_: &LookUps, address: [u8; 4]) -> u32 {
    u32::from_ne_bytes(address) >> 1
}

#[inline(always)]
fn nowhere_v6(_: &LookUps, address: [u8; 16]) -> u32 {
    u128::from_ne_bytes(address) as u32 >> 1
}

fn verdict(done: Option<()>) -> u32 {
    done.map_or(xdp_action::XDP_ABORTED, |()| xdp_action::XDP_PASS)
}

/// The memory of gregw's tables.
struct Mapped(*const u8);

impl Store for Mapped {
    #[inline(always)]
    fn word(&self, offset: u64) -> u64 {
        let offset = offset as usize & (FIB_BYTES - 8);
        // SAFETY: the mask keeps the aligned 8 bytes within the map's only element.
        unsafe { ptr::read_volatile(self.0.wrapping_add(offset).cast()) }
    }

    #[inline(always)]
    fn half(&self, offset: u64) -> u32 {
        let offset = offset as usize & (FIB_BYTES - 4);
        // SAFETY: the mask keeps the aligned 4 bytes within the map's only element.
        unsafe { ptr::read_volatile(self.0.wrapping_add(offset).cast()) }
    }

    #[inline(always)]
    fn rank(&self, offset: u64, key: u64) -> u64 {
        let offset = offset as usize & (FIB_BYTES - 64);
        let line = self.0.wrapping_add(offset).cast::<u32>();
        count_below(key, |half| {
            // SAFETY: the mask keeps the 64 bytes within the map's only element.
            unsafe { ptr::read_volatile(line.wrapping_add(half as usize)) }
        })
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No panic survives optimisation; the verifier would reject the loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
