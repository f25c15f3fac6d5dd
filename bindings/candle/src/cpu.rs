//! CPU tensors: the same kernels, on an emulated device.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Layout, Storage, WithDType};
use flashcore::{
    Array, Attention, Device, Dtype, Element, Lse, Order, Shape, Tensor, merge_attention_states_into,
};
use half::{bf16, f16};

use crate::fp8::{Fp8Options, submit};
use crate::numbers::Numbers;
use crate::operand::{BiasInput, Input, QKV, STATES, Stored};

/// A tensor's storage and layout, if it is on the CPU.
fn input<'a>((storage, layout): &'a Stored<'_>) -> candle_core::Result<(&'a CpuStorage, &'a Layout)> {
    match &**storage {
        Storage::Cpu(storage) => Ok((storage, layout)),
        _ => Err(candle_core::Error::msg("a tensor is not on the CPU")),
    }
}

/// The output, contiguous, and the log-sum-exp if it is wanted.
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
    let numbers = numbers.try_map(|_, stored| bits(input(stored)?))?;
    let storages = storages.map(|(storage, _)| storage);
    let (out, lse) = match inputs[0].dtype() {
        Dtype::F16 => forward_in::<f16>(attention, fp8, storages, inputs, &numbers, bias, want_lse)?,
        Dtype::Bf16 => forward_in::<bf16>(attention, fp8, storages, inputs, &numbers, bias, want_lse)?,
    };
    Ok((Storage::Cpu(out), lse.map(Storage::Cpu)))
}

/// The bits of each number.
fn bits((storage, layout): (&CpuStorage, &Layout)) -> candle_core::Result<Vec<u32>> {
    let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    Ok(match storage.dtype() {
        DType::F32 => storage.as_slice::<f32>()?[range].iter().map(|x| x.to_bits()).collect(),
        DType::I32 => storage.as_slice::<i32>()?[range].iter().map(|x| x.cast_unsigned()).collect(),
        _ => storage.as_slice::<u32>()?[range].to_vec(),
    })
}

fn forward_in<T: Element + WithDType>(
    attention: &Attention<'static>,
    fp8: Option<Fp8Options>,
    storages: [&CpuStorage; 3],
    inputs: [Input; 3],
    numbers: &Numbers<Vec<u32>>,
    bias: Option<(&CpuStorage, BiasInput)>,
    want_lse: bool,
) -> candle_core::Result<(CpuStorage, Option<CpuStorage>)> {
    let [q, k, v] = storages;
    let elements = [q.as_slice::<T>()?, k.as_slice::<T>()?, v.as_slice::<T>()?];
    let bias = match bias {
        Some((storage, bias)) => Some((storage.as_slice::<T>()?, bias)),
        None => None,
    };
    let (out, lse) =
        emulate(attention, fp8, elements, inputs, numbers, bias, want_lse).map_err(crate::Error::from)?;
    Ok((T::to_cpu_storage_owned(out), lse.map(f32::to_cpu_storage_owned)))
}

/// Runs the call on an emulated device of its own, so that calls of several threads run side by side.
fn emulate<T: Element>(
    attention: &Attention<'static>,
    fp8: Option<Fp8Options>,
    elements: [&[T]; 3],
    [q, k, v]: [Input; 3],
    numbers: &Numbers<Vec<u32>>,
    bias: Option<(&[T], BiasInput)>,
    want_lse: bool,
) -> flashcore::Result<(Vec<T>, Option<Vec<f32>>)> {
    let device = Device::emulated();
    let stream = device.stream()?;
    let storages =
        [upload(&device, elements[0])?, upload(&device, elements[1])?, upload(&device, elements[2])?];
    let arrays = numbers.try_map(|_, bits| Array::from_slice(&device, bits))?;
    let view = |input: Input, storage: &Tensor| {
        // SAFETY: the storages live until the end of this function, and emulated work is done when it is submitted.
        unsafe { input.view(storage.ptr(), storage.bytes()) }
    };
    // SAFETY: as above, of the arrays.
    let mut attention = unsafe { arrays.join(*attention, |array| (array.view().ptr(), array.view().len())) };
    let bias_storage = bias.map(|(elements, _)| upload(&device, elements)).transpose()?;
    if let (Some(storage), Some((_, bias))) = (&bias_storage, bias) {
        // SAFETY: as above.
        attention = attention.bias(unsafe { bias.view(storage.ptr(), storage.bytes()) });
    }
    let shape = q.output(&v);
    let out = Tensor::zeros(&device, T::DTYPE, shape, Order::Bshd)?;
    let lse = want_lse.then(|| Lse::new(&device, shape.batch, shape.heads, shape.seqlen)).transpose()?;
    if let Some(lse) = lse.as_ref().filter(|_| numbers.skip_rows()) {
        lse.fill_bytes(0)?;
    }
    let shapes = [q, k, v].map(|input| input.shape());
    let packed = attention.get_sequences().packed()?;
    let room =
        fp8.map(|fp8| Ok::<_, flashcore::Error>((fp8, fp8.room(&device, shapes, packed)?))).transpose()?;
    let room = room.as_ref().map(|(fp8, room)| (*fp8, room));
    let views = [view(q, &storages[0]), view(k, &storages[1]), view(v, &storages[2])];
    submit(&attention, room, &stream, views, &out, lse.as_ref().map(Lse::view))?;
    Ok((out.to_vec()?, lse.map(|lse| lse.to_vec()).transpose()?))
}

