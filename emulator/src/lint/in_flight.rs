//! S02: registers of warpgroup products in flight.
//!
//! From the `wgmma.mma_async` that uses a register to the `wgmma.wait_group` that covers it, the register belongs to
//! the product. Neither LLVM nor ptxas keeps other instructions away from it. This is a forward analysis: what may be
//! in flight at a point is what may be on any path to it. Of several products that use a register, the youngest
//! counts: a wait that covers it covers the others.

mod state;

use std::collections::BTreeMap;

use self::state::{Defect, Slots, State};
use super::dataflow::solve;
use super::{Code, Finding, Lint, opcode};
use crate::ir::Op;

pub(super) fn check(lint: &Lint) -> Vec<Finding> {
    let slots = Slots::of(lint.kernel);
    if slots.is_empty() {
        return Vec::new();
    }
    let entries = solve(lint.kernel, lint.cfg, State::new(&slots), |state, index, instruction| {
        state.step(&slots, index, instruction, &mut |_, _| {});
    });
    // Of each defect of an instruction the first other side, and how many registers it concerns.
    let mut defects: BTreeMap<(u32, Defect), (Option<u32>, u32)> = BTreeMap::new();
    for (block, entry) in lint.cfg.blocks().iter().zip(entries) {
        let Some(mut state) = entry else { continue };
        for index in block.code.clone() {
            let instruction = &lint.kernel.code[index as usize];
            state.step(&slots, index, instruction, &mut |defect, there| {
                defects.entry((index, defect)).or_insert((there, 0)).1 += 1;
            });
        }
    }
    defects
        .into_iter()
        .map(|((index, defect), (there, registers))| finding(lint, index, defect, there, registers))
        .collect()
}

fn finding(lint: &Lint, index: u32, defect: Defect, there: Option<u32>, registers: u32) -> Finding {
    let op = &lint.kernel.code[index as usize].op;
    let name = opcode(op);
    let some = if registers == 1 { "a register".to_owned() } else { format!("{registers} registers") };
    let message = match defect {
        Defect::AccumulatorRead => {
            format!("{name} reads {some} that a product in flight accumulates in")
        }
        Defect::AccumulatorWritten if matches!(op, Op::Mma(_)) => {
            format!("{name} accumulates in {some} of a product in flight that has another shape")
        }
        Defect::AccumulatorWritten => {
            format!("{name} writes {some} that a product in flight accumulates in")
        }
        Defect::OperandWritten => format!("{name} writes {some} that a product in flight reads as A"),
        Defect::OperandRead => {
            format!("{name} reads {some} that a product in flight reads as A, which the ISA does not allow")
        }
        Defect::WrittenWithoutFence => {
            format!("{name} uses {some} written by another instruction, without a wgmma.fence between")
        }
        Defect::ReadWithoutFence => {
            format!("{name} writes {some} that another instruction reads, without a wgmma.fence between")
        }
        Defect::NoFence => format!("{name} with no wgmma.fence before it on some path"),
        Defect::Uncommitted if matches!(op, Op::Exit) => {
            "a product is not committed before the end".to_owned()
        }
        Defect::Uncommitted => format!("{name} does not wait for a product that is not committed"),
    };
    let there = there.map(|there| lint.site(there));
    Finding { there, ..lint.finding(Code::S02, defect.level(), index, message) }
}
