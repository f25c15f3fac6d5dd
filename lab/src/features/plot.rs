//! TFLOPS of every implementation on every problem, one plot for each element type.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Findings, Row};
use crate::plot::COLOURS;

const WIDTH: u32 = 1000;
/// Height of a row, and of all else; and so many rows at least, for the legend.
const ROW: u32 = 22;
const REST: u32 = 110;
const LEGEND_ROWS: usize = 6;

/// Writes the plots into `dir`, unless there is nothing to compare; their file names.
pub(super) fn write(findings: &Findings, dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for dtype in ["f16", "bf16"] {
        let measured = |row: &&Row| row.dtype == dtype && !row.figures.measured.is_empty();
        let rows: Vec<&Row> = findings.rows.iter().filter(measured).collect();
        if rows.len() < 2 {
            continue;
        }
        let file = format!("features_{dtype}.svg");
        let gpu = findings.machine.as_ref().map_or("GPU", |machine| &machine.gpu);
        draw(&rows, &findings.names(), &format!("{gpu}: {dtype}"), &dir.join(&file))
            .map_err(|error| anyhow!("cannot draw {file}: {error}"))?;
        files.push(file);
    }
    Ok(files)
}

/// A line for each row, from the top; a dot on it for each implementation.
fn draw(rows: &[&Row], names: &[&str], title: &str, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let height = REST + ROW * rows.len().max(LEGEND_ROWS) as u32;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let tflops = rows.iter().flat_map(|row| names.iter().filter_map(|name| row.figures.tflops(name)));
    let highest = tflops.fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(330)
        .build_cartesian_2d(0.0..1.2 * highest, (0..rows.len() - 1).into_segmented())?;
    // Segments count from the bottom.
    let from_top = |index: usize| rows.len() - 1 - index;
    let label = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(index) if *index < rows.len() => rows[from_top(*index)].feature.to_string(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .x_desc("TFLOPS")
        .x_label_formatter(&|tflops| format!("{tflops:.0}"))
        .y_labels(rows.len())
        .y_label_formatter(&label)
        .light_line_style(WHITE)
        .draw()?;
    for (name, colour) in names.iter().zip(COLOURS.into_iter().cycle()) {
        let dot = |(index, row): (usize, &&Row)| {
            let at = (row.figures.tflops(name)?, SegmentValue::CenterOf(from_top(index)));
            Some(Circle::new(at, 4, colour.filled()))
        };
        chart
            .draw_series(rows.iter().enumerate().filter_map(dot))?
            .label(*name)
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}
