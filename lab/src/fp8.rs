//! Attention over 8 bits beside that over 16: every kernel of ours, timed.

use std::iter::zip;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use flashcore::{Device, Dtype, Fp8, Fp8Qkv, Fp8Rounding, Shape};
use flashcore_tests::cases::Case;
use flashcore_tests::device::OnDevice as WideOnDevice;
use flashcore_tests::extras::{Extras, Numbers};
use flashcore_tests::fp8::{Narrow, OnDevice};
use flashcore_tests::grid;
use flashcore_tests::side_inputs::Lengths;
use flashcore_tests::values::Values;
use serde::Serialize;

use crate::metrics::median;
use crate::output::{self, Origin};
use crate::shape::{Bhsd, Shapes, mask};
use crate::timing::{Protocol, Recorded};

/// Options of `fp8`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab fp8 --out fp8.json\n  flashcore-lab fp8 --shape 2,16,8192,128 --causal\n  flashcore-lab fp8 --shape 1,16,16384,128 --causal --window 1024\n  flashcore-lab fp8 --shape 64,16,1,128 --causal --packed 8192"
)]
pub(crate) struct Options {
    #[command(flatten)]
    shapes: Shapes,
    /// A query sees only so many keys before it, and its own
    #[arg(long, value_name = "KEYS")]
    window: Option<usize>,
    /// As many packed sequences as the shape's batch, of 64 to KEYS tokens, each doubling as likely; its length is not used
    #[arg(long, value_name = "KEYS", value_parser = clap::value_parser!(u32).range(64..))]
    packed: Option<u32>,
    /// Scores x become CAP tanh(x / CAP)
    #[arg(long, value_name = "CAP")]
    softcap: Option<f32>,
    /// Times that all kernels take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// GPU time of each measurement, at least, in seconds
    #[arg(long, default_value_t = 0.05, value_name = "N")]
    seconds: f64,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// One kernel on one shape.
#[derive(Serialize)]
struct Row {
    shape: Bhsd,
    mask: &'static str,
    kernel: String,
    /// Whether the library would choose it.
    chosen: bool,
    us: f64,
    tflops: f64,
    /// Median of the rounds' ratios: time of 16-bit attention by that of the kernel.
    of_bf16: f64,
}

/// What `--out` gets.
#[derive(Serialize)]
struct Figures {
    origin: Origin,
    gpu: String,
    rows: Vec<Row>,
}

/// Times each shape.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    let mut rows = Vec::new();
    for case in options.shapes.cases_or(|masks| grid::large(&grid::LENGTHS, masks)) {
        let Options { window: left, softcap, .. } = *options;
        let packed =
            options.packed.map(|longest| Lengths::LogUniform { shortest: 64, longest: longest as usize });
        let extras = Extras { left, softcap, packed_q: packed, packed_kv: packed, ..case.extras };
        let case = Case { extras, ..case };
        for row in measure(&device, &case, options)? {
            let Row { shape, mask, kernel, chosen, us, tflops, of_bf16 } = &row;
            let chosen = if *chosen { "*" } else { " " };
            println!(
                "{shape:<16} {mask:<6} {chosen} {kernel:<44} {us:>9.1} us {tflops:>7.1} TFLOPS  x {of_bf16:.3}"
            );
            rows.push(row);
        }
    }
    if let Some(path) = &options.out {
        let gpu = device.properties().name.clone();
        output::write(&Figures { origin: Origin::now(), gpu, rows }, path)?;
    }
    Ok(true)
}

/// Tensors of normal values, which are repeated where there are many.
fn narrow(shape: Shape, sequences: usize, seed: u64) -> Narrow {
    const DISTINCT: usize = 1 << 20;
    let width = shape.head_dim;
    let few = Shape::new(1, DISTINCT / width, 1, width);
    let [q, ..] = flashcore_tests::inputs::Fill::Normal.values(few, few, seed);
    let few = Narrow::new(&q);
    let count = shape.batch * shape.seqlen * shape.heads * width;
    let elements = few.elements.iter().copied().cycle().take(count).collect();
    let descales = vec![few.descales[0]; sequences * shape.heads];
    // What they stand for, nobody asks.
    Narrow { elements, descales, values: Values { shape, data: Vec::new() } }
}

/// Floating-point operations: two products of 2 for each pair of a query and a key that it sees.
fn flops(case: &Case, numbers: &Numbers) -> f64 {
    let left = case.extras.left.map_or(i64::MAX / 2, |left| left as i64);
    let seen = |(queries, keys): (i64, i64)| -> f64 {
        let of_query = |query: i64| {
            let at = query + keys - queries;
            let end = if case.causal { (at + 1).clamp(0, keys) } else { keys };
            (end - (at - left).clamp(0, end)) as f64
        };
        (0..queries).map(of_query).sum()
    };
    let lengths = zip(&numbers.queries, &numbers.keys).map(|(q, k)| (q.len as i64, k.len as i64));
    4.0 * (case.heads_q * case.head_dim) as f64 * lengths.map(seen).sum::<f64>()
}

