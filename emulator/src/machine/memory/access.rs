//! Loads, stores and atomics.

use crate::ir::{Address, AtomicOp, Op, Operand, Order, Reg, Space, Type};
use crate::machine::atomic::combine;
use crate::machine::knowledge::lanes;
use crate::machine::{CTA_BITS, Engine, MAP_MAGIC, SHARED_WINDOW, Step};
use crate::report::Code;

use super::{Kind, Place};

impl Engine<'_, '_> {
    /// `ld`
    pub(crate) fn load(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        (space, ty, order): Kind,
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
    pub(super) fn load_param(
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
        if start > self.grid.params.len() as u64 {
            let message =
                format!("{total} bytes at {start:#x} of the {} bytes of parameters", self.grid.params.len());
            return self.stop(w, pc, Code::E31, message);
        }
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
        (space, ty, order): Kind,
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
        for operand in std::iter::once(src).chain(swap) {
            if let Operand::Reg(reg) = operand {
                self.require_written(w, pc, mask, *reg);
            }
        }
        // Constants are sign-extended to 64 bits; memory is not.
        let width = u64::MAX >> (64 - 8 * ty.bytes());
        let operands = self.value(w, src).map(|value| value & width);
        let swaps = swap.as_ref().map(|swap| self.value(w, swap));
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
            if *op != AtomicOp::Exch && self.grid.options.checks {
                self.require_initialised(w, pc, place, ty.bytes());
            }
            let record = self.by_lane(w, pc, lane, true, true);
            self.note(w, lane, place, ty.bytes(), record);
            self.synchronise(w, lane, place, *order, true, true);
        }
        if let Some(dst) = dst {
            self.write(w, *dst, &old, mask);
        }
        Ok(())
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
