//! Attention of candle's tensors, on the CPU (emulated) and on a GPU where there is one, against the oracle's f64.

mod common;

use std::process::ExitCode;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use flashcore::{Dim, Dtype, Operand, Shape};
use flashcore_candle::{Error, flash_attn, flash_attn_with_lse, merge_attention_states};
use flashcore_tests::compare::compare;
use flashcore_tests::inputs::Fill;
use flashcore_tests::oracle::{Attention, Mask};
use flashcore_tests::suite::Suite;
use flashcore_tests::values::Values;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use crate::common::{Failure, Test, candle_dtype, normal};

/// How a tensor lies in its storage.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// As its shape has it.
    Contiguous,
    /// Made as (batch, heads, seqlen, head_dim), and transposed.
    Transposed,
    /// The middle of a larger tensor of NaN: with an offset, and gaps everywhere.
    Narrowed,
    /// One head for all: stride 0. Only heads of equal values can lie so, so that the first head is taken for all.
    Broadcast,
}

const LIES: [Lie; 4] = [Lie::Contiguous, Lie::Transposed, Lie::Narrowed, Lie::Broadcast];

/// Elements before and behind each dimension of [`Lie::Narrowed`].
const MARGINS: [(usize, usize); 4] = [(1, 1), (2, 1), (1, 2), (8, 16)];

/// `values` as a tensor that lies so.
fn tensor(values: &Values, lie: Lie, dtype: DType, device: &Device) -> Result<Tensor> {
    let Shape { batch, seqlen, heads, head_dim } = values.shape;
    let dims = [batch, seqlen, heads, head_dim];
    let tensor = Tensor::from_slice(&values.data, &dims, &Device::Cpu)?.to_dtype(dtype)?;
    match lie {
        Lie::Contiguous => tensor.to_device(device),
        Lie::Transposed => tensor.transpose(1, 2)?.contiguous()?.to_device(device)?.transpose(1, 2),
        Lie::Narrowed => {
            let mut padded = tensor;
            for (dim, (before, behind)) in MARGINS.into_iter().enumerate() {
                let margin = |width| {
                    let mut dims = padded.dims().to_vec();
                    dims[dim] = width;
                    Tensor::full(f32::NAN, dims, &Device::Cpu)?.to_dtype(dtype)
                };
                padded = Tensor::cat(&[&margin(before)?, &padded, &margin(behind)?], dim)?;
            }
            let padded = padded.to_device(device)?;
            let narrow = |t: Tensor, i: usize| t.narrow(i, MARGINS[i].0, dims[i]);
            (0..4).try_fold(padded, narrow)
        }
        Lie::Broadcast => tensor.narrow(2, 0, 1)?.to_device(device)?.broadcast_as(&dims),
    }
}

/// The values of a (batch, seqlen, heads, head_dim) tensor.
fn values(tensor: &Tensor) -> Result<Values> {
    let (batch, seqlen, heads, head_dim) = tensor.dims4()?;
    let data = tensor.contiguous()?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(Values { shape: Shape { batch, seqlen, heads, head_dim }, data })
}

/// A random problem.
#[derive(Clone, Debug)]
struct Problem {
    q: Shape,
    kv: Shape,
    lies: [Lie; 3],
    dtype: Dtype,
    scale: f32,
    causal: bool,
    seed: u64,
}

fn problem(longest: usize) -> impl Strategy<Value = Problem> {
    let sizes = (1..3usize, 1..longest, 1..longest, 1..4usize, 1..4usize, 1..=32usize);
    let lies = [select(LIES.to_vec()), select(LIES.to_vec()), select(LIES.to_vec())];
    let rest = (lies, select(vec![Dtype::F16, Dtype::Bf16]), 0.01f32..1.0, any::<bool>(), any::<u64>());
    (sizes, rest).prop_map(|((batch, seqlen_q, seqlen_kv, heads_kv, ratio, eighths), rest)| {
        let (lies, dtype, scale, causal, seed) = rest;
        let head_dim = 8 * eighths;
        let q = Shape { batch, seqlen: seqlen_q, heads: heads_kv * ratio, head_dim };
        let kv = Shape { batch, seqlen: seqlen_kv, heads: heads_kv, head_dim };
        Problem { q, kv, lies, dtype, scale, causal, seed }
    })
}

