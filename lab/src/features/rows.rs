//! The problems that `features` runs: about 16384 tokens and 2048 columns, as in the grid of the bench, unless what
//! they are there for says otherwise.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::feature::{Feature, Lengths, Mask, Score};

/// Lengths are drawn anew, but alike, in every run.
const SEED: u64 = 20_261_121;
/// Shortest and longest sequence of those that differ.
const SHORTEST: usize = 64;
const LONGEST: usize = 8192;

/// Every problem, in the order of the report.
pub(crate) fn rows() -> Vec<Feature> {
    [
        varlen(),
        windows(),
        shared_heads(),
        softcaps(),
        biases(),
        dropout(),
        documents(),
        checkerboards(),
        prefixes(),
        sinks(),
        decoding(),
        head_dims(),
    ]
    .concat()
}

/// Self-attention on dense lengths, causal.
fn dense(name: &str, batch: usize, heads: usize, seqlen: usize, head_dim: usize) -> Feature {
    Feature {
        name: name.to_owned(),
        heads_q: heads,
        heads_kv: heads,
        head_dim,
        head_dim_v: head_dim,
        lengths: Lengths::Dense { batch, seqlen_q: seqlen, seqlen_kv: seqlen },
        mask: Mask::CAUSAL,
        score: Score::Plain,
    }
}

/// Self-attention on sequences of these lengths: 16 heads, head_dim 128, causal.
fn packed(name: &str, lengths: impl IntoIterator<Item = usize>) -> Feature {
    let lengths = Lengths::Varlen(lengths.into_iter().map(|length| (length, length)).collect());
    Feature { lengths, ..dense(name, 0, 16, 0, 128) }
}

/// Lengths whose logarithms are uniform, without end.
fn log_uniform() -> impl Iterator<Item = usize> {
    let mut random = StdRng::seed_from_u64(SEED);
    let (least, most) = ((SHORTEST as f64).ln(), (LONGEST as f64).ln());
    std::iter::repeat_with(move || random.random_range(least..most).exp() as usize)
}

fn both_masks(feature: Feature) -> [Feature; 2] {
    [feature.clone(), Feature { mask: Mask::FULL, ..feature }]
}

fn varlen() -> Vec<Feature> {
    let mix = packed("varlen mix", log_uniform().take(64));
    let shared = Feature { name: "varlen GQA".to_owned(), heads_q: 32, heads_kv: 4, ..mix.clone() };
    [mix, shared, packed("varlen short", [128; 256])].into_iter().flat_map(both_masks).collect()
}

fn windows() -> Vec<Feature> {
    let shapes = [(16, 128), (32, 64)];
    let row = |(heads, head_dim)| Feature {
        mask: Mask::window(1024),
        ..dense("window", 1, heads, 16_384, head_dim)
    };
    shapes.map(row).into()
}

fn shared_heads() -> Vec<Feature> {
    let shapes = [(4, 4096), (1, 16_384)];
    shapes.map(|(batch, seqlen)| Feature { heads_kv: 4, ..dense("GQA 8:1", batch, 32, seqlen, 128) }).into()
}

fn softcaps() -> Vec<Feature> {
    let mut rows = Vec::new();
    for approximate in [false, true] {
        for (heads, head_dim) in [(16, 128), (8, 256)] {
            for (batch, seqlen) in [(4, 4096), (1, 16_384)] {
                let row = dense("softcap", batch, heads, seqlen, head_dim);
                rows.push(Feature { score: Score::Softcap { cap: 50.0, approximate }, ..row });
            }
        }
    }
    rows
}

fn biases() -> Vec<Feature> {
    let bias = |per_head| Feature {
        mask: Mask::FULL,
        score: Score::Bias { per_head },
        ..dense("bias", 4, 16, 4096, 128)
    };
    let alibi = Feature { score: Score::Alibi, ..dense("ALiBi", 4, 16, 4096, 128) };
    vec![alibi, bias(false), bias(true)]
}

