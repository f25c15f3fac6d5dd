//! The same input gives the same bits, a hundred times, alone and beside other work. That is too much for the emulator:
//! see `emulated_schedules.rs`.

use std::process::ExitCode;

use flashcore::{Device, Dtype, Fp8};
use flashcore_tests::cases::{Case, FP8_HEAD_DIMS, KERNEL_HEAD_DIMS, OTHER_KERNEL_HEAD_DIMS};
use flashcore_tests::kernel::Elements;
use flashcore_tests::suite::{Resource, Suite, backends};

const REPEATS: usize = 100;

/// Runs `case` again and again, with `beside` in a stream of its own if given.
fn repeat(gpu: &Device, case: &Case, elements: Elements, beside: Option<&Case>) -> Result<(), String> {
    let text = |error: flashcore::Error| error.to_string();
    let tensors = elements.inputs(case, 5).upload(gpu).map_err(text)?;
    let other = beside.map(|case| elements.inputs(case, 6).upload(gpu)).transpose().map_err(text)?;
    let (stream, other_stream) = (gpu.stream().map_err(text)?, gpu.stream().map_err(text)?);
    let mut first = None;
    for repeat in 0..REPEATS {
        tensors.poison().map_err(text)?;
        if let Some(other) = &other {
            for _ in 0..3 {
                other.run(&other_stream).map_err(text)?;
            }
        }
        tensors.run(&stream).map_err(text)?;
        let outputs = tensors.outputs().map_err(text)?;
        let first = first.get_or_insert_with(|| outputs.clone());
        if first.bits() != outputs.bits() {
            return Err(format!("repeat {repeat} differs from the first run"));
        }
    }
    Ok(())
}

/// What runs beside a case.
fn beside(case: &Case) -> Case {
    Case { seqlen_q: 1000, seqlen_kv: 500, heads_q: 8, ..*case }
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    let mut narrow = Suite::on(vec![Resource::cuda()]);
    let base = Case { seqlen_q: 900, seqlen_kv: 1100, heads_q: 24, heads_kv: 8, ..Case::default() };
    for dtype in [Dtype::F16, Dtype::Bf16] {
        for causal in [false, true] {
            let head_dims = KERNEL_HEAD_DIMS.map(|head_dim| (head_dim, head_dim));
            for head_dims in head_dims.into_iter().chain(OTHER_KERNEL_HEAD_DIMS) {
                let case = Case { causal, ..base }.of_head_dims(head_dims);
                suite.case("alone_", &[case], dtype, REPEATS, move |gpu, case| {
                    repeat(gpu, case, dtype.into(), None)
                });
                suite.case("beside_other_work_", &[case], dtype, 4 * REPEATS, move |gpu, case| {
                    repeat(gpu, case, dtype.into(), Some(&beside(case)))
                });
            }
            let elements = Elements { fp8: Some(Fp8::E4m3), dtype };
            for head_dim in FP8_HEAD_DIMS {
                let case = Case { head_dim, causal, ..base };
                let name = format!("{case}_{}", elements.name());
                narrow.test(format!("alone_{name}"), move |gpu| repeat(gpu, &case, elements, None));
                narrow.test(format!("beside_other_work_{name}"), move |gpu| {
                    repeat(gpu, &case, elements, Some(&beside(&case)))
                });
            }
        }
    }
    suite.and(narrow).run()
}
