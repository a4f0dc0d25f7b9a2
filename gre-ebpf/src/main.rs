//! The XDP program of gregw, attached to underlay devices and ports alike.
//!
//! All decisions are those of `gre_common::pipeline`; here is only what ties it to the kernel: packet memory, maps, and
//! the turn of a verdict into an XDP action.
#![no_std]
#![no_main]
// Atomic operations that return a value exist in BPF but not in `core` for this target.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod frame;
mod maps;
mod sequence;
mod tables;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use gre_common::counters::Ledger;
use gre_common::id::IfIndex;
use gre_common::limits::RESOLVER;
use gre_common::pipeline;
use gre_common::verdict::Verdict;

use frame::XdpFrame;
use tables::KernelTables;

/// Forwards GRE and the packets of machines; leaves everything else to the kernel.
#[xdp(frags)]
#[inline(always)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "aya hands the context over by value"
)]
fn gregw(context: XdpContext) -> u32 {
    let Some(tables) = KernelTables::get() else {
        return xdp_action::XDP_PASS;
    };
    let device = IfIndex(context.ingress_ifindex() as u32);
    let mut frame = XdpFrame::new(&context);
    let mut ledger = Ledger::new(device);
    match pipeline::process(&mut frame, &tables, device, &mut ledger) {
        Ok(Verdict::Transmit) => transmit(&context, &tables, &ledger),
        Ok(Verdict::Resolve) => hand_to_resolver(&context),
        Ok(Verdict::Pass) => xdp_action::XDP_PASS,
        Ok(Verdict::Consume) | Err(_) => xdp_action::XDP_DROP,
    }
}

/// Answers ARP and neighbour discovery on ports; `gregw` hands over by a tail call.
#[xdp(frags)]
#[inline(always)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "aya hands the context over by value"
)]
fn gregw_resolve(context: XdpContext) -> u32 {
    let Some(tables) = KernelTables::get() else {
        return xdp_action::XDP_PASS;
    };
    let device = IfIndex(context.ingress_ifindex() as u32);
    let mut frame = XdpFrame::new(&context);
    let mut ledger = Ledger::new(device);
    match pipeline::resolve(&mut frame, &tables, device, &mut ledger) {
        Verdict::Transmit => transmit(&context, &tables, &ledger),
        Verdict::Consume => xdp_action::XDP_DROP,
        Verdict::Pass | Verdict::Resolve => xdp_action::XDP_PASS,
    }
}

/// Without a resolver the kernel gets the frame, as it would without gregw.
#[inline(always)]
fn hand_to_resolver(context: &XdpContext) -> u32 {
    // SAFETY: on success the call does not return, and nothing here needs to be dropped.
    unsafe { maps::PROGRAMS.tail_call(context, RESOLVER) };
    xdp_action::XDP_PASS
}

#[inline(always)]
fn transmit(context: &XdpContext, tables: &KernelTables, ledger: &Ledger) -> u32 {
    let Ok(action) = maps::DEVICES.redirect(ledger.egress.0, 0) else {
        pipeline::not_sent(tables, ledger);
        report_detached(context, ledger.egress.0);
        return xdp_action::XDP_DROP;
    };
    pipeline::sent(tables, ledger);
    action
}

/// Out of line, because log records take stack and instructions that forwarding should not carry.
#[inline(never)]
fn report_detached(context: &impl EbpfContext, device: u32) {
    debug!(
        context,
        "device {} is not attached, a packet for it was dropped", device
    );
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No panic survives optimisation; the verifier would reject the loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
