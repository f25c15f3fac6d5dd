//! What is done to scores and weights, by hand.

use std::f64::consts::LN_2;

use flashcore::{Dtype, Shape};
use flashcore_tests::inputs::normal;
use flashcore_tests::oracle::{Attention, Broadcast, Dropout, Mask, Modify, Position, Row, Scoring};
use flashcore_tests::side_inputs::{bias, sinks};
use flashcore_tests::values::Values;
use rand::{SeedableRng, rngs::StdRng};

use crate::definition::{difference, distance};

const FIRST: Position = Position { b: 0, s: 0, h: 0 };

/// One head whose scores are those of the keys, for all queries alike.
fn scored(seqlen_q: usize, scores: &[f32], values: &[f32]) -> Attention {
    let shape = |seqlen| Shape { batch: 1, seqlen, heads: 1, head_dim: 1 };
    let of = |data: &[f32]| Values { shape: shape(data.len()), data: data.to_vec() };
    Attention::new(of(&vec![1.0; seqlen_q]), of(scores), of(values), 1.0)
}

/// Normal numbers: two sequences, four query heads on two K/V heads.
fn ordinary() -> Attention {
    let mut rng = StdRng::seed_from_u64(3);
    let mut values =
        |seqlen, heads, head_dim| normal(Shape { batch: 2, seqlen, heads, head_dim }, 1.0, &mut rng);
    Attention::new(values(9, 4, 5), values(13, 2, 5), values(13, 2, 3), 0.4)
}

fn assert_row(found: &Row, o: f64, lse: f64) {
    assert!(distance(found, &Row { o: vec![o], lse }) < 1e-7, "{found:?}, not {o}, {lse}");
}

#[test]
fn softcap() {
    // tanh(ln 3 / 2) = 1/2: the score of ln 3 becomes 1.
    let scoring = Scoring { softcap: Some(2.0), ..Scoring::default() };
    let a = Attention { scoring, ..scored(1, &[3f32.ln(), 0.0], &[1.0, 0.0]) };
    let e = 1f64.exp();
    assert_row(&a.exact(FIRST), e / (e + 1.0), (e + 1.0).ln());
    // The cap is never exceeded, either way.
    let a = Attention { scoring: a.scoring, ..scored(1, &[1e4, -1e4], &[1.0, 0.0]) };
    assert_row(&a.exact(FIRST), e.powi(4) / (e.powi(4) + 1.0), 2.0 + (1.0 + e.powi(-4)).ln());
}

#[test]
fn alibi_counts_from_the_bottom_right() {
    let scoring = || Scoring { alibi: Some(Broadcast::per_head(vec![2f32.ln()])), ..Scoring::default() };
    // The query is at the last key: weights 1, 2, 4.
    let a = Attention { scoring: scoring(), ..scored(1, &[0.0; 3], &[0.0, 7.0, 70.0]) };
    assert_row(&a.exact(FIRST), 42.0, 1.75f64.ln());
    // Three queries for three keys: the first is at the first key, the second has keys on both sides.
    let a = Attention { scoring: scoring(), ..scored(3, &[0.0; 3], &[0.0, 7.0, 70.0]) };
    assert_row(&a.exact(FIRST), (2.0 * 7.0 + 70.0) / 7.0, 1.75f64.ln());
    assert_row(&a.exact(Position { s: 1, ..FIRST }), (2.0 * 7.0 + 70.0) / 4.0, 2f64.ln());
    // Three queries for one key: the first is at key -2.
    let a = Attention { scoring: scoring(), ..scored(3, &[0.0], &[5.0]) };
    assert_row(&a.exact(FIRST), 5.0, -2.0 * LN_2);
}

