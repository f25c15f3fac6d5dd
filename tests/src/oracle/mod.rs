//! What attention is, in three loops: scores, weights, weighted sum.
//!
//! [`Attention::exact`] does them in f64. [`Attention::ideal`] is the best that a kernel of the element type can do:
//! it too starts from inputs in that type and keeps scores and sums wide, but rounds each weight before it multiplies
//! V, and rounds the result. Its error is the yardstick for a real kernel's. Only scores that something is added to are
//! rounded to f32: what is added may be so large that f32 has no room for the rest.
//!
//! Which keys a query sees is [`Mask`]'s business, what is done to a score [`Scoring`]'s, where sequences lie
//! [`Tokens`]'.

mod broadcast;
mod mask;
mod score;
mod tokens;

use std::iter::zip;

use flashcore::{Dtype, Shape};
use rand::seq::index::sample;
use rand::{SeedableRng, rngs::StdRng};
use rayon::prelude::*;

pub(crate) use score::philox;

pub use broadcast::Broadcast;
pub use mask::{Align, Blocks, Mask};
pub use score::{Dropout, Modify, Scoring};
pub use tokens::Tokens;

use crate::values::{Values, round};
use mask::Query;
use score::Scored;

/// One attention problem, on values.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Queries.
    pub q: Values,
    /// Keys, of the head_dim of the queries.
    pub k: Values,
    /// Values, of a head_dim of their own.
    pub v: Values,
    /// Factor of the scores.
    pub scale: f64,
    /// Which keys a query sees.
    pub mask: Mask,
    /// What is done to scaled scores.
    pub scoring: Scoring,
    /// For each query head the score of a key that all queries see and that has no value: it takes its share of the
    /// weight, so that the other weights sum to less than 1, and counts in the log-sum-exp. Neither scale nor scoring
    /// applies to it, and it is no key: a row that sees none is 0, and its LSE is the sink.
    pub sinks: Option<Vec<f32>>,
    /// Which weights are left out.
    pub dropout: Option<Dropout>,
    /// For each sequence, where its queries and outputs are.
    pub queries: Vec<Tokens>,
    /// For each sequence, where its keys and values are.
    pub keys: Vec<Tokens>,
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
    /// Natural logarithm of the sum of the exponentials of the scores, the sink's among them.
    pub lse: f64,
}

/// A row of the output with its right answer and the best answer in the element type.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Which row: a query, from the start of its sequence.
    pub at: Position,
    /// Where it lies in the tensors of Q and O: `b` and `s` are indices of these.
    pub stored: Position,
    /// The right answer.
    pub exact: Row,
    /// The answer of an ideal kernel.
    pub ideal: Row,
    /// How far rounding in f32 may move the row's LSE: see [`Attention::score_error`].
    pub score_error: f64,
    /// How far an output may be off beside that, where the call has asked for an approximation.
    pub tolerated: f64,
    /// How many times the error of an ideal kernel a real one may make: see [`Attention::allowance`].
    pub allowance: f64,
}

/// Columns that a matrix instruction multiplies and adds at once.
const MMA_DEPTH: usize = 16;
/// What a matrix instruction cuts off a term, at most, by the largest one: it keeps 25 fraction bits of its power of two.
const MMA_CUT: f64 = 1.0 / (1u64 << 25) as f64;

impl Attention {
    /// Attention of all queries to all keys of their sequence.
    pub fn new(q: Values, k: Values, v: Values, scale: f64) -> Self {
        let (queries, keys) = (Tokens::dense(q.shape), Tokens::dense(k.shape));
        let (mask, scoring) = (Mask::full(), Scoring::default());
        Attention { q, k, v, scale, mask, scoring, sinks: None, dropout: None, queries, keys }
    }

    /// Shape of the output.
    pub fn shape_o(&self) -> Shape {
        Shape { head_dim: self.v.shape.head_dim, ..self.q.shape }
    }

