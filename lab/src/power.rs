//! Sustained speed: seconds of back-to-back replays, with clock, power and energy.
//!
//! At long lengths every good kernel runs into the board's power limit, and the clock gives way. Speed is then watts
//! divided by the energy of an operation.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{CellAlignment, Table, TableStyle, presets};
use flashcore::{Device, Dtype};
use flashcore_tests::cases::Case;
use flashcore_tests::device::{self, OnDevice};
use flashcore_tests::grid;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::PeerOptions;
use crate::charts;
use crate::clocks::{self, Clocks, OfGpu};
use crate::feature::Feature;
use crate::metrics::{FLASHCORE, Machine, pj_per_flop};
use crate::output::{self, Origin};
use crate::peers::Peers;
use crate::sensors::{COUNTER_SECONDS, Readings, Sample, Sensors};
use crate::shape::{Bhsd, Dtypes, Shapes, mask};
use crate::timing::{Protocol, Recorded, Timing, guess_ms};

/// A graph takes about this long at least, so that the GPU hardly ever waits for the next.
const GRAPH_MS: f64 = 10.0;
/// Calls in a graph, at most.
const MAX_LAUNCHES: f64 = 1000.0;

/// Options of `power`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab power --shape 2,16,8192,128 --causal --seconds 5\n  flashcore-lab power --full --sweep-clocks 6 --dry-run\n\n\
                  A sweep holds the clock of the GPU, and lets it go at the end. Never do that on a machine that others use."
)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) shapes: Shapes,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: Dtypes,
    #[command(flatten)]
    pub(crate) peers: PeerOptions,
    /// GPU time of each measurement, in seconds; the energy counter needs one at least
    #[arg(long, default_value_t = 3.0, value_name = "N")]
    pub(crate) seconds: f64,
    /// Measure once more at each of N clocks, from the highest to half of it: the GPU is held to them, which takes root
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..))]
    sweep_clocks: Option<u8>,
    /// Say which clocks a sweep would hold, and do nothing
    #[arg(long, requires = "sweep_clocks")]
    dry_run: bool,
    /// File for all figures; the traces of the sensors lie beside it, as .csv and .svg
    #[arg(long, default_value = "target/flashcore/power.json", value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// What a run measured, as it is written to a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Findings {
    #[serde(flatten)]
    pub(crate) origin: Origin,
    pub(crate) machine: Machine,
    /// GPU time of each measurement.
    pub(crate) seconds: f64,
    pub(crate) measured: Vec<Sustained>,
}

/// One implementation on one shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sustained {
    #[serde(flatten)]
    pub(crate) shape: Bhsd,
    pub(crate) causal: bool,
    pub(crate) dtype: String,
    pub(crate) name: String,
    pub(crate) us: f64,
    pub(crate) tflops: f64,
    pub(crate) readings: Option<Readings>,
    /// Energy of a call, J, by the energy counter.
    pub(crate) joules: Option<f64>,
    /// Energy of an operation, pJ, by the energy counter.
    pub(crate) pj_per_flop: Option<f64>,
    /// The same by the power gauge.
    pub(crate) gauge_pj_per_flop: Option<f64>,
    /// What the sensors read over time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) trace: Vec<Sample>,
    /// The clock that the GPU was held to, MHz, in a sweep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) locked_mhz: Option<u32>,
}

impl Sustained {
    pub(crate) fn new(case: &Case, dtype: Dtype, name: String, us: f64, readings: Option<Readings>) -> Self {
        let flops = grid::flops(case);
        let counter = readings.and_then(|readings| readings.counter_watts);
        Sustained {
            shape: Bhsd::from(case),
            causal: case.causal,
            dtype: dtype.name().to_owned(),
            name,
            us,
            tflops: flops / us / 1e6,
            readings,
            joules: counter.map(|watts| watts * us / 1e6),
            pj_per_flop: counter.map(|watts| pj_per_flop(watts, us, flops)),
            gauge_pj_per_flop: readings.map(|readings| pj_per_flop(readings.watts, us, flops)),
            trace: Vec::new(),
            locked_mhz: None,
        }
    }

