//! What is in flight at a point of a kernel.

use std::collections::HashMap;

use crate::ir::{Access, Instruction, Kernel, Mma, MmaA, MmaAccumulator, MmaType, Op, Reg, Registers};
use crate::lint::dataflow;
use crate::report::Level;

/// What can be wrong with an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Defect {
    AccumulatorRead,
    AccumulatorWritten,
    OperandWritten,
    OperandRead,
    WrittenWithoutFence,
    ReadWithoutFence,
    NoFence,
    Uncommitted,
}

impl Defect {
    /// Reads that no product can disturb are against the letter of the ISA only.
    pub(super) fn level(self) -> Level {
        match self {
            Defect::OperandRead | Defect::ReadWithoutFence => Level::Warn,
            _ => Level::Deny,
        }
    }
}

/// Numbers of the registers that products use; of others nothing need be known.
pub(super) struct Slots(HashMap<Reg, usize>);

impl Slots {
    pub(super) fn of(kernel: &Kernel) -> Slots {
        let mut slots = HashMap::new();
        let mut add = |reg: &Reg| {
            let next = slots.len();
            slots.entry(*reg).or_insert(next);
        };
        for instruction in &kernel.code {
            if let Op::Mma(mma) = &instruction.op {
                mma.d.iter().for_each(&mut add);
                operands(mma).iter().for_each(&mut add);
            }
        }
        Slots(slots)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The registers of A.
fn operands(mma: &Mma) -> &[Reg] {
    match &mma.a {
        MmaA::Registers(registers) => registers,
        MmaA::Shared { .. } => &[],
    }
}

/// What products must agree in to follow each other on the same accumulators without a fence.
type Shape = (u32, MmaAccumulator, u32);

fn shape(mma: &Mma) -> Shape {
    let k: fn(MmaType) -> u32 = MmaType::k;
    (mma.n, mma.d_type, k(mma.a_type))
}

/// A product that uses a register.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Flight {
    /// Commits since: 0 while it is not committed.
    age: u32,
    product: u32,
    shape: Shape,
}

/// Who accessed a register since the last fence.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Touch {
    /// Absent for other instructions than products.
    shape: Option<Shape>,
    at: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Register {
    accumulates: Option<Flight>,
    operand: Option<Flight>,
    written: Option<Touch>,
    read: Option<Touch>,
}

/// What may be at a point.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    registers: Vec<Register>,
    /// A product that is not committed.
    open: Option<u32>,
    /// Every path has a fence.
    fenced: bool,
}

impl dataflow::State for State {
    fn join(&mut self, other: &Self) -> bool {
        let mut grew = false;
        for (register, other) in self.registers.iter_mut().zip(&other.registers) {
            let youngest = |flight: &Flight| (flight.age, flight.product);
            grew |= add(&mut register.accumulates, other.accumulates, youngest);
            grew |= add(&mut register.operand, other.operand, youngest);
            // Ordinary instructions first: nothing excuses them.
            let strictest = |touch: &Touch| (touch.shape.is_some(), touch.at);
            grew |= add(&mut register.written, other.written, strictest);
            grew |= add(&mut register.read, other.read, strictest);
        }
        grew |= add(&mut self.open, other.open, |product| *product);
        grew |= self.fenced && !other.fenced;
        self.fenced &= other.fenced;
        grew
    }
}

impl State {
    pub(super) fn new(slots: &Slots) -> State {
        State { registers: vec![Register::default(); slots.0.len()], open: None, fenced: false }
    }

    /// Moves over an instruction; `report` gets its defects, and the other side of each.
    pub(super) fn step(
        &mut self,
        slots: &Slots,
        index: u32,
        instruction: &Instruction,
        report: &mut impl FnMut(Defect, Option<u32>),
    ) {
        match &instruction.op {
            Op::MmaFence => {
                self.fenced = true;
                self.registers.iter_mut().for_each(|register| {
                    register.written = None;
                    register.read = None;
                });
            }
            Op::MmaCommit => {
                self.open = None;
                let flights = self.registers.iter_mut().flat_map(|r| [&mut r.accumulates, &mut r.operand]);
                flights.flatten().for_each(|flight| flight.age += 1);
            }
            Op::MmaWait { pending } => {
                if self.open.is_some() {
                    report(Defect::Uncommitted, self.open);
                }
                for register in &mut self.registers {
                    let in_flight = |flight: &Flight| flight.age <= *pending;
                    register.accumulates = register.accumulates.filter(in_flight);
                    register.operand = register.operand.filter(in_flight);
                }
            }
            Op::Mma(mma) => self.product(slots, index, mma, report),
            op => {
                if matches!(op, Op::Exit) && self.open.is_some() {
                    report(Defect::Uncommitted, self.open);
                }
                self.ordinary(slots, index, op, report);
            }
        }
    }

    fn product(
        &mut self,
        slots: &Slots,
        index: u32,
        mma: &Mma,
        report: &mut impl FnMut(Defect, Option<u32>),
    ) {
        if !self.fenced {
            report(Defect::NoFence, None);
        }
        let shape = shape(mma);
        let flight = Flight { age: 0, product: index, shape };
        for reg in operands(mma) {
            let register = &mut self.registers[slots.0[reg]];
            if let Some(flight) = register.accumulates {
                report(Defect::AccumulatorRead, Some(flight.product));
            } else if let Some(touch) = register.written {
                report(Defect::WrittenWithoutFence, Some(touch.at));
            }
            register.operand = Some(flight);
        }
        for reg in &mma.d {
            let register = &mut self.registers[slots.0[reg]];
            if let Some(flight) = register.operand.filter(|flight| flight.product != index) {
                report(Defect::OperandWritten, Some(flight.product));
            }
            let other = |touch: &Touch| touch.shape != Some(shape);
            if let Some(flight) = register.accumulates.filter(|flight| flight.shape != shape) {
                report(Defect::AccumulatorWritten, Some(flight.product));
            } else if let Some(touch) = register.written.filter(other) {
                report(Defect::WrittenWithoutFence, Some(touch.at));
            } else if let Some(touch) = register.read {
                report(Defect::ReadWithoutFence, Some(touch.at));
            }
            register.accumulates = Some(flight);
            register.written = Some(Touch { shape: Some(shape), at: index });
        }
        self.open.get_or_insert(index);
    }

    fn ordinary(&mut self, slots: &Slots, index: u32, op: &Op, report: &mut impl FnMut(Defect, Option<u32>)) {
        op.registers(&mut |reg, access| {
            let Some(slot) = slots.0.get(&reg) else { return };
            let register = &mut self.registers[*slot];
            let touch = Some(Touch { shape: None, at: index });
            let (accumulator, operand) = match access {
                Access::Read => {
                    register.read = touch;
                    (Defect::AccumulatorRead, Defect::OperandRead)
                }
                Access::Write => {
                    register.written = touch;
                    (Defect::AccumulatorWritten, Defect::OperandWritten)
                }
            };
            if let Some(flight) = register.accumulates {
                report(accumulator, Some(flight.product));
            } else if let Some(flight) = register.operand {
                report(operand, Some(flight.product));
            }
        });
    }
}

/// Keeps the one that comes first by `key`; whether that is the other.
fn add<T: Copy, K: Ord>(one: &mut Option<T>, other: Option<T>, key: impl Fn(&T) -> K) -> bool {
    let first = match (&one, &other) {
        (Some(one), Some(other)) => key(other) < key(one),
        (None, Some(_)) => true,
        (_, None) => false,
    };
    if first {
        *one = other;
    }
    first
}
