//! Which threads agree: about values, and about the path they take.
//!
//! A [`Spread`] says how far apart threads must be to differ. Values and control depend on each other: a branch on a
//! value that differs between lanes parts them, and what they write while parted differs, too. So values are followed
//! again with the control that they give, until nothing changes. It knows one thing about numbers: the upper bits of
//! `%tid.x` are the same in a warp.

use std::collections::BTreeMap;

use super::dataflow::{State, solve, visit};
use super::register_map::RegisterMap;
use crate::ir::{
    Access, Alu, AluOp, Cfg, Compare, Instruction, Kernel, Op, Operand, Reg, Registers, ShuffleMode, Space,
    Special, Type,
};

/// Between which threads of a CTA something may differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spread {
    /// Between none.
    #[default]
    None,
    /// Between warpgroups.
    Warpgroups,
    /// Between warps.
    Warps,
    /// Between the lanes of a warp, but not between warps: lanes of the same number agree.
    LanesAlike,
    /// Between the lanes of a warp and between warpgroups: lanes of the same number agree within a warpgroup.
    LanesAlikeInWarpgroup,
    /// Between the lanes of a warp.
    Lanes,
}

impl Spread {
    /// The spread of what depends on both.
    fn join(self, other: Spread) -> Spread {
        match (self.min(other), self.max(other)) {
            (Spread::Warpgroups, Spread::LanesAlike) => Spread::LanesAlikeInWarpgroup,
            (Spread::Warps, Spread::LanesAlike | Spread::LanesAlikeInWarpgroup) => Spread::Lanes,
            (_, widest) => widest,
        }
    }

    /// The spread of what all lanes of a warp learn of it.
    fn told_to_warp(self) -> Spread {
        match self {
            Spread::LanesAlike => Spread::None,
            Spread::LanesAlikeInWarpgroup => Spread::Warpgroups,
            Spread::Lanes => Spread::Warps,
            same => same,
        }
    }
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Value {
    spread: Spread,
    /// It is the number of the thread in the CTA, shifted right by so many bits.
    thread_shift: Option<u32>,
}

impl Value {
    const fn of(spread: Spread) -> Value {
        Value { spread, thread_shift: None }
    }

    /// `%tid.x >> shift` of a CTA with one dimension.
    fn thread(shift: u32) -> Value {
        Value { spread: spread_of_bits(shift), thread_shift: Some(shift) }
    }

    fn join(self, other: Value) -> Value {
        Value {
            spread: self.spread.join(other.spread),
            thread_shift: self.thread_shift.filter(|shift| other.thread_shift == Some(*shift)),
        }
    }
}

/// The spread of what only depends on the bits from `lowest` up of the number of a thread.
fn spread_of_bits(lowest: u32) -> Spread {
    match lowest {
        0..=4 => Spread::Lanes,
        5..=6 => Spread::Warps,
        _ => Spread::Warpgroups,
    }
}

/// What registers hold at a point of a kernel; nothing, where no path has written them.
#[derive(Clone)]
struct Values {
    registers: RegisterMap<Option<Value>>,
    one_dimension: bool,
}

impl State for Values {
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

/// Who agrees in a kernel.
pub(super) struct Uniformity {
    /// Of each block, how far apart threads may be that do not run it together, and the branch that parts them.
    control: Vec<(Spread, Option<u32>)>,
    /// Of each instruction with a guard.
    guards: Vec<Spread>,
    /// Of the number of each named barrier.
    barriers: BTreeMap<u32, Spread>,
}

impl Uniformity {
    pub(super) fn of(kernel: &Kernel, cfg: &Cfg) -> Uniformity {
        let mut uniformity = Uniformity {
            control: vec![(Spread::None, None); cfg.blocks().len()],
            guards: vec![Spread::None; kernel.code.len()],
            barriers: BTreeMap::new(),
        };
        let parted = parted_blocks(kernel, cfg);
        while uniformity.grow(kernel, cfg, &parted) {}
        uniformity
    }

    /// How far the number of a named barrier spreads.
    pub(super) fn barrier(&self, index: u32) -> Spread {
        self.barriers.get(&index).copied().unwrap_or_default()
    }

