//! Packet memory of XDP.
//!
//! Pointers are derived from the context anew for each access, so that no move of head or tail can leave a stale one.
//! Headers are read and written directly; payload is summed through the kernel, which reaches all fragments.

use core::ptr;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
    bpf_xdp_load_bytes,
};
use aya_ebpf::programs::XdpContext;
use gre_common::bound;
use gre_common::checksum::Sum;
use gre_common::frame::{Frame, NoRoom, Truncated, Wire};

use crate::maps::SCRATCH;

/// A frame in the memory of a driver.
pub(crate) struct XdpFrame {
    context: *mut xdp_md,
    /// Bytes in the first buffer: all of a frame that is not in fragments.
    first: usize,
}

/// Bytes that are summed at once: older kernels give the helper no more.
const CHUNK: usize = 512;
/// Chunks of the largest IP packet.
const CHUNKS: u64 = 129;
/// Offsets that are read directly: behind all headers that are ever looked at. The verifier wants a bound, and from Linux 7.2
/// on one that offsets can reach: they are 2 above a multiple of 4, behind an Ethernet header.
const GREATEST_OFFSET: usize = 0xffe;

/// A chunk and room for the zeros that make its length a multiple of four.
#[repr(C)]
pub(crate) struct Scratch([u8; CHUNK + 8]);

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self {
            context: context.ctx,
            first: context.data_end() - context.data(),
        }
    }

    /// The address of an `H` at `offset`, if it lies in the frame's first buffer.
    #[inline(always)]
    fn at<H>(&self, offset: usize) -> Result<usize, Truncated> {
        // The compiler turns a check for one byte into one that the verifier does not understand.
        const { assert!(size_of::<H>() > 1) };
        let context = XdpContext::new(self.context);
        if offset > GREATEST_OFFSET {
            return Err(Truncated);
        }
        let address = context.data() + offset;
        if address + size_of::<H>() > context.data_end() {
            return Err(Truncated);
        }
        Ok(address)
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.context) as usize }
    }

    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        end <= self.first || end <= self.length()
    }

    /// Where the first buffer ends there, fragments may follow. They hold nothing of the packet, and may stay: the length
    /// in the packet's outermost header leaves them out.
    #[inline(always)]
    fn ends_at(&self, end: usize) -> bool {
        end == self.first || end == self.length()
    }

    #[inline(always)]
    fn read<H: Wire>(&self, offset: usize) -> Result<H, Truncated> {
        let address = self.at::<H>(offset)?;
        // SAFETY: the bytes lie in the frame, and any bytes are a valid `H`.
        Ok(unsafe { ptr::read_unaligned(address as *const H) })
    }

    #[inline(always)]
    fn write<H: Wire>(&mut self, offset: usize, header: H) -> Result<(), Truncated> {
        let address = self.at::<H>(offset)?;
        // SAFETY: the bytes lie in the frame, and `H` has no padding.
        unsafe { ptr::write_unaligned(address as *mut H, header) };
        Ok(())
    }

    #[inline(always)]
    fn sum(&self, offset: usize, length: usize) -> Result<Sum, Truncated> {
        let sum = gregw_sum(self.context, offset as u64, length as u64);
        if sum < 0 {
            Err(Truncated)
        } else {
            Ok(Sum(sum as u64))
        }
    }

    #[inline(always)]
    fn move_head(&mut self, delta: i32) -> Result<(), NoRoom> {
        // SAFETY: the context is the program's own.
        if unsafe { bpf_xdp_adjust_head(self.context, delta) } != 0 {
            return Err(NoRoom);
        }
        self.first = self.first.wrapping_add_signed(-delta as isize);
        Ok(())
    }

    #[inline(always)]
    fn set_length(&mut self, length: usize) -> Result<(), NoRoom> {
        let delta = length as i32 - self.length() as i32;
        // SAFETY: the context is the program's own.
        if unsafe { bpf_xdp_adjust_tail(self.context, delta) } != 0 {
            return Err(NoRoom);
        }
        let context = XdpContext::new(self.context);
        self.first = context.data_end() - context.data();
        Ok(())
    }
}

/// The sum of a part of the frame, or −1 if it is not all there. Exported, because the verifier checks such functions
/// once and for all arguments, not anew at each call.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregw_sum(context: *mut xdp_md, offset: u64, length: u64) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return -1;
    };
    let scratch = scratch.cast();
    let (mut offset, mut length) = (offset, length);
    let mut sum = 0;
    for _ in 0..CHUNKS {
        if length <= CHUNK as u64 {
            return sum_last(context, scratch, offset, length, sum);
        }
        sum = sum_chunk(context, scratch, offset, CHUNK as u64, sum);
        if sum < 0 {
            return -1;
        }
        offset += CHUNK as u64;
        length -= CHUNK as u64;
    }
    -1
}

/// Adds what is less than a chunk, padded with zeros.
#[inline(always)]
fn sum_last(context: *mut xdp_md, scratch: *mut u8, offset: u64, length: u64, sum: i64) -> i64 {
    if length == 0 {
        return sum;
    }
    let length = bound::length::<CHUNK>(length);
    // SAFETY: `length` is at most a chunk, behind which there are 8 bytes more.
    unsafe { ptr::write_unaligned(scratch.wrapping_add(length as usize).cast::<u32>(), 0) };
    sum_chunk(context, scratch, offset, length, sum)
}

/// Adds at most one chunk to `sum`.
#[inline(always)]
fn sum_chunk(context: *mut xdp_md, scratch: *mut u8, offset: u64, length: u64, sum: i64) -> i64 {
    // SAFETY: `scratch` has room for a chunk; the helper checks the packet's bounds.
    if unsafe { bpf_xdp_load_bytes(context, offset as u32, scratch.cast(), length as u32) } != 0 {
        return -1;
    }
    let padded = ((length + 3) & !3) as u32;
    // SAFETY: `padded` is at most a chunk.
    unsafe { bpf_csum_diff(ptr::null_mut(), 0, scratch.cast(), padded, sum as u32) }
}
