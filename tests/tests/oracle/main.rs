//! The judges, judged: the oracle against answers worked out by hand, the comparator against results that are
//! right and results with one fault.

use flashcore::{Dtype, Shape};
use flashcore_tests::cases::Case;
use flashcore_tests::compare::{Mismatch, compare};
use flashcore_tests::inputs::Fill;
use flashcore_tests::oracle::{Attention, Position};
use flashcore_tests::values::{Values, decode, encode, round};

const ALL_ROWS: usize = usize::MAX;

/// A kernel that goes over the keys from last to first in tiles, as the real one does, in f32.
struct Model {
    block_n: usize,
    rescales: bool,
    last_key_missing: bool,
    mask_shift: usize,
    sums_rounded_weights: bool,
}

const RIGHT: Model = Model {
    block_n: 48,
    rescales: true,
    last_key_missing: false,
    mask_shift: 0,
    sums_rounded_weights: false,
};

impl Model {
    fn row(&self, a: &Attention, at: Position, dtype: Dtype) -> (Vec<f32>, f32) {
        let rounded = |x: f32| decode(dtype, encode(dtype, x));
        let Position { b, s, h } = at;
        let kv_head = h / (a.q.shape.heads / a.k.shape.heads);
        let visible = (a.visible(at).count() + self.mask_shift).min(a.k.shape.seqlen)
            - usize::from(self.last_key_missing);
        let (mut max, mut sum, mut o) = (f32::NEG_INFINITY, 0.0f32, vec![0.0f32; a.v.shape.head_dim]);
        for tile in (0..visible.div_ceil(self.block_n)).rev() {
            let keys = tile * self.block_n..visible.min((tile + 1) * self.block_n);
            let score = |key| {
                a.scale as f32
                    * a.q.row(b, s, h).iter().zip(a.k.row(b, key, kv_head)).map(|(q, k)| q * k).sum::<f32>()
            };
            let scores: Vec<f32> = keys.clone().map(score).collect();
            let new_max = scores.iter().copied().fold(max, f32::max);
            let reference = if new_max == f32::NEG_INFINITY { 0.0 } else { new_max };
            if self.rescales {
                let factor = (max - reference).exp();
                sum *= factor;
                o.iter_mut().for_each(|o| *o *= factor);
            }
            for (key, score) in keys.zip(scores) {
                let weight = (score - reference).exp();
                sum += if self.sums_rounded_weights { rounded(weight) } else { weight };
                o.iter_mut().zip(a.v.row(b, key, kv_head)).for_each(|(o, v)| *o += rounded(weight) * v);
            }
            max = new_max;
        }
        let norm = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        (o.iter().map(|o| rounded(o * norm)).collect(), max + sum.ln())
    }

    fn run(&self, a: &Attention, dtype: Dtype) -> (Values, Vec<f32>) {
        let shape = a.q.shape;
        let (mut o, mut lse) = (Values::zeros(shape), vec![0.0; shape.batch * shape.heads * shape.seqlen]);
        for at in a.rows(ALL_ROWS, 0) {
            let (row, row_lse) = self.row(a, at, dtype);
            o.row_mut(at.b, at.s, at.h).copy_from_slice(&row);
            lse[(at.b * shape.heads + at.h) * shape.seqlen + at.s] = row_lse;
        }
        (o, lse)
    }

    fn judge(&self, case: &Case, dtype: Dtype) -> Result<(), Mismatch> {
        let a = case.inputs(dtype, 1).attention;
        let (o, lse) = self.run(&a, dtype);
        compare(&a.answers(&a.rows(ALL_ROWS, 0), dtype), dtype, &o, Some(&lse)).map(|_| ())
    }
}

fn case() -> Case {
    Case { seqlen_q: 40, seqlen_kv: 130, heads_q: 2, heads_kv: 1, head_dim: 64, ..Case::default() }
}

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

