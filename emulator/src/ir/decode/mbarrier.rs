//! `mbarrier`

use super::Decoder;
use super::line::{Line, Result};
use super::memory::{SCOPES, SHARED};
use crate::ir::Type::*;
use crate::ir::{Address, Mbarrier, Op, Operand, Order, Scope, Space};

pub(super) const OPCODES: &[(&str, Decoder)] = &[("mbarrier", mbarrier)];

/// Barriers of this CTA only.
const LOCAL: &[(&str, Space)] = &[SHARED[0], SHARED[1]];

const ACTIONS: &[(&str, Decoder)] = &[
    ("init", |line| {
        let (space, address) = place(line, LOCAL)?;
        let action = Mbarrier::Init { count: line.src(U32)? };
        Ok(Op::Mbarrier { action, address, space })
    }),
    ("inval", |line| {
        let (space, address) = place(line, LOCAL)?;
        Ok(Op::Mbarrier { action: Mbarrier::Inval, address, space })
    }),
    ("expect_tx", |line| {
        relaxed(line);
        let (space, address) = place(line, SHARED)?;
        let action = Mbarrier::ExpectTx { bytes: line.src(U32)? };
        Ok(Op::Mbarrier { action, address, space })
    }),
    ("complete_tx", |line| {
        relaxed(line);
        let (space, address) = place(line, SHARED)?;
        let action = Mbarrier::CompleteTx { bytes: line.src(U32)? };
        Ok(Op::Mbarrier { action, address, space })
    }),
    ("arrive", |line| arrive(line, false)),
    ("arrive_drop", |line| arrive(line, true)),
    ("test_wait", |line| wait(line, false)),
    ("try_wait", |line| wait(line, true)),
    ("pending_count", |line| {
        line.ty(&[B64])?;
        let action = Mbarrier::PendingCount { dst: line.dst(U32)?, state: line.src(B64)? };
        let address = Address { base: Operand::Imm(0), offset: 0 };
        Ok(Op::Mbarrier { action, address, space: Space::Generic })
    }),
];

fn mbarrier(line: &mut Line) -> Result<Op> {
    let decode = line.need(ACTIONS)?;
    decode(line)
}

/// The space and type that end the modifiers, and the address.
fn place(line: &mut Line, spaces: &[(&str, Space)]) -> Result<(Space, Address)> {
    let space = end(line, spaces)?;
    Ok((space, line.address(space)?))
}

fn end(line: &mut Line, spaces: &[(&str, Space)]) -> Result<Space> {
    let space = line.pick(spaces).unwrap_or(Space::Generic);
    line.ty(&[B64])?;
    Ok(space)
}

/// `.relaxed.scope`, which says what holds anyway.
fn relaxed(line: &mut Line) {
    if line.flag("relaxed") {
        line.pick(SCOPES);
    }
}

/// `.order.scope`, each optional.
fn ordering(line: &mut Line, strong: (&'static str, Order)) -> (Order, Scope) {
    let order = line.pick(&[strong, ("relaxed", Order::Relaxed)]).unwrap_or(strong.1);
    (order, line.pick(&SCOPES[..2]).unwrap_or(Scope::Cta))
}

fn arrive(line: &mut Line, drop: bool) -> Result<Op> {
    let expects = line.flag("expect_tx");
    let no_complete = !expects && line.flag("noComplete");
    let (order, scope) = ordering(line, ("release", Order::Release));
    let space = end(line, if no_complete { LOCAL } else { SHARED })?;
    let state = line.dst_or_sink(B64)?;
    if state.is_some() && space == Space::SharedCluster {
        return line.refuse("a state as result of an arrival at a barrier of the cluster");
    }
    let address = line.address(space)?;
    let expect_tx = if expects { Some(line.src(U32)?) } else { None };
    let counted = no_complete || !expects && line.has_more();
    let count = if counted { line.src(U32)? } else { Operand::Imm(1) };
    let action = Mbarrier::Arrive { state, count, expect_tx, drop, no_complete, order, scope };
    Ok(Op::Mbarrier { action, address, space })
}

fn wait(line: &mut Line, suspends: bool) -> Result<Op> {
    let parity = line.flag("parity");
    let (order, scope) = ordering(line, ("acquire", Order::Acquire));
    let space = end(line, LOCAL)?;
    let done = line.dst(Pred)?;
    let address = line.address(space)?;
    let phase = line.src(if parity { U32 } else { B64 })?;
    if suspends && line.has_more() {
        // How long to sleep at most; it changes no result.
        line.src(U32)?;
    }
    let action = Mbarrier::Wait { done, phase, by_state: !parity, suspends, order, scope };
    Ok(Op::Mbarrier { action, address, space })
}
