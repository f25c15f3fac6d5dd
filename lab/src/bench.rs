//! The benchmark: each cell is checked, then timed, flashcore and its peers taking turns. Without a GPU the emulator
//! counts instead.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use flashcore::{Device, Dtype};
use flashcore_tests::cases::Case;
use flashcore_tests::device::{self, OnDevice};
use flashcore_tests::grid;
use indicatif::{ProgressBar, ProgressStyle};

use crate::PeerOptions;
use crate::emulated;
use crate::feature::Feature;
use crate::metrics::{Cell, Check, FLASHCORE, Machine, Metrics};
use crate::peers::{MATMUL, Peers};
use crate::sensors::Sensors;
use crate::shape::{Dtypes, Shapes};
use crate::timing::{Protocol, Recorded};
use crate::turns::take_turns;
use crate::{output, report};

/// Options of `bench`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab bench --quick\n  flashcore-lab bench --shape 2,16,8192,128 --causal --dtype both"
)]
pub(crate) struct Options {
    /// A smaller grid
    #[arg(long, conflicts_with = "shapes")]
    quick: bool,
    #[command(flatten)]
    shapes: Shapes,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtypes,
    #[command(flatten)]
    peers: PeerOptions,
    /// Times that flashcore and its peers take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// GPU time of each measurement, at least, in seconds
    #[arg(long, default_value_t = Protocol::STANDARD.min_ms / 1e3, value_name = "N")]
    seconds: f64,
    /// Folder for metrics.json, report.md and the plots; emulated.json where there is no GPU
    #[arg(long, default_value = "target/flashcore/report", value_name = "DIR")]
    out: PathBuf,
}

impl Options {
    /// The shapes that were given, or else `grid`, each in every element type.
    fn cells(&self, grid: impl Fn(bool, &[bool]) -> Vec<Case>) -> Vec<(Case, Dtype)> {
        let cases = self.shapes.cases_or(|masks| grid(self.quick, masks));
        self.dtype.list().iter().flat_map(|&dtype| cases.iter().map(move |&case| (case, dtype))).collect()
    }
}

/// Runs the benchmark; false if a result was wrong. Without a device it runs the emulator instead.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = match device {
        Ok(device) => device,
        Err(error) => return emulated::run(error, &options.cells(emulated::grid), &options.out),
    };
    let file = options.out.join("metrics.json");
    let terms = Terms { peers: &options.peers, rounds: options.rounds, seconds: options.seconds };
    let metrics = measure(&device, &options.cells(timed), terms, |metrics| output::write(metrics, &file))?;
    report::write(&metrics, &options.out)?;
    Ok(metrics.cells.iter().all(|cell| cell.check.is_right()))
}

/// What is timed if no shapes were given.
fn timed(quick: bool, masks: &[bool]) -> Vec<Case> {
    if quick { grid::large(&grid::QUICK_LENGTHS, masks) } else { grid::full(masks) }
}

/// The tensors of `case`, and what the oracle says to sampled rows of the result on them.
pub(crate) fn judged(device: &Device, case: &Case, dtype: Dtype) -> Result<(OnDevice, Check)> {
    const SEED: u64 = 20_260_707;
    let inputs = case.inputs(dtype, SEED);
    let tensors = OnDevice::new(device, case, &inputs)?;
    let stream = device.stream()?;
    tensors.run(&stream)?;
    stream.synchronize()?;
    let rows = inputs.attention.rows(device::BUDGET, SEED);
    let check = Check::from(tensors.outputs()?.judge(&inputs, &rows));
    Ok((tensors, check))
}

/// How a benchmark is run.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) peers: &'a PeerOptions,
    /// Times that flashcore and its peers take turns.
    pub(crate) rounds: u16,
    /// GPU time of each measurement, at least.
    pub(crate) seconds: f64,
}

/// Checks and times `cells`; `keep` is called after every one, so that a run that is cut short leaves what it has.
pub(crate) fn measure(
    device: &Device,
    cells: &[(Case, Dtype)],
    terms: Terms,
    keep: impl FnMut(&Metrics) -> Result<()>,
) -> Result<Metrics> {
    Bench::new(device, terms)?.run(cells, keep)
}

