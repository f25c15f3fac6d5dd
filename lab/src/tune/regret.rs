//! Regret: how much longer the chosen kernel takes than the fastest.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use flashcore::Dtype;
use serde::Serialize;

use crate::metrics::{Check, geomean};
use crate::shape::{Bhsd, mask};

/// A regret that does not count: two runs of the same kernel differ by about half of it.
pub(super) const TOLERANCE: f64 = 0.03;
/// Shapes that are listed at the end.
const WORST: usize = 10;

/// A kernel on a shape.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Candidate {
    /// Name of the kernel.
    pub(super) kernel: &'static str,
    /// CTAs.
    pub(super) grid: u32,
    /// Tiles that they share.
    pub(super) work_tiles: u32,
    /// Whether the plan chooses it.
    pub(super) chosen: bool,
    /// What the comparison with the oracle said.
    pub(super) check: Check,
    /// Microseconds of a launch: the median of the rounds. None for a kernel that is wrong.
    pub(super) us: Option<f64>,
    /// Those of each round.
    pub(super) rounds: Vec<f64>,
}

/// A shape, and what the kernels made of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Tuned {
    #[serde(flatten)]
    shape: Bhsd,
    causal: bool,
    dtype: &'static str,
    /// By how much the chosen kernel takes longer than the fastest, as a share; None if it is wrong.
    regret: Option<f64>,
    candidates: Vec<Candidate>,
}

impl Tuned {
    pub(super) fn new(shape: Bhsd, causal: bool, dtype: Dtype, candidates: Vec<Candidate>) -> Self {
        Tuned { shape, causal, dtype: dtype.name(), regret: regret(&candidates), candidates }
    }

    /// Whether every kernel is.
    pub(super) fn is_right(&self) -> bool {
        self.candidates.iter().all(|candidate| candidate.check.is_right())
    }

    fn name(&self) -> String {
        format!("{}, {}, {}", self.shape, mask(self.causal), self.dtype)
    }

    /// The name of a kernel without what the shape says already.
    fn short(&self, kernel: &str) -> String {
        let said = ["fwd", "causal", self.dtype];
        kernel.split('_').filter(|part| !said.contains(part)).collect::<Vec<_>>().join("_")
    }

    /// The kernels and their times, fastest first, the choice marked.
    fn times(&self) -> String {
        let mut candidates: Vec<_> = self.candidates.iter().collect();
        candidates.sort_by(|a, b| a.us.unwrap_or(f64::INFINITY).total_cmp(&b.us.unwrap_or(f64::INFINITY)));
        let time = |candidate: &&Candidate| {
            let mark = if candidate.chosen { "*" } else { "" };
            let us = candidate.us.map_or("WRONG".into(), |us| format!("{us:.2}"));
            format!("{mark}{} {us}", self.short(candidate.kernel))
        };
        candidates.iter().map(time).collect::<Vec<_>>().join(", ")
    }
}

fn regret(candidates: &[Candidate]) -> Option<f64> {
    let best = candidates.iter().filter_map(|candidate| candidate.us).min_by(f64::total_cmp)?;
    Some(candidates.iter().find(|candidate| candidate.chosen)?.us? / best - 1.0)
}

/// All shapes together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    /// Share of the shapes with no more regret than [`TOLERANCE`]; a shape where the choice is wrong has more.
    pub(super) within: f64,
    /// Geometric mean of the regrets.
    pub(super) mean: Option<f64>,
}

impl Summary {
    pub(super) fn of(shapes: &[Tuned]) -> Self {
        let regrets = || shapes.iter().filter_map(|shape| shape.regret);
        let within = regrets().filter(|&regret| regret <= TOLERANCE).count();
        Summary {
            within: within as f64 / shapes.len().max(1) as f64,
            mean: geomean(regrets().map(|regret| 1.0 + regret)).map(|mean| mean - 1.0),
        }
    }
}

fn percent(regret: Option<f64>) -> String {
    regret.map_or_else(|| "-".into(), |regret| format!("{:.1} %", 100.0 * regret))
}

