//! The table of gates, and what a run makes of each.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::figures::{Figure, Missing};
use super::run::{Run, Stage};

/// The gates of the product.
const STANDARD: &str = include_str!("../../gates.toml");

/// Gates, in the order of the report.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    #[serde(rename = "gate")]
    pub(crate) gates: Vec<Gate>,
}

/// A claim, and the limit of the figure that it is about.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gate {
    pub(crate) id: String,
    /// The claim.
    pub(crate) what: String,
    pub(crate) figure: Figure,
    pub(crate) limit: Limit,
    /// Unit of the figure.
    #[serde(default)]
    pub(crate) unit: String,
    /// Where the limit comes from.
    pub(crate) source: String,
    /// Whether the run fails if the figure misses the limit.
    #[serde(default = "yes")]
    pub(crate) binding: bool,
    /// What is reachable, and why.
    #[serde(default)]
    pub(crate) note: Option<String>,
}

fn yes() -> bool {
    true
}

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Limit {
    /// Whether a figure keeps it; NaN never does.
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Limit::AtLeast(limit) => value >= limit,
            Limit::AtMost(limit) => value <= limit,
            Limit::Below(limit) => value < limit,
        }
    }

    /// The limit in words.
    pub(crate) fn words(self) -> String {
        let (relation, limit) = match self {
            Limit::AtLeast(limit) => ("≥", limit),
            Limit::AtMost(limit) => ("≤", limit),
            Limit::Below(limit) => ("<", limit),
        };
        let is_small = limit != 0.0 && limit.abs() < 1e-3;
        if is_small { format!("{relation} {limit:e}") } else { format!("{relation} {limit}") }
    }
}

/// What became of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Pass,
    Fail,
    /// The limit was missed, but nobody promised to keep it.
    Missed,
    /// This machine, or this run, cannot tell; why.
    NotMeasurable(String),
    /// The run ended before it could tell.
    Unfinished(String),
    /// What should have told broke; how.
    Broken(String),
}

impl Outcome {
    /// In a word or two.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "FAIL",
            Outcome::Missed => "missed",
            Outcome::NotMeasurable(_) => "not measurable here",
            Outcome::Unfinished(_) => "unfinished",
            Outcome::Broken(_) => "BROKEN",
        }
    }

    /// Why there is no figure.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Outcome::Pass | Outcome::Fail | Outcome::Missed => "",
            Outcome::NotMeasurable(reason) | Outcome::Unfinished(reason) | Outcome::Broken(reason) => reason,
        }
    }

    /// Whether a run with it is one that passes.
    fn passes(&self) -> bool {
        matches!(self, Outcome::Pass | Outcome::Missed | Outcome::NotMeasurable(_))
    }
}

/// A gate, and what a run makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Judgement {
    pub(crate) gate: Gate,
    pub(crate) outcome: Outcome,
    /// The figure.
    pub(crate) value: Option<f64>,
    /// What the figure is of: the worst shape, say.
    pub(crate) detail: String,
}

impl Judgement {
    /// The figure with its unit, or that there is none.
    pub(crate) fn figure(&self) -> String {
        let Some(value) = self.value else { return "-".to_owned() };
        let digits = match value.abs() {
            0.0 => 0,
            size if size >= 100.0 => 0,
            size if size >= 0.01 => 3,
            _ => return format!("{value:.1e} {}", self.gate.unit).trim_end().to_owned(),
        };
        let whole = value.fract() == 0.0;
        format!("{value:.*} {}", if whole { 0 } else { digits }, self.gate.unit).trim_end().to_owned()
    }
}

impl Table {
    /// The gates of the product.
    ///
    /// # Errors
    /// The table in this program is no table.
    pub(crate) fn standard() -> Result<Self> {
        Self::parse(STANDARD).context("gates.toml")
    }

