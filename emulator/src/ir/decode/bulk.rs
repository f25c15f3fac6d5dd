//! `cp.async.bulk`, `cp.reduce.async.bulk`

use super::Decoder;
use super::line::{Line, Result};
use crate::ir::Type::{self, *};
use crate::ir::{Bulk, BulkReduce, Op, Operand, Space};

pub(super) const OPCODES: &[(&str, Decoder)] = &[("cp", |line| copy(line).map(Op::Bulk))];

const RANKS: &[(&str, usize)] = &[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)];

fn copy(line: &mut Line) -> Result<Bulk> {
    if line.flag("reduce") {
        line.must("async.bulk")?;
        return if line.flag("tensor") { tensor_reduce(line) } else { reduce(line) };
    }
    line.must("async.bulk")?;
    if line.flag("commit_group") {
        Ok(Bulk::Commit)
    } else if line.flag("wait_group") {
        let read = line.flag("read");
        Ok(Bulk::Wait { pending: line.constant(0, u32::MAX)?, read })
    } else if line.flag("prefetch") {
        prefetch(line)
    } else if line.flag("tensor") {
        tensor(line)
    } else {
        plain(line)
    }
}

/// What may stand behind the spaces of a copy, in the orders that compilers and the ISA have.
#[derive(Default)]
struct Tail {
    multicast: bool,
    hint: bool,
}

/// The modifiers behind the spaces: `completion` must be there, the others may; each once.
fn tail(line: &mut Line, completion: &str, tensor: bool, multicast: bool) -> Result<Tail> {
    let mut tail = Tail::default();
    let (mut completes, mut tiled) = (false, false);
    while line.modifier().is_some() {
        let before = line.mark();
        let seen = if line.flag(completion) {
            &mut completes
        } else if multicast && line.flag("multicast::cluster") {
            &mut tail.multicast
        } else if line.flag("L2::cache_hint") {
            &mut tail.hint
        } else if tensor && line.flag("tile") {
            &mut tiled
        } else {
            return line.wrong_modifier("");
        };
        if std::mem::replace(seen, true) {
            line.back_to(before);
            return line.wrong_modifier("");
        }
    }
    if completes { Ok(tail) } else { line.missing(&format!(".{completion}")) }
}

const BY_BARRIER: &str = "mbarrier::complete_tx::bytes";
const BY_GROUP: &str = "bulk_group";

fn given(line: &mut Line, present: bool, ty: Type) -> Result<Option<Operand>> {
    if present { line.src(ty).map(Some) } else { Ok(None) }
}

/// `cp.async.bulk.tensor`
fn tensor(line: &mut Line) -> Result<Bulk> {
    let rank = line.need(RANKS)?;
    if line.flag("global") {
        line.must("shared::cta")?;
        let tail = tail(line, BY_GROUP, true, false)?;
        let (map, coordinates) = line.tensor_address(rank)?;
        let src = line.address(Space::SharedCta)?;
        let hint = given(line, tail.hint, B64)?;
        return Ok(Bulk::TensorStore { map, coordinates, src, reduce: None, hint });
    }
    let space = line.need(DESTINATIONS)?;
    line.must("global")?;
    let tail = tail(line, BY_BARRIER, true, space == Space::SharedCluster)?;
    let dst = line.address(space)?;
    let (map, coordinates) = line.tensor_address(rank)?;
    let barrier = line.address(space)?;
    let multicast = given(line, tail.multicast, U16)?;
    let hint = given(line, tail.hint, B64)?;
    Ok(Bulk::TensorLoad { dst, map, coordinates, barrier, multicast, hint })
}

const DESTINATIONS: &[(&str, Space)] =
    &[("shared::cluster", Space::SharedCluster), ("shared::cta", Space::SharedCta)];

