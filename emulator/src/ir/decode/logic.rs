//! Bits, comparisons and selections.

use super::line::{Line, Result};
use super::{Decoder, alu};
use crate::ir::Type::{self, *};
use crate::ir::{Alu, AluOp, Combine, Compare, Float, Op, Operand, Reg};

const BITS: &[Type] = &[B16, B32, B64];
const WORDS: &[Type] = &[B32, B64];
const FIELDS: &[Type] = &[U32, U64, S32, S64];

pub(super) const OPCODES: &[(&str, Decoder)] = &[
    ("and", |line| bitwise(line, AluOp::And, 2)),
    ("or", |line| bitwise(line, AluOp::Or, 2)),
    ("xor", |line| bitwise(line, AluOp::Xor, 2)),
    ("not", |line| bitwise(line, AluOp::Not, 1)),
    ("cnot", |line| typed(line, AluOp::Cnot, BITS, |ty| (ty, vec![ty]))),
    ("shl", |line| typed(line, AluOp::Shl, BITS, |ty| (ty, vec![ty, U32]))),
    ("shr", |line| {
        let types = &[B16, B32, B64, U16, U32, U64, S16, S32, S64];
        typed(line, AluOp::Shr, types, |ty| (ty, vec![ty, U32]))
    }),
    ("shf", funnel),
    ("bfe", |line| typed(line, AluOp::Bfe, FIELDS, |ty| (ty, vec![ty, U32, U32]))),
    ("bfi", |line| typed(line, AluOp::Bfi, WORDS, |ty| (ty, vec![ty, ty, U32, U32]))),
    ("brev", |line| typed(line, AluOp::Brev, WORDS, |ty| (ty, vec![ty]))),
    ("clz", |line| typed(line, AluOp::Clz, WORDS, |ty| (U32, vec![ty]))),
    ("popc", |line| typed(line, AluOp::Popc, WORDS, |ty| (U32, vec![ty]))),
    ("bfind", |line| typed(line, AluOp::Bfind, FIELDS, |ty| (U32, vec![ty]))),
    ("lop3", lop3),
    ("prmt", |line| typed(line, AluOp::Prmt, &[B32], |ty| (ty, vec![ty, ty, ty]))),
    ("selp", |line| {
        let types = &[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64];
        typed(line, AluOp::Selp, types, |ty| (ty, vec![ty, ty, Pred]))
    }),
    ("setp", setp),
    ("set", set),
    ("testp", |line| {
        line.must("finite")?;
        typed(line, AluOp::IsFinite, &[F32, F64], |ty| (Pred, vec![ty]))
    }),
];

/// An instruction without modifiers but its type; `operands` gives the types of the result and of the sources.
fn typed(
    line: &mut Line,
    op: AluOp,
    types: &[Type],
    operands: impl Fn(Type) -> (Type, Vec<Type>),
) -> Result<Op> {
    let ty = line.ty(types)?;
    let (result, sources) = operands(ty);
    let dst = line.dst(result)?;
    let src: Vec<_> = sources.into_iter().map(|ty| line.src(ty)).collect::<Result<_>>()?;
    Ok(alu(op, ty, Float::default(), dst, &src))
}

fn bitwise(line: &mut Line, op: AluOp, sources: usize) -> Result<Op> {
    typed(line, op, &[Pred, B16, B32, B64], |ty| (ty, vec![ty; sources]))
}

fn funnel(line: &mut Line) -> Result<Op> {
    let left = line.need(&[("l", true), ("r", false)])?;
    let wraps = line.need(&[("wrap", true), ("clamp", false)])?;
    let op = match (left, wraps) {
        (true, true) => AluOp::FunnelLeftWrap,
        (true, false) => AluOp::FunnelLeftClamp,
        (false, true) => AluOp::FunnelRightWrap,
        (false, false) => AluOp::FunnelRightClamp,
    };
    typed(line, op, &[B32], |ty| (ty, vec![ty, ty, U32]))
}

