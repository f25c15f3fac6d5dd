//! Which modifiers an operation may have with which type: PTX ISA, by instruction.

use crate::ir::Rounding::{self, Approx, Default, Full, Rm, Rmi, Rn, Rna, Rni, Rp, Rpi, Rz, Rzi};
use crate::ir::{Alu, AluOp, Float, Type};

/// Roundings and flags that an instruction may have.
type Allowed = (&'static [Rounding], Float);

const PLAIN: Float = Float {
    rounding: Default,
    ftz: false,
    saturate: false,
    satfinite: false,
    relu: false,
    nan: false,
    abs: false,
};
const FTZ: Float = Float { ftz: true, ..PLAIN };
const SATURATE: Float = Float { saturate: true, ..PLAIN };
const RELU: Float = Float { relu: true, ..PLAIN };
const FTZ_SATURATE: Float = Float { ftz: true, ..SATURATE };

const NONE: &[Rounding] = &[Default];
const NEAREST: &[Rounding] = &[Default, Rn];
const ANY: &[Rounding] = &[Default, Rn, Rz, Rm, Rp];
const EXPLICIT: &[Rounding] = &[Rn, Rz, Rm, Rp];
const TO_INTEGER: &[Rounding] = &[Rni, Rzi, Rmi, Rpi];

/// Whether the modifiers and the number of sources of an instruction are those of the ISA.
pub(super) fn are_known(alu: &Alu) -> bool {
    let Some((roundings, flags)) = allowed(alu) else { return false };
    let float = &alu.float;
    let asked = [
        (float.ftz, flags.ftz),
        (float.saturate, flags.saturate),
        (float.satfinite, flags.satfinite),
        (float.relu, flags.relu),
        (float.nan, flags.nan),
        (float.abs, flags.abs),
    ];
    let fp8 = matches!(alu.op, AluOp::Cvt { .. }) && matches!(alu.ty, Type::E4m3x2 | Type::E5m2x2);
    roundings.contains(&float.rounding)
        && asked.into_iter().all(|(asked, allowed)| allowed || !asked)
        && !(float.saturate && float.relu)
        && (float.satfinite || !fp8)
        && alu.sources == sources(alu)
        && (matches!(alu.op, AluOp::Setp(_)) || alu.combine.is_none() && alu.dst2.is_none())
}

fn sources(alu: &Alu) -> u8 {
    use AluOp::*;
    match alu.op {
        Mov | Neg | Abs | Not | Cnot | Brev | Clz | Popc | Bfind | IsFinite => 1,
        Rcp | Sqrt | Rsqrt | Ex2 | Lg2 | Sin | Cos | Tanh => 1,
        Add | Sub | Mul | MulHi | MulWide | Div | Rem | Min | Max | And | Or | Xor | Shl | Shr => 2,
        Set { .. } | Copysign => 2,
        Mad | MadHi | MadWide | Fma | Bfe | Lop3(_) | Prmt | Sad | Selp => 3,
        FunnelLeftWrap | FunnelLeftClamp | FunnelRightWrap | FunnelRightClamp => 3,
        Bfi => 4,
        Setp(_) => 2 + u8::from(alu.combine.is_some()),
        Cvt { from } => 1 + u8::from(is_packed(alu.ty) && !is_packed(from)),
    }
}

fn is_packed(ty: Type) -> bool {
    matches!(ty, Type::F16x2 | Type::Bf16x2 | Type::E4m3x2 | Type::E5m2x2)
}

fn allowed(alu: &Alu) -> Option<Allowed> {
    use AluOp::*;
    if let Cvt { from } = alu.op {
        return conversion(from, alu.ty);
    }
    Some(match (alu.op, alu.ty) {
        (Add | Sub | Mul, Type::F32) => (ANY, FTZ_SATURATE),
        (Add | Sub | Mul, Type::F64) => (ANY, PLAIN),
        (Add | Sub | Mul, Type::F16 | Type::F16x2) => (NEAREST, FTZ_SATURATE),
        (Add | Sub | Mul, Type::Bf16 | Type::Bf16x2) => (NEAREST, PLAIN),
        (Add | Sub | MadHi, Type::S32) => (NONE, SATURATE),
        (Fma, Type::F32) => (EXPLICIT, FTZ_SATURATE),
        (Fma, Type::F64) => (EXPLICIT, PLAIN),
        (Fma, Type::F16 | Type::F16x2) => (&[Rn], Float { relu: true, ..FTZ_SATURATE }),
        (Fma, Type::Bf16 | Type::Bf16x2) => (&[Rn], RELU),
        (Div, Type::F32) => (&[Rn, Rz, Rm, Rp, Approx, Full], FTZ),
        (Rcp | Sqrt, Type::F32) => (&[Rn, Rz, Rm, Rp, Approx], FTZ),
        (Div | Rcp | Sqrt, Type::F64) => (EXPLICIT, PLAIN),
        (Rsqrt | Lg2 | Sin | Cos | Ex2, Type::F32) => (&[Approx], FTZ),
        (Ex2, Type::F16 | Type::F16x2) => (&[Approx], PLAIN),
        (Ex2, Type::Bf16 | Type::Bf16x2) => (&[Approx], FTZ),
        (Tanh, _) => (&[Approx], PLAIN),
        (Min | Max, Type::F32 | Type::F16 | Type::F16x2) => (NONE, Float { nan: true, ..FTZ }),
        (Min | Max, Type::Bf16 | Type::Bf16x2) => (NONE, Float { nan: true, ..PLAIN }),
        (Min | Max, Type::S32) => (NONE, RELU),
        (Neg | Abs | Setp(_), Type::F32 | Type::F16 | Type::F16x2) => (NONE, FTZ),
        (Set { from: Type::F32, .. }, _) => (NONE, FTZ),
        _ => (NONE, PLAIN),
    })
}

/// `cvt`. A flush is of f32 values only, on either side.
fn conversion(from: Type, to: Type) -> Option<Allowed> {
    let single = from == Type::F32 || to == Type::F32;
    let general = Float { saturate: true, ftz: single, ..PLAIN };
    let finite = Float { satfinite: true, ..RELU };
    Some(match (from, to) {
        (Type::F32, Type::F16x2 | Type::Bf16x2 | Type::Bf16) => (&[Rn, Rz], finite),
        (Type::F32, Type::F16) => (EXPLICIT, Float { satfinite: true, relu: true, ..general }),
        (Type::F32, Type::Tf32) => (&[Rna, Rn, Rz], finite),
        (Type::F32 | Type::F16x2, Type::E4m3x2 | Type::E5m2x2) => (&[Rn], finite),
        (Type::E4m3x2 | Type::E5m2x2, Type::F16x2) => (&[Rn], RELU),
        _ if is_packed(from) || is_packed(to) || from == Type::Tf32 || to == Type::Tf32 => return None,
        _ if !from.is_float() && !to.is_float() => (NONE, SATURATE),
        _ if !from.is_float() => (EXPLICIT, general),
        _ if !to.is_float() => (TO_INTEGER, general),
        _ if from == to => (&[Default, Rni, Rzi, Rmi, Rpi], general),
        // Every narrower number is a wider one.
        _ if from.bytes() < to.bytes() => (NONE, general),
        _ => (EXPLICIT, general),
    })
}
