//! Whether the plan chooses well: every kernel that can compute a shape is checked and timed, the kernels taking turns.

mod random;
mod regret;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use flashcore::{Device, Dtype, Plan};
use flashcore_tests::cases::Case;
use flashcore_tests::device::{self, OnDevice};
use flashcore_tests::grid;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::metrics::{Check, Machine, median};
use crate::output::{self, Origin};
use crate::sensors::Sensors;
use crate::shape::{Bhsd, Dtypes, Shapes};
use crate::timing::{Protocol, Recorded, guess_ms};
use regret::{Candidate, Summary, Tuned};

/// Share of the shapes that `--gate` wants within [`regret::TOLERANCE`].
const GOAL: f64 = 0.95;
/// Multiplications that the oracle may spend on the scores of a shape: a few rows say whether a kernel is wrong.
const ORACLE_BUDGET: usize = 1 << 24;
/// A graph takes about this long, if its kernels do not take longer.
const GRAPH_MS: f64 = 1.0;

/// Options of `tune`.
#[derive(Args)]
#[command(
    group = ArgGroup::new("what").args(["shapes", "grid", "random"]).required(true).multiple(true),
    after_help = "Examples:\n  flashcore-lab tune --shape 2,16,8192,128 --shape 8,32/8,1/4096,128\n  \
                  flashcore-lab tune --random 200 --seed 1 --gate --out tune.json"
)]
pub(crate) struct Options {
    #[command(flatten)]
    shapes: Shapes,
    /// The grid of the benchmark
    #[arg(long)]
    grid: bool,
    /// So many random shapes
    #[arg(long, value_name = "N")]
    random: Option<usize>,
    /// Which random shapes: the same number, the same shapes
    #[arg(long, default_value_t = 0, requires = "random", value_name = "K")]
    seed: u64,
    /// Element type [default: f16; either for random shapes]
    #[arg(long, value_enum)]
    dtype: Option<Dtypes>,
    /// Times that the kernels take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// GPU time of each measurement, at least, in seconds
    #[arg(long, default_value_t = 0.02, value_name = "N")]
    seconds: f64,
    /// Fail unless the choice is as good as the best kernel, within 3 %, at 95 % of the shapes
    #[arg(long)]
    gate: bool,
    /// File for all figures
    #[arg(long, default_value = "target/flashcore/tune.json", value_name = "FILE")]
    out: PathBuf,
}

impl Options {
    /// Everything that was asked for.
    fn cases(&self) -> Vec<(Case, Dtype)> {
        let masks = self.shapes.masks();
        let mut named = self.shapes.cases();
        if self.grid {
            named.extend(grid::full(masks));
        }
        let dtypes = self.dtype.unwrap_or_default().list();
        let mut cases: Vec<_> =
            dtypes.iter().flat_map(|&dtype| named.iter().map(move |&case| (case, dtype))).collect();
        let dtypes = self.dtype.unwrap_or(Dtypes::Both).list();
        cases.extend(random::shapes(self.seed, masks, dtypes).take(self.random.unwrap_or(0)));
        cases
    }

    /// How each kernel is timed: as in the benchmark, but shorter. Kernels of one shape hardly differ in power.
    fn protocol(&self, case: &Case) -> Protocol {
        let launches = (GRAPH_MS / guess_ms(case)).clamp(1.0, Protocol::STANDARD.launches as f64);
        Protocol {
            launches: launches as usize,
            settle_ms: 2e3 * self.seconds,
            min_replays: 5,
            min_ms: 1e3 * self.seconds,
        }
    }
}

/// What a run found, as it is written to a file.
#[derive(Serialize)]
struct Findings {
    #[serde(flatten)]
    origin: Origin,
    machine: Machine,
    seconds: f64,
    rounds: u16,
    summary: Summary,
    shapes: Vec<Tuned>,
}

/// Times every kernel at every shape; false if a result was wrong, or the gate is not passed.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    device.preload()?;
    let mut findings = Findings {
        origin: Origin::now(),
        machine: Machine::of(&device, Sensors::new(device.properties().ordinal).as_ref()),
        seconds: options.seconds,
        rounds: options.rounds,
        summary: Summary::of(&[]),
        shapes: Vec::new(),
    };
    let cases = options.cases();
    let bar = ProgressBar::new(cases.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed}/{duration} {msg}")?);
    for (case, dtype) in &cases {
        let name = device::name(case, *dtype);
        bar.set_message(name.clone());
        findings.shapes.push(tune(&device, case, *dtype, options).context(name)?);
        findings.summary = Summary::of(&findings.shapes);
        // After every shape: a run that is cut short leaves what it has.
        output::write(&findings, &options.out)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!("{}", regret::table(&findings.shapes));
    print!("{}", regret::text(&findings.shapes));
    println!("figures: {}", options.out.display());
    let right = findings.shapes.iter().all(Tuned::is_right);
    Ok(right && (!options.gate || findings.summary.within >= GOAL))
}

/// Checks every kernel on a shape, and times those that are right.
fn tune(device: &Device, case: &Case, dtype: Dtype, options: &Options) -> Result<Tuned> {
    const SEED: u64 = 20_260_707;
    let inputs = case.inputs(dtype, SEED);
    let rows = inputs.attention.rows(ORACLE_BUDGET, SEED);
    let expected = inputs.attention.answers(&rows, dtype);
    let tensors = OnDevice::new(device, case, &inputs)?;
    drop(inputs);
    let choice = Plan::new(&case.problem(dtype)?, device.properties())?;
    let protocol = options.protocol(case);
    let stream = device.stream()?;
    let (mut candidates, mut recorded) = (Vec::new(), Vec::new());
    for plan in tensors.plans()? {
        tensors.poison()?;
        tensors.run_plan(&plan, &stream)?;
        let check = Check::from(tensors.outputs()?.judge_by(&expected));
        if check.is_right() {
            let calls = Recorded::of_plan(device, &tensors, &plan, protocol.launches)?;
            recorded.push((candidates.len(), calls));
        }
        candidates.push(Candidate {
            kernel: plan.variant.symbol,
            grid: plan.grid,
            work_tiles: plan.work_tiles,
            chosen: plan == choice,
            check,
            us: None,
            rounds: Vec::new(),
        });
    }
    if let Some((_, first)) = recorded.first() {
        // The GPU has idled while results were compared: its clock must rise again.
        first.measure(&protocol)?;
    }
    for _ in 0..options.rounds {
        for (index, calls) in &recorded {
            candidates[*index].rounds.push(calls.measure(&protocol)?.us);
        }
        // The other way round next time: what ran just before a kernel heats the GPU, or leaves K and V in L2.
        recorded.reverse();
    }
    for (index, _) in &recorded {
        let candidate = &mut candidates[*index];
        candidate.us = Some(median(&mut candidate.rounds.clone()));
    }
    Ok(Tuned::new(Bhsd::from(case), case.causal, dtype, candidates))
}
