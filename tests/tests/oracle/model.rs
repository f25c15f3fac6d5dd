//! A kernel that goes over the keys from last to first in tiles, as the real one does, in f32; and ones with a fault.

use std::iter::zip;

use flashcore::{Dtype, Shape};
use flashcore_tests::cases::Layout;
use flashcore_tests::oracle::{Attention, Dropout, Position};
use flashcore_tests::values::{HostTensor, decode, encode};

pub(crate) struct Model {
    pub(crate) block_n: usize,
    pub(crate) rescales: bool,
    pub(crate) last_key_missing: bool,
    pub(crate) sees_one_more: bool,
    pub(crate) sums_rounded_weights: bool,
    pub(crate) sums_kept_weights: bool,
    /// Fraction bits that terms of products keep, where matrix instructions cut them; without, products are summed in
    /// f32.
    pub(crate) fraction_bits: Option<i32>,
}

pub(crate) const RIGHT: Model = Model {
    block_n: 48,
    rescales: true,
    last_key_missing: false,
    sees_one_more: false,
    sums_rounded_weights: false,
    sums_kept_weights: false,
    fraction_bits: None,
};

/// `sum` and the products of `q` and `k` as a matrix instruction adds them: each cut after `bits` fraction bits of the
/// largest power of two, that of a product being its factors' together, and the sum cut to an f32.
fn add_products(sum: f32, q: &[f32], k: &[f32], bits: i32) -> f32 {
    let power = |x: f32| (x.to_bits() >> 23 & 0xFF) as i32 - 127;
    let products = zip(q, k).map(|(&q, &k)| (f64::from(q) * f64::from(k), power(q) + power(k)));
    let terms: Vec<_> = products.chain([(f64::from(sum), power(sum))]).collect();
    let largest = terms.iter().map(|&(_, power)| power).max().unwrap_or(0);
    let unit = 2f64.powi(largest - bits);
    let exact = unit * terms.iter().map(|&(term, _)| (term / unit).trunc()).sum::<f64>();
    let nearest = exact as f32;
    if f64::from(nearest).abs() > exact.abs() { f32::from_bits(nearest.to_bits() - 1) } else { nearest }
}

impl Model {
    fn keys(&self, a: &Attention, at: Position) -> Vec<usize> {
        let mut keys: Vec<usize> = a.visible(at).collect();
        let next = keys.last().map_or(0, |last| last + 1);
        if self.sees_one_more && next < a.keys[at.b].len {
            keys.push(next);
        }
        if self.last_key_missing {
            keys.pop();
        }
        keys
    }

    fn score(&self, a: &Attention, Position { b, s, h }: Position, key: usize) -> f32 {
        let (queries, keys) = (a.queries[b], a.keys[b]);
        let q = a.q.row(queries.batch, queries.start + s, h);
        let k = a.k.row(keys.batch, keys.start + key, h / (a.q.shape.heads / a.k.shape.heads));
        let product = match self.fraction_bits {
            Some(bits) => {
                zip(q.chunks(16), k.chunks(16)).fold(0.0, |sum, (q, k)| add_products(sum, q, k, bits))
            }
            None => zip(q, k).map(|(q, k)| q * k).sum::<f32>(),
        };
        let mut score = a.scale as f32 * product;
        if let Some(cap) = a.scoring.softcap {
            let cap = cap as f32;
            score = cap * (1.0 - 2.0 / ((2.0 * score / cap).exp() + 1.0));
        }
        if let Some(slopes) = &a.scoring.alibi {
            let distance = (s + keys.len).abs_diff(queries.len + key);
            score -= slopes.get([b, h, s, key]) * distance as f32;
        }
        if let Some(bias) = &a.scoring.bias {
            score += bias.get([b, h, s, key]);
        }
        let modify = a.scoring.modify.as_ref();
        modify.map_or(score, |modify| modify.call(f64::from(score), [b, h, s, key]) as f32)
    }

    fn row(&self, a: &Attention, at: Position, dtype: Dtype) -> (Vec<u16>, f32) {
        let rounded = |x: f32| decode(dtype, encode(dtype, x));
        let kv_head = at.h / (a.q.shape.heads / a.k.shape.heads);
        let (mut max, mut sum, mut o) = (f32::NEG_INFINITY, 0.0f32, vec![0.0f32; a.v.shape.head_dim]);
        for keys in self.keys(a, at).rchunks(self.block_n) {
            let scores: Vec<f32> = keys.iter().map(|&key| self.score(a, at, key)).collect();
            let new_max = scores.iter().copied().fold(max, f32::max);
            let reference = if new_max == f32::NEG_INFINITY { 0.0 } else { new_max };
            if self.rescales {
                let factor = (max - reference).exp();
                sum *= factor;
                o.iter_mut().for_each(|o| *o *= factor);
            }
            for (&key, score) in keys.iter().zip(scores) {
                let weight = (score - reference).exp();
                let kept = a.dropout.as_ref().is_none_or(|dropout| dropout.keeps([at.b, at.h, at.s, key]));
                if kept || !self.sums_kept_weights {
                    sum += if self.sums_rounded_weights { rounded(weight) } else { weight };
                }
                let weight = if kept { rounded(weight) } else { 0.0 };
                let keys = a.keys[at.b];
                let v = a.v.row(keys.batch, keys.start + key, kv_head);
                o.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
            }
            max = new_max;
        }
        if let Some(sinks) = &a.sinks {
            let new_max = max.max(sinks[at.h]);
            let factor = (max - new_max).exp();
            sum = sum * factor + (sinks[at.h] - new_max).exp();
            o.iter_mut().for_each(|o| *o *= factor);
            max = new_max;
        }
        let gain = a.dropout.as_ref().map_or(1.0, Dropout::gain) as f32;
        let norm = if sum == 0.0 { 0.0 } else { gain / sum };
        (o.iter().map(|o| encode(dtype, o * norm)).collect(), max + sum.ln())
    }

    /// The outputs: O and its LSE, poison where there is no query.
    pub(crate) fn run(&self, a: &Attention, dtype: Dtype) -> (HostTensor, Vec<f32>) {
        let shape = a.shape_o();
        let Shape { batch, seqlen, heads, head_dim } = shape;
        let mut o = HostTensor::poisoned(dtype, shape, Layout::Bshd.output(shape));
        let mut lse = vec![f32::from_bits(u32::MAX); batch * heads * seqlen];
        for at in a.rows(usize::MAX, 0) {
            let (row, row_lse) = self.row(a, at, dtype);
            let Position { b, s, h } = a.stored(at);
            o.bits[((b * seqlen + s) * heads + h) * head_dim..][..head_dim].copy_from_slice(&row);
            lse[(b * heads + h) * seqlen + s] = row_lse;
        }
        (o, lse)
    }
}
