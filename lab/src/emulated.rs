//! The benchmark where there is no GPU: the emulator runs a small grid, and counts what the kernels do.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, TableStyle, presets};
use flashcore::driver::{Counters, Finding};
use flashcore::{Device, Dtype, Plan};
use flashcore_tests::cases::Case;
use flashcore_tests::device::{self, OnDevice};
use flashcore_tests::grid;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::metrics::{Cell, Check};
use crate::output::{self, Origin};

/// Sequence lengths of the grid.
const LENGTHS: [usize; 2] = [128, 512];

/// A run of the emulator.
#[derive(Serialize)]
struct Counts {
    #[serde(flatten)]
    origin: Origin,
    device: String,
    /// Why there is no GPU.
    no_gpu: String,
    rows: Vec<Row>,
}

/// One kernel on one shape.
#[derive(Serialize)]
struct Row {
    kernel: &'static str,
    #[serde(flatten)]
    cell: Cell,
    ctas: u32,
    counters: Counters,
    findings: Vec<Finding>,
}

/// Shapes of the grid under each of `masks`: one head.
pub(crate) fn grid(quick: bool, masks: &[bool]) -> Vec<Case> {
    let lengths = if quick { &LENGTHS[..1] } else { &LENGTHS };
    let mut cells = Vec::new();
    for &causal in masks {
        for head_dim in grid::HEAD_DIMS {
            cells.extend(lengths.iter().map(|&seqlen| grid::cell(1, 1, seqlen, head_dim, causal)));
        }
    }
    cells
}

/// Runs every kernel that can compute each cell; false if a result was wrong or a hazard was found.
pub(crate) fn run(no_gpu: flashcore::Error, cells: &[(Case, Dtype)], out: &Path) -> Result<bool> {
    println!("There is nothing to time on this machine: {no_gpu}.");
    println!(
        "The emulator runs the kernels' PTX instead. It measures no time: these are counts, not speeds."
    );
    let bar = ProgressBar::new(cells.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);
    let (mut rows, mut device_name) = (Vec::new(), String::new());
    for (case, dtype) in cells {
        bar.set_message(device::name(case, *dtype));
        let device = Device::emulated();
        rows.extend(cell(&device, case, *dtype)?);
        device_name.clone_from(&device.properties().name);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let counts = Counts { origin: Origin::now(), device: device_name, no_gpu: no_gpu.to_string(), rows };
    println!("{}", table(&counts.rows, presets::UTF8_FULL_CONDENSED));
    println!(
        "FLOP are those of wgmma, in whole tiles; passes and conflicts those of other accesses to shared memory."
    );
    for row in &counts.rows {
        let place = format!("{}, {}", row.kernel, row.cell.shape());
        match &row.cell.check {
            Check::Wrong(reason) => println!("WRONG: {place}: {reason}"),
            Check::Right { .. } => row.findings.iter().for_each(|finding| println!("{place}: {finding}")),
        }
    }
    let path = out.join("emulated.json");
    output::write(&counts, &path)?;
    println!("counts: {}", path.display());
    Ok(counts.rows.iter().all(|row| row.cell.check.is_right()))
}

/// A row for each kernel that can compute `case`.
fn cell(device: &Device, case: &Case, dtype: Dtype) -> Result<Vec<Row>> {
    const SEED: u64 = 20_260_707;
    let inputs = case.inputs(dtype, SEED);
    let rows = inputs.attention.rows(device::BUDGET, SEED);
    let expected = inputs.attention.answers(&rows, dtype);
    let tensors = OnDevice::new(device, case, &inputs)?;
    let stream = device.stream()?;
    let row = |plan: Plan| -> Result<Row> {
        tensors.poison()?;
        let judged = match tensors.run_plan(&plan, &stream) {
            Ok(()) => tensors.outputs()?.judge_by(&expected),
            Err(error) => Err(error.into()),
        };
        let reports = device.emulator().context("the device is emulated")?.take_reports();
        let report = reports.into_iter().next().map(|kernel| kernel.report).unwrap_or_default();
        Ok(Row {
            kernel: plan.variant.symbol,
            cell: Cell::new(case, dtype, judged.into()),
            ctas: plan.grid,
            counters: report.counters,
            findings: report.findings,
        })
    };
    tensors.plans()?.into_iter().map(row).collect()
}

fn table(rows: &[Row], style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style);
    table.set_header([
        "kernel",
        "B,H,S,D",
        "error",
        "allowed",
        "CTAs",
        "warp\ninstr.",
        "wgmma",
        "MFLOP",
        "KiB\nfrom L2",
        "KiB\ninto smem",
        "KiB read\nby wgmma",
        "KiB\nstored",
        "smem\npasses",
        "bank\nconflicts",
        "findings",
    ]);
    for row in rows {
        let (error, bound) = match &row.cell.check {
            Check::Right { error, bound, .. } => (format!("{error:.1e}"), format!("{bound:.1e}")),
            Check::Wrong(_) => ("WRONG".into(), String::new()),
        };
        let counters = &row.counters;
        table.add_row([
            row.kernel.to_owned(),
            row.cell.shape(),
            error,
            bound,
            row.ctas.to_string(),
            counters.warp_instructions.to_string(),
            counters.wgmma.to_string(),
            format!("{:.1}", counters.wgmma_flops as f64 / 1e6),
            kib(counters.bulk_load_bytes),
            kib(counters.bulk_fill_bytes),
            kib(counters.wgmma_shared_bytes),
            kib(counters.bulk_store_bytes + counters.global_store_bytes),
            counters.shared_passes.to_string(),
            counters.bank_conflicts.to_string(),
            row.findings.len().to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn kib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1024.0)
}