/// One weight of ten is left out, in training.
fn dropout() -> Vec<Feature> {
    let row = Feature { score: Score::Dropout { keep_256: 230 }, ..dense("dropout", 4, 16, 4096, 128) };
    both_masks(row).into()
}

/// Documents that fill one long sequence: to the kernels a varlen problem, or ranges of keys.
fn documents() -> Vec<Feature> {
    let mut room = 16_384;
    let document = |length: usize| {
        let length = length.min(room);
        room -= length;
        (length > 0).then_some(length)
    };
    let lengths: Vec<usize> = log_uniform().map_while(document).collect();
    let ranges = Lengths::Documents(lengths.clone());
    let by_ranges = Feature { lengths: ranges, ..dense("documents, by ranges", 1, 16, 0, 128) };
    vec![packed("documents", lengths), by_ranges]
}

/// Half of all blocks of 128 queries and 128 keys.
fn checkerboards() -> Vec<Feature> {
    let board = |row: Feature| Feature { mask: Mask { checkerboard: true, ..row.mask }, ..row };
    both_masks(dense("block mask", 4, 16, 4096, 128)).map(board).into()
}

fn prefixes() -> Vec<Feature> {
    vec![Feature { mask: Mask { prefix: 1024, ..Mask::CAUSAL }, ..dense("prefix LM", 4, 16, 4096, 128) }]
}

/// As in gpt-oss.
fn sinks() -> Vec<Feature> {
    let row = Feature { heads_kv: 8, score: Score::Sinks, ..dense("sinks", 4, 64, 4096, 64) };
    vec![row.clone(), Feature { mask: Mask::window(127), ..row }]
}

/// Few queries against many keys, more of them than the L2 holds; and one sequence alone.
fn decoding() -> Vec<Feature> {
    let row = |(batch, seqlen_q)| {
        let row = dense("decode", batch, 64, 1, 128);
        // One query sees all keys, causal or not, and not every peer knows.
        let mask = if seqlen_q == 1 { Mask::FULL } else { row.mask };
        Feature { heads_kv: 8, lengths: Lengths::Dense { batch, seqlen_q, seqlen_kv: 8192 }, mask, ..row }
    };
    [(1, 1), (16, 1), (16, 4), (16, 16)].map(row).into()
}

fn head_dims() -> Vec<Feature> {
    let shapes = [(16, 192, 128), (16, 64, 256), (4, 512, 512)];
    let row =
        |(heads, head_dim, head_dim_v)| Feature { head_dim_v, ..dense("head_dim", 4, heads, 4096, head_dim) };
    shapes.map(row).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn total(feature: &Feature) -> usize {
        match &feature.lengths {
            Lengths::Dense { batch, seqlen_q, .. } => batch * seqlen_q,
            Lengths::Varlen(sequences) => sequences.iter().map(|&(queries, _)| queries).sum(),
            Lengths::Documents(lengths) => lengths.iter().sum(),
        }
    }

    #[test]
    fn rows_differ_and_are_the_same_each_time() {
        let rows = rows();
        let names: BTreeSet<String> = rows.iter().map(Feature::to_string).collect();
        assert_eq!(names.len(), rows.len());
        assert_eq!(rows, super::rows());
    }

    #[test]
    fn drawn_lengths_are_within_bounds_and_spread() {
        let lengths: Vec<usize> = log_uniform().take(64).collect();
        assert!(lengths.iter().all(|length| (SHORTEST..LONGEST).contains(length)), "{lengths:?}");
        let short = lengths.iter().filter(|&&length| length < 724).count();
        assert!((16..48).contains(&short), "half of them should be below the geometric mean: {lengths:?}");
    }

    #[test]
    fn documents_fill_their_sequence() {
        let [packed, by_ranges] = &documents()[..] else { panic!("two rows") };
        assert_eq!((total(packed), total(by_ranges)), (16_384, 16_384));
        assert_eq!(packed.flops(), by_ranges.flops());
        assert!(rows().iter().filter(|row| row.name != "decode").all(|row| total(row) >= 16_384));
    }
}
