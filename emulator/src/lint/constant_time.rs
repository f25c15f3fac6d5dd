//! S06: what a kernel does must not depend on data, so that its time and its accesses tell nothing about it.
//!
//! A branch on data is a finding itself, so what only depends on data through the path taken need not be followed.

use super::taint::Secrets;
use super::{Code, Finding, Lint, opcode};
use crate::ir::{Address, Bulk, Mbarrier, MmaA, Op, Operand};
use crate::report::Level;

pub(super) fn check(lint: &Lint) -> Vec<Finding> {
    let mut findings = Vec::new();
    let pointers = &lint.config.public_pointers;
    Secrets::visit(lint.kernel, lint.cfg, pointers, |secrets, index, instruction| {
        let name = opcode(&instruction.op);
        let mut report = |source: u32, what: &str| {
            let message = format!("{name}: {what} depends on data");
            let there = Some(lint.site(source));
            findings.push(Finding { there, ..lint.finding(Code::S06, Level::Deny, index, message) });
        };
        if let Some(source) = secrets.guard(instruction)
            && !is_arithmetic(&instruction.op)
        {
            report(source, "whether it is executed");
        }
        for (operand, what) in exposed(&instruction.op) {
            if let Some(source) = secrets.source(&operand) {
                report(source, what);
            }
        }
    });
    findings
}

/// Whether an instruction under a guard only chooses between values.
fn is_arithmetic(op: &Op) -> bool {
    matches!(op, Op::Alu(_) | Op::Pack { .. } | Op::Unpack { .. } | Op::Cvta { .. } | Op::Mapa { .. })
}

/// Operands that decide what is accessed, or who takes part.
fn exposed(op: &Op) -> Vec<(Operand, &'static str)> {
    const ADDRESS: &str = "its address";
    const LANES: &str = "which lanes take part";
    match op {
        Op::Load { address, .. }
        | Op::Store { address, .. }
        | Op::Atomic { address, .. }
        | Op::LoadMatrix { address, .. }
        | Op::StoreMatrix { address, .. }
        | Op::Prefetch { address, .. } => vec![(address.base, ADDRESS)],
        Op::Shuffle { lane, clamp, mask, .. } => {
            vec![(*lane, "the lane"), (*clamp, "the lane"), (*mask, LANES)]
        }
        Op::Vote { mask, .. }
        | Op::Match { mask, .. }
        | Op::Redux { mask, .. }
        | Op::Elect { mask, .. }
        | Op::WarpBarrier { mask } => vec![(*mask, LANES)],
        Op::Barrier { id, threads, .. } => {
            let threads = threads.map(|threads| (threads, "the number of threads"));
            [(*id, "the barrier")].into_iter().chain(threads).collect()
        }
        Op::Mbarrier { action, address, .. } => {
            let operands =
                mbarrier(action).into_iter().flatten().map(|operand| (operand, "what it waits for"));
            [(address.base, ADDRESS)].into_iter().chain(operands).collect()
        }
        Op::Bulk(copy) => bulk(copy).into_iter().map(|operand| (operand, "what it copies")).collect(),
        Op::Mma(mma) => {
            let a = match &mma.a {
                MmaA::Shared { descriptor, .. } => Some((*descriptor, "the descriptor of A")),
                MmaA::Registers(_) => None,
            };
            let others = [(mma.b, "the descriptor of B"), (mma.scale_d, "whether it accumulates")];
            a.into_iter().chain(others).collect()
        }
        _ => Vec::new(),
    }
}

fn mbarrier(action: &Mbarrier) -> [Option<Operand>; 2] {
    match action {
        Mbarrier::Init { count } => [Some(*count), None],
        Mbarrier::Arrive { count, expect_tx, .. } => [Some(*count), *expect_tx],
        Mbarrier::ExpectTx { bytes } | Mbarrier::CompleteTx { bytes } => [Some(*bytes), None],
        Mbarrier::Wait { phase, .. } => [Some(*phase), None],
        Mbarrier::Inval | Mbarrier::PendingCount { .. } => [None, None],
    }
}

/// Every operand of a copy.
fn bulk(copy: &Bulk) -> Vec<Operand> {
    let with = |addresses: &[&Address], others: &[&[Operand]]| {
        let addresses = addresses.iter().map(|address| address.base);
        addresses.chain(others.iter().flat_map(|others| others.iter().copied())).collect()
    };
    match copy {
        Bulk::TensorLoad { dst, map, coordinates, barrier, multicast, hint } => {
            with(&[dst, map, barrier], &[coordinates, multicast.as_slice(), hint.as_slice()])
        }
        Bulk::TensorStore { map, coordinates, src, hint, .. } => {
            with(&[map, src], &[coordinates, hint.as_slice()])
        }
        Bulk::TensorPrefetch { map, coordinates } => with(&[map], &[coordinates]),
        Bulk::Load { dst, src, bytes, barrier, multicast, hint, .. } => {
            with(&[dst, src, barrier], &[&[*bytes], multicast.as_slice(), hint.as_slice()])
        }
        Bulk::Store { dst, src, bytes, hint, .. } => with(&[dst, src], &[&[*bytes], hint.as_slice()]),
        Bulk::Prefetch { src, bytes } => with(&[src], &[&[*bytes]]),
        Bulk::Commit | Bulk::Wait { .. } => Vec::new(),
    }
}
