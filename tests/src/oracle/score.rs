//! What becomes of a score before the softmax, and of a weight after it.
//!
//! The scaled product of query and key, s, becomes in turn
//!
//! 1. softcap * tanh(s / softcap);
//! 2. that - slope * |i + seqlen_kv - seqlen_q - j| (ALiBi; the distance is counted from the bottom right, wherever the
//!    mask's diagonal is);
//! 3. that + bias\[b, h, i, j\];
//! 4. modify(that, b, h, i, j).
//!
//! i and j count from the start of sequence b, h is a query head.

use std::fmt;
use std::sync::Arc;

use super::Position;
use super::broadcast::Broadcast;

/// What is done to scaled scores. By default, nothing.
#[derive(Clone, Debug, Default)]
pub struct Scoring {
    /// What scores approach but do not exceed, in magnitude.
    pub softcap: Option<f64>,
    /// How far a hyperbolic tangent may be off, relative to itself: 0 unless an approximation is asked for.
    pub tanh_error: f64,
    /// ALiBi's slopes: one for each query head, and maybe sequence.
    pub alibi: Option<Broadcast<f32>>,
    /// What is added.
    pub bias: Option<Broadcast<f32>>,
    /// What else is done. It is taken to change the score by no more than its argument changes, so that an error
    /// does not grow in it.
    pub modify: Option<Modify>,
}

/// Any function of a score, b, h, i and j.
#[derive(Clone)]
pub struct Modify(Arc<dyn Fn(f64, [usize; 4]) -> f64 + Send + Sync>);

impl Modify {
    /// The function `f(score, b, h, i, j)`.
    pub fn new(f: impl Fn(f64, usize, usize, usize, usize) -> f64 + Send + Sync + 'static) -> Self {
        Modify(Arc::new(move |score, [b, h, i, j]| f(score, b, h, i, j)))
    }

    /// What becomes of a score at \[b, h, i, j\].
    pub fn call(&self, score: f64, index: [usize; 4]) -> f64 {
        (self.0)(score, index)
    }
}

impl fmt::Debug for Modify {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Modify")
    }
}

/// The score of a key that a query sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scored {
    /// The key, from the start of its sequence.
    pub(super) key: usize,
    /// Its score, all done.
    pub(super) score: f64,
    /// Magnitude of the numbers that the score is made from, beside the product: rounding moves it in proportion.
    pub(super) addends: f64,
    /// By how much it may be off in any case.
    pub(super) tolerated: f64,
}

impl Scoring {
    /// What becomes of `scaled`, the scaled product of a query and a key; the query is at key `diagonal`.
    pub(super) fn apply(&self, scaled: f64, at: Position, key: usize, diagonal: i64) -> Scored {
        let index = [at.b, at.h, at.s, key];
        let (mut score, mut addends, mut tolerated) = (scaled, 0.0, 0.0);
        if let Some(softcap) = self.softcap {
            score = softcap * (score / softcap).tanh();
            // From exponentials, tanh is a difference of numbers near 1.
            addends += softcap;
            tolerated = self.tanh_error * score.abs();
        }
        if let Some(slopes) = &self.alibi {
            let bias = -f64::from(slopes.get(index)) * (diagonal - key as i64).abs() as f64;
            score += bias;
            addends += bias.abs();
        }
        if let Some(bias) = &self.bias {
            let bias = f64::from(bias.get(index));
            score += bias;
            addends += bias.abs();
        }
        if let Some(modify) = &self.modify {
            let modified = modify.call(score, index);
            addends += (modified - score).abs();
            score = modified;
        }
        Scored { key, score, addends, tolerated }
    }

    /// Whether something is added to scores that may be so large that little of them is left in f32.
    pub(super) fn adds(&self) -> bool {
        self.alibi.is_some() || self.bias.is_some() || self.modify.is_some()
    }
}

/// Weights that are left out at random.
#[derive(Clone)]
pub struct Dropout {
    p: f64,
    keep: Arc<dyn Fn([usize; 4]) -> bool + Send + Sync>,
}

impl Dropout {
    /// Weights are left out with probability `p`: those for which `keep(b, h, i, j)` is false. The others count
    /// 1/(1 - p) times in the output. The log-sum-exp is that of all.
    ///
    /// # Panics
    /// If `p` is not in 0..1.
    pub fn new(p: f64, keep: impl Fn(usize, usize, usize, usize) -> bool + Send + Sync + 'static) -> Self {
        assert!((0.0..1.0).contains(&p), "a probability of {p}");
        Dropout { p, keep: Arc::new(move |[b, h, i, j]| keep(b, h, i, j)) }
    }

    /// Weights are left out as the library promises, of `heads` query heads: of 256 weights `threshold` are kept, by the
    /// bytes of Philox.
    pub fn promised(threshold: u32, seed: u64, offset: u32, heads: usize) -> Self {
        Dropout::new(1.0 - f64::from(threshold) / 256.0, move |b, h, i, j| {
            let counter = [j / 32 * 4 + j / 2 % 4, i / 16 * 8 + i % 8, b * heads + h, offset as usize];
            let word = philox(counter.map(|word| word as u64), seed)[j / 16 % 2 * 2 + i / 8 % 2];
            u32::from(word.to_le_bytes()[j % 2 * 2 + j / 8 % 2]) < threshold
        })
    }

    /// Whether the weight at \[b, h, i, j\] is kept.
    pub fn keeps(&self, index: [usize; 4]) -> bool {
        (self.keep)(index)
    }

    /// How many times the weights that are kept count: 1/(1 - p).
    pub fn gain(&self) -> f64 {
        1.0 / (1.0 - self.p)
    }
}

impl fmt::Debug for Dropout {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Dropout").field("p", &self.p).finish_non_exhaustive()
    }
}

/// Philox4x32-10 (Salmon et al. 2011): ten times two products whose halves cross over.
pub(crate) fn philox(counter: [u64; 4], seed: u64) -> [u32; 4] {
    const LOW: u64 = u32::MAX as u64;
    (0..10)
        .fold(counter, |[a, b, c, d], round| {
            let key = [(seed & LOW) + round * 0x9E37_79B9, (seed >> 32) + round * 0xBB67_AE85];
            let [a, c] = [a * 0xD251_1F53, c * 0xCD9E_8D57];
            [(c >> 32) ^ b ^ (key[0] & LOW), c & LOW, (a >> 32) ^ d ^ (key[1] & LOW), a & LOW]
        })
        .map(|word| word as u32)
}
