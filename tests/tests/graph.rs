//! A call can be recorded in a CUDA graph and replayed on new inputs.

use std::process::ExitCode;

use flashcore::driver::Graph;
use flashcore::{Device, Dtype};
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS};
use flashcore_tests::device::{self, Failure, OnDevice};
use flashcore_tests::suite::{Suite, backends};

const REPLAYS: usize = 3;

/// Records the case once; replays it on inputs that were not there when it was recorded.
fn replay(gpu: &Device, case: &Case, dtype: Dtype) -> Result<(), Failure> {
    let tensors = OnDevice::new(gpu, case, &case.inputs(dtype, 0))?;
    let stream = gpu.stream()?;
    let graph = Graph::capture(&stream, |stream| tensors.run(stream))?;
    stream.synchronize()?;
    assert!(tensors.outputs()?.lse.iter().all(|lse| lse.is_nan()), "recording must not compute");
    for seed in 1..=REPLAYS as u64 {
        let inputs = case.inputs(dtype, seed);
        for (to, from) in [(&tensors.q, &inputs.q), (&tensors.k, &inputs.k), (&tensors.v, &inputs.v)] {
            // SAFETY: the memory is live, as long as the bits, and nothing is running.
            unsafe { gpu.backend().upload(to.ptr(), bytemuck::cast_slice(&from.bits))? };
        }
        tensors.poison()?;
        // SAFETY: the tensors that were recorded live until the end of this function, which waits.
        unsafe { graph.launch(&stream)? };
        stream.synchronize()?;
        tensors.outputs()?.judge(&inputs, &inputs.attention.rows(device::BUDGET, seed))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    for head_dim in KERNEL_HEAD_DIMS {
        for causal in [false, true] {
            let case = Case { seqlen_q: 300, seqlen_kv: 400, head_dim, causal, ..Case::default() };
            let short = Case { batch: 1, seqlen_q: 100, seqlen_kv: 150, heads_q: 1, heads_kv: 1, ..case };
            suite.case("", &[case, short], Dtype::F16, REPLAYS, |gpu, case| replay(gpu, case, Dtype::F16));
        }
    }
    // While one test records, the driver refuses whatever in another one waits for the device.
    suite.run_serially()
}
