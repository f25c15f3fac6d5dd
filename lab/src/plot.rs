//! TFLOPS over sequence length, one plot for each head_dim, mask and element type.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::metrics::{Cell, Metrics};
use crate::output;

const SIZE: (u32, u32) = (800, 500);
/// One for each implementation.
pub(crate) const COLOURS: [RGBColor; 5] = [
    RGBColor(206, 66, 43),
    RGBColor(60, 60, 60),
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
];

/// A plot: its file name, without an extension, and its text.
pub(crate) struct Plot {
    pub(crate) name: String,
    pub(crate) svg: String,
}

/// Writes the plots into `dir`; their file names.
pub(crate) fn write(metrics: &Metrics, dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for Plot { name, svg } in plots(metrics)? {
        let file = format!("{name}.svg");
        output::write_text(&svg, &dir.join(&file))?;
        files.push(file);
    }
    Ok(files)
}

/// Every plot that has two lengths at least.
pub(crate) fn plots(metrics: &Metrics) -> Result<Vec<Plot>> {
    let mut groups: Vec<_> =
        metrics.cells.iter().map(|cell| (cell.head_dim, cell.causal, &cell.dtype)).collect();
    groups.sort();
    groups.dedup();
    let mut plots = Vec::new();
    for (head_dim, causal, dtype) in groups {
        let mut cells: Vec<&Cell> = metrics
            .cells
            .iter()
            .filter(|cell| (cell.head_dim, cell.causal, &cell.dtype) == (head_dim, causal, dtype))
            .filter(|cell| !cell.figures.measured.is_empty())
            .collect();
        // A length may come with several batch sizes; the line goes through the largest.
        cells.sort_by_key(|cell| (cell.seqlen, std::cmp::Reverse(cell.batch * cell.heads_q)));
        cells.dedup_by_key(|cell| cell.seqlen);
        if cells.len() < 2 {
            continue;
        }
        let mask = if causal { "causal" } else { "full" };
        let name = format!("hd{head_dim}_{mask}_{dtype}");
        let title = format!("{}: head_dim {head_dim}, {mask}, {dtype}", metrics.machine.gpu);
        let mut svg = String::new();
        draw(&cells, &metrics.implementations(), &title, &mut svg)
            .map_err(|error| anyhow!("cannot draw {name}: {error}"))?;
        plots.push(Plot { name, svg });
    }
    Ok(plots)
}

fn draw(
    cells: &[&Cell],
    names: &[&str],
    title: &str,
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let highest = cells
        .iter()
        .flat_map(|cell| names.iter().filter_map(|name| cell.figures.tflops(name)))
        .fold(0.0, f64::max);
    let lengths = (cells[0].seqlen as f64)..(cells[cells.len() - 1].seqlen as f64);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(15)
        .margin_right(30)
        .x_label_area_size(40)
        .y_label_area_size(55)
        .build_cartesian_2d(lengths.log_scale().base(2.0), 0.0..1.1 * highest)?;
    chart
        .configure_mesh()
        .x_desc("sequence length")
        .y_desc("TFLOPS")
        .x_label_formatter(&|length| format!("{length:.0}"))
        .y_label_formatter(&|tflops| format!("{tflops:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    for (name, colour) in names.iter().zip(COLOURS.into_iter().cycle()) {
        let points: Vec<_> =
            cells.iter().filter_map(|cell| Some((cell.seqlen as f64, cell.figures.tflops(name)?))).collect();
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}
