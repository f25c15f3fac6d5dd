//! Mutants: kernels with one mistake of synchronisation, to measure what the checks see.
//!
//! Every instruction that synchronises (fences, commits, waits, arrivals, expected bytes, barriers, register
//! reallocation) is left out, and altered in the ways that people get it wrong. A check that lets a mutant pass has not
//! looked, or the instruction is not needed.

use std::collections::BTreeMap;

use crate::ir::{
    Address, Alu, AluOp, Bulk, Fence, Float, Instruction, Kernel, Mbarrier, Module, Op, Operand, Order,
    Position, Reg, Space, Special, Type,
};

/// A kernel with one mistake.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// What was done to what, such as `wgmma.fence 2: left out`: the kernel's instructions of a kind are counted from
    /// 1.
    pub name: String,
    /// The instruction's kind, such as `wgmma.fence`.
    pub kind: &'static str,
    /// What was done, such as `left out`.
    pub change: &'static str,
    /// Where the instruction stands.
    pub at: Position,
    /// Its index.
    index: usize,
    /// What stands there instead.
    ops: Vec<Op>,
}

impl Mutant {
    /// `module` with this mistake in the kernel that it was made from.
    pub fn apply(&self, module: &Module, kernel: &str) -> Module {
        let mut module = module.clone();
        if let Some(kernel) = module.kernels.iter_mut().find(|candidate| candidate.name == kernel) {
            // One more register than the kernel has, for operands that a mistake changes.
            kernel.registers.narrow += 1;
            let added = self.ops.len() as u32 - 1;
            for instruction in &mut kernel.code {
                if let Op::Branch { target, .. } = &mut instruction.op
                    && *target > self.index as u32
                {
                    *target += added;
                }
            }
            let original = kernel.code[self.index].clone();
            let mistake = self.ops.iter().map(|op| Instruction { op: op.clone(), ..original.clone() });
            kernel.code.splice(self.index..=self.index, mistake);
        }
        module
    }
}

/// Every mutant of a kernel, in the order of its instructions.
pub fn mutants(kernel: &Kernel) -> Vec<Mutant> {
    let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
    let mut mutants = Vec::new();
    let spare = Reg::Narrow(kernel.registers.narrow);
    for (index, instruction) in kernel.code.iter().enumerate() {
        let Some((kind, changes)) = changes(&instruction.op, spare) else { continue };
        let count = counts.entry(kind).or_default();
        *count += 1;
        mutants.extend(changes.into_iter().map(|(change, ops)| Mutant {
            name: format!("{kind} {count}: {change}"),
            kind,
            change,
            at: instruction.at,
            index,
            ops,
        }));
    }
    mutants
}