/// `cp.async.bulk` of plain bytes.
fn plain(line: &mut Line) -> Result<Bulk> {
    if line.flag("global") {
        line.must("shared::cta")?;
        let tail = tail(line, BY_GROUP, false, false)?;
        let dst = line.address(Space::Global)?;
        let src = line.address(Space::SharedCta)?;
        let bytes = line.src(U32)?;
        return Ok(Bulk::Store { dst, src, bytes, reduce: None, hint: given(line, tail.hint, B64)? });
    }
    let space = line.need(DESTINATIONS)?;
    let sources = &[("global", Space::Global), ("shared::cta", Space::SharedCta)];
    let source = line.need(if space == Space::SharedCluster { sources } else { &sources[..1] })?;
    let from_shared = source == Space::SharedCta;
    let tail = tail(line, BY_BARRIER, false, space == Space::SharedCluster && !from_shared)?;
    let dst = line.address(space)?;
    let src = line.address(source)?;
    let bytes = line.src(U32)?;
    let barrier = line.address(space)?;
    let multicast = given(line, tail.multicast, U16)?;
    let hint = given(line, tail.hint, B64)?;
    Ok(Bulk::Load { dst, src, from_shared, bytes, barrier, multicast, hint })
}

/// `cp.async.bulk.prefetch`; a cache policy has no effect on results, so only its type is checked.
fn prefetch(line: &mut Line) -> Result<Bulk> {
    if line.flag("tensor") {
        let rank = line.need(RANKS)?;
        line.must("L2.global")?;
        line.flag("tile");
        let hint = line.flag("L2::cache_hint");
        let (map, coordinates) = line.tensor_address(rank)?;
        given(line, hint, B64)?;
        return Ok(Bulk::TensorPrefetch { map, coordinates });
    }
    line.must("L2.global")?;
    let hint = line.flag("L2::cache_hint");
    let (src, bytes) = (line.address(Space::Global)?, line.src(U32)?);
    given(line, hint, B64)?;
    Ok(Bulk::Prefetch { src, bytes })
}

const REDUCTIONS: &[(&str, BulkReduce)] = &[
    ("add", BulkReduce::Add),
    ("min", BulkReduce::Min),
    ("max", BulkReduce::Max),
    ("and", BulkReduce::And),
    ("or", BulkReduce::Or),
    ("xor", BulkReduce::Xor),
    ("inc", BulkReduce::Inc),
    ("dec", BulkReduce::Dec),
];

fn tensor_reduce(line: &mut Line) -> Result<Bulk> {
    let rank = line.need(RANKS)?;
    line.must("global.shared::cta")?;
    let reduce = Some(line.need(REDUCTIONS)?);
    let tail = tail(line, BY_GROUP, true, false)?;
    let (map, coordinates) = line.tensor_address(rank)?;
    let src = line.address(Space::SharedCta)?;
    Ok(Bulk::TensorStore { map, coordinates, src, reduce, hint: given(line, tail.hint, B64)? })
}

/// `cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32`
fn reduce(line: &mut Line) -> Result<Bulk> {
    line.must("global.shared::cta.bulk_group")?;
    let hint = line.flag("L2::cache_hint");
    let op = line.need(REDUCTIONS)?;
    let halves = op == BulkReduce::Add && line.flag("noftz");
    let ty = line.ty(match op {
        BulkReduce::Add if halves => &[F16, Bf16],
        BulkReduce::Add => &[U32, S32, U64, S64, F32, F64],
        BulkReduce::Min | BulkReduce::Max => &[U32, S32, U64, S64, F16, Bf16],
        BulkReduce::And | BulkReduce::Or | BulkReduce::Xor => &[B32, B64],
        BulkReduce::Inc | BulkReduce::Dec => &[U32],
    })?;
    let dst = line.address(Space::Global)?;
    let src = line.address(Space::SharedCta)?;
    let bytes = line.src(U32)?;
    Ok(Bulk::Store { dst, src, bytes, reduce: Some((op, ty)), hint: given(line, hint, B64)? })
}
