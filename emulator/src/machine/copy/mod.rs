//! Bulk copies: issued at an instruction, done at some later time.
//!
//! A copy's accesses are checked when it is issued, with what its thread knows then, because it may touch memory from
//! that moment on; its bytes move when the completion policy says. A load counts as done for those who wait for its
//! mbarrier. A store counts twice: its source is read, and its destination is written, and a thread learns of either by
//! waiting for its groups.

mod groups;
mod issue;
mod perform;

use std::collections::VecDeque;
use std::rc::Rc;

use crate::ir::{AtomicOp, Bulk, Space, Type};
use crate::report::Code;
use crate::tensor_map::{Element, Piece, TensorMap};

use crate::machine::knowledge::lanes;
use crate::machine::{Engine, MAP_MAGIC, PARAM_WINDOW, Step};

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
                            global: Some(src[at].wrapping_add(u64::from(16 * n))),
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
                        global: Some(dst[at].wrapping_add(u64::from(16 * n))),
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