/// A row for each shape.
pub(super) fn table(shapes: &[Tuned]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["B,H,S,D", "mask", "dtype", "µs of each kernel, * the choice", "regret"]);
    for tuned in shapes {
        table.add_row([
            tuned.shape.to_string(),
            mask(tuned.causal).to_owned(),
            tuned.dtype.to_owned(),
            tuned.times(),
            percent(tuned.regret),
        ]);
    }
    if let Some(column) = table.column_mut(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The summary in words, the shapes with most regret, and everything that is wrong.
pub(super) fn text(shapes: &[Tuned]) -> String {
    let Summary { within, mean } = Summary::of(shapes);
    let alone = shapes.iter().filter(|tuned| tuned.candidates.len() == 1).count();
    let mut text = format!(
        "{:.1} % of {} shapes are within {:.0} % of the fastest kernel ({alone} have only one); regret {} (geometric \
         mean)\n",
        100.0 * within,
        shapes.len(),
        100.0 * TOLERANCE,
        percent(mean)
    );
    let mut worst: Vec<_> = shapes.iter().filter(|tuned| tuned.regret > Some(0.0)).collect();
    worst.sort_by(|a, b| b.regret.partial_cmp(&a.regret).expect("times are numbers"));
    for tuned in worst.iter().take(WORST) {
        _ = writeln!(text, "{:>7}  {}: {}", percent(tuned.regret), tuned.name(), tuned.times());
    }
    for tuned in shapes {
        for Candidate { kernel, check, .. } in &tuned.candidates {
            if let Check::Wrong(reason) = check {
                _ = writeln!(text, "WRONG: {kernel}, {}: {reason}", tuned.name());
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shape whose first kernel is the choice; without a time, a kernel is wrong.
    fn tuned(shape: &str, times: &[Option<f64>]) -> Tuned {
        let kernels = ["fwd_hd64_m192n128_f16_causal", "fwd_hd64_m128n128_f16_causal"];
        let candidates = kernels.iter().zip(times).enumerate().map(|(index, (kernel, &us))| Candidate {
            kernel,
            grid: 1,
            work_tiles: 1,
            chosen: index == 0,
            check: match us {
                Some(_) => Check::Right { error: 0.0, bound: 1.0, lse_error: 0.0 },
                None => Check::Wrong("off".into()),
            },
            us,
            rounds: us.into_iter().collect(),
        });
        Tuned::new(shape.parse().unwrap(), true, Dtype::F16, candidates.collect())
    }

    #[test]
    fn regret_is_what_the_fastest_would_have_saved() {
        assert_eq!(tuned("1,2,3,64", &[Some(3.0), Some(2.0)]).regret, Some(0.5));
        assert_eq!(tuned("1,2,3,64", &[Some(2.0), Some(3.0)]).regret, Some(0.0));
        assert_eq!(tuned("1,2,3,64", &[Some(2.0)]).regret, Some(0.0));
    }

    #[test]
    fn wrong_kernels_are_no_yardstick_and_no_good_choice() {
        let other = tuned("1,2,3,64", &[Some(2.0), None]);
        assert_eq!((other.regret, other.is_right()), (Some(0.0), false));
        let choice = tuned("1,2,3,64", &[None, Some(2.0)]);
        assert_eq!((choice.regret, choice.is_right()), (None, false));
        assert_eq!(Summary::of(std::slice::from_ref(&choice)), Summary { within: 0.0, mean: None });
        assert!(text(&[choice]).contains("WRONG: fwd_hd64_m192n128_f16_causal, 1,2,3,64, causal, f16: off"));
    }

    #[test]
    fn the_summary_counts_shapes_and_averages_factors() {
        let shapes = [[Some(1.02), Some(1.0)], [Some(1.0), Some(5.0)], [Some(8.0), Some(1.0)]]
            .map(|times| tuned("1,2,3,64", &times));
        let Summary { within, mean } = Summary::of(&shapes);
        assert!((within - 2.0 / 3.0).abs() < 1e-9, "{within}");
        assert!((mean.unwrap() - (8.0f64 * 1.02).cbrt() + 1.0).abs() < 1e-9, "{mean:?}");
        assert_eq!(Summary::of(&[]).mean, None);
    }

    #[test]
    fn the_table_marks_the_choice_and_the_text_names_the_worst() {
        let shapes = [
            tuned("1,8,512,64", &[Some(1.0), Some(2.0)]),
            tuned("2,8/2,1/77,64", &[Some(12.5), Some(10.0)]),
            tuned("3,8,512,64", &[Some(1.1), Some(1.0)]),
        ];
        let table = table(&shapes).to_string();
        assert!(table.contains("hd64_m128n128 10.00, *hd64_m192n128 12.50"), "{table}");
        let text = text(&shapes);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("33.3 % of 3 shapes are within 3 %"), "{text}");
        assert!(lines[1].trim().starts_with("25.0 %  2,8/2,1/77,64, causal, f16: "), "{text}");
        assert!(lines[2].trim().starts_with("10.0 %  3,8,512,64"), "{text}");
        assert_eq!(lines.len(), 3, "{text}");
    }
}
