//! Who runs next: deterministic, by the seed.

use rand::Rng;

use crate::device::Completion;
use crate::hazard::{Detail, Party};
use crate::report::Code;

use super::splits::Wait;
use super::{Engine, Step};

/// Instructions that a cluster may execute before others get their turn.
const BUDGET: u64 = 1 << 20;
/// Instructions of a slice in turn.
const SLICE: u32 = 4096;
/// Rounds of vain polls after which nothing will change any more.
const VAIN_ROUNDS: u32 = 1000;

/// Times that all waits may time out without anything happening between.
const VAIN_TIMEOUTS: u32 = 8;

/// Polls of memory by a warp, after which its lanes that wait for others no longer do.
const POLLS: u32 = 1 << 9;

/// How far a cluster got.
pub(crate) struct Progress {
    /// Whether it executed anything.
    pub(crate) advanced: bool,
    /// Whether all of its threads have ended.
    pub(crate) done: bool,
}

/// How a slice ended.
enum Slice {
    /// Its warp can go on.
    Spent,
    /// Its warp polled in vain.
    Yielded,
    /// Its warp waits, or has ended.
    Blocked,
}

impl Engine<'_, '_> {
    /// Runs until all threads have ended, nothing can run, or others should have their turn.
    pub(crate) fn run(&mut self) -> Step<Progress> {
        let start = self.grid.counters.warp_instructions;
        let warps = self.cluster.warps.len();
        let mut priorities: Vec<u32> = (0..warps).map(|_| self.grid.rng.random()).collect();
        let (mut last, mut vain, mut vain_rounds) = (0, 0, 0);
        let mut advanced = false;
        while self.grid.counters.warp_instructions - start < BUDGET {
            let Some(w) = self.pick(last, &priorities) else {
                if self.cluster.warps.iter().all(|warp| warp.splits.live == 0) {
                    // Nobody waits for what is left, but it happens.
                    while self.perform_some()? {}
                    self.end_mbarriers();
                    return Ok(Progress { advanced, done: true });
                }
                if !self.perform_some()? && !self.time_out() && !self.part_lanes() {
                    return Ok(Progress { advanced, done: false });
                }
                advanced = true;
                continue;
            };
            last = w;
            advanced = true;
            let slice = match self.grid.options.seed {
                0 => SLICE,
                _ => 1 << self.grid.rng.random_range(0..8),
            };
            match self.slice(w, slice)? {
                Slice::Yielded => vain += 1,
                Slice::Spent | Slice::Blocked => vain = 0,
            }
            if self.grid.options.seed != 0 && self.grid.rng.random_ratio(1, 8) {
                priorities[w] = self.grid.rng.random();
            }
            if self.grid.options.completion == Completion::Random && self.grid.rng.random_ratio(1, 8) {
                self.perform_some()?;
            }
            if vain > 2 * warps {
                vain = 0;
                vain_rounds += 1;
                priorities.iter_mut().for_each(|priority| *priority = self.grid.rng.random());
                if self.perform_some()? || vain_rounds > VAIN_ROUNDS && self.part_lanes() {
                    vain_rounds = 0;
                } else if vain_rounds > VAIN_ROUNDS {
                    return Ok(Progress { advanced: false, done: false });
                }
            }
        }
        Ok(Progress { advanced, done: false })
    }

    /// A warp that can run: the next in turn, or with a seed the one of highest priority.
    fn pick(&self, last: usize, priorities: &[u32]) -> Option<usize> {
        let warps = &self.cluster.warps;
        if self.grid.options.seed == 0 {
            return (1..=warps.len()).map(|step| (last + step) % warps.len()).find(|&w| warps[w].can_run());
        }
        (0..warps.len()).filter(|&w| warps[w].can_run()).max_by_key(|&w| priorities[w])
    }

    /// Lets lanes go on that wait for others of their warp, and returns whether there were any.
    fn part_lanes(&mut self) -> bool {
        self.cluster.warps.iter_mut().fold(false, |any, warp| warp.splits.part() | any)
    }

    /// Runs a warp for up to `limit` instructions. Its parts take turns from slice to slice.
    fn slice(&mut self, w: usize, limit: u32) -> Step<Slice> {
        let ended = self.run_slice(w, limit)?;
        let warp = &mut self.cluster.warps[w];
        warp.splits.turn();
        // It polls memory: perhaps for what its own waiting lanes would do.
        if warp.polls > POLLS && warp.splits.part() {
            warp.polls = 0;
        }
        Ok(ended)
    }

