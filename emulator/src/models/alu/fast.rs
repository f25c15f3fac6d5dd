//! The instructions that kernels are made of, in a form that compilers turn into vector code: f32 and f64 arithmetic
//! rounded to nearest, minima and maxima of f32.

use std::array;

use super::{Lanes, binary, float};
use crate::ir::{Alu, AluOp, Type};
use crate::models::convert::{Format, Round};

pub(super) fn evaluate(alu: &Alu, src: &[Lanes; 4]) -> Option<Lanes> {
    if Round::of(alu.float.rounding) != Some(Round::NearestEven) {
        return None;
    }
    let result = match (alu.ty, alu.float.ftz) {
        (Type::F32, false) => single::<false>(alu, src)?,
        (Type::F32, true) => single::<true>(alu, src)?,
        (Type::F64, _) => double(alu.op, src)?,
        _ => return None,
    };
    if alu.float.saturate {
        let format = float::format(alu.ty)?;
        return Some(result.map(|bits| float::finish(alu, format, bits)));
    }
    Some(result)
}

fn single<const FTZ: bool>(alu: &Alu, src: &[Lanes; 4]) -> Option<Lanes> {
    let operand = |bits: u64| {
        let bits = bits as u32;
        f32::from_bits(if FTZ { flush(bits) } else { bits })
    };
    let result = |value: f32| -> u64 {
        let bits = if value.is_nan() { 0x7FFF_FFFF } else { value.to_bits() };
        (if FTZ { flush(bits) } else { bits }).into()
    };
    Some(match alu.op {
        AluOp::Add => binary(src, |a, b| result(operand(a) + operand(b))),
        AluOp::Sub => binary(src, |a, b| result(operand(a) - operand(b))),
        AluOp::Mul => binary(src, |a, b| result(operand(a) * operand(b))),
        AluOp::Fma => fused(src, operand).map(result),
        AluOp::Min if !alu.float.nan => binary(src, |a, b| {
            let (a, b) = (operand(a), operand(b));
            let less = a < b || (a == b && a.is_sign_negative()) || b.is_nan();
            result(if less { a } else { b })
        }),
        AluOp::Max if !alu.float.nan => binary(src, |a, b| {
            let (a, b) = (operand(a), operand(b));
            let more = a > b || (a == b && a.is_sign_positive()) || b.is_nan();
            result(if more { a } else { b })
        }),
        _ => return None,
    })
}

/// `a * b + c` rounded once. The product is exact in f64 and so is, nearly always, rounding their sum twice: wrong only
/// where the first rounding lands half-way between two f32, or where those lie closer than the bits of an f64 show.
/// Those lanes are done again in full.
fn fused(src: &[Lanes; 4], operand: impl Fn(u64) -> f32) -> [f32; 32] {
    let [a, b, c] =
        [0, 1, 2].map(|source: usize| -> [f32; 32] { array::from_fn(|lane| operand(src[source][lane])) });
    let sums: [f64; 32] = array::from_fn(|lane| f64::from(a[lane]) * f64::from(b[lane]) + f64::from(c[lane]));
    let doubtful = |sum: f64| {
        let halfway = sum.to_bits() & 0x1FFF_FFFF == 0x1000_0000;
        halfway | (sum != 0.0 && sum.abs() < f32::MIN_POSITIVE.into())
    };
    let mut result = sums.map(|sum| sum as f32);
    if sums.iter().fold(false, |any, &sum| any | doubtful(sum)) {
        for lane in 0..32 {
            if doubtful(sums[lane]) {
                result[lane] = a[lane].mul_add(b[lane], c[lane]);
            }
        }
    }
    result
}

fn double(op: AluOp, src: &[Lanes; 4]) -> Option<Lanes> {
    let value = f64::from_bits;
    let result = |value: f64| if value.is_nan() { Format::F64.nan() } else { value.to_bits() };
    Some(match op {
        AluOp::Add => binary(src, |a, b| result(value(a) + value(b))),
        AluOp::Sub => binary(src, |a, b| result(value(a) - value(b))),
        AluOp::Mul => binary(src, |a, b| result(value(a) * value(b))),
        AluOp::Fma => super::ternary(src, |a, b, c| result(value(a).mul_add(value(b), value(c)))),
        _ => return None,
    })
}

/// The zero of its sign for a subnormal number.
const fn flush(bits: u32) -> u32 {
    if bits & 0x7F80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}
