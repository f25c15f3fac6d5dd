//! Bulk copies: issued at an instruction, done at some later time.
//!
//! A copy's accesses are checked when it is issued, with what its thread knows then, because it may touch memory from
//! that moment on; its bytes move when the completion policy says. A load counts as done for those who wait for its
//! mbarrier. A store counts twice: its source is read, and its destination is written, and a thread learns of either by
//! waiting for its groups.

use std::collections::VecDeque;
use std::rc::Rc;

use rand::Rng;

use crate::device::Completion;
use crate::hazard::{Agent, Detail, Party, Record, View};
use crate::ir::{AtomicOp, Bulk, Operand, Space, Type};
use crate::report::Code;
use crate::tensor_map::{Element, Piece, TensorMap};

use super::atomic::combine;
use super::knowledge::lanes;
use super::{Engine, MAP_MAGIC, PARAM_WINDOW, Step};

/// Bytes that move together.
#[derive(Clone, Copy, Debug)]
struct Move {
    /// Address in shared memory.
    shared: u32,
    bytes: u32,
    /// Address in global memory; nothing is outside of a tensor.
    global: Option<u64>,
}

/// A CTA that a load writes to.
#[derive(Clone, Copy, Debug)]
struct Target {
    cta: usize,
    /// First address of the destination.
    at: u32,
    barrier: u32,
    /// Phase of the barrier at the time of issue.
    phase: u64,
}

#[derive(Debug)]
enum Kind {
    Load {
        /// Moves, with addresses relative to the destination.
        moves: Rc<[Move]>,
        targets: Vec<Target>,
        fill: [u8; 16],
        /// Applies to absolute addresses.
        map: Option<usize>,
        bytes: u32,
    },
    /// From shared memory of this CTA to that of others.
    Forward {
        from: (usize, u32),
        target: Target,
        bytes: u32,
    },
    Store {
        cta: usize,
        moves: Vec<Move>,
        reduce: Option<(AtomicOp, Type)>,
    },
}

/// A copy that has not been done.
#[derive(Debug)]
pub(crate) struct PendingCopy {
    w: usize,
    warp: u32,
    number: u32,
    pc: u32,
    kind: Kind,
}

/// A store in a group: the numbers of its read and of its write.
#[derive(Clone, Copy, Debug)]
struct GroupedStore {
    read: u32,
    pc: u32,
    /// Whether the thread has learnt that its source was read.
    was_read: bool,
}

impl GroupedStore {
    fn write(self) -> u32 {
        self.read + 1
    }
}

/// The bulk groups of a thread.
#[derive(Debug, Default)]
pub(crate) struct CopyGroups {
    open: Vec<GroupedStore>,
    committed: VecDeque<Vec<GroupedStore>>,
}