    /// Reads a table.
    ///
    /// # Errors
    /// It is not of this form, or an id stands there twice.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let table: Table = toml::from_str(text)?;
        let mut ids: Vec<&str> = table.gates.iter().map(|gate| gate.id.as_str()).collect();
        ids.sort_unstable();
        for pair in ids.windows(2) {
            ensure!(pair[0] != pair[1], "gate {} stands there twice", pair[0]);
        }
        Ok(table)
    }

    /// What `run` makes of every gate; some compare it with an earlier one.
    pub(crate) fn judge(&self, run: &Run, earlier: Option<&Run>) -> Vec<Judgement> {
        self.gates.iter().map(|gate| judge(gate, run, earlier)).collect()
    }
}

fn judge(gate: &Gate, run: &Run, earlier: Option<&Run>) -> Judgement {
    let (outcome, value, detail) = match gate.figure.read(run, earlier) {
        Ok(reading) => {
            let outcome = match (gate.limit.holds(reading.value), gate.binding) {
                (true, _) => Outcome::Pass,
                (false, true) => Outcome::Fail,
                (false, false) => Outcome::Missed,
            };
            (outcome, Some(reading.value), reading.detail)
        }
        Err(Missing::NotHere(reason)) => (Outcome::NotMeasurable(reason), None, String::new()),
        Err(Missing::Unfinished(reason)) => (Outcome::Unfinished(reason), None, String::new()),
        Err(Missing::Broken(reason)) => (Outcome::Broken(reason), None, String::new()),
    };
    Judgement { gate: gate.clone(), outcome, value, detail }
}

/// Whether a run passes: it came to its end, and no gate that binds failed.
pub(crate) fn passes(run: &Run, judgements: &[Judgement]) -> bool {
    run.unfinished().is_empty() && judgements.iter().all(|judgement| judgement.outcome.passes())
}

/// The verdict, in a sentence.
pub(crate) fn verdict(run: &Run, judgements: &[Judgement]) -> String {
    let count = |word: &str| judgements.iter().filter(|judgement| judgement.outcome.word() == word).count();
    let counts: Vec<String> = ["pass", "FAIL", "BROKEN", "missed", "not measurable here", "unfinished"]
        .into_iter()
        .filter(|word| count(word) > 0)
        .map(|word| format!("{} {word}", count(word)))
        .collect();
    let counts = format!("{} gates: {}.", judgements.len(), counts.join(", "));
    let unfinished = run.unfinished();
    match (unfinished.is_empty(), passes(run, judgements)) {
        (false, _) => format!(
            "INTERRUPTED: this run did not come to its end; not done: {}. {counts}",
            unfinished.join(", ")
        ),
        (true, true) => format!("PASSED. {counts}"),
        (true, false) => format!("FAILED. {counts}"),
    }
}

