//! mbarriers: arrivals, transaction bytes, phases (ISA, "mbarrier").

mod instruction;
mod report;
mod wait;

use std::collections::{BTreeMap, VecDeque};

use crate::hazard::{Detail, Party, View};
use crate::report::{Code, Level};

use crate::machine::splits::Wait;
use crate::machine::{Engine, Step};

/// Arrivals that a phase can expect, and bytes that it can count.
const LIMIT: i64 = (1 << 20) - 1;
/// Events that a barrier remembers.
const HISTORY: usize = 8;

/// What happened to a barrier.
#[derive(Clone, Debug)]
struct Event {
    pc: u32,
    warp: u32,
    what: What,
    /// State after it.
    phase: u64,
    pending: u32,
    tx: i64,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Init,
    Arrive(u32),
    Expect(i64),
    Complete(i64),
    Observe,
}

/// The last phase that a thread has observed, and the one before, each with the time.
#[derive(Clone, Copy, Debug)]
struct Seen {
    last: (i64, u32),
    before: Option<(i64, u32)>,
}

impl Seen {
    /// When the thread has observed a phase, if that is among what is remembered.
    fn time_of(&self, phase: i64) -> Option<u32> {
        [Some(self.last), self.before].into_iter().flatten().find(|seen| seen.0 == phase).map(|seen| seen.1)
    }
}

/// An mbarrier.
#[derive(Debug)]
pub(crate) struct Mbarrier {
    expected: u32,
    dropped: u32,
    pending: u32,
    tx: i64,
    /// Phases that have completed.
    pub(crate) phase: u64,
    /// What everybody who arrived so far knew.
    arrived: View,
    /// What everybody who arrived in completed phases knew.
    completed: View,
    /// Who initialised it: warp, lane, time, instruction.
    init: (u32, u32, u32, u32),
    /// Whether its initialiser made it visible to the cluster and the async proxy.
    published: bool,
    /// Whether that was by fence.mbarrier_init.
    init_fenced: bool,
    /// The generation of the cluster barrier that its initialiser has arrived in since, even with a relaxed arrival.
    announced: Option<u64>,
    /// Whether anybody has waited for the last completed phase.
    observed: bool,
    /// What each thread (warp, lane) has observed.
    seen: BTreeMap<(u32, u32), Seen>,
    history: VecDeque<Event>,
}

impl Mbarrier {
    fn note(&mut self, pc: u32, warp: u32, what: What) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let (phase, pending, tx) = (self.phase, self.pending, self.tx);
        self.history.push_back(Event { pc, warp, what, phase, pending, tx });
    }

    /// Ends the phase if everything that it expects is there.
    fn settle(&mut self) -> bool {
        let done = self.pending == 0 && self.tx == 0;
        if done {
            self.phase += 1;
            self.expected -= self.dropped;
            self.dropped = 0;
            self.pending = self.expected;
            self.completed = self.arrived.clone();
            self.observed = false;
        }
        done
    }

    /// The state of the current phase, as `arrive` gives it.
    fn token(&self) -> u64 {
        self.phase & u64::from(u32::MAX) | u64::from(self.pending) << 32
    }

    /// Whether the phase of this parity is complete.
    pub(crate) fn is_complete(&self, parity: u32) -> bool {
        self.phase & 1 != u64::from(parity)
    }
}

impl Engine<'_, '_> {
    /// The barrier whose eight bytes overlap these, if any.
    pub(crate) fn overlapping(&self, cta: usize, at: u32, bytes: u32) -> Option<(u32, &Mbarrier)> {
        let barriers = &self.cluster.ctas[cta].mbarriers;
        // Nearly all accesses are elsewhere, which the ends tell sooner than a search.
        let (first, last) = (*barriers.first_key_value()?.0, *barriers.last_key_value()?.0);
        if at > last + 7 || at + bytes <= first {
            return None;
        }
        let range = at.saturating_sub(7)..at + bytes;
        barriers.range(range).next().map(|(at, barrier)| (*at, barrier))
    }