    fn run_slice(&mut self, w: usize, limit: u32) -> Step<Slice> {
        for _ in 0..limit {
            let parts = &self.cluster.warps[w].splits.list;
            let Some(s) = parts.iter().position(|split| split.wait.is_none()) else {
                return Ok(Slice::Blocked);
            };
            let pc = parts[s].pc;
            let yielded = self.step(w, s)?;
            self.cluster.warps[w].splits.settle();
            if self.grid.counters.warp_instructions > self.grid.options.instruction_limit {
                let message = format!(
                    "given up after {} instructions: a loop does not end",
                    self.grid.options.instruction_limit
                );
                return self.stop(w, pc, Code::E24, message);
            }
            if yielded {
                return Ok(Slice::Yielded);
            }
        }
        Ok(if self.cluster.warps[w].can_run() { Slice::Spent } else { Slice::Blocked })
    }

    /// Lets every wait for an mbarrier time out, and returns whether there was any. Not for ever: once nothing happens
    /// between time-outs, they are loops that wait in vain.
    fn time_out(&mut self) -> bool {
        if self.cluster.events == self.cluster.events_at_timeout {
            self.cluster.timeouts += 1;
        } else {
            self.cluster.timeouts = 0;
        }
        self.cluster.events_at_timeout = self.cluster.events;
        if self.cluster.timeouts > VAIN_TIMEOUTS {
            return false;
        }
        let mut any = false;
        for split in self.cluster.warps.iter_mut().flat_map(|warp| &mut warp.splits.list) {
            if matches!(split.wait, Some(Wait::Mbarrier { .. })) {
                (split.wait, split.timed_out, any) = (None, true, true);
            }
        }
        any
    }

    /// Whether a wait returns before it is satisfied, as hardware may.
    pub(crate) fn gives_up(&mut self, w: usize, pc: u32) -> bool {
        let part =
            self.cluster.warps[w].splits.list.iter_mut().find(|split| split.pc == pc && split.timed_out);
        if let Some(part) = part {
            part.timed_out = false;
            return true;
        }
        self.grid.options.completion == Completion::Random
            && self.grid.options.seed != 0
            && self.grid.rng.random_ratio(1, 8)
    }

    /// Says who waits for what.
    pub(crate) fn report_deadlock(&mut self) {
        let mut history = Vec::new();
        let mut barriers = Vec::new();
        let mut first = None;
        for warp in &self.cluster.warps {
            for split in &warp.splits.list {
                // At a barrier that it has arrived at, a warp already stands behind the instruction.
                let pc = split.pc - u32::from(matches!(split.wait, Some(Wait::Barrier { .. })));
                first.get_or_insert((warp.id, pc));
                let what = match &split.wait {
                    None => "polls in vain".to_owned(),
                    Some(Wait::Mbarrier { cta, address, parity }) => {
                        if !barriers.contains(&(*cta, *address)) {
                            barriers.push((*cta, *address));
                        }
                        format!("waits for {}", self.describe_phase(*cta, *address, *parity))
                    }
                    Some(Wait::Barrier { id, .. }) => format!("waits for {}", self.missing_at(warp.cta, *id)),
                    Some(Wait::Cluster { .. }) => format!("waits for {}", self.missing_at_cluster()),
                    Some(Wait::Registers { wanted }) => {
                        let pool = self.cluster.ctas[warp.cta].pool;
                        format!("waits for {wanted} registers of the CTA's pool, which has {pool}")
                    }
                    Some(Wait::Lanes { .. }) => "waits for other lanes of the warp".to_owned(),
                };
                let site = self.grid.findings.site(pc);
                history.push(format!("{} at {site} {what}", self.who(warp.id, None)));
            }
            for (pc, lanes) in warp.splits.parked() {
                let site = self.grid.findings.site(pc);
                history.push(format!(
                    "{} lanes {lanes:#010x} wait at {site} for the others",
                    self.who(warp.id, None)
                ));
            }
        }
        history.extend(barriers.into_iter().flat_map(|(cta, at)| self.history(cta, at)));
        let (warp, pc) = first.unwrap_or_default();
        let here = Party { pc, who: self.who(warp, None) };
        let detail = Detail { history, ..Detail::from("nothing can run any more, and no copy is pending") };
        self.grid.findings.add(Code::E24, here, None, detail);
    }
}
