//! What threads know of each other: releases, acquires, fences, and the check of an access against it.

use crate::hazard::{Agent, Conflict, Detail, Party, Record, View};
use crate::report::{Code, Level};

use super::Engine;
use super::warp::Warp;

/// Lanes of a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |lane| mask >> lane & 1 != 0)
}

impl Warp {
    /// What the lanes of `mask` know together, with all that they did up to now.
    pub(crate) fn release(&self, mask: u32) -> View {
        let mut view = self.common.clone();
        for (_, private) in self.private.iter().filter(|(lane, _)| mask >> **lane & 1 != 0) {
            view.join(private);
        }
        for lane in lanes(mask) {
            view.order.learn_lane(self.id, lane, self.time);
            view.fenced_shared.learn_lane(self.id, lane, self.fenced_shared[lane as usize]);
            view.fenced_global.learn_lane(self.id, lane, self.fenced_global[lane as usize]);
            if let Some(released) = &mut view.released {
                released.learn_lane(self.id, lane, self.released[lane as usize]);
            }
        }
        if mask == self.splits.live {
            // Lanes that have ended, or never were, cannot contradict.
            view.order.learn_warp(self.id, self.time);
            let fenced = |times: &[u32; 32]| lanes(mask).map(|lane| times[lane as usize]).min().unwrap_or(0);
            view.fenced_shared.learn_warp(self.id, fenced(&self.fenced_shared));
            view.fenced_global.learn_warp(self.id, fenced(&self.fenced_global));
        }
        view
    }

    /// The lanes of `mask` learn what `view` knows.
    pub(crate) fn acquire(&mut self, mask: u32, view: &View) {
        if mask == self.splits.live {
            self.common.join(view);
        } else {
            for lane in lanes(mask) {
                self.private.entry(lane).or_insert_with(|| view.clone()).join(view);
            }
        }
    }

    /// The lanes of `mask` meet: each learns what the others know and did.
    pub(crate) fn meet(&mut self, mask: u32) {
        let view = self.release(mask);
        if mask == self.splits.live {
            self.private.clear();
        }
        self.acquire(mask, &view);
    }

    /// What a relaxed write of `lane` releases: what memory fences cover.
    pub(crate) fn release_relaxed(&self, lane: u32) -> Option<View> {
        let mut view = self.release(1 << lane);
        view.order = *view.released.take()?;
        Some(view)
    }

    /// A memory fence of the lanes of `mask`: what they know now, their relaxed writes release.
    pub(crate) fn fence_memory(&mut self, mask: u32) {
        let fence = |view: &mut View| {
            let order = view.order.clone();
            view.released.get_or_insert_with(|| Box::new(order.clone())).join(&order);
        };
        self.fence_views(mask, fence);
        lanes(mask).for_each(|lane| self.released[lane as usize] = self.time);
    }

    /// Changes what the lanes of `mask` know.
    fn fence_views(&mut self, mask: u32, fence: impl Fn(&mut View)) {
        if mask == self.splits.live {
            fence(&mut self.common);
            self.private.values_mut().for_each(fence);
            return;
        }
        for lane in lanes(mask) {
            let common = &self.common;
            let view = self.private.entry(lane).or_insert_with(|| common.clone());
            view.join(common);
            fence(view);
        }
    }

    /// A proxy fence of the lanes of `mask`, over shared or global memory or both.
    pub(crate) fn fence_proxy(&mut self, mask: u32, shared: bool, global: bool) {
        let time = self.time;
        let fence = |view: &mut View| {
            if shared {
                let order = view.order.clone();
                view.fenced_shared.join(&order);
            }
            if global {
                let order = view.order.clone();
                view.fenced_global.join(&order);
            }
        };
        self.fence_views(mask, fence);
        for lane in lanes(mask) {
            if shared {
                self.fenced_shared[lane as usize] = time;
            }
            if global {
                self.fenced_global[lane as usize] = time;
            }
        }
    }
}

impl Engine<'_, '_> {
    /// Notes an access to shared memory of CTA `cta`, and what it conflicts with.
    pub(crate) fn access_shared(
        &mut self,
        cta: usize,
        address: u32,
        bytes: u32,
        record: Record,
        view: &View,
    ) {
        let mut conflicts = Vec::new();
        for (chunk, mask) in crate::memory::chunks(address as usize, bytes as usize) {
            let record = Record { bytes: mask, ..record };
            self.cluster.ctas[cta]
                .shadow
                .access(chunk, record, view, |conflict| conflicts.push((chunk, conflict)));
        }
        if !conflicts.is_empty() {
            conflicts
                .into_iter()
                .for_each(|(chunk, conflict)| self.report(Some(cta), chunk as u64 * 16, &record, conflict));
        }
        // Bulk loads are remembered where they are issued.
        let by_thread = matches!(record.agent, Agent::Thread { .. });
        if by_thread && self.cluster.warps.iter().any(|warp| warp.id == record.warp && warp.cta != cta) {
            self.visit(cta, record);
        }
    }

