//! mbarriers: arrivals, transaction bytes, phases (ISA, "mbarrier").

use std::collections::{BTreeMap, VecDeque};

use crate::hazard::{Agent, Detail, Party, Record, View};
use crate::ir::{self, Address, Order, Scope, Space};
use crate::report::{Code, Level};

use super::knowledge::lanes;
use super::splits::Wait;
use super::step::Flow;
use super::{CTA_BITS, Engine, SHARED_BASE, SHARED_WINDOW, Step};

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
    /// Whether anybody has waited for the last completed phase.
    observed: bool,
    /// Whether that was by fence.mbarrier_init, and if so the generation of the cluster barrier that its initialiser
    /// arrived in since, even with a relaxed arrival.
    init_fenced: bool,
    announced: Option<u64>,
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
    /// CTA and address of a shared-memory address of the instruction at `pc`, in whatever window.
    pub(crate) fn shared_place(
        &mut self,
        w: usize,
        pc: u32,
        space: Space,
        address: u64,
        bytes: u32,
    ) -> Step<(usize, u32)> {
        let wrong = |why: &str| format!("{address:#x} {why}");
        let (space, address) = match space {
            Space::Generic => {
                match address.checked_sub(SHARED_WINDOW).filter(|&inside| inside < super::WINDOW_BYTES) {
                    Some(inside) => (Space::SharedCluster, inside),
                    None => return self.stop(w, pc, Code::E33, wrong("is not an address of shared memory")),
                }
            }
            _ => (space, address),
        };
        let Ok(address) = u32::try_from(address) else {
            return self.stop(w, pc, Code::E33, wrong("is not an address of shared memory"));
        };
        let (rank, offset) = (address >> CTA_BITS, address & ((1 << CTA_BITS) - 1));
        let own = self.cluster.warps[w].cta;
        let cta = match rank {
            0 => own,
            _ if space == Space::SharedCta && rank as usize - 1 != own => {
                return self.stop(
                    w,
                    pc,
                    Code::E33,
                    wrong("is in another CTA, but .shared::cta means this one"),
                );
            }
            rank if rank as usize <= self.cluster.ctas.len() => rank as usize - 1,
            _ => return self.stop(w, pc, Code::E31, wrong("is in a CTA that the cluster does not have")),
        };
        let end = self.cluster.ctas[cta].smem.len() as u64;
        if offset < SHARED_BASE || u64::from(offset) + u64::from(bytes) > end {
            let message = format!(
                "{bytes} bytes at {offset:#x} are outside of the shared memory of the CTA, which is from {SHARED_BASE:#x} to {:#x}",
                end - 1
            );
            return self.stop(w, pc, Code::E31, message);
        }
        Ok((cta, offset))
    }

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
                }
                ir::Mbarrier::Arrive { state, count, expect_tx, drop, no_complete, order, scope } => {
                    let count = self.value(w, count)[lane as usize] as u32;
                    let bytes =
                        expect_tx.as_ref().map(|bytes| self.value(w, bytes)[lane as usize] as u32 as i64);
                    self.barrier_for(w, pc, lane, (cta, at))?;
                    if let Some(bytes) = bytes {
                        self.add_tx(w, pc, (cta, at), bytes)?;
                    }
                    let token = self.cluster.ctas[cta].mbarriers[&at].token();
                    let release = (*order != Order::Relaxed).then_some(*scope);
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

    fn init(&mut self, w: usize, pc: u32, lane: u32, (cta, at): (usize, u32), count: u64) -> Step {
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

    /// The barrier whose eight bytes overlap these, if any.
    pub(crate) fn overlapping(&self, cta: usize, at: u32, bytes: u32) -> Option<(u32, &Mbarrier)> {
        let range = at.saturating_sub(7)..at + bytes;
        self.cluster.ctas[cta].mbarriers.range(range).next().map(|(at, barrier)| (*at, barrier))
    }

    /// Reports an ordinary access to the bytes of a barrier.
    pub(crate) fn check_barrier_storage(&mut self, w: usize, pc: u32, cta: usize, at: u32, bytes: u32) {
        if self.cluster.ctas[cta].mbarriers.is_empty() {
            return;
        }
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

    #[allow(clippy::too_many_arguments, reason = "an instruction has that many operands")]
    fn arrive(
        &mut self,
        w: usize,
        pc: u32,
        lane: u32,
        (cta, at): (usize, u32),
        count: u32,
        release: Option<Scope>,
        (drop, no_complete): (bool, bool),
    ) -> Step {
        let checks = self.grid.options.checks;
        let warp = &self.cluster.warps[w];
        let id = warp.id;
        let remote = warp.cta != cta;
        let view = (checks && release.is_some()).then(|| warp.release(1 << lane));
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

    /// `test_wait` and `try_wait`. Lanes may wait for different barriers only if none of them has to suspend.
    #[allow(clippy::too_many_arguments, reason = "an instruction has that many operands")]
    fn wait(
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
    fn observe(&mut self, w: usize, pc: u32, mask: u32, (cta, at): (usize, u32), parity: u32, order: Order) {
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

    /// The last events of a barrier, as a person reads them.
    pub(crate) fn history(&self, cta: usize, at: u32) -> Vec<String> {
        let Some(barrier) = self.cluster.ctas[cta].mbarriers.get(&at) else { return Vec::new() };
        let mut lines = vec![format!("mbarrier at {at:#x} of CTA {}:", self.cluster.ctas[cta].index)];
        lines.extend(barrier.history.iter().map(|event| {
            let what = match event.what {
                What::Init => "initialised".to_owned(),
                What::Arrive(count) => format!("{count} arrived"),
                What::Expect(bytes) => format!("{bytes} more bytes expected"),
                What::Complete(bytes) => format!("{bytes} bytes arrived"),
                What::Observe => "wait satisfied".to_owned(),
            };
            format!(
                "{}: {what} ({}); phase {} then waits for {} arrivals and {} bytes",
                self.grid.findings.site(event.pc),
                self.who(event.warp, None),
                event.phase,
                event.pending,
                event.tx
            )
        }));
        lines
    }

    /// What a waiter for the phase waits for.
    pub(crate) fn describe_phase(&self, cta: usize, at: u32, parity: u32) -> String {
        match self.cluster.ctas[cta].mbarriers.get(&at) {
            Some(barrier) => format!(
                "parity {parity} of the mbarrier at {at:#x}, which is in phase {} and waits for {} of {} arrivals and {} bytes",
                barrier.phase, barrier.pending, barrier.expected, barrier.tx
            ),
            None => format!("an mbarrier at {at:#x} that is gone"),
        }
    }

    /// The barrier that the copy among two accesses signals, with its history.
    pub(crate) fn history_of(&self, cta: usize, now: &Record, earlier: &Record) -> Vec<String> {
        let barrier = [now, earlier].into_iter().find_map(|record| {
            self.cluster.ctas[cta]
                .mbarriers
                .iter()
                .find(|(_, barrier)| {
                    matches!(record.agent, Agent::Copy { .. })
                        && barrier.history.iter().any(|event| event.pc == record.pc)
                })
                .map(|(at, _)| *at)
        });
        barrier.map_or_else(Vec::new, |at| self.history(cta, at))
    }
}
