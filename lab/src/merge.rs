//! Merging attention states: checked, then timed beside a copy that reads and writes as many bytes, which is as fast as
//! memory gets.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore::{Device, Dtype, MergePlan, Order, Shape, Stream, Tensor, TensorLayout};
use flashcore_tests::cases::Layout;
use flashcore_tests::merge::{Merge, OnDevice, Place, Sums};
use serde::Serialize;

use crate::metrics::median;
use crate::output::{self, Origin};
use crate::shape::{Bhsd, Dtypes};
use crate::timing::{Protocol, Recorded};

/// What is timed if no shape was given: long prompts, whose tensors are larger than L2, then what a server decodes,
/// then the shortest.
const SHAPES: [&str; 7] = [
    "4,16,8192,64",
    "4,16,8192,128",
    "2,16,8192,256",
    "1,16,4096,512",
    "2,16,2048,64",
    "64,32,1,128",
    "1,8,512,64",
];

/// Options of `merge`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab merge\n  flashcore-lab merge --shape 8,32,4096,128 --dtype both --out merge.json"
)]
pub(crate) struct Options {
    /// A shape B,H,S,D (sequences, heads, length, head_dim); may be repeated
    #[arg(long = "shape", value_name = "B,H,S,D")]
    shapes: Vec<Bhsd>,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtypes,
    /// Tensors are (batch, heads, seqlen, head_dim) in memory, instead of (batch, seqlen, heads, head_dim)
    #[arg(long)]
    bhsd: bool,
    /// The merged state takes the place of the first one
    #[arg(long)]
    in_place: bool,
    /// Times that merge and copy take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// GPU time of each measurement, at least, in seconds
    #[arg(long, default_value_t = 0.05, value_name = "N")]
    seconds: f64,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// One shape, measured.
#[derive(Serialize)]
struct Row {
    shape: Bhsd,
    dtype: &'static str,
    /// Bytes that a merge reads and writes, and the copy, too.
    bytes: u64,
    merge_us: f64,
    copy_us: f64,
    /// Median of the rounds' ratios: the copy's time by that of the merge.
    of_copy: f64,
    /// Largest error, and what it could have been.
    error: f64,
    bound: f64,
}

/// What `--out` gets.
#[derive(Serialize)]
struct Figures {
    origin: Origin,
    gpu: String,
    rows: Vec<Row>,
}

/// Checks and times each shape. An error if a result is wrong: a wrong one has no speed.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    let mut shapes = options.shapes.clone();
    if shapes.is_empty() {
        shapes = SHAPES.iter().map(|text| text.parse().expect("a shape")).collect();
    }
    let mut rows = Vec::new();
    for &dtype in options.dtype.list() {
        for &shape in &shapes {
            rows.push(measure(&device, shape, dtype, options)?);
        }
    }
    println!("{}", table(&rows));
    if let Some(path) = &options.out {
        let gpu = device.properties().name.clone();
        output::write(&Figures { origin: Origin::now(), gpu, rows }, path)?;
    }
    Ok(true)
}

fn measure(device: &Device, shape: Bhsd, dtype: Dtype, options: &Options) -> Result<Row> {
    let Bhsd { batch, heads_q, seqlen_q, head_dim, .. } = shape;
    let (layout, order) =
        if options.bhsd { (Layout::Bhsd, Order::Bhsd) } else { (Layout::Bshd, Order::Bshd) };
    let merge = Merge {
        shape: Shape::new(batch, seqlen_q, heads_q, head_dim),
        layouts: [layout; 3],
        dtype,
        sums: Sums::Near,
        place: if options.in_place { Place::First } else { Place::Apart },
    };
    let states = merge.states(0);
    let tensors = OnDevice::new(device, &merge, &states)?;
    tensors.run(&device.stream()?)?;
    let verdict = tensors.outputs()?.judge_by(&states.answers())?;
    let packed = TensorLayout::packed(dtype, merge.shape, order);
    let bytes = MergePlan::new(packed, packed, packed, device.properties())?.bytes();

    let protocol = Protocol { min_ms: 1e3 * options.seconds, ..Protocol::STANDARD };
    let launches = protocol.launches;
    let merges = Recorded::record(device, tensors, launches, OnDevice::run)?;
    let copies = Recorded::record(device, DeviceCopy::new(device, bytes)?, launches, DeviceCopy::run)?;
    let (mut merge_us, mut copy_us, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        merge_us.push(merges.measure(&protocol)?.us);
        copy_us.push(copies.measure(&protocol)?.us);
        ratios.push(copy_us[copy_us.len() - 1] / merge_us[merge_us.len() - 1]);
    }
    Ok(Row {
        shape,
        dtype: dtype.name(),
        bytes,
        merge_us: median(&mut merge_us),
        copy_us: median(&mut copy_us),
        of_copy: median(&mut ratios),
        error: verdict.error,
        bound: verdict.bound,
    })
}

/// A copy from one piece of memory to another that moves so many bytes: half of them are read.
struct DeviceCopy {
    device: Device,
    from: Tensor,
    to: Tensor,
}

impl DeviceCopy {
    fn new(device: &Device, moved: u64) -> Result<Self> {
        let elements = moved.div_ceil(2 * u64::from(Dtype::SIZE)) as usize;
        let zeros = || Tensor::zeros(device, Dtype::F16, Shape::new(1, 1, 1, elements), Order::Bshd);
        Ok(DeviceCopy { device: device.clone(), from: zeros()?, to: zeros()? })
    }

    fn run(&self, stream: &Stream) -> flashcore::Result<()> {
        let (to, from) = (self.to.ptr(), self.from.ptr());
        // SAFETY: both have as many bytes, and live on after the work: freeing them waits for it.
        unsafe { self.device.backend().copy(to, from, self.from.bytes(), stream.raw()) }
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "B,H,S,D",
        "type",
        "MB",
        "merge µs",
        "GB/s",
        "copy µs",
        "GB/s",
        "of copy",
        "max error",
        "allowed",
    ]);
    for row in rows {
        let speed = |us: f64| format!("{:.0}", row.bytes as f64 / us / 1e3);
        table.add_row([
            row.shape.to_string(),
            row.dtype.to_owned(),
            format!("{:.1}", row.bytes as f64 / 1e6),
            format!("{:.2}", row.merge_us),
            speed(row.merge_us),
            format!("{:.2}", row.copy_us),
            speed(row.copy_us),
            format!("{:.2}", row.of_copy),
            format!("{:.1e}", row.error),
            format!("{:.1e}", row.bound),
        ]);
    }
    table.column_iter_mut().skip(2).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_shapes() {
        for text in SHAPES {
            assert!(text.parse::<Bhsd>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_copy_moves_as_many_bytes_as_the_merge() {
        let device = Device::emulated();
        for moved in [4, 12, 1000, 4098] {
            let copy = DeviceCopy::new(&device, moved).unwrap();
            copy.run(&device.stream().unwrap()).unwrap();
            let bytes = (copy.from.bytes() + copy.to.bytes()) as u64;
            assert!((moved..moved + 4).contains(&bytes), "{bytes} for {moved}");
        }
    }
}