    /// B,H,S,D, the mask and the element type.
    pub(crate) fn problem(&self) -> String {
        format!("{}, {}, {}", self.shape, mask(self.causal), self.dtype)
    }

    /// Power of the board, W: by the energy counter, else by the gauge.
    pub(crate) fn watts(&self) -> Option<f64> {
        self.readings.map(|readings| readings.counter_watts.unwrap_or(readings.watts))
    }

    /// TFLOPS for each W.
    pub(crate) fn tflops_per_watt(&self) -> Option<f64> {
        self.watts().map(|watts| self.tflops / watts)
    }

    /// Energy of an operation, pJ: by the energy counter, else by the gauge.
    pub(crate) fn energy(&self) -> Option<f64> {
        self.pj_per_flop.or(self.gauge_pj_per_flop)
    }

    /// The highest temperature, degrees Celsius.
    pub(crate) fn celsius(&self) -> Option<f64> {
        let mean = self.readings.map(|readings| readings.celsius);
        self.trace.iter().map(|sample| sample.celsius).chain(mean).reduce(f64::max)
    }

    /// The name of the implementation, and the clock that it was held to.
    pub(crate) fn label(&self) -> String {
        match self.locked_mhz {
            Some(mhz) => format!("{} at {mhz} MHz", self.name),
            None => self.name.clone(),
        }
    }
}

impl Findings {
    /// The measurements of each shape.
    pub(crate) fn problems(&self) -> Vec<(String, Vec<&Sustained>)> {
        let mut problems: Vec<(String, Vec<&Sustained>)> = Vec::new();
        for sustained in &self.measured {
            let problem = sustained.problem();
            match problems.iter_mut().find(|(known, _)| *known == problem) {
                Some((_, measured)) => measured.push(sustained),
                None => problems.push((problem, vec![sustained])),
            }
        }
        problems
    }

    /// Every sample of every trace, a row each.
    pub(crate) fn csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record([
            "shape",
            "mask",
            "dtype",
            "implementation",
            "locked_mhz",
            "seconds",
            "clock_mhz",
            "watts",
            "celsius",
            "throttle_reasons",
        ])?;
        for sustained in &self.measured {
            for sample in &sustained.trace {
                let optional = |value: Option<String>| value.unwrap_or_default();
                writer.write_record([
                    sustained.shape.to_string(),
                    mask(sustained.causal).to_owned(),
                    sustained.dtype.clone(),
                    sustained.name.clone(),
                    optional(sustained.locked_mhz.map(|mhz| mhz.to_string())),
                    format!("{:.3}", sample.seconds),
                    sample.clock_mhz.to_string(),
                    sample.watts.to_string(),
                    sample.celsius.to_string(),
                    optional(sample.throttle_reasons.map(|reasons| format!("{reasons:#x}"))),
                ])?;
            }
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }
}

/// What is measured if no shape was given, under each of `masks`.
pub(crate) fn usual(masks: &[bool]) -> Vec<Case> {
    masks.iter().map(|&causal| grid::cell(2, 16, 8192, 128, causal)).collect()
}

/// Measures each shape for `seconds`.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    let cases = options.shapes.cases_or(usual);
    let dtypes = options.dtype.list();
    let cases: Vec<_> =
        cases.iter().flat_map(|&case| dtypes.iter().map(move |&dtype| (case, dtype))).collect();
    let keep = |findings: &Findings| output::write(findings, &options.out);
    let findings = match options.sweep_clocks {
        None => measure(&device, &cases, &options.peers, options.seconds, keep)?,
        Some(count) => {
            let clocks: Arc<dyn Clocks> = Arc::new(OfGpu::new(device.properties().ordinal)?);
            let count = usize::from(count);
            if options.dry_run {
                println!(
                    "{}",
                    plan(&clocks::points(&clocks.supported()?, count), cases.len(), options.seconds)
                );
                return Ok(true);
            }
            let mut all: Option<Findings> = None;
            clocks::sweep(&clocks, count, clocks::is_root(), |mhz| {
                let mut findings = measure(&device, &cases, &options.peers, options.seconds, |_| Ok(()))?;
                findings.measured.iter_mut().for_each(|sustained| sustained.locked_mhz = Some(mhz));
                match &mut all {
                    Some(all) => all.measured.extend(findings.measured),
                    None => all = Some(findings),
                }
                all.iter().try_for_each(keep)
            })?;
            all.context("nothing was measured")?
        }
    };
    println!("{}", table(&findings.measured, presets::UTF8_FULL_CONDENSED));
    print!("{}", iso_tflops(&findings));
    if findings.measured.iter().all(|sustained| sustained.joules.is_none()) {
        println!(
            "No energies: the GPU does not count them, or its counter did not move for {COUNTER_SECONDS} s (--seconds \
             is {}).",
            options.seconds
        );
    }
    let traces = options.out.with_extension("csv");
    output::write_text(&findings.csv()?, &traces)?;
    let plot = options.out.with_extension("svg");
    output::write_text(&charts::traces(&findings)?, &plot)?;
    println!("figures: {}, {}, {}", options.out.display(), traces.display(), plot.display());
    Ok(true)
}