fn check(problem: &Problem, device: &Device) -> std::result::Result<(), Failure> {
    let &Problem { q, kv, lies, dtype, scale, causal, seed } = problem;
    let inputs = Fill::Normal.values(q, kv, seed);
    let tensor = |i: usize| tensor(&inputs[i], lies[i], candle_dtype(dtype), device);
    let (q, k, v) = (tensor(0)?, tensor(1)?, tensor(2)?);
    let mask = if causal { Mask::causal() } else { Mask::full() };
    let oracle =
        Attention { mask, ..Attention::new(values(&q)?, values(&k)?, values(&v)?, f64::from(scale)) };
    let expected = oracle.answers(&oracle.rows(usize::MAX, seed), dtype);

    let (out, lse) = flash_attn_with_lse(&q, &k, &v, scale, causal)?;
    assert_eq!((out.dims(), out.dtype(), out.is_contiguous()), (q.dims(), q.dtype(), true));
    let (batch, seqlen, heads, _) = q.dims4()?;
    assert_eq!((lse.dims(), lse.dtype()), (&[batch, heads, seqlen][..], DType::F32));
    compare(&expected, dtype, &values(&out)?, Some(&lse.flatten_all()?.to_vec1()?))?;
    // The same kernel, without a log-sum-exp to store.
    let alone = flash_attn(&q, &k, &v, scale, causal, seed % 2 == 0)?;
    assert_eq!(values(&alone)?, values(&out)?);
    Ok(())
}

fn random_problems(device: &Device) -> std::result::Result<(), Failure> {
    let (longest, cases) = if device.is_cpu() { (110, 40) } else { (1000, 300) };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&problem(longest), |problem| {
        check(&problem, device).map_err(|failure| TestCaseError::fail(format!("{problem:?}: {failure}")))
    })?;
    Ok(())
}

/// Slices of one (batch, seqlen, 3 * heads * head_dim) tensor, as a fused projection leaves them.
fn slices_of_a_fused_projection(device: &Device) -> std::result::Result<(), Failure> {
    let (heads, head_dim) = (2, 64);
    let fused = normal((2, 50, 3 * heads * head_dim), device)?;
    let slice = |i: usize| {
        fused.narrow(D::Minus1, i * heads * head_dim, heads * head_dim)?.reshape((2, 50, heads, head_dim))
    };
    let view = |i: usize| fused.reshape((2, 50, 3 * heads, head_dim))?.narrow(2, i * heads, heads);
    let lying = flash_attn(&view(0)?, &view(1)?, &view(2)?, 0.125, true, false)?;
    let copied = flash_attn(&slice(0)?, &slice(1)?, &slice(2)?, 0.125, true, false)?;
    assert_eq!(values(&lying)?, values(&copied)?);
    Ok(())
}

/// Queries before the first key see nothing.
fn rows_without_keys(device: &Device) -> std::result::Result<(), Failure> {
    let (q, kv) = (normal((1, 10, 1, 64), device)?, normal((1, 4, 1, 64), device)?);
    let (out, lse) = flash_attn_with_lse(&q, &kv, &kv, 0.125, true)?;
    assert!(values(&out)?.data[..6 * 64].iter().all(|&x| x == 0.0));
    let lse: Vec<f32> = lse.flatten_all()?.to_vec1()?;
    assert!(lse[..6].iter().all(|&x| x == f32::NEG_INFINITY) && lse[6..].iter().all(|x| x.is_finite()));
    let none = kv.narrow(1, 0, 0)?;
    let (out, lse) = flash_attn_with_lse(&q, &none, &none, 0.125, false)?;
    assert!(values(&out)?.data.iter().all(|&x| x == 0.0));
    assert!(lse.flatten_all()?.to_vec1::<f32>()?.iter().all(|&x| x == f32::NEG_INFINITY));
    Ok(())
}