    /// Remembers that a thread of another CTA touches this one's memory. Its later accesses stand for its earlier ones.
    pub(crate) fn visit(&mut self, cta: usize, record: Record) {
        let lane = |record: &Record| match record.agent {
            Agent::Thread { lane, .. } => Some(lane),
            _ => None,
        };
        let visitors = &mut self.cluster.ctas[cta].visitors;
        visitors
            .retain(|old| !(old.warp == record.warp && old.pc == record.pc && lane(old) == lane(&record)));
        visitors.push(record);
    }

    /// Notes an access to global memory.
    pub(crate) fn access_global(&mut self, address: u64, bytes: u32, record: Record, view: &View) {
        let mut conflicts = Vec::new();
        let Some((allocation, at)) = self.grid.memory.find_mut(address, u64::from(bytes)) else { return };
        for (chunk, mask) in crate::memory::chunks(at, bytes as usize) {
            let record = Record { bytes: mask, ..record };
            allocation.shadow.access(chunk, record, view, |conflict| conflicts.push((chunk, conflict)));
        }
        for (chunk, conflict) in conflicts {
            self.report(None, address - at as u64 + chunk as u64 * 16, &record, conflict);
        }
    }

    /// Reports an access to what the kernel before wrote, by a thread that does not know that anybody has waited for
    /// it.
    pub(crate) fn check_dependency(&mut self, w: usize, pc: u32, lane: u32, address: u64, bytes: u32) {
        if !self.grid.options.programmatic {
            return;
        }
        let Some((allocation, at)) = self.grid.memory.find(address, u64::from(bytes)) else { return };
        if crate::memory::chunks(at, bytes as usize)
            .all(|(chunk, mask)| allocation.shadow.before(chunk) & mask == 0)
        {
            return;
        }
        let warp = &self.cluster.warps[w];
        let view = warp.release(1 << lane);
        if !self.grid.waited.iter().any(|&(warp, lane, time)| view.order.covers_lane(warp, lane, time)) {
            let message = format!(
                "memory at {address:#x} that the kernel before wrote is touched ahead of griddepcontrol.wait: it may not have ended"
            );
            self.find(w, pc, Code::E50, message);
        }
    }

    /// Tells of a conflict. `base` is the address of the chunk.
    fn report(&mut self, cta: Option<usize>, base: u64, now: &Record, conflict: Conflict) {
        let Conflict { code, earlier } = conflict;
        // Only a write over a write that nobody has read between: the ISA does not settle whether that needs a fence.
        let level = if code == Code::E04 && earlier.write { Level::Warn } else { code.level() };
        if self.grid.findings.again(code, level, now.pc, Some(earlier.pc)) {
            return;
        }
        let space = match cta {
            Some(cta) => format!("shared memory of CTA {}", self.cluster.ctas[cta].index),
            None => "global memory".to_owned(),
        };
        let (now_does, earlier_did) = (describe(now), describe(&earlier));
        let message = match code {
            Code::E03 | Code::E04 => format!(
                "{now_does} follows {earlier_did} in {space}, but no fence.proxy.async between them makes one proxy see the other"
            ),
            Code::E05 => format!(
                "{now_does} hits {space} that {earlier_did} may still be using: nothing has waited for it"
            ),
            _ => format!(
                "{now_does} and {earlier_did} touch the same bytes of {space}, and nothing orders them"
            ),
        };
        let first = base + u64::from(earlier.bytes.trailing_zeros());
        let last = base + 15 - u64::from(earlier.bytes.leading_zeros());
        let history = match cta {
            Some(cta) => self.history_of(cta, now, &earlier),
            None => Vec::new(),
        };
        let party = |engine: &Self, record: &Record| Party {
            pc: record.pc,
            who: match record.agent {
                Agent::Thread { lane, .. } => engine.who(record.warp, Some(u32::from(lane))),
                _ => engine.who(record.warp, None),
            },
        };
        let (here, there) = (party(self, now), party(self, &earlier));
        self.grid.findings.add(
            code,
            here,
            Some(there),
            Detail { message, level: Some(level), bytes: Some((first, last)), history },
        );
    }
}

/// What an access is, for a sentence.
fn describe(record: &Record) -> String {
    match (record.agent, record.write) {
        (Agent::Thread { .. }, true) => "a write".to_owned(),
        (Agent::Thread { .. }, false) => "a read".to_owned(),
        (Agent::Product { .. }, _) => "a warpgroup product's read".to_owned(),
        (Agent::Copy { .. }, true) => "a bulk copy's write".to_owned(),
        (Agent::Copy { .. }, false) => "a bulk copy's read".to_owned(),
    }
}
