//! Which registers depend on data: on what tensors contain, not on shapes and addresses.
//!
//! Data is what loads from global memory bring, what bulk copies bring to shared memory, and what products make of
//! it. Kernel parameters are public, and so is what the pointers point to that a caller names. Shared and local memory
//! are each one cell in the whole kernel, so data is seen too often rather than too rarely.

use std::collections::BTreeSet;

use super::dataflow::{State, solve, visit};
use super::register_map::RegisterMap;
use crate::ir::{
    Access, Address, Alu, AluOp, Bulk, Cfg, Instruction, Kernel, Op, Operand, Reg, Registers, Space,
};

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Taint {
    /// It depends on no data; and perhaps it points into what a parameter points to, by the offset of that. Those that point
    /// to what is public are all alike.
    Public(Option<u32>),
    /// It depends on what this instruction brings.
    Secret(u32),
}

const PUBLIC: Taint = Taint::Public(None);

impl Taint {
    fn join(self, other: Taint) -> Taint {
        match (self, other) {
            (Taint::Secret(a), Taint::Secret(b)) => Taint::Secret(a.min(b)),
            (Taint::Secret(source), _) | (_, Taint::Secret(source)) => Taint::Secret(source),
            (Taint::Public(a), Taint::Public(b)) => Taint::Public(a.filter(|a| b == Some(*a))),
        }
    }

    fn source(self) -> Option<u32> {
        match self {
            Taint::Secret(source) => Some(source),
            Taint::Public(_) => None,
        }
    }
}

/// The instruction whose data is in shared memory, and in local memory.
#[derive(Clone, Copy, Default, PartialEq)]
struct Cells {
    shared: Option<u32>,
    local: Option<u32>,
}

/// What depends on data at a point of a kernel.
#[derive(Clone)]
pub(super) struct Secrets<'a> {
    public_pointers: &'a BTreeSet<u32>,
    /// Absent where no path has written it.
    registers: RegisterMap<Option<Taint>>,
    cells: Cells,
}

impl State for Secrets<'_> {
    fn join(&mut self, other: &Self) -> bool {
        self.registers.join(&other.registers, |one, other| {
            let joined = match (*one, *other) {
                (Some(one), Some(other)) => Some(one.join(other)),
                (one, other) => one.or(other),
            };
            let grew = joined != *one;
            *one = joined;
            grew
        })
    }
}

impl<'a> Secrets<'a> {
    /// Visits every instruction that a path leads to with what depends on data before it.
    pub(super) fn visit(
        kernel: &Kernel,
        cfg: &Cfg,
        public_pointers: &'a BTreeSet<u32>,
        at: impl FnMut(&Self, u32, &Instruction),
    ) {
        let registers = RegisterMap::new(kernel.registers, None);
        let mut start = Secrets { public_pointers, registers, cells: Cells::default() };
        let step = |state: &mut Self, index: u32, instruction: &Instruction| state.step(index, instruction);
        // What is stored anywhere may be loaded anywhere: with what was found in memory, from the start again.
        let entries = loop {
            let entries = solve(kernel, cfg, start.clone(), step);
            let mut cells = start.cells;
            visit(kernel, cfg, &entries, step, |state, index, instruction| {
                state.memory(&mut cells, index, &instruction.op);
            });
            if cells == start.cells {
                break entries;
            }
            start.cells = cells;
        };
        visit(kernel, cfg, &entries, step, at);
    }

    /// The instruction that brought the data that an operand depends on, if it does.
    pub(super) fn source(&self, operand: &Operand) -> Option<u32> {
        self.taint(operand).source()
    }

    /// The same of the guard of an instruction.
    pub(super) fn guard(&self, instruction: &Instruction) -> Option<u32> {
        self.source(&Operand::Reg(Reg::Pred(instruction.guard?.predicate)))
    }

    fn taint(&self, operand: &Operand) -> Taint {
        match operand {
            Operand::Reg(reg) => self.registers[*reg].unwrap_or(PUBLIC),
            _ => PUBLIC,
        }
    }

    fn step(&mut self, index: u32, instruction: &Instruction) {
        let result = self.result(index, &instruction.op);
        // With a guard on data, even which value is left depends on data.
        let value = self.guard(instruction).map_or(result, |source| result.join(Taint::Secret(source)));
        let registers = &mut self.registers;
        instruction.op.registers(&mut |reg, access| {
            if access == Access::Write {
                let kept = registers[reg].filter(|_| instruction.guard.is_some());
                registers[reg] = Some(kept.map_or(value, |kept| kept.join(value)));
            }
        });
    }