/// What a sweep would do, in words.
fn plan(points: &[u32], cases: usize, seconds: f64) -> String {
    let clocks: Vec<String> = points.iter().map(u32::to_string).collect();
    format!(
        "Nothing is done. A sweep would hold the clock of the SMs to {} MHz, one after the other, measure {cases} shapes for \
         {seconds} s by each implementation at each of them, and let the clock go.",
        clocks.join(", ")
    )
}

/// Measures each of `cases`; `keep` is called after every one, so that a run that is cut short leaves what it has.
pub(crate) fn measure(
    device: &Device,
    cases: &[(Case, Dtype)],
    peers: &PeerOptions,
    seconds: f64,
    mut keep: impl FnMut(&Findings) -> Result<()>,
) -> Result<Findings> {
    device.preload()?;
    let sensors = Sensors::new(device.properties().ordinal).context("the sensors (NVML) cannot be read")?;
    let mut peers = match peers.no_peers {
        true => None,
        false => Peers::for_dense(peers)
            .inspect_err(|error| eprintln!("flashcore is measured alone: {error:#}"))
            .ok(),
    };
    let mut findings = Findings {
        origin: Origin::now(),
        machine: Machine::of(device, Some(&sensors)),
        seconds,
        measured: Vec::new(),
    };
    let bar = ProgressBar::new(cases.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed}/{duration} {msg}")?);
    for &(ref case, dtype) in cases {
        bar.set_message(device::name(case, dtype));
        let tensors = OnDevice::new(device, case, &case.inputs(dtype, 0))?;
        let calls = Recorded::new(device, &tensors, launches(case))?;
        findings.measured.extend(sustain(&calls, &sensors, &mut peers, case, dtype, seconds)?);
        keep(&findings)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(findings)
}

/// What each implementation draws at the same rate on the same shape: that of the slowest. In a sweep between two clocks,
/// else by its energy of an operation as it was measured, which a lower clock would make less.
pub(crate) fn iso_tflops(findings: &Findings) -> String {
    let mut text = String::new();
    for (problem, measured) in findings.problems() {
        let mut names: Vec<&str> = Vec::new();
        for sustained in &measured {
            if !names.contains(&sustained.name.as_str()) {
                names.push(&sustained.name);
            }
        }
        let of = |name: &str| -> Vec<&Sustained> {
            measured.iter().copied().filter(|sustained| sustained.name == name).collect()
        };
        let fastest = |name: &&str| of(name).iter().map(|sustained| sustained.tflops).reduce(f64::max);
        let Some(rate) = names.iter().filter_map(fastest).reduce(f64::min) else { continue };
        let at_rate = |name: &&str| Some(format!("{name} {:.0} W", watts_at(&of(name), rate)?));
        let watts: Vec<String> = names.iter().filter_map(at_rate).collect();
        if watts.len() > 1 {
            text += &format!("{problem}: at {rate:.0} TFLOPS, {}\n", watts.join(", "));
        }
    }
    text
}

/// What an implementation draws at `rate`, TFLOPS: on the line between the next slower and the next faster measurement,
/// or, of one alone, by its energy of an operation.
fn watts_at(measured: &[&Sustained], rate: f64) -> Option<f64> {
    let points = || measured.iter().filter_map(|sustained| Some((sustained.tflops, sustained.watts()?)));
    let below = points().filter(|point| point.0 <= rate).max_by(|a, b| a.0.total_cmp(&b.0));
    let above = points().filter(|point| point.0 >= rate).min_by(|a, b| a.0.total_cmp(&b.0));
    match (below, above, measured) {
        (_, _, [single]) => Some(single.energy()? * rate),
        (Some(below), Some(above), _) if above.0 > below.0 => {
            Some(below.1 + (above.1 - below.1) * (rate - below.0) / (above.0 - below.0))
        }
        (_, Some(above), _) => Some(above.1 * rate / above.0),
        _ => None,
    }
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
        let (timing, readings, trace) = sensors.watch(|| measure(long));
        match timing? {
            Ok(timing) => {
                measured.push(Sustained { trace, ..Sustained::new(case, dtype, name, timing.us, readings) });
            }
            Err(reason) => eprintln!("{name}, {}: {reason}", device::name(case, dtype)),
        }
    }
    Ok(measured)
}

