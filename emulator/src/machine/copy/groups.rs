//! Bulk groups: a thread waits for its own stores.

use crate::hazard::{Detail, Party, View};
use crate::machine::knowledge::lanes;
use crate::machine::{Engine, Step};
use crate::report::Code;

use super::GroupedStore;

impl Engine<'_, '_> {
    /// `cp.async.bulk.wait_group`: all but the last `pending` groups of the thread are done.
    pub(super) fn wait_for_groups(
        &mut self,
        w: usize,
        pc: u32,
        lane: u32,
        pending: usize,
        read: bool,
    ) -> Step {
        let warp = &mut self.cluster.warps[w];
        let Some(groups) = warp
            .copies
            .get_mut(&lane)
            .filter(|groups| !groups.committed.is_empty() || !groups.open.is_empty())
        else {
            self.cluster.ctas[self.cluster.warps[w].cta].vain_wait.get_or_insert((
                pc,
                self.cluster.warps[w].id,
                lane,
            ));
            return Ok(());
        };
        let done = groups.committed.len().saturating_sub(pending);
        let mut stores: Vec<GroupedStore> = groups.committed.iter().take(done).flatten().copied().collect();
        if read {
            groups.committed.iter_mut().take(done).flatten().for_each(|store| store.was_read = true);
        } else {
            groups.committed.drain(..done);
        }
        stores.retain(|store| !(read && store.was_read));
        let mut view = self.cluster.nothing.clone();
        for store in stores {
            view.order.learn_copy(self.cluster.warps[w].id, store.read);
            if !read {
                view.order.learn_copy(self.cluster.warps[w].id, store.write());
            }
            self.perform_store(w, store.read)?;
        }
        if self.grid.options.checks {
            self.cluster.warps[w].acquire(1 << lane, &view);
        }
        Ok(())
    }

    pub(super) fn perform_store(&mut self, w: usize, number: u32) -> Step {
        let warp = self.cluster.warps[w].id;
        match self.cluster.copies.iter().position(|copy| (copy.warp, copy.number) == (warp, number)) {
            Some(at) => {
                let copy = self.cluster.copies.remove(at);
                self.perform(copy)
            }
            None => Ok(()),
        }
    }

    /// At the end of lanes: their stores must have read their sources, which are gone with the CTA.
    pub(crate) fn end_copies(&mut self, w: usize, pc: u32, mask: u32) -> Step {
        for lane in lanes(mask) {
            let Some(groups) = self.cluster.warps[w].copies.remove(&lane) else { continue };
            let open = groups.open.len();
            let unread: Vec<_> = groups
                .committed
                .into_iter()
                .flatten()
                .chain(groups.open)
                .filter(|store| !store.was_read)
                .collect();
            if let Some(store) = unread.last().filter(|_| self.grid.options.checks) {
                let warp = &self.cluster.warps[w];
                let (id, vain) = (warp.id, self.cluster.ctas[warp.cta].vain_wait);
                let here = Party { pc: store.pc, who: self.who(id, Some(lane)) };
                let what = if open > 0 { "was never committed to a group" } else { "was not waited for" };
                let (code, there, message) = match vain {
                    Some((wait_pc, warp, other)) => {
                        let there = Party { pc: wait_pc, who: self.who(warp, Some(other)) };
                        let message = format!(
                            "a bulk store {what} by its own thread; another thread's wait_group does not see it"
                        );
                        (Code::E27, there, message)
                    }
                    None => {
                        let there = Party { pc, who: "the end of the thread".to_owned() };
                        (
                            Code::E28,
                            there,
                            format!("a bulk store {what} before its thread ended, so its source may be gone"),
                        )
                    }
                };
                self.grid.findings.add(code, here, Some(there), Detail::from(message));
            }
            for store in unread {
                self.perform_store(w, store.read)?;
            }
        }
        Ok(())
    }

    /// Bulk loads into a CTA's memory that nobody who knew `end` has waited for: instruction and warp.
    pub(crate) fn pending_loads(&mut self, cta: usize, end: &View) -> Vec<(u32, u32)> {
        let loads = std::mem::take(&mut self.cluster.ctas[cta].loads);
        loads
            .into_iter()
            .filter(|&(_, warp, number)| !end.order.covers_copy(warp, number))
            .map(|(pc, warp, _)| (pc, warp))
            .collect()
    }
}
