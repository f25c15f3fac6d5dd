//! Arithmetic whose sources have the type of the result: `add`, `mul`, `fma`, `ex2`, ...
//!
//! An opcode is a table of forms. A form says for which types which roundings and flags may be written.

use super::line::{Line, Result};
use super::{Decoder, alu};
use crate::ir::Type::{self, *};
use crate::ir::{AluOp, Float, Op, Rounding};

/// Types with the modifiers that they allow.
struct Form {
    types: &'static [Type],
    rounding: Rule,
    flags: &'static [Flag],
}

/// Which roundings may be written.
#[derive(Clone, Copy)]
enum Rule {
    Never,
    May(&'static [Rounding]),
    Must(&'static [Rounding]),
}

#[derive(Clone, Copy, PartialEq)]
enum Flag {
    Ftz,
    Sat,
    Relu,
    Nan,
}

use Flag::{Ftz, Nan, Relu, Sat};
use Rule::{May, Must, Never};

const fn form(types: &'static [Type], rounding: Rule, flags: &'static [Flag]) -> Form {
    Form { types, rounding, flags }
}

const IEEE: &[Rounding] = &[Rounding::Rn, Rounding::Rz, Rounding::Rm, Rounding::Rp];
const NEAREST: &[Rounding] = &[Rounding::Rn];
const APPROX: &[Rounding] = &[Rounding::Approx];
const APPROX_OR_IEEE: &[Rounding] =
    &[Rounding::Approx, Rounding::Rn, Rounding::Rz, Rounding::Rm, Rounding::Rp];
const DIVISION: &[Rounding] =
    &[Rounding::Approx, Rounding::Full, Rounding::Rn, Rounding::Rz, Rounding::Rm, Rounding::Rp];

const INTEGERS: Form = form(&[U16, U32, U64, S16, S32, S64], Never, &[]);

static ADD: &[Form] = &[
    form(&[U16, U32, U64, S16, S64], Never, &[]),
    form(&[S32], Never, &[Sat]),
    form(&[F32], May(IEEE), &[Ftz, Sat]),
    form(&[F64], May(IEEE), &[]),
    form(&[F16, F16x2], May(NEAREST), &[Ftz, Sat]),
    form(&[Bf16, Bf16x2], May(NEAREST), &[]),
];
static MUL: &[Form] = &[
    form(&[F32], May(IEEE), &[Ftz, Sat]),
    form(&[F64], May(IEEE), &[]),
    form(&[F16, F16x2], May(NEAREST), &[Ftz, Sat]),
    form(&[Bf16, Bf16x2], May(NEAREST), &[]),
];
static FMA: &[Form] = &[
    form(&[F32], Must(IEEE), &[Ftz, Sat]),
    form(&[F64], Must(IEEE), &[]),
    form(&[F16, F16x2], Must(NEAREST), &[Ftz, Sat, Relu]),
    form(&[Bf16, Bf16x2], Must(NEAREST), &[Relu]),
];
static MAD: &[Form] = &[form(&[F32], Must(IEEE), &[Ftz, Sat]), form(&[F64], Must(IEEE), &[])];
static DIV: &[Form] = &[INTEGERS, form(&[F32], Must(DIVISION), &[Ftz]), form(&[F64], Must(IEEE), &[])];
static REM: &[Form] = &[INTEGERS];
static MIN_MAX: &[Form] = &[
    form(&[U16, U32, U64, S16, S64], Never, &[]),
    form(&[S32], Never, &[Relu]),
    form(&[F32, F16, F16x2], Never, &[Ftz, Nan]),
    form(&[Bf16, Bf16x2], Never, &[Nan]),
    form(&[F64], Never, &[]),
];
static NEG_ABS: &[Form] =
    &[form(&[S16, S32, S64, F64, Bf16, Bf16x2], Never, &[]), form(&[F32, F16, F16x2], Never, &[Ftz])];
static RECIPROCAL_ROOT: &[Form] =
    &[form(&[F32], Must(APPROX_OR_IEEE), &[Ftz]), form(&[F64], Must(IEEE), &[])];
static APPROXIMATE: &[Form] = &[form(&[F32], Must(APPROX), &[Ftz])];
static EX2: &[Form] =
    &[form(&[F32, Bf16, Bf16x2], Must(APPROX), &[Ftz]), form(&[F16, F16x2], Must(APPROX), &[])];
static TANH: &[Form] = &[form(&[F32, F16, F16x2, Bf16, Bf16x2], Must(APPROX), &[])];
static MAD_HI: &[Form] = &[form(&[U16, U32, U64, S16, S64], Never, &[]), form(&[S32], Never, &[Sat])];
static WIDE: &[Form] = &[form(&[U16, U32, S16, S32], Never, &[])];
static PLAIN: &[Form] = &[INTEGERS];
static COPYSIGN: &[Form] = &[form(&[F32, F64], Never, &[])];

pub(super) const OPCODES: &[(&str, Decoder)] = &[
    ("add", |line| same(line, AluOp::Add, ADD, 2)),
    ("sub", |line| same(line, AluOp::Sub, ADD, 2)),
    ("mul", |line| match line.pick(&[("lo", AluOp::Mul), ("hi", AluOp::MulHi)]) {
        Some(op) => same(line, op, PLAIN, 2),
        None if line.flag("wide") => wide(line, AluOp::MulWide),
        None => same(line, AluOp::Mul, MUL, 2),
    }),
    ("mad", |line| match line.pick(&[("lo", AluOp::Mad), ("hi", AluOp::MadHi)]) {
        Some(AluOp::MadHi) => same(line, AluOp::MadHi, MAD_HI, 3),
        Some(op) => same(line, op, PLAIN, 3),
        None if line.flag("wide") => wide(line, AluOp::MadWide),
        None => same(line, AluOp::Fma, MAD, 3),
    }),
    ("fma", |line| same(line, AluOp::Fma, FMA, 3)),
    ("div", |line| same(line, AluOp::Div, DIV, 2)),
    ("rem", |line| same(line, AluOp::Rem, REM, 2)),
    ("min", |line| same(line, AluOp::Min, MIN_MAX, 2)),
    ("max", |line| same(line, AluOp::Max, MIN_MAX, 2)),
    ("neg", |line| same(line, AluOp::Neg, NEG_ABS, 1)),
    ("abs", |line| same(line, AluOp::Abs, NEG_ABS, 1)),
    ("sad", |line| same(line, AluOp::Sad, PLAIN, 3)),
    ("copysign", |line| same(line, AluOp::Copysign, COPYSIGN, 2)),
    ("rcp", |line| same(line, AluOp::Rcp, RECIPROCAL_ROOT, 1)),
    ("sqrt", |line| same(line, AluOp::Sqrt, RECIPROCAL_ROOT, 1)),
    ("rsqrt", |line| same(line, AluOp::Rsqrt, APPROXIMATE, 1)),
    ("ex2", |line| same(line, AluOp::Ex2, EX2, 1)),
    ("lg2", |line| same(line, AluOp::Lg2, APPROXIMATE, 1)),
    ("sin", |line| same(line, AluOp::Sin, APPROXIMATE, 1)),
    ("cos", |line| same(line, AluOp::Cos, APPROXIMATE, 1)),
    ("tanh", |line| same(line, AluOp::Tanh, TANH, 1)),
];

/// An instruction whose sources have the type of the result.
fn same(line: &mut Line, op: AluOp, forms: &[Form], sources: usize) -> Result<Op> {
    let (ty, float) = typed(line, forms)?;
    let dst = line.dst(ty)?;
    let src: Vec<_> = (0..sources).map(|_| line.src(ty)).collect::<Result<_>>()?;
    Ok(alu(op, ty, float, dst, &src))
}

/// A product with twice the bits of its factors.
fn wide(line: &mut Line, op: AluOp) -> Result<Op> {
    let (ty, float) = typed(line, WIDE)?;
    let double = match ty {
        U16 => U32,
        S16 => S32,
        U32 => U64,
        _ => S64,
    };
    let dst = line.dst(double)?;
    let mut src = vec![line.src(ty)?, line.src(ty)?];
    if op == AluOp::MadWide {
        src.push(line.src(double)?);
    }
    Ok(alu(op, ty, float, dst, &src))
}

const ROUNDINGS: &[(&str, Rounding)] = &[
    ("rn", Rounding::Rn),
    ("rz", Rounding::Rz),
    ("rm", Rounding::Rm),
    ("rp", Rounding::Rp),
    ("approx", Rounding::Approx),
    ("full", Rounding::Full),
];
const FLAGS: &[(&str, Flag)] = &[("ftz", Ftz), ("sat", Sat), ("relu", Relu), ("NaN", Nan)];

/// Rounding, flags and type, as one of the forms has them.
fn typed(line: &mut Line, forms: &[Form]) -> Result<(Type, Float)> {
    // The type comes last, so what may stand before it is known only when it is.
    let start = line.mark();
    line.pick(ROUNDINGS);
    while line.pick(FLAGS).is_some() {}
    let form = line.peek_ty().and_then(|ty| forms.iter().find(|form| form.types.contains(&ty)));
    let Some(form) = form else { return line.wrong_modifier("a type") };

    line.back_to(start);
    let mut float = Float::default();
    let allowed = match form.rounding {
        Never => &[],
        May(allowed) | Must(allowed) => allowed,
    };
    let before = line.mark();
    match line.pick(ROUNDINGS) {
        Some(rounding) if allowed.contains(&rounding) => float.rounding = rounding,
        Some(_) => {
            line.back_to(before);
            return line.wrong_modifier("");
        }
        None if matches!(form.rounding, Must(_)) => {
            return line.missing("a rounding such as .rn or .approx");
        }
        None => {}
    }
    loop {
        let before = line.mark();
        let Some(flag) = line.pick(FLAGS) else { break };
        if !form.flags.contains(&flag) || std::mem::replace(flag_of(&mut float, flag), true) {
            line.back_to(before);
            return line.wrong_modifier("");
        }
    }
    Ok((line.ty(form.types)?, float))
}

fn flag_of(float: &mut Float, flag: Flag) -> &mut bool {
    match flag {
        Ftz => &mut float.ftz,
        Sat => &mut float.saturate,
        Relu => &mut float.relu,
        Nan => &mut float.nan,
    }
}
