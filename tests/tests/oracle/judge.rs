//! The comparator against kernels that are right and kernels with one fault.

use flashcore::{Dtype, Shape};
use flashcore_tests::cases::{Case, mostly_taken_away};
use flashcore_tests::compare::{Mismatch, Verdict, bound, check_unused, compare};
use flashcore_tests::inputs::{Fill, normal};
use flashcore_tests::oracle::{
    Align, Attention, Blocks, Broadcast, Dropout, Mask, Modify, Position, Scoring, Tokens,
};
use flashcore_tests::side_inputs::{alibi_slopes, bias, bitmap, keep, key_ranges, sinks};
use flashcore_tests::values::round;
use rand::{SeedableRng, rngs::StdRng};

use crate::model::{Model, RIGHT};

/// What `model` makes of one problem, compared with the answers of another.
pub(crate) fn judge(
    model: &Model,
    solved: &Attention,
    posed: &Attention,
    dtype: Dtype,
) -> Result<Verdict, Mismatch> {
    let (o, lse) = model.run(solved, dtype);
    check_unused(posed, &o, Some(&lse))?;
    compare(&posed.answers(&posed.rows(usize::MAX, 0), dtype), dtype, &o.values(), Some(&lse))
}

fn judge_case(model: &Model, case: &Case, dtype: Dtype) -> Result<Verdict, Mismatch> {
    let a = case.inputs(dtype, 1).attention;
    judge(model, &a, &a, dtype)
}

fn case() -> Case {
    Case { seqlen_q: 40, seqlen_kv: 130, heads_q: 2, heads_kv: 1, head_dim: 64, ..Case::default() }
}

#[test]
fn a_right_kernel_passes_on_every_kind_of_input() {
    for fill in [Fill::Normal, Fill::Large, Fill::Rising, Fill::OneHot, Fill::Constant, Fill::Masked] {
        for causal in [false, true] {
            for dtype in [Dtype::F16, Dtype::Bf16] {
                let case = Case { fill, causal, ..case() };
                judge_case(&RIGHT, &case, dtype).unwrap_or_else(|error| panic!("{case} {dtype:?}: {error}"));
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
        ("masks one key too few", Model { sees_one_more: true, ..RIGHT }),
    ];
    for (fault, model) in faults {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            assert!(
                judge_case(&model, &Case { causal: true, ..case() }, dtype).is_err(),
                "{fault}, {dtype:?}"
            );
        }
    }
}

/// Matrix instructions keep 25 fraction bits.
const TENSOR_CORES: Model = Model { fraction_bits: Some(25), ..RIGHT };

#[test]
fn what_matrix_instructions_cut_is_no_fault() {
    let taken_away = mostly_taken_away();
    let raised = Case { heads_q: 2, fill: Fill::Normal, scale: Some(2.0), ..taken_away };
    for case in [taken_away, raised, Case { fill: Fill::Large, scale: None, ..taken_away }, case()] {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            judge_case(&TENSOR_CORES, &case, dtype)
                .unwrap_or_else(|error| panic!("{case} {dtype:?}: {error}"));
        }
    }
}

#[test]
fn faults_show_beside_what_matrix_instructions_cut() {
    type Fault = fn(&mut Attention);
    let faults: [(&str, Fault); 3] = [
        ("has slopes that are one part in 2^16 too large", |a| {
            a.scoring.alibi.as_mut().unwrap().data.iter_mut().for_each(|x| *x *= 1.0 + 2f32.powi(-16));
        }),
        ("has a scale that is one part in 2^16 too large", |a| a.scale *= 1.0 + 2f64.powi(-16)),
        ("leaves a small column out", |a| a.q.data.iter_mut().skip(5).step_by(128).for_each(|x| *x = 0.0)),
    ];
    let dtype = Dtype::F16;
    let posed = mostly_taken_away().inputs(dtype, 1).attention;
    for (fault, change) in faults {
        let mut solved = posed.clone();
        change(&mut solved);
        let verdict = judge(&TENSOR_CORES, &solved, &posed, dtype);
        assert!(matches!(verdict, Err(Mismatch::Lse { .. })), "{fault}: {verdict:?}");
    }
    let three_bits_less = Model { fraction_bits: Some(22), ..RIGHT };
    let verdict = judge(&three_bits_less, &posed, &posed, dtype);
    assert!(matches!(verdict, Err(Mismatch::Lse { .. })), "{verdict:?}");
}