/// Attention over parts of the keys, merged, against the oracle over all of them: states as they come, and as views.
fn merged_states(device: &Device) -> std::result::Result<(), Failure> {
    let (q, kv) = (Shape::new(2, 30, 4, 128), Shape::new(2, 70, 2, 128));
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let inputs = Fill::Normal.values(q, kv, 1);
        let tensor = |i: usize| tensor(&inputs[i], Lie::Contiguous, candle_dtype(dtype), device);
        let (q, k, v) = (tensor(0)?, tensor(1)?, tensor(2)?);
        let oracle = Attention::new(values(&q)?, values(&k)?, values(&v)?, 0.125);
        let expected = oracle.answers(&oracle.rows(usize::MAX, 0), dtype);
        let part = |first, keys| {
            flash_attn_with_lse(&q, &k.narrow(1, first, keys)?, &v.narrow(1, first, keys)?, 0.125, false)
        };
        let ((o1, lse1), (o2, lse2)) = (part(0, 25)?, part(25, 45)?);
        let transposed = |o: &Tensor| o.transpose(1, 2)?.contiguous()?.transpose(1, 2);
        let strided = |lse: &Tensor| lse.transpose(1, 2)?.contiguous()?.transpose(1, 2);
        for (o1, lse1, o2) in
            [(o1.clone(), lse1.clone(), o2.clone()), (transposed(&o1)?, strided(&lse1)?, transposed(&o2)?)]
        {
            let (out, lse) = merge_attention_states(&o1, &lse1, &o2, &lse2)?;
            assert_eq!((out.dims(), out.dtype(), out.is_contiguous()), (q.dims(), q.dtype(), true));
            assert_eq!((lse.dims(), lse.dtype()), (lse1.dims(), DType::F32));
            compare(&expected, dtype, &values(&out)?, Some(&lse.flatten_all()?.to_vec1()?))?;
        }
        // Without keys a state does not count, and nor does what it holds.
        let none = Tensor::full(f32::NEG_INFINITY, lse1.dims(), device)?;
        let nan = Tensor::full(f32::NAN, o1.dims(), device)?.to_dtype(o1.dtype())?;
        let (out, lse) = merge_attention_states(&nan, &none, &o2, &lse2)?;
        assert_eq!(values(&out)?, values(&o2)?);
        assert_eq!(lse.flatten_all()?.to_vec1::<f32>()?, lse2.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(())
}

fn wrong_states_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let (o, lse) = (normal((2, 20, 4, 64), device)?, Tensor::zeros((2, 4, 20), DType::F32, device)?);
    let refuse = |o1: &Tensor, o2: &Tensor, lse: &Tensor| {
        let error = merge_attention_states(o1, lse, o2, lse).expect_err("it must be refused");
        Error::of(&error).unwrap_or_else(|| panic!("no error of ours: {error}")).clone()
    };
    let narrow = o.narrow(1, 0, 19)?;
    let mismatch =
        flashcore::Error::ShapeMismatch { operand: Operand::O2, dim: Dim::Seqlen, expected: 20, found: 19 };
    assert_eq!(refuse(&o, &narrow, &lse), Error::Flashcore(mismatch));
    let (expected, found) = (vec![2, 4, 19], vec![2, 4, 20]);
    assert_eq!(refuse(&narrow, &narrow, &lse), Error::LseShape { expected, found });
    let half = lse.to_dtype(DType::F16)?;
    assert_eq!(refuse(&o, &o, &half), Error::LseDtype { found: DType::F16 });
    assert_eq!(refuse(&o, &lse, &lse), Error::Dtype { operand: Operand::O2, found: DType::F32 });
    Ok(())
}

/// Work that candle submits around a call is ordered with it.
fn calls_are_ordered_with_candle_s_work(device: &Device) -> std::result::Result<(), Failure> {
    let (length, rounds) = if device.is_cpu() { (20, 2) } else { (2000, 50) };
    let first = normal((1, length, 4, 64), device)?;
    let step = |x: &Tensor| flash_attn(&(x * 2.0)?, x, x, 0.125, true, false)?.affine(0.9, 0.1);
    let all = |wait: bool| {
        (0..rounds).try_fold(first.clone(), |x, _| {
            let x = step(&x)?;
            if wait {
                device.synchronize()?;
            }
            Ok::<_, candle_core::Error>(x)
        })
    };
    assert_eq!(values(&all(false)?)?, values(&all(true)?)?);
    Ok(())
}

