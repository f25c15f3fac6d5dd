//! CPU tensors: the same kernels, on an emulated device.

use candle_core::{CpuStorage, WithDType};
use flashcore::{Attention, Device, Dtype, Element, Lse, Order, Shape, Tensor};
use half::{bf16, f16};

use crate::operand::{Input, Inputs};

/// The output, contiguous, and the log-sum-exp if it is wanted.
pub(crate) fn forward(
    attention: &Attention,
    storages: Inputs<'_, CpuStorage>,
    want_lse: bool,
) -> candle_core::Result<(CpuStorage, Option<CpuStorage>)> {
    let inputs = Input::of(storages)?;
    let storages = storages.map(|(storage, _)| storage);
    match inputs[0].dtype() {
        Dtype::F16 => forward_in::<f16>(attention, storages, inputs, want_lse),
        Dtype::Bf16 => forward_in::<bf16>(attention, storages, inputs, want_lse),
    }
}

fn forward_in<T: Element + WithDType>(
    attention: &Attention,
    storages: [&CpuStorage; 3],
    inputs: [Input; 3],
    want_lse: bool,
) -> candle_core::Result<(CpuStorage, Option<CpuStorage>)> {
    let [q, k, v] = storages;
    let elements = [q.as_slice::<T>()?, k.as_slice::<T>()?, v.as_slice::<T>()?];
    let (out, lse) = emulate(attention, elements, inputs, want_lse).map_err(crate::Error::from)?;
    Ok((T::to_cpu_storage_owned(out), lse.map(f32::to_cpu_storage_owned)))
}

/// Runs the call on an emulated device of its own, so that calls of several threads run side by side.
fn emulate<T: Element>(
    attention: &Attention,
    elements: [&[T]; 3],
    [q, k, v]: [Input; 3],
    want_lse: bool,
) -> flashcore::Result<(Vec<T>, Option<Vec<f32>>)> {
    let device = Device::emulated();
    let stream = device.stream()?;
    // Whole storages, since a layout may begin anywhere: what is misaligned on a GPU is so here.
    let upload = |elements: &[T]| {
        Tensor::from_slice(&device, elements, Shape::new(1, 1, 1, elements.len()), Order::Bshd)
    };
    let storages = [upload(elements[0])?, upload(elements[1])?, upload(elements[2])?];
    let view = |input: Input, storage: &Tensor| {
        // SAFETY: the storages live until the end of this function, and emulated work is done when it is submitted.
        unsafe { input.view(storage.ptr(), storage.bytes()) }
    };
    let shape = q.shape();
    let out = Tensor::zeros(&device, T::DTYPE, shape, Order::Bshd)?;
    let lse = want_lse.then(|| Lse::new(&device, shape.batch, shape.heads, shape.seqlen)).transpose()?;
    let [q, k, v] = [view(q, &storages[0]), view(k, &storages[1]), view(v, &storages[2])];
    attention.forward_into(&stream, &q, &k, &v, &out, lse.as_ref().map(Lse::view))?;
    Ok((out.to_vec()?, lse.map(|lse| lse.to_vec()).transpose()?))
}
