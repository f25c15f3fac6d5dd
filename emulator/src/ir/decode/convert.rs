//! `cvt`

use super::line::{Line, Result};
use super::{Decoder, alu};
use crate::ir::Type::{self, *};
use crate::ir::{AluOp, Float, Op, Operand, Reg, Rounding};

pub(super) const OPCODES: &[(&str, Decoder)] = &[("cvt", cvt)];

const ROUNDINGS: &[(&str, Rounding)] = &[
    ("rn", Rounding::Rn),
    ("rna", Rounding::Rna),
    ("rz", Rounding::Rz),
    ("rm", Rounding::Rm),
    ("rp", Rounding::Rp),
    ("rni", Rounding::Rni),
    ("rzi", Rounding::Rzi),
    ("rmi", Rounding::Rmi),
    ("rpi", Rounding::Rpi),
];

/// What a conversion does about rounding.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// It is exact, or between integers.
    None,
    /// To an integer.
    Integer,
    /// To an integer, or not at all: a float of the same type.
    MaybeInteger,
    /// To a float of fewer bits.
    Float,
    /// One of these.
    Only(&'static [Rounding]),
}

/// The rule for a pair of types; absent if there is no such conversion.
fn rule(to: Type, from: Type) -> Option<Rule> {
    const SCALAR_INTEGERS: &[Type] = &[U8, U16, U32, U64, S8, S16, S32, S64];
    const NEAREST: &[Rounding] = &[Rounding::Rn];
    const NEAREST_OR_ZERO: &[Rounding] = &[Rounding::Rn, Rounding::Rz];
    const TF32: &[Rounding] = &[Rounding::Rn, Rounding::Rz, Rounding::Rna];
    let integer = |ty: Type| SCALAR_INTEGERS.contains(&ty);
    let float = |ty: Type| matches!(ty, F16 | Bf16 | F32 | F64);
    Some(match (to, from) {
        _ if integer(to) && integer(from) => Rule::None,
        _ if integer(to) && float(from) => Rule::Integer,
        (Bf16, _) if integer(from) => Rule::Only(NEAREST),
        _ if float(to) && integer(from) => Rule::Float,
        (Bf16, F16) | (F16, Bf16) => return None,
        (Bf16, F32) => Rule::Only(NEAREST_OR_ZERO),
        _ if to == from && float(to) => Rule::MaybeInteger,
        _ if float(to) && float(from) && to.bytes() < from.bytes() => Rule::Float,
        _ if float(to) && float(from) => Rule::None,
        (F16x2 | Bf16x2, F32) => Rule::Only(NEAREST_OR_ZERO),
        (Tf32, F32) => Rule::Only(TF32),
        (E4m3x2 | E5m2x2, F32 | F16x2) | (F16x2, E4m3x2 | E5m2x2) => Rule::Only(NEAREST),
        _ => return None,
    })
}

fn cvt(line: &mut Line) -> Result<Op> {
    let before_rounding = line.mark();
    let rounding = line.pick(ROUNDINGS);
    let mut float = Float { rounding: rounding.unwrap_or_default(), ..Float::default() };
    let before_flags = line.mark();
    float.ftz = line.flag("ftz");
    float.saturate = line.flag("sat");
    // The two orders that the ISA writes.
    float.relu = line.flag("relu");
    float.satfinite = line.flag("satfinite");
    float.relu |= !float.relu && line.flag("relu");
    let before_types = line.mark();
    let to = line.any_ty()?;
    let before_from = line.mark();
    let from = line.any_ty()?;
    let Some(rule) = rule(to, from) else {
        line.back_to(before_from);
        return line.wrong_modifier("");
    };

    let rounded = match (rule, rounding) {
        (Rule::None | Rule::MaybeInteger, None) => true,
        (Rule::Integer | Rule::MaybeInteger, Some(rounding)) => {
            matches!(rounding, Rounding::Rni | Rounding::Rzi | Rounding::Rmi | Rounding::Rpi)
        }
        (Rule::Float, Some(rounding)) => {
            matches!(rounding, Rounding::Rn | Rounding::Rz | Rounding::Rm | Rounding::Rp)
        }
        (Rule::Only(allowed), Some(rounding)) => allowed.contains(&rounding),
        (_, None) => return line.missing("a rounding"),
        (Rule::None, Some(_)) => false,
    };
    if !rounded {
        line.back_to(before_rounding);
        return line.wrong_modifier("");
    }
    if !flags_fit(float, to, from) {
        line.back_to(before_flags);
        return line.wrong_modifier("");
    }
    if matches!(to, E4m3x2 | E5m2x2) && !float.satfinite {
        line.back_to(before_types);
        return line.missing(".satfinite");
    }

    let dst = result(line, to)?;
    let two = matches!(to, F16x2 | Bf16x2 | E4m3x2 | E5m2x2) && from == F32;
    let src: Vec<_> = (0..1 + usize::from(two)).map(|_| source(line, from)).collect::<Result<_>>()?;
    Ok(alu(AluOp::Cvt { from }, to, float, dst, &src))
}

/// `.ftz` is about f32, `.sat` about ranges, `.relu` and `.satfinite` belong to the narrow floats.
fn flags_fit(float: Float, to: Type, from: Type) -> bool {
    let scalar = |ty: Type| !matches!(ty, F16x2 | Bf16x2 | Tf32 | E4m3x2 | E5m2x2);
    let plain = scalar(to) && scalar(from);
    let narrow = matches!(to, F16 | Bf16 | F16x2 | Bf16x2 | Tf32 | E4m3x2 | E5m2x2) && from.is_float();
    (!float.ftz || plain && (to == F32 || from == F32))
        && (!float.saturate || plain && to != Bf16)
        && (!float.relu || narrow)
        && (!float.satfinite || narrow && (from == F32 || matches!(to, E4m3x2 | E5m2x2)))
}

/// Where the result goes. Of integers the register may be wider, if it gets zeros: how far a sign would go the
/// decoded form cannot say.
fn result(line: &mut Line, ty: Type) -> Result<Reg> {
    let wider: &[Type] = match ty {
        U8 => &[B16, B32],
        U16 => &[B32],
        _ => &[],
    };
    match line.declared_next(wider) {
        Some(reg) => Ok(reg),
        None => line.dst(ty),
    }
}

/// A source. Of integers the register may be wider: its low bits count.
fn source(line: &mut Line, ty: Type) -> Result<Operand> {
    let wider: &[Type] = match ty {
        U8 | S8 => &[B16, B32],
        U16 | S16 => &[B32],
        _ => &[],
    };
    match line.declared_next(wider) {
        Some(reg) => Ok(Operand::Reg(reg)),
        None => line.src(ty),
    }
}