    /// Reports an ordinary access to the bytes of a barrier.
    pub(crate) fn check_barrier_storage(&mut self, w: usize, pc: u32, cta: usize, at: u32, bytes: u32) {
        if let Some((other, old)) = self.overlapping(cta, at, bytes) {
            let there = Party { pc: old.init.3, who: self.who(old.init.0, Some(old.init.1)) };
            let here = Party { pc, who: self.who(self.cluster.warps[w].id, None) };
            let message = format!("bytes of the mbarrier at {other:#x} are accessed as data");
            self.grid.findings.add(Code::E20, here, Some(there), message.into());
        }
    }

    /// Makes barriers that these lanes initialised visible to the cluster and the async proxy.
    pub(crate) fn publish_barriers(&mut self, w: usize, mask: u32, by_init_fence: bool) {
        for barrier in self.barriers_of(w, mask) {
            barrier.published = true;
            barrier.init_fenced |= by_init_fence;
        }
    }

    /// Announces barriers that these lanes initialised by an arrival at the cluster barrier. Behind
    /// fence.mbarrier_init a relaxed arrival is enough, but for barriers only.
    pub(crate) fn announce_barriers(&mut self, w: usize, mask: u32) {
        let generation = self.cluster.barrier.generation();
        for barrier in self.barriers_of(w, mask).filter(|barrier| barrier.init_fenced) {
            barrier.announced.get_or_insert(generation);
        }
    }

    /// The barriers that these lanes initialised.
    fn barriers_of(&mut self, w: usize, mask: u32) -> impl Iterator<Item = &mut Mbarrier> {
        let warp = self.cluster.warps[w].id;
        let barriers = self.cluster.ctas.iter_mut().flat_map(|cta| cta.mbarriers.values_mut());
        barriers.filter(move |barrier| barrier.init.0 == warp && mask >> barrier.init.1 & 1 != 0)
    }

    /// Checks that the barrier exists and that its initialisation is known to the thread.
    fn barrier_for(&mut self, w: usize, pc: u32, lane: u32, (cta, at): (usize, u32)) -> Step {
        let Some(barrier) = self.cluster.ctas[cta].mbarriers.get(&at) else {
            return self.stop(
                w,
                pc,
                Code::E20,
                format!("there is no mbarrier at {at:#x}: nobody has initialised one"),
            );
        };
        if !self.grid.options.checks {
            return Ok(());
        }
        let (by, by_lane, time, init_pc) = barrier.init;
        let warp = &self.cluster.warps[w];
        let own = by == warp.id && by_lane == lane;
        let announced = barrier.announced.is_some_and(|generation| warp.cluster_generation > generation);
        let known = own
            || announced
            || warp.common.order.covers_lane(by, by_lane, time)
            || warp.private.get(&lane).is_some_and(|view| view.order.covers_lane(by, by_lane, time));
        let remote = warp.cta != cta;
        if !known || (remote && !barrier.published) {
            let here = Party { pc, who: self.who(warp.id, Some(lane)) };
            let there = Party { pc: init_pc, who: self.who(by, Some(by_lane)) };
            let message = if known {
                format!(
                    "the mbarrier at {at:#x} is used by another CTA, but its initialiser has not executed fence.mbarrier_init"
                )
            } else {
                format!("nothing orders the initialisation of the mbarrier at {at:#x} before its use")
            };
            self.grid.findings.add(Code::E26, here, Some(there), message.into());
        }
        Ok(())
    }

    /// The barrier that a bulk copy of this thread is to signal: its phase.
    pub(crate) fn copy_barrier(
        &mut self,
        w: usize,
        pc: u32,
        lane: u32,
        (cta, at): (usize, u32),
    ) -> Step<u64> {
        if at % 8 != 0 {
            return self.stop(
                w,
                pc,
                Code::E32,
                format!("an mbarrier at {at:#x}, which is not a multiple of 8"),
            );
        }
        self.barrier_for(w, pc, lane, (cta, at))?;
        let barrier = &self.cluster.ctas[cta].mbarriers[&at];
        let (phase, published, (by, by_lane, _, init_pc)) = (barrier.phase, barrier.published, barrier.init);
        if !published && self.grid.options.checks {
            let here = Party { pc, who: self.who(self.cluster.warps[w].id, Some(lane)) };
            let there = Party { pc: init_pc, who: self.who(by, Some(by_lane)) };
            let message = format!(
                "a bulk copy signals the mbarrier at {at:#x}, whose initialiser has executed neither fence.mbarrier_init nor fence.proxy.async"
            );
            let detail = Detail { level: Some(Level::Warn), ..message.into() };
            self.grid.findings.add(Code::E26, here, Some(there), detail);
        }
        Ok(phase)
    }

