//! Mistakes that only a device can notice: each is a typed error, and nothing is computed.

use std::process::ExitCode;

use flashcore::driver::Graph;
use flashcore::{
    Array, ArrayView, Attention, Device, Dim, Dtype, Error, Operand, Order, Sequences, Shape, Stream, Tensor,
    TensorView,
};
use flashcore_tests::cases::Case;
use flashcore_tests::device::OnDevice;
use flashcore_tests::suite::{Resource, Suite, backends};

fn tensors(gpu: &Device) -> flashcore::Result<OnDevice> {
    let case = Case::default();
    OnDevice::new(gpu, &case, &case.inputs(Dtype::F16, 1))
}

/// Expects `$result` to be an error of this form.
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result {
            Err($pattern) $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}

/// Calls with `wrong` in place of Q; nothing may have been written then.
fn with_wrong_q(gpu: &Device, tensors: &OnDevice, wrong: TensorView) -> flashcore::Result<()> {
    let stream = gpu.stream()?;
    let result =
        tensors.attention().forward_into(&stream, &wrong, &tensors.k, &tensors.v, &tensors.out, None);
    gpu.synchronize()?;
    assert!(tensors.outputs()?.out.values().data.iter().all(|o| o.is_nan()), "something was computed");
    result
}

fn host_pointer(gpu: &Device) -> flashcore::Result<()> {
    let tensors = tensors(gpu)?;
    let host = vec![0u128; tensors.q.bytes() / 16];
    let (ptr, shape) = (host.as_ptr() as u64, tensors.q.shape());
    // SAFETY: the memory is live and large enough; that it is the host's is what is tested.
    let q =
        unsafe { TensorView::from_raw_parts(ptr, tensors.q.bytes(), Dtype::F16, shape, tensors.q.strides()) };
    assert_error!(with_wrong_q(gpu, &tensors, q), Error::NotDevicePointer { operand: Operand::Q, ptr: p } if p == ptr);
    Ok(())
}

fn freed_memory(gpu: &Device) -> flashcore::Result<()> {
    let tensors = tensors(gpu)?;
    // Large, so that a driver takes it back instead of keeping it for the next allocation.
    let batch = if gpu.emulator().is_some() { 1 } else { 1024 };
    let shape = Shape::new(batch, 256, 16, 128);
    let gone = Tensor::zeros(gpu, Dtype::F16, shape, Order::Bshd)?;
    let ptr = gone.ptr();
    drop(gone);
    // SAFETY: the memory is gone, which is what is tested: the call must refuse it.
    let q = unsafe {
        TensorView::from_raw_parts(ptr, tensors.q.bytes(), Dtype::F16, tensors.q.shape(), tensors.q.strides())
    };
    assert_error!(with_wrong_q(gpu, &tensors, q), Error::NotDevicePointer { operand: Operand::Q, .. });
    Ok(())
}

fn out_of_memory(gpu: &Device) -> flashcore::Result<()> {
    let total = gpu.properties().total_memory_bytes as usize;
    let shape = Shape::new(total / (4096 * 16 * 128), 4096, 16, 128);
    assert_error!(Tensor::zeros(gpu, Dtype::F16, shape, Order::Bshd), Error::OutOfMemory { bytes } if bytes > total);
    // And the device is as good as before.
    tensors(gpu)?.run(&gpu.stream()?)?;
    gpu.synchronize()
}

