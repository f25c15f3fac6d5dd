//! CUDA tensors: in candle's memory, on candle's stream.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop, ValidAsZeroBits,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice};
use candle_core::{CudaStorage, DType, Layout, Storage};
use flashcore::merge_attention_states_into;
use flashcore::{Attention, Device, Dtype, Element, LseView, Order, Shape, Stream, TensorView};
use half::{bf16, f16};

use crate::Error;
use crate::fp8::{Fp8Options, kept_room, submit};
use crate::numbers::Numbers;
use crate::operand::{BiasInput, Input, QKV, STATES, Stored};

/// A tensor's storage and layout, if it is on a CUDA device.
fn input<'a>((storage, layout): &'a Stored<'_>) -> candle_core::Result<(&'a CudaStorage, &'a Layout)> {
    match &**storage {
        Storage::Cuda(storage) => Ok((storage, layout)),
        _ => Err(candle_core::Error::msg("a tensor is not on a CUDA device")),
    }
}

/// The output, contiguous, and the log-sum-exp if it is wanted. Returns before they are computed.
pub(crate) fn forward(
    attention: &Attention<'static>,
    fp8: Option<Fp8Options>,
    [q, k, v]: &[Stored<'_>; 3],
    numbers: &Numbers<Stored<'_>>,
    bias: Option<&Stored<'_>>,
    want_lse: bool,
) -> candle_core::Result<(Storage, Option<Storage>)> {
    let storages = [input(q)?, input(k)?, input(v)?];
    let inputs = Input::of(QKV, numbers.packed(), storages)?;
    let bias = match bias.map(input).transpose()? {
        Some((storage, layout)) => Some((storage, BiasInput::of(storage, layout, inputs[0].dtype())?)),
        None => None,
    };
    let storages = storages.map(|(storage, _)| storage);
    let stream = storages[0].device().cuda_stream();
    let places = numbers.try_map(|_, stored| Place::of(input(stored)?, &stream))?;
    let (out, lse) = match inputs[0].dtype() {
        Dtype::F16 => forward_in::<f16>(attention, fp8, storages, inputs, &places, bias, want_lse)?,
        Dtype::Bf16 => forward_in::<bf16>(attention, fp8, storages, inputs, &places, bias, want_lse)?,
    };
    Ok((Storage::Cuda(out), lse.map(Storage::Cuda)))
}

/// Where numbers are.
struct Place<'a> {
    /// Device address of the first one.
    ptr: u64,
    len: usize,
    /// As in [`launch`].
    _guard: SyncOnDrop<'a>,
}

impl<'a> Place<'a> {
    fn of(
        (storage, layout): (&'a CudaStorage, &Layout),
        stream: &'a CudaStream,
    ) -> candle_core::Result<Self> {
        let (ptr, guard) = match storage.dtype() {
            DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(stream),
            DType::I32 => storage.as_cuda_slice::<i32>()?.device_ptr(stream),
            _ => storage.as_cuda_slice::<u32>()?.device_ptr(stream),
        };
        let ptr = ptr + (layout.start_offset() * size_of::<u32>()) as u64;
        Ok(Place { ptr, len: layout.shape().elem_count(), _guard: guard })
    }
}

fn forward_in<T: Element + CudaDType + DeviceRepr + ValidAsZeroBits>(
    attention: &Attention<'static>,
    fp8: Option<Fp8Options>,
    storages: [&CudaStorage; 3],
    inputs: [Input; 3],
    numbers: &Numbers<Place<'_>>,
    bias: Option<(&CudaStorage, BiasInput)>,
    want_lse: bool,
) -> candle_core::Result<(CudaStorage, Option<CudaStorage>)> {
    let [q, k, v] = storages;
    let slices = [q.as_cuda_slice::<T>()?, k.as_cuda_slice::<T>()?, v.as_cuda_slice::<T>()?];
    let (device, shape, skip_rows) = (q.device(), inputs[0].output(&inputs[2]), numbers.skip_rows());
    let mut out = output::<T>(device, shape, skip_rows)?;
    let mut lse =
        want_lse.then(|| output::<f32>(device, Shape { head_dim: 1, ..shape }, skip_rows)).transpose()?;
    // SAFETY: the guards order all later use of the numbers behind the work on candle's stream.
    let mut attention = unsafe { numbers.join(*attention, |place| (place.ptr, place.len)) };
    let stream = device.cuda_stream();
    let bias = match bias {
        Some((storage, bias)) => Some((storage.as_cuda_slice::<T>()?, bias)),
        None => None,
    };
    let bias_place = bias.map(|(slice, bias)| (slice.device_ptr(&stream), slice.num_bytes(), bias));
    if let Some(((ptr, _), bytes, bias)) = &bias_place {
        // SAFETY: the guard orders all later use of the bias behind the work on candle's stream.
        attention = attention.bias(unsafe { bias.view(*ptr, *bytes) });
    }
    launch(&attention, fp8, &stream, slices, inputs, &mut out, lse.as_mut()).map_err(Error::from)?;
    let lse = lse.map(|lse| CudaStorage::wrap_cuda_slice(lse, device.clone()));
    Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), lse))
}

