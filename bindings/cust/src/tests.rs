//! What needs no GPU: slices over the memory of an emulated device.

use cust::memory::DevicePointer;
use flashcore::{Error, Lse, Operand, Tensor};
use flashcore_tests::cases::{Case, Layout};
use flashcore_tests::compare::compare;
use flashcore_tests::device::{Outputs, download, upload};
use flashcore_tests::merge::{Merge, Place, Sums};
use flashcore_tests::values::HostTensor;

use super::*;

/// The memory at `ptr` as cust sees it.
fn slice<T: DeviceCopy>(ptr: u64, len: usize) -> DeviceSlice<T> {
    // SAFETY: the slice is only asked where it is.
    unsafe { DeviceSlice::from_raw_parts_mut(DevicePointer::from_raw(ptr), len) }
}

fn elements<T: Element>(tensor: &Tensor) -> DeviceSlice<T> {
    slice(tensor.ptr(), tensor.bytes() / size_of::<T>())
}

fn right<T: Element>(case: &Case) {
    let (device, inputs) = (Device::emulated(), case.inputs(T::DTYPE, 1));
    let shape = case.shape_q();
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|tensor| upload(&device, tensor).unwrap());
    let poisoned = HostTensor::poisoned(T::DTYPE, shape, case.layout.output(shape));
    let out = upload(&device, &poisoned).unwrap();
    let lse = Lse::new(&device, shape.batch, shape.heads, shape.seqlen).unwrap();

    let slices = [&q, &k, &v].map(elements::<T>);
    let input = |i: usize, of: &HostTensor| Input::with_strides(&slices[i], of.shape, of.strides);
    let mut memory = elements(&out);
    let mut lse_memory = slice(lse.view().ptr(), lse.view().bytes() / 4);
    let output = Output::with_strides(&mut memory, shape, poisoned.strides).with_lse(&mut lse_memory);
    let three = [input(0, &inputs.q), input(1, &inputs.k), input(2, &inputs.v)];
    // SAFETY: emulated work is done when it is submitted.
    unsafe { launch(&device.stream().unwrap(), &Attention::new().causal(case.causal), three, &output) }
        .unwrap();

    let out = download(&out).unwrap();
    assert!(out.gaps_untouched());
    let expected = inputs.attention.answers(&inputs.attention.rows(usize::MAX, 0), T::DTYPE);
    compare(&expected, T::DTYPE, &out.values(), Some(&lse.to_vec().unwrap())).unwrap();
}

#[test]
fn slices_are_used_as_they_lie() {
    let case = Case {
        batch: 2,
        seqlen_q: 70,
        seqlen_kv: 90,
        heads_q: 4,
        heads_kv: 2,
        head_dim: 64,
        ..Case::default()
    };
    right::<f16>(&case);
    right::<bf16>(&Case { causal: true, layout: Layout::Bhsd, ..case });
    right::<f16>(&Case { layout: Layout::Padded, ..case });
}

#[test]
fn slices_must_be_long_enough() {
    let device = Device::emulated();
    let stream = device.stream().unwrap();
    let shape = Shape::new(1, 20, 2, 64);
    let bytes = 2 * 20 * 2 * 64;
    let zeros = || Tensor::zeros(&device, Dtype::F16, shape, Order::Bshd).unwrap();
    let (tensor, out, lse) = (zeros(), zeros(), Lse::new(&device, 1, 2, 20).unwrap());
    let whole = elements::<f16>(&tensor);
    let call = |k_missing: usize, out_missing: usize, lse_missing: usize| {
        let k = slice::<f16>(tensor.ptr(), bytes / 2 - k_missing);
        let mut memory = slice(out.ptr(), bytes / 2 - out_missing);
        let mut lse_memory = slice(lse.view().ptr(), 40 - lse_missing);
        let output = Output::new(&mut memory, shape, Order::Bshd).with_lse(&mut lse_memory);
        let three = [&whole, &k, &whole].map(|memory| Input::new(memory, shape, Order::Bshd));
        // SAFETY: emulated work is done when it is submitted.
        unsafe { launch(&stream, &Attention::new(), three, &output) }
    };
    let too_small = |operand, needed, given| Err(Error::TooSmall { operand, needed, given });
    assert_eq!(call(0, 0, 0), Ok(()));
    assert_eq!(call(1, 0, 0), too_small(Operand::K, bytes, bytes - 2));
    assert_eq!(call(0, 3, 0), too_small(Operand::Out, bytes, bytes - 6));
    assert_eq!(call(0, 0, 1), too_small(Operand::Lse, 160, 156));
}

fn merged<T: Element>(layouts: [Layout; 3]) {
    let (dtype, shape) = (T::DTYPE, Shape::new(2, 17, 3, 72));
    let case = Merge { shape, layouts, dtype, sums: Sums::Empty, place: Place::Apart };
    let (device, states) = (Device::emulated(), case.states(1));
    let upload_lse = |values: &[f32]| Lse::from_slice(&device, values, 2, 3, 17).unwrap();
    let o = [0, 1].map(|i| upload(&device, &states.o[i]).unwrap());
    let lse = [0, 1].map(|i| upload_lse(&states.lse[i]));
    let poisoned = HostTensor::poisoned(dtype, shape, layouts[2].output(shape));
    let (out, out_lse) = (upload(&device, &poisoned).unwrap(), upload_lse(&[f32::NAN; 2 * 3 * 17]));

    let slices = [&o[0], &o[1]].map(elements::<T>);
    let lse_slices = [&lse[0], &lse[1]].map(|lse| slice::<f32>(lse.view().ptr(), 2 * 3 * 17));
    let state = |i: usize| State {
        o: Input::with_strides(&slices[i], shape, states.o[i].strides),
        lse: &lse_slices[i],
    };
    let mut memory = elements(&out);
    let mut lse_memory = slice(out_lse.view().ptr(), 2 * 3 * 17);
    let output = Output::with_strides(&mut memory, shape, poisoned.strides).with_lse(&mut lse_memory);
    // SAFETY: emulated work is done when it is submitted.
    unsafe { launch_merge(&device.stream().unwrap(), [state(0), state(1)], &output) }.unwrap();
    let outputs = Outputs { out: download(&out).unwrap(), lse: out_lse.to_vec().unwrap() };
    outputs.judge_by(&states.answers()).unwrap();
}

#[test]
fn states_are_merged_as_they_lie() {
    merged::<f16>([Layout::Bshd; 3]);
    merged::<bf16>([Layout::Padded, Layout::Bhsd, Layout::Padded]);
}