    /// How far apart threads may be that do not execute an instruction together, and the branch that parts them: its
    /// own index, if that is its guard.
    pub(super) fn control(&self, cfg: &Cfg, index: u32) -> (Spread, Option<u32>) {
        let around = self.control[cfg.block_of(index)];
        let guard = self.guards[index as usize];
        if guard > around.0 { (guard, Some(index)) } else { around }
    }

    /// Follows values with the control that is known so far; whether that parts more threads.
    fn grow(&mut self, kernel: &Kernel, cfg: &Cfg, parted: &[(u32, Vec<usize>)]) -> bool {
        let block = kernel.required_threads.or(kernel.max_threads);
        let start = Values {
            registers: RegisterMap::new(kernel.registers, None),
            // A kernel that says nothing is taken for one of one dimension.
            one_dimension: matches!(block, None | Some([_, 1, 1])),
        };
        let control: Vec<Spread> = self.control.iter().map(|(spread, _)| *spread).collect();
        let step = |values: &mut Values, index: u32, instruction: &Instruction| {
            values.step(control[cfg.block_of(index)], instruction);
        };
        let entries = solve(kernel, cfg, start, step);
        visit(kernel, cfg, &entries, step, |values, index, instruction| {
            self.guards[index as usize] = values.guard(instruction);
            if let Op::Barrier { id, .. } = &instruction.op {
                self.barriers.insert(index, values.spread(id));
            }
        });
        let mut grew = false;
        for (branch, blocks) in parted {
            let spread = self.guards[*branch as usize];
            for block in blocks {
                if self.control[*block].0 < spread {
                    self.control[*block] = (spread, Some(*branch));
                    grew = true;
                }
            }
        }
        grew
    }
}

impl Values {
    /// Moves over an instruction that threads execute together as far as `control` says.
    fn step(&mut self, control: Spread, instruction: &Instruction) {
        let control = control.join(self.guard(instruction));
        let result = self.result(&instruction.op);
        // Threads that do not come here keep what they had.
        let spread = control.join(result.spread);
        let value = if spread > result.spread { Value::of(spread) } else { result };
        let registers = &mut self.registers;
        instruction.op.registers(&mut |reg, access| {
            if access == Access::Write {
                let kept = registers[reg].filter(|_| instruction.guard.is_some());
                registers[reg] = Some(kept.map_or(value, |kept| kept.join(value)));
            }
        });
    }

    fn guard(&self, instruction: &Instruction) -> Spread {
        let guard = instruction.guard.map(|guard| Operand::Reg(Reg::Pred(guard.predicate)));
        guard.map_or(Spread::None, |guard| self.spread(&guard))
    }

    fn spread(&self, operand: &Operand) -> Spread {
        self.value(operand).spread
    }

    fn value(&self, operand: &Operand) -> Value {
        match operand {
            Operand::Reg(reg) => self.registers[*reg].unwrap_or(Value::of(Spread::None)),
            Operand::Imm(_) | Operand::Shared(_) | Operand::Param(_) => Value::of(Spread::None),
            Operand::Special(special) => self.special(*special),
        }
    }

    fn special(&self, special: Special) -> Value {
        use Special::*;
        match special {
            Tid(0) if self.one_dimension => Value::thread(0),
            Tid(_) if self.one_dimension => Value::of(Spread::None),
            Warpid => Value::of(Spread::Warps),
            Laneid | LanemaskEq | LanemaskLe | LanemaskLt | LanemaskGe | LanemaskGt => {
                Value::of(Spread::LanesAlike)
            }
            Tid(_) | Clock(_) | Clock64 | Globaltimer => Value::of(Spread::Lanes),
            _ => Value::of(Spread::None),
        }
    }

