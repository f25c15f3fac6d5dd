//! Barriers of CTAs and clusters, the register pool, and the end of warps.

mod end;
mod pool;

use crate::hazard::{Party, View};
use crate::ir::{Operand, Order};
use crate::report::Code;

use crate::machine::knowledge::lanes;
use crate::machine::splits::Wait;
use crate::machine::step::Flow;
use crate::machine::{Engine, Step};

/// A named barrier of a CTA.
#[derive(Debug)]
pub(crate) struct NamedBarrier {
    /// Threads that it is for, in this generation.
    threads: Option<u32>,
    /// Whether that is all of the CTA: then it does not wait for those that have ended.
    for_all: bool,
    arrived: u32,
    /// Lanes that have arrived, by warp of the CTA.
    participants: Vec<(u32, u32)>,
    /// Instruction of the last that came.
    last: u32,
    /// Instruction and warp of the first that came to wait with an aligned instruction.
    waiting: Option<(u32, usize)>,
    generation: u64,
    /// What those knew who have arrived.
    gathered: View,
    /// What those knew who had arrived at the end of the last generation.
    completed: View,
}

impl NamedBarrier {
    pub(crate) fn new(nothing: &View) -> Self {
        NamedBarrier {
            threads: None,
            for_all: false,
            arrived: 0,
            participants: Vec::new(),
            last: 0,
            waiting: None,
            generation: 0,
            gathered: nothing.clone(),
            completed: nothing.clone(),
        }
    }
}

/// The barrier of a cluster.
#[derive(Debug)]
pub(crate) struct ClusterBarrier {
    warps: u32,
    /// Lanes that have arrived, by warp.
    arrived: Vec<u32>,
    /// Lanes that have arrived and not yet waited, by warp.
    owing: Vec<u32>,
    generation: u64,
    gathered: View,
    completed: View,
}

impl ClusterBarrier {
    /// Generations that have ended.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn new(warps: u32, nothing: &View) -> Self {
        ClusterBarrier {
            warps,
            arrived: vec![0; warps as usize],
            owing: vec![0; warps as usize],
            generation: 0,
            gathered: nothing.clone(),
            completed: nothing.clone(),
        }
    }
}