fn measure(device: &Device, case: &Case, options: &Options) -> Result<Vec<Row>> {
    let protocol = Protocol { min_ms: 1e3 * options.seconds, ..Protocol::STANDARD };
    let dtype = Dtype::Bf16;
    let inputs = [(case.shape_q(), 1), (case.shape_kv(), 2), (case.shape_kv(), 3)];
    let numbers = case.numbers(0);
    let inputs = inputs.map(|(shape, seed)| narrow(shape, case.batch, seed));
    let tensors = &OnDevice::new(device, &inputs, case.causal, (case.extras, &numbers), dtype)?;
    let (plans, sequences) = (tensors.plans()?, tensors.sequences());
    let wide_tensors = &WideOnDevice::new(device, case, &case.inputs(dtype, 0))?;
    let wide = Recorded::new(device, wide_tensors, protocol.launches)?;
    let shapes = [case.shape_q(), case.shape_kv(), case.shape_kv()];
    let packed = sequences.packed()?;
    let narrow = || Fp8Qkv::for_sequences(device, Fp8::E4m3, shapes, packed);
    let to_nearest = Fp8Rounding::new().sequences(sequences);
    let [rounded, rotated, per_tensor] = &[narrow()?, narrow()?.rotated(), narrow()?.per_tensor()];
    let attention = tensors.attention();
    let all = Recorded::record(device, wide_tensors, protocol.launches, |tensors, stream| {
        let WideOnDevice { q, k, v, out, .. } = tensors;
        rounded.round_with(stream, to_nearest, q, k, v)?;
        attention.forward_fp8_into(stream, rounded.q.view(), rounded.k.view(), rounded.v.view(), out, None)
    })?;
    let rounding = |into: &'static str, to: &Fp8Qkv| {
        let record = Recorded::record(device, wide_tensors, protocol.launches, |tensors, stream| {
            to.round_with(stream, to_nearest, &tensors.q, &tensors.k, &tensors.v)
        });
        Ok::<_, anyhow::Error>((into, record?))
    };
    let by_chance = Recorded::record(device, wide_tensors, protocol.launches, |tensors, stream| {
        rounded.round_with(stream, to_nearest.stochastic(1, 0), &tensors.q, &tensors.k, &tensors.v)
    })?;
    let roundings = [
        rounding("rounding alone", rounded)?,
        rounding("rounding alone, rotated", rotated)?,
        rounding("rounding alone, a descale per tensor", per_tensor)?,
        ("rounding alone, stochastic", by_chance),
    ];
    let kernels: Result<Vec<_>> = plans
        .iter()
        .map(|plan| {
            Recorded::record(device, tensors, protocol.launches, |tensors, stream| {
                tensors.run_plan(plan, stream)
            })
        })
        .collect();
    let kernels = kernels?;
    let (mut wide_us, mut all_us) = (Vec::new(), Vec::new());
    let mut roundings_us = [const { Vec::new() }; 4];
    let mut times = vec![Vec::new(); kernels.len()];
    for _ in 0..options.rounds {
        wide_us.push(wide.measure(&protocol)?.us);
        all_us.push(all.measure(&protocol)?.us);
        for ((_, rounding), us) in roundings.iter().zip(&mut roundings_us) {
            us.push(rounding.measure(&protocol)?.us);
        }
        for (kernel, times) in kernels.iter().zip(&mut times) {
            times.push(kernel.measure(&protocol)?.us);
        }
    }
    let first = plans[0].problem;
    let chosen = flashcore::Plan::new(&first, device.properties())?.variant.symbol;
    let row = |kernel: String, chosen, us: &[f64]| {
        let mut ratios: Vec<f64> = wide_us.iter().zip(us).map(|(wide, us)| wide / us).collect();
        let us = median(&mut us.to_vec());
        let (shape, mask) = (Bhsd::from(case), mask(case.causal));
        let tflops = flops(case, &numbers) / us / 1e6;
        Row { shape, mask, kernel, chosen, us, tflops, of_bf16: median(&mut ratios) }
    };
    let mut rows = vec![
        row("bf16".to_owned(), true, &wide_us),
        row("rounding to e4m3, and attention".to_owned(), true, &all_us),
    ];
    rows.extend(roundings.iter().zip(&roundings_us).map(|((name, _), us)| row((*name).to_owned(), true, us)));
    for (plan, times) in plans.iter().zip(&times) {
        rows.push(row(plan.variant.symbol.to_owned(), plan.variant.symbol == chosen, times));
    }
    Ok(rows)
}
