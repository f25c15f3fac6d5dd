//! Sequences of different lengths, packed or partly used; heads that share keys; values of another width.

use flashcore::{Dtype, Shape};
use flashcore_tests::inputs::normal;
use flashcore_tests::oracle::{Attention, Broadcast, Dropout, Mask, Modify, Position, Scoring, Tokens};
use flashcore_tests::side_inputs::{
    Lengths, bias, cu_seqlens, keep, prefixes, random_slopes, seqused, sinks,
};
use flashcore_tests::values::Values;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use crate::definition::{difference, repeated_heads};

fn shape(batch: usize, seqlen: usize, heads: usize, head_dim: usize) -> Shape {
    Shape { batch, seqlen, heads, head_dim }
}

#[test]
fn packed_tokens_lie_one_behind_the_other() {
    let tokens = |batch, start, len| Tokens { batch, start, len };
    assert_eq!(Tokens::packed(&[0, 3, 3, 7]), [tokens(0, 0, 3), tokens(0, 3, 0), tokens(0, 3, 4)]);
    assert_eq!(Tokens::packed(&[0]), []);
    assert_eq!(Tokens::dense(shape(2, 5, 1, 1)), [tokens(0, 0, 5), tokens(1, 0, 5)]);
    let used = Tokens::used(&Tokens::packed(&[0, 3, 7]), &[1, 4]);
    assert_eq!(used, [tokens(0, 0, 1), tokens(0, 3, 4)]);
}

#[test]
#[should_panic(expected = "4 tokens used of 3")]
fn no_more_tokens_than_there_are() {
    Tokens::used(&Tokens::packed(&[0, 3]), &[4]);
}

#[test]
fn packed_by_hand() {
    // Sequences of 1 and 2 queries and of 2 and 1 keys; a token behind them is nobody's.
    let values = |data: &[f32]| Values { shape: shape(1, data.len(), 1, 1), data: data.to_vec() };
    let a = Attention {
        queries: Tokens::packed(&[0, 1, 3]),
        keys: Tokens::packed(&[0, 2, 3]),
        ..Attention::new(values(&[0.0; 4]), values(&[0.0; 4]), values(&[1.0, 3.0, 7.0, 100.0]), 1.0)
    };
    let rows = a.rows(usize::MAX, 0);
    let position = |b, s| Position { b, s, h: 0 };
    assert_eq!(rows, [position(0, 0), position(1, 0), position(1, 1)]);
    let stored: Vec<Position> = rows.iter().map(|&at| a.stored(at)).collect();
    assert_eq!(stored, [position(0, 0), position(0, 1), position(0, 2)]);
    let o: Vec<f64> = rows.iter().map(|&at| a.exact(at).o[0]).collect();
    assert_eq!(o, [2.0, 7.0, 7.0]);
    assert_eq!(a.used(), [true, true, true, false]);
    let answers = a.answers(&rows, Dtype::F16);
    assert_eq!(answers.iter().map(|row| row.stored).collect::<Vec<_>>(), stored);
    // The diagonal ends at the last key of each sequence: query 0 of sequence 1 is before its only key.
    let causal = Attention { mask: Mask::causal(), ..a };
    let o: Vec<f64> = rows.iter().map(|&at| causal.exact(at).o[0]).collect();
    assert_eq!(o, [2.0, 0.0, 7.0]);
}

#[test]
fn a_dense_tensor_used_in_part() {
    let values = |data: &[f32]| Values { shape: shape(2, 3, 1, 1), data: data.to_vec() };
    let a =
        Attention::new(values(&[0.0; 6]), values(&[0.0; 6]), values(&[1.0, 3.0, 90.0, 5.0, 90.0, 90.0]), 1.0);
    let a = Attention {
        queries: Tokens::used(&a.queries, &[3, 1]),
        keys: Tokens::used(&a.keys, &[2, 1]),
        mask: Mask::causal(),
        ..a
    };
    let o: Vec<f64> = a.rows(usize::MAX, 0).into_iter().map(|at| a.exact(at).o[0]).collect();
    assert_eq!(o, [0.0, 1.0, 2.0, 5.0]);
    assert_eq!(a.used(), [true, true, true, true, false, false]);
}

