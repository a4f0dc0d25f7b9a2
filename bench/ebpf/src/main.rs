//! The programs around the data plane under test: one makes frames, one forwards them and does nothing else, one judges
//! and counts what arrives.
//!
//! Loaded by `gre-bench`, which runs `generator` with `BPF_PROG_TEST_RUN` on live frames.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the entry points that the macros call take the context by value"
)]

use core::ptr;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_action};
use aya_ebpf::btf_maps::{Array, DevMap, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use gre_bench_ebpf::{Counts, Expectation, HEAD_LENGTH, HEADS, Head, Progress, SECTION, Selection};

/// What can be sent.
#[btf_map]
static HEADS_TO_SEND: Array<Head, HEADS, { BPF_F_MMAPABLE as usize }> = Array::new();
/// Which of it is sent.
#[btf_map]
static SELECTION: Array<Selection, 1> = Array::new();
/// How much of it has been sent, by CPU.
#[btf_map]
static PROGRESS: PerCpuArray<Progress, 1> = PerCpuArray::new();
/// Where `redirect` sends.
#[btf_map]
static TARGET: DevMap<1> = DevMap::new();
/// What `sink` expects.
#[btf_map]
static EXPECTATION: Array<Expectation, 1> = Array::new();
/// What `sink` has met, by CPU.
#[btf_map]
static COUNTS: PerCpuArray<Counts, 1> = PerCpuArray::new();

/// Makes each frame anew, since the kernel hands out the same memory again and again, and sends it off the device that
/// it seems to come from.
#[xdp]
fn generator(context: XdpContext) -> u32 {
    match generate(&context) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Sends everything on to one device.
#[xdp]
fn redirect(_context: XdpContext) -> u32 {
    TARGET.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Counts everything and sends nothing on.
#[xdp]
fn sink(context: XdpContext) -> u32 {
    match count(&context) {
        Some(()) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Leaves everything to the kernel.
#[xdp]
fn pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[inline(always)]
fn generate(context: &XdpContext) -> Option<()> {
    let frame = head(context)?;
    let progress = PROGRESS.get_ptr_mut(0)?;
    // SAFETY: the slot belongs to this CPU.
    let number = count_made(unsafe { &mut *progress });
    let selection = SELECTION.get(0)?;
    let template = HEADS_TO_SEND.get_ptr(selection.first + (number as u32 & selection.mask))?;
    // SAFETY: the pointer comes from a map look-up.
    let template = unsafe { ptr::read_volatile(template) };
    // SAFETY: the head lies in the frame, at any alignment.
    unsafe { ptr::write_unaligned(frame, template) };
    Some(())
}

/// Returns the number of the frame that is about to be made, from 0.
#[inline(always)]
fn count_made(progress: &mut Progress) -> u64 {
    let number = progress.made;
    if number.is_multiple_of(SECTION) {
        // SAFETY: the helper takes nothing and reads a clock.
        progress.section = unsafe { bpf_ktime_get_ns() };
        if number == 0 {
            progress.start = progress.section;
        }
    }
    progress.made = number + 1;
    number
}

#[inline(always)]
fn count(context: &XdpContext) -> Option<()> {
    let length = (context.data_end() - context.data()) as u64;
    let counts = COUNTS.get_ptr_mut(0)?;
    // SAFETY: the slot belongs to this CPU.
    let counts = unsafe { &mut *counts };
    let expectation = EXPECTATION.get(0)?;
    let Some(head) = head(context) else {
        counts.unexpected += 1;
        counts.last_length = length;
        return Some(());
    };
    // SAFETY: the head lies in the frame, at any alignment.
    let head = unsafe { ptr::read_unaligned(head) };
    let mut difference = length ^ expectation.length;
    for (word, (mask, value)) in head
        .iter()
        .zip(expectation.mask.iter().zip(&expectation.value))
    {
        difference |= (word & mask) ^ value;
    }
    if difference == 0 {
        counts.expected += 1;
    } else {
        counts.unexpected += 1;
        counts.last_length = length;
        counts.last_head = head;
    }
    Some(())
}

/// The head of the frame, if it is that long.
#[inline(always)]
fn head(context: &XdpContext) -> Option<*mut Head> {
    let start = context.data();
    (start + HEAD_LENGTH <= context.data_end()).then_some(start as *mut Head)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No panic survives optimisation; the verifier would reject the loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
