//! Approximate functions. The ISA bounds their errors and says what special values give; these are the values of f64
//! functions, rounded to nearest. The last bits of hardware differ.

use super::exponential::exp2;
use super::{Lanes, binary, float, unary};
use crate::ir::{Alu, AluOp, Rounding, Type};
use crate::models::convert::{Format, Round};

pub(super) fn evaluate(alu: &Alu, src: &[Lanes; 4]) -> Option<Lanes> {
    let format = float::format(alu.ty).filter(|&format| format != Format::F64)?;
    let flushed = |bits| if alu.float.ftz { format.flush(bits) } else { bits };
    let result = |value: f64| float::finish(alu, format, format.from_f64(value, Round::NearestEven, false));
    if alu.ty != Type::F32 && !matches!(alu.op, AluOp::Ex2 | AluOp::Tanh) {
        return None;
    }
    if !matches!(alu.float.rounding, Rounding::Approx | Rounding::Full) {
        return None;
    }
    Some(match alu.op {
        AluOp::Ex2 if alu.ty == Type::F32 => unary(src, |a| {
            let value = exp2(f32::from_bits(flushed(a) as u32));
            let bits = if value.is_nan() { 0x7FFF_FFFF } else { value.to_bits().into() };
            if alu.float.ftz { Format::F32.flush(bits) } else { bits }
        }),
        AluOp::Div => binary(src, |a, b| {
            let (a, b) = (format.to_f64(flushed(a)), format.to_f64(flushed(b)));
            // `.approx` multiplies by a reciprocal, which is zero for divisors beyond 2^126.
            let vanishes = alu.float.rounding == Rounding::Approx && b.abs() > 2f64.powi(126);
            result(if vanishes { a * 0f64.copysign(b) } else { a / b })
        }),
        op => {
            let f: fn(f64) -> f64 = match op {
                AluOp::Ex2 => |x| f64::from(exp2(x as f32)),
                AluOp::Lg2 => f64::log2,
                AluOp::Rcp => f64::recip,
                AluOp::Sqrt => f64::sqrt,
                AluOp::Rsqrt => |x| x.sqrt().recip(),
                AluOp::Sin => f64::sin,
                AluOp::Cos => f64::cos,
                AluOp::Tanh => f64::tanh,
                _ => return None,
            };
            unary(src, |a| result(f(format.to_f64(flushed(a)))))
        }
    })
}