impl Engine<'_, '_> {
    /// `bar.sync`, `bar.arrive` and their kin.
    #[allow(clippy::too_many_arguments, reason = "an instruction has that many operands")]
    pub(crate) fn named_barrier(
        &mut self,
        w: usize,
        s: usize,
        pc: u32,
        mask: u32,
        (waits, aligned): (bool, bool),
        id: &Operand,
        threads: Option<&Operand>,
    ) -> Step<Flow> {
        if aligned {
            self.require_whole_warp(w, pc, mask)?;
        }
        let first = mask.trailing_zeros() as usize;
        let id = self.value(w, id)[first] as u32;
        let all = self.grid.launch.block.iter().product::<u32>().next_multiple_of(32);
        let threads = threads.map(|threads| self.value(w, threads)[first] as u32);
        if id > 15 {
            return self.stop(w, pc, Code::E35, format!("barrier {id}; 0 to 15 exist"));
        }
        if let Some(threads) = threads.filter(|&threads| threads == 0 || threads % 32 != 0 || threads > all) {
            let message = format!(
                "barrier {id} for {threads} threads; multiples of 32 up to the {all} of the CTA are possible"
            );
            return self.stop(w, pc, Code::E35, message);
        }
        if !waits && threads.is_none() {
            return self.stop(
                w,
                pc,
                Code::E35,
                format!("an arrival at barrier {id} that does not say for how many threads"),
            );
        }
        let for_all = threads.is_none();
        let threads = threads.unwrap_or(all);
        let cta = self.cluster.warps[w].cta;
        let (index, live) = (self.cluster.warps[w].index, self.cluster.warps[w].splits.live);
        let generation = self.cluster.ctas[cta].barriers[id as usize].generation;
        let view = self.grid.options.checks.then(|| {
            // All lanes of a warp come together, so they know of each other what each knows.
            self.cluster.warps[w].release(mask)
        });
        self.cluster.events += 1;
        let barrier = &mut self.cluster.ctas[cta].barriers[id as usize];
        if let Some(expected) = barrier.threads.filter(|&expected| expected != threads) {
            let message = format!(
                "barrier {id} is used for {threads} threads while {} of {expected} threads are there",
                barrier.arrived
            );
            return self.stop(w, pc, Code::E41, message);
        }
        if barrier.participants.iter().any(|&(warp, there)| warp == index && there & mask != 0) {
            return self.stop(
                w,
                pc,
                Code::E41,
                format!("the warp comes to barrier {id} twice before the others come once"),
            );
        }
        let first_wait = match waits && aligned {
            true => *barrier.waiting.get_or_insert((pc, w)),
            false => (pc, w),
        };
        (barrier.threads, barrier.for_all) = (Some(threads), for_all);
        barrier.last = pc;
        // A whole warp counts as 32 threads, however many it has.
        barrier.arrived += if mask == live { 32 } else { mask.count_ones() };
        barrier.participants.push((index, mask));
        if let Some(view) = view {
            barrier.gathered.join(&view);
        }
        if barrier.arrived > threads {
            let arrived = barrier.arrived;
            return self.stop(
                w,
                pc,
                Code::E41,
                format!("{arrived} threads come to barrier {id}, which is for {threads}"),
            );
        }
        if first_wait.0 != pc {
            let party = |(pc, w): (u32, usize)| Party { pc, who: self.who(self.cluster.warps[w].id, None) };
            let (here, there) = (party((pc, w)), party(first_wait));
            let message =
                format!("an aligned wait at barrier {id}, where others wait by another instruction");
            self.grid.findings.add(Code::E34, here, Some(there), message.into());
        }
        if self.settle_barrier(cta, id) {
            if waits {
                self.learn_barrier(w, cta, id, mask);
            }
            return Ok(Flow::Next);
        }
        if !waits {
            return Ok(Flow::Next);
        }
        // It has arrived: what is left of the instruction is the wait, so it goes on behind it.
        self.cluster.warps[w].splits.go(s, pc + 1);
        self.cluster.warps[w].splits.list[s].wait = Some(Wait::Barrier { id, generation });
        self.grid.counters.warp_instructions += 1;
        Ok(Flow::Done)
    }

    /// Ends the generation of a barrier that everybody has come to, and wakes those who wait for it.
    fn settle_barrier(&mut self, cta: usize, id: u32) -> bool {
        let per_cta = self.cluster.warps.len() as u32 / self.cluster.ctas.len() as u32;
        let state = &mut self.cluster.ctas[cta];
        let ended = 32 * (per_cta - state.running);
        let barrier = &mut state.barriers[id as usize];
        let there = barrier.arrived + if barrier.for_all { ended } else { 0 };
        if barrier.arrived == 0 || barrier.threads.is_none_or(|threads| there < threads) {
            return false;
        }
        barrier.completed = barrier.gathered.clone();
        barrier.threads = None;
        barrier.arrived = 0;
        barrier.participants.clear();
        barrier.waiting = None;
        let generation = barrier.generation;
        barrier.generation += 1;
        self.finish_barrier(cta, id, generation);
        true
    }

    /// Ends the barriers that waited only for warps that have ended.
    fn settle_barriers(&mut self, cta: usize) {
        for id in 0..16 {
            self.settle_barrier(cta, id);
        }
    }

    /// Wakes those who wait for a generation of a barrier.
    fn finish_barrier(&mut self, cta: usize, id: u32, generation: u64) {
        let woken = Wait::Barrier { id, generation };
        for w in 0..self.cluster.warps.len() {
            if self.cluster.warps[w].cta != cta {
                continue;
            }
            for s in 0..self.cluster.warps[w].splits.list.len() {
                let split = &mut self.cluster.warps[w].splits.list[s];
                if split.wait.as_ref() == Some(&woken) {
                    split.wait = None;
                    let mask = split.mask;
                    self.learn_barrier(w, cta, id, mask);
                }
            }
        }
    }

