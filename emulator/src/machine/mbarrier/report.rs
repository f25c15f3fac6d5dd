//! What mbarriers went through, for those who read reports.

use crate::hazard::{Agent, Record};
use crate::machine::Engine;

use super::What;

impl Engine<'_, '_> {
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
