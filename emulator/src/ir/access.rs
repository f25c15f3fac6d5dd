//! Which registers an instruction reads and writes.

use super::{Bulk, Instruction, Mbarrier, MmaA, Op, Operand, Reg};

/// How a register is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its value is used.
    Read,
    /// It gets a new value.
    Write,
}

/// Visits registers of instructions.
pub trait Registers {
    /// Calls `visit` with every register that is touched, reads before writes. A guard is a read. Accumulators of a
    /// warpgroup product are written, and read unless `scale-d` is the constant 0.
    fn registers(&self, visit: &mut impl FnMut(Reg, Access));
}

struct Visitor<'a, F: FnMut(Reg, Access)>(&'a mut F);

impl<F: FnMut(Reg, Access)> Visitor<'_, F> {
    fn read(&mut self, operand: &Operand) {
        if let Operand::Reg(reg) = operand {
            (self.0)(*reg, Access::Read);
        }
    }

    fn reads<'b>(&mut self, operands: impl IntoIterator<Item = &'b Operand>) {
        operands.into_iter().for_each(|operand| self.read(operand));
    }

    fn write(&mut self, reg: Reg) {
        (self.0)(reg, Access::Write);
    }

    fn writes(&mut self, regs: impl IntoIterator<Item = Reg>) {
        regs.into_iter().for_each(|reg| self.write(reg));
    }

    fn mbarrier(&mut self, action: &Mbarrier) {
        match action {
            Mbarrier::Init { count } => self.read(count),
            Mbarrier::Inval => {}
            Mbarrier::Arrive { state, count, expect_tx, .. } => {
                self.read(count);
                self.reads(expect_tx);
                self.writes(*state);
            }
            Mbarrier::ExpectTx { bytes } | Mbarrier::CompleteTx { bytes } => self.read(bytes),
            Mbarrier::Wait { done, phase, .. } => {
                self.read(phase);
                self.write(*done);
            }
            Mbarrier::PendingCount { dst, state } => {
                self.read(state);
                self.write(*dst);
            }
        }
    }

    fn bulk(&mut self, bulk: &Bulk) {
        match bulk {
            Bulk::TensorLoad { dst, map, coordinates, barrier, multicast, hint } => {
                self.reads([&dst.base, &map.base, &barrier.base]);
                self.reads(coordinates);
                self.reads(multicast.iter().chain(hint));
            }
            Bulk::TensorStore { map, coordinates, src, hint, .. } => {
                self.reads([&map.base, &src.base]);
                self.reads(coordinates);
                self.reads(hint);
            }
            Bulk::TensorPrefetch { map, coordinates } => {
                self.read(&map.base);
                self.reads(coordinates);
            }
            Bulk::Load { dst, src, bytes, barrier, multicast, hint, .. } => {
                self.reads([&dst.base, &src.base, bytes, &barrier.base]);
                self.reads(multicast.iter().chain(hint));
            }
            Bulk::Store { dst, src, bytes, hint, .. } => {
                self.reads([&dst.base, &src.base, bytes]);
                self.reads(hint);
            }
            Bulk::Prefetch { src, bytes } => self.reads([&src.base, bytes]),
            Bulk::Commit | Bulk::Wait { .. } => {}
        }
    }
}

impl Registers for Op {
    fn registers(&self, visit: &mut impl FnMut(Reg, Access)) {
        let mut v = Visitor(visit);
        match self {
            Op::Alu(alu) => {
                v.reads(&alu.src[..usize::from(alu.sources)]);
                v.write(alu.dst);
                v.writes(alu.dst2);
            }
            Op::Unpack { dst, src, .. } => {
                v.read(src);
                v.writes(dst.iter().copied().flatten());
            }
            Op::Pack { dst, src, .. } => {
                v.reads(src);
                v.write(*dst);
            }
            Op::Load { dst, address, .. } => {
                v.read(&address.base);
                v.writes(dst.iter().copied().flatten());
            }
            Op::Store { src, address, .. } => {
                v.read(&address.base);
                v.reads(src);
            }
            Op::Atomic { dst, address, src, swap, .. } => {
                v.reads([&address.base, src]);
                v.reads(swap);
                v.writes(*dst);
            }
            Op::LoadMatrix { dst, address, .. } => {
                v.read(&address.base);
                v.writes(dst.iter().copied());
            }
            Op::StoreMatrix { address, src, .. } => {
                v.read(&address.base);
                src.iter().for_each(|reg| v.read(&Operand::Reg(*reg)));
            }
            Op::Mapa { dst, address, rank, .. } => {
                v.reads([address, rank]);
                v.write(*dst);
            }
            Op::CtaRank { dst, address, .. } | Op::IsSpace { dst, address, .. } => {
                v.read(address);
                v.write(*dst);
            }
            Op::Cvta { dst, src, .. } => {
                v.read(src);
                v.write(*dst);
            }
            Op::Prefetch { address, .. } => v.read(&address.base),
            Op::Branch { .. }
            | Op::Exit
            | Op::Trap
            | Op::Nop
            | Op::ClusterArrive { .. }
            | Op::ClusterWait { .. }
            | Op::Fence(_)
            | Op::MmaFence
            | Op::MmaCommit
            | Op::MmaWait { .. }
            | Op::SetMaxRegisters { .. }
            | Op::GridDependency { .. } => {}
            Op::Shuffle { dst, in_range, src, lane, clamp, mask, .. } => {
                v.reads([src, lane, clamp, mask]);
                v.write(*dst);
                v.writes(*in_range);
            }
            Op::Vote { dst, src, mask, .. } | Op::Redux { dst, src, mask, .. } => {
                v.reads([src, mask]);
                v.write(*dst);
            }
            Op::Match { dst, same, src, mask, .. } => {
                v.reads([src, mask]);
                v.write(*dst);
                v.writes(*same);
            }
            Op::ActiveMask { dst } => v.write(*dst),
            Op::Elect { dst, leader, mask } => {
                v.read(mask);
                v.writes(*dst);
                v.write(*leader);
            }
            Op::WarpBarrier { mask } => v.read(mask),
            Op::Barrier { id, threads, .. } => {
                v.read(id);
                v.reads(threads);
            }
            Op::Mbarrier { action, address, .. } => {
                v.read(&address.base);
                v.mbarrier(action);
            }
            Op::Bulk(bulk) => v.bulk(bulk),
            Op::Mma(mma) => {
                if let MmaA::Shared { descriptor, .. } = &mma.a {
                    v.read(descriptor);
                }
                v.reads([&mma.b, &mma.scale_d]);
                if let MmaA::Registers(a) = &mma.a {
                    a.iter().for_each(|reg| v.read(&Operand::Reg(*reg)));
                }
                if mma.scale_d != Operand::Imm(0) {
                    mma.d.iter().for_each(|reg| v.read(&Operand::Reg(*reg)));
                }
                v.writes(mma.d.iter().copied());
            }
        }
    }
}

impl Registers for Instruction {
    fn registers(&self, visit: &mut impl FnMut(Reg, Access)) {
        if let Some(guard) = self.guard {
            visit(Reg::Pred(guard.predicate), Access::Read);
        }
        self.op.registers(visit);
    }
}
