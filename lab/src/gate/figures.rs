//! The figures that gates are about, and how a run tells them.

use serde::Deserialize;

use super::run::{Run, Stage, State};
use crate::ct::{Pair, Timed, Timing};
use crate::determinism::{Condition, Row};
use crate::errors::Fp8Errors;
use crate::metrics::{Cell, Check, FLASHCORE, Metrics, geomean};
use crate::power::Sustained;
use crate::profile::{self, Findings as Profiles};
use crate::sanitize::{Findings as Sanitized, Tool, ToolRun};

/// Tokens of a shape of the grid, at least; others are small.
const TOKENS: usize = 16_384;
/// Shapes of gates on latency.
const SMALL: &str = "1,8,512,64";
const MIDDLE: &str = "1,12,2048,128";

/// A figure, by its name in the table of gates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// How many times as fast as the best peer: the mean over all shapes.
    RatioMean,
    /// The same of the worst shape.
    RatioWorst,
    /// TFLOPS of the worst shape of the grid, small ones left out.
    TflopsLeast,
    /// Shapes with wrong results.
    WrongResults,
    /// The largest error as a share of what is allowed.
    ErrorShare,
    /// Microseconds that a call in a hundred exceeds.
    LatencyP99,
    LatencySmallP99,
    /// The largest root mean square error of a shape.
    Rmse,
    /// The largest error over 8 bits as a share of what is allowed.
    Fp8ErrorShare,
    /// The largest difference from sampled outputs of an earlier run.
    DifferenceBefore,
    /// TFLOPS for each W, of the worst shape.
    TflopsPerWatt,
    /// The highest temperature.
    Celsius,
    /// The lowest mean clock of a shape.
    ClockMhz,
    /// Energy of an operation, beside the best peer's: the worst shape.
    EnergyRatio,
    /// Runs with other bits than the first.
    DifferingRuns,
    DifferingBatches,
    DifferingProcesses,
    /// The same of attention over 8 bits, under all conditions.
    Fp8Differing,
    /// What depends on data in the code of kernels, and slow paths.
    ProofFindings,
    /// The same of the negative control.
    ProofControl,
    /// The largest t of a pair of classes by cycles, and that of the negative control.
    TimingT,
    TimingControl,
    /// The largest t by time.
    WallT,
    /// Percent of the time that the tensor cores are busy, and how many times as much as cuDNN's.
    TensorActivity,
    TensorRatio,
    /// Percent of the peak of device memory.
    MemoryThroughput,
    /// What the tools of compute-sanitizer found.
    MemcheckErrors,
    RacecheckErrors,
    SynccheckErrors,
    LeakedBytes,
    /// Planted mistakes that a tool did not see.
    UnseenMistakes,
    /// Bytes of reports of ncu.
    ProfilerReports,
    /// Bytes of a file that the run left.
    File(String),
}

/// A figure, and what it is of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) value: f64,
    pub(crate) detail: String,
}

/// Why there is no figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It cannot be measured here, or was not asked for.
    NotHere(String),
    /// The run ended before.
    Unfinished(String),
    /// What should measure it broke.
    Broken(String),
}

type Read = Result<Reading, Missing>;

fn reading(value: f64, detail: impl Into<String>) -> Read {
    Ok(Reading { value, detail: detail.into() })
}

/// A count of things, and which they are.
fn things(found: &[String]) -> Read {
    reading(found.len() as f64, found.join("; "))
}

fn not_here(reason: &str) -> Missing {
    Missing::NotHere(reason.to_owned())
}

/// The largest value, and what it is of; NaN is larger than any.
fn largest(values: impl Iterator<Item = (f64, String)>) -> Option<Reading> {
    extreme(values, |new, old| new > old)
}

/// The smallest value, and what it is of; NaN is smaller than any.
fn smallest(values: impl Iterator<Item = (f64, String)>) -> Option<Reading> {
    extreme(values, |new, old| new < old)
}

fn extreme(values: impl Iterator<Item = (f64, String)>, beyond: fn(f64, f64) -> bool) -> Option<Reading> {
    let readings = values.map(|(value, detail)| Reading { value, detail });
    readings.reduce(|kept, new| {
        if !kept.value.is_nan() && (new.value.is_nan() || beyond(new.value, kept.value)) { new } else { kept }
    })
}