    /// What an instruction writes, if all threads execute it.
    fn result(&self, op: &Op) -> Value {
        match op {
            Op::Alu(alu) => self.arithmetic(alu),
            // Of memory, warps may see different moments.
            Op::Load { space: Space::Param | Space::Const, address, .. }
            | Op::Load { constant: true, address, .. } => Value::of(self.spread(&address.base)),
            Op::Load { space: Space::Global | Space::SharedCta | Space::SharedCluster, address, .. } => {
                Value::of(self.spread(&address.base).join(Spread::Warps))
            }
            Op::Shuffle { mode, src, lane, clamp, .. } => {
                let whole_warp = *mode == ShuffleMode::Idx && *clamp == Operand::Imm(31);
                Value::of(match (self.spread(src), self.spread(lane)) {
                    (src, lane) if whole_warp && lane <= Spread::Warps => src.told_to_warp().join(lane),
                    (src, Spread::None) => src,
                    // Which lane it is from may differ.
                    (Spread::None, _) => Spread::None,
                    (_, _) => Spread::Lanes,
                })
            }
            Op::Vote { .. } | Op::Redux { .. } => Value::of(self.sources(op).told_to_warp()),
            Op::ActiveMask { .. } => Value::of(Spread::Warps),
            Op::Unpack { .. }
            | Op::Pack { .. }
            | Op::Mapa { .. }
            | Op::CtaRank { .. }
            | Op::Cvta { .. }
            | Op::IsSpace { .. } => Value::of(self.sources(op)),
            _ => Value::of(Spread::Lanes),
        }
    }

    /// The widest spread of what an instruction reads.
    fn sources(&self, op: &Op) -> Spread {
        let mut widest = Spread::None;
        op.registers(&mut |reg, access| {
            if access == Access::Read {
                widest = widest.join(self.spread(&Operand::Reg(reg)));
            }
        });
        widest
    }

    fn arithmetic(&self, alu: &Alu) -> Value {
        let sources = &alu.src[..usize::from(alu.sources)];
        let spread = sources.iter().map(|source| self.spread(source)).fold(Spread::None, Spread::join);
        let same = Value::of(spread);
        let Some(shift) = self.value(&alu.src[0]).thread_shift else { return same };
        let integer =
            |ty: Type| matches!(ty, Type::B32 | Type::U32 | Type::S32 | Type::B64 | Type::U64 | Type::S64);
        match (alu.op, sources) {
            (AluOp::Mov, _) => Value::thread(shift),
            (AluOp::Cvt { from }, _) if integer(from) && integer(alu.ty) => Value::thread(shift),
            (AluOp::Shr, [_, Operand::Imm(by)]) if *by < 32 => Value::thread(shift + *by as u32),
            (AluOp::And, [_, Operand::Imm(mask)]) => Value::of(spread_of_bits(shift + mask.trailing_zeros())),
            (AluOp::Bfe, [_, Operand::Imm(start), Operand::Imm(_)]) if *start < 32 => {
                Value::of(spread_of_bits(shift + *start as u32))
            }
            // Both sides of a boundary between warps.
            (AluOp::Setp(Compare::Lt | Compare::Ge), [_, Operand::Imm(bound)]) => {
                Value::of(spread_of_bits(shift + bound.trailing_zeros()))
            }
            (AluOp::Setp(Compare::Le | Compare::Gt), [_, Operand::Imm(bound)]) => {
                Value::of(spread_of_bits(shift + bound.wrapping_add(1).trailing_zeros()))
            }
            _ => same,
        }
    }
}

/// For each instruction that may part threads, the blocks that they run through until all meet again.
fn parted_blocks(kernel: &Kernel, cfg: &Cfg) -> Vec<(u32, Vec<usize>)> {
    let parts = |instruction: &Instruction| {
        instruction.guard.is_some() && matches!(instruction.op, Op::Branch { .. } | Op::Exit | Op::Trap)
    };
    let branches = (0..).zip(&kernel.code).filter(|(_, instruction)| parts(instruction));
    branches.map(|(index, _)| (index, between(cfg, cfg.block_of(index)))).collect()
}

/// Blocks behind `block`, up to where all paths from it meet.
fn between(cfg: &Cfg, block: usize) -> Vec<usize> {
    let meeting = cfg.immediate_post_dominator(block);
    let mut seen = vec![false; cfg.blocks().len()];
    let mut found = Vec::new();
    let mut next = cfg.blocks()[block].successors.clone();
    while let Some(block) = next.pop() {
        if Some(block) != meeting && !std::mem::replace(&mut seen[block], true) {
            found.push(block);
            next.extend(&cfg.blocks()[block].successors);
        }
    }
    found
}