/// A row for each implementation on each shape.
pub(crate) fn table(measured: &[Sustained], style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style);
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
            sustained.dtype.clone(),
            sustained.label(),
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
        let table = table(&[sustained], presets::UTF8_FULL_CONDENSED).to_string();
        assert!(table.contains("2,16,8192,128") && table.contains("1.150"), "{table}");
    }

    #[test]
    fn what_was_not_read_is_left_out() {
        let case = grid::cell(1, 1, 1, 64, true);
        let sustained = Sustained::new(&case, Dtype::Bf16, "peer".to_owned(), 5.0, None);
        assert_eq!((sustained.joules, sustained.gauge_pj_per_flop), (None, None));
        assert!(table(&[sustained], presets::UTF8_FULL_CONDENSED).to_string().contains(" - "));
    }

    fn sustained(name: &str, tflops: f64, watts: f64, locked_mhz: Option<u32>) -> Sustained {
        let case = grid::cell(2, 16, 8192, 128, false);
        let us = grid::flops(&case) / tflops / 1e6;
        let readings = Readings { clock_mhz: 1500.0, watts, counter_watts: Some(watts), celsius: 60.0 };
        Sustained { locked_mhz, ..Sustained::new(&case, Dtype::F16, name.to_owned(), us, Some(readings)) }
    }

    #[test]
    fn at_the_same_rate_what_needs_less_energy_draws_less() {
        let machine = crate::gate::testing::good().machine.unwrap();
        let of =
            |measured| Findings { origin: Origin::now(), machine: machine.clone(), seconds: 1.0, measured };
        let alone =
            of(vec![sustained(FLASHCORE, 600.0, 690.0, None), sustained("cudnn", 500.0, 690.0, None)]);
        let problem = "2,16,8192,128, full, f16";
        assert_eq!(iso_tflops(&alone), format!("{problem}: at 500 TFLOPS, flashcore 575 W, cudnn 690 W\n"));
        let swept = of(vec![
            sustained(FLASHCORE, 600.0, 690.0, Some(1600)),
            sustained("cudnn", 500.0, 690.0, Some(1600)),
            sustained(FLASHCORE, 400.0, 350.0, Some(1000)),
            sustained("cudnn", 320.0, 360.0, Some(1000)),
        ]);
        assert_eq!(iso_tflops(&swept), format!("{problem}: at 500 TFLOPS, flashcore 520 W, cudnn 690 W\n"));
    }

    #[test]
    fn samples_are_rows() {
        let findings = crate::gate::testing::good().power.unwrap();
        let text = findings.csv().unwrap();
        assert_eq!(text.lines().count(), 1 + 80);
        assert!(text.contains("\"2,16,8192,128\",full,f16,cudnn,,0.050,1989,690,60,0x4"), "{text}");
    }

    #[test]
    fn a_plan_names_its_clocks() {
        assert!(plan(&[1980, 990], 2, 3.0).contains("to 1980, 990 MHz"));
    }

    #[test]
    fn graphs_are_long_but_not_endless() {
        assert_eq!(launches(&grid::cell(2, 16, 8192, 128, false)), 10);
        assert_eq!(launches(&grid::cell(1, 1, 1, 64, false)), 1000);
    }
}