/// What the call refuses, as the type that it is.
fn refused(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Error {
    let error = flash_attn(q, k, v, scale, false, false).expect_err("it must be refused");
    let inner = Error::of(&error).unwrap_or_else(|| panic!("no error of ours: {error}")).clone();
    assert!(error.to_string().starts_with(&inner.to_string()), "{error}");
    let with_lse = flash_attn_with_lse(q, k, v, scale, false).expect_err("this must be refused, too");
    assert_eq!(Error::of(&with_lse).map(ToString::to_string), Some(inner.to_string()));
    inner
}

fn mistakes_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let good = normal((2, 20, 4, 64), device)?;
    let refuse = |q: &Tensor, k: &Tensor, v: &Tensor| refused(q, k, v, 0.125);
    let (q, k) = (Operand::Q, Operand::K);

    assert_eq!(
        refuse(&good.narrow(0, 0, 1)?.squeeze(0)?, &good, &good),
        Error::Rank { operand: q, expected: 4, found: 3 }
    );
    let f32 = good.to_dtype(DType::F32)?;
    assert_eq!(refuse(&good, &f32, &good), Error::Dtype { operand: k, found: DType::F32 });
    let bf16 = good.to_dtype(DType::BF16)?;
    let expected =
        flashcore::Error::DtypeMismatch { operand: Operand::V, expected: Dtype::F16, found: Dtype::Bf16 };
    assert_eq!(refuse(&good, &good, &bf16), Error::Flashcore(expected));
    let columns = normal((2, 20, 64, 4), device)?.transpose(2, 3)?;
    assert_eq!(refuse(&good, &columns, &good), Error::HeadDimStride { operand: k, stride: 4 });

    let wide = normal((2, 20, 4, 80), device)?;
    let shifted = wide.narrow(3, 4, 64)?;
    assert!(matches!(
        refuse(&shifted, &good, &good),
        Error::Flashcore(flashcore::Error::Misaligned { operand: Operand::Q, required: 16, .. })
    ));
    let odd = normal((2, 20, 4, 68), device)?.narrow(3, 0, 64)?;
    let expected =
        flashcore::Error::StrideMisaligned { operand: k, dim: Dim::Heads, stride: 68, multiple: 8 };
    assert_eq!(refuse(&good, &odd, &good), Error::Flashcore(expected));
    let (narrow, tall) = (normal((2, 20, 4, 60), device)?, normal((2, 20, 4, 520), device)?);
    assert_eq!(
        refuse(&narrow, &narrow, &narrow),
        Error::Flashcore(flashcore::Error::HeadDim { head_dim: 60, limit: 512 })
    );
    assert_eq!(
        refuse(&tall, &tall, &tall),
        Error::Flashcore(flashcore::Error::HeadDim { head_dim: 520, limit: 512 })
    );
    let three = good.narrow(2, 0, 3)?;
    assert_eq!(
        refuse(&good, &three, &three),
        Error::Flashcore(flashcore::Error::HeadRatio { heads_q: 4, heads_kv: 3 })
    );
    let shorter = good.narrow(1, 0, 19)?;
    let expected =
        flashcore::Error::ShapeMismatch { operand: Operand::V, dim: Dim::Seqlen, expected: 20, found: 19 };
    assert_eq!(refuse(&good, &good, &shorter), Error::Flashcore(expected));
    assert_eq!(refused(&good, &good, &good, -1.0), Error::Flashcore(flashcore::Error::Scale { scale: -1.0 }));
    Ok(())
}

/// There is no backward pass, and nobody gets a gradient that lacks a part.
fn gradients_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let (q, kv) = (Var::from_tensor(&normal((1, 20, 1, 64), device)?)?, normal((1, 20, 1, 64), device)?);
    let (out, lse) = flash_attn_with_lse(&q, &kv, &kv, 0.125, false)?;
    // States that depend on nothing but by one log-sum-exp.
    let (o, sum) = (out.detach(), Var::from_tensor(&lse.detach())?);
    let (merged, merged_lse) = merge_attention_states(&o, &sum, &o, &lse.detach())?;
    for (result, name) in [
        (out.to_dtype(DType::F32)?, "flash-attn"),
        (lse, "flash-attn-lse"),
        (merged.to_dtype(DType::F32)?, "merge-attention-states"),
        (merged_lse, "merge-attention-states-lse"),
    ] {
        let error = result.sum_all()?.backward().expect_err("there is no backward pass");
        assert!(error.to_string().contains(&format!("backward is not supported for {name}")), "{error}");
    }
    Ok(())
}

/// Columns of the output do not depend on how many there are.
fn values_of_another_head_dim(device: &Device) -> std::result::Result<(), Failure> {
    let inputs = || normal((2, 40, 2, 64), device);
    let (q, k, v) = (inputs()?, inputs()?, inputs()?);
    let (whole, lse) = flash_attn_with_lse(&q, &k, &v, 0.2, true)?;
    let (part, part_lse) = flash_attn_with_lse(&q, &k, &v.narrow(D::Minus1, 0, 24)?, 0.2, true)?;
    assert_eq!(part.dims(), [2, 40, 2, 24]);
    assert_eq!(values(&part)?.data, values(&whole.narrow(D::Minus1, 0, 24)?)?.data);
    assert_eq!(lse.flatten_all()?.to_vec1::<f32>()?, part_lse.flatten_all()?.to_vec1::<f32>()?);
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(common::devices());
    let tests: [(&str, Test); 9] = [
        ("values_of_another_head_dim", values_of_another_head_dim),
        ("merged_states", merged_states),
        ("wrong_states_are_refused", wrong_states_are_refused),
        ("random_problems", random_problems),
        ("slices_of_a_fused_projection", slices_of_a_fused_projection),
        ("rows_without_keys", rows_without_keys),
        ("calls_are_ordered_with_candle_s_work", calls_are_ordered_with_candle_s_work),
        ("mistakes_are_refused", mistakes_are_refused),
        ("gradients_are_refused", gradients_are_refused),
    ];
    for (name, test) in tests {
        suite.test(name, test);
    }
    suite.run()
}