/// Memory of candle's for an output, with zeros where the kernel skips rows.
fn output<T: DeviceRepr + ValidAsZeroBits>(
    device: &CudaDevice,
    shape: Shape,
    skip_rows: bool,
) -> candle_core::Result<CudaSlice<T>> {
    let elements = shape.elements().ok_or(flashcore::Error::ShapeOverflow { shape }).map_err(Error::from)?;
    // Drivers refuse to allocate nothing.
    let elements = elements.max(1);
    if skip_rows {
        return device.alloc_zeros(elements);
    }
    // SAFETY: nobody sees the memory before the kernel has written every element.
    unsafe { device.alloc(elements) }
}

/// Submits the work to `stream`, behind all other work on these slices.
fn launch<T: Element + DeviceRepr>(
    attention: &Attention<'_>,
    fp8: Option<Fp8Options>,
    stream: &CudaStream,
    slices: [&CudaSlice<T>; 3],
    [q, k, v]: [Input; 3],
    out: &mut CudaSlice<T>,
    lse: Option<&mut CudaSlice<f32>>,
) -> flashcore::Result<()> {
    let device = opened(stream.context().ordinal())?;
    // SAFETY: candle's stream outlives this function, and with it the borrowed one.
    let borrowed = unsafe { Stream::from_raw(&device, stream.cu_stream() as u64)? };
    // Each address comes with a guard. It makes the stream wait for earlier work of other streams on the slice;
    // dropped, it makes later work of other streams, freeing the memory included, wait for this stream.
    let [(q_ptr, _q), (k_ptr, _k), (v_ptr, _v)] = slices.map(|slice| slice.device_ptr(stream));
    let (out_bytes, lse_bytes) = (out.num_bytes(), lse.as_ref().map_or(0, |lse| lse.num_bytes()));
    let (out_ptr, _out) = out.device_ptr_mut(stream);
    let lse = lse.map(|lse| lse.device_ptr_mut(stream));
    let shape = q.output(&v);
    let strides = Order::Bshd.strides(shape);
    // SAFETY: the slices are borrowed for this call, and the guards order all later use behind it.
    let (views, out, lse) = unsafe {
        (
            [
                q.view(q_ptr, slices[0].num_bytes()),
                k.view(k_ptr, slices[1].num_bytes()),
                v.view(v_ptr, slices[2].num_bytes()),
            ],
            TensorView::from_raw_parts(out_ptr, out_bytes, T::DTYPE, shape, strides),
            lse.as_ref().map(|(ptr, _)| LseView::from_raw_parts(*ptr, lse_bytes)),
        )
    };
    let shapes = [q, k, v].map(|input| input.shape());
    let packed = attention.get_sequences().packed()?;
    let room = fp8.map(|fp8| kept_room(fp8, &borrowed, shapes, packed)).transpose()?;
    let room = room.as_ref().map(|room| room.lock().unwrap_or_else(PoisonError::into_inner));
    submit(attention, fp8.zip(room.as_deref()), &borrowed, views, &out, lse)
}

