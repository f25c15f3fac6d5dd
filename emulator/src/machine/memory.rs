//! Ordinary loads and stores, atomics, matrices of 8 by 8.

use crate::hazard::{Agent, Record, View};
use crate::ir::{Address, AtomicOp, Op, Operand, Order, Reg, Scope, Space, Type};
use crate::models;
use crate::report::Code;

use super::atomic::combine;
use super::knowledge::lanes;
use super::{CTA_BITS, Engine, MAP_MAGIC, PARAM_WINDOW, SHARED_WINDOW, Step, WINDOW_BYTES};

/// Banks of shared memory, of four bytes each.
const BANKS: usize = 32;

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Shared { cta: usize, at: u32 },
    Global { address: u64 },
    Param { at: usize },
}

/// Space, type, ordering and scope of an access.
pub(crate) type Kind = (Space, Type, Order, Scope);

impl Engine<'_, '_> {
    /// Where `bytes` bytes at an address are. Stops if they are nowhere, or not aligned to their size.
    fn place(&mut self, w: usize, pc: u32, space: Space, address: u64, bytes: u32) -> Step<Place> {
        if !address.is_multiple_of(u64::from(bytes)) {
            return self.stop(
                w,
                pc,
                Code::E32,
                format!("{bytes} bytes at {address:#x}, which is not a multiple of {bytes}"),
            );
        }
        let in_window = |window: u64| address.wrapping_sub(window) < WINDOW_BYTES;
        match space {
            Space::SharedCta | Space::SharedCluster => {
                self.shared_place(w, pc, space, address, bytes).map(|(cta, at)| Place::Shared { cta, at })
            }
            Space::Generic if in_window(SHARED_WINDOW) => {
                self.shared_place(w, pc, space, address, bytes).map(|(cta, at)| Place::Shared { cta, at })
            }
            Space::Param | Space::Generic if space == Space::Param || in_window(PARAM_WINDOW) => {
                let at = (if space == Space::Param { address } else { address - PARAM_WINDOW }) as usize;
                if at + bytes as usize > self.grid.params.len() {
                    let message = format!(
                        "{bytes} bytes at {at:#x} of the {} bytes of parameters",
                        self.grid.params.len()
                    );
                    return self.stop(w, pc, Code::E31, message);
                }
                Ok(Place::Param { at })
            }
            Space::Generic | Space::Global => match self.grid.memory.find(address, u64::from(bytes)) {
                Some(_) => Ok(Place::Global { address }),
                None => self.stop(
                    w,
                    pc,
                    Code::E31,
                    format!("{bytes} bytes at {address:#x} are outside of every allocation"),
                ),
            },
            Space::Local | Space::Const | Space::Param => self.stop(
                w,
                pc,
                Code::E33,
                format!("an access to {space:?} memory, which the emulator does not have"),
            ),
        }
    }

    fn bytes_at(&self, place: Place, bytes: u32) -> u64 {
        let bytes = bytes as usize;
        let slice = match place {
            Place::Shared { cta, at } => &self.cluster.ctas[cta].smem[at as usize..][..bytes],
            Place::Param { at } => &self.grid.params[at..][..bytes],
            Place::Global { address } => {
                let (allocation, at) = self.grid.memory.find(address, bytes as u64).expect("placed before");
                &allocation.data[at..][..bytes]
            }
        };
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(slice);
        u64::from_le_bytes(value)
    }

