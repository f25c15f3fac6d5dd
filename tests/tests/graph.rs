//! A call can be recorded in a CUDA graph and replayed on new inputs.

use std::process::ExitCode;

use flashcore::driver::Graph;
use flashcore::{Device, Dtype, Lse, Stream};
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS, OTHER_KERNEL_HEAD_DIMS};
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

/// A copy is work like any other: it is recorded, and done each time that the recording is launched.
fn copies(gpu: &Device) -> flashcore::Result<()> {
    let lse = |value: f32| Lse::from_slice(gpu, &[value; 300], 1, 3, 100);
    let (from, to) = (lse(1.0)?, lse(0.0)?);
    let stream = gpu.stream()?;
    let copy = |stream: &Stream| {
        let (to, from) = (to.view(), from.view());
        // SAFETY: as many bytes as both have, which live until the end of this function, and it waits.
        unsafe { gpu.backend().copy(to.ptr(), from.ptr(), from.bytes(), stream.raw()) }
    };
    let graph = Graph::capture(&stream, copy)?;
    assert_eq!(to.to_vec()?, [0.0; 300], "recording must not copy");
    // SAFETY: as above.
    unsafe { graph.launch(&stream)? };
    stream.synchronize()?;
    assert_eq!(to.to_vec()?, [1.0; 300]);
    from.fill_bytes(0)?;
    copy(&stream)?;
    stream.synchronize()?;
    assert_eq!(to.to_vec()?, [0.0; 300]);
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    let head_dims = KERNEL_HEAD_DIMS.map(|head_dim| (head_dim, head_dim));
    for head_dims in head_dims.into_iter().chain(OTHER_KERNEL_HEAD_DIMS) {
        for causal in [false, true] {
            let case = Case { seqlen_q: 300, seqlen_kv: 400, causal, ..Case::default() };
            let case = case.of_head_dims(head_dims);
            let short = Case { batch: 1, seqlen_q: 100, seqlen_kv: 150, heads_q: 1, heads_kv: 1, ..case };
            suite.case("", &[case, short], Dtype::F16, REPLAYS, |gpu, case| replay(gpu, case, Dtype::F16));
        }
    }
    suite.test("copies", copies);
    // While one test records, the driver refuses whatever in another one waits for the device.
    suite.run_serially()
}
