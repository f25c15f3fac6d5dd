//! What attention is, in three loops: scores, weights, weighted sum.
//!
//! [`Attention::exact`] does them in f64. [`Attention::ideal`] is the best that a kernel of the element type can do:
//! it too starts from inputs in that type and keeps scores and sums wide, but rounds each weight before it multiplies
//! V, and rounds the result. Its error is the yardstick for a real kernel's.

use flashcore::Dtype;
use rand::seq::index::sample;
use rand::{SeedableRng, rngs::StdRng};
use rayon::prelude::*;

use crate::values::{Values, round};

/// One attention problem, on values.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Queries.
    pub q: Values,
    /// Keys.
    pub k: Values,
    /// Values; the shape of the keys.
    pub v: Values,
    /// Whether query i sees keys `0..=i + seqlen_kv - seqlen_q` only.
    pub causal: bool,
    /// Factor of the scores.
    pub scale: f64,
}

/// A row of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Sequence.
    pub b: usize,
    /// Query.
    pub s: usize,
    /// Query head.
    pub h: usize,
}

/// The answer for one query of one head.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `head_dim` values.
    pub o: Vec<f64>,
    /// Natural logarithm of the sum of the exponentials of the scores.
    pub lse: f64,
}

/// A row of the output with its right answer and the best answer in the element type.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Which row.
    pub at: Position,
    /// The right answer.
    pub exact: Row,
    /// The answer of an ideal kernel.
    pub ideal: Row,
    /// How far rounding in f32 may move a score of this row: see [`Attention::score_error`].
    pub score_error: f64,
}

/// Columns that a matrix instruction multiplies and adds at once.
const MMA_DEPTH: usize = 16;

impl Attention {
    /// The scaled scores of one query against every key it sees.
    fn scores(&self, Position { b, s, h }: Position) -> Vec<f64> {
        let q = self.q.row(b, s, h);
        let kv_head = h / (self.q.shape.heads / self.k.shape.heads);
        (0..self.visible_keys(s))
            .map(|key| {
                let k = self.k.row(b, key, kv_head);
                self.scale * q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>()
            })
            .collect()
    }

    /// How far summing in f32 may move a score of this row. Each of the instructions that make up a dot product cuts
    /// its sum off at the last bit of the largest of its terms: large terms that cancel leave an error that is large
    /// beside the score, in any kernel that sums in f32.
    pub fn score_error(&self, Position { b, s, h }: Position) -> f64 {
        let q = self.q.row(b, s, h);
        let kv_head = h / (self.q.shape.heads / self.k.shape.heads);
        let magnitude = (0..self.visible_keys(s))
            .map(|key| {
                q.iter().zip(self.k.row(b, key, kv_head)).map(|(q, k)| f64::from(q * k).abs()).sum::<f64>()
            })
            .filter(|sum| sum.is_finite()) // a score with an infinite term is not rounded
            .fold(0.0, f64::max);
        let instructions = q.len().div_ceil(MMA_DEPTH) as f64;
        instructions * f64::from(f32::EPSILON) * self.scale * magnitude
    }

    /// How many keys query `s` sees: always the first ones.
    pub fn visible_keys(&self, s: usize) -> usize {
        let (seqlen_q, seqlen_kv) = (self.q.shape.seqlen, self.k.shape.seqlen);
        if self.causal { (s + 1 + seqlen_kv).saturating_sub(seqlen_q).min(seqlen_kv) } else { seqlen_kv }
    }

    /// The softmax of `scores`, each weight and the result rounded by `round`, times V.
    ///
    /// Without a key of a score above -inf there is no weight to give: the row is 0 and its LSE -inf.
    fn weigh(&self, scores: &[f64], Position { b, h, .. }: Position, round: impl Fn(f64) -> f64) -> Row {
        let mut o = vec![0.0; self.v.shape.head_dim];
        if scores.iter().all(|&s| s == f64::NEG_INFINITY) {
            return Row { o, lse: f64::NEG_INFINITY };
        }
        let kv_head = h / (self.q.shape.heads / self.k.shape.heads);
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for (key, score) in scores.iter().enumerate() {
            let weight = (score - max).exp();
            sum += weight;
            let rounded = round(weight);
            for (o, &v) in o.iter_mut().zip(self.v.row(b, key, kv_head)) {
                *o += rounded * f64::from(v);
            }
        }
        for o in &mut o {
            *o = round(*o / sum);
        }
        Row { o, lse: max + sum.ln() }
    }

    /// The right answer for one row.
    pub fn exact(&self, at: Position) -> Row {
        self.weigh(&self.scores(at), at, |x| x)
    }

    /// The best answer for one row in `dtype`.
    pub fn ideal(&self, at: Position, dtype: Dtype) -> Row {
        self.weigh(&self.scores(at), at, |x| round(dtype, x))
    }

    /// The answers at `rows`.
    pub fn answers(&self, rows: &[Position], dtype: Dtype) -> Vec<Expected> {
        rows.par_iter()
            .map(|&at| Expected {
                at,
                exact: self.exact(at),
                ideal: self.ideal(at, dtype),
                score_error: self.score_error(at),
            })
            .collect()
    }

    /// Rows worth checking, in order: all of them if their scores take at most `budget` multiplications, else a
    /// random sample (of at least 64) that always holds the first and the last row.
    pub fn rows(&self, budget: usize, seed: u64) -> Vec<Position> {
        let shape = self.q.shape;
        let all = shape.batch * shape.seqlen * shape.heads;
        let affordable = (budget / (self.k.shape.seqlen * shape.head_dim).max(1)).max(64);
        let position = |i: usize| Position {
            b: i / (shape.seqlen * shape.heads),
            s: i / shape.heads % shape.seqlen,
            h: i % shape.heads,
        };
        if all <= affordable {
            return (0..all).map(position).collect();
        }
        let mut chosen = sample(&mut StdRng::seed_from_u64(seed), all, affordable).into_vec();
        chosen.extend([0, all - 1]);
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().map(position).collect()
    }
}
