//! Integers of 16, 32 and 64 bits.
//!
//! Values are computed in 128 bits, which holds all but products of two 64-bit factors; of those the wanted bits are
//! right. The results are cut to the width of the type, which is what wrapping means.

use super::{Lanes, binary, low, ternary, unary};
use crate::ir::{Alu, AluOp, Type};

pub(super) fn evaluate(alu: &Alu, src: &[Lanes; 4]) -> Option<Lanes> {
    match alu.ty {
        Type::U16 => of::<16, false>(alu, src),
        Type::S16 => of::<16, true>(alu, src),
        Type::U32 => of::<32, false>(alu, src),
        Type::S32 => of::<32, true>(alu, src),
        Type::U64 => of::<64, false>(alu, src),
        Type::S64 => of::<64, true>(alu, src),
        _ => None,
    }
}

/// The value of the low bits.
pub(super) const fn value<const BITS: u32, const SIGNED: bool>(bits: u64) -> i128 {
    let shift = 64 - BITS;
    if SIGNED { ((bits << shift).cast_signed() >> shift) as i128 } else { (bits << shift >> shift) as i128 }
}

fn of<const BITS: u32, const SIGNED: bool>(alu: &Alu, src: &[Lanes; 4]) -> Option<Lanes> {
    use AluOp::*;
    let read = value::<BITS, SIGNED>;
    let write = |value: i128| low(value as u64, BITS);
    // Only for s32: the only type that saturates.
    let clamped = |value: i128| write(value.clamp(i32::MIN.into(), i32::MAX.into()));
    Some(match (alu.op, alu.float.saturate) {
        (Add, false) => binary(src, |a, b| write(read(a) + read(b))),
        (Add, true) => binary(src, |a, b| clamped(read(a) + read(b))),
        (Sub, false) => binary(src, |a, b| write(read(a) - read(b))),
        (Sub, true) => binary(src, |a, b| clamped(read(a) - read(b))),
        (Mul, false) => binary(src, |a, b| write(read(a).wrapping_mul(read(b)))),
        (MulHi, false) => binary(src, |a, b| write(read(a).wrapping_mul(read(b)) >> BITS)),
        (MulWide, false) if BITS < 64 => binary(src, |a, b| low((read(a) * read(b)) as u64, 2 * BITS)),
        (Mad, false) => ternary(src, |a, b, c| write(read(a).wrapping_mul(read(b)).wrapping_add(read(c)))),
        (MadHi, false) => ternary(src, |a, b, c| write((read(a).wrapping_mul(read(b)) >> BITS) + read(c))),
        (MadHi, true) => ternary(src, |a, b, c| clamped(((read(a) * read(b)) >> BITS) + read(c))),
        (MadWide, false) if BITS < 64 => {
            ternary(src, |a, b, c| low(((read(a) * read(b)) as u64).wrapping_add(c), 2 * BITS))
        }
        (Div, false) => binary(src, |a, b| write(read(a).checked_div(read(b)).unwrap_or(-1))),
        (Rem, false) => binary(src, |a, b| write(read(a).checked_rem(read(b)).unwrap_or(read(a)))),
        (Min, false) if alu.float.relu => binary(src, |a, b| write(read(a).min(read(b)).max(0))),
        (Max, false) if alu.float.relu => binary(src, |a, b| write(read(a).max(read(b)).max(0))),
        (Min, false) => binary(src, |a, b| write(read(a).min(read(b)))),
        (Max, false) => binary(src, |a, b| write(read(a).max(read(b)))),
        (Neg, false) if SIGNED => unary(src, |a| write(-read(a))),
        (Abs, false) if SIGNED => unary(src, |a| write(read(a).abs())),
        (Sad, false) => ternary(src, |a, b, c| write((read(a) - read(b)).abs() + read(c))),
        _ => return None,
    })
}