/// Two states merged: the output, contiguous, and its log-sum-exp, in new memory. Those of the states are stacked, and
/// contiguous. Returns before they are computed.
pub(crate) fn merge([o1, o2, lses]: &[Stored<'_>; 3]) -> candle_core::Result<(Storage, Storage)> {
    let (states, (lses, lses_layout)) = ([input(o1)?, input(o2)?], input(lses)?);
    let inputs = Input::of(STATES, [false; 2], states)?;
    inputs[0].check_lses(lses.dtype(), lses_layout)?;
    let lses = (lses.as_cuda_slice::<f32>()?, lses_layout.start_offset());
    let storages = states.map(|(storage, _)| storage);
    let (out, lse) = match inputs[0].dtype() {
        Dtype::F16 => merge_in::<f16>(storages, inputs, lses)?,
        Dtype::Bf16 => merge_in::<bf16>(storages, inputs, lses)?,
    };
    Ok((Storage::Cuda(out), Storage::Cuda(lse)))
}

fn merge_in<T: Element + CudaDType + DeviceRepr + ValidAsZeroBits>(
    [o1, o2]: [&CudaStorage; 2],
    inputs: [Input; 2],
    lses: (&CudaSlice<f32>, usize),
) -> candle_core::Result<(CudaStorage, CudaStorage)> {
    let slices = [o1.as_cuda_slice::<T>()?, o2.as_cuda_slice::<T>()?];
    let (device, shape) = (o1.device(), inputs[0].shape());
    let mut out = output::<T>(device, shape, false)?;
    let mut lse = output::<f32>(device, Shape { head_dim: 1, ..shape }, false)?;
    launch_merge(&device.cuda_stream(), slices, inputs, lses, &mut out, &mut lse).map_err(Error::from)?;
    let lse = CudaStorage::wrap_cuda_slice(lse, device.clone());
    Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), lse))
}

/// As [`launch`].
fn launch_merge<T: Element + DeviceRepr>(
    stream: &CudaStream,
    slices: [&CudaSlice<T>; 2],
    [o1, o2]: [Input; 2],
    (lses, lses_offset): (&CudaSlice<f32>, usize),
    out: &mut CudaSlice<T>,
    lse: &mut CudaSlice<f32>,
) -> flashcore::Result<()> {
    let device = opened(stream.context().ordinal())?;
    // SAFETY: candle's stream outlives this function, and with it the borrowed one.
    let borrowed = unsafe { Stream::from_raw(&device, stream.cu_stream() as u64)? };
    let shape = o1.shape();
    let rows = Shape { head_dim: 1, ..shape }.elements().ok_or(flashcore::Error::ShapeOverflow { shape })?;
    let lse_bytes = rows * size_of::<f32>();
    // Guards as in `launch`.
    let [(o1_ptr, _o1), (o2_ptr, _o2)] = slices.map(|slice| slice.device_ptr(stream));
    let (lses_ptr, _lses) = lses.device_ptr(stream);
    let lse1_ptr = lses_ptr + (lses_offset * size_of::<f32>()) as u64;
    let (out_bytes, strides) = (out.num_bytes(), Order::Bshd.strides(shape));
    let (out_ptr, _out) = out.device_ptr_mut(stream);
    let (lse_ptr, _lse) = lse.device_ptr_mut(stream);
    // SAFETY: the slices are borrowed for this call, and the guards order all later use behind it.
    unsafe {
        let (o1, o2) = (o1.view(o1_ptr, slices[0].num_bytes()), o2.view(o2_ptr, slices[1].num_bytes()));
        let lse1 = LseView::from_raw_parts(lse1_ptr, lse_bytes);
        let lse2 = LseView::from_raw_parts(lse1_ptr + lse_bytes as u64, lse_bytes);
        let lse = LseView::from_raw_parts(lse_ptr, lse_bytes);
        let out = TensorView::from_raw_parts(out_ptr, out_bytes, T::DTYPE, shape, strides);
        merge_attention_states_into(&borrowed, &o1, lse1, &o2, lse2, &out, Some(lse))
    }
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