impl Gate {
    /// The stage whose figures decide.
    pub(crate) fn stage(&self) -> Stage {
        self.figure.stage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::determinism::Condition;
    use crate::gate::Stage as StageName;
    use crate::gate::run::State;
    use crate::gate::testing;
    use crate::metrics::{Check, FLASHCORE};
    use crate::profile;

    fn judgement(run: &Run, id: &str) -> Judgement {
        let earlier = testing::good();
        let judgements = Table::standard().unwrap().judge(run, Some(&earlier));
        judgements.into_iter().find(|judgement| judgement.gate.id == id).expect("a gate of this id")
    }

    #[test]
    fn a_good_run_passes_every_gate() {
        let run = testing::good();
        let judgements = Table::standard().unwrap().judge(&run, Some(&testing::good()));
        for judgement in &judgements {
            assert_eq!(judgement.outcome, Outcome::Pass, "{judgement:?}");
            assert!(!judgement.gate.source.is_empty());
            assert_eq!(judgement.gate.note.is_some(), !judgement.gate.binding, "{}", judgement.gate.id);
        }
        assert!(passes(&run, &judgements) && verdict(&run, &judgements).starts_with("PASSED"));
    }

    /// Makes the measurements behind a figure bad, and nothing else.
    fn spoil(run: &mut Run, figure: &Figure) {
        let ours = |run: &mut Run, factor: f64| {
            let cells = run.bench.iter_mut().flat_map(|bench| &mut bench.cells);
            for measured in cells.flat_map(|cell| &mut cell.figures.measured) {
                if measured.name == FLASHCORE {
                    measured.us.iter_mut().for_each(|us| *us *= factor);
                }
            }
        };
        let power = |run: &mut Run, change: fn(&mut crate::power::Sustained)| {
            let measured = run.power.iter_mut().flat_map(|power| &mut power.measured);
            measured.filter(|sustained| sustained.name == FLASHCORE).for_each(change);
        };
        let counter = |run: &mut Run, what: &str| {
            let profiles = run.profile.iter_mut().flat_map(|findings| &mut findings.profiles);
            for profile in profiles.filter(|profile| profile.implementation == FLASHCORE) {
                profile.metrics.insert(what.to_owned(), 20.0);
            }
        };
        let tool = |run: &mut Run, tool: &str, planted: bool, errors: u64, leaked_bytes: u64| {
            let runs = run.sanitize.iter_mut().flat_map(|findings| &mut findings.runs);
            for run in runs.filter(|run| run.tool.name() == tool && run.planted == planted) {
                run.summary = Some(crate::sanitize::Summary { errors, leaked_bytes });
            }
        };
        let differ = |run: &mut Run, conditions: &[Condition]| {
            let rows = run.determinism.iter_mut().flat_map(|findings| &mut findings.rows);
            rows.filter(|row| conditions.contains(&row.condition)).for_each(|row| row.differing = 1);
        };
        match figure {
            Figure::RatioMean => ours(run, 1.2),
            Figure::RatioWorst => {
                let cells = &mut run.bench.as_mut().unwrap().cells;
                cells[0].figures.measured[0].us.iter_mut().for_each(|us| *us *= 1.2);
            }
            Figure::TflopsLeast => ours(run, 10.0),
            Figure::WrongResults => {
                run.bench.as_mut().unwrap().cells[0].check = Check::Wrong("NaN".to_owned());
            }
            Figure::ErrorShare => {
                run.bench.as_mut().unwrap().cells[0].check =
                    Check::Right { error: 1.1e-3, bound: 1e-3, lse_error: 0.0 };
            }
            Figure::LatencyP99 => run.latency[0].p99_us = 300.0,
            Figure::LatencySmallP99 => run.latency[1].p99_us = 30.0,
            Figure::Rmse => run.errors[0].rmse = f64::NAN,
            Figure::Fp8ErrorShare => run.fp8[0].check = Check::Wrong("too far off".to_owned()),
            Figure::DifferenceBefore => run.errors[0].samples[0] += 1e-3,
            Figure::TflopsPerWatt => power(run, |sustained| sustained.tflops = 100.0),
            Figure::Celsius => power(run, |sustained| sustained.trace[0].celsius = 90.0),
            Figure::ClockMhz => power(run, |sustained| {
                sustained.readings.as_mut().unwrap().clock_mhz = 1500.0;
            }),
            Figure::EnergyRatio => power(run, |sustained| sustained.pj_per_flop = Some(2.0)),
            Figure::DifferingRuns => differ(run, &[Condition::Streams]),
            Figure::DifferingBatches => differ(run, &[Condition::Batch]),
            Figure::DifferingProcesses => differ(run, &[Condition::Process]),
            Figure::Fp8Differing => {
                let rows = run.determinism.iter_mut().flat_map(|findings| &mut findings.rows);
                rows.filter(|row| row.is_of_8_bits()).for_each(|row| row.differing = 1);
            }
            Figure::ProofFindings => run.proof.as_mut().unwrap().slow_paths.push("a slow path".to_owned()),
            Figure::ProofControl => run.proof.as_mut().unwrap().control.clear(),
            Figure::TimingT => run.timing.as_mut().unwrap().shapes[0].cycles[0].t = [-7.0, -5.0],
            Figure::TimingControl => {
                run.timing.as_mut().unwrap().control_cycles.as_mut().unwrap().t = [9.0, 0.1];
            }
            Figure::WallT => run.timing.as_mut().unwrap().shapes[0].pairs[0].t = [-7.0, -5.0],
            Figure::TensorActivity | Figure::TensorRatio => counter(run, profile::TENSOR),
            Figure::MemoryThroughput => counter(run, profile::DRAM),
            Figure::MemcheckErrors => tool(run, "memcheck", false, 1, 0),
            Figure::RacecheckErrors => tool(run, "racecheck", false, 1, 0),
            Figure::SynccheckErrors => tool(run, "initcheck", false, 1, 0),
            Figure::LeakedBytes => tool(run, "memcheck", false, 0, 256),
            Figure::UnseenMistakes => tool(run, "racecheck", true, 0, 0),
            Figure::ProfilerReports => run.files.retain(|name, _| !name.ends_with(".ncu-rep")),
            Figure::File(name) => _ = run.files.remove(name),
        }
    }

    #[test]
    fn every_gate_can_fail() {
        for gate in Table::standard().unwrap().gates {
            let mut run = testing::good();
            spoil(&mut run, &gate.figure);
            let judgement = judgement(&run, &gate.id);
            let wanted = if gate.binding { Outcome::Fail } else { Outcome::Missed };
            assert_eq!(judgement.outcome, wanted, "{judgement:?}");
            let judgements = Table::standard().unwrap().judge(&run, Some(&testing::good()));
            if gate.binding {
                assert!(!passes(&run, &judgements), "{}", gate.id);
                assert!(verdict(&run, &judgements).starts_with("FAILED"));
            }
        }
    }

    #[test]
    fn a_part_that_broke_fails_and_one_that_is_not_for_this_machine_does_not() {
        for gate in Table::standard().unwrap().gates {
            let with = |state: State| {
                let mut run = testing::good();
                run.progress(gate.stage()).state = state;
                judgement(&run, &gate.id).outcome
            };
            let reason = "out of memory".to_owned();
            assert_eq!(with(State::Failed(reason.clone())), Outcome::Broken(reason.clone()));
            assert_eq!(with(State::Skipped(reason.clone())), Outcome::NotMeasurable(reason));
            assert!(matches!(with(State::Running), Outcome::Unfinished(_)));
        }
    }

    #[test]
    fn a_tool_that_came_to_no_end_is_no_clean_one() {
        let mut run = testing::good();
        let runs = run.sanitize.iter_mut().flat_map(|findings| &mut findings.runs);
        runs.filter(|run| !run.planted).for_each(|run| run.summary = None);
        for id in ["7.3a", "7.3b", "7.3c", "S2"] {
            assert!(matches!(judgement(&run, id).outcome, Outcome::Broken(_)), "{id}");
        }
    }

    #[test]
    fn a_run_that_was_interrupted_does_not_pass() {
        let mut run = testing::good();
        run.progress(StageName::Sanitize).state = State::Running;
        let judgements = Table::standard().unwrap().judge(&run, Some(&testing::good()));
        assert!(!passes(&run, &judgements));
        let said = verdict(&run, &judgements);
        assert!(said.starts_with("INTERRUPTED") && said.contains("not done: sanitize"), "{said}");
    }

    #[test]
    fn no_number_keeps_no_limit() {
        for limit in [Limit::AtLeast(-1.0), Limit::AtMost(1.0), Limit::Below(1.0)] {
            assert!(!limit.holds(f64::NAN) && limit.holds(0.0));
        }
        assert_eq!(Limit::Below(1e-7).words(), "< 1e-7");
        assert_eq!(Limit::AtMost(0.0).words(), "≤ 0");
        assert!(Limit::AtMost(1.0).holds(1.0) && !Limit::Below(1.0).holds(1.0));
    }

    #[test]
    fn tables_that_are_none_are_refused() {
        let gate = |id: &str| {
            format!(
                "[[gate]]\nid = \"{id}\"\nwhat = \"a\"\nfigure = \"rmse\"\nlimit = {{ below = 1 }}\nsource = \"b\"\n"
            )
        };
        assert_eq!(Table::parse(&gate("A")).unwrap().gates.len(), 1);
        let twice = Table::parse(&(gate("A") + &gate("A"))).unwrap_err();
        assert_eq!(twice.to_string(), "gate A stands there twice");
        assert!(Table::parse(&gate("A").replace("rmse", "luck")).is_err());
        assert!(Table::parse(&gate("A").replace("below", "about")).is_err());
        assert!(Table::parse(&gate("A").replace("what", "why")).is_err());
    }
}