#[test]
fn slopes_of_each_sequence_and_head() {
    let shape = |seqlen| Shape { batch: 2, seqlen, heads: 2, head_dim: 1 };
    let slopes = Broadcast::per_sequence_and_head(2, vec![1.0, 2.0, 3.0, 4.0]);
    let a = Attention {
        scoring: Scoring { alibi: Some(slopes), ..Scoring::default() },
        mask: Mask { ranges: Some(vec![vec![0..1; 2]]), ..Mask::full() },
        ..Attention::new(Values::zeros(shape(1)), Values::zeros(shape(2)), Values::zeros(shape(2)), 1.0)
    };
    let lse = |b, h| a.exact(Position { b, s: 0, h }).lse;
    assert_eq!([lse(0, 0), lse(0, 1), lse(1, 0), lse(1, 1)], [-1.0, -2.0, -3.0, -4.0]);
}

#[test]
fn indices_of_a_bias_and_of_a_function() {
    let sizes = [2, 4, 9, 13];
    let number = |index: [usize; 4]| index.iter().zip([1000, 100, 10, 1]).map(|(i, x)| i * x).sum::<usize>();
    let one_key = |key: usize| Mask { ranges: Some(vec![vec![key..key + 1; 18]]), ..Mask::full() };
    let mut data = Vec::new();
    for b in 0..sizes[0] {
        for h in 0..sizes[1] {
            for i in 0..sizes[2] {
                data.extend((0..sizes[3]).map(|j| number([b, h, i, j]) as f32));
            }
        }
    }
    let bias = Scoring { bias: Some(Broadcast::new(sizes, data)), ..Scoring::default() };
    let function = Modify::new(move |score, b, h, i, j| score + number([b, h, i, j]) as f64);
    let modify = Scoring { modify: Some(function), ..Scoring::default() };
    let dropped = Dropout::new(0.5, move |b, h, i, j| [b, h, i, j] == [1, 3, 8, 12]);
    for [b, h, i, j] in [[0, 0, 0, 1], [0, 0, 2, 0], [0, 3, 0, 0], [1, 0, 0, 0], [1, 3, 8, 12]] {
        let at = Position { b, s: i, h };
        let plain = Attention { scale: 0.0, mask: one_key(j), ..ordinary() };
        for scoring in [bias.clone(), modify.clone()] {
            let row = Attention { scoring, ..plain.clone() }.exact(at);
            assert_eq!(row.lse, number([b, h, i, j]) as f64);
        }
        let row = Attention { dropout: Some(dropped.clone()), ..plain }.exact(at);
        assert_eq!(row.o[0] != 0.0, [b, h, i, j] == [1, 3, 8, 12]);
    }
}

#[test]
fn the_function_comes_last_and_the_cap_first() {
    // 100 is capped to 1, 1 for the distance comes off, 5 is added, all is doubled.
    let scoring = Scoring {
        softcap: Some(1.0),
        tanh_error: 0.0,
        alibi: Some(Broadcast::per_head(vec![1.0])),
        bias: Some(Broadcast::new([1, 1, 1, 2], vec![5.0, f32::NEG_INFINITY])),
        modify: Some(Modify::new(|score, _, _, _, _| 2.0 * score)),
    };
    let a = Attention { scoring, ..scored(1, &[100.0, 0.0], &[3.0, 4.0]) };
    assert_row(&a.exact(FIRST), 3.0, 10.0);
}

#[test]
fn sinks_take_weight() {
    let with = |sink, a| Attention { sinks: Some(vec![sink]), ..a };
    let two = || scored(1, &[0.0, 0.0], &[8.0, 4.0]);
    assert_row(&with(2f32.ln(), two()).exact(FIRST), 3.0, 4f64.ln());
    assert_row(&with(-1000.0, two()).exact(FIRST), 6.0, 2f64.ln());
    assert_row(&with(1000.0, two()).exact(FIRST), 0.0, 1000.0);
    // Beyond what f64 can take the exponential of.
    assert_eq!(with(1e30, two()).exact(FIRST), Row { o: vec![0.0], lse: f64::from(1e30f32) });
    assert_eq!(with(2.5, scored(1, &[], &[])).exact(FIRST), Row { o: vec![0.0], lse: 2.5 });
    let masked = with(2.5, scored(1, &[f32::NEG_INFINITY; 2], &[1.0, 2.0]));
    assert_eq!(masked.exact(FIRST), Row { o: vec![0.0], lse: 2.5 });
    let none = with(f32::NEG_INFINITY, scored(1, &[], &[]));
    assert_eq!(none.exact(FIRST), Row { o: vec![0.0], lse: f64::NEG_INFINITY });
    // Nothing is done to a sink.
    let scoring =
        Scoring { softcap: Some(0.001), bias: Some(Broadcast::new([1; 4], vec![0.0])), ..Scoring::default() };
    let capped = Attention { scoring, scale: 0.5, ..with(2f32.ln(), two()) };
    assert_row(&capped.exact(FIRST), 3.0, 4f64.ln());
}

