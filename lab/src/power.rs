//! Sustained speed: seconds of back-to-back replays, with clock, power and energy.
//!
//! At long lengths every good kernel runs into the board's power limit, and the clock gives way. Speed is then watts
//! divided by the energy of an operation.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore::{Device, Dtype};
use flashcore_tests::cases::Case;
use flashcore_tests::device::{self, OnDevice};
use flashcore_tests::grid;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::PeerOptions;
use crate::feature::Feature;
use crate::metrics::{FLASHCORE, Machine, pj_per_flop};
use crate::output::{self, Origin};
use crate::peers::Peers;
use crate::sensors::{COUNTER_SECONDS, Readings, Sensors};
use crate::shape::{Bhsd, Dtypes, Shapes, mask};
use crate::timing::{Protocol, Recorded, Timing, guess_ms};

/// A graph takes about this long at least, so that the GPU hardly ever waits for the next.
const GRAPH_MS: f64 = 10.0;
/// Calls in a graph, at most.
const MAX_LAUNCHES: f64 = 1000.0;

/// Options of `power`.
#[derive(Args)]
#[command(after_help = "Example:\n  flashcore-lab power --shape 2,16,8192,128 --causal --seconds 5")]
pub(crate) struct Options {
    #[command(flatten)]
    shapes: Shapes,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtypes,
    #[command(flatten)]
    peers: PeerOptions,
    /// GPU time of each measurement, in seconds; the energy counter needs one at least
    #[arg(long, default_value_t = 3.0, value_name = "N")]
    seconds: f64,
    /// File for all figures
    #[arg(long, default_value = "target/flashcore/power.json", value_name = "FILE")]
    out: PathBuf,
}

/// What a run measured, as it is written to a file.
#[derive(Serialize)]
struct Findings {
    #[serde(flatten)]
    origin: Origin,
    machine: Machine,
    seconds: f64,
    measured: Vec<Sustained>,
}

/// One implementation on one shape.
#[derive(Clone, Debug, Serialize)]
struct Sustained {
    #[serde(flatten)]
    shape: Bhsd,
    causal: bool,
    dtype: &'static str,
    name: String,
    us: f64,
    tflops: f64,
    readings: Option<Readings>,
    /// Energy of a call, J, by the energy counter.
    joules: Option<f64>,
    /// Energy of an operation, pJ, by the energy counter.
    pj_per_flop: Option<f64>,
    /// The same by the power gauge.
    gauge_pj_per_flop: Option<f64>,
}

impl Sustained {
    fn new(case: &Case, dtype: Dtype, name: String, us: f64, readings: Option<Readings>) -> Self {
        let flops = grid::flops(case);
        let counter = readings.and_then(|readings| readings.counter_watts);
        Sustained {
            shape: Bhsd::from(case),
            causal: case.causal,
            dtype: dtype.name(),
            name,
            us,
            tflops: flops / us / 1e6,
            readings,
            joules: counter.map(|watts| watts * us / 1e6),
            pj_per_flop: counter.map(|watts| pj_per_flop(watts, us, flops)),
            gauge_pj_per_flop: readings.map(|readings| pj_per_flop(readings.watts, us, flops)),
        }
    }
}

