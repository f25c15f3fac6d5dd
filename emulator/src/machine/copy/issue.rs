//! Issuing copies: what they will touch, checked and noted.

use crate::hazard::{Agent, Record, View};
use crate::ir::{Operand, Space};
use crate::machine::knowledge::lanes;
use crate::machine::{Engine, Step};
use crate::report::Code;

use super::{GroupedStore, Kind, Move, PendingCopy, Target};

impl Engine<'_, '_> {
    pub(super) fn coordinates(&self, w: usize, lane: u32, operands: &[Operand]) -> Vec<i32> {
        operands.iter().map(|operand| self.value(w, operand)[lane as usize] as i32).collect()
    }

    /// Checks the size of a copy of plain bytes, and its address in global memory.
    pub(super) fn bulk_size(&mut self, w: usize, pc: u32, bytes: u64, address: u64) -> Step<u32> {
        let bytes = bytes as u32;
        if bytes == 0 || !bytes.is_multiple_of(16) || !address.is_multiple_of(16) {
            let message =
                format!("a bulk copy of {bytes} bytes at {address:#x}: both must be multiples of 16");
            return self.stop(w, pc, Code::E32, message);
        }
        Ok(bytes)
    }

    pub(super) fn require_aligned(&mut self, w: usize, pc: u32, at: u32, alignment: u32) -> Step {
        if !at.is_multiple_of(alignment) {
            let message = format!(
                "a bulk copy to or from shared memory at {at:#x}, which is not a multiple of {alignment}"
            );
            return self.stop(w, pc, Code::E32, message);
        }
        Ok(())
    }

    /// The CTAs that a load writes to. The destination is an address, the bytes from it on, and its alignment.
    pub(super) fn targets(
        &mut self,
        w: usize,
        pc: u32,
        lane: u32,
        (dst, span, alignment): (u64, u32, u32),
        barrier: u64,
        multicast: Option<&Operand>,
    ) -> Step<Vec<Target>> {
        let (home, at) = self.shared_place(w, pc, Space::SharedCluster, dst, span)?;
        self.require_aligned(w, pc, at, alignment)?;
        let (barrier_home, barrier) = self.shared_place(w, pc, Space::SharedCluster, barrier, 8)?;
        if home != barrier_home {
            return self.stop(
                w,
                pc,
                Code::E35,
                "the destination of a bulk load and its mbarrier are in different CTAs",
            );
        }
        let ctas: Vec<usize> = match multicast {
            None => vec![home],
            Some(operand) => {
                let ranks = self.value(w, operand)[lane as usize] as u32 & 0xFFFF;
                let size = self.cluster.ctas.len();
                if ranks == 0 || ranks >> size != 0 {
                    return self.stop(
                        w,
                        pc,
                        Code::E35,
                        format!("a multicast to CTAs {ranks:#b} of a cluster of {size}"),
                    );
                }
                lanes(ranks).map(|rank| rank as usize).collect()
            }
        };
        let mut targets = Vec::with_capacity(ctas.len());
        for cta in ctas {
            let phase = self.copy_barrier(w, pc, lane, (cta, barrier))?;
            targets.push(Target { cta, at, barrier, phase });
        }
        Ok(targets)
    }

    /// Numbers the parts of a copy: one for a load, two for a store.
    pub(super) fn number(&mut self, w: usize, parts: u32) -> u32 {
        let warp = &mut self.cluster.warps[w];
        warp.copy_count += parts;
        warp.copy_count + 1 - parts
    }

    /// Notes the accesses of a load, and queues it.
    pub(super) fn issue_load(&mut self, w: usize, pc: u32, lane: u32, kind: Kind) -> Step {
        let number = self.number(w, 1);
        let warp = self.cluster.warps[w].id;
        if self.grid.options.checks {
            let view = self.cluster.warps[w].release(1 << lane);
            let record =
                Record { warp, agent: Agent::Copy { number }, pc, bytes: 0, write: true, strong: false };
            match &kind {
                Kind::Load { moves, targets, map, .. } => {
                    self.check_global(
                        (w, pc, lane),
                        moves.iter().copied(),
                        Record { write: false, ..record },
                        &view,
                    )?;
                    let swizzle = map.map(|map| self.grid.maps[map].swizzle);
                    for target in targets {
                        for step in moves.iter() {
                            let at = target.at + step.shared;
                            let at = swizzle.map_or(at, |swizzle| swizzle.apply(at));
                            self.note_async(w, target.cta, at, step.bytes, record, &view);
                        }
                        self.cluster.ctas[target.cta].loads.push((pc, warp, number));
                    }
                }
                Kind::Forward { from, target, bytes } => {
                    self.note_async(w, from.0, from.1, *bytes, Record { write: false, ..record }, &view);
                    self.note_async(w, target.cta, target.at, *bytes, record, &view);
                    self.cluster.ctas[target.cta].loads.push((pc, warp, number));
                }
                Kind::Store { .. } => unreachable!("loads only"),
            }
        }
        self.queue(PendingCopy { w, warp, number, pc, kind })
    }

    /// Notes the accesses of a store, and queues it.
    pub(super) fn issue_store(&mut self, w: usize, pc: u32, lane: u32, kind: Kind) -> Step {
        let number = self.number(w, 2);
        let warp = self.cluster.warps[w].id;
        let Kind::Store { cta, moves, reduce } = &kind else { unreachable!("stores only") };
        let strong = reduce.is_some();
        let record =
            Record { warp, agent: Agent::Copy { number }, pc, bytes: 0, write: false, strong: false };
        if self.grid.options.checks {
            let view = self.cluster.warps[w].release(1 << lane);
            for step in moves.iter().filter(|step| step.global.is_some()) {
                self.note_async(w, *cta, step.shared, step.bytes, record, &view);
            }
            let record = Record { agent: Agent::Copy { number: number + 1 }, write: true, strong, ..record };
            self.check_global((w, pc, lane), moves.iter().copied(), record, &view)?;
        }
        let store = GroupedStore { read: number, pc, was_read: false };
        self.cluster.warps[w].copies.entry(lane).or_default().open.push(store);
        self.queue(PendingCopy { w, warp, number, pc, kind })
    }

    pub(super) fn check_global(
        &mut self,
        (w, pc, lane): (usize, u32, u32),
        moves: impl Iterator<Item = Move>,
        record: Record,
        view: &View,
    ) -> Step {
        for Move { bytes, global, .. } in moves {
            let Some(address) = global else { continue };
            self.check_dependency(w, pc, lane, address, bytes);
            let Some((allocation, at)) = self.grid.memory.find(address, u64::from(bytes)) else {
                return self.stop(
                    w,
                    pc,
                    Code::E31,
                    format!("a bulk copy of {bytes} bytes at {address:#x}, outside of every allocation"),
                );
            };
            let unwritten = |(chunk, mask)| allocation.shadow.written(chunk) & mask != mask;
            if !record.write && crate::memory::chunks(at, bytes as usize).any(unwritten) {
                self.find(
                    w,
                    pc,
                    Code::E30,
                    format!("a bulk copy reads global memory at {address:#x} that nobody has written"),
                );
            }
            self.access_global(address, bytes, record, view);
        }
        Ok(())
    }
}