impl Engine<'_, '_> {
    /// Runs a bulk instruction: each lane on its own.
    pub(crate) fn bulk(&mut self, w: usize, pc: u32, mask: u32, bulk: &Bulk) -> Step {
        match bulk {
            Bulk::TensorLoad { dst, map, coordinates, barrier, multicast, .. } => {
                let (dst, maps, barrier) = (
                    self.addresses(w, pc, mask, dst)?,
                    self.addresses(w, pc, mask, map)?,
                    self.addresses(w, pc, mask, barrier)?,
                );
                for lane in lanes(mask) {
                    let at = lane as usize;
                    let index = self.tensor_map(w, pc, maps[at])?;
                    let coordinates = self.coordinates(w, lane, coordinates);
                    let map: &TensorMap = &self.grid.maps[index];
                    let pieces = match map.boxed(&coordinates) {
                        Ok(pieces) => pieces,
                        Err(error) => {
                            return self.stop(w, pc, Code::E35, format!("a bulk load of a tensor: {error}"));
                        }
                    };
                    let (bytes, alignment, span) = (map.dense_bytes(), map.alignment(), map.shared_bytes());
                    let fill = map.fill();
                    let moves = pieces.iter().map(|&Piece { offset, bytes, global }| Move {
                        shared: offset,
                        bytes,
                        global,
                    });
                    let moves: Rc<[Move]> = moves.collect();
                    let targets = self.targets(
                        w,
                        pc,
                        lane,
                        (dst[at], span, alignment),
                        barrier[at],
                        multicast.as_ref(),
                    )?;
                    self.issue_load(
                        w,
                        pc,
                        lane,
                        Kind::Load { moves, targets, fill, map: Some(index), bytes },
                    )?;
                }
            }
            Bulk::Load { dst, src, from_shared, bytes, barrier, multicast, .. } => {
                let (dst, src, barrier) = (
                    self.addresses(w, pc, mask, dst)?,
                    self.addresses(w, pc, mask, src)?,
                    self.addresses(w, pc, mask, barrier)?,
                );
                let sizes = self.value(w, bytes);
                for lane in lanes(mask) {
                    let at = lane as usize;
                    let bytes = self.bulk_size(w, pc, sizes[at], src[at])?;
                    let targets =
                        self.targets(w, pc, lane, (dst[at], bytes, 16), barrier[at], multicast.as_ref())?;
                    if *from_shared {
                        let from = self.shared_place(w, pc, Space::SharedCta, src[at], bytes)?;
                        self.issue_load(w, pc, lane, Kind::Forward { from, target: targets[0], bytes })?;
                    } else {
                        let step = |n: u32| Move {
                            shared: 16 * n,
                            bytes: 16,
                            global: Some(src[at] + u64::from(16 * n)),
                        };
                        let moves = (0..bytes / 16).map(step).collect();
                        self.issue_load(
                            w,
                            pc,
                            lane,
                            Kind::Load { moves, targets, fill: [0; 16], map: None, bytes },
                        )?;
                    }
                }
            }
            Bulk::TensorStore { map, coordinates, src, reduce, .. } => {
                let (maps, src) = (self.addresses(w, pc, mask, map)?, self.addresses(w, pc, mask, src)?);
                for lane in lanes(mask) {
                    let index = self.tensor_map(w, pc, maps[lane as usize])?;
                    let coordinates = self.coordinates(w, lane, coordinates);
                    let map: &TensorMap = &self.grid.maps[index];
                    let pieces = match map.boxed_for_store(&coordinates) {
                        Ok(pieces) => pieces,
                        Err(error) => {
                            return self.stop(w, pc, Code::E35, format!("a bulk store of a tensor: {error}"));
                        }
                    };
                    let (alignment, span) = (map.alignment(), map.shared_bytes());
                    let reduce = reduce.map(|op| (AtomicOp::from(op), element_type(map.element)));
                    let (cta, base) = self.shared_place(w, pc, Space::SharedCta, src[lane as usize], span)?;
                    self.require_aligned(w, pc, base, alignment)?;
                    let map = &self.grid.maps[index];
                    let moves = pieces.iter().map(|piece| Move {
                        shared: map.swizzle(base + piece.offset),
                        bytes: piece.bytes,
                        global: piece.global,
                    });
                    let kind = Kind::Store { cta, moves: moves.collect(), reduce };
                    self.issue_store(w, pc, lane, kind)?;
                }
            }
            Bulk::Store { dst, src, bytes, reduce, .. } => {
                let (dst, src) = (self.addresses(w, pc, mask, dst)?, self.addresses(w, pc, mask, src)?);
                let sizes = self.value(w, bytes);
                for lane in lanes(mask) {
                    let at = lane as usize;
                    let bytes = self.bulk_size(w, pc, sizes[at], dst[at])?;
                    let (cta, base) = self.shared_place(w, pc, Space::SharedCta, src[at], bytes)?;
                    self.require_aligned(w, pc, base, 16)?;
                    let step = |n: u32| Move {
                        shared: base + 16 * n,
                        bytes: 16,
                        global: Some(dst[at] + u64::from(16 * n)),
                    };
                    let reduce = reduce.map(|(op, ty)| (AtomicOp::from(op), ty));
                    let kind = Kind::Store { cta, moves: (0..bytes / 16).map(step).collect(), reduce };
                    self.issue_store(w, pc, lane, kind)?;
                }
            }
            Bulk::TensorPrefetch { map, coordinates } => {
                let maps = self.addresses(w, pc, mask, map)?;
                for lane in lanes(mask) {
                    let index = self.tensor_map(w, pc, maps[lane as usize])?;
                    let coordinates = self.coordinates(w, lane, coordinates);
                    if let Err(error) = self.grid.maps[index].boxed(&coordinates) {
                        return self.stop(w, pc, Code::E35, format!("a prefetch of a tensor: {error}"));
                    }
                }
            }
            Bulk::Prefetch { src, bytes } => {
                let (src, sizes) = (self.addresses(w, pc, mask, src)?, self.value(w, bytes));
                for lane in lanes(mask) {
                    self.bulk_size(w, pc, sizes[lane as usize], src[lane as usize])?;
                }
            }
            Bulk::Commit => {
                for lane in lanes(mask) {
                    let groups = self.cluster.warps[w].copies.entry(lane).or_default();
                    let group = std::mem::take(&mut groups.open);
                    groups.committed.push_back(group);
                }
            }
            Bulk::Wait { pending, read } => {
                for lane in lanes(mask) {
                    self.wait_for_groups(w, pc, lane, *pending as usize, *read)?;
                }
            }
        }
        Ok(())
    }