#[test]
fn a_sample_has_the_ends_of_every_sequence() {
    let lengths = [0, 300, 1, 0, 500, 0];
    let total = lengths.iter().sum();
    let q = Values::zeros(shape(1, total, 2, 8));
    let k = Values::zeros(shape(1, 6, 2, 8));
    let a = Attention {
        queries: Tokens::packed(&cu_seqlens(&lengths)),
        keys: Tokens::packed(&[0, 1, 2, 3, 4, 5, 6]),
        ..Attention::new(q, k.clone(), k, 1.0)
    };
    let rows = a.rows(100 * 8, 3);
    assert!((100..=106).contains(&rows.len()), "{}", rows.len());
    for (b, s) in [(1, 0), (1, 299), (2, 0), (4, 0), (4, 499)] {
        assert!(rows.iter().any(|at| (at.b, at.s) == (b, s)), "query {s} of sequence {b}");
    }
    assert!(rows.iter().all(|at| at.s < lengths[at.b]) && rows.is_sorted());
    assert_eq!(a.rows(usize::MAX, 0).len(), 2 * total);
}

#[test]
fn without_sequences_there_are_no_rows() {
    let none = Values::zeros(shape(1, 0, 2, 8));
    let a = Attention {
        queries: Tokens::packed(&[0]),
        keys: Tokens::packed(&[0]),
        ..Attention::new(none.clone(), none.clone(), none, 1.0)
    };
    assert_eq!(a.rows(usize::MAX, 0), []);
    let empty = Attention { queries: Tokens::packed(&[0, 0]), keys: Tokens::packed(&[0, 0]), ..a };
    assert_eq!(empty.rows(usize::MAX, 0), []);
}

/// The tokens of one sequence, as a tensor of their own.
fn alone(values: &Values, Tokens { batch, start, len }: Tokens) -> Values {
    let shape = Shape { batch: 1, seqlen: len, ..values.shape };
    Values::from_fn(shape, |_, s, h, d| values.row(batch, start + s, h)[d])
}

