//! Online softmax (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022): scores come a tile at a time, the
//! running maximum and sum of each row are kept, and what was summed under an older maximum is rescaled.
//!
//! ```text
//! m' = max(m, max_j s_j)      alpha = 2^((m - m') scale)
//! p_j = 2^((s_j - m') scale)  l' = alpha l + sum_j p_j       O' = alpha O + P V
//! ```
//!
//! `scale` includes log2(e). A thread holds two rows, and every fourth pair of columns of them; the sum stays its own
//! until the end, the maximum is shared with the three other lanes of the quad at every tile.

use crate::ptx::math::{add, exp2, fma, log2, max, mul, reciprocal, select_equal, select_less};
use crate::ptx::warp::shuffle_xor;
use crate::ptx::wgmma::Acc;

/// 2 to the 126: beyond, a reciprocal is no normal number. Sums of probabilities come near it only where scores are so
/// large that their rounding alone decides; NaN, too, is not less.
const LARGEST_SUM: f32 = 8.507_059e37;

/// State of the two rows of a thread.
pub struct Softmax {
    /// In units of scores as they come, or to the base 2 where what is added to them differs from tile to tile.
    row_max: [f32; 2],
    row_sum: [f32; 2],
    /// What is subtracted from the scaled scores of the tile at hand.
    offset: [f32; 2],
    scale_log2: f32,
    /// log2 of what probabilities, and so their sums, are multiplied with: a constant.
    shift: f32,
}

/// What the rows of a thread have come to under some of their keys, but for O.
#[derive(Clone, Copy)]
pub struct Partial {
    /// `m * scale`, to the base 2, less what probabilities are shifted by; minus infinity for a row without keys.
    pub max: [f32; 2],
    /// `l`
    pub sum: [f32; 2],
}

impl Partial {
    /// No key seen.
    pub const NO_KEYS: Partial = Partial { max: [f32::NEG_INFINITY; 2], sum: [0.0; 2] };

    /// Takes in what another part of the keys came to, but for the sums: those need [`Self::weight`].
    #[inline(always)]
    pub fn raise(&mut self, other: &Partial) {
        let mut row = 0;
        while row < 2 {
            self.max[row] = max(self.max[row], other.max[row]);
            row += 1;
        }
    }

    /// The factors by which sums and O under these keys count where `max` are the maxima of all.
    #[inline(always)]
    pub fn weight(&self, max: [f32; 2]) -> [f32; 2] {
        let mut weight = [0.0; 2];
        let mut row = 0;
        while row < 2 {
            let offset = select_equal(max[row], f32::NEG_INFINITY, 0.0, max[row]);
            weight[row] = exp2(add(self.max[row], -offset));
            row += 1;
        }
        weight
    }

    /// Adds a logit to each row's denominator, to the base 2; minus infinity adds nothing. Returns the factors for O,
    /// which keeps what it was summed under.
    #[inline(always)]
    pub fn join(&mut self, logits: [f32; 2]) -> [f32; 2] {
        let before = *self;
        self.raise(&Partial { max: logits, sum: [0.0; 2] });
        let weight = before.weight(self.max);
        let joining = Partial { max: logits, sum: [1.0; 2] }.weight(self.max);
        let mut row = 0;
        while row < 2 {
            self.sum[row] = fma(before.sum[row], weight[row], joining[row]);
            row += 1;
        }
        weight
    }

    /// What remains to be done with O.
    #[inline(always)]
    pub fn finish(&self) -> Finished {
        let mut finished = Finished::NO_KEYS;
        let mut row = 0;
        while row < 2 {
            let sum = self.sum[row];
            // The reciprocal of a sum beyond the range would be flushed to 0, which means "no keys".
            let inverse = select_less(sum, LARGEST_SUM, reciprocal(sum), f32::NAN);
            finished.inverse_sum[row] = select_equal(sum, 0.0, 0.0, inverse);
            // Without keys both terms are minus infinity.
            finished.lse[row] = mul(add(self.max[row], log2(sum)), core::f32::consts::LN_2);
            row += 1;
        }
        finished
    }
}

/// What [`Softmax::finish`] leaves: factors for O, and the log-sum-exp (natural log) of the two rows.
pub struct Finished {
    /// `1 / l`, or 0 for a row without keys.
    pub inverse_sum: [f32; 2],
    /// `m * scale + ln l`, minus infinity for a row without keys.
    pub lse: [f32; 2],
}

impl Finished {
    /// Rows that saw no key.
    pub const NO_KEYS: Finished = Finished { inverse_sum: [0.0; 2], lse: [f32::NEG_INFINITY; 2] };
}

impl Softmax {
    /// No key seen yet.
    #[inline(always)]
    pub fn new(scale_log2: f32, shift: f32) -> Self {
        Softmax { row_max: [f32::NEG_INFINITY; 2], row_sum: [0.0; 2], offset: [0.0; 2], scale_log2, shift }
    }