/// Calls with features that are wrong, or numbers that are.
fn wrong_features(gpu: &Device) -> flashcore::Result<()> {
    let tensors = tensors(gpu)?;
    let call = |attention: Attention<'_>| {
        let stream = gpu.stream()?;
        let result = attention.forward_into(&stream, &tensors.q, &tensors.k, &tensors.v, &tensors.out, None);
        gpu.synchronize()?;
        assert!(tensors.outputs()?.out.values().data.iter().all(|o| o.is_nan()), "something was computed");
        result
    };
    let plain = Attention::new();
    assert_error!(call(plain.chunk(0)), Error::EmptyChunk);
    assert_error!(call(plain.softcap(-1.0)), Error::Softcap { softcap: -1.0 });
    let Shape { batch, heads, .. } = tensors.q.shape();
    let numbers = Array::from_slice(gpu, &vec![0; batch + 2])?;
    let (view, none) = (numbers.view(), Array::<i32>::from_slice(gpu, &[])?);
    assert_error!(call(plain.window(Some(5), None).prefix(view)), Error::PrefixUnderWindow);
    assert_error!(call(plain.chunk(5).prefix(view)), Error::PrefixUnderWindow);
    let length = |result, operand, expected| {
        assert_error!(
            result,
            Error::ArrayLength { operand: o, expected: e, found } if o == operand && e == expected && found == batch + 2
        );
    };
    length(call(plain.prefix(view)), Operand::Prefix, batch);
    length(call(plain.sequences(Sequences::new().used_q(view))), Operand::UsedQ, batch);
    length(call(plain.sequences(Sequences::new().used_kv(view))), Operand::UsedKv, batch);
    length(call(plain.sequences(Sequences::new().starts_kv(view))), Operand::StartsKv, batch + 1);
    let logits = Array::from_slice(gpu, &vec![0f32; heads + 1])?;
    assert_error!(
        call(plain.sinks(logits.view())),
        Error::ArrayLength { operand: Operand::Sinks, expected, found } if (expected, found) == (heads, heads + 1)
    );
    let starts = Sequences::new().starts_q(none.view());
    assert_error!(call(plain.sequences(starts)), Error::NoStarts { operand: Operand::StartsQ });
    let starts = Sequences::new().starts_q(view);
    assert_error!(
        call(plain.sequences(starts)),
        Error::ShapeMismatch { operand: Operand::Q, dim: Dim::Batch, expected: 1, .. }
    );
    // SAFETY: the memory is live; that it is the output is what is tested.
    let within_out = unsafe { ArrayView::from_raw_parts(tensors.out.ptr() + 8, batch) };
    assert_error!(
        call(plain.prefix(within_out)),
        Error::Aliasing { output: Operand::Out, other: Operand::Prefix }
    );
    let host = vec![0i32; batch];
    // SAFETY: the memory is live and large enough; that it is the host's is what is tested.
    let on_host = unsafe { ArrayView::from_raw_parts(host.as_ptr() as u64, batch) };
    assert_error!(call(plain.prefix(on_host)), Error::NotDevicePointer { operand: Operand::Prefix, .. });
    // SAFETY: nothing is read there.
    let nowhere = unsafe { ArrayView::from_raw_parts(0, batch) };
    assert_error!(call(plain.prefix(nowhere)), Error::NullPointer { operand: Operand::Prefix });
    // SAFETY: nothing is read there, since the address is refused.
    let odd = unsafe { ArrayView::from_raw_parts(numbers.view().ptr() + 2, batch) };
    assert_error!(call(plain.prefix(odd)), Error::Misaligned { operand: Operand::Prefix, required: 4, .. });
    Ok(())
}

fn no_such_device(gpu: &Device) -> flashcore::Result<()> {
    assert_error!(Device::cuda(4711), Error::NoDevice { ordinal: 4711, count } if count > gpu.properties().ordinal);
    Ok(())
}

fn failed_recording(gpu: &Device) -> flashcore::Result<()> {
    let tensors = tensors(gpu)?;
    let stream = gpu.stream()?;
    let wrong = tensors.attention().scale(f32::NAN);
    let recorded = Graph::capture(&stream, |stream| {
        wrong.forward_into(stream, &tensors.q, &tensors.k, &tensors.v, &tensors.out, None)
    });
    assert_error!(recorded, Error::Scale { .. });
    // The stream records no longer.
    tensors.run(&stream)?;
    stream.synchronize()?;
    assert!(tensors.outputs()?.lse.iter().all(|lse| lse.is_finite()));
    Ok(())
}

fn memory_of_another_device([gpu, other]: &[Device; 2]) -> flashcore::Result<()> {
    let (mine, theirs) = (tensors(gpu)?, tensors(other)?);
    let expected = gpu.properties().ordinal;
    assert_error!(
        with_wrong_q(gpu, &mine, theirs.q.view()),
        Error::WrongDevice { operand: Operand::Q, expected: e, .. } if e == expected
    );
    Ok(())
}

fn stream_of_another_device([gpu, other]: &[Device; 2]) -> flashcore::Result<()> {
    let theirs = other.stream()?;
    // SAFETY: the stream is live; that it is another device's is what is tested.
    assert_error!(unsafe { Stream::from_raw(gpu, theirs.raw()) }, Error::WrongStream { .. });
    Ok(())
}

/// Two CUDA devices.
fn pair() -> Result<[Device; 2], String> {
    let open =
        |ordinal| Device::cuda(ordinal).map_err(|error| format!("skipped: no two CUDA devices ({error})"));
    Ok([open(0)?, open(1)?])
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    suite.test("host_pointer", host_pointer);
    suite.test("freed_memory", freed_memory);
    suite.test("out_of_memory", out_of_memory);
    suite.test("wrong_features", wrong_features);
    suite.test("failed_recording", failed_recording);
    let mut cuda = Suite::on(vec![Resource::cuda()]);
    cuda.test("no_such_device", no_such_device);
    let mut pairs = Suite::on(vec![Resource::new("cuda_pair", pair())]);
    pairs.test("memory_of_another_device", memory_of_another_device);
    pairs.test("stream_of_another_device", stream_of_another_device);
    suite.and(cuda).and(pairs).run()
}
