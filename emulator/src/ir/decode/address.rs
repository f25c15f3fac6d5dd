//! Conversions of addresses between windows and CTAs.

use super::Decoder;
use super::line::{Line, Result};
use super::memory::SHARED;
use crate::ir::Type::*;
use crate::ir::{Op, Space};

pub(super) const OPCODES: &[(&str, Decoder)] = &[
    ("cvta", cvta),
    ("isspacep", |line| {
        let space = line.need(WINDOWS)?;
        Ok(Op::IsSpace { dst: line.dst(Pred)?, address: line.src(B64)?, space })
    }),
    ("mapa", |line| {
        let generic = !line.flag("shared::cluster");
        let ty = line.ty(if generic { &[U64] } else { &[U32, U64] })?;
        Ok(Op::Mapa { dst: line.dst(ty)?, address: line.src_or_symbol(ty)?, rank: line.src(U32)?, generic })
    }),
    ("getctarank", |line| {
        let generic = !line.flag("shared::cluster");
        let ty = line.ty(if generic { &[U64] } else { &[U32, U64] })?;
        Ok(Op::CtaRank { dst: line.dst(U32)?, address: line.src_or_symbol(ty)?, generic })
    }),
];

const WINDOWS: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("const", Space::Const),
    SHARED[0],
    SHARED[1],
    SHARED[2],
];

fn cvta(line: &mut Line) -> Result<Op> {
    let to_space = line.flag("to");
    let space = line.need(WINDOWS)?;
    let ty = line.ty(&[U64])?;
    let dst = line.dst(ty)?;
    // An address in a window comes from a register; out of one also from a symbol.
    let src = if to_space { line.src(ty)? } else { line.src_or_symbol(ty)? };
    Ok(Op::Cvta { dst, src, space, to_space })
}
