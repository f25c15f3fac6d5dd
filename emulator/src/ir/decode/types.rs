//! Names of types.

use crate::ir::Type;

/// Every type, by the name that PTX gives it.
pub(super) const TYPES: &[(&str, Type)] = &[
    ("pred", Type::Pred),
    ("b8", Type::B8),
    ("b16", Type::B16),
    ("b32", Type::B32),
    ("b64", Type::B64),
    ("u8", Type::U8),
    ("u16", Type::U16),
    ("u32", Type::U32),
    ("u64", Type::U64),
    ("s8", Type::S8),
    ("s16", Type::S16),
    ("s32", Type::S32),
    ("s64", Type::S64),
    ("f16", Type::F16),
    ("f16x2", Type::F16x2),
    ("bf16", Type::Bf16),
    ("bf16x2", Type::Bf16x2),
    ("f32", Type::F32),
    ("tf32", Type::Tf32),
    ("f64", Type::F64),
    ("e4m3x2", Type::E4m3x2),
    ("e5m2x2", Type::E5m2x2),
];

/// Types that a register can be declared with.
pub(super) const REGISTER_TYPES: &[Type] = {
    use Type::*;
    &[Pred, B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F16, F16x2, F32, F64]
};

/// The name of a type.
pub(super) fn type_name(ty: Type) -> &'static str {
    TYPES.iter().find(|(_, other)| *other == ty).map_or("", |(name, _)| name)
}

/// Whether a register declared as `declared` may stand where an instruction of type `needed` has an operand: sizes
/// are equal, and only untyped bits go with both integers and floats.
pub(super) fn fits(declared: Type, needed: Type) -> bool {
    let is_bits = |ty| matches!(ty, Type::B8 | Type::B16 | Type::B32 | Type::B64);
    if declared == Type::Pred || needed == Type::Pred {
        return declared == needed;
    }
    let kinds_agree = is_bits(declared) || is_bits(needed) || declared.is_float() == needed.is_float();
    declared.bytes() == needed.bytes() && kinds_agree
}