/// Mistakes: what each is, and the instructions that make it.
type Changes = Vec<(&'static str, Vec<Op>)>;

/// The kind of a synchronising instruction, and the mistakes to make in it. `spare` is a register that nobody uses.
fn changes(op: &Op, spare: Reg) -> Option<(&'static str, Changes)> {
    Some(match op {
        Op::MmaFence => ("wgmma.fence", vec![left_out()]),
        Op::MmaCommit => ("wgmma.commit_group", vec![left_out()]),
        Op::MmaWait { pending } => (
            "wgmma.wait_group",
            vec![left_out(), one("waits for one group less", Op::MmaWait { pending: pending + 1 })],
        ),
        Op::Fence(Fence::ProxyAsync(space)) => {
            let other = match space {
                Some(Space::Global) => Space::SharedCta,
                _ => Space::Global,
            };
            let other = Op::Fence(Fence::ProxyAsync(Some(other)));
            ("fence.proxy.async", vec![left_out(), one("for the other space", other)])
        }
        Op::Fence(Fence::MbarrierInit) => ("fence.mbarrier_init", vec![left_out()]),
        Op::Fence(_) => ("fence", vec![left_out()]),
        Op::WarpBarrier { .. } => ("bar.warp.sync", vec![left_out()]),
        Op::Barrier { waits, id, threads, aligned } => {
            let barrier = |waits, id, threads| Op::Barrier { waits, id, threads, aligned: *aligned };
            // Even warps stay where they are: all under another number would still meet.
            let warp = Operand::Special(Special::Warpid);
            let next = vec![
                compute(AluOp::And, Type::B32, spare, warp, Operand::Imm(1)),
                compute(AluOp::Add, Type::U32, spare, Operand::Reg(spare), *id),
                barrier(*waits, Operand::Reg(spare), *threads),
            ];
            let mut changes = vec![left_out(), ("the next number in odd warps", next)];
            if let Some(count) = threads {
                for (change, difference) in [("32 threads less", -32), ("32 threads more", 32)] {
                    let (step, count) = plus(count, difference, spare);
                    changes.push((change, vec![step, barrier(*waits, *id, Some(count))]));
                }
                if *waits {
                    changes.push(one("arrives only", barrier(false, *id, *threads)));
                }
            }
            (if *waits { "bar.sync" } else { "bar.arrive" }, changes)
        }
        Op::ClusterArrive { order, aligned } => {
            let relaxed = Op::ClusterArrive { order: Order::Relaxed, aligned: *aligned };
            let mut changes = vec![left_out()];
            if *order != Order::Relaxed {
                changes.push(one("relaxed", relaxed));
            }
            ("barrier.cluster.arrive", changes)
        }
        Op::ClusterWait { .. } => ("barrier.cluster.wait", vec![left_out()]),
        Op::SetMaxRegisters { increase, registers } => {
            let more = |registers| Op::SetMaxRegisters { increase: *increase, registers };
            match increase {
                true => ("setmaxnreg.inc", vec![left_out(), one("8 registers more", more(registers + 8))]),
                // What is kept may be little enough to do no harm; this much is not.
                false => ("setmaxnreg.dec", vec![left_out(), one("32 registers more", more(registers + 32))]),
            }
        }
        Op::Mbarrier { action, address, space } => {
            let with = |action| Op::Mbarrier { action, address: *address, space: *space };
            let next = Op::Mbarrier { action: *action, address: moved(address, 8), space: *space };
            return mbarrier(action, next, with, spare);
        }
        Op::Bulk(Bulk::Commit) => ("cp.async.bulk.commit_group", vec![left_out()]),
        Op::Bulk(Bulk::Wait { pending, read }) => {
            let less = Op::Bulk(Bulk::Wait { pending: pending + 1, read: *read });
            ("cp.async.bulk.wait_group", vec![left_out(), one("waits for one group less", less)])
        }
        Op::Bulk(Bulk::TensorLoad { dst, map, coordinates, barrier, multicast, hint }) => {
            let load = |dst, barrier| {
                let (coordinates, multicast, hint) = (coordinates.clone(), *multicast, *hint);
                Op::Bulk(Bulk::TensorLoad { dst, map: *map, coordinates, barrier, multicast, hint })
            };
            let changes = vec![
                left_out(),
                one("signals the next barrier", load(*dst, moved(barrier, 8))),
                one("1024 bytes further", load(moved(dst, 1024), *barrier)),
            ];
            ("cp.async.bulk.tensor", changes)
        }
        _ => return None,
    })
}

/// Mistakes in an instruction of mbarriers; `next` is the same of the barrier 8 bytes further.
fn mbarrier(
    action: &Mbarrier,
    next: Op,
    with: impl Fn(Mbarrier) -> Op,
    spare: Reg,
) -> Option<(&'static str, Changes)> {
    Some(match *action {
        Mbarrier::Init { count } => {
            let (step, more) = plus(&count, 1, spare);
            let more = vec![step, with(Mbarrier::Init { count: more })];
            ("mbarrier.init", vec![left_out(), ("one arrival more", more)])
        }
        Mbarrier::Arrive { state, count, expect_tx, drop, no_complete, order, scope } => {
            let arrive = |count, expect_tx| {
                with(Mbarrier::Arrive { state, count, expect_tx, drop, no_complete, order, scope })
            };
            let mut changes = vec![left_out(), one("at the next barrier", next)];
            match expect_tx {
                Some(bytes) => {
                    for (change, difference) in [("16 bytes less", -16), ("16 bytes more", 16)] {
                        let (step, bytes) = plus(&bytes, difference, spare);
                        changes.push((change, vec![step, arrive(count, Some(bytes))]));
                    }
                    ("mbarrier.arrive.expect_tx", changes)
                }
                None => {
                    let (step, more) = plus(&count, 1, spare);
                    changes.push(("one arrival more", vec![step, arrive(more, None)]));
                    ("mbarrier.arrive", changes)
                }
            }
        }
        Mbarrier::ExpectTx { .. } => ("mbarrier.expect_tx", vec![left_out()]),
        Mbarrier::Wait { done, phase, by_state, suspends, order, scope } => {
            let true_at_once = vec![compute(AluOp::Mov, Type::Pred, done, Operand::Imm(1), Operand::Imm(0))];
            let other = compute(AluOp::Xor, Type::B32, spare, phase, Operand::Imm(1));
            let phase = Operand::Reg(spare);
            let other = vec![other, with(Mbarrier::Wait { done, phase, by_state, suspends, order, scope })];
            let changes = vec![
                ("left out", true_at_once),
                ("of the other parity", other),
                one("of the next barrier", next),
            ];
            ("mbarrier.wait", changes)
        }
        Mbarrier::Inval | Mbarrier::CompleteTx { .. } | Mbarrier::PendingCount { .. } => return None,
    })
}

fn left_out() -> (&'static str, Vec<Op>) {
    one("left out", Op::Nop)
}

fn one(change: &'static str, op: Op) -> (&'static str, Vec<Op>) {
    (change, vec![op])
}

/// An instruction that adds to an operand, and what holds the sum.
fn plus(operand: &Operand, difference: i64, spare: Reg) -> (Op, Operand) {
    let difference = Operand::Imm(difference as u64 & u64::from(u32::MAX));
    (compute(AluOp::Add, Type::U32, spare, *operand, difference), Operand::Reg(spare))
}

fn compute(op: AluOp, ty: Type, dst: Reg, a: Operand, b: Operand) -> Op {
    let sources = if op == AluOp::Mov { 1 } else { 2 };
    let src = [a, b, Operand::Imm(0), Operand::Imm(0)];
    Op::Alu(Alu { op, ty, float: Float::default(), dst, dst2: None, src, sources, combine: None })
}

/// An address some bytes further.
fn moved(address: &Address, bytes: i64) -> Address {
    Address { offset: address.offset + bytes, ..*address }
}
