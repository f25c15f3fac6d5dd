//! Forward analyses over the control-flow graph.

use crate::ir::{Cfg, Instruction, Kernel};

/// What an analysis knows at a point of a kernel.
pub(super) trait State: Clone {
    /// Adds what may be on another path; whether that is more. It only ever grows, to an end.
    fn join(&mut self, other: &Self) -> bool;
}

/// The states at the start of blocks that paths lead to, from `start` at the start of the kernel. `step` moves over
/// an instruction.
pub(super) fn solve<S: State>(
    kernel: &Kernel,
    cfg: &Cfg,
    start: S,
    step: impl Fn(&mut S, u32, &Instruction),
) -> Vec<Option<S>> {
    let blocks = cfg.blocks();
    let mut entries: Vec<Option<S>> = vec![None; blocks.len()];
    entries[0] = Some(start);
    let mut stale = vec![true; blocks.len()];
    while cfg.order().iter().any(|block| stale[*block]) {
        for &block in cfg.order() {
            if !std::mem::replace(&mut stale[block], false) {
                continue;
            }
            let Some(mut state) = entries[block].clone() else { continue };
            for index in blocks[block].code.clone() {
                step(&mut state, index, &kernel.code[index as usize]);
            }
            for &successor in &blocks[block].successors {
                stale[successor] |= match &mut entries[successor] {
                    Some(entry) => entry.join(&state),
                    entry => {
                        *entry = Some(state.clone());
                        true
                    }
                };
            }
        }
    }
    entries
}

/// Visits every instruction that a path leads to with the state before it.
pub(super) fn visit<S: State>(
    kernel: &Kernel,
    cfg: &Cfg,
    entries: &[Option<S>],
    step: impl Fn(&mut S, u32, &Instruction),
    mut at: impl FnMut(&S, u32, &Instruction),
) {
    for (block, entry) in cfg.blocks().iter().zip(entries) {
        let Some(mut state) = entry.clone() else { continue };
        for index in block.code.clone() {
            let instruction = &kernel.code[index as usize];
            at(&state, index, instruction);
            step(&mut state, index, instruction);
        }
    }
}
