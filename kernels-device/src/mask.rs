//! Masking of one score fragment.

use crate::ptx::wgmma::Acc;

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
#[inline(always)]
pub fn apply_range<const R: usize>(s: &mut Acc<R>, from: [i32; 2], end: [i32; 2]) {
    let mut i = 0;
    while i < R {
        let column = 8 * (i as i32 >> 2) + (i as i32 & 1);
        let row = i >> 1 & 1;
        if column < from[row] || column >= end[row] {
            s.0[i] = f32::NEG_INFINITY;
        }
        i += 1;
    }
}