    /// What an instruction writes to its registers.
    fn result(&self, index: u32, op: &Op) -> Taint {
        match op {
            Op::Alu(alu) => self.arithmetic(alu),
            Op::Cvta { src, .. } => self.taint(src),
            Op::Load { space, address, .. } => self.load(index, *space, address),
            Op::Atomic { space, address, .. } => match space {
                Space::SharedCta | Space::SharedCluster => {
                    self.sources(op).join(self.cells.shared.map_or(PUBLIC, Taint::Secret))
                }
                _ if self.is_public_memory(address) => self.sources(op),
                _ => Taint::Secret(index),
            },
            Op::LoadMatrix { .. } => self.cells.shared.map_or(PUBLIC, Taint::Secret).join(self.sources(op)),
            Op::Mma(_) => Taint::Secret(index),
            // When a wait ends depends on time, not on data.
            Op::Mbarrier { .. } => PUBLIC,
            _ => self.sources(op),
        }
    }

    fn load(&self, index: u32, space: Space, address: &Address) -> Taint {
        let cell = match space {
            Space::Param => match address.base {
                Operand::Param(offset) => {
                    let offset = u32::try_from(i64::from(offset) + address.offset).ok();
                    let public = offset.filter(|offset| self.public_pointers.contains(offset));
                    Taint::Public(public.and(self.public_pointers.first().copied()).or(offset))
                }
                _ => PUBLIC,
            },
            Space::Const => PUBLIC,
            Space::SharedCta | Space::SharedCluster => self.cells.shared.map_or(PUBLIC, Taint::Secret),
            Space::Local => self.cells.local.map_or(PUBLIC, Taint::Secret),
            Space::Global | Space::Generic if self.is_public_memory(address) => PUBLIC,
            Space::Global | Space::Generic => Taint::Secret(index),
        };
        match self.source(&address.base) {
            Some(source) => cell.join(Taint::Secret(source)),
            None => cell,
        }
    }

    fn is_public_memory(&self, address: &Address) -> bool {
        matches!(self.taint(&address.base), Taint::Public(Some(offset)) if self.public_pointers.contains(&offset))
    }

    /// Whether any register that is read depends on data.
    fn sources(&self, op: &Op) -> Taint {
        let mut taint = PUBLIC;
        op.registers(&mut |reg, access| {
            if access == Access::Read {
                taint = taint.join(self.taint(&Operand::Reg(reg)));
            }
        });
        taint
    }

    /// A pointer plus a number is a pointer to the same thing.
    fn arithmetic(&self, alu: &Alu) -> Taint {
        let sources = &alu.src[..usize::from(alu.sources)];
        let taints = || sources.iter().map(|source| self.taint(source));
        let mut pointers = taints().filter(|taint| matches!(taint, Taint::Public(Some(_))));
        match (alu.op, taints().find(|taint| taint.source().is_some())) {
            (_, Some(secret)) => secret,
            (AluOp::Mov | AluOp::Add | AluOp::Sub | AluOp::MadWide | AluOp::Mad, None) => {
                match (pointers.next(), pointers.next()) {
                    (Some(pointer), None) => pointer,
                    _ => PUBLIC,
                }
            }
            (AluOp::Selp, None) => self.taint(&sources[0]).join(self.taint(&sources[1])),
            _ => PUBLIC,
        }
    }

    /// Notes what an instruction brings to shared or local memory.
    fn memory(&self, cells: &mut Cells, index: u32, op: &Op) {
        let stored = match op {
            Op::Store { src, .. } => src.iter().find_map(|value| self.source(value)),
            Op::Atomic { src, swap, .. } => {
                self.source(src).or_else(|| swap.as_ref().and_then(|swap| self.source(swap)))
            }
            Op::StoreMatrix { src, .. } => src.iter().find_map(|reg| self.source(&Operand::Reg(*reg))),
            Op::Bulk(Bulk::TensorLoad { .. }) => Some(index),
            Op::Bulk(Bulk::Load { src, from_shared: false, .. }) => {
                Some(index).filter(|_| !self.is_public_memory(src))
            }
            _ => None,
        };
        let (shared, local) = match op {
            Op::Store { space, .. } | Op::Atomic { space, .. } => (
                matches!(space, Space::SharedCta | Space::SharedCluster | Space::Generic),
                matches!(space, Space::Local | Space::Generic),
            ),
            _ => (true, false),
        };
        cells.shared = cells.shared.or(stored.filter(|_| shared));
        cells.local = cells.local.or(stored.filter(|_| local));
    }
}
