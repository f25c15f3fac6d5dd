//! Arithmetic of one lane.

use super::{Operand, Reg};

/// Types of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A predicate.
    Pred,
    /// Untyped, 8 bits.
    B8,
    /// Untyped, 16 bits.
    B16,
    /// Untyped, 32 bits.
    B32,
    /// Untyped, 64 bits.
    B64,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 8 bits.
    S8,
    /// Signed, 16 bits.
    S16,
    /// Signed, 32 bits.
    S32,
    /// Signed, 64 bits.
    S64,
    /// binary16.
    F16,
    /// Two binary16, the first in the low half.
    F16x2,
    /// bfloat16.
    Bf16,
    /// Two bfloat16.
    Bf16x2,
    /// binary32.
    F32,
    /// TF32 in 32 bits.
    Tf32,
    /// binary64.
    F64,
    /// Two FP8 with 4 exponent bits, in 16 bits.
    E4m3x2,
    /// Two FP8 with 5 exponent bits, in 16 bits.
    E5m2x2,
}

impl Type {
    /// Bytes of a value in memory; a predicate has none.
    pub const fn bytes(self) -> u32 {
        match self {
            Type::Pred => 0,
            Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 | Type::E4m3x2 | Type::E5m2x2 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::Tf32 | Type::F16x2 | Type::Bf16x2 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
        }
    }

    /// Whether arithmetic takes the sign bit for a sign.
    pub const fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Whether it is a floating-point type, packed or not.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            Type::F16
                | Type::F16x2
                | Type::Bf16
                | Type::Bf16x2
                | Type::F32
                | Type::Tf32
                | Type::F64
                | Type::E4m3x2
                | Type::E5m2x2
        )
    }
}

/// Rounding of floating-point results, or to integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// None said: to nearest even.
    #[default]
    Default,
    /// `.rn`
    Rn,
    /// `.rna`: to nearest, ties away from zero.
    Rna,
    /// `.rz`
    Rz,
    /// `.rm`
    Rm,
    /// `.rp`
    Rp,
    /// `.rni`
    Rni,
    /// `.rzi`
    Rzi,
    /// `.rmi`
    Rmi,
    /// `.rpi`
    Rpi,
    /// `.approx`
    Approx,
    /// `.full`
    Full,
}

/// Modifiers of floating-point arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Float {
    /// Rounding.
    pub rounding: Rounding,
    /// `.ftz`: subnormal inputs and results are zero.
    pub ftz: bool,
    /// `.sat`: clamped to 0..1; of integers `add.sat`, of conversions to the range of the type.
    pub saturate: bool,
    /// `.satfinite`.
    pub satfinite: bool,
    /// `.relu`: negative results are zero.
    pub relu: bool,
    /// `.NaN`: NaN wins a minimum or maximum.
    pub nan: bool,
    /// `.abs`.
    pub abs: bool,
}

/// Comparisons of `setp` and `set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Eq,
    /// Unequal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Equal, or a NaN.
    Equ,
    /// Unequal, or a NaN.
    Neu,
    /// Less, or a NaN.
    Ltu,
    /// Less or equal, or a NaN.
    Leu,
    /// Greater, or a NaN.
    Gtu,
    /// Greater or equal, or a NaN.
    Geu,
    /// No NaN.
    Num,
    /// A NaN.
    Nan,
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AluOp {
    /// `mov`
    Mov,
    /// `add`
    Add,
    /// `sub`
    Sub,
    /// `mul.lo`, and of floats `mul`
    Mul,
    /// `mul.hi`
    MulHi,
    /// `mul.wide`: the result has twice the bits
    MulWide,
    /// `mad.lo`
    Mad,
    /// `mad.hi`
    MadHi,
    /// `mad.wide`
    MadWide,
    /// `fma`
    Fma,
    /// `div`
    Div,
    /// `rem`
    Rem,
    /// `min`
    Min,
    /// `max`
    Max,
    /// `neg`
    Neg,
    /// `abs`
    Abs,
    /// `and`
    And,
    /// `or`
    Or,
    /// `xor`
    Xor,
    /// `not`
    Not,
    /// `cnot`
    Cnot,
    /// `shl`
    Shl,
    /// `shr`
    Shr,
    /// `shf.l.wrap`
    FunnelLeftWrap,
    /// `shf.l.clamp`
    FunnelLeftClamp,
    /// `shf.r.wrap`
    FunnelRightWrap,
    /// `shf.r.clamp`
    FunnelRightClamp,
    /// `bfe`
    Bfe,
    /// `bfi`: a, b, c (start), d (length)
    Bfi,
    /// `brev`
    Brev,
    /// `clz`
    Clz,
    /// `popc`
    Popc,
    /// `bfind`
    Bfind,
    /// `lop3.b32` with its table
    Lop3(u8),
    /// `prmt.b32` in its default mode
    Prmt,
    /// `szext`-free sign games: `sad`
    Sad,
    /// `selp`: a where c is true, else b
    Selp,
    /// `setp`: whether a compares to b
    Setp(Compare),
    /// `set`: all ones (or 1.0) where a compares to b
    Set {
        /// The comparison.
        compare: Compare,
        /// Type of the sources.
        from: Type,
    },
    /// `copysign`: sign of a, magnitude of b
    Copysign,
    /// `testp` subset: `.finite`
    IsFinite,
    /// `rcp`
    Rcp,
    /// `sqrt`
    Sqrt,
    /// `rsqrt`
    Rsqrt,
    /// `ex2`
    Ex2,
    /// `lg2`
    Lg2,
    /// `sin`
    Sin,
    /// `cos`
    Cos,
    /// `tanh`
    Tanh,
    /// `cvt` from `from` to [`Alu::ty`]; two sources (the first is the upper half) if `ty` is packed and `from` is not
    Cvt {
        /// Type of the sources.
        from: Type,
    },
}

/// An arithmetic instruction: `dst = op(src)`, in each lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alu {
    /// What is computed.
    pub op: AluOp,
    /// Type of operands; for [`AluOp::Cvt`] and [`AluOp::Set`] of the result.
    pub ty: Type,
    /// Floating-point modifiers.
    pub float: Float,
    /// Where the result goes.
    pub dst: Reg,
    /// Second result of `setp p|q`: the negation.
    pub dst2: Option<Reg>,
    /// Sources; unused ones are `Imm(0)`.
    pub src: [Operand; 4],
    /// How many sources there are.
    pub sources: u8,
    /// `setp.cmp.bool`: how the comparison is combined with the last source, a predicate.
    pub combine: Option<Combine>,
}

/// How a comparison is combined with a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combine {
    /// `And`, `Or` or `Xor`.
    pub op: AluOp,
    /// Whether the predicate (last source) is negated.
    pub negated: bool,
}
