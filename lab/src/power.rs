//! Sustained speed: seconds of back-to-back replays, with clock, power and energy.
//!
//! At long lengths every good kernel runs into the board's power limit, and the clock gives way. Speed is then watts
//! divided by the energy of an operation.

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore::{Device, Dtype};
use flashcore_tests::cases::Case;
use flashcore_tests::device::OnDevice;
use flashcore_tests::grid;

use crate::PeerOptions;
use crate::metrics::FLASHCORE;
use crate::peers::Peers;
use crate::sensors::Sensors;
use crate::shape::{Dtypes, Masks, Shapes};
use crate::timing::{Protocol, Recorded, Timing};

/// Options of `power`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    shapes: Shapes,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtypes,
    #[command(flatten)]
    masks: Masks,
    #[command(flatten)]
    peers: PeerOptions,
    /// GPU time of each measurement
    #[arg(long, default_value_t = 3.0, value_name = "N")]
    seconds: f64,
}

/// Measures each shape for `seconds`.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    let sensors = Sensors::new(device.properties().ordinal).context("the sensors (NVML) cannot be read")?;
    let mut cases = options.shapes.cases(options.masks.list());
    if cases.is_empty() {
        cases = options.masks.list().iter().map(|&causal| grid::cell(2, 16, 8192, 128, causal)).collect();
    }
    let mut peers = match options.peers.no_peers {
        true => None,
        false => Peers::start(&options.peers)
            .inspect_err(|error| eprintln!("flashcore is measured alone: {error:#}"))
            .ok(),
    };
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["shape", "", "µs", "TFLOPS", "MHz", "W", "pJ/FLOP", "°C"]);
    for case in &cases {
        for &dtype in options.dtype.list() {
            sustain(&device, &sensors, &mut peers, case, dtype, options.seconds, &mut table)?;
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    Ok(true)
}

/// Adds a row for each implementation.
fn sustain(
    device: &Device,
    sensors: &Sensors,
    peers: &mut Option<Peers>,
    case: &Case,
    dtype: Dtype,
    seconds: f64,
    table: &mut Table,
) -> Result<()> {
    // A first short run allocates, records and heats; only the second one counts.
    let short = Protocol { min_ms: 500.0, ..Protocol::STANDARD };
    let long = Protocol { min_ms: 1e3 * seconds, ..Protocol::STANDARD };
    let tensors = OnDevice::new(device, case, &case.inputs(dtype, 0))?;
    let recorded = Recorded::new(device, &tensors, Protocol::STANDARD.launches)?;
    let mut names = vec![FLASHCORE.to_owned()];
    names.extend(peers.iter().flat_map(|peers| peers.hello().impls.clone()));
    for name in names {
        let mut measure = |protocol: Protocol| -> Result<Result<Timing, String>> {
            match peers {
                Some(peers) if name != FLASHCORE => peers.measure(&name, case, dtype, protocol),
                _ => recorded.measure(&protocol).map(Ok),
            }
        };
        if let Err(reason) = measure(short)? {
            eprintln!("{name}: {reason}");
            continue;
        }
        let before = sensors.joules();
        let (timing, readings) = sensors.during(|| measure(long));
        let after = sensors.joules();
        let Ok(Timing { us, launched }) = timing? else { continue };
        let flops = grid::flops(case);
        let energy =
            before.zip(after).map(|(before, after)| (after - before) / (launched as f64 * flops) * 1e12);
        let digits =
            |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        table.add_row([
            flashcore_tests::device::name(case, dtype),
            name,
            format!("{us:.2}"),
            format!("{:.1}", flops / us / 1e6),
            digits(readings.map(|r| r.clock_mhz), 0),
            digits(readings.map(|r| r.watts), 0),
            digits(energy, 3),
            digits(readings.map(|r| r.celsius), 0),
        ]);
    }
    Ok(())
}