/// A run in progress.
struct Bench<'a> {
    device: &'a Device,
    sensors: Option<Sensors>,
    peers: Option<Peers>,
    /// Why there are no peers at all.
    no_peers: Option<String>,
    protocol: Protocol,
    rounds: u16,
}

impl<'a> Bench<'a> {
    fn new(device: &'a Device, terms: Terms) -> Result<Self> {
        device.preload()?;
        let mut no_peers = terms.peers.no_peers.then(|| "not asked for".to_owned());
        let mut peers = None;
        if no_peers.is_none() {
            match Peers::for_dense(terms.peers) {
                Ok(started) => {
                    for (name, reason) in &started.hello().missing {
                        eprintln!("{name} is left out: {reason}");
                    }
                    peers = Some(started);
                }
                Err(error) => {
                    eprintln!("flashcore is timed alone: {error:#}");
                    no_peers = Some(format!("{error:#}"));
                }
            }
        }
        let sensors = Sensors::new(device.properties().ordinal);
        let protocol = Protocol { min_ms: 1e3 * terms.seconds, ..Protocol::STANDARD };
        Ok(Bench { device, sensors, peers, no_peers, protocol, rounds: terms.rounds })
    }

    fn run(
        mut self,
        cells: &[(Case, Dtype)],
        mut keep: impl FnMut(&Metrics) -> Result<()>,
    ) -> Result<Metrics> {
        let bar = ProgressBar::new(cells.len() as u64)
            .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed}/{duration} {msg}")?);
        let matmul_tflops = self.matmul(cells)?;
        let hello = self.peers.as_ref().map(Peers::hello);
        let mut missing = hello.map(|hello| hello.missing.clone()).unwrap_or_default();
        missing.extend(self.no_peers.clone().map(|reason| ("all peers".to_owned(), reason)));
        let mut metrics = Metrics {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("FLASHCORE_COMMIT").map(str::to_owned),
            date: output::now(),
            machine: Machine::of(self.device, self.sensors.as_ref()),
            peers: hello.map(|hello| hello.versions.clone()).unwrap_or_default(),
            missing,
            protocol: self.protocol,
            rounds: self.rounds.into(),
            matmul_tflops,
            cells: Vec::new(),
        };
        for (case, dtype) in cells {
            bar.set_message(device::name(case, *dtype));
            metrics.cells.push(self.cell(case, *dtype)?);
            keep(&metrics)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(metrics)
    }

    /// TFLOPS of an 8192-cubed matrix product in each element type of `cells`.
    fn matmul(&mut self, cells: &[(Case, Dtype)]) -> Result<BTreeMap<String, f64>> {
        const SIZE: usize = 8192;
        let square = Feature::from(&Case { seqlen_q: SIZE, seqlen_kv: SIZE, ..Case::default() });
        let mut tflops = BTreeMap::new();
        if let Some(peers) = &mut self.peers {
            for &dtype in
                Dtypes::Both.list().iter().filter(|&dtype| cells.iter().any(|cell| cell.1 == *dtype))
            {
                if let Ok(timing) = peers.measure(MATMUL, &square, dtype, self.protocol)? {
                    tflops.insert(dtype.name().into(), 2.0 * (SIZE as f64).powi(3) / timing.us / 1e6);
                }
            }
        }
        Ok(tflops)
    }

    /// Checks a shape; times it if the result is right.
    fn cell(&mut self, case: &Case, dtype: Dtype) -> Result<Cell> {
        let (tensors, check) = judged(self.device, case, dtype)?;
        let mut cell = Cell::new(case, dtype, check);
        if !cell.check.is_right() {
            return Ok(cell);
        }
        let recorded = Recorded::new(self.device, &tensors, self.protocol.launches)?;
        let mut contenders = vec![FLASHCORE.to_owned()];
        contenders.extend(self.peers.iter().flat_map(|peers| peers.hello().impls.clone()));
        let problem = Feature::from(case);
        let Bench { peers, sensors, protocol, rounds, .. } = self;
        let taken = take_turns(&contenders, *rounds, sensors.as_ref(), |name| match peers {
            Some(peers) if name != FLASHCORE => peers.measure(name, &problem, dtype, *protocol),
            _ => recorded.measure(protocol).map(Ok),
        })?;
        (cell.figures.measured, cell.figures.skipped) = taken;
        Ok(cell)
    }
}