    fn add_tx(&mut self, w: usize, pc: u32, (cta, at): (usize, u32), bytes: i64) -> Step {
        let warp = self.cluster.warps[w].id;
        let barrier = self.cluster.ctas[cta].mbarriers.get_mut(&at).expect("looked up before");
        self.cluster.events += 1;
        barrier.tx += bytes;
        barrier.note(pc, warp, if bytes < 0 { What::Complete(-bytes) } else { What::Expect(bytes) });
        let tx = barrier.tx;
        if tx.abs() > LIMIT {
            let message =
                format!("the mbarrier at {at:#x} counts {tx} bytes; {LIMIT} either way are possible");
            let history = self.history(cta, at);
            return self.stop(w, pc, Code::E22, Detail { history, ..message.into() });
        }
        Ok(())
    }

    fn settle(&mut self, cta: usize, at: u32) {
        if let Some(barrier) = self.cluster.ctas[cta].mbarriers.get_mut(&at)
            && barrier.settle()
        {
            self.wake(
                |wait| matches!(wait, Wait::Mbarrier { cta: c, address, .. } if (*c, *address) == (cta, at)),
            );
        }
    }

    /// A bulk copy has brought `bytes` bytes: `number` of `warp`, issued in `phase`.
    pub(crate) fn complete_copy(
        &mut self,
        (w, pc, warp, number): (usize, u32, u32, u32),
        (cta, at): (usize, u32),
        bytes: u32,
        phase: u64,
    ) -> Step {
        let Some(barrier) = self.cluster.ctas[cta].mbarriers.get_mut(&at) else {
            return self.stop(
                w,
                pc,
                Code::E20,
                format!("the mbarrier at {at:#x} was invalidated before its bulk copy was complete"),
            );
        };
        barrier.arrived.order.learn_copy(warp, number);
        let now = barrier.phase;
        self.add_tx(w, pc, (cta, at), -i64::from(bytes))?;
        if now != phase {
            let message = format!(
                "{bytes} bytes that were to complete phase {phase} of the mbarrier at {at:#x} arrive in phase {now}: \
                 phase {phase} expected fewer bytes than its copies bring"
            );
            let history = self.history(cta, at);
            self.find(w, pc, Code::E22, Detail { history, ..message.into() });
        }
        self.settle(cta, at);
        Ok(())
    }

    /// At the end of a cluster: mbarriers that have counted bytes which nobody expected. Bytes that were expected and
    /// never came are another matter: whoever waits for them is stuck, and else they do no harm.
    pub(crate) fn end_mbarriers(&mut self) {
        let surplus = |(cta, state): (usize, &super::Cta)| {
            let surplus = state.mbarriers.iter().filter(|(_, barrier)| barrier.tx < 0);
            let last = surplus.filter_map(|(at, barrier)| {
                let event = barrier.history.iter().rfind(|event| matches!(event.what, What::Complete(_)))?;
                Some((cta, *at, barrier.tx, event.pc, event.warp))
            });
            last.collect::<Vec<_>>()
        };
        let surplus: Vec<_> = self.cluster.ctas.iter().enumerate().flat_map(surplus).collect();
        for (cta, at, tx, pc, warp) in surplus.into_iter().filter(|_| self.grid.options.checks) {
            let message = format!("{} bytes came that the mbarrier at {at:#x} never expected", -tx);
            let here = Party { pc, who: self.who(warp, None) };
            let detail = Detail { history: self.history(cta, at), ..message.into() };
            self.grid.findings.add(Code::E22, here, None, detail);
        }
    }
}