proptest! {
    #[test]
    fn sequences_do_not_know_of_each_other(seed in any::<u64>(), packed in any::<bool>()) {
        const BATCH: usize = 4;
        const LONGEST: usize = 12;
        let mut rng = StdRng::seed_from_u64(seed);
        let q_lens = Lengths::WithZeros { longest: LONGEST }.draw(BATCH, seed);
        let kv_lens = Lengths::WithOnes { longest: LONGEST }.draw(BATCH, seed);
        let (q_tokens, kv_tokens) = if packed {
            (Tokens::packed(&cu_seqlens(&q_lens)), Tokens::packed(&cu_seqlens(&kv_lens)))
        } else {
            let dense = Tokens::dense(shape(BATCH, LONGEST, 1, 1));
            (dense.clone(), dense)
        };
        let room = |tokens: &[Tokens]| tokens.iter().map(|sequence| sequence.len).collect::<Vec<_>>();
        let queries = Tokens::used(&q_tokens, &seqused(&room(&q_tokens), seed ^ 1));
        let keys = Tokens::used(&kv_tokens, &seqused(&room(&kv_tokens), seed ^ 2));
        let [q_shape, kv_shape] = [q_lens, kv_lens].map(|lens| match packed {
            true => shape(1, lens.iter().sum(), 4, 3),
            false => shape(BATCH, LONGEST, 4, 3),
        });
        let kv_shape = Shape { heads: 2, ..kv_shape };
        let [q, k, v] = [q_shape, kv_shape, kv_shape].map(|shape| normal(shape, 1.0, &mut rng));
        let slopes = random_slopes(BATCH, 4, seed);
        let biases = bias([BATCH, 4, LONGEST, LONGEST], seed);
        let prefix = prefixes(&room(&keys), seed);
        let a = Attention {
            mask: Mask { prefix: Some(prefix.clone()), chunk: Some(7), ..Mask::window(Some(3), Some(1)) },
            scoring: Scoring {
                softcap: Some(2.0),
                tanh_error: 0.0,
                alibi: Some(slopes.clone()),
                bias: Some(biases.clone()),
                modify: Some(Modify::new(|score, b, h, i, j| score + (b + h + i + j) as f64 / 8.0)),
            },
            sinks: Some(sinks(4, seed)),
            dropout: Some(Dropout::new(0.3, keep(0.3, seed))),
            queries,
            keys,
            ..Attention::new(q, k, v, 0.5)
        };
        for (b, &prefix) in prefix.iter().enumerate() {
            let dropped = keep(0.3, seed);
            let per_sequence = 4 * LONGEST * LONGEST;
            let bias = biases.data[b * per_sequence..][..per_sequence].to_vec();
            let own = Attention {
                mask: Mask { prefix: Some(vec![prefix]), ..a.mask.clone() },
                scoring: Scoring {
                    alibi: Some(Broadcast::per_head(slopes.data[4 * b..][..4].to_vec())),
                    bias: Some(Broadcast::new([1, 4, LONGEST, LONGEST], bias)),
                    modify: Some(Modify::new(move |score, _, h, i, j| score + (b + h + i + j) as f64 / 8.0)),
                    ..a.scoring.clone()
                },
                sinks: a.sinks.clone(),
                dropout: Some(Dropout::new(0.3, move |_, h, i, j| dropped(b, h, i, j))),
                ..Attention::new(alone(&a.q, a.queries[b]), alone(&a.k, a.keys[b]), alone(&a.v, a.keys[b]), 0.5)
            };
            for at in own.rows(usize::MAX, 0) {
                prop_assert_eq!(own.exact(at), a.exact(Position { b, ..at }));
                prop_assert_eq!(own.ideal(at, Dtype::Bf16), a.ideal(Position { b, ..at }, Dtype::Bf16));
                prop_assert_eq!(own.score_error(at), a.score_error(Position { b, ..at }));
            }
        }
    }

    #[test]
    fn shared_heads_are_repeated_heads(ratio in 1..4usize, heads_kv in 1..4usize, seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut values = |seqlen, heads, head_dim| normal(shape(2, seqlen, heads, head_dim), 1.0, &mut rng);
        let [q, k, v] = [values(5, heads_kv * ratio, 4), values(7, heads_kv, 4), values(7, heads_kv, 6)];
        let a = Attention { mask: Mask::causal(), ..Attention::new(q, k, v, 0.5) };
        let (k, v) = (repeated_heads(&a.k, ratio), repeated_heads(&a.v, ratio));
        prop_assert_eq!(difference(&Attention { k, v, ..a.clone() }, &a), 0.0);
    }

    #[test]
    fn columns_of_v_do_not_know_of_each_other(head_dim_v in 1..9usize, seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let [q, k, v] = [5, 7, 7].map(|seqlen| normal(shape(1, seqlen, 1, 8), 1.0, &mut rng));
        let narrow = Values::from_fn(shape(1, 7, 1, head_dim_v), |b, s, h, d| v.row(b, s, h)[d]);
        let wide = Attention::new(q, k, v, 0.5);
        let a = Attention { v: narrow, ..wide.clone() };
        prop_assert_eq!(a.shape_o(), shape(1, 5, 1, head_dim_v));
        for at in a.rows(usize::MAX, 0) {
            let (narrow, wide) = (a.exact(at), wide.exact(at));
            prop_assert_eq!(&narrow.o[..], &wide.o[..head_dim_v]);
            prop_assert_eq!(narrow.lse, wide.lse);
        }
    }
}
