//! The judges, judged: the oracle against answers worked out by hand and against the definitions, the comparator
//! against results that are right and results with one fault.

mod definition;
mod judge;
mod masks;
mod model;
mod random;
mod scores;
mod sequences;
mod side_inputs;

use flashcore::{Dtype, Shape};
use flashcore_tests::cases::Case;
use flashcore_tests::oracle::{Attention, Position};
use flashcore_tests::values::Values;

#[test]
fn two_keys_by_hand() {
    let shape = |seqlen| Shape { batch: 1, seqlen, heads: 1, head_dim: 2 };
    // Scores ln 3 and 0, so weights 3/4 and 1/4.
    let a = Attention::new(
        Values { shape: shape(1), data: vec![2.0, 0.0] },
        Values { shape: shape(2), data: vec![1.0, 5.0, 0.0, 7.0] },
        Values { shape: shape(2), data: vec![4.0, 0.0, 8.0, 100.0] },
        3f64.ln() / 2.0,
    );
    let row = a.exact(Position { b: 0, s: 0, h: 0 });
    assert!((row.o[0] - 5.0).abs() < 1e-12 && (row.o[1] - 25.0).abs() < 1e-12, "{row:?}");
    assert!((row.lse - 4f64.ln()).abs() < 1e-12, "{row:?}");
}

#[test]
fn causal_is_aligned_bottom_right() {
    for (seqlen_q, seqlen_kv) in [(1, 1), (1, 5), (5, 1), (4, 7), (7, 4)] {
        let case = Case { seqlen_q, seqlen_kv, head_dim: 8, causal: true, ..Case::default() };
        let a = case.inputs(Dtype::F16, 0).attention;
        for s in 0..seqlen_q {
            let brute =
                (0..seqlen_kv as isize).filter(|&j| j <= s as isize + seqlen_kv as isize - seqlen_q as isize);
            let visible = a.visible(Position { b: 0, s, h: 0 });
            assert!(visible.eq(brute.map(|j| j as usize)), "query {s} of {seqlen_q}, {seqlen_kv} keys");
        }
    }
}

#[test]
fn query_heads_share_key_heads_in_order() {
    let shape = |seqlen, heads| Shape { batch: 1, seqlen, heads, head_dim: 8 };
    let v = Values::from_fn(shape(1, 2), |_, _, h, _| h as f32);
    let a = Attention::new(Values::zeros(shape(1, 6)), Values::zeros(shape(1, 2)), v, 1.0);
    let heads: Vec<f64> = (0..6).map(|h| a.exact(Position { b: 0, s: 0, h }).o[0]).collect();
    assert_eq!(heads, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
}

#[test]
fn rows_without_a_weight_are_zero() {
    let a =
        Case { seqlen_q: 3, seqlen_kv: 1, causal: true, ..Case::default() }.inputs(Dtype::F16, 0).attention;
    let row = a.exact(Position { b: 0, s: 1, h: 0 });
    assert!(row.o.iter().all(|&o| o == 0.0) && row.lse == f64::NEG_INFINITY);
    let last = a.exact(Position { b: 0, s: 2, h: 0 });
    assert!(last.lse.is_finite() && last.o[0] == f64::from(a.v.row(0, 0, 0)[0]));
}

#[test]
fn nan_spoils_the_rows_that_see_it_and_no_other() {
    let mut a =
        Case { seqlen_q: 4, seqlen_kv: 4, causal: true, ..Case::default() }.inputs(Dtype::F16, 0).attention;
    a.k.row_mut(0, 2, 1)[5] = f32::NAN;
    for s in 0..4 {
        let row = a.exact(Position { b: 0, s, h: 1 });
        assert_eq!((row.lse.is_nan(), row.o[0].is_nan()), (s >= 2, s >= 2), "query {s}");
    }
    assert!(a.exact(Position { b: 0, s: 3, h: 0 }).lse.is_finite(), "another head");
}

#[test]
fn a_sample_of_rows_has_both_ends() {
    let a = Case { seqlen_q: 500, seqlen_kv: 500, ..Case::default() }.inputs(Dtype::F16, 0).attention;
    let rows = a.rows(100 * 500 * 128, 3);
    assert!((100..=104).contains(&rows.len()));
    assert_eq!(rows[0], Position { b: 0, s: 0, h: 0 });
    assert_eq!(rows[rows.len() - 1], Position { b: 1, s: 499, h: 2 });
    assert!(rows.is_sorted() && rows.windows(2).all(|pair| pair[0] != pair[1]));
}
