//! The instructions that change mbarriers.

use crate::hazard::{Agent, Detail, Party, Record};
use crate::ir::{self, Address, Order, Space};
use crate::machine::knowledge::lanes;
use crate::machine::step::Flow;
use crate::machine::{Engine, Step};
use crate::report::Code;
use std::collections::{BTreeMap, VecDeque};

use super::{LIMIT, Mbarrier, What};

impl Engine<'_, '_> {
    /// Runs an mbarrier instruction.
    pub(crate) fn mbarrier(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        action: &ir::Mbarrier,
        address: &Address,
        space: Space,
    ) -> Step<Flow> {
        if let ir::Mbarrier::PendingCount { dst, state } = action {
            let count = self.value(w, state).map(|token| token >> 32);
            self.cluster.warps[w].registers.write(*dst, &count, mask);
            return Ok(Flow::Next);
        }
        let addresses = self.addresses(w, pc, mask, address)?;
        if let ir::Mbarrier::Wait { done, phase, by_state, suspends, order, .. } = action {
            let phases = self.value(w, phase);
            return self.wait(w, pc, mask, &addresses, &phases, space, (*done, *by_state, *suspends, *order));
        }
        for lane in lanes(mask) {
            let (cta, at) = self.shared_place(w, pc, space, addresses[lane as usize], 8)?;
            if at % 8 != 0 {
                return self.stop(
                    w,
                    pc,
                    Code::E32,
                    format!("an mbarrier at {at:#x}, which is not a multiple of 8"),
                );
            }
            match action {
                ir::Mbarrier::Init { count } => {
                    let count = self.value(w, count)[lane as usize];
                    self.init(w, pc, lane, (cta, at), count)?;
                }
                ir::Mbarrier::Inval => {
                    self.barrier_for(w, pc, lane, (cta, at))?;
                    self.cluster.ctas[cta].mbarriers.remove(&at);
                    self.note_storage(w, pc, lane, (cta, at));
                }
                ir::Mbarrier::Arrive { state, count, expect_tx, drop, no_complete, order, .. } => {
                    let count = self.value(w, count)[lane as usize] as u32;
                    let bytes =
                        expect_tx.as_ref().map(|bytes| self.value(w, bytes)[lane as usize] as u32 as i64);
                    self.barrier_for(w, pc, lane, (cta, at))?;
                    if let Some(bytes) = bytes {
                        self.add_tx(w, pc, (cta, at), bytes)?;
                    }
                    let token = self.cluster.ctas[cta].mbarriers[&at].token();
                    let release = *order != Order::Relaxed;
                    self.arrive(w, pc, lane, (cta, at), count, release, (*drop, *no_complete))?;
                    if let Some(state) = state {
                        self.cluster.warps[w].registers.write(*state, &[token; 32], 1 << lane);
                    }
                }
                ir::Mbarrier::ExpectTx { bytes } | ir::Mbarrier::CompleteTx { bytes } => {
                    let bytes = i64::from(self.value(w, bytes)[lane as usize] as u32);
                    let sign = if matches!(action, ir::Mbarrier::ExpectTx { .. }) { 1 } else { -1 };
                    self.barrier_for(w, pc, lane, (cta, at))?;
                    self.add_tx(w, pc, (cta, at), sign * bytes)?;
                    self.settle(cta, at);
                }
                ir::Mbarrier::Wait { .. } | ir::Mbarrier::PendingCount { .. } => {
                    unreachable!("handled above")
                }
            }
        }
        Ok(Flow::Next)
    }

    /// The bytes of a barrier change hands: nobody may use them as data meanwhile.
    fn note_storage(&mut self, w: usize, pc: u32, lane: u32, (cta, at): (usize, u32)) {
        if self.grid.options.checks {
            let record = self.by_lane(w, pc, lane, true, false);
            let view = self.cluster.warps[w].release(1 << lane);
            self.access_shared(cta, at, 8, record, &view);
        }
    }

    pub(super) fn init(&mut self, w: usize, pc: u32, lane: u32, (cta, at): (usize, u32), count: u64) -> Step {
        if count == 0 || count > LIMIT as u64 {
            let message = format!("an mbarrier for {count} arrivals; 1 to {LIMIT} are possible");
            return self.stop(w, pc, Code::E35, message);
        }
        if let Some((other, old)) = self.overlapping(cta, at, 8) {
            let there = Party { pc: old.init.3, who: self.who(old.init.0, Some(old.init.1)) };
            let here = Party { pc, who: self.who(self.cluster.warps[w].id, Some(lane)) };
            let message = format!("an mbarrier is initialised at {at:#x} where one at {other:#x} is alive");
            self.grid.findings.add(Code::E20, here, Some(there), message.into());
        }
        self.note_storage(w, pc, lane, (cta, at));
        let warp = &self.cluster.warps[w];
        let nothing = &self.cluster.nothing;
        let mut barrier = Mbarrier {
            expected: count as u32,
            dropped: 0,
            pending: count as u32,
            tx: 0,
            phase: 0,
            arrived: nothing.clone(),
            completed: nothing.clone(),
            init: (warp.id, lane, warp.time, pc),
            published: false,
            init_fenced: false,
            announced: None,
            observed: true,
            seen: BTreeMap::new(),
            history: VecDeque::new(),
        };
        barrier.note(pc, warp.id, What::Init);
        self.cluster.ctas[cta].mbarriers.insert(at, barrier);
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "an instruction has that many operands")]
    pub(super) fn arrive(
        &mut self,
        w: usize,
        pc: u32,
        lane: u32,
        (cta, at): (usize, u32),
        count: u32,
        release: bool,
        (drop, no_complete): (bool, bool),
    ) -> Step {
        let checks = self.grid.options.checks;
        let warp = &self.cluster.warps[w];
        let id = warp.id;
        let remote = warp.cta != cta;
        let view = (checks && release).then(|| warp.release(1 << lane));
        let time = warp.time;
        let barrier = self.cluster.ctas[cta].mbarriers.get_mut(&at).expect("looked up before");
        if count == 0
            || count > barrier.pending
            || (no_complete && count == barrier.pending && barrier.tx == 0)
        {
            let (pending, tx) = (barrier.pending, barrier.tx);
            let message = format!(
                "{count} arrivals at the mbarrier at {at:#x}, whose phase waits for {pending} more arrivals and {tx} bytes"
            );
            let history = self.history(cta, at);
            return self.stop(w, pc, Code::E21, Detail { history, ..message.into() });
        }
        self.cluster.events += 1;
        barrier.pending -= count;
        if drop {
            barrier.dropped += count;
        }
        if let Some(view) = &view {
            barrier.arrived.join(view);
        }
        barrier.note(pc, id, What::Arrive(count));
        let unobserved = barrier.phase > 0 && !barrier.observed;
        if checks && unobserved {
            let phase = barrier.phase;
            let message = format!(
                "an arrival in phase {phase} of the mbarrier at {at:#x}, but nobody has waited for phase {}",
                phase - 1
            );
            let history = self.history(cta, at);
            self.find(w, pc, Code::E25, Detail { history, ..message.into() });
        }
        if checks && remote {
            let agent = Agent::Thread { lane: lane as u8, time };
            self.visit(cta, Record { warp: id, agent, pc, bytes: 0, write: true, strong: true });
        }
        self.settle(cta, at);
        Ok(())
    }
}
