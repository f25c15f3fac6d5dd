//! Masking of one score fragment.

use crate::ptx::wgmma::Acc;

/// Keys that 32 bits stand for, of those of all four threads of a row.
const WORD_KEYS: u32 = 128;
/// Registers of their scores.
const WORD_REGISTERS: usize = WORD_KEYS as usize / 2;

/// Hides the scores of keys that a row does not see.
///
/// `visible[r]` is the number of keys that the thread's row r (of its two) sees, counted from the thread's first
/// column of the fragment; it may be negative or beyond the fragment.
#[inline(always)]
pub fn apply<const R: usize>(s: &mut Acc<R>, visible: [i32; 2]) {
    let mut i = 0;
    while i < R {
        let column = 8 * (i as i32 >> 2) + (i as i32 & 1);
        if column >= visible[i >> 1 & 1] {
            s.0[i] = f32::NEG_INFINITY;
        }
        i += 1;
    }
}

/// Hides the scores of keys that lie outside of a row's range: before `from[r]` or not before `end[r]`, both counted as
/// in [`apply`].
///
/// What a row sees is worked out for all of a thread's keys at once, a bit each: two neighbouring bits for the two
/// neighbouring columns in every eight. Comparing each key with both ends would take twice the instructions, and under
/// a window many steps have a mask.
#[inline(always)]
pub fn apply_range<const R: usize>(s: &mut Acc<R>, from: [i32; 2], end: [i32; 2]) {
    let mut first = 0;
    while first < R {
        let columns = 2 * first as i32;
        let [end_0, end_1] = end.map(|end| keys_before(end - columns));
        let [from_0, from_1] = from.map(|from| keys_before(from - columns));
        keep(s, first, [end_0 & !from_0, end_1 & !from_1]);
        first += WORD_REGISTERS;
    }
}

/// The bits of the thread's keys that lie before column `end`.
#[inline(always)]
fn keys_before(end: i32) -> u32 {
    let end = end.max(0).min(WORD_KEYS as i32) as u32;
    let count = 2 * (end / 8) + (end % 8).min(2);
    ((1u64 << count) - 1) as u32
}

/// Hides the scores, from register `first` on, whose bit is not set.
#[inline(always)]
fn keep<const R: usize>(s: &mut Acc<R>, first: usize, bits: [u32; 2]) {
    let mut i = 0;
    while i < WORD_REGISTERS && first + i < R {
        if bits[i >> 1 & 1] & 1 << (2 * (i >> 2) + (i & 1)) == 0 {
            s.0[first + i] = f32::NEG_INFINITY;
        }
        i += 1;
    }
}
