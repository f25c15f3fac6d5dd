//! Inputs at the edge of what numbers can be: NaN, infinities, no keys, no queries, every bit pattern.

use std::process::ExitCode;

use flashcore::{Device, Dtype, MAX_HEAD_DIM, Plan};
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS};
use flashcore_tests::compare::bound;
use flashcore_tests::device::{Failure, OnDevice, Outputs};
use flashcore_tests::inputs::Fill;
use flashcore_tests::oracle::{Expected, Position};
use flashcore_tests::suite::{Suite, backends};
use flashcore_tests::values::{HostTensor, Values, decode};

/// Runs `case` on these values of Q, K and V, once on every kernel that can do it.
fn run(
    gpu: &Device,
    case: &Case,
    values: [Values; 3],
    dtype: Dtype,
) -> flashcore::Result<Vec<(Plan, Outputs)>> {
    let tensors = OnDevice::new(gpu, case, &case.inputs_of(values, dtype))?;
    let stream = gpu.stream()?;
    let outputs_of = |plan: Plan| {
        tensors.poison()?;
        tensors.run_plan(&plan, &stream)?;
        Ok((plan, tensors.outputs()?))
    };
    tensors.plans()?.into_iter().map(outputs_of).collect()
}

/// Runs `case` on normal inputs that `change` has changed, and compares every row with the oracle.
fn check(gpu: &Device, case: &Case, dtype: Dtype, change: impl Fn(&mut [Values; 3])) -> Result<(), Failure> {
    let mut values = case.fill.values(case.shape_q(), case.shape_kv(), 7);
    change(&mut values);
    let attention = case.inputs_of(values.clone(), dtype).attention;
    let expected = attention.answers(&attention.rows(usize::MAX, 0), dtype);
    for (plan, outputs) in run(gpu, case, values, dtype)? {
        outputs.judge_by(&expected).map_err(|failure| of_kernel(&plan, failure))?;
    }
    Ok(())
}

fn last(row: &mut [f32]) -> &mut f32 {
    row.last_mut().expect("a row has columns")
}

fn of_kernel(plan: &Plan, failure: Failure) -> Failure {
    Failure::Kernel { symbol: plan.variant.symbol, failure: Box::new(failure) }
}

/// What stands in V at a key that a causal row does not see has weight 0, and 0 times NaN is NaN: such a row may
/// take it, if its tile of queries visits the key's block. Rows that see the key must; other tiles must not.
fn nan_in_v_under_a_mask(gpu: &Device, case: &Case, dtype: Dtype) -> Result<(), Failure> {
    const KEY: usize = 250;
    const COLUMN: usize = 3;
    let mut values = case.fill.values(case.shape_q(), case.shape_kv(), 7);
    values[2].row_mut(0, KEY, 0)[COLUMN] = f32::NAN;
    let inputs = case.inputs_of(values.clone(), dtype);
    let attention = &inputs.attention;
    for (plan, outputs) in run(gpu, case, values, dtype)? {
        let (block_m, block_n) = (plan.variant.tile.block_m as usize, plan.variant.tile.block_n as usize);
        let mut strict = Vec::new();
        let out = outputs.out.values();
        for s in 0..case.seqlen_q {
            let last_of_tile = ((s / block_m + 1) * block_m).min(case.seqlen_q) - 1;
            let sees = |s, key| attention.sees(Position { b: 0, s, h: 0 }, key);
            let tile_visits = sees(last_of_tile, KEY / block_n * block_n);
            if sees(s, KEY) || !tile_visits {
                strict.extend((0..case.heads_q).map(|h| Position { b: 0, s, h }));
            }
            let mut others = out.row(0, s, 0).iter().enumerate().filter(|&(d, _)| d != COLUMN);
            assert!(others.all(|(_, x)| x.is_finite()), "{}, row {s}: another column", plan.variant.symbol);
        }
        outputs.judge(&inputs, &strict).map_err(|failure| of_kernel(&plan, failure))?;
    }
    Ok(())
}

/// One key, and as many heads as V needs to hold every number of 16 bits.
fn one_key(head_dim: usize, causal: bool) -> Case {
    let heads = 65_536 / head_dim;
    Case {
        batch: 1,
        seqlen_q: 1,
        seqlen_kv: 1,
        heads_q: heads,
        heads_kv: heads,
        head_dim,
        causal,
        ..Case::default()
    }
}

