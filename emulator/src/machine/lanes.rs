//! Instructions that lanes of a warp execute together.

use rand::Rng;

use crate::ir::{Op, Operand, Reg, VoteMode};
use crate::models;
use crate::report::Code;

use super::atomic::combine;
use super::knowledge::lanes;
use super::registers::Lanes;
use super::splits::Wait;
use super::step::Flow;
use super::{Engine, Step};

impl Engine<'_, '_> {
    /// Runs an instruction with a mask of members once all of them are there. Parts of a warp that came on different
    /// ways execute it together, and go on apart.
    pub(crate) fn together(
        &mut self,
        w: usize,
        s: usize,
        pc: u32,
        mask: u32,
        members: &Operand,
        op: &Op,
    ) -> Step<Flow> {
        let named = self.value(w, members);
        let members = named[mask.trailing_zeros() as usize] as u32;
        if lanes(mask).any(|lane| named[lane as usize] as u32 != members) {
            return self.stop(w, pc, Code::E34, "the lanes disagree about which of them take part");
        }
        let live = self.cluster.warps[w].splits.live;
        if mask & !members != 0 || members & !live != 0 && members != u32::MAX {
            let message = format!(
                "lanes {mask:#010x} execute an instruction for lanes {members:#010x}; lanes {live:#010x} are alive"
            );
            return self.stop(w, pc, Code::E34, message);
        }
        let members = members & live;
        // Others of the members that wait here already. A barrier may be another instruction for each.
        let any_barrier = matches!(op, Op::WarpBarrier { .. });
        let code = self.grid.code;
        let parts = &self.cluster.warps[w].splits.list;
        let waiting: Vec<usize> = (0..parts.len())
            .filter(|&part| {
                let same = parts[part].pc == pc
                    || any_barrier
                        && matches!(
                            code.get(parts[part].pc as usize).map(|ins| &ins.op),
                            Some(Op::WarpBarrier { .. })
                        );
                part != s && same && matches!(parts[part].wait, Some(Wait::Lanes { .. }))
            })
            .collect();
        let here = waiting.iter().fold(mask, |here, &part| match parts[part].wait {
            Some(Wait::Lanes { mask }) => here | mask,
            _ => here,
        });
        if here & members != members {
            return Ok(Flow::Wait(Wait::Lanes { mask }));
        }
        self.lane_operation(w, pc, members, op)?;
        for part in waiting {
            let part = &mut self.cluster.warps[w].splits.list[part];
            part.wait = None;
            part.pc += 1;
        }
        Ok(Flow::Next)
    }

    fn lane_operation(&mut self, w: usize, pc: u32, mask: u32, op: &Op) -> Step {
        match op {
            Op::WarpBarrier { .. } => {
                if self.grid.options.checks {
                    self.cluster.warps[w].meet(mask);
                }
            }
            Op::Shuffle { mode, dst, in_range, src, lane, clamp, .. } => {
                let (values, selectors, clamps) =
                    (self.value(w, src), self.value(w, lane), self.value(w, clamp));
                let mut result = [0; 32];
                let mut predicate = 0;
                for lane in lanes(mask) {
                    let at = lane as usize;
                    let (from, in_range) =
                        models::shuffle::source(*mode, lane, selectors[at] as u32, clamps[at] as u32);
                    if mask >> from & 1 == 0 {
                        let message = format!(
                            "lane {lane} reads from lane {from}, which does not take part: {mask:#010x} do"
                        );
                        return self.stop(w, pc, Code::E34, message);
                    }
                    result[at] = values[from as usize];
                    predicate |= u32::from(in_range) << lane;
                }
                self.write(w, *dst, &result, mask);
                if let Some(Reg::Pred(number)) = in_range {
                    self.cluster.warps[w].registers.write_predicate(*number, predicate, mask);
                }
            }
            Op::Vote { mode, dst, src, negated, .. } => {
                let values = self.value(w, src);
                let ballot = lanes(mask)
                    .filter(|&lane| (values[lane as usize] & 1 != 0) != *negated)
                    .fold(0, |b, l| b | 1 << l);
                let result = match mode {
                    VoteMode::All => u64::from(ballot == mask),
                    VoteMode::Any => u64::from(ballot != 0),
                    VoteMode::Uni => u64::from(ballot == mask || ballot == 0),
                    VoteMode::Ballot => u64::from(ballot),
                };
                self.write(w, *dst, &[result; 32], mask);
            }
            Op::Match { all, dst, same, src, .. } => {
                let values = self.value(w, src);
                let equal = |lane: u32| {
                    lanes(mask)
                        .filter(|&other| values[other as usize] == values[lane as usize])
                        .fold(0u64, |m, l| m | 1 << l)
                };
                let mut result: Lanes = [0; 32];
                lanes(mask).for_each(|lane| result[lane as usize] = equal(lane));
                let agreed = result[mask.trailing_zeros() as usize] == u64::from(mask);
                if *all && !agreed {
                    result = [0; 32];
                }
                self.write(w, *dst, &result, mask);
                if let Some(same) = same {
                    self.write(w, *same, &[u64::from(agreed); 32], mask);
                }
            }
            Op::Redux { op, ty, dst, src, .. } => {
                let values = self.value(w, src);
                let result = lanes(mask)
                    .map(|lane| values[lane as usize])
                    .reduce(|a, b| combine(*op, *ty, a, b))
                    .unwrap_or(0);
                self.write(w, *dst, &[result; 32], mask);
            }
            Op::Elect { dst, leader, .. } => {
                // The ISA does not say which lane it is: the lowest first, by other seeds any.
                let lane = match self.grid.options.seed {
                    0 => mask.trailing_zeros(),
                    _ => lanes(mask)
                        .nth(self.grid.rng.random_range(0..mask.count_ones()) as usize)
                        .unwrap_or(0),
                };
                if let Some(dst) = dst {
                    self.write(w, *dst, &[u64::from(lane); 32], mask);
                }
                self.write(w, *leader, &std::array::from_fn(|at| u64::from(at as u32 == lane)), mask);
            }
            _ => unreachable!("called for instructions of several lanes only"),
        }
        Ok(())
    }
}
