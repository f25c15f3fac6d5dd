//! Attention by way of 8 bits on candle's tensors, on the CPU (emulated) and on a GPU where there is one, against that of
//! 16 bits.

mod common;

use std::process::ExitCode;

use candle_core::{DType, Device, Result, Tensor, Var};
use flashcore::{Dim, Dtype, Operand};
use flashcore_candle::{Attention, Error, Fp8, Fp8Options};
use flashcore_tests::suite::Suite;

use crate::common::{Failure, Test, candle_dtype, devices, normal};

const E4M3: Fp8Options = Fp8Options::new(Fp8::E4m3);
const E5M2: Fp8Options = Fp8Options::new(Fp8::E5m2);

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// How far numbers are from others, relative to these, in the root mean square.
fn relative_rms(found: &Tensor, expected: &Tensor) -> Result<f64> {
    let (found, expected) = (flat(found)?, flat(expected)?);
    let sum = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let errors = sum(&mut found.iter().zip(&expected).map(|(found, expected)| found - expected));
    Ok((errors / sum(&mut expected.iter().copied())).sqrt())
}

/// q, k and v, of four query heads and two of keys.
fn inputs(dtype: Dtype, head_dim: usize, device: &Device) -> Result<[Tensor; 3]> {
    let tensor = |seqlen, heads| normal((2, seqlen, heads, head_dim), device)?.to_dtype(candle_dtype(dtype));
    Ok([tensor(90, 4)?, tensor(130, 2)?, tensor(130, 2)?])
}

fn results_are_near_those_of_16_bits(device: &Device) -> std::result::Result<(), Failure> {
    let sinks = Tensor::new(&[0.5f32, -1.0, 2.0, 0.0], device)?;
    let causal = Attention::new().causal(true);
    let band = Attention::new().window(Some(20), Some(3)).softcap(5.0).sinks(&sinks);
    for (options, attention, other, head_dim) in [
        (E4M3, Attention::new(), &causal, 64),
        (E4M3, causal.clone(), &Attention::new(), 72),
        (E4M3.rotated(), causal.clone().scale(0.2), &Attention::new(), 128),
        (E4M3.per_tensor(), band, &Attention::new(), 64),
        (E5M2, causal.clone(), &Attention::new(), 64),
        (E5M2.rotated().per_tensor(), Attention::new(), &causal, 256),
    ] {
        let limit = if options == E4M3 || options == E4M3.rotated() { 0.08 } else { 0.16 };
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let [q, k, v] = inputs(dtype, head_dim, device)?;
            let narrow = attention.clone().fp8(options);
            let (out, lse) = narrow.forward_with_lse(&q, &k, &v)?;
            assert_eq!((out.dims(), out.dtype(), out.is_contiguous()), (q.dims(), q.dtype(), true));
            assert_eq!(flat(&narrow.forward(&q, &k, &v)?)?, flat(&out)?);
            let (expected, expected_lse) = attention.forward_with_lse(&q, &k, &v)?;
            let error = relative_rms(&out, &expected)?;
            assert!(error < limit, "{options:?}, head_dim {head_dim}: relative error {error}");
            let of_lse = flat(&(lse - expected_lse)?)?.into_iter().map(f32::abs).fold(0.0, f32::max);
            assert!(of_lse < 0.5, "error of the log-sum-exp {of_lse}");
            let error = relative_rms(&out, &other.forward(&q, &k, &v)?)?;
            assert!(error > 2.0 * limit, "another mask makes a difference of {error}");
        }
    }
    Ok(())
}

/// Each rounding gives other bits, and tensors are used as they lie.
fn roundings_and_strides(device: &Device) -> std::result::Result<(), Failure> {
    let [q, k, v] = inputs(Dtype::Bf16, 64, device)?;
    // Heads of which one is much smaller than the other.
    let small = Tensor::new(&[1f32, 0.003], device)?.to_dtype(DType::BF16)?.reshape((1, 1, 2, 1))?;
    let k = k.broadcast_mul(&small)?;
    let results: Vec<_> =
        [E4M3, E4M3.rotated(), E4M3.per_tensor(), E4M3.stochastic(5, 1), E4M3.stochastic(5, 2), E5M2]
            .into_iter()
            .map(|options| flat(&Attention::new().fp8(options).forward(&q, &k, &v)?))
            .collect::<Result<_>>()?;
    for (i, one) in results.iter().enumerate() {
        assert!(results[..i].iter().all(|other| other != one));
    }
    let transposed = |x: &Tensor| x.transpose(1, 2)?.contiguous()?.transpose(1, 2);
    let (q, k) = (transposed(&q)?, transposed(&k)?);
    assert_eq!(flat(&Attention::new().fp8(E4M3).forward(&q, &k, &v)?)?, results[0]);
    Ok(())
}

