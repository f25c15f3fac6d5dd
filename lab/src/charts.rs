//! Plots of a run that are no plots of speed by length, as SVG.

use std::error::Error;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::errors::{self, Errors};
use crate::metrics::{Cell, Metrics};
use crate::plot::COLOURS;
use crate::power::{Findings, Sustained};

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (800, 500);
/// Height of a row of two panels.
const PANEL: u32 = 300;
const FONT: (&str, u32) = ("sans-serif", 16);

/// A plot of `size`.
fn svg(size: (u32, u32), draw: impl FnOnce(&Area) -> Drawn) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let drawn = root.fill(&WHITE).map_err(Box::from).and_then(|()| draw(&root));
        drawn
            .and_then(|()| root.present().map_err(Box::from))
            .map_err(|error| anyhow!("cannot draw: {error}"))?;
    }
    Ok(text)
}

/// The data sheet's rate of dense products in 16 bits, TFLOPS, and of device memory, TB/s, of the SXM part.
fn data_sheet(gpu: &str) -> Option<(f64, f64)> {
    const TFLOPS: f64 = 989.0;
    match gpu {
        name if name.contains("H200") => Some((TFLOPS, 4.8)),
        name if name.contains("H100") => Some((TFLOPS, 3.35)),
        _ => None,
    }
}

/// Operations for each byte that must come from device memory or go there: each input once, the output once.
fn intensity(cell: &Cell) -> f64 {
    const BYTES: f64 = 2.0;
    let keys = cell.seqlen_kv.unwrap_or(cell.seqlen);
    let rows = cell.batch * (2 * cell.heads_q * cell.seqlen + 2 * cell.heads_kv * keys);
    cell.figures.flops / (BYTES * (rows * cell.head_dim) as f64)
}

/// Speed by operations for each byte, under the roofs of memory and of products; None where the GPU's are not known.
pub(crate) fn roofline(metrics: &Metrics) -> Result<Option<String>> {
    let Some((peak, bandwidth)) = data_sheet(&metrics.machine.gpu) else { return Ok(None) };
    let ceiling = metrics.matmul_tflops.values().copied().reduce(f64::max);
    let names = metrics.implementations();
    let drawn = svg(SIZE, |root| {
        let cells = || metrics.cells.iter().filter(|cell| !cell.figures.measured.is_empty());
        let most = cells().map(intensity).fold(1000.0, f64::max);
        let mut chart = ChartBuilder::on(root)
            .caption(format!("{}: roofline", metrics.machine.gpu), ("sans-serif", 20))
            .margin(15)
            .margin_right(30)
            .x_label_area_size(40)
            .y_label_area_size(55)
            .build_cartesian_2d((10.0..2.0 * most).log_scale(), (20.0..1.6 * peak).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("FLOP for each byte of device memory")
            .y_desc("TFLOPS")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .light_line_style(WHITE)
            .draw()?;
        let ridge = peak / bandwidth;
        chart
            .draw_series(LineSeries::new(
                [(10.0, 10.0 * bandwidth), (ridge, peak), (2.0 * most, peak)],
                BLACK.stroke_width(2),
            ))?
            .label(format!("data sheet: {bandwidth} TB/s, {peak:.0} TFLOPS"))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLACK.stroke_width(2)));
        if let Some(ceiling) = ceiling {
            let grey = RGBColor(140, 140, 140);
            chart
                .draw_series(LineSeries::new(
                    [(ceiling / bandwidth, ceiling), (2.0 * most, ceiling)],
                    grey.stroke_width(2),
                ))?
                .label(format!("a product through cuBLAS at the power limit: {ceiling:.0}"))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], grey.stroke_width(2)));
        }
        for (name, colour) in names.iter().zip(COLOURS.into_iter().cycle()) {
            let dot = |cell: &Cell| {
                Some(Circle::new((intensity(cell), cell.figures.tflops(name)?), 3, colour.filled()))
            };
            chart
                .draw_series(cells().filter_map(dot))?
                .label(*name)
                .legend(move |(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
        Ok(())
    })?;
    Ok(Some(drawn))
}

/// Power and clock over time: a row for each shape.
pub(crate) fn traces(findings: &Findings) -> Result<String> {
    let problems = findings.problems();
    let rows = problems.len().max(1);
    svg((2 * SIZE.0, PANEL * rows as u32), |root| {
        for ((problem, measured), row) in problems.iter().zip(root.split_evenly((rows, 1))) {
            let (left, right) = row.split_horizontally(SIZE.0);
            trace(&left, &format!("{problem}: power"), "W", measured, |sample| sample.watts)?;
            trace(&right, &format!("{problem}: clock"), "MHz", measured, |sample| sample.clock_mhz)?;
        }
        Ok(())
    })
}