    fn coordinates(&self, w: usize, lane: u32, operands: &[Operand]) -> Vec<i32> {
        operands.iter().map(|operand| self.value(w, operand)[lane as usize] as i32).collect()
    }

    /// Checks the size of a copy of plain bytes, and its address in global memory.
    fn bulk_size(&mut self, w: usize, pc: u32, bytes: u64, address: u64) -> Step<u32> {
        let bytes = bytes as u32;
        if bytes == 0 || !bytes.is_multiple_of(16) || !address.is_multiple_of(16) {
            let message =
                format!("a bulk copy of {bytes} bytes at {address:#x}: both must be multiples of 16");
            return self.stop(w, pc, Code::E32, message);
        }
        Ok(bytes)
    }

    fn require_aligned(&mut self, w: usize, pc: u32, at: u32, alignment: u32) -> Step {
        if !at.is_multiple_of(alignment) {
            let message = format!(
                "a bulk copy to or from shared memory at {at:#x}, which is not a multiple of {alignment}"
            );
            return self.stop(w, pc, Code::E32, message);
        }
        Ok(())
    }

    /// The tensor map at a generic address: its number.
    pub(crate) fn tensor_map(&mut self, w: usize, pc: u32, address: u64) -> Step<usize> {
        let bytes: Option<[u8; 16]> = match address.checked_sub(PARAM_WINDOW) {
            Some(at) => {
                self.grid.params.get(at as usize..at as usize + 16).and_then(|bytes| bytes.try_into().ok())
            }
            None => self
                .grid
                .memory
                .find(address, 128)
                .and_then(|(found, at)| found.data[at..at + 16].try_into().ok()),
        };
        if !address.is_multiple_of(64) {
            return self.stop(
                w,
                pc,
                Code::E32,
                format!("a tensor map at {address:#x}, which is not a multiple of 64"),
            );
        }
        let index = bytes.and_then(|bytes| {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
            (word(0) == MAP_MAGIC).then_some(word(8) as usize).filter(|&index| index < self.grid.maps.len())
        });
        match index {
            Some(index) => Ok(index),
            None => self.stop(w, pc, Code::E35, format!("there is no tensor map at {address:#x}")),
        }
    }