#[test]
fn each_head_has_its_sink() {
    let plain = ordinary();
    let sinks = [-1.0, 0.5, 2.0, 40.0];
    let a = Attention { sinks: Some(sinks.to_vec()), ..plain.clone() };
    for at in a.rows(usize::MAX, 0) {
        let (without, with) = (plain.exact(at), a.exact(at));
        let sink = f64::from(sinks[at.h]);
        let share = without.lse.exp() / (without.lse.exp() + sink.exp());
        let o = without.o.iter().map(|o| o * share).collect();
        let lse = (without.lse.exp() + sink.exp()).ln();
        assert!(distance(&with, &Row { o, lse }) < 1e-12);
    }
}

#[test]
fn dropout_leaves_the_lse_alone() {
    let keep_odd = |_, _, _, j| j % 2 == 1;
    let dropout = Some(Dropout::new(0.75, keep_odd));
    let a = Attention { dropout, ..scored(1, &[0.0; 4], &[1.0, 2.0, 4.0, 8.0]) };
    assert_row(&a.exact(FIRST), (2.0 + 8.0) / 4.0 * 4.0, 4f64.ln());
    let nothing = Some(Dropout::new(0.25, |_, _, _, _| false));
    assert_row(&Attention { dropout: nothing, ..a }.exact(FIRST), 0.0, 4f64.ln());
}

#[test]
#[should_panic(expected = "a probability of 1")]
fn not_everything_can_be_dropped() {
    Dropout::new(1.0, |_, _, _, _| false);
}

#[test]
fn identities() {
    let plain = ordinary();
    let with = |scoring| Attention { scoring, ..plain.clone() };
    let none = Scoring::default;
    assert!(difference(&with(Scoring { softcap: Some(1e9), ..none() }), &plain) < 1e-9);
    let flat = Broadcast::per_head(vec![0.0; 4]);
    assert_eq!(difference(&with(Scoring { alibi: Some(flat), ..none() }), &plain), 0.0);
    let zero = Broadcast::new([1; 4], vec![0.0]);
    assert_eq!(difference(&with(Scoring { bias: Some(zero), ..none() }), &plain), 0.0);
    let same = Modify::new(|score, _, _, _, _| score);
    assert_eq!(difference(&with(Scoring { modify: Some(same), ..none() }), &plain), 0.0);
    let absent = Attention { sinks: Some(vec![f32::NEG_INFINITY; 4]), ..plain.clone() };
    assert_eq!(difference(&absent, &plain), 0.0);
    let kept = Attention { dropout: Some(Dropout::new(0.0, |_, _, _, _| true)), ..plain.clone() };
    assert_eq!(difference(&kept, &plain), 0.0);

    // A bias that does not depend on the key moves the LSE alone.
    let shift = bias([2, 4, 9, 1], 7);
    let shifted = with(Scoring { bias: Some(shift.clone()), ..none() });
    for at in plain.rows(usize::MAX, 0) {
        let Row { o, lse } = plain.exact(at);
        let lse = lse + f64::from(shift.get([at.b, at.h, at.s, 0]));
        assert!(distance(&shifted.exact(at), &Row { o, lse }) < 1e-12);
    }

    // A bias of -inf is a mask, and a function that gives -inf too.
    let causal = Attention { mask: Mask::causal(), sinks: Some(sinks(4, 1)), ..plain.clone() };
    let hide = |_, _, i, j| if j > i + 4 { f64::NEG_INFINITY } else { 0.0 };
    let hidden = (0..9 * 13).map(|place| hide(0, 0, place / 13, place % 13) as f32).collect();
    let biased = Scoring { bias: Some(Broadcast::new([1, 1, 9, 13], hidden)), ..none() };
    let modified =
        Scoring { modify: Some(Modify::new(move |score, b, h, i, j| score + hide(b, h, i, j))), ..none() };
    for scoring in [biased, modified] {
        let a = Attention { scoring, mask: Mask::full(), ..causal.clone() };
        assert_eq!(difference(&a, &causal), 0.0);
    }
}

