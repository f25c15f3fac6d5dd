//! How far from the right answer a kernel may be.
//!
//! With errors taken as maxima over the tensor: the kernel's error may be twice that of an ideal kernel of the
//! same element type (three times, where scores are capped), plus twice what adding and subtracting 0.3 in that type
//! costs the right answer (which keeps the bound above zero where the ideal kernel is exact), plus what the approximation
//! of a hyperbolic tangent costs where the call has asked for it.
//! LSE must be within 1e-5, relative or absolute, or within what tensor cores, rounding in f32 and that approximation may
//! do to the row's scores ([`Attention::score_error`]). A number that is not finite must be the same in both. Rows that
//! are no query's must be as they were.

use flashcore::{Dtype, Shape};

use crate::oracle::{Attention, Expected, Position};
use crate::values::{HostTensor, POISON, Values, round};

/// LSE may be off by this much, relative or absolute.
pub const LSE_TOLERANCE: f64 = 1e-5;

/// A result that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Largest error of an output.
    pub error: f64,
    /// What it could have been.
    pub bound: f64,
    /// Largest error of an LSE, the smaller of relative and absolute.
    pub lse_error: f64,
}

/// The first element that is wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// An output.
    #[error(
        "output (b {}, s {}, h {}, d {d}) is {got}, should be {want}: error {:.3e}, allowed {bound:.3e}; \
         {bad} of {checked} checked elements are wrong, the largest error is {max_error:.3e}",
        at.b, at.s, at.h, (got - want).abs()
    )]
    Output {
        /// Row of the element.
        at: Position,
        /// Column of the element.
        d: usize,
        /// What the kernel wrote.
        got: f64,
        /// The right answer.
        want: f64,
        /// The largest error allowed.
        bound: f64,
        /// Elements that are wrong.
        bad: usize,
        /// Elements that were looked at.
        checked: usize,
        /// The largest error of all.
        max_error: f64,
    },
    /// A log-sum-exp.
    #[error("LSE (b {}, h {}, s {}) is {got}, should be {want}; {bad} of {checked} checked ones are wrong", at.b, at.h, at.s)]
    Lse {
        /// Row it belongs to.
        at: Position,
        /// What the kernel wrote.
        got: f64,
        /// The right answer.
        want: f64,
        /// LSEs that are wrong.
        bad: usize,
        /// LSEs that were looked at.
        checked: usize,
    },
    /// Something was written to a row that is no query's.
    #[error("{what} (b {}, s {}, h {}) is no query's, but was written", at.b, at.s, at.h)]
    Unused {
        /// Which output.
        what: &'static str,
        /// The row, by the indices of Q's tensor.
        at: Position,
    },
}

/// The error of `got`: 0 if both are the same non-finite number, infinite if only one is finite or they differ.
fn error(got: f64, want: f64) -> f64 {
    if got.is_finite() && want.is_finite() {
        (got - want).abs()
    } else if got == want || (got.is_nan() && want.is_nan()) {
        0.0
    } else {
        f64::INFINITY
    }
}

/// The largest error that an output may have.
pub fn bound(expected: &[Expected], dtype: Dtype) -> f64 {
    let mut ideal_error = 0.0f64;
    let mut granularity = 0.0f64;
    let mut allowance = 0.0f64;
    let mut tolerated = 0.0f64;
    for row in expected {
        allowance = allowance.max(row.allowance);
        tolerated = tolerated.max(row.tolerated);
        for (&exact, &ideal) in row.exact.o.iter().zip(&row.ideal.o).filter(|(exact, _)| exact.is_finite()) {
            if ideal.is_finite() {
                ideal_error = ideal_error.max((ideal - exact).abs());
            }
            let there_and_back = round(dtype, round(dtype, round(dtype, exact) + 0.3) - 0.3);
            granularity = granularity.max((there_and_back - round(dtype, exact)).abs());
        }
    }
    allowance * ideal_error + 2.0 * granularity + tolerated
}

/// Compares what a kernel wrote with the right answers: `o`, and `lse` as contiguous (batch, heads, seqlen), which is
/// (heads, total) where sequences are packed.
pub fn compare(
    expected: &[Expected],
    dtype: Dtype,
    o: &Values,
    lse: Option<&[f32]>,
) -> Result<Verdict, Mismatch> {
    let bound = bound(expected, dtype);
    let outputs = || {
        expected.iter().flat_map(|row| {
            let got = o.row(row.stored.b, row.stored.s, row.stored.h);
            got.iter()
                .zip(&row.exact.o)
                .enumerate()
                .map(|(d, (&got, &want))| (row.at, d, f64::from(got), want))
        })
    };
    let max_error = outputs().map(|(_, _, got, want)| error(got, want)).fold(0.0, f64::max);
    let wrong = |&(_, _, got, want): &(Position, usize, f64, f64)| error(got, want) > bound;
    if let Some((at, d, got, want)) = outputs().find(wrong) {
        let (bad, checked) = (outputs().filter(wrong).count(), outputs().count());
        return Err(Mismatch::Output { at, d, got, want, bound, bad, checked, max_error });
    }
    let mut verdict = Verdict { error: max_error, bound, lse_error: 0.0 };
    if let Some(lse) = lse {
        let lses = || {
            expected.iter().map(|row| (row, f64::from(lse[lse_index(o.shape, row.stored)]), row.exact.lse))
        };
        let scale = |want: f64| if want.is_finite() { want.abs().max(1.0) } else { 1.0 };
        let wrong = |&(row, got, want): &(&Expected, f64, f64)| {
            error(got, want) > (LSE_TOLERANCE * scale(want)).max(row.score_error)
        };
        if let Some((&Expected { at, .. }, got, want)) = lses().find(wrong) {
            return Err(Mismatch::Lse {
                at,
                got,
                want,
                bad: lses().filter(wrong).count(),
                checked: lses().count(),
            });
        }
        verdict.lse_error = lses().map(|(_, got, want)| error(got, want) / scale(want)).fold(0.0, f64::max);
    }
    Ok(verdict)
}

/// Where the LSE of a row of an output of `shape` lies.
fn lse_index(shape: Shape, row: Position) -> usize {
    (row.b * shape.heads + row.h) * shape.seqlen + row.s
}

/// Checks that outputs that were poisoned, `o` and `lse` as in [`compare`], still are in all rows that are no query's.
///
/// # Errors
/// The first row that is not.
pub fn check_unused(attention: &Attention, o: &HostTensor, lse: Option<&[f32]>) -> Result<(), Mismatch> {
    for (row, _) in attention.used().into_iter().enumerate().filter(|&(_, used)| !used) {
        for h in 0..o.shape.heads {
            let at = Position { b: row / o.shape.seqlen, s: row % o.shape.seqlen, h };
            if o.row_bits(at.b, at.s, h).iter().any(|&bits| bits != POISON) {
                return Err(Mismatch::Unused { what: "output", at });
            }
            if lse.is_some_and(|lse| lse[lse_index(o.shape, at)].to_bits() != u32::MAX) {
                return Err(Mismatch::Unused { what: "LSE", at });
            }
        }
    }
    Ok(())
}
