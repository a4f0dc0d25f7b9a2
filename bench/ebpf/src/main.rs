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
use aya_ebpf::btf_maps::{Array, DevMap, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_xdp_adjust_head};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use gre_bench_ebpf::{
    Counts, Expectation, FIELDS, Flow, HEAD_LENGTH, Head, Progress, SECTION, SHORT_HEAD_LENGTH,
    Template,
};

/// What all frames have in common: a constant, once the generator is loaded.
#[unsafe(no_mangle)]
static TEMPLATE: Template = Template {
    head: [0; HEAD_LENGTH / 8],
    places: [0; FIELDS],
    mask: 0,
    number: 0,
    long: 0,
    length: 0,
};
/// What tells them apart. The loader sets the size.
#[btf_map]
static FLOWS: Array<Flow, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
/// How much of it has been sent, by CPU.
#[btf_map]
static PROGRESS: PerCpuArray<Progress, 1> = PerCpuArray::new();
/// What `trial` hands frames to.
#[btf_map]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();
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

/// Makes each frame anew, in whatever form the program under test left the last one, and hands it to that.
#[xdp(frags)]
fn trial(context: XdpContext) -> u32 {
    if restore_length(&context).is_some() && generate(&context).is_some() {
        // SAFETY: nothing is left to be dropped.
        unsafe { UNDER_TEST.tail_call(&context, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// Does nothing.
#[xdp(frags)]
fn empty(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Sends everything on to one device.
#[xdp(frags)]
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

/// Moves the start of the frame to where it was before something was put in front of it or taken away.
#[inline(always)]
fn restore_length(context: &XdpContext) -> Option<()> {
    let length = context.data_end() - context.data();
    let surplus = length.wrapping_sub(constant(&TEMPLATE.length) as usize);
    // SAFETY: the context is the program's own.
    (surplus == 0 || unsafe { bpf_xdp_adjust_head(context.ctx, surplus as i32) } == 0).then_some(())
}

#[inline(always)]
fn generate(context: &XdpContext) -> Option<()> {
    let start = context.data();
    write_words::<0, SHORT_HEAD_LENGTH>(context)?;
    if constant(&TEMPLATE.long) != 0 {
        write_words::<SHORT_HEAD_LENGTH, HEAD_LENGTH>(context)?;
    }
    let progress = PROGRESS.get_ptr_mut(0)?;
    // SAFETY: the slot belongs to this CPU.
    let progress = unsafe { &mut *progress };
    let number = count_made(progress);
    let flow = FLOWS.get(number as u32 & constant(&TEMPLATE.mask))?;
    for (place, field) in TEMPLATE.places.iter().zip(flow) {
        let place = (start + constant(place) as usize) as *mut u16;
        // SAFETY: the verifier, which knows the constant, makes sure that the field lies in what was written.
        unsafe { ptr::write_unaligned(place, *field) };
    }
    let place = constant(&TEMPLATE.number);
    if place != 0 {
        let place = (start + place as usize) as *mut u32;
        let own = ((progress.first_number + number) as u32).to_be();
        // SAFETY: as above.
        unsafe { ptr::write_unaligned(place, own) };
    }
    Some(())
}

/// Writes the bytes from `FROM` to `TO` of the template, if the frame is that long.
#[inline(always)]
fn write_words<const FROM: usize, const TO: usize>(context: &XdpContext) -> Option<()> {
    let start = start_of::<TO>(context)?;
    for word in FROM / 8..TO / 8 {
        let place = (start + word * 8) as *mut u64;
        // SAFETY: the word lies in the frame, at any alignment.
        unsafe { ptr::write_unaligned(place, constant(&TEMPLATE.head[word])) };
    }
    Some(())
}

/// A value that the loader has written, in place of the one that the compiler knows.
#[inline(always)]
fn constant<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is valid.
    unsafe { ptr::read_volatile(value) }
}

/// Returns the number of the frame that is about to be made, from 0.
#[inline(always)]
fn count_made(progress: &mut Progress) -> u64 {
    let number = progress.made;
    if number.is_multiple_of(SECTION) {
        // SAFETY: the helper takes nothing and reads a clock.
        let now = unsafe { bpf_ktime_get_ns() };
        let time = now - progress.section;
        if number == 0 {
            progress.start = now;
        } else if progress.quickest == 0 || time < progress.quickest {
            progress.quickest = time;
        }
        progress.section = now;
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
    let mut difference = length ^ expectation.length;
    match differing_bits::<0, SHORT_HEAD_LENGTH>(context, expectation) {
        Some(bits) => difference |= bits,
        None => difference = 1,
    }
    // What is shorter is judged as far as it goes.
    if let Some(bits) = differing_bits::<SHORT_HEAD_LENGTH, HEAD_LENGTH>(context, expectation) {
        difference |= bits;
    }
    if difference == 0 {
        counts.expected += 1;
    } else {
        counts.unexpected += 1;
        counts.last_length = length;
        copy_words::<0, SHORT_HEAD_LENGTH>(context, &mut counts.last_head);
        copy_words::<SHORT_HEAD_LENGTH, HEAD_LENGTH>(context, &mut counts.last_head);
    }
    Some(())
}

/// What is not as expected in the bytes from `FROM` to `TO`, if the frame is that long.
#[inline(always)]
fn differing_bits<const FROM: usize, const TO: usize>(
    context: &XdpContext,
    expectation: &Expectation,
) -> Option<u64> {
    let start = start_of::<TO>(context)?;
    let mut bits = 0;
    for word in FROM / 8..TO / 8 {
        let place = (start + word * 8) as *const u64;
        // SAFETY: the word lies in the frame, at any alignment.
        let found = unsafe { ptr::read_unaligned(place) };
        bits |= (found & expectation.mask[word]) ^ expectation.value[word];
    }
    Some(bits)
}

#[inline(always)]
fn copy_words<const FROM: usize, const TO: usize>(context: &XdpContext, head: &mut Head) {
    let Some(start) = start_of::<TO>(context) else {
        return;
    };
    for (word, copy) in head.iter_mut().enumerate().take(TO / 8).skip(FROM / 8) {
        let place = (start + word * 8) as *const u64;
        // SAFETY: the word lies in the frame, at any alignment.
        *copy = unsafe { ptr::read_unaligned(place) };
    }
}

/// Where the frame begins, if it has that many bytes.
#[inline(always)]
fn start_of<const LENGTH: usize>(context: &XdpContext) -> Option<usize> {
    let start = context.data();
    (start + LENGTH <= context.data_end()).then_some(start)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No panic survives optimisation; the verifier would reject the loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
