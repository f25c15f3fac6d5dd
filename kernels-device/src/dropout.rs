//! Which weights dropout keeps: a function of seed, offset, sequence, number of query heads, head, query and key, and of
//! nothing else. Pure.
//!
//! A byte of [`philox`] decides on each weight. The 16 bytes of one call are those of the queries q and q + 8 of a group
//! of 16, and of the keys k and k + 1, where k is even, in each eighth of a group of 32: what one thread has in its
//! fragment of the scores.
//!
//! ```text
//! key       seed, low half first
//! counter   key / 32 * 4 + key / 2 % 4,   query / 16 * 8 + query % 8,   sequence * heads + head,   offset
//! word      key / 16 % 2 * 2 + query / 8 % 2
//! byte      key % 2 * 2 + key / 8 % 2, from the lowest
//! ```

use crate::philox::philox;

/// Dropout of a launch.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Low and high half of the seed.
    pub seed: [u32; 2],
    /// Tells random numbers of one seed apart.
    pub offset: u32,
    /// A weight is kept if its byte is below: 1 to 255, or [`ALL_KEPT`].
    pub threshold: u32,
    /// How many times the weights that are kept count: `256 / threshold`.
    pub factor: f32,
}

/// The threshold below which all bytes are.
pub const ALL_KEPT: u32 = 256;

impl Dropout {
    /// All weights are kept.
    pub const NONE: Dropout = Dropout::new(0, 0, ALL_KEPT);

    /// Keeps weights whose bytes are below `threshold`.
    pub const fn new(seed: u64, offset: u32, threshold: u32) -> Self {
        let factor = ALL_KEPT as f32 / threshold as f32;
        Dropout { seed: [seed as u32, (seed >> 32) as u32], offset, threshold, factor }
    }

    /// The random numbers of a query of head `head`, counted over all sequences, and a key: 4 words, which they share
    /// with others.
    #[inline(always)]
    pub fn random(&self, head: u32, query: u32, key: u32) -> [u32; 4] {
        let counter = [key / 32 * 4 + key / 2 % 4, query / 16 * 8 + query % 8, head, self.offset];
        philox(counter, self.seed)
    }

    /// Whether the weight of a query and a key is kept.
    #[inline(always)]
    pub fn keeps(&self, head: u32, query: u32, key: u32) -> bool {
        let [a, b, c, d] = self.random(head, query, key);
        let choose = |even, odd, number: u32| if number.is_multiple_of(2) { even } else { odd };
        let word = choose(choose(a, b, query / 8), choose(c, d, query / 8), key / 16);
        (word >> (8 * (key % 2 * 2 + key / 8 % 2)) & 0xFF) < self.threshold
    }

    /// Of a word of random numbers, the weights of two neighbouring keys in the first or second eighth (`eighth` is 0
    /// or 1): the highest bit of each half is set where the weight is dropped.
    #[inline(always)]
    pub const fn dropped(&self, word: u32, eighth: u32) -> u32 {
        // In both halves at once, a byte + 0x8000 - threshold.
        (word >> (8 * eighth) & 0x00FF_00FF) + (0x8000 - self.threshold) * 0x1_0001
    }
}