/// A single key has weight 1: the output is V, whatever number stands there.
fn one_key_copies_v(gpu: &Device, case: &Case, dtype: Dtype) -> flashcore::Result<()> {
    let head_dim = case.head_dim;
    let v = Values::from_fn(case.shape_kv(), |_, _, h, d| {
        let number = decode(dtype, (h * head_dim + d) as u16);
        // Subnormal bf16 numbers are subnormal in f32 too, where the hardware may take them for zero.
        if number.is_finite() && (dtype == Dtype::F16 || number.is_normal()) { number } else { 0.0 }
    });
    let [q, k, _] = case.fill.values(case.shape_q(), case.shape_kv(), 1);
    for (plan, outputs) in run(gpu, case, [q, k, v.clone()], dtype)? {
        for (i, (got, want)) in outputs.out.values().data.iter().zip(&v.data).enumerate() {
            assert!(got == want, "{}: bits {i:#06x}: {want:e} became {got:e}", plan.variant.symbol);
        }
    }
    Ok(())
}

/// Without keys every row is 0 and its LSE -inf.
fn no_keys(gpu: &Device, case: &Case, dtype: Dtype) -> flashcore::Result<()> {
    let case = Case { seqlen_kv: 0, ..*case };
    for (plan, outputs) in run(gpu, &case, case.fill.values(case.shape_q(), case.shape_kv(), 1), dtype)? {
        let symbol = plan.variant.symbol;
        assert!(outputs.out.values().data.iter().all(|&o| o == 0.0), "{symbol}: an output is not 0");
        assert!(outputs.lse.iter().all(|&lse| lse == f32::NEG_INFINITY), "{symbol}: an LSE is not -inf");
    }
    Ok(())
}

/// Nothing to compute is not an error.
fn nothing(gpu: &Device, case: &Case, dtype: Dtype) -> flashcore::Result<()> {
    let empty = [
        Case { seqlen_q: 0, ..*case },
        Case { batch: 0, ..*case },
        Case { heads_q: 0, heads_kv: 0, ..*case },
        Case { seqlen_q: 0, seqlen_kv: 0, ..*case },
    ];
    for case in empty {
        let tensors = OnDevice::new(gpu, &case, &case.inputs(dtype, 1))?;
        tensors.run(&gpu.stream()?)?;
        gpu.synchronize()?;
        assert!(tensors.plans()?.iter().all(|plan| plan.grid == 0));
    }
    Ok(())
}

/// Exponents of many thousands, the same for all of 16k keys.
fn exponents(head_dim: usize, causal: bool) -> Case {
    Case {
        batch: 1,
        seqlen_q: 40,
        seqlen_kv: 16_384,
        heads_q: 1,
        heads_kv: 1,
        head_dim,
        causal,
        fill: Fill::Constant,
        scale: Some(256.0),
        ..Case::default()
    }
}

