//! The same bits again and again.

use anyhow::Result;
use clap::Args;
use flashcore::Device;
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS};
use flashcore_tests::device::{self, OnDevice};

use crate::shape::{Dtypes, Shapes};

/// Options of `determinism`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    shapes: Shapes,
    /// Element type
    #[arg(long, value_enum, default_value_t = Dtypes::Both)]
    dtype: Dtypes,
    /// Runs of each shape
    #[arg(long, default_value_t = 1000, value_name = "N")]
    repeat: usize,
}

/// Runs each shape `repeat` times; false if a bit ever differs.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    let cases = options.shapes.cases_or(|masks| {
        let case = Case { seqlen_q: 900, seqlen_kv: 1100, heads_q: 24, heads_kv: 8, ..Case::default() };
        let with_mask = |&causal: &bool| KERNEL_HEAD_DIMS.map(|head_dim| Case { head_dim, causal, ..case });
        masks.iter().flat_map(with_mask).collect()
    });
    let mut same = true;
    for case in &cases {
        for &dtype in options.dtype.list() {
            let differing = differing_runs(&device, case, dtype, options.repeat)?;
            println!(
                "{}: {differing} of {} runs differ from the first",
                device::name(case, dtype),
                options.repeat
            );
            same &= differing == 0;
        }
    }
    Ok(same)
}

fn differing_runs(device: &Device, case: &Case, dtype: flashcore::Dtype, repeat: usize) -> Result<usize> {
    let tensors = OnDevice::new(device, case, &case.inputs(dtype, 0))?;
    let stream = device.stream()?;
    let outputs = || {
        tensors.poison()?;
        tensors.run(&stream)?;
        tensors.outputs()
    };
    let first = outputs()?;
    let mut differing = 0;
    for _ in 0..repeat {
        differing += usize::from(outputs()?.bits() != first.bits());
    }
    Ok(differing)
}