impl Figure {
    /// The stage that measures it.
    pub(crate) fn stage(&self) -> Stage {
        match self {
            Figure::RatioMean
            | Figure::RatioWorst
            | Figure::TflopsLeast
            | Figure::WrongResults
            | Figure::ErrorShare => Stage::Bench,
            Figure::LatencyP99 | Figure::LatencySmallP99 => Stage::Latency,
            Figure::Rmse | Figure::Fp8ErrorShare | Figure::DifferenceBefore => Stage::Errors,
            Figure::TflopsPerWatt | Figure::Celsius | Figure::ClockMhz | Figure::EnergyRatio => Stage::Power,
            Figure::DifferingRuns
            | Figure::DifferingBatches
            | Figure::DifferingProcesses
            | Figure::Fp8Differing => Stage::Determinism,
            Figure::ProofFindings | Figure::ProofControl => Stage::Proof,
            Figure::TimingT | Figure::TimingControl | Figure::WallT => Stage::Timing,
            Figure::TensorActivity
            | Figure::TensorRatio
            | Figure::MemoryThroughput
            | Figure::ProfilerReports => Stage::Profile,
            Figure::MemcheckErrors
            | Figure::RacecheckErrors
            | Figure::SynccheckErrors
            | Figure::LeakedBytes
            | Figure::UnseenMistakes => Stage::Sanitize,
            Figure::File(_) => Stage::Report,
        }
    }

    /// The figure of a run, beside an earlier one.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn read(&self, run: &Run, earlier: Option<&Run>) -> Read {
        let stage = self.stage();
        match run.state(stage) {
            State::Done => self.of(run, earlier),
            State::Skipped(reason) => Err(Missing::NotHere(reason.clone())),
            State::Failed(reason) => Err(Missing::Broken(reason.clone())),
            State::Planned => Err(Missing::Unfinished(format!("{} was not begun", stage.name()))),
            State::Running => Err(Missing::Unfinished(format!("{} did not end", stage.name()))),
        }
    }

    /// The figure of a run whose stage was done.
    fn of(&self, run: &Run, earlier: Option<&Run>) -> Read {
        let broken = || Missing::Broken(format!("the run has no figures of {}", self.stage().name()));
        let bench = || run.bench.as_ref().ok_or_else(broken);
        let power = || run.power.as_ref().ok_or_else(broken);
        let timing = || run.timing.as_ref().ok_or_else(broken);
        let proof = || run.proof.as_ref().ok_or_else(broken);
        let profile = || run.profile.as_ref().ok_or_else(broken);
        let sanitized = || run.sanitize.as_ref().ok_or_else(broken);
        match self {
            Figure::RatioMean => ratio_mean(bench()?),
            Figure::RatioWorst => ratio_worst(bench()?),
            Figure::TflopsLeast => tflops_least(bench()?),
            Figure::WrongResults => wrong_results(bench()?),
            Figure::ErrorShare => error_share(bench()?),
            Figure::LatencyP99 => latency(run, MIDDLE).ok_or_else(broken),
            Figure::LatencySmallP99 => latency(run, SMALL).ok_or_else(broken),
            Figure::Rmse => {
                largest(run.errors.iter().map(|errors| (errors.rmse, errors.case.clone()))).ok_or_else(broken)
            }
            Figure::Fp8ErrorShare => fp8_error_share(run),
            Figure::DifferenceBefore => difference(run, earlier),
            Figure::TflopsPerWatt => sustained(power()?, Sustained::tflops_per_watt, smallest),
            Figure::Celsius => sustained(power()?, Sustained::celsius, largest),
            Figure::ClockMhz => {
                sustained(power()?, |s| s.readings.map(|readings| readings.clock_mhz), smallest)
            }
            Figure::EnergyRatio => energy_ratio(power()?),
            Figure::DifferingRuns => differing(run, |row| {
                use Condition::{Alone, Order, OtherWork, Streams};
                matches!(row.condition, Alone | OtherWork | Streams | Order)
            }),
            Figure::DifferingBatches => differing(run, |row| row.condition == Condition::Batch),
            Figure::DifferingProcesses => differing(run, |row| row.condition == Condition::Process),
            Figure::Fp8Differing => differing(run, Row::is_of_8_bits),
            Figure::ProofFindings => {
                let proof = proof()?;
                if proof.cubins < proof.kernels {
                    let reason = format!("{} kernels have no machine code", proof.kernels - proof.cubins);
                    return Err(Missing::NotHere(reason));
                }
                things(&[&proof.findings[..], &proof.slow_paths].concat())
            }
            Figure::ProofControl => things(&proof()?.control),
            Figure::TimingT => told_apart(timing()?, |timed| &timed.cycles, "cycles"),
            Figure::WallT => told_apart(timing()?, |timed| &timed.pairs, "µs"),
            Figure::TimingControl => {
                let control = timing()?.control_cycles.as_ref().ok_or_else(without_cycles)?;
                reading(control.agreed_t(), control.classes.join(" and "))
            }
            Figure::TensorActivity => ours(profile()?, profile::TENSOR),
            Figure::MemoryThroughput => ours(profile()?, profile::DRAM),
            Figure::TensorRatio => tensor_ratio(profile()?),
            Figure::ProfilerReports => {
                let names = profile()?.profiles.iter().map(|profile| format!("ncu/{}", profile.report));
                let left: Vec<(String, u64)> =
                    names.filter_map(|name| Some((name.clone(), *run.files.get(&name)?))).collect();
                let names: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
                reading(left.iter().map(|(_, bytes)| bytes).sum::<u64>() as f64, names.join(", "))
            }
            Figure::MemcheckErrors => errors(sanitized()?, &[Tool::Memcheck]),
            Figure::RacecheckErrors => errors(sanitized()?, &[Tool::Racecheck]),
            Figure::SynccheckErrors => errors(sanitized()?, &[Tool::Synccheck, Tool::Initcheck]),
            Figure::LeakedBytes => matrix(sanitized()?, &[Tool::Memcheck], |summary| summary.leaked_bytes),
            Figure::UnseenMistakes => unseen(sanitized()?),
            Figure::File(name) if name == super::report::COMPARISON && earlier.is_none() => {
                Err(not_here("there is no earlier run to compare with"))
            }
            Figure::File(name) => reading(run.files.get(name).copied().unwrap_or(0) as f64, name.clone()),
        }
    }
}

