//! The end of lanes and of CTAs, and what they must not leave behind.

use crate::hazard::{Detail, Party};
use crate::machine::splits::Wait;
use crate::machine::{Engine, Step};
use crate::report::{Code, Level};

impl Engine<'_, '_> {
    /// Ends lanes of a warp.
    pub(crate) fn exit(&mut self, w: usize, s: usize, mask: u32) -> Step {
        let pc = self.cluster.warps[w].splits.list[s].pc;
        let checks = self.grid.options.checks;
        self.end_copies(w, pc, mask)?;
        if checks {
            let view = self.cluster.warps[w].release(mask);
            let cta = self.cluster.warps[w].cta;
            self.cluster.ctas[cta].end.join(&view);
        }
        self.cluster.events += 1;
        let warp = &mut self.cluster.warps[w];
        warp.splits.exit(s, mask);
        // Who waited for these lanes need not any more.
        for split in &mut warp.splits.list {
            if matches!(split.wait, Some(Wait::Lanes { .. })) {
                split.wait = None;
            }
        }
        if warp.splits.live == 0 {
            // Its registers stay the CTA's: nobody says that a warp's end gives them to the pool.
            let cta = warp.cta;
            self.end_products(w, pc);
            self.cluster.ctas[cta].running -= 1;
            self.settle_barriers(cta);
            if self.cluster.ctas[cta].running == 0 {
                self.end_cta(cta)?;
            }
        }
        self.settle_cluster();
        Ok(())
    }

    /// Reports who may still touch the memory of a CTA that has ended.
    pub(super) fn end_cta(&mut self, cta: usize) -> Step {
        if !self.grid.options.checks {
            return Ok(());
        }
        // The errors first: of findings at one line, only the first is told.
        self.end_register_changes(cta);
        self.end_barriers(cta);
        let last = self.grid.code.len().saturating_sub(1) as u32;
        let end = std::mem::take(&mut self.cluster.ctas[cta].end);
        for visit in std::mem::take(&mut self.cluster.ctas[cta].visitors) {
            if !visit.is_before(&end) {
                let index = self.cluster.ctas[cta].index;
                let here = Party { pc: visit.pc, who: self.who(visit.warp, None) };
                let there = Party { pc: last, who: format!("the end of CTA {index}") };
                let message = format!(
                    "CTA {index} may have ended, and its shared memory be another's, when another CTA uses it"
                );
                self.grid.findings.add(Code::E28, here, Some(there), Detail::from(message));
            }
        }
        for copy in self.pending_loads(cta, &end) {
            let index = self.cluster.ctas[cta].index;
            let here = Party { pc: copy.0, who: self.who(copy.1, None) };
            let message = format!(
                "CTA {index} ends, but no thread of it has waited for a bulk load into its shared memory"
            );
            self.grid.findings.add(Code::E28, here, None, Detail::from(message));
        }
        self.cluster.ctas[cta].end = end;
        Ok(())
    }

    /// Reports what a CTA leaves undone, though no harm comes of it: half a barrier, registers that nobody took.
    pub(super) fn end_barriers(&mut self, cta: usize) {
        let state = &self.cluster.ctas[cta];
        let who = format!("the end of CTA {}", state.index);
        let mut found = Vec::new();
        for (id, barrier) in state.barriers.iter().enumerate().filter(|(_, barrier)| barrier.arrived > 0) {
            let threads = barrier.threads.unwrap_or(0);
            let message = format!(
                "the CTA ends with {} of {threads} threads at barrier {id}: somebody has not come",
                barrier.arrived
            );
            found.push((Code::E41, barrier.last, message));
        }
        if let Some(pc) = state.gave_registers.filter(|_| !state.registers_wanted) {
            let message = "registers were given back to the CTA's pool, but no warp has taken any".to_owned();
            found.push((Code::E40, pc, message));
        }
        for (code, pc, message) in found {
            let detail = Detail { level: Some(Level::Warn), ..Detail::from(message) };
            self.grid.findings.add(code, Party { pc, who: who.clone() }, None, detail);
        }
    }
}
