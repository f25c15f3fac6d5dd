//! Doing copies: bytes move.

use crate::device::Completion;
use crate::ir::{AtomicOp, Type};
use crate::machine::atomic::combine;
use crate::machine::{Engine, Step};
use rand::Rng;

use super::{Kind, Move, PendingCopy};

impl Engine<'_, '_> {
    pub(super) fn queue(&mut self, copy: PendingCopy) -> Step {
        let now = match self.grid.options.completion {
            Completion::Eager => true,
            Completion::Lazy => false,
            Completion::Random => self.grid.rng.random_bool(0.25),
        };
        if now {
            return self.perform(copy);
        }
        self.cluster.copies.push(copy);
        Ok(())
    }

    /// Does one pending copy, if there is one: the oldest, or with a seed any.
    pub(crate) fn perform_some(&mut self) -> Step<bool> {
        let pending = self.cluster.copies.len();
        if pending == 0 {
            return Ok(false);
        }
        let at = if self.grid.options.seed == 0 { 0 } else { self.grid.rng.random_range(0..pending) };
        let copy = self.cluster.copies.remove(at);
        self.perform(copy)?;
        Ok(true)
    }

    /// Moves the bytes of a copy.
    pub(super) fn perform(&mut self, copy: PendingCopy) -> Step {
        let PendingCopy { w, warp, number, pc, kind } = copy;
        let counters = &mut self.grid.counters;
        match kind {
            Kind::Load { moves, targets, fill, map, bytes } => {
                counters.bulk_load_bytes += moves
                    .iter()
                    .filter(|step| step.global.is_some())
                    .map(|step| u64::from(step.bytes))
                    .sum::<u64>();
                counters.bulk_fill_bytes += u64::from(bytes) * targets.len() as u64;
                let swizzle = map.map(|map| self.grid.maps[map].swizzle);
                for target in &targets {
                    let smem = &mut self.cluster.ctas[target.cta].smem;
                    for step in moves.iter() {
                        let at = target.at + step.shared;
                        let at = swizzle.map_or(at, |swizzle| swizzle.apply(at)) as usize;
                        let bytes = step.bytes as usize;
                        let source =
                            step.global.and_then(|address| self.grid.memory.find(address, bytes as u64));
                        let source =
                            source.map_or(&fill[..bytes], |(found, from)| &found.data[from..from + bytes]);
                        smem[at..at + bytes].copy_from_slice(source);
                    }
                }
                for target in targets {
                    self.complete_copy(
                        (w, pc, warp, number),
                        (target.cta, target.barrier),
                        bytes,
                        target.phase,
                    )?;
                }
            }
            Kind::Forward { from, target, bytes } => {
                counters.bulk_fill_bytes += u64::from(bytes);
                let data = self.cluster.ctas[from.0].smem[from.1 as usize..][..bytes as usize].to_vec();
                self.cluster.ctas[target.cta].smem[target.at as usize..][..bytes as usize]
                    .copy_from_slice(&data);
                self.complete_copy((w, pc, warp, number), (target.cta, target.barrier), bytes, target.phase)?;
            }
            Kind::Store { cta, moves, reduce } => {
                for Move { shared, bytes, global } in moves {
                    let Some(address) = global else { continue };
                    counters.bulk_store_bytes += u64::from(bytes);
                    let source = &self.cluster.ctas[cta].smem[shared as usize..][..bytes as usize];
                    if let Some((found, at)) = self.grid.memory.find_mut(address, u64::from(bytes)) {
                        store(&mut found.data[at..at + bytes as usize], source, reduce);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Writes bytes, or combines them element by element.
fn store(destination: &mut [u8], source: &[u8], reduce: Option<(AtomicOp, Type)>) {
    let Some((op, ty)) = reduce else {
        destination.copy_from_slice(source);
        return;
    };
    let size = ty.bytes() as usize;
    let read = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
    for (destination, source) in destination.chunks_exact_mut(size).zip(source.chunks_exact(size)) {
        let value = combine(op, ty, read(destination), read(source));
        destination.copy_from_slice(&value.to_le_bytes()[..size]);
    }
}