    fn set_bytes(&mut self, place: Place, bytes: u32, value: u64) {
        let bytes = bytes as usize;
        let slice = match place {
            Place::Shared { cta, at } => &mut self.cluster.ctas[cta].smem[at as usize..][..bytes],
            Place::Param { .. } => return,
            Place::Global { address } => {
                let (allocation, at) =
                    self.grid.memory.find_mut(address, bytes as u64).expect("placed before");
                &mut allocation.data[at..][..bytes]
            }
        };
        slice.copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    /// An ordinary access of a lane now.
    fn by_lane(&self, w: usize, pc: u32, lane: u32, write: bool, strong: bool) -> Record {
        let warp = &self.cluster.warps[w];
        let agent = Agent::Thread { lane: lane as u8, time: warp.time };
        Record { warp: warp.id, agent, pc, bytes: 0, write, strong }
    }

    /// Notes an ordinary access of `lane`, and what is wrong with it.
    fn note(&mut self, w: usize, lane: u32, place: Place, bytes: u32, record: Record) {
        if !self.grid.options.checks {
            return;
        }
        if let Place::Shared { cta, at } = place {
            self.check_barrier_storage(w, record.pc, cta, at, bytes);
        }
        if let Place::Global { address } = place {
            self.check_dependency(w, record.pc, lane, address, bytes);
        }
        if !record.write {
            self.require_initialised(w, record.pc, place, bytes);
        }
        let warp = &mut self.cluster.warps[w];
        // The view is lent out of the warp: cloning it for each lane would dominate.
        let private = warp.private.contains_key(&lane).then(|| warp.release(1 << lane));
        let common = std::mem::take(&mut warp.common);
        let view = private.as_ref().unwrap_or(&common);
        match place {
            Place::Shared { cta, at } => self.access_shared(cta, at, bytes, record, view),
            Place::Global { address } => self.access_global(address, bytes, record, view),
            Place::Param { .. } => {}
        }
        self.cluster.warps[w].common = common;
    }

    /// Reports a read of bytes that nobody has written.
    fn require_initialised(&mut self, w: usize, pc: u32, place: Place, bytes: u32) {
        let missing = match place {
            Place::Shared { cta, at } => {
                let shadow = &self.cluster.ctas[cta].shadow;
                crate::memory::chunks(at as usize, bytes as usize)
                    .any(|(chunk, mask)| shadow.written(chunk) & mask != mask)
            }
            Place::Global { address } => {
                let (allocation, at) =
                    self.grid.memory.find(address, u64::from(bytes)).expect("placed before");
                crate::memory::chunks(at, bytes as usize)
                    .any(|(chunk, mask)| allocation.shadow.written(chunk) & mask != mask)
            }
            Place::Param { .. } => false,
        };
        if missing {
            self.find(
                w,
                pc,
                Code::E30,
                format!("{bytes} bytes are read of which some were never written: {}", show(place)),
            );
        }
    }

    /// What was released at an address is learnt, or released there, as the ordering says.
    fn synchronise(&mut self, w: usize, lane: u32, place: Place, order: Order, write: bool, read: bool) {
        if order == Order::Weak || !self.grid.options.checks {
            return;
        }
        let cluster = &mut *self.cluster;
        let warp = &mut cluster.warps[w];
        let (released, address) = match place {
            Place::Global { address } => (&mut self.grid.released, address),
            Place::Shared { cta, at } => (&mut cluster.ctas[cta].released, u64::from(at)),
            Place::Param { .. } => return,
        };
        if read && let Some(view) = released.get(&address) {
            if matches!(order, Order::Acquire | Order::AcqRel) {
                warp.acquire(1 << lane, view);
            } else {
                warp.pending_acquire.get_or_insert_with(|| view.clone()).join(view);
            }
        }
        if write {
            let view = match order {
                Order::Release | Order::AcqRel => Some(warp.release(1 << lane)),
                _ => warp.release_relaxed(lane),
            };
            if let Some(view) = view {
                released.entry(address).or_insert_with(|| view.clone()).join(&view);
            }
        }
    }

    /// `ld`
    pub(crate) fn load(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        (space, ty, order, _): Kind,
        dst: &[Option<Reg>],
        address: &Address,
    ) -> Step {
        if space == Space::Param && matches!(address.base, Operand::Param(_)) {
            return self.load_param(w, pc, mask, ty, dst, address);
        }
        let addresses = self.addresses(w, pc, mask, address)?;
        let bytes = ty.bytes() * dst.len() as u32;
        let mut values = vec![[0; 32]; dst.len()];
        let mut shared = Vec::new();
        for lane in lanes(mask) {
            let place = self.place(w, pc, space, addresses[lane as usize], ty.bytes())?;
            if !addresses[lane as usize].is_multiple_of(u64::from(bytes)) {
                self.place(w, pc, space, addresses[lane as usize], bytes)?;
            }
            for (element, value) in values.iter_mut().enumerate() {
                let part = self.place(
                    w,
                    pc,
                    space,
                    addresses[lane as usize] + element as u64 * u64::from(ty.bytes()),
                    ty.bytes(),
                )?;
                value[lane as usize] = extend(self.bytes_at(part, ty.bytes()), ty);
            }
            let record = self.by_lane(w, pc, lane, false, order != Order::Weak);
            self.note(w, lane, place, bytes, record);
            self.synchronise(w, lane, place, order, false, true);
            match place {
                Place::Shared { at, .. } => shared.push((at, bytes)),
                Place::Global { .. } => self.grid.counters.global_load_bytes += u64::from(bytes),
                Place::Param { .. } => {}
            }
        }
        self.count_shared(&shared, false);
        for (reg, value) in dst.iter().zip(&values).filter_map(|(reg, value)| reg.map(|reg| (reg, value))) {
            self.write(w, reg, value, mask);
        }
        Ok(())
    }

    /// `ld.param` of a named parameter: the same in all lanes.
    fn load_param(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        ty: Type,
        dst: &[Option<Reg>],
        address: &Address,
    ) -> Step {
        let start = self.value(w, &address.base)[0].wrapping_add_signed(address.offset);
        let total = u64::from(ty.bytes()) * dst.len() as u64;
        let magic = MAP_MAGIC.to_le_bytes();
        let map = start as usize / 64 * 64;
        if [map, map.saturating_sub(64)].iter().any(|&at| {
            start < at as u64 + 128 && self.grid.params.get(at..at + 8).is_some_and(|bytes| bytes == magic)
        }) {
            return self.stop(
                w,
                pc,
                Code::E33,
                "the bytes of a tensor map are read: their meaning is the hardware's alone",
            );
        }
        for (element, reg) in dst.iter().enumerate() {
            let at = start + element as u64 * u64::from(ty.bytes());
            let place = self.place(w, pc, Space::Param, at, ty.bytes())?;
            if let Some(reg) = reg {
                let value = extend(self.bytes_at(place, ty.bytes()), ty);
                self.write(w, *reg, &[value; 32], mask);
            }
        }
        if !start.is_multiple_of(total) {
            return self.stop(
                w,
                pc,
                Code::E32,
                format!("{total} bytes at {start:#x} of the parameters, which is not a multiple of {total}"),
            );
        }
        Ok(())
    }

    /// `st`
    pub(crate) fn store(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        (space, ty, order, _): Kind,
        src: &[Operand],
        address: &Address,
    ) -> Step {
        let addresses = self.addresses(w, pc, mask, address)?;
        let bytes = ty.bytes() * src.len() as u32;
        for operand in src {
            if let Operand::Reg(reg) = operand {
                self.require_written(w, pc, mask, *reg);
            }
        }
        let values: Vec<_> = src.iter().map(|operand| self.value(w, operand)).collect();
        let mut shared = Vec::new();
        for lane in lanes(mask) {
            let at = addresses[lane as usize];
            let first = self.place(w, pc, space, at, ty.bytes())?;
            if !at.is_multiple_of(u64::from(bytes)) {
                self.place(w, pc, space, at, bytes)?;
            }
            if let Place::Param { .. } = first {
                return self.stop(w, pc, Code::E33, "a store to the parameters, which are constant");
            }
            for (element, value) in values.iter().enumerate() {
                let part =
                    self.place(w, pc, space, at + element as u64 * u64::from(ty.bytes()), ty.bytes())?;
                self.set_bytes(part, ty.bytes(), value[lane as usize]);
            }
            // Lanes that write the same value to the same place agree: only the first is noted.
            let repeats = lanes(mask).take_while(|&before| before < lane).any(|before| {
                addresses[before as usize] == at
                    && values.iter().all(|value| value[before as usize] == value[lane as usize])
            });
            if !repeats {
                let record = self.by_lane(w, pc, lane, true, order != Order::Weak);
                self.note(w, lane, first, bytes, record);
            }
            self.synchronise(w, lane, first, order, true, false);
            match first {
                Place::Shared { at, .. } => shared.push((at, bytes)),
                _ => self.grid.counters.global_store_bytes += u64::from(bytes),
            }
        }
        self.count_shared(&shared, true);
        Ok(())
    }

    /// `atom`, `red`
    pub(crate) fn atomic(&mut self, w: usize, pc: u32, mask: u32, op: &Op) -> Step {
        let Op::Atomic { op, space, ty, dst, address, src, swap, order, .. } = op else {
            unreachable!("called for atomics only")
        };
        let addresses = self.addresses(w, pc, mask, address)?;
        let (operands, swaps) = (self.value(w, src), swap.as_ref().map(|swap| self.value(w, swap)));
        let mut old = [0; 32];
        for lane in lanes(mask) {
            let place = self.place(w, pc, *space, addresses[lane as usize], ty.bytes())?;
            let before = self.bytes_at(place, ty.bytes());
            let operand = operands[lane as usize];
            let after = match (op, &swaps) {
                (AtomicOp::Cas, Some(swaps)) if before == operand => swaps[lane as usize],
                (AtomicOp::Cas, _) => before,
                _ => combine(*op, *ty, before, operand),
            };
            self.set_bytes(place, ty.bytes(), after);
            if after != before {
                self.cluster.warps[w].polls = 0;
            }
            old[lane as usize] = before;
            let record = self.by_lane(w, pc, lane, true, true);
            self.note(w, lane, place, ty.bytes(), record);
            self.synchronise(w, lane, place, *order, true, true);
        }
        if let Some(dst) = dst {
            self.write(w, *dst, &old, mask);
        }
        Ok(())
    }

    /// `ldmatrix`
    pub(crate) fn load_matrix(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        dst: &[Reg],
        address: &Address,
        transposed: bool,
    ) -> Step {
        let rows = self.matrix_rows(w, pc, mask, dst.len(), address, false)?;
        let matrices: Vec<_> = rows
            .chunks(8)
            .map(|rows| {
                std::array::from_fn::<[u16; 8], 8, _>(|row| {
                    let Place::Shared { cta, at } = rows[row] else {
                        unreachable!("matrices are in shared memory")
                    };
                    let smem = &self.cluster.ctas[cta].smem[at as usize..];
                    std::array::from_fn(|column| u16::from_le_bytes([smem[2 * column], smem[2 * column + 1]]))
                })
            })
            .collect();
        for (reg, matrix) in dst.iter().zip(&matrices) {
            let value = std::array::from_fn(|lane| {
                let [low, high] = models::matrix::elements(lane as u32, transposed)
                    .map(|(row, column)| u64::from(matrix[row as usize][column as usize]));
                low | high << 16
            });
            self.write(w, *reg, &value, mask);
        }
        Ok(())
    }

    /// `stmatrix`
    pub(crate) fn store_matrix(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        address: &Address,
        src: &[Reg],
        transposed: bool,
    ) -> Step {
        for reg in src {
            self.require_written(w, pc, mask, *reg);
        }
        let rows = self.matrix_rows(w, pc, mask, src.len(), address, true)?;
        for (reg, rows) in src.iter().zip(rows.chunks(8)) {
            let value = self.value(w, &Operand::Reg(*reg));
            for (lane, value) in value.into_iter().enumerate() {
                for (half, (row, column)) in
                    models::matrix::elements(lane as u32, transposed).into_iter().enumerate()
                {
                    let Place::Shared { cta, at } = rows[row as usize] else {
                        unreachable!("matrices are in shared memory")
                    };
                    let element = Place::Shared { cta, at: at + 2 * column };
                    self.set_bytes(element, 2, value >> (16 * half) & 0xFFFF);
                }
            }
        }
        Ok(())
    }

    /// Where the rows of `matrices` matrices are: row r of matrix i as lane 8i + r says. Notes the accesses, each by
    /// that lane: the instruction belongs to the whole warp.
    fn matrix_rows(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        matrices: usize,
        address: &Address,
        write: bool,
    ) -> Step<Vec<Place>> {
        let addresses = self.addresses(w, pc, mask, address)?;
        let mut rows = Vec::with_capacity(8 * matrices);
        let mut passes = Vec::with_capacity(8 * matrices);
        for lane in 0..8 * matrices as u32 {
            let place = self.place(w, pc, Space::SharedCta, addresses[lane as usize], 16)?;
            let record = self.by_lane(w, pc, lane, write, false);
            self.note(w, lane, place, 16, record);
            rows.push(place);
            if let Place::Shared { at, .. } = place {
                passes.push((at, 16));
            }
        }
        self.count_shared(&passes, write);
        Ok(rows)
    }

    /// Counts bytes, passes over the banks and conflicts of an access of a warp: its addresses and sizes.
    fn count_shared(&mut self, accesses: &[(u32, u32)], write: bool) {
        if accesses.is_empty() {
            return;
        }
        let bytes = accesses.iter().map(|&(_, bytes)| u64::from(bytes)).sum::<u64>();
        let counters = &mut self.grid.counters;
        *(if write { &mut counters.shared_store_bytes } else { &mut counters.shared_load_bytes }) += bytes;
        // A warp's access goes in groups of lanes that need at most 128 bytes together.
        let group = (128 / accesses[0].1.max(4)).min(32) as usize;
        for lanes in accesses.chunks(group) {
            let mut words: Vec<u32> =
                lanes.iter().flat_map(|&(at, bytes)| at / 4..(at + bytes).div_ceil(4)).collect();
            words.sort_unstable();
            words.dedup();
            let mut banks = [0u64; BANKS];
            words.iter().for_each(|word| banks[*word as usize % BANKS] += 1);
            let passes = banks.into_iter().max().unwrap_or(0);
            counters.shared_passes += passes;
            counters.bank_conflicts += passes - (words.len() as u64).div_ceil(BANKS as u64);
        }
    }

    /// `mapa`
    #[allow(clippy::too_many_arguments, reason = "an instruction has that many operands")]
    pub(crate) fn mapa(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        dst: Reg,
        address: &Operand,
        rank: &Operand,
        generic: bool,
    ) -> Step {
        let (addresses, ranks) = (self.value(w, address), self.value(w, rank));
        let mut mapped = [0; 32];
        let limit = self.cluster.ctas.len() as u64;
        for lane in lanes(mask) {
            let (address, rank) = (addresses[lane as usize], ranks[lane as usize]);
            if rank >= limit {
                return self.stop(w, pc, Code::E35, format!("CTA {rank} of a cluster of {limit}"));
            }
            let window = if generic { SHARED_WINDOW } else { 0 };
            let inside = address.wrapping_sub(window) & ((1 << CTA_BITS) - 1);
            mapped[lane as usize] = window + ((rank + 1) << CTA_BITS | inside);
        }
        self.write(w, dst, &mapped, mask);
        Ok(())
    }

    /// Notes that a whole warp's product or a bulk copy touches shared memory, and that it reads nothing unwritten.
    pub(crate) fn note_async(
        &mut self,
        w: usize,
        cta: usize,
        at: u32,
        bytes: u32,
        record: Record,
        view: &View,
    ) {
        self.check_barrier_storage(w, record.pc, cta, at, bytes);
        if !record.write {
            self.require_initialised(w, record.pc, Place::Shared { cta, at }, bytes);
        }
        self.access_shared(cta, at, bytes, record, view);
    }
}

fn show(place: Place) -> String {
    match place {
        Place::Shared { at, .. } => format!("shared memory at {at:#x}"),
        Place::Global { address } => format!("global memory at {address:#x}"),
        Place::Param { at } => format!("parameters at {at:#x}"),
    }
}

/// A loaded value as its register holds it: signed types are sign-extended.
fn extend(value: u64, ty: Type) -> u64 {
    match ty {
        Type::S8 => value as u8 as i8 as i64 as u64,
        Type::S16 => value as u16 as i16 as i64 as u64,
        Type::S32 => value as u32 as i32 as i64 as u64,
        _ => value,
    }
}