#[test]
fn products_are_cut_by_their_largest_terms() {
    let of = |q: &[f32], k: &[f32]| {
        let values = |data: &[f32]| Values {
            shape: Shape { batch: 1, seqlen: 1, heads: 1, head_dim: data.len() },
            data: data.to_vec(),
        };
        Attention::new(values(q), values(k), values(k), 0.5).score_error(FIRST) / f64::from(f32::EPSILON)
    };
    // A unit of the sum, and a quarter of one of the largest term for every other term that is not zero.
    assert_eq!(of(&[2.0, 3.0], &[4.0, 5.0]), 0.5 * (23.0 + 15.0 / 4.0));
    assert_eq!(of(&[2.0, 3.0, -1.0, 0.0], &[4.0, 5.0, 9.0, 9.0]), 0.5 * (14.0 + 2.0 * 15.0 / 4.0));
    assert_eq!(of(&[2.0, 3.0, -1.0], &[4.0, 5.0, 23.0]), 0.5 * (2.0 * 23.0 / 4.0));
    // Sixteen columns, then the seventeenth and their sum.
    assert_eq!(of(&[1.0; 17], &[1.0; 17]), 0.5 * (16.0 + 15.0 / 4.0 + 17.0 + 16.0 / 4.0));
    let mut one_hot = [0.0; 40];
    one_hot[20] = 3.0;
    assert_eq!(of(&one_hot, &[1.0; 40]), 0.5 * 2.0 * 3.0);
    assert_eq!(of(&[0.0; 17], &[1.0; 17]), 0.0);
    assert_eq!(of(&[f32::INFINITY, 1.0], &[1.0, 1.0]), 0.0);
}

#[test]
fn large_addends_leave_little_of_a_score() {
    let biased = |bias: [f32; 2]| Attention {
        scoring: Scoring { bias: Some(Broadcast::new([1, 1, 1, 2], bias.to_vec())), ..Scoring::default() },
        ..scored(1, &[0.0, 0.4], &[0.0, 1.0])
    };
    let ulp = f64::from(f32::EPSILON);
    // One product of 0.4, of a key that has 0.6 of the weight.
    let without = scored(1, &[0.0, 0.4], &[0.0, 1.0]).score_error(FIRST);
    assert!(without > 0.2 * ulp && without < 0.3 * ulp, "{without}");
    let large = biased([1000.0; 2]).score_error(FIRST);
    assert!(large > 1000.0 * ulp && large < 3000.0 * ulp, "{large}");
    // What hides a key does not count, whatever its size; nor does what is hidden.
    for hiding in [-1e6, f32::NEG_INFINITY] {
        assert!(biased([0.0, hiding]).score_error(FIRST) < ulp);
        let hidden =
            Attention { scoring: biased([0.0, hiding]).scoring, ..scored(1, &[0.0, 1e5], &[0.0, 1.0]) };
        assert!(hidden.score_error(FIRST) < ulp);
    }
    // At 2^24 neighbours in f32 are 2 apart: both keys weigh the same.
    let a = biased([2f32.powi(24); 2]);
    assert_eq!(a.ideal(FIRST, Dtype::F16).o, [0.5]);
    assert!(a.exact(FIRST).o[0] > 0.59);
    assert!(biased([0.0; 2]).ideal(FIRST, Dtype::F16).o[0] > 0.59);
}