fn name(cell: &Cell) -> String {
    format!("{}, {}, {}", cell.shape(), cell.mask(), cell.dtype)
}

/// Every shape with a peer, and the best of them.
fn ratios(bench: &Metrics) -> impl Iterator<Item = (f64, String)> {
    bench.cells.iter().filter_map(|cell| {
        let (peer, ratio) = cell.figures.best_peer()?;
        Some((ratio, format!("{}, beside {peer}", name(cell))))
    })
}

fn no_peers(bench: &Metrics) -> Missing {
    let reasons: Vec<String> =
        bench.missing.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    Missing::NotHere(format!("there is no peer ({})", reasons.join("; ")))
}

/// The largest agreed t of the pairs that `of` chooses, whose means are so many `unit`.
fn told_apart(timing: &Timing, of: fn(&Timed) -> &[Pair], unit: &str) -> Read {
    let pairs = timing.shapes.iter().flat_map(|timed| {
        of(timed).iter().map(move |pair| {
            let (classes, samples, seen) = (pair.classes.join(" and "), pair.samples[1], pair.detectable);
            let [a, b] = pair.mean;
            let shape = &timed.shape;
            let detail =
                format!("{shape}, {classes}: {a:.3} and {b:.3} {unit}; {samples} samples, {seen:.4} {unit} would be seen");
            (pair.agreed_t(), detail)
        })
    });
    largest(pairs).ok_or_else(without_cycles)
}

fn without_cycles() -> Missing {
    not_here("that run did not count cycles")
}

fn ratio_mean(bench: &Metrics) -> Read {
    let count = ratios(bench).count();
    let mean = geomean(ratios(bench).map(|(ratio, _)| ratio)).ok_or_else(|| no_peers(bench))?;
    reading(mean, format!("{count} shapes"))
}

fn ratio_worst(bench: &Metrics) -> Read {
    smallest(ratios(bench)).ok_or_else(|| no_peers(bench))
}

fn tflops_least(bench: &Metrics) -> Read {
    let large = bench.cells.iter().filter(|cell| cell.batch * cell.seqlen >= TOKENS);
    let tflops = large.filter_map(|cell| Some((cell.figures.tflops(FLASHCORE)?, name(cell))));
    smallest(tflops).ok_or_else(|| not_here("no shape of the grid was timed"))
}

fn wrong_results(bench: &Metrics) -> Read {
    let wrong = bench.cells.iter().filter(|cell| !cell.check.is_right());
    things(&wrong.map(name).collect::<Vec<_>>())
}

fn error_share(bench: &Metrics) -> Read {
    let share = |cell: &Cell| match cell.check {
        Check::Right { error, bound, .. } => Some((error / bound, name(cell))),
        Check::Wrong(_) => Some((f64::NAN, name(cell))),
    };
    largest(bench.cells.iter().filter_map(share)).ok_or_else(|| not_here("no shape was checked"))
}

fn fp8_error_share(run: &Run) -> Read {
    let share = |errors: &Fp8Errors| {
        let share = match errors.check {
            Check::Right { error, bound, .. } => error / bound,
            Check::Wrong(_) => f64::NAN,
        };
        (share, format!("{}, {}", errors.kernel, errors.case))
    };
    largest(run.fp8.iter().map(share)).ok_or_else(|| not_here("that run had nothing of 8 bits"))
}

fn latency(run: &Run, shape: &str) -> Option<Reading> {
    let latency = run.latency.iter().find(|latency| latency.shape == shape)?;
    let detail = format!("{shape}, {} calls, median {:.2} µs", latency.calls, latency.p50_us);
    Some(Reading { value: latency.p99_us, detail })
}