#[test]
fn a_right_kernel_passes_on_every_kind_of_input() {
    for fill in [Fill::Normal, Fill::Large, Fill::Rising, Fill::OneHot, Fill::Constant, Fill::Masked] {
        for causal in [false, true] {
            for dtype in [Dtype::F16, Dtype::Bf16] {
                let case = Case { fill, causal, ..case() };
                RIGHT.judge(&case, dtype).unwrap_or_else(|error| panic!("{case} {dtype:?}: {error}"));
            }
        }
    }
}

#[test]
fn a_kernel_with_one_fault_fails() {
    let faults = [
        ("forgets to rescale", Model { rescales: false, ..RIGHT }),
        ("misses the last key", Model { last_key_missing: true, ..RIGHT }),
        ("sums rounded weights", Model { sums_rounded_weights: true, ..RIGHT }),
        ("masks one key too few", Model { mask_shift: 1, ..RIGHT }),
    ];
    for (fault, model) in faults {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            assert!(model.judge(&Case { causal: true, ..case() }, dtype).is_err(), "{fault}, {dtype:?}");
        }
    }
}

#[test]
fn the_first_bad_element_is_named() {
    let dtype = Dtype::F16;
    let a = case().inputs(dtype, 1).attention;
    let (good, lse) = RIGHT.run(&a, dtype);
    let answers = a.answers(&a.rows(ALL_ROWS, 0), dtype);
    for bad_value in [f32::NAN, f32::INFINITY, 7.0] {
        let mut o = good.clone();
        o.row_mut(1, 3, 1)[17] = bad_value;
        o.row_mut(1, 4, 0)[2] = bad_value;
        match compare(&answers, dtype, &o, Some(&lse)) {
            Err(Mismatch::Output { at: Position { b: 1, s: 3, h: 1 }, d: 17, bad: 2, .. }) => {}
            other => panic!("{bad_value}: {other:?}"),
        }
    }
    for bad_value in [f32::NAN, f32::NEG_INFINITY, lse[45] + 1e-3] {
        let mut bad = lse.clone();
        bad[45] = bad_value;
        match compare(&answers, dtype, &good, Some(&bad)) {
            Err(Mismatch::Lse { at: Position { b: 0, s: 5, h: 1 }, bad: 1, .. }) => {}
            other => panic!("{bad_value}: {other:?}"),
        }
    }
}

#[test]
fn a_finite_number_is_wrong_where_nan_is_right() {
    let dtype = Dtype::Bf16;
    let mut a = case().inputs(dtype, 1).attention;
    let (o, lse) = RIGHT.run(&a, dtype);
    a.q.row_mut(0, 7, 0)[0] = f32::NAN;
    let answers = a.answers(&a.rows(ALL_ROWS, 0), dtype);
    assert!(matches!(
        compare(&answers, dtype, &o, None),
        Err(Mismatch::Output { at: Position { b: 0, s: 7, h: 0 }, d: 0, .. })
    ));
    let (right, _) = RIGHT.run(&a, dtype);
    assert!(compare(&answers, dtype, &right, None).is_ok());
    assert!(matches!(compare(&answers, dtype, &right, Some(&lse)), Err(Mismatch::Lse { .. })));
}

#[test]
fn rounding_is_to_nearest_even() {
    let cases = [
        (Dtype::F16, 1.0 + 2f64.powi(-11), 1.0),
        (Dtype::F16, 1.0 + 3.0 * 2f64.powi(-11), 1.0 + 2f64.powi(-9)),
        (Dtype::F16, 65_520.0, f64::INFINITY),
        (Dtype::Bf16, 1.0 + 2f64.powi(-8), 1.0),
        (Dtype::Bf16, 1.0 + 3.0 * 2f64.powi(-8), 1.0 + 2f64.powi(-6)),
    ];
    for (dtype, from, to) in cases {
        assert_eq!(round(dtype, from), to, "{dtype:?} {from}");
    }
}