#[test]
fn the_first_bad_element_is_named() {
    let dtype = Dtype::F16;
    let a = case().inputs(dtype, 1).attention;
    let (good, lse) = RIGHT.run(&a, dtype);
    let good = good.values();
    let answers = a.answers(&a.rows(usize::MAX, 0), dtype);
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
    let o = o.values();
    a.q.row_mut(0, 7, 0)[0] = f32::NAN;
    let answers = a.answers(&a.rows(usize::MAX, 0), dtype);
    assert!(matches!(
        compare(&answers, dtype, &o, None),
        Err(Mismatch::Output { at: Position { b: 0, s: 7, h: 0 }, d: 0, .. })
    ));
    let (right, _) = RIGHT.run(&a, dtype);
    assert!(compare(&answers, dtype, &right.values(), None).is_ok());
    assert!(matches!(compare(&answers, dtype, &right.values(), Some(&lse)), Err(Mismatch::Lse { .. })));
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

/// Two sequences of 60 queries and 130 keys, four query heads on two K/V heads.
fn plain(dtype: Dtype) -> Attention {
    let mut rng = StdRng::seed_from_u64(5);
    let mut values = |seqlen, heads, head_dim| {
        let mut values = normal(Shape { batch: 2, seqlen, heads, head_dim }, 1.0, &mut rng);
        values.data.iter_mut().for_each(|x| *x = round(dtype, f64::from(*x)) as f32);
        values
    };
    let [q, k, v] = [values(60, 4, 64), values(130, 2, 64), values(130, 2, 32)];
    Attention::new(q, k, v, 0.125)
}

/// A problem that has every feature that a fault of [`a_kernel_with_a_fault_in_one_feature_fails`] is about.
fn featured(dtype: Dtype) -> Attention {
    let visible = bitmap([2, 4, 4, 5], 0.8, 1);
    let a = plain(dtype);
    Attention {
        mask: Mask {
            chunk: Some(64),
            prefix: Some(vec![20, 70]),
            ranges: Some(vec![key_ranges(120, 130, 2)]),
            blocks: Some(Blocks { block_q: 16, block_kv: 30, visible }),
            ..Mask::window(Some(40), Some(7))
        },
        scoring: Scoring {
            softcap: Some(3.0),
            tanh_error: 0.0,
            alibi: Some(Broadcast::per_head(alibi_slopes(4))),
            bias: Some(bias([2, 4, 60, 130], 3)),
            modify: Some(Modify::new(|score, _, _, i, j| score + if (i + j) % 2 == 0 { 0.5 } else { 0.0 })),
        },
        sinks: Some(sinks(4, 4)),
        dropout: Some(Dropout::new(0.2, keep(0.2, 5))),
        queries: Tokens::used(&a.queries, &[55, 60]),
        keys: Tokens::used(&a.keys, &[130, 100]),
        ..a
    }
}

#[test]
fn a_kernel_with_a_fault_in_one_feature_fails() {
    type Fault = fn(&mut Attention);
    let faults: [(&str, Fault); 21] = [
        ("sees one key more to the left", |a| a.mask.left = Some(41)),
        ("sees one key fewer to the left", |a| a.mask.left = Some(39)),
        ("sees one key more to the right", |a| a.mask.right = Some(8)),
        ("sees one key fewer to the right", |a| a.mask.right = Some(6)),
        ("aligns top-left", |a| a.mask.align = Align::TopLeft),
        ("has no chunks", |a| a.mask.chunk = None),
        ("has chunks that are too long", |a| a.mask.chunk = Some(65)),
        ("has no prefix", |a| a.mask.prefix = None),
        ("takes the prefix of sequence 0", |a| a.mask.prefix = Some(vec![20, 20])),
        ("has no ranges", |a| a.mask.ranges = None),
        ("shows every tile", |a| a.mask.blocks = None),
        ("does not cap scores", |a| a.scoring.softcap = None),
        ("has no slopes", |a| a.scoring.alibi = None),
        ("has slopes of the other sign", |a| {
            a.scoring.alibi.as_mut().unwrap().data.iter_mut().for_each(|x| *x = -*x);
        }),
        ("has no bias", |a| a.scoring.bias = None),
        ("does not modify", |a| a.scoring.modify = None),
        ("has no sinks", |a| a.sinks = None),
        ("takes the sink of head 0", |a| a.sinks.as_mut().unwrap().rotate_left(1)),
        ("drops nothing", |a| a.dropout = None),
        ("drops other weights", |a| a.dropout = Some(Dropout::new(0.2, keep(0.2, 6)))),
        ("uses one key too many", |a| a.keys[1].len += 1),
    ];
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let posed = featured(dtype);
        judge(&RIGHT, &posed, &posed, dtype).unwrap_or_else(|error| panic!("{dtype:?}: {error}"));
        for (fault, change) in faults {
            let mut solved = posed.clone();
            change(&mut solved);
            assert!(judge(&RIGHT, &solved, &posed, dtype).is_err(), "{fault}, {dtype:?}");
        }
        let sums_kept_weights = Model { sums_kept_weights: true, ..RIGHT };
        assert!(judge(&sums_kept_weights, &posed, &posed, dtype).is_err(), "sums kept weights, {dtype:?}");
    }
}