/// A whole storage, since a layout may begin anywhere: what is misaligned on a GPU is so here.
fn upload<T: Element>(device: &Device, elements: &[T]) -> flashcore::Result<Tensor> {
    Tensor::from_slice(device, elements, Shape::new(1, 1, 1, elements.len()), Order::Bshd)
}

/// Two states merged: the output, contiguous, and its log-sum-exp. Those of the states are stacked, and contiguous.
pub(crate) fn merge([o1, o2, lses]: &[Stored<'_>; 3]) -> candle_core::Result<(Storage, Storage)> {
    let (states, (lses, lses_layout)) = ([input(o1)?, input(o2)?], input(lses)?);
    let inputs = Input::of(STATES, [false; 2], states)?;
    inputs[0].check_lses(lses.dtype(), lses_layout)?;
    let lses = &lses.as_slice::<f32>()?[lses_layout.start_offset()..];
    let storages = states.map(|(storage, _)| storage);
    let (out, lse) = match inputs[0].dtype() {
        Dtype::F16 => merge_in::<f16>(storages, inputs, lses)?,
        Dtype::Bf16 => merge_in::<bf16>(storages, inputs, lses)?,
    };
    Ok((Storage::Cpu(out), Storage::Cpu(lse)))
}

fn merge_in<T: Element + WithDType>(
    [o1, o2]: [&CpuStorage; 2],
    inputs: [Input; 2],
    lses: &[f32],
) -> candle_core::Result<(CpuStorage, CpuStorage)> {
    let elements = [o1.as_slice::<T>()?, o2.as_slice::<T>()?];
    let (out, lse) = emulate_merge(elements, inputs, lses).map_err(crate::Error::from)?;
    Ok((T::to_cpu_storage_owned(out), f32::to_cpu_storage_owned(lse)))
}

/// As [`emulate`].
fn emulate_merge<T: Element>(
    elements: [&[T]; 2],
    [o1, o2]: [Input; 2],
    lses: &[f32],
) -> flashcore::Result<(Vec<T>, Vec<f32>)> {
    let device = Device::emulated();
    let stream = device.stream()?;
    let storages = [upload(&device, elements[0])?, upload(&device, elements[1])?];
    // SAFETY: the storages live until the end of this function, and emulated work is done when it is submitted.
    let view = |input: Input, storage: &Tensor| unsafe { input.view(storage.ptr(), storage.bytes()) };
    let shape = o1.shape();
    let Shape { batch, seqlen, heads, .. } = shape;
    let rows = batch * heads * seqlen;
    let lse = |values: &[f32]| Lse::from_slice(&device, values, batch, heads, seqlen);
    let [lse1, lse2, lse] =
        [lse(&lses[..rows])?, lse(&lses[rows..2 * rows])?, Lse::new(&device, batch, heads, seqlen)?];
    let out = Tensor::zeros(&device, T::DTYPE, shape, Order::Bshd)?;
    let (o1, o2) = (view(o1, &storages[0]), view(o2, &storages[1]));
    merge_attention_states_into(&stream, &o1, lse1.view(), &o2, lse2.view(), &out, Some(lse.view()))?;
    Ok((out.to_vec()?, lse.to_vec()?))
}
