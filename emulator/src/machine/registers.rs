//! The registers of a warp.

use crate::ir::{Reg, RegisterCounts};

/// A value in each lane.
pub(crate) type Lanes = [u64; 32];

/// Registers of a warp, and which lanes of them were ever written.
#[derive(Debug)]
pub(crate) struct RegisterFile {
    narrow: Vec<[u32; 32]>,
    wide: Vec<Lanes>,
    predicates: Vec<u32>,
    written: [Vec<u32>; 3],
}

impl RegisterFile {
    pub(crate) fn new(counts: RegisterCounts) -> Self {
        let (predicates, narrow, wide) =
            (usize::from(counts.predicates), usize::from(counts.narrow), usize::from(counts.wide));
        RegisterFile {
            narrow: vec![[0; 32]; narrow],
            wide: vec![[0; 32]; wide],
            predicates: vec![0; predicates],
            written: [vec![0; predicates], vec![0; narrow], vec![0; wide]],
        }
    }

    /// A register in all lanes, zero-extended.
    pub(crate) fn read(&self, reg: Reg) -> Lanes {
        match reg {
            Reg::Narrow(n) => self.narrow[usize::from(n)].map(u64::from),
            Reg::Wide(n) => self.wide[usize::from(n)],
            Reg::Pred(n) => {
                let mask = self.predicates[usize::from(n)];
                std::array::from_fn(|lane| u64::from(mask >> lane & 1))
            }
        }
    }

    /// Writes the lanes of `mask`.
    pub(crate) fn write(&mut self, reg: Reg, value: &Lanes, mask: u32) {
        let lanes = (0..32).filter(|lane| mask >> lane & 1 != 0);
        match reg {
            Reg::Narrow(n) => {
                let register = &mut self.narrow[usize::from(n)];
                if mask == u32::MAX {
                    *register = value.map(|v| v as u32);
                } else {
                    lanes.for_each(|lane| register[lane] = value[lane] as u32);
                }
                self.written[1][usize::from(n)] |= mask;
            }
            Reg::Wide(n) => {
                let register = &mut self.wide[usize::from(n)];
                if mask == u32::MAX {
                    *register = *value;
                } else {
                    lanes.for_each(|lane| register[lane] = value[lane]);
                }
                self.written[2][usize::from(n)] |= mask;
            }
            Reg::Pred(n) => {
                let bits = (0..32).fold(0, |bits, lane| bits | ((value[lane] & 1) as u32) << lane);
                self.write_predicate(n, bits, mask);
            }
        }
    }

    /// A predicate as a mask of lanes.
    pub(crate) fn predicate(&self, number: u16) -> u32 {
        self.predicates[usize::from(number)]
    }

    /// Writes the lanes of `mask` of a predicate.
    pub(crate) fn write_predicate(&mut self, number: u16, bits: u32, mask: u32) {
        let predicate = &mut self.predicates[usize::from(number)];
        *predicate = *predicate & !mask | bits & mask;
        self.written[0][usize::from(number)] |= mask;
    }

    /// A narrow register, as it lies.
    pub(crate) fn narrow(&self, number: u16) -> &[u32; 32] {
        &self.narrow[usize::from(number)]
    }

    /// The same, to write all lanes of.
    pub(crate) fn narrow_mut(&mut self, number: u16) -> &mut [u32; 32] {
        self.written[1][usize::from(number)] = u32::MAX;
        &mut self.narrow[usize::from(number)]
    }

    /// Says that a narrow register is being written, in all lanes, by something that comes later.
    pub(crate) fn promise(&mut self, number: u16) {
        self.written[1][usize::from(number)] = u32::MAX;
    }

    /// Says that what a register holds in the lanes of `mask` was made of something that nobody has written.
    pub(crate) fn forget(&mut self, reg: Reg, mask: u32) {
        let (class, number) = match reg {
            Reg::Pred(n) => (0, n),
            Reg::Narrow(n) => (1, n),
            Reg::Wide(n) => (2, n),
        };
        self.written[class][usize::from(number)] &= !mask;
    }

    /// Lanes in which a register was ever written.
    pub(crate) fn written(&self, reg: Reg) -> u32 {
        match reg {
            Reg::Pred(n) => self.written[0][usize::from(n)],
            Reg::Narrow(n) => self.written[1][usize::from(n)],
            Reg::Wide(n) => self.written[2][usize::from(n)],
        }
    }
}
