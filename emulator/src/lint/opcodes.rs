//! Names of operations.

use std::collections::BTreeMap;

use crate::ir::{AluOp, Bulk, Fence, Kernel, Mbarrier, Op};

/// How often a kernel uses each opcode, by [`opcode`].
pub fn opcodes(kernel: &Kernel) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for instruction in &kernel.code {
        *counts.entry(opcode(&instruction.op)).or_default() += 1;
    }
    counts
}

/// The name of an operation: its opcode, with the modifiers that make it another operation but without those of
/// types, spaces and orderings.
pub fn opcode(op: &Op) -> &'static str {
    match op {
        Op::Alu(alu) => arithmetic(alu.op),
        Op::Unpack { .. } | Op::Pack { .. } => "mov",
        Op::Load { .. } => "ld",
        Op::Store { .. } => "st",
        Op::Atomic { dst: Some(_), .. } => "atom",
        Op::Atomic { dst: None, .. } => "red",
        Op::LoadMatrix { .. } => "ldmatrix",
        Op::StoreMatrix { .. } => "stmatrix",
        Op::Mapa { .. } => "mapa",
        Op::CtaRank { .. } => "getctarank",
        Op::Cvta { to_space: true, .. } => "cvta.to",
        Op::Cvta { to_space: false, .. } => "cvta",
        Op::IsSpace { .. } => "isspacep",
        Op::Prefetch { tensor_map: true, .. } => "prefetch.tensormap",
        Op::Prefetch { tensor_map: false, .. } => "prefetch",
        Op::Branch { .. } => "bra",
        Op::Exit => "ret",
        Op::Trap => "trap",
        Op::Nop => "nop",
        Op::Shuffle { .. } => "shfl.sync",
        Op::Vote { .. } => "vote.sync",
        Op::Match { .. } => "match.sync",
        Op::Redux { .. } => "redux.sync",
        Op::ActiveMask { .. } => "activemask",
        Op::Elect { .. } => "elect.sync",
        Op::WarpBarrier { .. } => "bar.warp.sync",
        Op::Barrier { waits: true, .. } => "bar.sync",
        Op::Barrier { waits: false, .. } => "bar.arrive",
        Op::ClusterArrive { .. } => "barrier.cluster.arrive",
        Op::ClusterWait { .. } => "barrier.cluster.wait",
        Op::Fence(Fence::Memory(..)) => "fence",
        Op::Fence(Fence::MbarrierInit) => "fence.mbarrier_init",
        Op::Fence(Fence::ProxyAsync(_)) => "fence.proxy.async",
        Op::Fence(Fence::ProxyOther) => "fence.proxy",
        Op::Mbarrier { action, .. } => mbarrier(action),
        Op::Bulk(copy) => bulk(copy),
        Op::MmaFence => "wgmma.fence",
        Op::MmaCommit => "wgmma.commit_group",
        Op::MmaWait { .. } => "wgmma.wait_group",
        Op::Mma(_) => "wgmma.mma_async",
        Op::SetMaxRegisters { increase: true, .. } => "setmaxnreg.inc",
        Op::SetMaxRegisters { increase: false, .. } => "setmaxnreg.dec",
        Op::GridDependency { wait: true } => "griddepcontrol.wait",
        Op::GridDependency { wait: false } => "griddepcontrol.launch_dependents",
    }
}

fn mbarrier(action: &Mbarrier) -> &'static str {
    match action {
        Mbarrier::Init { .. } => "mbarrier.init",
        Mbarrier::Inval => "mbarrier.inval",
        Mbarrier::Arrive { drop: false, expect_tx: None, .. } => "mbarrier.arrive",
        Mbarrier::Arrive { drop: false, expect_tx: Some(_), .. } => "mbarrier.arrive.expect_tx",
        Mbarrier::Arrive { drop: true, .. } => "mbarrier.arrive_drop",
        Mbarrier::ExpectTx { .. } => "mbarrier.expect_tx",
        Mbarrier::CompleteTx { .. } => "mbarrier.complete_tx",
        Mbarrier::Wait { suspends: true, .. } => "mbarrier.try_wait",
        Mbarrier::Wait { suspends: false, .. } => "mbarrier.test_wait",
        Mbarrier::PendingCount { .. } => "mbarrier.pending_count",
    }
}

fn bulk(copy: &Bulk) -> &'static str {
    match copy {
        Bulk::TensorLoad { .. } => "cp.async.bulk.tensor.shared.global",
        Bulk::TensorStore { reduce: None, .. } => "cp.async.bulk.tensor.global.shared",
        Bulk::TensorStore { reduce: Some(_), .. } => "cp.reduce.async.bulk.tensor",
        Bulk::TensorPrefetch { .. } => "cp.async.bulk.prefetch.tensor",
        Bulk::Load { .. } => "cp.async.bulk.shared",
        Bulk::Store { reduce: None, .. } => "cp.async.bulk.global.shared",
        Bulk::Store { reduce: Some(_), .. } => "cp.reduce.async.bulk",
        Bulk::Prefetch { .. } => "cp.async.bulk.prefetch",
        Bulk::Commit => "cp.async.bulk.commit_group",
        Bulk::Wait { .. } => "cp.async.bulk.wait_group",
    }
}

fn arithmetic(op: AluOp) -> &'static str {
    match op {
        AluOp::Mov => "mov",
        AluOp::Add => "add",
        AluOp::Sub => "sub",
        AluOp::Mul => "mul",
        AluOp::MulHi => "mul.hi",
        AluOp::MulWide => "mul.wide",
        AluOp::Mad => "mad",
        AluOp::MadHi => "mad.hi",
        AluOp::MadWide => "mad.wide",
        AluOp::Fma => "fma",
        AluOp::Div => "div",
        AluOp::Rem => "rem",
        AluOp::Min => "min",
        AluOp::Max => "max",
        AluOp::Neg => "neg",
        AluOp::Abs => "abs",
        AluOp::And => "and",
        AluOp::Or => "or",
        AluOp::Xor => "xor",
        AluOp::Not => "not",
        AluOp::Cnot => "cnot",
        AluOp::Shl => "shl",
        AluOp::Shr => "shr",
        AluOp::FunnelLeftWrap => "shf.l.wrap",
        AluOp::FunnelLeftClamp => "shf.l.clamp",
        AluOp::FunnelRightWrap => "shf.r.wrap",
        AluOp::FunnelRightClamp => "shf.r.clamp",
        AluOp::Bfe => "bfe",
        AluOp::Bfi => "bfi",
        AluOp::Brev => "brev",
        AluOp::Clz => "clz",
        AluOp::Popc => "popc",
        AluOp::Bfind => "bfind",
        AluOp::Lop3(_) => "lop3",
        AluOp::Prmt => "prmt",
        AluOp::Sad => "sad",
        AluOp::Selp => "selp",
        AluOp::Setp(_) => "setp",
        AluOp::Set { .. } => "set",
        AluOp::Copysign => "copysign",
        AluOp::IsFinite => "testp.finite",
        AluOp::Rcp => "rcp",
        AluOp::Sqrt => "sqrt",
        AluOp::Rsqrt => "rsqrt",
        AluOp::Ex2 => "ex2",
        AluOp::Lg2 => "lg2",
        AluOp::Sin => "sin",
        AluOp::Cos => "cos",
        AluOp::Tanh => "tanh",
        AluOp::Cvt { .. } => "cvt",
    }
}
