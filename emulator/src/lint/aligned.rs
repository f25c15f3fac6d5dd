//! S04: instructions that threads must execute together.

use super::uniformity::{Spread, Uniformity};
use super::{Code, Finding, Lint, opcode};
use crate::ir::{Op, Operand};
use crate::report::Level;

pub(super) fn check(lint: &Lint, uniformity: &Uniformity) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, instruction) in lint.code() {
        if !lint.cfg.is_reachable(lint.cfg.block_of(index)) {
            continue;
        }
        let Some((widest, together)) = gathers(&instruction.op) else { continue };
        let (spread, branch) = uniformity.control(lint.cfg, index);
        if spread > widest {
            let name = opcode(&instruction.op);
            let apart = if spread >= Spread::LanesAlike { "lanes of a warp" } else { "warps of a warpgroup" };
            let message = format!("{name} is for {together} together, but {apart} may have parted");
            let there = branch.map(|branch| lint.site(branch));
            findings.push(Finding { there, ..lint.finding(Code::S04, Level::Deny, index, message) });
        }
    }
    findings
}

/// How far apart threads may be that do not execute an instruction together, and who must.
fn gathers(op: &Op) -> Option<(Spread, &'static str)> {
    const WARP: (Spread, &str) = (Spread::Warps, "all lanes of a warp");
    // A mask with lanes left out, or one that is computed, says itself who takes part.
    let whole = |mask: &Operand| matches!(mask, Operand::Imm(mask) if *mask as u32 == u32::MAX);
    match op {
        Op::Mma(_) | Op::MmaFence | Op::MmaCommit | Op::MmaWait { .. } | Op::SetMaxRegisters { .. } => {
            Some((Spread::Warpgroups, "all threads of a warpgroup"))
        }
        Op::LoadMatrix { .. } | Op::StoreMatrix { .. } => Some(WARP),
        Op::Barrier { aligned, .. } | Op::ClusterArrive { aligned, .. } | Op::ClusterWait { aligned } => {
            aligned.then_some(WARP)
        }
        Op::Shuffle { mask, .. }
        | Op::Vote { mask, .. }
        | Op::Match { mask, .. }
        | Op::Redux { mask, .. }
        | Op::Elect { mask, .. }
        | Op::WarpBarrier { mask } => whole(mask).then_some(WARP),
        _ => None,
    }
}