fn lop3(line: &mut Line) -> Result<Op> {
    let ty = line.ty(&[B32])?;
    let dst = line.dst(ty)?;
    let src = [line.src(ty)?, line.src(ty)?, line.src(ty)?];
    let table = line.constant(0, 255)?;
    Ok(alu(AluOp::Lop3(table as u8), ty, Float::default(), dst, &src))
}

const COMPARISONS: &[(&str, Compare)] = &[
    ("eq", Compare::Eq),
    ("ne", Compare::Ne),
    ("lt", Compare::Lt),
    ("le", Compare::Le),
    ("gt", Compare::Gt),
    ("ge", Compare::Ge),
    ("equ", Compare::Equ),
    ("neu", Compare::Neu),
    ("ltu", Compare::Ltu),
    ("leu", Compare::Leu),
    ("gtu", Compare::Gtu),
    ("geu", Compare::Geu),
    ("num", Compare::Num),
    ("nan", Compare::Nan),
];
/// What unsigned comparisons may be called.
const UNSIGNED: &[(&str, Compare)] =
    &[("lo", Compare::Lt), ("ls", Compare::Le), ("hi", Compare::Gt), ("hs", Compare::Ge)];
const BOOLEANS: &[(&str, AluOp)] = &[("and", AluOp::And), ("or", AluOp::Or), ("xor", AluOp::Xor)];

/// What follows `setp` and, with the type of a result before that of the operands, `set`.
struct Comparison {
    compare: Compare,
    boolean: Option<AluOp>,
    ftz: bool,
    result: Type,
    ty: Type,
}

fn comparison(line: &mut Line, results: &[Type]) -> Result<Comparison> {
    let unsigned = line.pick(UNSIGNED);
    let compare = match unsigned {
        Some(compare) => compare,
        None => line.need(COMPARISONS)?,
    };
    let boolean = line.pick(BOOLEANS);
    let ftz = line.flag("ftz");
    let result = if results == [Pred] { Pred } else { line.ty(results)? };
    let types: &[Type] = match compare {
        _ if unsigned.is_some() => &[U16, U32, U64],
        _ if ftz => &[F32, F16],
        Compare::Eq | Compare::Ne => &[B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, Bf16, F32, F64],
        Compare::Lt | Compare::Le | Compare::Gt | Compare::Ge => {
            &[U16, U32, U64, S16, S32, S64, F16, Bf16, F32, F64]
        }
        _ => &[F16, Bf16, F32, F64],
    };
    Ok(Comparison { compare, boolean, ftz, result, ty: line.ty(types)? })
}

fn setp(line: &mut Line) -> Result<Op> {
    let comparison = comparison(line, &[Pred])?;
    let (dst, dst2) = line.dst_pair(Pred)?;
    let Some(dst) = dst else { return line.refuse("a first result of `setp` that is `_`") };
    let (op, ty) = (AluOp::Setp(comparison.compare), comparison.ty);
    compared(line, &comparison, Alu { dst2, ..plain(op, ty, dst) })
}

fn set(line: &mut Line) -> Result<Op> {
    let comparison = comparison(line, &[U32, S32, F32])?;
    if comparison.boolean.is_some() {
        return line.refuse("`set` combined with a predicate");
    }
    let op = AluOp::Set { compare: comparison.compare, from: comparison.ty };
    let dst = line.dst(comparison.result)?;
    compared(line, &comparison, plain(op, comparison.result, dst))
}

/// The sources of a comparison.
fn compared(line: &mut Line, comparison: &Comparison, mut alu: Alu) -> Result<Op> {
    alu.float.ftz = comparison.ftz;
    alu.src[0] = line.src(comparison.ty)?;
    alu.src[1] = line.src(comparison.ty)?;
    alu.sources = 2;
    if let Some(op) = comparison.boolean {
        let (predicate, negated) = line.src_predicate()?;
        alu.src[2] = predicate;
        alu.sources = 3;
        alu.combine = Some(Combine { op, negated });
    }
    Ok(Op::Alu(alu))
}

/// An instruction without sources yet.
fn plain(op: AluOp, ty: Type, dst: Reg) -> Alu {
    let src = [Operand::Imm(0); 4];
    Alu { op, ty, float: Float::default(), dst, dst2: None, src, sources: 0, combine: None }
}
