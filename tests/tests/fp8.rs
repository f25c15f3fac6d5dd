//! Attention over q, k and v of 8 bits.

use std::process::ExitCode;

use flashcore::{Attention, Device, Dtype, Fp8Tensor, Fp8Values, Lse, Order, Shape, Tensor};
use flashcore_tests::device::download;
use flashcore_tests::fp8::{Answer, Errors, Narrow, attend};
use flashcore_tests::inputs::Fill;
use flashcore_tests::suite::{Suite, backends};
use flashcore_tests::values::Values;

#[derive(Clone, Copy, Debug)]
struct Case {
    head_dim: usize,
    causal: bool,
    lengths: (usize, usize),
    heads: (usize, usize),
    fill: Fill,
    dtype: Dtype,
}

impl Case {
    fn name(&self) -> String {
        let Case { head_dim, causal, lengths: (q, k), heads: (of_q, of_k), fill, dtype } = self;
        let causal = if *causal { "_causal" } else { "" };
        format!("d{head_dim}_sq{q}_sk{k}_h{of_q}_{of_k}{causal}_{fill:?}_{}", dtype.name())
    }

    fn shapes(&self) -> [Shape; 2] {
        let Case { head_dim, lengths: (q, k), heads: (of_q, of_k), .. } = *self;
        [Shape::new(2, q, of_q, head_dim), Shape::new(2, k, of_k, head_dim)]
    }
}

fn run(
    device: &Device,
    inputs: &[Narrow; 3],
    causal: bool,
    dtype: Dtype,
) -> flashcore::Result<(Tensor, Lse)> {
    let stream = device.stream()?;
    let [q, k, v] = inputs;
    let rows =
        |x: &Narrow| Fp8Tensor::from_slice(device, &x.elements, x.values.shape, Order::Bshd, &x.descales);
    let (q, k) = (rows(q)?, rows(k)?);
    let v = Fp8Values::from_slice(device, &v.elements, v.values.shape, Order::Bshd, &v.descales)?;
    let shape = q.shape();
    let out = Tensor::zeros(device, dtype, shape, Order::Bshd)?;
    out.fill_bytes(0xFF)?;
    let lse = Lse::new(device, shape.batch, shape.heads, shape.seqlen)?;
    let attention = Attention::new().causal(causal);
    attention.forward_fp8_into(&stream, q.view(), k.view(), v.view(), &out, Some(lse.view()))?;
    stream.synchronize()?;
    Ok((out, lse))
}

fn errors(device: &Device, inputs: &[Narrow; 3], answer: &Answer, case: &Case) -> flashcore::Result<Errors> {
    let (out, lse) = run(device, inputs, case.causal, case.dtype)?;
    Ok(answer.errors(&download(&out)?.values().data, &lse.to_vec()?))
}

/// How far off tensor cores may be with a score: they cut each product to 13 fraction bits of the largest one, or of the
/// sum. Where no product is much larger than others, that evens out.
fn score_error(q: &Values, k: &Values, case: &Case) -> f64 {
    let largest = |x: &Values| x.data.iter().fold(0.0, |max, &x| f64::max(max, x.abs().into()));
    let cut = (33 * case.head_dim.div_ceil(32)) as f64 / 2f64.powi(13);
    let at_most = cut * largest(q) * largest(k) / (case.head_dim as f64).sqrt();
    if matches!(case.fill, Fill::Normal | Fill::Constant) { at_most.min(2e-3) } else { at_most }
}

fn agrees(device: &Device, case: &Case) -> Result<(), String> {
    let [q, k] = case.shapes();
    let inputs = case.fill.values(q, k, 1).map(|values| Narrow::new(&values));
    let [q, k, v] = inputs.each_ref().map(|x| &x.values);
    let answer = attend(q, k, v, case.causal, 1.0 / (case.head_dim as f64).sqrt());
    let errors = errors(device, &inputs, &answer, case).map_err(|error| error.to_string())?;
    println!("{}: {errors:?}", case.name());
    let granularity = answer.granularity(case.dtype) / (errors.rms / errors.of_spread).max(1e-30);
    let score_error = score_error(q, k, case);
    let bounds = [
        (errors.of_spread, 0.04 + granularity + score_error),
        (errors.of_magnitude, 1.0 / 16.0 + 1.0 / 128.0 + 2.0 * score_error),
        (errors.lse, score_error),
    ];
    if bounds.iter().all(|(error, bound)| error <= bound) {
        Ok(())
    } else {
        Err(format!("{errors:?}: {bounds:?}"))
    }
}

/// Where all scores are equal, and V has small integers, nothing is rounded but the last division.
fn equal_weights_are_exact(device: &Device, head_dim: usize) -> Result<(), String> {
    let shape = Shape::new(1, 200, 2, head_dim);
    let zeros = Values::zeros(shape);
    let v = Values::from_fn(shape, |_, s, h, d| if s % head_dim == d { (1 + h + s % 7) as f32 } else { 0.0 });
    let inputs = [zeros.clone(), zeros, v].map(|values| Narrow::new(&values));
    let (out, _) = run(device, &inputs, false, Dtype::F16).map_err(|error| error.to_string())?;
    let out = download(&out).map_err(|error| error.to_string())?.values();
    for h in 0..2 {
        for d in 0..head_dim {
            let sum: f32 = (0..200).map(|s| inputs[2].values.row(0, s, h)[d]).sum();
            for s in 0..200 {
                let (got, want) = (out.row(0, s, h)[d], half::f16::from_f32(sum / 200.0).to_f32());
                if (got - want).abs() > want / 1024.0 {
                    return Err(format!("({s}, {h}, {d}) is {got}, should be {want}"));
                }
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    let base = Case {
        head_dim: 128,
        causal: false,
        lengths: (200, 333),
        heads: (4, 2),
        fill: Fill::Normal,
        dtype: Dtype::Bf16,
    };
    let mut cases = Vec::new();
    for head_dim in [64, 128, 256] {
        for causal in [false, true] {
            let base = Case { head_dim, causal, ..base };
            for lengths in [(1, 1), (1, 239), (239, 1), (65, 127), (128, 217), (193, 300), (200, 161)] {
                cases.push(Case { lengths, heads: (1, 1), ..base });
            }
            for dtype in [Dtype::F16, Dtype::Bf16] {
                cases.push(Case { dtype, ..base });
            }
            for fill in [Fill::Large, Fill::Rising, Fill::Constant] {
                cases.push(Case { fill, heads: (2, 1), ..base });
            }
        }
    }
    for head_dim in [8, 16, 40, 72, 104, 136, 192, 248] {
        // Rows on the host have no gaps, and must be of whole steps.
        if head_dim % flashcore::FP8_STEP == 0 {
            cases.push(Case { head_dim, heads: (1, 1), causal: true, ..base });
        }
    }
    for case in cases {
        suite.test(case.name(), move |device| agrees(device, &case));
    }
    for head_dim in [64, 128, 256] {
        suite.test(format!("equal_weights_are_exact_d{head_dim}"), move |device| {
            equal_weights_are_exact(device, head_dim)
        });
    }
    suite.run()
}
