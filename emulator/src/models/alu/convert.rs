//! `cvt`: between integers, floating-point numbers and pairs of them.

use super::{Lanes, binary, float, low, unary};
use crate::ir::{Alu, Float, Reg, Rounding, Type};
use crate::models::convert::{Format, Round, bf16_bits, f16_bits};
use crate::models::number::Number;

#[derive(Clone, Copy)]
enum Kind {
    Integer { bits: u32, signed: bool },
    Scalar(Format),
    Pair(Format),
}

const fn kind(ty: Type) -> Option<Kind> {
    Some(match ty {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => Kind::Integer { bits: 8 * ty.bytes(), signed: false },
        Type::S8 | Type::S16 | Type::S32 | Type::S64 => Kind::Integer { bits: 8 * ty.bytes(), signed: true },
        Type::F16 => Kind::Scalar(Format::F16),
        Type::Bf16 => Kind::Scalar(Format::BF16),
        Type::F32 => Kind::Scalar(Format::F32),
        Type::Tf32 => Kind::Scalar(Format::TF32),
        Type::F64 => Kind::Scalar(Format::F64),
        Type::F16x2 => Kind::Pair(Format::F16),
        Type::Bf16x2 => Kind::Pair(Format::BF16),
        Type::E4m3x2 => Kind::Pair(Format::E4M3),
        Type::E5m2x2 => Kind::Pair(Format::E5M2),
        Type::Pred | Type::B8 | Type::B16 | Type::B32 | Type::B64 => return None,
    })
}

pub(super) fn evaluate(alu: &Alu, from: Type, src: &[Lanes; 4]) -> Option<Lanes> {
    use Kind::{Integer, Pair, Scalar};
    let round = Round::of(alu.float.rounding)?;
    let plain = alu.float == Float { rounding: Rounding::Rn, ..Float::default() };
    let single = |bits: u64| f32::from_bits(bits as u32);
    let narrow = !matches!(alu.dst, Reg::Wide(_));
    Some(match (kind(from)?, kind(alu.ty)?) {
        // What scores become on their way into the second product, and accumulators on their way out.
        (Scalar(Format::F32), Pair(Format::F16)) if plain => binary(src, |high, low| {
            (u32::from(f16_bits(single(high))) << 16 | u32::from(f16_bits(single(low)))).into()
        }),
        (Scalar(Format::F32), Pair(Format::BF16)) if plain => binary(src, |high, low| {
            (u32::from(bf16_bits(single(high))) << 16 | u32::from(bf16_bits(single(low)))).into()
        }),
        // Indices on their way to addresses, and 16-bit values on theirs to f32.
        (Integer { bits: 32, signed: false }, Integer { bits: 64, .. }) => unary(src, |a| low(a, 32)),
        (Integer { bits: 64, .. }, Integer { bits: 32, .. }) if !alu.float.saturate && narrow => {
            unary(src, |a| low(a, 32))
        }
        (Scalar(from @ (Format::F16 | Format::BF16)), Scalar(Format::F32))
            if alu.float == Float::default() =>
        {
            unary(src, |a| {
                let value = from.to_f64(a) as f32;
                if value.is_nan() { 0x7FFF_FFFF } else { value.to_bits().into() }
            })
        }
        (Integer { bits: from, signed: sign }, Integer { bits, signed }) => {
            let (least, most) = if alu.float.saturate { range(bits, signed) } else { (i128::MIN, i128::MAX) };
            unary(src, |a| register(alu, value(a, from, sign).clamp(least, most), bits, signed))
        }
        (Integer { bits, signed }, Scalar(to)) => {
            unary(src, |a| to_float(alu, Number::integer(value(a, bits, signed)), to, round))
        }
        (Scalar(from), Integer { bits, signed }) => {
            let (least, most) = range(bits, signed);
            // The sign bit where 64 bits are on either side.
            let nan = if from == Format::F64 || bits == 64 { 1 << (bits - 1) } else { 0 };
            unary(src, |a| {
                let integer = number(alu, from, a).to_integer(round, least, most);
                register(alu, integer.unwrap_or(nan), bits, signed)
            })
        }
        (Scalar(from), Scalar(to)) => unary(src, |a| {
            let number = number(alu, from, a);
            let whole =
                matches!(alu.float.rounding, Rounding::Rni | Rounding::Rzi | Rounding::Rmi | Rounding::Rpi);
            to_float(alu, if whole { number.rounded(round) } else { number }, to, round)
        }),
        (Scalar(from), Pair(to)) => {
            let convert = |a| to_float(alu, number(alu, from, a), to, round);
            binary(src, |high, low| convert(high) << to.bits() | convert(low))
        }
        (Pair(from), Pair(to)) => {
            let convert = |a| to_float(alu, number(alu, from, a), to, round);
            unary(src, |a| convert(a >> from.bits()) << to.bits() | convert(a))
        }
        (Integer { .. }, Pair(_)) | (Pair(_), Integer { .. } | Scalar(_)) => return None,
    })
}

fn value(a: u64, bits: u32, signed: bool) -> i128 {
    let shift = 64 - bits;
    if signed { ((a << shift).cast_signed() >> shift).into() } else { low(a, bits).into() }
}

/// A source as a number; `.ftz` is of f32 only.
fn number(alu: &Alu, from: Format, bits: u64) -> Number {
    from.decode(if alu.float.ftz && from == Format::F32 { from.flush(bits) } else { bits })
}

fn to_float(alu: &Alu, number: Number, to: Format, round: Round) -> u64 {
    let bits = to.encode(number, round, alu.float.satfinite);
    let ftz = alu.float.ftz && to == Format::F32;
    float::finish(&Alu { float: Float { ftz, ..alu.float }, ..*alu }, to, bits)
}

/// The range of an integer type.
const fn range(bits: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// An integer as a register has it: cut to its type, whose sign fills the register.
fn register(alu: &Alu, value: i128, bits: u32, signed: bool) -> u64 {
    let cut = value as u64;
    let register = if matches!(alu.dst, Reg::Wide(_)) { 64 } else { 32 };
    low(self::value(cut, bits, signed) as u64, register)
}