/// Measures each shape for `seconds`.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    device.preload()?;
    let sensors = Sensors::new(device.properties().ordinal).context("the sensors (NVML) cannot be read")?;
    let usual = |&causal: &bool| grid::cell(2, 16, 8192, 128, causal);
    let cases = options.shapes.cases_or(|masks| masks.iter().map(usual).collect());
    let mut peers = match options.peers.no_peers {
        true => None,
        false => Peers::for_dense(&options.peers)
            .inspect_err(|error| eprintln!("flashcore is measured alone: {error:#}"))
            .ok(),
    };
    let mut findings = Findings {
        origin: Origin::now(),
        machine: Machine::of(&device, Some(&sensors)),
        seconds: options.seconds,
        measured: Vec::new(),
    };
    let bar = ProgressBar::new((cases.len() * options.dtype.list().len()) as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed}/{duration} {msg}")?);
    for case in &cases {
        for &dtype in options.dtype.list() {
            bar.set_message(device::name(case, dtype));
            let tensors = OnDevice::new(&device, case, &case.inputs(dtype, 0))?;
            let calls = Recorded::new(&device, &tensors, launches(case))?;
            findings.measured.extend(sustain(&calls, &sensors, &mut peers, case, dtype, options.seconds)?);
            // After every shape: a run that is cut short leaves what it has.
            output::write(&findings, &options.out)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    println!("{}", table(&findings.measured));
    if findings.measured.iter().all(|sustained| sustained.joules.is_none()) {
        println!(
            "No energies: the GPU does not count them, or its counter did not move for {COUNTER_SECONDS} s (--seconds \
             is {}).",
            options.seconds
        );
    }
    println!("figures: {}", options.out.display());
    Ok(true)
}

/// Calls in a graph.
fn launches(case: &Case) -> usize {
    (GRAPH_MS / guess_ms(case)).clamp(Protocol::STANDARD.launches as f64, MAX_LAUNCHES) as usize
}

/// Measures each implementation; `calls` are ours.
fn sustain(
    calls: &Recorded<&OnDevice>,
    sensors: &Sensors,
    peers: &mut Option<Peers>,
    case: &Case,
    dtype: Dtype,
    seconds: f64,
) -> Result<Vec<Sustained>> {
    // A first short run allocates, records and heats; only the second one counts.
    let short = Protocol { launches: launches(case), min_ms: 500.0, ..Protocol::STANDARD };
    let long = Protocol { min_ms: 1e3 * seconds, ..short };
    let mut names = vec![FLASHCORE.to_owned()];
    names.extend(peers.iter().flat_map(|peers| peers.hello().impls.clone()));
    let problem = Feature::from(case);
    let mut measured = Vec::new();
    for name in names {
        let mut measure = |protocol: Protocol| -> Result<Result<Timing, String>> {
            match peers {
                Some(peers) if name != FLASHCORE => peers.measure(&name, &problem, dtype, protocol),
                _ => calls.measure(&protocol).map(Ok),
            }
        };
        if let Err(reason) = measure(short)? {
            eprintln!("{name}, {}: {reason}", device::name(case, dtype));
            continue;
        }
        let (timing, readings) = sensors.during(|| measure(long));
        match timing? {
            Ok(timing) => measured.push(Sustained::new(case, dtype, name, timing.us, readings)),
            Err(reason) => eprintln!("{name}, {}: {reason}", device::name(case, dtype)),
        }
    }
    Ok(measured)
}

/// A row for each implementation on each shape.
fn table(measured: &[Sustained]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "B,H,S,D",
        "mask",
        "dtype",
        "",
        "µs",
        "TFLOPS",
        "MHz",
        "°C",
        "W\ngauge",
        "W\ncounter",
        "mJ/call\ncounter",
        "pJ/FLOP\ngauge",
        "pJ/FLOP\ncounter",
    ]);
    let number =
        |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    for sustained in measured {
        let readings = sustained.readings;
        table.add_row([
            sustained.shape.to_string(),
            mask(sustained.causal).to_owned(),
            sustained.dtype.to_owned(),
            sustained.name.clone(),
            number(Some(sustained.us), 2),
            number(Some(sustained.tflops), 1),
            number(readings.map(|readings| readings.clock_mhz), 0),
            number(readings.map(|readings| readings.celsius), 0),
            number(readings.map(|readings| readings.watts), 0),
            number(readings.and_then(|readings| readings.counter_watts), 0),
            number(sustained.joules.map(|joules| 1e3 * joules), 2),
            number(sustained.gauge_pj_per_flop, 3),
            number(sustained.pj_per_flop, 3),
        ]);
    }
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energies_are_those_of_a_call_and_of_an_operation() {
        let case = grid::cell(2, 16, 8192, 128, false);
        let us = grid::flops(&case) / 600e6;
        let readings =
            Readings { clock_mhz: 1500.0, watts: 660.0, counter_watts: Some(690.0), celsius: 60.0 };
        let sustained = Sustained::new(&case, Dtype::F16, FLASHCORE.to_owned(), us, Some(readings));
        assert!((sustained.tflops - 600.0).abs() < 1e-6);
        assert!((sustained.joules.unwrap() - 690.0 * us / 1e6).abs() < 1e-9);
        assert!((sustained.pj_per_flop.unwrap() - 1.15).abs() < 1e-9);
        assert!((sustained.gauge_pj_per_flop.unwrap() - 1.1).abs() < 1e-9);
        let table = table(&[sustained]).to_string();
        assert!(table.contains("2,16,8192,128") && table.contains("1.150"), "{table}");
    }

    #[test]
    fn what_was_not_read_is_left_out() {
        let case = grid::cell(1, 1, 1, 64, true);
        let sustained = Sustained::new(&case, Dtype::Bf16, "peer".to_owned(), 5.0, None);
        assert_eq!((sustained.joules, sustained.gauge_pj_per_flop), (None, None));
        assert!(table(&[sustained]).to_string().contains(" - "));
    }

    #[test]
    fn graphs_are_long_but_not_endless() {
        assert_eq!(launches(&grid::cell(2, 16, 8192, 128, false)), 10);
        assert_eq!(launches(&grid::cell(1, 1, 1, 64, false)), 1000);
    }
}
