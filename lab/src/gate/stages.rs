//! Measuring what the gates are about, part by part. What one part leaves is kept even if the next one kills the
//! program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flashcore::{Device, Dtype};
use flashcore_tests::cases::Case;
use flashcore_tests::grid;

use super::run::{Run, Stage, State};
use crate::PeerOptions;
use crate::bench::{self, Terms};
use crate::metrics::Machine;
use crate::sanitize::{Matrix, Tool};
use crate::sensors::Sensors;
use crate::{ct, determinism, errors, latency, power, profile, sanitize};

/// Sequence lengths of the grid, chosen so that all parts together take less than eight minutes.
const LENGTHS: [usize; 3] = [1024, 4096, 16_384];
const ROUNDS: u16 = 5;
const BENCH_SECONDS: f64 = 0.05;
const POWER_SECONDS: f64 = 2.0;
/// Runs of each shape under each condition.
const REPEAT: usize = 40;
/// Peers that are profiled.
const PROFILED: [&str; 2] = ["cudnn", "flash3"];
/// Longest time of one profile, and of one program under compute-sanitizer.
const PROFILE_LIMIT: Duration = Duration::from_secs(60);
const SANITIZE_LIMIT: Duration = Duration::from_secs(180);

/// What is to be done.
pub(super) struct Plan {
    pub(super) wanted: Vec<Stage>,
    /// Time after which no further part is begun.
    pub(super) budget: Duration,
    pub(super) peers: PeerOptions,
}

/// Measures; what could not be measured says why.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn run(device: flashcore::Result<Device>, plan: &Plan, dir: &Path) -> Result<Run> {
    let (device, no_gpu) = match device {
        Ok(device) => (Some(device), String::new()),
        Err(error) => (None, format!("no GPU: {error}")),
    };
    let machine = device.as_ref().map(|device| {
        let sensors = Sensors::new(device.properties().ordinal);
        Machine::of(device, sensors.as_ref())
    });
    let mut run = Run::planned(machine);
    for progress in &mut run.stages {
        progress.state = match progress.stage {
            stage if !plan.wanted.contains(&stage) => State::Skipped("not asked for".to_owned()),
            stage if stage.needs_gpu() && device.is_none() => State::Skipped(no_gpu.clone()),
            _ => State::Planned,
        };
    }
    run.save(dir)?;
    let start = Instant::now();
    for stage in Stage::ALL.into_iter().filter(|&stage| stage != Stage::Report) {
        if *run.state(stage) != State::Planned {
            continue;
        }
        if start.elapsed() > plan.budget {
            let reason = format!("{} s were spent before it (--budget)", plan.budget.as_secs());
            run.progress(stage).state = State::Failed(reason);
            continue;
        }
        eprintln!("== {}", stage.name());
        run.progress(stage).state = State::Running;
        run.save(dir)?;
        let begun = Instant::now();
        let left = plan.budget.saturating_sub(start.elapsed());
        // A part that panics takes no other with it; what it measured before is whole, because it is put there as a whole.
        let measured = AssertUnwindSafe(|| measure(stage, &mut run, device.as_ref(), plan, left, dir));
        let state = match catch_unwind(measured) {
            Ok(Ok(())) => State::Done,
            Ok(Err(Trouble::Absent(reason))) => State::Skipped(reason),
            Ok(Err(Trouble::Failed(error))) => State::Failed(format!("{error:#}")),
            Err(_) => State::Failed("it panicked; standard error has the reason".to_owned()),
        };
        if let State::Failed(reason) | State::Skipped(reason) = &state {
            eprintln!("{}: {reason}", stage.name());
        }
        let progress = run.progress(stage);
        (progress.state, progress.seconds) = (state, begun.elapsed().as_secs_f64());
        run.save(dir)?;
    }
    Ok(run)
}

/// Why a part was not measured.
enum Trouble {
    /// This machine lacks what it takes.
    Absent(String),
    /// It broke.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Trouble::Failed(error)
    }
}