fn trace(
    area: &Area,
    title: &str,
    unit: &str,
    measured: &[&Sustained],
    of: fn(&crate::sensors::Sample) -> f64,
) -> Drawn {
    let samples = || measured.iter().flat_map(|sustained| &sustained.trace);
    let end = samples().map(|sample| sample.seconds).fold(0.1, f64::max);
    let highest = samples().map(of).fold(1.0, f64::max);
    let lowest = samples().map(of).fold(highest, f64::min);
    let mut chart = ChartBuilder::on(area)
        .caption(title, FONT)
        .margin(12)
        .x_label_area_size(35)
        .y_label_area_size(55)
        .build_cartesian_2d(0.0..end, 0.9 * lowest..1.05 * highest)?;
    chart.configure_mesh().x_desc("seconds").y_desc(unit).light_line_style(WHITE).draw()?;
    for (sustained, colour) in measured.iter().zip(COLOURS.into_iter().cycle()) {
        let points = sustained.trace.iter().map(|sample| (sample.seconds, of(sample)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(sustained.label())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    if !measured.is_empty() {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
    }
    Ok(())
}

/// How many outputs have an error of each size: a panel for each element type.
pub(crate) fn histograms(errors: &[Errors]) -> Result<String> {
    svg((2 * SIZE.0, PANEL), |root| {
        let (left, right) = root.split_horizontally(SIZE.0);
        for ((dtype, area), colour) in [("f16", left), ("bf16", right)].iter().zip(COLOURS) {
            let suffix = format!("_{dtype}");
            let of_type: Vec<&Errors> =
                errors.iter().filter(|errors| errors.case.ends_with(&suffix)).collect();
            if !of_type.is_empty() {
                histogram(area, dtype, &of_type, colour)?;
            }
        }
        Ok(())
    })
}

fn histogram(area: &Area, dtype: &str, errors: &[&Errors], colour: RGBColor) -> Drawn {
    let bins = errors.iter().map(|errors| errors.histogram.len()).max().unwrap_or(1);
    let count = |bin: usize| errors.iter().filter_map(|errors| errors.histogram.get(bin)).sum::<usize>();
    let all = (0..bins).map(count).sum::<usize>().max(1) as f64;
    let share = |bin: usize| 100.0 * count(bin) as f64 / all;
    let highest = (0..bins).map(share).fold(1.0, f64::max);
    let end = errors::bin_start(bins);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{dtype}: {all} errors on {} shapes", errors.len()), FONT)
        .margin(12)
        .x_label_area_size(35)
        .y_label_area_size(55)
        .build_cartesian_2d((errors::bin_start(0)..end).log_scale(), 0.0..1.1 * highest)?;
    chart
        .configure_mesh()
        .x_desc("|output - f64 oracle|")
        .y_desc("% of outputs")
        .x_label_formatter(&|error| format!("{error:.0e}"))
        .light_line_style(WHITE)
        .draw()?;
    let bar = |bin: usize| {
        let corners = [(errors::bin_start(bin), 0.0), (errors::bin_start(bin + 1), share(bin))];
        Rectangle::new(corners, colour.filled())
    };
    chart.draw_series((0..bins).map(bar))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::testing;

    #[test]
    fn every_plot_has_what_it_is_about() {
        let run = testing::good();
        let bench = run.bench.unwrap();
        let roofline = super::roofline(&bench).unwrap().unwrap();
        let measured = bench.cells.iter().map(|cell| cell.figures.measured.len()).sum::<usize>();
        assert!(roofline.matches("<circle").count() >= measured, "a dot for each measurement");
        let traces = traces(&run.power.unwrap()).unwrap();
        assert_eq!(traces.matches("flashcore").count(), 2, "power and clock");
        let histograms = histograms(&run.errors).unwrap();
        assert!(histograms.contains("f16: 1200 errors on 1 shapes"), "{histograms}");
    }

    #[test]
    fn the_roofs_of_other_gpus_are_not_known() {
        let mut bench = testing::good().bench.unwrap();
        bench.machine.gpu = "another".to_owned();
        assert_eq!(super::roofline(&bench).unwrap(), None);
    }

    #[test]
    fn intensity_is_half_the_length_without_a_mask() {
        let cell = |causal| {
            let case = flashcore_tests::grid::cell(1, 16, 8192, 128, causal);
            let check = crate::metrics::Check::Right { error: 0.0, bound: 1.0, lse_error: 0.0 };
            Cell::new(&case, flashcore::Dtype::F16, check)
        };
        assert_eq!((intensity(&cell(false)), intensity(&cell(true))), (4096.0, 2048.0));
    }
}
