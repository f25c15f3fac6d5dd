//! What a benchmark run says: a table on the terminal, report.md and plots in a folder.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, TableStyle, presets};

use crate::metrics::{Cell, Check, FLASHCORE, Metrics, geomean};
use crate::{output, plot};

/// Writes the report and the plots of the metrics in `dir` again.
pub(crate) fn rewrite(dir: &Path) -> Result<bool> {
    write(&output::read(&dir.join("metrics.json"))?, dir)?;
    Ok(true)
}

/// Prints the table, and writes report.md and the plots into `dir`.
pub(crate) fn write(metrics: &Metrics, dir: &Path) -> Result<()> {
    println!("{}", table(metrics, presets::UTF8_FULL_CONDENSED));
    print!("{}", summary(metrics));
    let plots = plot::write(metrics, dir)?;
    let path = dir.join("report.md");
    fs::write(&path, markdown(metrics, &plots))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("report: {}", path.display());
    Ok(())
}

/// One row a cell.
pub(crate) fn table(metrics: &Metrics, style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style);
    let names = metrics.implementations();
    let mut header: Vec<String> = ["B,H,S,D", "mask", "dtype", "µs"].map(String::from).into();
    header.extend(names.iter().map(|name| format!("{name} TFLOPS")));
    header.extend(["of best peer", "max error", "allowed"].map(String::from));
    let width = header.len();
    table.set_header(header);
    for cell in &metrics.cells {
        let mut row = vec![cell.shape(), cell.mask().into(), cell.dtype.clone()];
        match &cell.check {
            Check::Wrong(_) => {
                row.push("WRONG".into());
                row.resize(width, String::new());
            }
            Check::Right { error, bound, .. } => {
                row.push(number(cell.figures.of(FLASHCORE).map(|measured| measured.median_us()), 2));
                row.extend(names.iter().map(|name| number(cell.figures.tflops(name), 1)));
                row.push(number(cell.figures.best_peer().map(|(_, ratio)| ratio), 3));
                row.push(format!("{error:.1e}"));
                row.push(format!("{bound:.1e}"));
            }
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

/// Geometric means, the worst cell, and everything that went wrong.
pub(crate) fn summary(metrics: &Metrics) -> String {
    let mut text = String::new();
    let ratios = |keep: &dyn Fn(&Cell) -> bool| {
        geomean(
            metrics
                .cells
                .iter()
                .filter(|cell| keep(cell))
                .filter_map(|cell| cell.figures.best_peer())
                .map(|(_, ratio)| ratio),
        )
    };
    let mut groups: Vec<_> =
        metrics.cells.iter().map(|cell| (cell.head_dim, cell.causal, &cell.dtype)).collect();
    groups.sort();
    groups.dedup();
    for (head_dim, causal, dtype) in groups {
        let in_group =
            |cell: &Cell| cell.head_dim == head_dim && cell.causal == causal && cell.dtype == *dtype;
        if let Some(mean) = ratios(&in_group) {
            let mask = if causal { "causal" } else { "full" };
            _ = writeln!(
                text,
                "head_dim {head_dim}, {mask}, {dtype}: {mean:.3} of the best peer (geometric mean)"
            );
        }
    }
    if let Some(mean) = ratios(&|_| true) {
        _ = writeln!(text, "overall: {mean:.3} of the best peer (geometric mean)");
    }
    let worst = metrics.cells.iter().filter_map(|cell| Some((cell, cell.figures.best_peer()?)));
    if let Some((cell, (peer, ratio))) = worst.min_by(|a, b| a.1.1.total_cmp(&b.1.1)) {
        let (shape, mask, dtype) = (cell.shape(), cell.mask(), &cell.dtype);
        _ = writeln!(text, "worst: {ratio:.3} of {peer} at {shape}, {mask}, {dtype}");
    }
    for (dtype, tflops) in &metrics.matmul_tflops {
        _ = writeln!(text, "cuBLAS, a product of 8192-square {dtype} matrices: {tflops:.1} TFLOPS");
    }
    for cell in &metrics.cells {
        if let Check::Wrong(reason) = &cell.check {
            _ = writeln!(text, "WRONG: {}, {}, {}: {reason}", cell.shape(), cell.mask(), cell.dtype);
        }
    }
    text
}

fn markdown(metrics: &Metrics, plots: &[String]) -> String {
    let Metrics { machine, protocol, rounds, .. } = metrics;
    let mut text = String::from("# flashcore benchmark\n\n");
    let commit = metrics.commit.as_deref().unwrap_or("unknown");
    _ = writeln!(text, "flashcore {}, commit {commit}, {}.", metrics.version, metrics.date);
    _ = writeln!(text, "{machine}.");
    let peers: Vec<String> =
        metrics.peers.iter().map(|(name, version)| format!("{name} {version}")).collect();
    if !peers.is_empty() {
        _ = writeln!(text, "Peers: {}.", peers.join(", "));
    }
    for (name, reason) in &metrics.missing {
        _ = writeln!(text, "Left out: {name} ({reason}).");
    }
    _ = writeln!(
        text,
        "\nRandom normal inputs, (batch, seqlen, heads, head_dim). {protocol} \
         The implementations take turns, {rounds} rounds; a ratio is the median of the rounds' ratios. FLOPs are \
         4 B H S² D, half of it under a causal mask. Every result of ours was compared with an f64 oracle, one of a peer with the definition in \
         f32, on sampled rows, before it was timed.\n"
    );
    _ = writeln!(text, "{}\n", table(metrics, presets::ASCII_MARKDOWN));
    for line in summary(metrics).lines() {
        _ = writeln!(text, "- {line}");
    }
    _ = writeln!(text, "\n## Clock and power\n\n{}{}\n", no_energies(metrics), readings(metrics));
    for plot in plots {
        _ = writeln!(text, "![{plot}]({plot})\n");
    }
    let skipped: Vec<_> =
        metrics.cells.iter().flat_map(|cell| cell.figures.skipped.iter().map(move |s| (cell, s))).collect();
    if !skipped.is_empty() {
        text.push_str("## Shapes that a peer did not run\n\n");
        for (cell, (name, reason)) in skipped {
            _ = writeln!(text, "- {name}, {}, {}, {}: {reason}", cell.shape(), cell.mask(), cell.dtype);
        }
    }
    text
}

/// Why the table below has no energies, if it has none.
fn no_energies(metrics: &Metrics) -> String {
    let counted = |cell: &Cell| {
        cell.figures.measured.iter().any(|measured| cell.figures.pj_per_flop(&measured.name).is_some())
    };
    match metrics.cells.iter().any(counted) {
        true => String::new(),
        false => format!(
            "No energies: that takes a GPU that counts them, and measurements of a second (--seconds 1) rather than \
             {:.2}.\n\n",
            metrics.protocol.min_ms / 1e3
        ),
    }
}

/// Mean SM clock and board power of every implementation, and its energy where it was counted.
fn readings(metrics: &Metrics) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let names = metrics.implementations();
    let mut header: Vec<String> = ["B,H,S,D", "mask", "dtype"].map(String::from).into();
    header.extend(names.iter().map(|name| format!("{name} MHz, W")));
    table.set_header(header);
    for cell in metrics.cells.iter().filter(|cell| !cell.figures.measured.is_empty()) {
        let mut row = vec![cell.shape(), cell.mask().into(), cell.dtype.clone()];
        row.extend(names.iter().map(
            |name| match cell.figures.of(name).and_then(|measured| measured.readings) {
                Some(readings) => {
                    let energy =
                        cell.figures.pj_per_flop(name).map(|energy| format!(", {energy:.3} pJ/FLOP"));
                    let energy = energy.unwrap_or_default();
                    format!("{:.0}, {:.0}{energy}", readings.clock_mhz, readings.watts)
                }
                None => "-".into(),
            },
        ));
        table.add_row(row);
    }
    table
}
