//! Instructions of a whole warp: shuffles, votes, matrix loads and stores.

use super::Decoder;
use super::line::{Line, Result};
use crate::ir::Type::{self, *};
use crate::ir::{AtomicOp, Op, ShuffleMode, Space, VoteMode};
use crate::ptx::OperandKind;

pub(super) const OPCODES: &[(&str, Decoder)] = &[
    ("shfl", shuffle),
    ("vote", vote),
    ("match", matches),
    ("redux", redux),
    ("activemask", |line| {
        let ty = line.ty(&[B32])?;
        Ok(Op::ActiveMask { dst: line.dst(ty)? })
    }),
    ("elect", |line| {
        line.must("sync")?;
        let (dst, leader) = line.dst_pair(B32)?;
        let Some(leader) = leader else { return line.refuse("elect.sync without a predicate") };
        Ok(Op::Elect { dst, leader, mask: line.src(B32)? })
    }),
    ("ldmatrix", |line| {
        let (count, transposed) = matrix(line)?;
        let dst = line.registers(B32, count)?;
        Ok(Op::LoadMatrix { dst, address: line.address(Space::SharedCta)?, transposed })
    }),
    ("stmatrix", |line| {
        let (count, transposed) = matrix(line)?;
        let address = line.address(Space::SharedCta)?;
        Ok(Op::StoreMatrix { address, src: line.registers(B32, count)?, transposed })
    }),
];

fn shuffle(line: &mut Line) -> Result<Op> {
    line.must("sync")?;
    let mode = line.need(&[
        ("up", ShuffleMode::Up),
        ("down", ShuffleMode::Down),
        ("bfly", ShuffleMode::Bfly),
        ("idx", ShuffleMode::Idx),
    ])?;
    let ty = line.ty(&[B32])?;
    let (dst, in_range) = line.dst_pair(ty)?;
    let Some(dst) = dst else { return line.refuse("shfl.sync without a result") };
    let (src, lane, clamp, mask) = (line.src(ty)?, line.src(B32)?, line.src(B32)?, line.src(B32)?);
    Ok(Op::Shuffle { mode, dst, in_range, src, lane, clamp, mask })
}

fn vote(line: &mut Line) -> Result<Op> {
    line.must("sync")?;
    let mode = line.need(&[
        ("all", VoteMode::All),
        ("any", VoteMode::Any),
        ("uni", VoteMode::Uni),
        ("ballot", VoteMode::Ballot),
    ])?;
    let ty = line.ty(if mode == VoteMode::Ballot { &[B32] } else { &[Pred] })?;
    let dst = line.dst(ty)?;
    let (src, negated) = line.src_predicate()?;
    Ok(Op::Vote { mode, dst, src, negated, mask: line.src(B32)? })
}

fn matches(line: &mut Line) -> Result<Op> {
    let all = line.need(&[("all", true), ("any", false)])?;
    line.must("sync")?;
    let ty = line.ty(&[B32, B64])?;
    let paired =
        matches!(line.peek_operand(), Some(operand) if matches!(operand.kind, OperandKind::Pair(..)));
    let (dst, same) = if all && paired { line.dst_pair(B32)? } else { (Some(line.dst(B32)?), None) };
    let Some(dst) = dst else { return line.refuse("match.sync without a mask as result") };
    Ok(Op::Match { all, dst, same, src: line.src(ty)?, mask: line.src(B32)? })
}

fn redux(line: &mut Line) -> Result<Op> {
    line.must("sync")?;
    let op = line.need(&[
        ("add", AtomicOp::Add),
        ("min", AtomicOp::Min),
        ("max", AtomicOp::Max),
        ("and", AtomicOp::And),
        ("or", AtomicOp::Or),
        ("xor", AtomicOp::Xor),
    ])?;
    let types: &[Type] =
        if matches!(op, AtomicOp::Add | AtomicOp::Min | AtomicOp::Max) { &[U32, S32] } else { &[B32] };
    let ty = line.ty(types)?;
    Ok(Op::Redux { op, ty, dst: line.dst(ty)?, src: line.src(ty)?, mask: line.src(B32)? })
}

/// `.sync.aligned.m8n8.x4{.trans}.shared.b16`: how many matrices, and whether transposed.
fn matrix(line: &mut Line) -> Result<(usize, bool)> {
    line.must("sync.aligned.m8n8")?;
    let count = line.need(&[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let transposed = line.flag("trans");
    line.need(&[("shared", ()), ("shared::cta", ())])?;
    line.ty(&[B16])?;
    Ok((count, transposed))
}
