//! Results as tensors: candle's operations take three inputs at most, and have one output.

use std::sync::{Mutex, PoisonError};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor};

/// A result that was computed from `inputs`, which are on one device. It hangs on one of them that a gradient is wanted
/// for, if there is one, so that a backward pass through it fails as that of the operation `name`, rather than give no
/// gradient.
///
/// # Panics
/// If there are no inputs.
pub(crate) fn tensor<'a>(
    name: &'static str,
    (storage, shape): (Storage, Shape),
    inputs: impl IntoIterator<Item = &'a Tensor>,
) -> Result<Tensor> {
    let any = inputs.into_iter().reduce(|any, input| if any.track_op() { any } else { input });
    let input = any.expect("results are computed from something");
    input.apply_op1(Computed { name, storage: Mutex::new(Some(storage)), shape })
}

/// The operation that candle sees: it only hands over the result.
struct Computed {
    name: &'static str,
    storage: Mutex<Option<Storage>>,
    shape: Shape,
}

impl Computed {
    fn take(&self) -> Option<Storage> {
        self.storage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl CustomOp1 for Computed {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match self.take() {
            Some(Storage::Cpu(storage)) => Ok((storage, self.shape.clone())),
            _ => Err(candle_core::Error::msg("there is no result on the CPU")),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        match self.take() {
            Some(Storage::Cuda(storage)) => Ok((storage, self.shape.clone())),
            _ => Err(candle_core::Error::msg("there is no result on a CUDA device")),
        }
    }
}