/// Packed sequences are near what they are in 16 bits, whatever else is in the tensors.
fn packed_sequences(device: &Device) -> std::result::Result<(), Failure> {
    let [q, k, v] = inputs(Dtype::F16, 64, device)?;
    let of_q = Tensor::new(&[0i32, 30, 30, 80], device)?;
    let of_k = Tensor::new(&[0i32, 41, 50, 100], device)?;
    let used = Tensor::new(&[33i32, 5, 50], device)?;
    // Rows behind the last sequence.
    let poisoned = |x: &Tensor, rows| {
        let x = x.get(0)?;
        let rest = x.narrow(0, rows, x.dim(0)? - rows)?.affine(0.0, f64::NAN)?;
        Tensor::cat(&[&x.narrow(0, 0, rows)?, &rest], 0)
    };
    let (q, k, v) = (poisoned(&q, 80)?, poisoned(&k, 100)?, poisoned(&v, 100)?);
    let attention = Attention::new().causal(true).starts_q(&of_q).starts_kv(&of_k).used_kv(&used);
    let expected = attention.forward(&q, &k, &v)?.narrow(0, 0, 80)?;
    for options in [E4M3, E4M3.rotated().stochastic(1, 2)] {
        let out = attention.clone().fp8(options).forward(&q, &k, &v)?.narrow(0, 0, 80)?;
        let error = relative_rms(&out, &expected)?;
        assert!(error < 0.1, "{options:?}: relative error {error}");
    }
    Ok(())
}

/// Room is used again before the device is done with the call before.
fn calls_are_ordered_with_candle_s_work(device: &Device) -> std::result::Result<(), Failure> {
    let (length, rounds) = if device.is_cpu() { (20, 2) } else { (2000, 50) };
    let first = normal((1, length, 4, 64), device)?;
    let attention = Attention::new().causal(true).fp8(E4M3);
    let all = |wait: bool| {
        (0..rounds).try_fold(first.clone(), |x, _| {
            let x = attention.forward(&x, &x, &x)?.affine(1.5, 0.1)?;
            if wait {
                device.synchronize()?;
            }
            Ok::<_, candle_core::Error>(x)
        })
    };
    assert_eq!(flat(&all(false)?)?, flat(&all(true)?)?);
    Ok(())
}

fn mistakes_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let [q, k, v] = inputs(Dtype::F16, 64, device)?;
    let refused = |attention: &Attention, [q, k, v]: [&Tensor; 3]| {
        let error = attention.forward(q, k, v).expect_err("it must be refused");
        Error::of(&error).unwrap_or_else(|| panic!("no error of ours: {error}")).clone()
    };
    let right = Attention::new().fp8(E4M3);
    let features = Error::Flashcore(flashcore::Error::Fp8Features);
    let slopes = Tensor::ones(4, DType::F32, device)?;
    assert_eq!(refused(&right.clone().alibi(&slopes), [&q, &k, &v]), features);
    let bias = Tensor::zeros((1, 1, 90, 130), DType::F16, device)?;
    assert_eq!(refused(&right.clone().bias(&bias), [&q, &k, &v]), features);
    assert_eq!(refused(&right.clone().fp8(E5M2).softcap(5.0), [&q, &k, &v]), features);
    let (operand, dim) = (Operand::V, Dim::Seqlen);
    let mismatch = flashcore::Error::ShapeMismatch { operand, dim, expected: 130, found: 129 };
    assert_eq!(refused(&right, [&q, &k, &v.narrow(1, 0, 129)?]), Error::Flashcore(mismatch));
    let ratio = flashcore::Error::HeadRatio { heads_q: 3, heads_kv: 2 };
    assert_eq!(refused(&right, [&q.narrow(2, 0, 3)?, &k, &v]), Error::Flashcore(ratio));
    let wide = normal((1, 8, 1, 264), device)?;
    let head_dim = flashcore::Error::HeadDim { head_dim: 264, limit: 256 };
    assert_eq!(refused(&right, [&wide; 3]), Error::Flashcore(head_dim));
    let found = DType::F32;
    let error = refused(&right, [&q.to_dtype(found)?, &k, &v]);
    assert_eq!(error, Error::Dtype { operand: Operand::Q, found });
    let (operand, expected, found) = (Operand::K, Dtype::F16, Dtype::Bf16);
    let error = refused(&right, [&q, &k.to_dtype(DType::BF16)?, &v]);
    assert_eq!(error, Error::Flashcore(flashcore::Error::DtypeMismatch { operand, expected, found }));
    Ok(())
}

fn gradients_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let q = Var::from_tensor(&normal((1, 20, 2, 64), device)?)?;
    let out = Attention::new().fp8(E4M3).forward(&q, &q, &q)?;
    let error = out.to_dtype(DType::F32)?.sum_all()?.backward().expect_err("there is no backward pass");
    assert!(error.to_string().contains("backward is not supported for flash-attn"), "{error}");
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(devices());
    let tests: [(&str, Test); 6] = [
        ("results_are_near_those_of_16_bits", results_are_near_those_of_16_bits),
        ("roundings_and_strides", roundings_and_strides),
        ("packed_sequences", packed_sequences),
        ("calls_are_ordered_with_candle_s_work", calls_are_ordered_with_candle_s_work),
        ("mistakes_are_refused", mistakes_are_refused),
        ("gradients_are_refused", gradients_are_refused),
    ];
    for (name, test) in tests {
        suite.test(name, test);
    }
    suite.run()
}