    fn learn_barrier(&mut self, w: usize, cta: usize, id: u32, mask: u32) {
        if self.grid.options.checks {
            let view = &self.cluster.ctas[cta].barriers[id as usize].completed;
            self.cluster.warps[w].acquire(mask, view);
        }
    }

    /// `barrier.cluster.arrive`
    pub(crate) fn cluster_arrive(&mut self, w: usize, pc: u32, mask: u32, order: Order) -> Step {
        if self.cluster.barrier.arrived[w] & mask != 0 {
            return self.stop(
                w,
                pc,
                Code::E41,
                "the warp arrives at the cluster barrier twice before it waits",
            );
        }
        if self.grid.options.checks && order != Order::Relaxed {
            let view = self.cluster.warps[w].release(mask);
            self.cluster.barrier.gathered.join(&view);
        }
        self.announce_barriers(w, mask);
        self.cluster.events += 1;
        self.cluster.barrier.arrived[w] |= mask;
        self.cluster.barrier.owing[w] |= mask;
        self.settle_cluster();
        Ok(())
    }

    /// Ends the generation of the cluster barrier once every live lane is there.
    fn settle_cluster(&mut self) {
        let complete = std::iter::zip(&self.cluster.warps, &self.cluster.barrier.arrived)
            .all(|(warp, arrived)| warp.splits.live & !arrived == 0);
        if !complete || self.cluster.barrier.arrived.iter().all(|&arrived| arrived == 0) {
            return;
        }
        let barrier = &mut self.cluster.barrier;
        barrier.completed = barrier.gathered.clone();
        barrier.arrived = vec![0; barrier.warps as usize];
        let ended = barrier.generation;
        barrier.generation += 1;
        self.wake(|wait| matches!(wait, Wait::Cluster { generation } if *generation == ended));
    }

    /// `barrier.cluster.wait`
    pub(crate) fn cluster_wait(&mut self, w: usize, pc: u32, mask: u32) -> Step<Flow> {
        if self.cluster.barrier.owing[w] & mask != mask {
            return self.stop(w, pc, Code::E41, "a wait at the cluster barrier without an arrival before it");
        }
        if self.cluster.barrier.arrived[w] & mask != 0 {
            return Ok(Flow::Wait(Wait::Cluster { generation: self.cluster.barrier.generation }));
        }
        self.cluster.warps[w].cluster_generation = self.cluster.barrier.generation;
        self.cluster.barrier.owing[w] &= !mask;
        if self.grid.options.checks {
            let cluster = &mut *self.cluster;
            cluster.warps[w].acquire(mask, &cluster.barrier.completed);
        }
        Ok(Flow::Next)
    }

    /// Wakes the parts of warps whose wait fits.
    pub(crate) fn wake(&mut self, fits: impl Fn(&Wait) -> bool) {
        for split in self.cluster.warps.iter_mut().flat_map(|warp| &mut warp.splits.list) {
            if split.wait.as_ref().is_some_and(&fits) {
                split.wait = None;
            }
        }
    }

    /// Every live lane that is not there, for a report: who a barrier still waits for.
    pub(crate) fn missing_at(&self, cta: usize, id: u32) -> String {
        let barrier = &self.cluster.ctas[cta].barriers[id as usize];
        let there: Vec<_> = barrier.participants.iter().map(|(warp, _)| warp.to_string()).collect();
        format!(
            "barrier {id}: {} of {} threads are there, warps {}",
            barrier.arrived,
            barrier.threads.unwrap_or(0),
            there.join(", ")
        )
    }

    /// Who the cluster barrier waits for.
    pub(crate) fn missing_at_cluster(&self) -> String {
        let missing: Vec<_> = std::iter::zip(&self.cluster.warps, &self.cluster.barrier.arrived)
            .filter(|(warp, arrived)| lanes(warp.splits.live & !**arrived).next().is_some())
            .map(|(warp, _)| self.who(warp.id, None))
            .collect();
        format!("the cluster barrier, to which {} have not come", missing.join(", "))
    }
}
