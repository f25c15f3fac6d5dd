//! The registers that warps of a CTA give to each other.

use crate::hazard::Party;
use crate::machine::splits::Wait;
use crate::machine::step::Flow;
use crate::machine::warp::Warp;
use crate::machine::{Engine, Step};
use crate::report::Code;

impl Engine<'_, '_> {
    /// `setmaxnreg`: a warp takes registers from the CTA's pool, or gives them back.
    pub(crate) fn set_max_registers(
        &mut self,
        w: usize,
        pc: u32,
        increase: bool,
        registers: u32,
    ) -> Step<Flow> {
        let kernel = self.grid.kernel;
        if kernel.max_threads.is_none() && kernel.required_threads.is_none() && kernel.max_registers.is_none()
        {
            let message = "setmaxnreg in a kernel whose registers at launch are unknown: .maxntid is missing, so ptxas ignores it";
            return self.stop(w, pc, Code::E40, message);
        }
        let (cta, held) = (self.cluster.warps[w].cta, self.cluster.warps[w].register_limit);
        let pool = &mut self.cluster.ctas[cta].pool;
        if increase {
            if registers < held {
                return self.stop(
                    w,
                    pc,
                    Code::E40,
                    format!("setmaxnreg.inc to {registers} registers, but the warp has {held}"),
                );
            }
            let more = (registers - held) * 32;
            if *pool < more {
                return Ok(Flow::Wait(Wait::Registers { wanted: more }));
            }
            *pool -= more;
            self.cluster.ctas[cta].registers_wanted = true;
        } else {
            if registers > held {
                return self.stop(
                    w,
                    pc,
                    Code::E40,
                    format!("setmaxnreg.dec to {registers} registers, but the warp has {held}"),
                );
            }
            *pool += (held - registers) * 32;
            let pool = *pool;
            self.cluster.ctas[cta].gave_registers.get_or_insert(pc);
            self.wake(|wait| matches!(wait, Wait::Registers { wanted } if *wanted <= pool));
        }
        let warp = &mut self.cluster.warps[w];
        warp.register_limit = registers;
        warp.register_changes.push(pc);
        Ok(Flow::Next)
    }

    /// At the end of a CTA: the warps of a warpgroup must have changed their registers together.
    pub(super) fn end_register_changes(&mut self, cta: usize) {
        let of = |warp: &&Warp| warp.cta == cta;
        let changes: Vec<_> = self
            .cluster
            .warps
            .iter()
            .filter(of)
            .map(|warp| (warp.id, warp.register_changes.clone()))
            .collect();
        for group in changes.chunks(4) {
            let longest = group.iter().max_by_key(|(_, changes)| changes.len());
            let Some((id, all)) = longest else { continue };
            if let Some((other, _)) = group.iter().find(|(_, changes)| changes != all)
                && let Some(&pc) = all.first()
            {
                let message = format!(
                    "setmaxnreg is for whole warpgroups, but {} does otherwise",
                    self.who(*other, None)
                );
                let here = Party { pc, who: self.who(*id, None) };
                self.grid.findings.add(Code::E40, here, None, message.into());
            }
        }
    }
}
