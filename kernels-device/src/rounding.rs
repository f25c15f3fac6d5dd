//! How numbers are rounded to 8 bits: to the nearest, or by chance to one of their two neighbours. Pure.
//!
//! By chance, a number goes up, away from zero, with the probability that its distance from the lower neighbour is of
//! that between both: what is rounded is right on average. Where `f` is that fraction, it goes up if
//!
//! ```text
//! f + (r + 1/2) / 2^16 >= 1
//! ```
//!
//! for the 16 random bits r that are its own, so that probabilities are the nearest multiples of 2^-16, and that what
//! the format holds stays as it is.
//!
//! The bits are a function of seed, offset, tensor, head and place in it, and of nothing else. 8 numbers that lie
//! together share one call of [`philox`]: of Q and K, columns of a row; of V, keys of a column, before keys are
//! [permuted](crate::fp8::value_position).
//!
//! ```text
//! key       seed, low half first
//! counter   2^31 + column / 8 * 4 + tensor,   row,      sequence * heads + head,   offset       tensor: 0 of Q, 1 of K
//!           2^31 + key / 8 * 4 + 2,           column,   sequence * heads + head,   offset       of V
//! bits      16 * (column or key % 8) ..       of the four words, from the lowest
//! ```
//!
//! The first word of a counter of [dropout](crate::dropout) is below 2^31: with the same seed, its bits are others.

use crate::philox::philox;

/// Numbers that one call of Philox serves.
pub const RANDOM_GROUP: usize = 8;

/// How the numbers of a launch are rounded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// Low and high half of the seed.
    pub seed: [u32; 2],
    /// Tells random numbers of one seed apart.
    pub offset: u32,
    /// 1: by chance. 0: to the nearest, ties to even.
    pub stochastic: u32,
}

impl Rounding {
    /// To the nearest.
    pub const NEAREST: Rounding = Rounding { seed: [0; 2], offset: 0, stochastic: 0 };

    /// By chance.
    pub const fn stochastic(seed: u64, offset: u32) -> Self {
        Rounding { seed: [seed as u32, (seed >> 32) as u32], offset, stochastic: 1 }
    }

    /// The random bits of group `group` of 8 numbers of line `line`: a row of Q or K, a column of V. Heads are counted
    /// over all sequences.
    #[inline(always)]
    pub fn random(&self, tensor: u32, head: u32, line: u32, group: u32) -> [u32; 4] {
        philox([1 << 31 | group << 2 | tensor, line, head, self.offset], self.seed)
    }
}
