//! The only door to packet memory.
//!
//! The pipeline reads and writes headers through [`Frame`]; the XDP program, the host tests and `gregw explain` each
//! bring an implementation. Headers are copied in and out, so that no reference outlives a move of the head.

use crate::checksum::Sum;

/// A type that may be copied from and to packet memory as it is.
///
/// # Safety
/// Implementors are `repr(C)` or `repr(transparent)`, have alignment 1 and no padding, and every bit pattern is valid.
pub unsafe trait Wire: Copy {}

// SAFETY: arrays of bytes have alignment 1, no padding, and any content is valid.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: as above.
unsafe impl<const N: usize, const M: usize> Wire for [[u8; N]; M] {}

/// The frame ends before the header or payload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

/// The memory around the frame does not allow the change of size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// One received Ethernet frame, beginning with its destination address.
pub trait Frame {
    /// Length of the frame in bytes. In the kernel this may take a call: ask [`Frame::reaches`] and [`Frame::ends_at`].
    fn length(&self) -> usize;

    /// Whether the frame has at least `end` bytes.
    fn reaches(&self, end: usize) -> bool {
        end <= self.length()
    }

    /// Whether the frame has exactly `end` bytes.
    fn ends_at(&self, end: usize) -> bool {
        end == self.length()
    }

    /// Copies the header at `offset` out of the frame.
    fn read<H: Wire>(&self, offset: usize) -> Result<H, Truncated>;

    /// Copies a header into the frame at `offset`.
    fn write<H: Wire>(&mut self, offset: usize, header: H) -> Result<(), Truncated>;

    /// One's complement sum of `length` bytes from `offset`, which counts as even.
    fn sum(&self, offset: usize, length: usize) -> Result<Sum, Truncated>;

    /// Moves the beginning of the frame by `delta` bytes: forward removes bytes, backward adds undefined ones.
    fn move_head(&mut self, delta: i32) -> Result<(), NoRoom>;

    /// Moves the end of the frame so that it is `length` bytes long; added bytes are zero.
    fn set_length(&mut self, length: usize) -> Result<(), NoRoom>;
}

/// A frame in ordinary memory, with the head- and tailroom that the slice leaves around it.
#[derive(Debug)]
pub struct SliceFrame<'a> {
    memory: &'a mut [u8],
    start: usize,
    end: usize,
}

impl<'a> SliceFrame<'a> {
    /// Headroom that the kernel leaves before a frame (`XDP_PACKET_HEADROOM`), less what it keeps there for itself
    /// once the frame is redirected (`struct xdp_frame`).
    pub const HEADROOM: usize = 256 - 40;

    /// Copies `frame` into `memory` behind [`SliceFrame::HEADROOM`] bytes; `None` if it does not fit.
    pub fn new(memory: &'a mut [u8], frame: &[u8]) -> Option<Self> {
        let end = Self::HEADROOM + frame.len();
        memory.get_mut(Self::HEADROOM..end)?.copy_from_slice(frame);
        Some(Self {
            memory,
            start: Self::HEADROOM,
            end,
        })
    }

    /// The frame as it is now.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }
}

impl Frame for SliceFrame<'_> {
    fn length(&self) -> usize {
        self.end - self.start
    }

    fn read<H: Wire>(&self, offset: usize) -> Result<H, Truncated> {
        let bytes = self
            .bytes()
            .get(offset..offset + size_of::<H>())
            .ok_or(Truncated)?;
        // SAFETY: the slice is as long as `H`, and `Wire` promises that any bytes are a valid `H`.
        Ok(unsafe { bytes.as_ptr().cast::<H>().read_unaligned() })
    }

    fn write<H: Wire>(&mut self, offset: usize, header: H) -> Result<(), Truncated> {
        let frame = &mut self.memory[self.start..self.end];
        let bytes = frame
            .get_mut(offset..offset + size_of::<H>())
            .ok_or(Truncated)?;
        // SAFETY: the slice is as long as `H`, and `Wire` promises that `H` has no padding.
        unsafe { bytes.as_mut_ptr().cast::<H>().write_unaligned(header) };
        Ok(())
    }

    fn sum(&self, offset: usize, length: usize) -> Result<Sum, Truncated> {
        let bytes = self.bytes().get(offset..offset + length).ok_or(Truncated)?;
        Ok(Sum::default().add_bytes(bytes))
    }

    fn move_head(&mut self, delta: i32) -> Result<(), NoRoom> {
        let start = self
            .start
            .checked_add_signed(delta as isize)
            .ok_or(NoRoom)?;
        // The kernel refuses a frame shorter than an Ethernet header (`bpf_xdp_adjust_head`).
        if start + 14 > self.end {
            return Err(NoRoom);
        }
        self.start = start;
        Ok(())
    }

    fn set_length(&mut self, length: usize) -> Result<(), NoRoom> {
        let end = self.start + length;
        if length < 14 || end > self.memory.len() {
            return Err(NoRoom);
        }
        if end > self.end {
            self.memory[self.end..end].fill(0);
        }
        self.end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_or_written_past_the_end() {
        let mut memory = [0; 400];
        let mut frame = SliceFrame::new(&mut memory, &[7; 20]).expect("fits");
        assert_eq!(frame.read::<[u8; 4]>(16), Ok([7; 4]));
        assert_eq!(frame.read::<[u8; 4]>(17), Err(Truncated));
        assert_eq!(frame.write(17, [0u8; 4]), Err(Truncated));
        assert_eq!(frame.sum(0, 21), Err(Truncated));
        assert_eq!(frame.bytes(), [7; 20]);
    }

    #[test]
    fn head_and_tail_move_within_the_memory() {
        let mut memory = [0; 256];
        let mut frame = SliceFrame::new(&mut memory, &[7; 30]).expect("fits");
        assert_eq!(
            frame.move_head(-(SliceFrame::HEADROOM as i32) - 1),
            Err(NoRoom)
        );
        assert_eq!(frame.move_head(17), Err(NoRoom));
        frame.move_head(-28).expect("within the headroom");
        assert_eq!(frame.length(), 58);
        frame.set_length(60).expect("within the tailroom");
        assert_eq!(frame.bytes()[56..], [7, 7, 0, 0]);
        assert_eq!(frame.set_length(100), Err(NoRoom));
    }
}