    /// The CTAs that a load writes to. The destination is an address, the bytes from it on, and its alignment.
    fn targets(
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
    fn number(&mut self, w: usize, parts: u32) -> u32 {
        let warp = &mut self.cluster.warps[w];
        warp.copy_count += parts;
        warp.copy_count + 1 - parts
    }

    /// Notes the accesses of a load, and queues it.
    fn issue_load(&mut self, w: usize, pc: u32, lane: u32, kind: Kind) -> Step {
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
    fn issue_store(&mut self, w: usize, pc: u32, lane: u32, kind: Kind) -> Step {
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

    fn check_global(
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

    fn queue(&mut self, copy: PendingCopy) -> Step {
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
    fn perform(&mut self, copy: PendingCopy) -> Step {
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

    /// `cp.async.bulk.wait_group`: all but the last `pending` groups of the thread are done.
    fn wait_for_groups(&mut self, w: usize, pc: u32, lane: u32, pending: usize, read: bool) -> Step {
        let warp = &mut self.cluster.warps[w];
        let Some(groups) = warp
            .copies
            .get_mut(&lane)
            .filter(|groups| !groups.committed.is_empty() || !groups.open.is_empty())
        else {
            self.cluster.ctas[self.cluster.warps[w].cta].vain_wait.get_or_insert((
                pc,
                self.cluster.warps[w].id,
                lane,
            ));
            return Ok(());
        };
        let done = groups.committed.len().saturating_sub(pending);
        let mut stores: Vec<GroupedStore> = groups.committed.iter().take(done).flatten().copied().collect();
        if read {
            groups.committed.iter_mut().take(done).flatten().for_each(|store| store.was_read = true);
        } else {
            groups.committed.drain(..done);
        }
        stores.retain(|store| !(read && store.was_read));
        let mut view = self.cluster.nothing.clone();
        for store in stores {
            view.order.learn_copy(self.cluster.warps[w].id, store.read);
            if !read {
                view.order.learn_copy(self.cluster.warps[w].id, store.write());
            }
            self.perform_store(w, store.read)?;
        }
        if self.grid.options.checks {
            self.cluster.warps[w].acquire(1 << lane, &view);
        }
        Ok(())
    }

    fn perform_store(&mut self, w: usize, number: u32) -> Step {
        let warp = self.cluster.warps[w].id;
        match self.cluster.copies.iter().position(|copy| (copy.warp, copy.number) == (warp, number)) {
            Some(at) => {
                let copy = self.cluster.copies.remove(at);
                self.perform(copy)
            }
            None => Ok(()),
        }
    }

    /// At the end of lanes: their stores must have read their sources, which are gone with the CTA.
    pub(crate) fn end_copies(&mut self, w: usize, pc: u32, mask: u32) -> Step {
        for lane in lanes(mask) {
            let Some(groups) = self.cluster.warps[w].copies.remove(&lane) else { continue };
            let open = groups.open.len();
            let unread: Vec<_> = groups
                .committed
                .into_iter()
                .flatten()
                .chain(groups.open)
                .filter(|store| !store.was_read)
                .collect();
            if let Some(store) = unread.last().filter(|_| self.grid.options.checks) {
                let warp = &self.cluster.warps[w];
                let (id, vain) = (warp.id, self.cluster.ctas[warp.cta].vain_wait);
                let here = Party { pc: store.pc, who: self.who(id, Some(lane)) };
                let what = if open > 0 { "was never committed to a group" } else { "was not waited for" };
                let (code, there, message) = match vain {
                    Some((wait_pc, warp, other)) => {
                        let there = Party { pc: wait_pc, who: self.who(warp, Some(other)) };
                        let message = format!(
                            "a bulk store {what} by its own thread; another thread's wait_group does not see it"
                        );
                        (Code::E27, there, message)
                    }
                    None => {
                        let there = Party { pc, who: "the end of the thread".to_owned() };
                        (
                            Code::E28,
                            there,
                            format!("a bulk store {what} before its thread ended, so its source may be gone"),
                        )
                    }
                };
                self.grid.findings.add(code, here, Some(there), Detail::from(message));
            }
            for store in unread {
                self.perform_store(w, store.read)?;
            }
        }
        Ok(())
    }

    /// Bulk loads into a CTA's memory that nobody who knew `end` has waited for: instruction and warp.
    pub(crate) fn pending_loads(&mut self, cta: usize, end: &View) -> Vec<(u32, u32)> {
        let loads = std::mem::take(&mut self.cluster.ctas[cta].loads);
        loads
            .into_iter()
            .filter(|&(_, warp, number)| !end.order.covers_copy(warp, number))
            .map(|(pc, warp, _)| (pc, warp))
            .collect()
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

/// The type that reductions of a tensor's elements are done in.
fn element_type(element: Element) -> Type {
    match element {
        Element::U8 => Type::U8,
        Element::U16 => Type::U16,
        Element::U32 => Type::U32,
        Element::S32 => Type::S32,
        Element::U64 => Type::U64,
        Element::S64 => Type::S64,
        Element::F16 => Type::F16,
        Element::Bf16 => Type::Bf16,
        Element::F32 => Type::F32,
        Element::F64 => Type::F64,
    }
}
