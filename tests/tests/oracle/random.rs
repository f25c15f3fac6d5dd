//! Random problems with any of the features at once, and that the oracle solves them by the definition.

use flashcore::{Dtype, Shape};
use flashcore_tests::inputs::normal;
use flashcore_tests::oracle::{Align, Attention, Blocks, Dropout, Mask, Modify, Scoring, Tokens};
use flashcore_tests::side_inputs::{
    Lengths, bias, bitmap, cu_seqlens, keep, key_ranges, prefixes, random_slopes, seqused, sinks,
};
use flashcore_tests::values::round;
use proptest::option;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use crate::definition;
use crate::judge::judge;
use crate::model::RIGHT;

/// How the sequences of Q, or of K and V, lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lies {
    pub(crate) packed: bool,
    pub(crate) partly_used: bool,
}

/// A problem, but for its numbers.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    batch: usize,
    longest_q: usize,
    longest_kv: usize,
    heads_kv: usize,
    gqa_ratio: usize,
    head_dim: usize,
    head_dim_v: usize,
    window: [Option<usize>; 2],
    top_left: bool,
    chunk: Option<usize>,
    prefix: bool,
    ranges: bool,
    blocks: Option<(usize, usize)>,
    softcap: Option<f64>,
    /// Whether each sequence has slopes of its own.
    alibi: Option<bool>,
    /// Along which axes the bias is the same.
    bias: Option<[bool; 4]>,
    modify: bool,
    sinks: bool,
    dropout: Option<f64>,
    queries: Lies,
    keys: Lies,
    seed: u64,
}

fn lies() -> impl Strategy<Value = Lies> {
    any::<(bool, bool)>().prop_map(|(packed, partly_used)| Lies { packed, partly_used })
}

/// Problems of sequences up to `longest`, with up to `head_dim` columns.
pub(crate) fn problem(longest: usize, head_dim: usize) -> impl Strategy<Value = Problem> {
    let sizes = (1..5usize, 1..=longest, 1..=longest, 1..3usize, 1..4usize, 1..=head_dim, 1..=head_dim);
    let band = [option::of(0..longest), option::of(0..longest)];
    let mask = (band, any::<bool>(), option::of(1..2 * longest), any::<bool>(), any::<bool>());
    let blocks = option::of((1..=longest, 1..=longest));
    let scoring = (option::of(0.5..20.0), option::of(any::<bool>()), option::of(any::<[bool; 4]>()));
    let rest = (any::<bool>(), any::<bool>(), option::of(0.0..0.9), lies(), lies(), any::<u64>());
    (sizes, mask, blocks, scoring, rest).prop_map(|(sizes, mask, blocks, scoring, rest)| {
        let (batch, longest_q, longest_kv, heads_kv, gqa_ratio, head_dim, head_dim_v) = sizes;
        let (window, top_left, chunk, prefix, ranges) = mask;
        let (softcap, alibi, bias) = scoring;
        let (modify, sinks, dropout, queries, keys, seed) = rest;
        Problem {
            batch,
            longest_q,
            longest_kv,
            heads_kv,
            gqa_ratio,
            head_dim,
            head_dim_v,
            window,
            top_left,
            chunk,
            prefix,
            ranges,
            blocks,
            softcap,
            alibi,
            bias,
            modify,
            sinks,
            dropout,
            queries,
            keys,
            seed,
        }
    })
}

impl Lies {
    /// The batch and the seqlen of a tensor of sequences up to `longest`, and where they lie in it.
    fn place(self, batch: usize, longest: usize, seed: u64) -> (usize, usize, Vec<Tokens>) {
        let lengths = match (self.packed, seed % 3) {
            (false, _) => Lengths::Equal(longest),
            (true, 0) => Lengths::WithZeros { longest },
            (true, _) => Lengths::Uniform { longest },
        };
        let lengths = lengths.draw(batch, seed);
        let (tensor_batch, seqlen, tokens) = if self.packed {
            (1, lengths.iter().sum::<usize>(), Tokens::packed(&cu_seqlens(&lengths)))
        } else {
            let shape = Shape { batch, seqlen: longest, heads: 1, head_dim: 1 };
            (batch, longest, Tokens::dense(shape))
        };
        let used = if self.partly_used { Tokens::used(&tokens, &seqused(&lengths, seed)) } else { tokens };
        (tensor_batch, seqlen, used)
    }
}

