//! What the tests on candle's tensors share.

use candle_core::{DType, Device, Result, Shape as Dims, Tensor};
use flashcore::Dtype;
use flashcore_tests::suite::Resource;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// A test on a device.
pub(crate) type Test = fn(&Device) -> std::result::Result<(), Failure>;

/// The CPU, and the GPUs that there may be.
pub(crate) fn devices() -> Vec<Resource<Device>> {
    let cpu = Resource::new("cpu", Ok(Device::Cpu));
    [cpu].into_iter().chain(gpus()).collect()
}

/// The first GPU, with candle's default stream and with one of its own.
pub(crate) fn gpus() -> [Resource<Device>; 2] {
    [cuda("cuda", Device::new_cuda), cuda("cuda_stream", Device::new_cuda_with_stream)]
}

fn cuda(name: &str, open: fn(usize) -> Result<Device>) -> Resource<Device> {
    // Only the first line: candle adds a backtrace if it is asked for one.
    let reason =
        |text: String| format!("skipped: no CUDA device ({})", text.lines().next().unwrap_or_default());
    Resource::new(name, open(0).map_err(|error| reason(error.to_string())))
}

pub(crate) fn candle_dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
    }
}

pub(crate) fn normal(dims: impl Into<Dims>, device: &Device) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, dims, &Device::Cpu)?.to_dtype(DType::F16)?.to_device(device)
}
