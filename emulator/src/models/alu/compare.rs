//! Comparisons: `setp` and `set`.

use std::array;

use super::{Lanes, binary, low};
use crate::ir::{Alu, AluOp, Compare, Type};
use crate::models::convert::Format;

/// `setp`: the comparison, or its opposite, combined with the predicate in the last source.
pub(super) fn predicate(alu: &Alu, src: &[Lanes; 4], opposite: bool) -> Option<Lanes> {
    let AluOp::Setp(compare) = alu.op else { return None };
    let mut result = compared(compare, alu.ty, alu.float.ftz, src)?;
    if opposite {
        result = result.map(|holds| holds ^ 1);
    }
    let Some(combine) = alu.combine else { return Some(result) };
    let other = src[2].map(|bits| bits & 1 ^ u64::from(combine.negated));
    Some(match combine.op {
        AluOp::And => array::from_fn(|lane| result[lane] & other[lane]),
        AluOp::Or => array::from_fn(|lane| result[lane] | other[lane]),
        AluOp::Xor => array::from_fn(|lane| result[lane] ^ other[lane]),
        _ => return None,
    })
}

/// `set`: all ones, or 1.0, where operands of type `from` compare.
pub(super) fn set(alu: &Alu, compare: Compare, from: Type, src: &[Lanes; 4]) -> Option<Lanes> {
    let holds = match alu.ty {
        Type::U32 | Type::S32 => 0xFFFF_FFFF,
        Type::F32 => 1f32.to_bits().into(),
        _ => return None,
    };
    let result = compared(compare, from, alu.float.ftz, src)?;
    Some(result.map(|bit| if bit == 1 { holds } else { 0 }))
}

fn compared(compare: Compare, ty: Type, ftz: bool, src: &[Lanes; 4]) -> Option<Lanes> {
    let bits = 8 * ty.bytes();
    let flushed = |format: Format, a| if ftz { format.flush(a) } else { a };
    match ty {
        Type::B16 | Type::B32 | Type::B64 if !matches!(compare, Compare::Eq | Compare::Ne) => None,
        Type::B16 | Type::B32 | Type::B64 | Type::U16 | Type::U32 | Type::U64 => {
            ordered(compare, src, |a| low(a, bits))
        }
        Type::S16 | Type::S32 | Type::S64 => {
            ordered(compare, src, |a| (a << (64 - bits)).cast_signed() >> (64 - bits))
        }
        Type::F32 => floats(compare, src, |a| f32::from_bits(flushed(Format::F32, a) as u32)),
        Type::F64 => floats(compare, src, f64::from_bits),
        Type::F16 => floats(compare, src, |a| Format::F16.to_f64(flushed(Format::F16, a))),
        Type::Bf16 => floats(compare, src, |a| Format::BF16.to_f64(a)),
        _ => None,
    }
}

fn ordered<T: PartialOrd>(compare: Compare, src: &[Lanes; 4], read: impl Fn(u64) -> T) -> Option<Lanes> {
    Some(match compare {
        Compare::Eq => binary(src, |a, b| (read(a) == read(b)).into()),
        // Unordered operands are not unequal: that is `neu`.
        Compare::Ne => binary(src, |a, b| (read(a) < read(b) || read(a) > read(b)).into()),
        Compare::Lt => binary(src, |a, b| (read(a) < read(b)).into()),
        Compare::Le => binary(src, |a, b| (read(a) <= read(b)).into()),
        Compare::Gt => binary(src, |a, b| (read(a) > read(b)).into()),
        Compare::Ge => binary(src, |a, b| (read(a) >= read(b)).into()),
        _ => return None,
    })
}

fn floats<T: PartialOrd>(compare: Compare, src: &[Lanes; 4], read: impl Fn(u64) -> T) -> Option<Lanes> {
    let opposite = match compare {
        Compare::Equ => Compare::Ne,
        Compare::Neu => Compare::Eq,
        Compare::Ltu => Compare::Ge,
        Compare::Leu => Compare::Gt,
        Compare::Gtu => Compare::Le,
        Compare::Geu => Compare::Lt,
        Compare::Num => {
            return Some(binary(src, |a, b| read(a).partial_cmp(&read(b)).is_some().into()));
        }
        Compare::Nan => {
            return Some(binary(src, |a, b| read(a).partial_cmp(&read(b)).is_none().into()));
        }
        _ => return ordered(compare, src, read),
    };
    ordered(opposite, src, read).map(|lanes| lanes.map(|holds| holds ^ 1))
}