#[test]
fn a_row_that_is_no_query_s_must_not_be_written() {
    let dtype = Dtype::F16;
    let posed = featured(dtype);
    let mut solved = posed.clone();
    solved.queries[0].len += 1;
    let row = Position { b: 0, s: 55, h: 0 };
    let (o, lse) = RIGHT.run(&solved, dtype);
    assert_eq!(check_unused(&posed, &o, Some(&lse)), Err(Mismatch::Unused { what: "output", at: row }));
    let (untouched, _) = RIGHT.run(&posed, dtype);
    assert_eq!(check_unused(&posed, &untouched, None), Ok(()));
    assert_eq!(check_unused(&posed, &untouched, Some(&lse)), Err(Mismatch::Unused { what: "LSE", at: row }));
}

#[test]
fn capped_scores_may_err_three_times_as_much() {
    let dtype = Dtype::Bf16;
    let a = plain(dtype);
    let capped = Attention { scoring: Scoring { softcap: Some(15.0), ..Scoring::default() }, ..plain(dtype) };
    assert_eq!((a.allowance(), capped.allowance()), (2.0, 3.0));
    let mut answers = capped.answers(&capped.rows(usize::MAX, 0), dtype);
    let three_times = bound(&answers, dtype);
    answers.iter_mut().for_each(|row| row.allowance = 2.0);
    let twice = bound(&answers, dtype);
    let errors =
        answers.iter().flat_map(|row| row.exact.o.iter().zip(&row.ideal.o)).map(|(x, y)| (x - y).abs());
    let ideal_error = errors.fold(0.0, f64::max);
    assert!(ideal_error > 0.0 && (three_times - twice - ideal_error).abs() < 1e-12 * ideal_error);
}

/// A tangent that is off by as much as is said passes, one that is off by four times as much does not, and neither passes
/// where none may be off.
#[test]
fn an_approximate_tangent_may_err_as_much_as_it_is_said_to() {
    let (dtype, cap, error) = (Dtype::F16, 100.0, 1.0 / 2048.0);
    let capped = |softcap, tanh_error| {
        let scoring = Scoring { softcap: Some(softcap), tanh_error, ..Scoring::default() };
        Attention { scoring, scale: 10.0, ..plain(dtype) }
    };
    let off_by = |errors: f64| {
        // What a tangent makes of scores that it is off by a factor.
        let factor = 1.0 + errors * error;
        let mut solved = capped(cap, 0.0);
        solved.scoring.modify = Some(Modify::new(move |score, _, _, _, _| factor * score));
        solved
    };
    assert!(judge(&RIGHT, &off_by(0.9), &capped(cap, error), dtype).is_ok());
    assert!(judge(&RIGHT, &off_by(4.0), &capped(cap, error), dtype).is_err());
    assert!(judge(&RIGHT, &off_by(1.0), &capped(cap, 0.0), dtype).is_err());
}