    /// What is subtracted from scaled scores under a maximum.
    #[inline(always)]
    fn offset(&self, row_max: f32) -> f32 {
        let scaled = mul(row_max, self.scale_log2);
        if self.shift == 0.0 { scaled } else { add(scaled, -self.shift) }
    }

    /// Takes in the maxima of a tile of scores, and returns the factors `alpha` for what was accumulated before.
    /// [`Self::exponentiate`] must follow for both rows.
    ///
    /// # Safety
    /// All lanes of the warp execute it together.
    #[inline(always)]
    pub unsafe fn observe<const R: usize>(&mut self, s: &Acc<R>) -> [f32; 2] {
        let mut alpha = [0.0; 2];
        let mut row = 0;
        while row < 2 {
            // SAFETY: the caller's.
            let row_max = unsafe { quad_max(max(self.row_max[row], fragment_max(s, row))) };
            // A row that sees no key so far: its exponents must be -inf - 0, not -inf + inf.
            let offset = select_equal(row_max, f32::NEG_INFINITY, 0.0, self.offset(row_max));
            // The difference of the offsets as they were rounded: exactly 1 while the maximum stands.
            alpha[row] = exp2(add(self.offset(self.row_max[row]), -offset));
            self.row_sum[row] = mul(self.row_sum[row], alpha[row]);
            self.row_max[row] = row_max;
            self.offset[row] = offset;
            row += 1;
        }
        alpha
    }

    /// The same for scores of a tile to which `added` is still to be added, to this thread's of each row and to the base
    /// 2. Either all tiles are observed like this, or none, and [`Self::partial_of_added`] ends it.
    ///
    /// # Safety
    /// All lanes of the warp execute it together.
    #[inline(always)]
    pub unsafe fn observe_added<const R: usize>(&mut self, s: &Acc<R>, added: [f32; 2]) -> [f32; 2] {
        let mut alpha = [0.0; 2];
        let mut row = 0;
        while row < 2 {
            let tile_max = fma(fragment_max(s, row), self.scale_log2, added[row]);
            // SAFETY: the caller's.
            let row_max = unsafe { quad_max(max(self.row_max[row], tile_max)) };
            let offset = select_equal(row_max, f32::NEG_INFINITY, 0.0, row_max);
            alpha[row] = exp2(add(self.row_max[row], -offset));
            self.row_sum[row] = mul(self.row_sum[row], alpha[row]);
            self.row_max[row] = row_max;
            self.offset[row] = add(offset, -added[row]);
            row += 1;
        }
        alpha
    }

    /// Turns observed scores, the fragment's registers `from..to`, into probabilities.
    #[inline(always)]
    pub fn exponentiate<const R: usize>(&mut self, s: &mut Acc<R>, from: usize, to: usize) {
        // Two chains a row, so that neither waits for its own latency.
        let mut sums = [[self.row_sum[0], 0.0], [self.row_sum[1], 0.0]];
        let mut i = from;
        while i < to {
            let row = i >> 1 & 1;
            s.0[i] = exp2(fma(s.0[i], self.scale_log2, -self.offset[row]));
            sums[row][i & 1] = add(sums[row][i & 1], s.0[i]);
            i += 1;
        }
        self.row_sum = sums.map(|[a, b]| add(a, b));
    }

    /// Adds up the sums of the quad.
    ///
    /// # Safety
    /// All lanes of the warp execute it together.
    #[inline(always)]
    pub unsafe fn partial(&self) -> Partial {
        let max = self.row_max.map(|row_max| self.offset(row_max));
        // SAFETY: the caller's.
        Partial { max, sum: self.row_sum.map(|sum| unsafe { quad_sum(sum) }) }
    }

    /// The same after [`Self::observe_added`].
    ///
    /// # Safety
    /// All lanes of the warp execute it together.
    #[inline(always)]
    pub unsafe fn partial_of_added(&self) -> Partial {
        // SAFETY: the caller's.
        Partial { max: self.row_max, sum: self.row_sum.map(|sum| unsafe { quad_sum(sum) }) }
    }
}

/// Largest of the thread's scores in one of its two rows. Two chains, so that neither waits for its own latency.
#[inline(always)]
fn fragment_max<const R: usize>(s: &Acc<R>, row: usize) -> f32 {
    let mut m = [s.0[2 * row], s.0[2 * row + 1]];
    let mut i = 2 * row + 4;
    while i < R {
        m[0] = max(m[0], s.0[i]);
        m[1] = max(m[1], s.0[i + 1]);
        i += 4;
    }
    max(m[0], m[1])
}

#[inline(always)]
unsafe fn quad_max(x: f32) -> f32 {
    // SAFETY: the caller's: the whole warp is here.
    unsafe {
        let x = max(x, shuffle_xor(x, 1));
        max(x, shuffle_xor(x, 2))
    }
}

#[inline(always)]
unsafe fn quad_sum(x: f32) -> f32 {
    // SAFETY: the caller's: the whole warp is here.
    unsafe {
        let x = add(x, shuffle_xor(x, 1));
        add(x, shuffle_xor(x, 2))
    }
}