fn difference(run: &Run, earlier: Option<&Run>) -> Read {
    let earlier = earlier.ok_or_else(|| not_here("there is no earlier run to compare with"))?;
    let pairs = run.errors.iter().flat_map(|now| earlier.errors.iter().map(move |before| (now, before)));
    let differences = pairs.filter_map(|(now, before)| Some((now.difference(before)?, now.case.clone())));
    largest(differences).ok_or_else(|| not_here("the earlier run kept no outputs"))
}

/// A figure of ours over all sustained shapes.
fn sustained<P>(power: &crate::power::Findings, of: fn(&Sustained) -> Option<f64>, pick: P) -> Read
where
    P: FnOnce(std::vec::IntoIter<(f64, String)>) -> Option<Reading>,
{
    let ours = power.measured.iter().filter(|sustained| sustained.name == FLASHCORE);
    let figures: Vec<(f64, String)> =
        ours.filter_map(|sustained| Some((of(sustained)?, sustained.problem()))).collect();
    pick(figures.into_iter()).ok_or_else(|| not_here("the sensors of this GPU do not tell"))
}

fn energy_ratio(power: &crate::power::Findings) -> Read {
    let ratios = power.problems().into_iter().filter_map(|(problem, measured)| {
        let energy = |ours: bool| {
            let of = measured.iter().filter(|sustained| (sustained.name == FLASHCORE) == ours);
            of.filter_map(|sustained| Some((sustained.energy()?, sustained.name.clone())))
                .reduce(|best, other| if other.0 < best.0 { other } else { best })
        };
        let ((ours, _), (theirs, peer)) = (energy(true)?, energy(false)?);
        Some((ours / theirs, format!("{problem}, beside {peer}")))
    });
    largest(ratios).ok_or_else(|| not_here("no peer's energy was measured"))
}

fn differing(run: &Run, counts: fn(&Row) -> bool) -> Read {
    let rows = || {
        let findings = run.determinism.iter().flat_map(|findings| &findings.rows);
        findings.filter(|row| counts(row))
    };
    let runs: usize = rows().map(|row| row.runs).sum();
    if runs == 0 {
        return Err(not_here("nothing of the kind was run"));
    }
    let differing: usize = rows().map(|row| row.differing).sum();
    reading(differing as f64, format!("of {runs} runs"))
}

/// A counter of our launch.
fn ours(profiles: &Profiles, what: &str) -> Read {
    let value = profiles.of(FLASHCORE).and_then(|profile| profile.metrics.get(what));
    match value {
        Some(&value) => reading(value, profiles.problem.clone()),
        None => Err(not_here(&match profiles.missing.get(FLASHCORE) {
            Some(reason) => reason.clone(),
            None => format!("this ncu does not know {what}"),
        })),
    }
}

fn tensor_ratio(profiles: &Profiles) -> Read {
    const PEER: &str = "cudnn";
    let of = |name: &str| profiles.of(name)?.metrics.get(profile::TENSOR).copied();
    match (of(FLASHCORE), of(PEER)) {
        (Some(ours), Some(theirs)) => {
            reading(ours / theirs, format!("{}: {ours:.1} % and {theirs:.1} %", profiles.problem))
        }
        _ => Err(not_here("ours and cuDNN's were not both profiled")),
    }
}

/// What tools said of what should be clean. A tool that came to no end said nothing, which is not nothing.
fn matrix(findings: &Sanitized, tools: &[Tool], of: fn(&crate::sanitize::Summary) -> u64) -> Read {
    let mut sum = 0;
    for &tool in tools {
        let runs: Vec<&ToolRun> =
            findings.runs.iter().filter(|run| run.tool == tool && !run.planted).collect();
        if runs.is_empty() {
            return Err(not_here(&format!("{} was not run", tool.name())));
        }
        for run in runs {
            let broken = || Missing::Broken(format!("{}, {}: {}", tool.name(), run.what, run.ended));
            sum += of(run.summary.as_ref().ok_or_else(broken)?);
        }
    }
    reading(sum as f64, tools.iter().map(|tool| tool.name()).collect::<Vec<_>>().join(", "))
}

fn errors(findings: &Sanitized, tools: &[Tool]) -> Read {
    matrix(findings, tools, |summary| summary.errors)
}

fn unseen(findings: &Sanitized) -> Read {
    let planted = || findings.runs.iter().filter(|run| run.planted);
    if planted().count() == 0 {
        return Err(not_here("no mistake was planted"));
    }
    things(&planted().filter(|run| !run.is_right()).map(|run| run.what.clone()).collect::<Vec<_>>())
}