    /// Where the row lies in the tensors of Q and O.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn stored(&self, at: Position) -> Position {
        let Tokens { batch, start, len } = self.queries[at.b];
        assert!(at.s < len && start + len <= self.q.shape.seqlen, "{at:?} of {:?}", self.queries[at.b]);
        Position { b: batch, s: start + at.s, h: at.h }
    }

    fn query_row(&self, at: Position) -> &[f32] {
        let Position { b, s, h } = self.stored(at);
        self.q.row(b, s, h)
    }

    /// What `key` is to a query of `at`'s sequence and head, in `tensor`: K or V.
    pub fn key_row<'a>(&self, tensor: &'a Values, Position { b, h, .. }: Position, key: usize) -> &'a [f32] {
        let Tokens { batch, start, len } = self.keys[b];
        assert!(key < len && start + len <= tensor.shape.seqlen, "key {key} of {:?}", self.keys[b]);
        tensor.row(batch, start + key, h / (self.q.shape.heads / tensor.shape.heads))
    }

    /// The keys that a query sees, in order, from the start of its sequence.
    pub fn visible(&self, at: Position) -> impl Iterator<Item = usize> + '_ {
        let Position { b, s, .. } = self.stored(at);
        let (seqlen_q, seqlen_kv) = (self.queries[at.b].len, self.keys[at.b].len);
        self.mask.keys(Query { at, row: b * self.q.shape.seqlen + s, seqlen_q, seqlen_kv })
    }

    /// Whether a query sees `key`.
    pub fn sees(&self, at: Position, key: usize) -> bool {
        self.visible(at).any(|visible| visible == key)
    }

    /// The scores of one query against every key it sees.
    fn scores(&self, at: Position) -> Vec<Scored> {
        let q = self.query_row(at);
        let diagonal = at.s as i64 + self.keys[at.b].len as i64 - self.queries[at.b].len as i64;
        self.visible(at)
            .map(|key| {
                let k = self.key_row(&self.k, at, key);
                let product = zip(q, k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
                self.scoring.apply(self.scale * product, at, key, diagonal)
            })
            .collect()
    }

    /// How far computing in f32 may move the LSE of this row: the errors of its scores, each by the weight of its key,
    /// so that a key that is hidden allows none.
    ///
    /// What is added to a score is rounded, and so is the sum. Before that, the product of a query and a key has an error
    /// by the size of what it was summed from, and ALiBi or a bias that takes most of it away leaves all of the error:
    /// see `product_error`.
    pub fn score_error(&self, at: Position) -> f64 {
        let scores = self.scores(at);
        let lse = self.weigh(at, &scores, |x| x).lse;
        self.error(at, &scores, lse)
    }

    fn error(&self, at: Position, scores: &[Scored], lse: f64) -> f64 {
        let q = self.query_row(at);
        scores
            .iter()
            .map(|&Scored { key, score, addends, tolerated }| {
                let product = self.scale * product_error(q, self.key_row(&self.k, at, key));
                (score - lse).exp() * (product + 2.0 * f64::from(f32::EPSILON) * addends + tolerated)
            })
            .filter(|error| error.is_finite()) // an infinite score has all the weight, or none
            .sum()
    }

    /// How far an output of this row may be off for what its scores may be off in any case: a weight changes by as much
    /// of itself, and with it what the row's other weights are relative to.
    fn tolerated(&self, at: Position, scores: &[Scored], exact: &Row) -> f64 {
        let largest = |row: &[f64]| row.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        let gain = self.dropout.as_ref().map_or(1.0, Dropout::gain);
        let moved = |&Scored { key, score, tolerated, .. }: &Scored| {
            let values: Vec<f64> = self.key_row(&self.v, at, key).iter().map(|&v| f64::from(v)).collect();
            // Twice: the row's sum changes as much as a weight.
            (score - exact.lse).exp()
                * (2.0 * tolerated).exp_m1()
                * (gain * largest(&values) + largest(&exact.o))
        };
        if self.scoring.tanh_error == 0.0 {
            return 0.0;
        }
        scores.iter().map(moved).filter(|moved| moved.is_finite()).sum()
    }

    /// How many times the error of an ideal kernel a real one may make: 2, and 3 where tanh caps the scores.
    pub fn allowance(&self) -> f64 {
        if self.scoring.softcap.is_some() { 3.0 } else { 2.0 }
    }

    /// The softmax of `scores`, each weight and the result rounded by `round`, times V.
    ///
    /// Without a key of a score above -inf there is no weight to give: the row is 0, and its LSE is that of the sink,
    /// or -inf.
    fn weigh(&self, at: Position, scores: &[Scored], round: impl Fn(f64) -> f64) -> Row {
        let sink = self.sinks.as_ref().map_or(f64::NEG_INFINITY, |sinks| f64::from(sinks[at.h]));
        let mut o = vec![0.0; self.v.shape.head_dim];
        if scores.iter().all(|s| s.score == f64::NEG_INFINITY) {
            return Row { o, lse: sink };
        }
        let max = scores.iter().map(|s| s.score).fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for &Scored { key, score, .. } in scores {
            let weight = (score - max).exp();
            sum += weight;
            let kept = self.dropout.as_ref().is_none_or(|dropout| dropout.keeps([at.b, at.h, at.s, key]));
            let rounded = if kept { round(weight) } else { 0.0 };
            for (o, &v) in zip(&mut o, self.key_row(&self.v, at, key)) {
                *o += rounded * f64::from(v);
            }
        }
        let gain = self.dropout.as_ref().map_or(1.0, Dropout::gain);
        let sum_with_sink = sum + (sink - max).exp();
        for o in &mut o {
            *o = round(gain * *o / sum_with_sink);
        }
        Row { o, lse: log_add_exp(max + sum.ln(), sink) }
    }

    /// What [`Self::weigh`] makes in `dtype` of scores that a kernel holds in f32. Without an addend they are as good
    /// as exact; with a large one, nothing small is left.
    fn weigh_in(&self, at: Position, mut scores: Vec<Scored>, dtype: Dtype) -> Row {
        if self.scoring.adds() {
            for Scored { score, .. } in &mut scores {
                *score = f64::from(*score as f32);
            }
        }
        self.weigh(at, &scores, |x| round(dtype, x))
    }

    /// The weight of each key that a query sees, and the log-sum-exp of the row.
    pub fn weights(&self, at: Position) -> (Vec<(usize, f64)>, f64) {
        let scores = self.scores(at);
        let lse = self.weigh(at, &scores, |x| x).lse;
        (scores.iter().map(|&Scored { key, score, .. }| (key, (score - lse).exp())).collect(), lse)
    }

    /// The right answer for one row.
    pub fn exact(&self, at: Position) -> Row {
        self.weigh(at, &self.scores(at), |x| x)
    }

    /// The best answer for one row in `dtype`.
    pub fn ideal(&self, at: Position, dtype: Dtype) -> Row {
        self.weigh_in(at, self.scores(at), dtype)
    }

    /// The answers at `rows`.
    pub fn answers(&self, rows: &[Position], dtype: Dtype) -> Vec<Expected> {
        rows.par_iter()
            .map(|&at| {
                let scores = self.scores(at);
                let exact = self.weigh(at, &scores, |x| x);
                let score_error = self.error(at, &scores, exact.lse);
                let tolerated = self.tolerated(at, &scores, &exact);
                let ideal = self.weigh_in(at, scores, dtype);
                let (stored, allowance) = (self.stored(at), self.allowance());
                Expected { at, stored, exact, ideal, score_error, tolerated, allowance }
            })
            .collect()
    }

    /// Rows worth checking, in order: all of them if their scores take at most `budget` multiplications, else a
    /// random sample (of at least 64) that always holds the first and the last row of each sequence, for one head.
    pub fn rows(&self, budget: usize, seed: u64) -> Vec<Position> {
        let heads = self.q.shape.heads;
        let ends: Vec<usize> = self
            .queries
            .iter()
            .scan(0, |end, sequence| {
                *end += sequence.len * heads;
                Some(*end)
            })
            .collect();
        let all = ends.last().copied().unwrap_or(0);
        let position = |i: usize| {
            let b = ends.partition_point(|&end| end <= i);
            let i = i + self.queries[b].len * heads - ends[b];
            Position { b, s: i / heads, h: i % heads }
        };
        let longest = self.keys.iter().map(|sequence| sequence.len).max().unwrap_or(0);
        let affordable = (budget / (longest * self.q.shape.head_dim).max(1)).max(64);
        if all <= affordable {
            return (0..all).map(position).collect();
        }
        let mut chosen = sample(&mut StdRng::seed_from_u64(seed), all, affordable).into_vec();
        for (b, sequence) in self.queries.iter().enumerate().filter(|(_, sequence)| sequence.len > 0) {
            // The heads differ from sequence to sequence, so that all get their turn.
            let (head, head_from_last) = (b % heads, (self.queries.len() - 1 - b) % heads);
            chosen.extend([ends[b] - sequence.len * heads + head, ends[b] - 1 - head_from_last]);
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().map(position).collect()
    }

    /// For each row of Q's tensor, (batch, seqlen_q) as it lies in memory, whether it is a query. A kernel leaves
    /// outputs of others as they are.
    pub fn used(&self) -> Vec<bool> {
        let mut used = vec![false; self.q.shape.batch * self.q.shape.seqlen];
        for &Tokens { batch, start, len } in &self.queries {
            used[batch * self.q.shape.seqlen + start..][..len].fill(true);
        }
        used
    }
}

/// ln(exp(a) + exp(b)).
fn log_add_exp(a: f64, b: f64) -> f64 {
    let (larger, smaller) = if a >= b { (a, b) } else { (b, a) };
    if smaller == f64::NEG_INFINITY { larger } else { larger + (smaller - larger).exp().ln_1p() }
}

/// How far the product of a row of Q and one of K may be off that tensor cores make of them, for any values.
///
/// An instruction for each 16 columns, in order, adds their products to what the ones before left. As Hopper was
/// measured, bit for bit (nobody documents it), all these terms are cut, towards zero, after 25 fraction bits of the power
/// of two of the largest, their sum is exact, and it is cut, towards zero, to the 24 bits of an f32. So each term but the
/// largest, whose significand has no more bits than that, loses less than 2^-25 of the largest, and the sum less than
/// 2^-23 of itself. Terms of one sign all err in one direction.
fn product_error(q: &[f32], k: &[f32]) -> f64 {
    let mut sum = 0.0f64;
    let instruction = |(q, k): (&[f32], &[f32])| {
        let (mut largest, mut terms) = (sum.abs(), u32::from(sum != 0.0));
        for (&q, &k) in zip(q, k) {
            let product = f64::from(q) * f64::from(k);
            largest = largest.max(product.abs());
            terms += u32::from(product != 0.0);
            sum += product;
        }
        f64::from(terms.saturating_sub(1)) * MMA_CUT * largest + f64::from(f32::EPSILON) * sum.abs()
    };
    zip(q.chunks(MMA_DEPTH), k.chunks(MMA_DEPTH)).map(instruction).sum()
}