/// Measures a part; other programs that it runs have no longer than is `left`.
fn measure(
    stage: Stage,
    run: &mut Run,
    device: Option<&Device>,
    plan: &Plan,
    left: Duration,
    dir: &Path,
) -> Result<(), Trouble> {
    let device = || device.context("this part needs a GPU");
    let absent = |error: anyhow::Error| Trouble::Absent(format!("{error:#}"));
    match stage {
        Stage::Proof => run.proof = Some(ct::prove()?),
        Stage::Bench => {
            let terms = Terms { peers: &plan.peers, rounds: ROUNDS, seconds: BENCH_SECONDS };
            let cells = in_f16([grid::large(&LENGTHS, &[false, true]), grid::small(&[false])].concat());
            bench::measure(device()?, &cells, terms, |metrics| {
                run.bench = Some(metrics.clone());
                run.save(dir)
            })?;
        }
        Stage::Latency => run.latency = latency::measure(device()?, &latency::cases())?,
        Stage::Errors => {
            run.errors = errors::measure(device()?, &errors::cases())?;
            run.fp8 = errors::measure_fp8(device()?, &errors::fp8_cases())?;
        }
        Stage::Power => {
            let cases = in_f16(power::usual(&[false, true]));
            power::measure(device()?, &cases, &plan.peers, POWER_SECONDS, |findings| {
                run.power = Some(findings.clone());
                run.save(dir)
            })?;
        }
        Stage::Determinism => {
            let request = determinism::Request::usual(REPEAT);
            let log = dir.join("logs/determinism.log");
            run.determinism = Some(determinism::measure(device()?, &request, &log)?);
        }
        Stage::Timing => {
            let cases = in_f16(vec![grid::cell(1, 4, 1024, 128, false), grid::cell(1, 4, 1024, 64, true)]);
            run.timing = Some(ct::measure(device()?, &cases, ct::SAMPLES)?);
        }
        Stage::Profile => {
            let ncu = profile::find().map_err(absent)?;
            let vs = PROFILED.map(str::to_owned);
            let request = profile::Request {
                case: grid::cell(2, 16, 8192, 128, false),
                dtype: Dtype::F16,
                vs: if plan.peers.no_peers { &[] } else { &vs },
                peers: plan.peers.clone(),
                sources: profile::sources_beside_program(),
                limit: PROFILE_LIMIT.min(left),
            };
            let ordinal = device()?.properties().ordinal;
            profile::measure(&ncu, ordinal, &request, &dir.join("ncu"), |findings| {
                run.profile = Some(findings.clone());
                run.save(dir)
            })?;
        }
        Stage::Sanitize => {
            let sanitizer = sanitize::find().map_err(absent)?;
            let matrix = Matrix::small(Tool::ALL.into(), SANITIZE_LIMIT.min(left));
            let ordinal = device()?.properties().ordinal;
            sanitize::measure(&sanitizer, ordinal, &matrix, &dir.join("sanitize"), |findings| {
                run.sanitize = Some(findings.clone());
                run.save(dir)
            })?;
        }
        Stage::Report => {}
    }
    Ok(())
}

fn in_f16(cases: Vec<Case>) -> Vec<(Case, Dtype)> {
    cases.into_iter().map(|case| (case, Dtype::F16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Table, table};

    fn no_peers() -> PeerOptions {
        PeerOptions { no_peers: true, without: Vec::new(), python: "python3".into(), peers: None }
    }

    #[test]
    fn without_a_gpu_what_needs_none_is_done_and_the_rest_says_why_not() {
        let dir = crate::gate::testing::folder("no-gpu");
        let plan = Plan { wanted: Stage::ALL.into(), budget: Duration::from_secs(480), peers: no_peers() };
        let no_device = Err(flashcore::Error::NoDevice { ordinal: 0, count: 0 });
        let run = run(no_device, &plan, &dir).unwrap();
        assert_eq!(*run.state(Stage::Proof), State::Done);
        let State::Skipped(reason) = run.state(Stage::Sanitize) else { panic!("{:?}", run.stages) };
        assert!(reason.starts_with("no GPU: "), "{reason}");
        // As it lies in the folder at this moment, the report is not written yet.
        let read = Run::load(&dir).unwrap();
        assert_eq!(read.unfinished(), ["report"]);
        let judgements = Table::standard().unwrap().judge(&read, None);
        assert!(!table::passes(&read, &judgements));
        assert!(
            table::verdict(&read, &judgements).starts_with("INTERRUPTED"),
            "{}",
            table::verdict(&read, &judgements)
        );
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_spent_budget_begins_nothing() {
        let dir = crate::gate::testing::folder("budget");
        let wanted = vec![Stage::Proof, Stage::Report];
        let plan = Plan { wanted, budget: Duration::ZERO, peers: no_peers() };
        let no_device = Err(flashcore::Error::NoDevice { ordinal: 0, count: 0 });
        let run = run(no_device, &plan, &dir).unwrap();
        assert!(matches!(run.state(Stage::Proof), State::Failed(reason) if reason.contains("--budget")));
        assert_eq!(*run.state(Stage::Bench), State::Skipped("not asked for".to_owned()));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
