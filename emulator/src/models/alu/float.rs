//! Floating-point arithmetic of every format, rounded in every direction: exact, then rounded.

use std::array;

use super::{Lanes, binary, low, unary};
use crate::ir::{Alu, AluOp, Type};
use crate::models::convert::{Format, Round};
use crate::models::number::Number;

/// The format of a scalar type that has arithmetic.
pub(super) const fn format(ty: Type) -> Option<Format> {
    match ty {
        Type::F16 => Some(Format::F16),
        Type::Bf16 => Some(Format::BF16),
        Type::F32 => Some(Format::F32),
        Type::F64 => Some(Format::F64),
        _ => None,
    }
}

pub(super) fn evaluate(alu: &Alu, src: &[Lanes; 4]) -> Option<Lanes> {
    let format = format(alu.ty)?;
    let round = Round::of(alu.float.rounding)?;
    let src = &src.map(|lanes| lanes.map(|bits| low(bits, format.bits())));
    let one = Number::integer(1);
    let apply = |f: &dyn Fn([Number; 3]) -> Number| {
        array::from_fn(|lane| {
            let read = |source: usize| {
                let bits = src[source][lane];
                format.decode(if alu.float.ftz { format.flush(bits) } else { bits })
            };
            finish(alu, format, format.encode(f([read(0), read(1), read(2)]), round, false))
        })
    };
    let magnitude = (1 << (format.bits() - 1)) - 1;
    let flushed = |bits| if alu.float.ftz { format.flush(bits) } else { bits };
    Some(match alu.op {
        AluOp::Add => apply(&|[a, b, _]| a.plus(b, round)),
        AluOp::Sub => apply(&|[a, b, _]| a.plus(b.negated(), round)),
        AluOp::Mul => apply(&|[a, b, _]| a.times(b)),
        AluOp::Fma => apply(&|[a, b, c]| a.times(b).plus(c, round)),
        AluOp::Div => apply(&|[a, b, _]| a.over(b)),
        AluOp::Rcp => apply(&|[a, ..]| one.over(a)),
        AluOp::Sqrt => apply(&|[a, ..]| a.root()),
        AluOp::Min | AluOp::Max => {
            let greater = alu.op == AluOp::Max;
            array::from_fn(|lane| {
                let (a, b) = (flushed(src[0][lane]), flushed(src[1][lane]));
                finish(alu, format, extreme(format, a, b, greater, alu.float.nan))
            })
        }
        AluOp::Neg => unary(src, |a| flushed(a) ^ (magnitude + 1)),
        AluOp::Abs => unary(src, |a| flushed(a) & magnitude),
        AluOp::Copysign if matches!(alu.ty, Type::F32 | Type::F64) => {
            binary(src, |a, b| a & (magnitude + 1) | b & magnitude)
        }
        AluOp::IsFinite if matches!(alu.ty, Type::F32 | Type::F64) => {
            unary(src, |a| u64::from(a & magnitude <= format.largest()))
        }
        _ => return None,
    })
}

/// The lesser or greater one. -0 is less than +0; NaN only if both are, or one with `propagate`.
fn extreme(format: Format, a: u64, b: u64, greater: bool, propagate: bool) -> u64 {
    let (x, y) = (format.to_f64(a), format.to_f64(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => format.nan(),
        (true, _) | (_, true) if propagate => format.nan(),
        (true, false) => b,
        (false, true) => a,
        _ if (x.total_cmp(&y).is_gt()) == greater => a,
        _ => b,
    }
}

/// What modifiers do to a result: `.ftz`, `.sat`, `.relu`.
pub(super) fn finish(alu: &Alu, format: Format, bits: u64) -> u64 {
    let bits = if alu.float.ftz { format.flush(bits) } else { bits };
    let negative = bits >> (format.bits() - 1) == 1;
    if alu.float.saturate {
        let one = format.encode(Number::integer(1), Round::Zero, false);
        // NaN is beyond infinity: it becomes zero too.
        if negative || bits > format.infinity() { 0 } else { bits.min(one) }
    } else if alu.float.relu && negative {
        // Results have no other NaN, and that one no sign.
        0
    } else {
        bits
    }
}