/// The largest weight is then a power of 2 near 1 instead of 1, which an ideal kernel does not have to round: beside
/// the usual bound the output may move by half a unit in the last place of the element type, once, however many tiles
/// there are.
fn exponents_of_thousands(gpu: &Device, case: &Case, dtype: Dtype) -> Result<(), String> {
    let half_unit = match dtype {
        Dtype::F16 => 2f64.powi(-11),
        Dtype::Bf16 => 2f64.powi(-8),
    };
    let attention = case.inputs(dtype, 7).attention;
    let expected = attention.answers(&attention.rows(usize::MAX, 0), dtype);
    let usual = bound(&expected, dtype);
    let values = case.fill.values(case.shape_q(), case.shape_kv(), 7);
    for (plan, outputs) in run(gpu, case, values, dtype).map_err(|error| error.to_string())? {
        let out = outputs.out.values();
        for Expected { at, exact, .. } in &expected {
            for (&got, &want) in out.row(at.b, at.s, at.h).iter().zip(&exact.o) {
                let (error, allowed) = ((f64::from(got) - want).abs(), usual + half_unit * want.abs());
                if error > allowed || error.is_nan() {
                    let symbol = plan.variant.symbol;
                    return Err(format!(
                        "{symbol}: {at:?} is {got}, should be {want}, allowed {allowed:.1e}"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// LSE is optional, and asking for it does not change the output.
fn without_lse(gpu: &Device, case: &Case, dtype: Dtype) -> flashcore::Result<()> {
    let tensors = OnDevice::new(gpu, case, &case.inputs(dtype, 9))?;
    let stream = gpu.stream()?;
    tensors.run(&stream)?;
    let with: HostTensor = tensors.outputs()?.out;
    tensors.poison()?;
    tensors.attention().forward_into(&stream, &tensors.q, &tensors.k, &tensors.v, &tensors.out, None)?;
    let outputs = tensors.outputs()?;
    assert_eq!(with.bits, outputs.out.bits);
    assert!(outputs.lse.iter().all(|lse| lse.is_nan()), "LSE was written though nobody asked");
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    for head_dim in KERNEL_HEAD_DIMS.into_iter().chain([MAX_HEAD_DIM]) {
        for causal in [false, true] {
            for dtype in [Dtype::F16, Dtype::Bf16] {
                if head_dim == MAX_HEAD_DIM && !(causal && dtype == Dtype::F16) {
                    continue; // one kernel for both masks, and slow to emulate
                }
                let long = Case {
                    batch: 1,
                    seqlen_q: 420,
                    seqlen_kv: 430,
                    heads_q: 2,
                    heads_kv: 1,
                    head_dim,
                    causal,
                    ..Case::default()
                };
                let short = Case { seqlen_q: 150, seqlen_kv: 260, ..long };
                let cases = [long, short, Case { heads_q: 1, ..short }];
                let mut test = |name: &str, change: fn(&mut [Values; 3])| {
                    let run = move |gpu: &Device, case: &Case| check(gpu, case, dtype, change);
                    suite.case(name, &cases, dtype, 1, run);
                };
                test("nan_in_q_", |[q, _, _]| *last(q.row_mut(0, 77, q.shape.heads - 1)) = f32::NAN);
                test("nan_in_k_", |[_, k, _]| k.row_mut(0, 250, 0)[0] = f32::NAN);
                test("infinity_in_k_", |[_, k, _]| k.row_mut(0, 33, 0)[5] = f32::INFINITY);
                test("infinity_in_q_", |[q, _, _]| q.row_mut(0, 140, 0)[5] = f32::NEG_INFINITY);
                // Every row sees key 0.
                test("nan_in_v_", |[_, _, v]| v.row_mut(0, 0, 0)[9] = f32::NAN);
                test("infinities_in_v_", |[_, _, v]| {
                    v.row_mut(0, 3, 0)[2] = f32::INFINITY;
                    v.row_mut(0, 5, 0)[4] = f32::NEG_INFINITY;
                });
                test("every_score_is_minus_infinity_", |[q, k, _]| {
                    let (q_width, k_width) = (q.shape.head_dim, k.shape.head_dim);
                    q.data.chunks_mut(q_width).for_each(|row| row[0] = 1.0);
                    k.data.chunks_mut(k_width).for_each(|row| row[0] = f32::NEG_INFINITY);
                });
                test("large_scores_and_values_", |[q, k, v]| {
                    q.data.fill(16.0);
                    k.data.fill(16.0);
                    v.data.fill(30_000.0);
                });
                if causal {
                    suite.case("nan_in_v_under_a_mask_", &cases, dtype, 1, move |gpu, case| {
                        nan_in_v_under_a_mask(gpu, case, dtype)
                    });
                }
                let one_key = one_key(head_dim, causal);
                suite.case("one_key_copies_v_", &[one_key], dtype, 1, move |gpu, case| {
                    one_key_copies_v(gpu, case, dtype)
                });
                let exponents = exponents(head_dim, causal);
                let fewer_keys = Case { seqlen_kv: 700, ..exponents };
                let exponents = [exponents, fewer_keys];
                suite.case("exponents_of_thousands_", &exponents, dtype, 1, move |gpu, case| {
                    exponents_of_thousands(gpu, case, dtype)
                });
                suite.case("no_keys_", &cases, dtype, 1, move |gpu, case| no_keys(gpu, case, dtype));
                suite.case("nothing_", &cases, dtype, 1, move |gpu, case| nothing(gpu, case, dtype));
                suite.case("without_lse_", &cases, dtype, 1, move |gpu, case| without_lse(gpu, case, dtype));
            }
        }
    }
    suite.run()
}
