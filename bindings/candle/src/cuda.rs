//! CUDA tensors: in candle's memory, on candle's stream.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, CudaDevice};
use flashcore::{Attention, Device, Dtype, Element, LseView, Order, Shape, Stream, TensorView};
use half::{bf16, f16};

use crate::Error;
use crate::operand::{Input, Inputs};

/// The output, contiguous, and the log-sum-exp if it is wanted. Returns before they are computed.
pub(crate) fn forward(
    attention: &Attention,
    storages: Inputs<'_, CudaStorage>,
    want_lse: bool,
) -> candle_core::Result<(CudaStorage, Option<CudaStorage>)> {
    let inputs = Input::of(storages)?;
    let storages = storages.map(|(storage, _)| storage);
    match inputs[0].dtype() {
        Dtype::F16 => forward_in::<f16>(attention, storages, inputs, want_lse),
        Dtype::Bf16 => forward_in::<bf16>(attention, storages, inputs, want_lse),
    }
}

fn forward_in<T: Element + CudaDType + DeviceRepr>(
    attention: &Attention,
    storages: [&CudaStorage; 3],
    inputs: [Input; 3],
    want_lse: bool,
) -> candle_core::Result<(CudaStorage, Option<CudaStorage>)> {
    let [q, k, v] = storages;
    let slices = [q.as_cuda_slice::<T>()?, k.as_cuda_slice::<T>()?, v.as_cuda_slice::<T>()?];
    let (device, shape) = (q.device(), inputs[0].shape());
    let mut out = uninit::<T>(device, shape)?;
    let mut lse = want_lse.then(|| uninit::<f32>(device, Shape { head_dim: 1, ..shape })).transpose()?;
    launch(attention, &device.cuda_stream(), slices, inputs, &mut out, lse.as_mut()).map_err(Error::from)?;
    let lse = lse.map(|lse| CudaStorage::wrap_cuda_slice(lse, device.clone()));
    Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), lse))
}

/// Memory of candle's for an output, which the kernel fills.
fn uninit<T: DeviceRepr>(device: &CudaDevice, shape: Shape) -> candle_core::Result<CudaSlice<T>> {
    let elements = shape.elements().ok_or(flashcore::Error::ShapeOverflow { shape }).map_err(Error::from)?;
    // SAFETY: nobody sees the memory before the kernel has written every element. Drivers refuse to allocate nothing.
    unsafe { device.alloc(elements.max(1)) }
}

/// Submits the work to `stream`, behind all other work on these slices.
fn launch<T: Element + DeviceRepr>(
    attention: &Attention,
    stream: &CudaStream,
    slices: [&CudaSlice<T>; 3],
    [q, k, v]: [Input; 3],
    out: &mut CudaSlice<T>,
    lse: Option<&mut CudaSlice<f32>>,
) -> flashcore::Result<()> {
    let device = opened(stream.context().ordinal())?;
    // SAFETY: candle's stream outlives this function, and with it the borrowed one.
    let borrowed = unsafe { Stream::from_raw(&device, stream.cu_stream() as u64)? };
    // Each address comes with a guard. It makes the stream wait for earlier work of other streams on the slice; dropped,
    // it makes later work of other streams, freeing the memory included, wait for this stream.
    let [(q_ptr, _q), (k_ptr, _k), (v_ptr, _v)] = slices.map(|slice| slice.device_ptr(stream));
    let (out_bytes, lse_bytes) = (out.num_bytes(), lse.as_ref().map_or(0, |lse| lse.num_bytes()));
    let (out_ptr, _out) = out.device_ptr_mut(stream);
    let lse = lse.map(|lse| lse.device_ptr_mut(stream));
    let strides = Order::Bshd.strides(q.shape());
    // SAFETY: the slices are borrowed for this call, and the guards order all later use behind it.
    let (views, out, lse) = unsafe {
        (
            [
                q.view(q_ptr, slices[0].num_bytes()),
                k.view(k_ptr, slices[1].num_bytes()),
                v.view(v_ptr, slices[2].num_bytes()),
            ],
            TensorView::from_raw_parts(out_ptr, out_bytes, T::DTYPE, q.shape(), strides),
            lse.as_ref().map(|(ptr, _)| LseView::from_raw_parts(*ptr, lse_bytes)),
        )
    };
    let [q, k, v] = views;
    attention.forward_into(&borrowed, &q, &k, &v, &out, lse)
}

/// The device of this number, opened by the first call. It shares its primary context with candle.
fn opened(ordinal: usize) -> flashcore::Result<Device> {
    static DEVICES: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = devices.get(&ordinal) {
        return Ok(device.clone());
    }
    let device = Device::cuda(ordinal)?;
    devices.insert(ordinal, device.clone());
    Ok(device)
}
