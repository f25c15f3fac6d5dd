//! What happens to scores between QKᵀ and the softmax.

use crate::config::{Score, Spec};
use crate::params::FwdParams;
use crate::ptx::global;
use crate::ptx::math::{abs, add, exp2, fma, mul, reciprocal, unpack};
use crate::ptx::wgmma::Acc;
use crate::score_mod::{Biases, Key, Query, ScoreMod};

/// Where the scores of a thread are: under two queries, and keys of which each query has every fourth pair.
pub struct At {
    /// The queries, or the last one in place of those beyond it.
    pub queries: [Query; 2],
    /// The thread's first key.
    pub first_key: u32,
    /// Whether some key does not exist, or is hidden from some query.
    pub masked: bool,
}

/// Changes products into scores, but for the factor `scale_log2` of the parameters and a constant, which no weight
/// depends on: `offset_log2`, to the base 2. `at` says where they are, if that matters.
#[inline(always)]
pub fn apply<S: Spec, const R: usize>(params: &FwdParams, s: &mut Acc<R>, at: Option<At>) {
    match (S::VARIANT.score, at) {
        (Score::Softcap, _) => cap(params, s),
        (Score::Biased, Some(at)) => add_biases(params, s, &at),
        (Score::Custom, Some(at)) => modify::<S::Mod, R>(params, s, &at),
        _ => {}
    }
}

/// Capped: `cap * tanh(x / cap)` is `cap - 2 cap / (e^(2 x / cap) + 1)`, which loses nothing that a score could show,
/// and of which only the fraction depends on x. `tanh.approx` is quicker, one special function instead of two, but off
/// by 2^-11.
#[inline(always)]
fn cap<const R: usize>(params: &FwdParams, s: &mut Acc<R>) {
    let mut i = 0;
    while i < R {
        let power = exp2(mul(s.0[i], params.general.product_scale));
        s.0[i] = reciprocal(add(-power, -1.0));
        i += 1;
    }
}

/// The column of register `i` of a fragment, counted from the thread's first.
#[inline(always)]
const fn column(i: usize) -> u32 {
    8 * (i as u32 >> 2) + (i as u32 & 1)
}

/// The row of register `i`, of the thread's two.
#[inline(always)]
const fn row(i: usize) -> usize {
    i >> 1 & 1
}

impl At {
    /// The key of register `i`.
    #[inline(always)]
    fn key(&self, i: usize) -> u32 {
        let key = self.first_key + column(i);
        let last = self.queries[0].keys - 1;
        if self.masked && key > last { last } else { key }
    }
}

/// How far the thread's first key lies behind key `at`.
#[inline(always)]
fn distance(first_key: u32, at: i32) -> f32 {
    (first_key as i32 - at) as f32
}

/// Scores of a function of the user's.
#[inline(always)]
fn modify<M: ScoreMod, const R: usize>(params: &FwdParams, s: &mut Acc<R>, at: &At) {
    // SAFETY: the launch has passed arguments of this kernel's type; they fit, and words are as aligned as any.
    let args = unsafe { &*params.general.score_args.as_ptr().cast::<M::Args>() };
    let [a, b] = [&at.queries[0], &at.queries[1]];
    let rows = [M::row(args, a), M::row(args, b)];
    let distances = [distance(at.first_key, a.at), distance(at.first_key, b.at)];
    let mut i = 0;
    while i < R {
        let key = Key { index: at.key(i), distance: add(distances[row(i)], column(i) as f32) };
        s.0[i] = M::score(args, rows[row(i)], key, mul(s.0[i], params.general.product_scale));
        if M::MASKS && !M::sees(args, rows[row(i)], key) {
            s.0[i] = f32::NEG_INFINITY;
        }
        i += 1;
    }
}

/// Scaled or capped, then with what falls with the distance, then with the bias: each if the launch says so.
#[inline(always)]
fn add_biases<const R: usize>(params: &FwdParams, s: &mut Acc<R>, at: &At) {
    let general = &params.general;
    // SAFETY: the launch has passed arguments of this kernel's type.
    let biases = unsafe { &*general.score_args.as_ptr().cast::<Biases>() };
    if general.softcap == 0.0 {
        let mut i = 0;
        while i < R {
            s.0[i] = mul(s.0[i], general.product_scale);
            i += 1;
        }
    } else {
        cap(params, s);
        let mut i = 0;
        while i < R {
            s.0[i] = fma(s.0[i], general.fraction_scale, general.softcap);
            i += 1;
        }
    }
    if biases.slopes != 0 {
        let mut slopes = [0.0; 2];
        let mut distances = [0.0; 2];
        let mut r = 0;
        while r < 2 {
            let query = &at.queries[r];
            let slope = u64::from(query.batch) * biases.slopes_batch + u64::from(query.head);
            // SAFETY: the host vouches for a slope of each head.
            slopes[r] = f32::from_bits(unsafe { global::load_public(biases.slopes + 4 * slope) });
            distances[r] =
                distance(at.first_key, query.index as i32 + query.keys as i32 - query.queries as i32);
            r += 1;
        }
        let mut i = 0;
        while i < R {
            let apart = abs(add(distances[row(i)], column(i) as f32));
            s.0[i] = add(s.0[i], -mul(slopes[row(i)], apart));
            i += 1;
        }
    }
    if biases.bias != 0 {
        let mut first = [0; 2];
        let mut r = 0;
        while r < 2 {
            let Query { batch, head, index, .. } = at.queries[r];
            first[r] = biases.bias
                + u64::from(batch) * biases.bias_batch
                + u64::from(head) * biases.bias_head
                + u64::from(index) * biases.bias_query
                + 2 * u64::from(at.first_key);
            r += 1;
        }
        let dtype = at.queries[0].dtype;
        let end = if at.masked { at.queries[0].keys } else { u32::MAX };
        let mut i = 0;
        while i < R {
            let (pair, key) = (first[row(i)] + 2 * u64::from(column(i)), at.first_key + column(i));
            // SAFETY: the host vouches for a number for each query and key, and that pairs are aligned and whole.
            let [low, high] = unpack(dtype, unsafe { global::load_below(pair, key, end) });
            s.0[i] = add(s.0[i], low);
            s.0[i + 1] = add(s.0[i + 1], high);
            i += 2;
        }
    }
}
