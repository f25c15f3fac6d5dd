//! Operations on bits, whatever they mean.

use std::array;

use super::{Lanes, binary, low, ternary, unary};
use crate::ir::{AluOp, Type};

/// Whether this file knows the operation.
pub(super) const fn has(op: AluOp) -> bool {
    use AluOp::*;
    matches!(
        op,
        Mov | Selp
            | And
            | Or
            | Xor
            | Not
            | Cnot
            | Shl
            | Shr
            | Brev
            | Clz
            | Popc
            | Bfind
            | Bfe
            | Bfi
            | Prmt
            | Lop3(_)
    ) || matches!(op, FunnelLeftWrap | FunnelLeftClamp | FunnelRightWrap | FunnelRightClamp)
}

pub(super) fn evaluate(op: AluOp, ty: Type, src: &[Lanes; 4]) -> Option<Lanes> {
    use AluOp::*;
    let width = if ty == Type::Pred { 1 } else { 8 * ty.bytes() };
    let of_bits = matches!(ty, Type::B16 | Type::B32 | Type::B64);
    let scalar = of_bits
        || matches!(ty, Type::U16 | Type::U32 | Type::U64 | Type::S16 | Type::S32 | Type::S64)
        || matches!(ty, Type::F32 | Type::F64);
    let wide = matches!(ty, Type::B32 | Type::B64);
    let number = matches!(ty, Type::U32 | Type::U64 | Type::S32 | Type::S64);
    Some(match op {
        Mov if scalar || ty == Type::Pred => unary(src, |a| low(a, width)),
        Selp if scalar => ternary(src, |a, b, c| low(if c != 0 { a } else { b }, width)),
        And if of_bits || ty == Type::Pred => binary(src, |a, b| low(a & b, width)),
        Or if of_bits || ty == Type::Pred => binary(src, |a, b| low(a | b, width)),
        Xor if of_bits || ty == Type::Pred => binary(src, |a, b| low(a ^ b, width)),
        Not if of_bits || ty == Type::Pred => unary(src, |a| low(!a, width)),
        Cnot if of_bits => unary(src, |a| u64::from(low(a, width) == 0)),
        Shl if of_bits => binary(src, |a, n| low(a.unbounded_shl(n as u32), width)),
        Shr if ty.is_signed() && scalar => {
            binary(src, |a, n| low((extended(a, width) >> (n as u32).min(63)).cast_unsigned(), width))
        }
        Shr if scalar && !ty.is_float() => binary(src, |a, n| low(a, width).unbounded_shr(n as u32)),
        Brev if wide => unary(src, |a| a.reverse_bits() >> (64 - width)),
        Clz if wide => unary(src, |a| (low(a, width).leading_zeros() - (64 - width)).into()),
        Popc if wide => unary(src, |a| low(a, width).count_ones().into()),
        Bfind if number && ty.is_signed() => unary(src, |a| {
            let a = extended(a, width);
            find((a ^ a >> 63).cast_unsigned())
        }),
        Bfind if number => unary(src, |a| find(low(a, width))),
        Bfe if number => ternary(src, |a, start, length| extract(a, start, length, width, ty.is_signed())),
        Bfi if wide => {
            array::from_fn(|lane| insert(src[0][lane], src[1][lane], src[2][lane], src[3][lane], width))
        }
        Lop3(table) if ty == Type::B32 => ternary(src, |a, b, c| low(lookup(table, a, b, c), 32)),
        Prmt if ty == Type::B32 => ternary(src, permute),
        FunnelLeftWrap if ty == Type::B32 => ternary(src, |a, b, n| funnel_left(a, b, n & 31)),
        FunnelLeftClamp if ty == Type::B32 => ternary(src, |a, b, n| funnel_left(a, b, low(n, 32).min(32))),
        FunnelRightWrap if ty == Type::B32 => ternary(src, |a, b, n| funnel_right(a, b, n & 31)),
        FunnelRightClamp if ty == Type::B32 => ternary(src, |a, b, n| funnel_right(a, b, low(n, 32).min(32))),
        _ => return None,
    })
}

/// The low `width` bits as a signed number.
const fn extended(bits: u64, width: u32) -> i64 {
    (bits << (64 - width)).cast_signed() >> (64 - width)
}

/// Position of the highest bit, all ones if there is none.
const fn find(value: u64) -> u64 {
    low(63u32.wrapping_sub(value.leading_zeros()) as u64, 32)
}

/// `bfe`: bits `start` and up, the last one is the sign; bits beyond the top are the sign of the whole.
fn extract(a: u64, start: u64, length: u64, width: u32, signed: bool) -> u64 {
    let (start, length) = (start as u32 & 0xFF, length as u32 & 0xFF);
    if length == 0 {
        return 0;
    }
    let value = low(a, width).unbounded_shr(start);
    let kept = length.min(width.saturating_sub(start));
    let field = if kept == 0 { 0 } else { low(value, kept) };
    let sign = signed && a >> (start + length - 1).min(width - 1) & 1 == 1;
    low(if sign { field | u64::MAX.unbounded_shl(kept) } else { field }, width)
}

/// `bfi`: `b` with the low bits of `a` at `start` and up.
fn insert(a: u64, b: u64, start: u64, length: u64, width: u32) -> u64 {
    let (start, length) = (start as u32 & 0xFF, length as u32 & 0xFF);
    let mask = (!u64::MAX.unbounded_shl(length)).unbounded_shl(start);
    low(b & !mask | a.unbounded_shl(start) & mask, width)
}

/// `lop3`: bit `4a + 2b + c` of the table.
fn lookup(table: u8, a: u64, b: u64, c: u64) -> u64 {
    let chosen = |entry: u8, x: u64| if entry == 1 { x } else { !x };
    (0..8)
        .filter(|row| table >> row & 1 == 1)
        .map(|row| chosen(row >> 2, a) & chosen(row >> 1 & 1, b) & chosen(row & 1, c))
        .fold(0, |all, one| all | one)
}

/// `prmt`: each nibble of `c` picks a byte of `b:a`, or with its highest bit the byte's sign.
fn permute(a: u64, b: u64, c: u64) -> u64 {
    let bytes = (low(a, 32) | b << 32).to_le_bytes();
    let picked = array::from_fn(|i| {
        let nibble = (c >> (4 * i)) as usize & 15;
        let byte = bytes[nibble & 7];
        if nibble < 8 { byte } else { (byte.cast_signed() >> 7).cast_unsigned() }
    });
    u32::from_le_bytes(picked).into()
}

/// The upper half of `b:a` shifted left.
fn funnel_left(a: u64, b: u64, n: u64) -> u64 {
    (low(a, 32) | b << 32) << n >> 32
}

/// The lower half of `b:a` shifted right.
fn funnel_right(a: u64, b: u64, n: u64) -> u64 {
    low((low(a, 32) | b << 32) >> n, 32)
}
