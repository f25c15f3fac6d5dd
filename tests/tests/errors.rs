//! Mistakes that only a device can notice: each is a typed error, and nothing is computed.

use std::process::ExitCode;

use flashcore::driver::Graph;
use flashcore::{Device, Dtype, Error, Operand, Order, Shape, Stream, Tensor, TensorView};
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
    suite.test("failed_recording", failed_recording);
    let mut cuda = Suite::on(vec![Resource::cuda()]);
    cuda.test("no_such_device", no_such_device);
    let mut pairs = Suite::on(vec![Resource::new("cuda_pair", pair())]);
    pairs.test("memory_of_another_device", memory_of_another_device);
    pairs.test("stream_of_another_device", stream_of_another_device);
    suite.and(cuda).and(pairs).run()
}
