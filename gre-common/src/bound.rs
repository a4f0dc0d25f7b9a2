//! Numbers that the BPF verifier must be able to bound: the only place where its blind spots are spelled out.
//!
//! What comes from a packet or a map passes through here on its way to an index, an offset or a length. The compiler
//! knows bounds by all it has seen: it leaves checks out, moves them before a byte swap, or spills a copy of the value in
//! front of them. Verifiers follow none of that: up to 6.17 they know no bits of a number that was swapped, 6.1 forgets
//! that a spilled copy was checked, and learns no lower bound from a comparison with 0. So the cut is an instruction that
//! the compiler cannot see into, and what comes out of it is a new number that was never without its bound.

/// `number` cut to a table of `COUNT` entries, a power of two.
#[inline(always)]
pub fn index<const COUNT: usize>(number: impl Into<u64>) -> usize {
    const { assert!(COUNT.is_power_of_two()) };
    offset::<COUNT, 1>(number)
}

/// `number` cut to an aligned place for `SIZE` bytes within `BYTES`; both are powers of two.
#[inline(always)]
pub fn offset<const BYTES: usize, const SIZE: usize>(number: impl Into<u64>) -> usize {
    const { assert!(BYTES.is_power_of_two() && SIZE.is_power_of_two() && BYTES <= 1 << 31) };
    let offset = verifier::cut::<BYTES, SIZE>(number.into()) as usize;
    // SAFETY: it was cut just now. Only the compiler is told; it would check again.
    unsafe { core::hint::assert_unchecked(offset < BYTES) };
    offset
}

/// `number` cut to 1 to `MOST`, a power of two.
#[inline(always)]
pub fn length<const MOST: usize>(number: u64) -> u64 {
    index::<MOST>(number.wrapping_sub(1)) as u64 + 1
}

/// The same number, of which the verifier does not know that it is the same.
///
/// For what a loop carries along: from 6.13 to 6.18 the verifier tells states apart by which unknown numbers are copies of
/// each other, and walks a loop anew for each combination.
#[inline(always)]
pub fn copy(number: u64) -> u64 {
    verifier::copy(number)
}

/// One instruction each. (An empty one would leave two lines of debug information for one place: the kernel refuses that.)
#[cfg(target_arch = "bpf")]
mod verifier {
    use core::arch::asm;

    #[inline(always)]
    pub(super) fn cut<const BYTES: usize, const SIZE: usize>(mut number: u64) -> u64 {
        // SAFETY: one instruction on a register.
        unsafe {
            asm!(
                "{number} &= {mask}",
                number = inout(reg) number,
                mask = const BYTES - SIZE,
                options(pure, nomem, nostack)
            );
        }
        number
    }

    #[inline(always)]
    pub(super) fn copy(mut number: u64) -> u64 {
        // SAFETY: one instruction on a register.
        unsafe {
            asm!("{number} ^= 0", number = inout(reg) number, options(pure, nomem, nostack));
        }
        number
    }
}

/// The plain arithmetic.
#[cfg(not(target_arch = "bpf"))]
mod verifier {
    #[inline(always)]
    pub(super) fn cut<const BYTES: usize, const SIZE: usize>(number: u64) -> u64 {
        number & (BYTES - SIZE) as u64
    }

    #[inline(always)]
    pub(super) fn copy(number: u64) -> u64 {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays_as_it_is() {
        assert_eq!([0_u64, 7].map(index::<8>), [0, 7]);
        assert_eq!([0_u64, 8, 56].map(offset::<64, 8>), [0, 8, 56]);
        assert_eq!([1, 2, 512].map(length::<512>), [1, 2, 512]);
    }

    #[test]
    fn what_does_not_fit_is_cut_to_something_that_does() {
        for number in [8, 9, 63, 64, 1 << 40, u64::MAX] {
            assert!(index::<8>(number) < 8);
            assert!(offset::<64, 8>(number) <= 56 && offset::<64, 8>(number).is_multiple_of(8));
        }
        for number in [0, 513, u64::MAX] {
            assert!((1..=512).contains(&length::<512>(number)));
        }
    }
}