impl Problem {
    /// This problem with its numbers, those of Q, K and V rounded to `dtype`.
    pub(crate) fn attention(&self, dtype: Dtype) -> Attention {
        let &Problem { batch, seed, gqa_ratio, heads_kv, .. } = self;
        let heads = heads_kv * gqa_ratio;
        let mut rng = StdRng::seed_from_u64(seed);
        let (q_batch, seqlen_q, queries) = self.queries.place(batch, self.longest_q, seed);
        let (kv_batch, seqlen_kv, keys) = self.keys.place(batch, self.longest_kv, seed ^ 1);
        let mut values = |batch, seqlen, heads, head_dim| {
            let mut values = normal(Shape { batch, seqlen, heads, head_dim }, 1.0, &mut rng);
            values.data.iter_mut().for_each(|x| *x = round(dtype, f64::from(*x)) as f32);
            values
        };
        let q = values(q_batch, seqlen_q, heads, self.head_dim);
        let k = values(kv_batch, seqlen_kv, heads_kv, self.head_dim);
        let v = values(kv_batch, seqlen_kv, heads_kv, self.head_dim_v);

        let sizes = [batch, heads, self.longest_q, self.longest_kv];
        let [left, right] = self.window;
        let lens: Vec<usize> = keys.iter().map(|sequence| sequence.len).collect();
        let blocks = |(block_q, block_kv)| {
            let tiles = [batch, heads, self.longest_q.div_ceil(block_q), self.longest_kv.div_ceil(block_kv)];
            Blocks { block_q, block_kv, visible: bitmap(tiles, 0.7, seed) }
        };
        let mask = Mask {
            left,
            right,
            align: if self.top_left { Align::TopLeft } else { Align::BottomRight },
            chunk: self.chunk,
            prefix: self.prefix.then(|| prefixes(&lens, seed)),
            ranges: self.ranges.then(|| vec![key_ranges(q_batch * seqlen_q, self.longest_kv, seed)]),
            blocks: self.blocks.map(blocks),
        };
        let slopes = |own| random_slopes(if own { batch } else { 1 }, heads, seed);
        let biases =
            |same: [bool; 4]| bias([0, 1, 2, 3].map(|axis| if same[axis] { 1 } else { sizes[axis] }), seed);
        let modify =
            || Modify::new(|score, b, h, i, j| score + ((b + 2 * h + 3 * i + 5 * j) % 7) as f64 / 4.0);
        let scoring = Scoring {
            softcap: self.softcap,
            tanh_error: 0.0,
            alibi: self.alibi.map(slopes),
            bias: self.bias.map(biases),
            modify: self.modify.then(modify),
        };
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        Attention {
            mask,
            scoring,
            sinks: self.sinks.then(|| sinks(heads, seed)),
            dropout: self.dropout.map(|p| Dropout::new(p, keep(p, seed))),
            queries,
            keys,
            ..Attention::new(q, k, v, scale)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_oracle_solves_problems_by_the_definition(problem in problem(12, 6)) {
        let a = problem.attention(Dtype::F16);
        for at in a.rows(usize::MAX, 0) {
            let keys = 0..a.keys[at.b].len;
            let visible: Vec<usize> = keys.filter(|&j| definition::sees(&a, [at.b, at.h, at.s, j])).collect();
            prop_assert_eq!(a.visible(at).collect::<Vec<_>>(), visible, "keys of {:?}", at);
            let (found, wanted) = (a.exact(at), definition::row(&a, at));
            prop_assert!(definition::distance(&found, &wanted) < 1e-12, "{at:?}: {found:?}, not {wanted:?}");
            let ideal = a.ideal(at, Dtype::F16);
            // Rounding the weights and rounding the output costs at most half a unit in the last place each.
            let slack = 2f64.powi(-10) * a.dropout.as_ref().map_or(1.0, Dropout::gain);
            let largest = a.v.data.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
            for (ideal, exact) in ideal.o.iter().zip(&found.o) {
                prop_assert!((ideal - exact).abs() <= slack * f64::from(largest), "{at:?}: {ideal}, {exact}");
            }
            prop_assert!(a.score_error(at) >= 0.0 && a.score_error(at) < 1e-4);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_right_kernel_passes_whatever_the_features(problem in problem(150, 48), half in any::<bool>()) {
        let dtype = if half { Dtype::F16 } else { Dtype::Bf16 };
        let a = problem.attention(dtype);
        let verdict = judge(&RIGHT, &a, &a, dtype);
        prop_assert!(verdict.is_ok(), "{dtype:?}: {verdict:?}");
    }
}
