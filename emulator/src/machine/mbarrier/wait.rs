//! Waits for phases of mbarriers.

use crate::hazard::Detail;
use crate::ir::{self, Order, Space};
use crate::machine::knowledge::lanes;
use crate::machine::splits::Wait;
use crate::machine::step::Flow;
use crate::machine::{Engine, Step};
use crate::report::Code;

use super::{Seen, What};

impl Engine<'_, '_> {
    /// `test_wait` and `try_wait`. Lanes may wait for different barriers only if none of them has to suspend.
    #[allow(clippy::too_many_arguments, reason = "an instruction has that many operands")]
    pub(super) fn wait(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        addresses: &[u64; 32],
        phases: &[u64; 32],
        space: Space,
        (done, by_state, suspends, order): (ir::Reg, bool, bool, Order),
    ) -> Step<Flow> {
        let mut results = [0; 32];
        let mut unready = None;
        // Lanes whose phase is complete, by barrier and parity.
        let mut ready: Vec<((usize, u32), u32, u32)> = Vec::new();
        for lane in lanes(mask) {
            let (cta, at) = self.shared_place(w, pc, space, addresses[lane as usize], 8)?;
            if cta != self.cluster.warps[w].cta {
                return self.stop(
                    w,
                    pc,
                    Code::E33,
                    format!("a wait for an mbarrier of another CTA, at {at:#x}: only its own CTA can wait"),
                );
            }
            self.barrier_for(w, pc, lane, (cta, at))?;
            let barrier = &self.cluster.ctas[cta].mbarriers[&at];
            let phase = phases[lane as usize];
            let parity = if by_state { (phase & 1) as u32 } else { phase as u32 };
            if parity > 1 {
                return self.stop(
                    w,
                    pc,
                    Code::E35,
                    format!("a wait for parity {parity}; 0 and 1 are possible"),
                );
            }
            if barrier.is_complete(parity) {
                results[lane as usize] = 1;
                match ready.iter_mut().find(|group| (group.0, group.1) == ((cta, at), parity)) {
                    Some(group) => group.2 |= 1 << lane,
                    None => ready.push(((cta, at), parity, 1 << lane)),
                }
            } else {
                unready.get_or_insert(Wait::Mbarrier { cta, address: at, parity });
            }
        }
        if let Some(wait) = unready {
            self.grid.counters.blocked_waits += 1;
            if suspends && ready.is_empty() && !self.gives_up(w, pc) {
                return Ok(Flow::Wait(wait));
            }
        }
        for &(place, parity, mask) in &ready {
            self.observe(w, pc, mask, place, parity, order);
        }
        let warp = &mut self.cluster.warps[w];
        warp.registers.write(done, &results, mask);
        if ready.is_empty() {
            return Ok(Flow::Yield);
        }
        Ok(Flow::Next)
    }

    /// Threads see that a phase is complete.
    pub(super) fn observe(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        (cta, at): (usize, u32),
        parity: u32,
        order: Order,
    ) {
        let barrier = self.cluster.ctas[cta].mbarriers.get_mut(&at).expect("looked up before");
        let warp = &mut self.cluster.warps[w];
        let completed = barrier.phase as i64 - 1;
        debug_assert_eq!(completed & 1, i64::from(parity));
        barrier.observed = true;
        if !self.grid.options.checks {
            return;
        }
        barrier.note(pc, warp.id, What::Observe);
        // A thread may leave phases to others if it knows that somebody has seen the one before this: then the wait
        // cannot have been satisfied by an older phase of the same parity. What it learns here comes too late for that.
        let knows = |lane: u32, phase: i64| {
            barrier.seen.iter().any(|(&(by, by_lane), seen)| {
                let private = warp.private.get(&lane);
                let views = private.into_iter().chain([&warp.common]);
                seen.time_of(phase).is_some_and(|time| {
                    views.into_iter().any(|view| view.order.covers_lane(by, by_lane, time))
                })
            })
        };
        let missed = |lane: &u32| {
            let last = barrier.seen.get(&(warp.id, *lane))?.last.0;
            (completed - last >= 2 && !knows(*lane, completed - 1)).then_some(last)
        };
        let last = lanes(mask).filter_map(|lane| missed(&lane)).min();
        if order != Order::Relaxed {
            warp.acquire(mask, &barrier.completed);
        }
        for lane in lanes(mask) {
            let now = (completed, warp.time);
            let seen = barrier.seen.entry((warp.id, lane)).or_insert(Seen { last: now, before: None });
            if seen.last.0 != completed {
                *seen = Seen { last: now, before: Some(seen.last) };
            }
        }
        if let Some(last) = last {
            let message = format!(
                "a wait for parity {parity} of the mbarrier at {at:#x} is satisfied by phase {completed}, \
                 but a thread has last seen phase {last}: it missed one of the same parity"
            );
            let history = self.history(cta, at);
            self.find(w, pc, Code::E23, Detail { history, ..message.into() });
        }
    }
}
