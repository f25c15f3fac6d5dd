//! Memory and streams that other libraries own, used without a copy.

use std::process::ExitCode;

use cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut};
use flashcore::{Attention, Device, Dtype, LseView, Shape, Stream, Strides, TensorView};
use flashcore_tests::cases::Case;
use flashcore_tests::compare::compare;
use flashcore_tests::device::{self, Failure, OnDevice, upload};
use flashcore_tests::suite::{Resource, Suite, backends};
use flashcore_tests::values::{HostTensor, POISON, Values};

const BYTES: usize = 2;

fn case() -> Case {
    Case { seqlen_q: 150, seqlen_kv: 150, head_dim: 64, causal: true, ..Case::default() }
}

/// Q, K and V as slices of one (batch, seqlen, 3, heads, head_dim) tensor, as a fused projection leaves them.
fn slices_of_one_tensor(gpu: &Device) -> Result<(), Failure> {
    let (case, dtype) = (case(), Dtype::Bf16);
    let inputs = case.inputs(dtype, 1);
    let shape = case.shape_q();
    let Shape { batch, seqlen, heads, head_dim } = shape;
    let width = heads * head_dim;
    let attention = &inputs.attention;
    let packed = Values::from_fn(Shape { heads: 3 * heads, ..shape }, |b, s, h, d| {
        [&attention.q, &attention.k, &attention.v][h / heads].row(b, s, h % heads)[d]
    });
    let contiguous = |columns| Strides { batch: seqlen * columns, seqlen: columns, heads: head_dim };
    let tensor = upload(gpu, &HostTensor::lay_out(&packed, dtype, contiguous(3 * width)))?;
    let slice = |which: usize| {
        let offset = which * width * BYTES;
        let ptr = tensor.ptr() + offset as u64;
        // SAFETY: the allocation is live until after the stream was waited for, and reaches to its own end.
        unsafe {
            TensorView::from_raw_parts(ptr, tensor.bytes() - offset, dtype, shape, contiguous(3 * width))
        }
    };
    let out = upload(gpu, &HostTensor::poisoned(dtype, shape, contiguous(width)))?;
    let lse = flashcore::Lse::new(gpu, batch, heads, seqlen)?;
    let stream = gpu.stream()?;
    Attention::new().causal(true).forward_into(
        &stream,
        &slice(0),
        &slice(1),
        &slice(2),
        &out,
        Some(lse.view()),
    )?;
    stream.synchronize()?;
    let rows = attention.answers(&attention.rows(usize::MAX, 0), dtype);
    compare(&rows, dtype, &device::download(&out)?.values(), Some(&lse.to_vec()?))?;
    Ok(())
}

/// The default stream, and a stream that somebody else made.
fn borrowed_streams(gpu: &Device) -> Result<(), Failure> {
    let case = case();
    let inputs = case.inputs(Dtype::F16, 2);
    let tensors = OnDevice::new(gpu, &case, &inputs)?;
    let theirs = gpu.stream()?;
    for raw in [0, theirs.raw()] {
        tensors.poison()?;
        {
            // SAFETY: the stream outlives this block.
            let stream = unsafe { Stream::from_raw(gpu, raw)? };
            assert_eq!(stream.raw(), raw);
            tensors.run(&stream)?;
        }
        // Dropping the borrowed stream must not have destroyed it.
        theirs.synchronize()?;
        tensors.outputs()?.judge(&inputs, &inputs.attention.rows(usize::MAX, 0))?;
    }
    Ok(())
}

/// A program that lives in cudarc: its buffers, its stream, our kernel.
fn buffers_of_cudarc(gpu: &Device) -> Result<(), Box<dyn std::error::Error>> {
    let (case, dtype) = (case(), Dtype::F16);
    let inputs = case.inputs(dtype, 3);
    let shape = case.shape_q();
    let context = CudaContext::new(0)?;
    let theirs = context.new_stream()?;
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|t| theirs.clone_htod(&t.bits));
    let (q, k, v) = (q?, k?, v?);
    let mut out = theirs.clone_htod(&vec![POISON; inputs.q.bits.len()])?;
    let mut lse = theirs.alloc_zeros::<f32>(shape.batch * shape.heads * shape.seqlen)?;
    {
        let ((q_ptr, _q), (k_ptr, _k), (v_ptr, _v)) =
            (q.device_ptr(&theirs), k.device_ptr(&theirs), v.device_ptr(&theirs));
        let (lse_bytes, out_bytes) = (lse.num_bytes(), out.num_bytes());
        let ((out_ptr, _out), (lse_ptr, _lse)) = (out.device_ptr_mut(&theirs), lse.device_ptr_mut(&theirs));
        let strides = inputs.q.strides;
        let view = |ptr| {
            // SAFETY: all four buffers have these many bytes, and live until after their stream was waited for.
            unsafe { TensorView::from_raw_parts(ptr, out_bytes, dtype, shape, strides) }
        };
        // SAFETY: as above.
        let lse = unsafe { LseView::from_raw_parts(lse_ptr, lse_bytes) };
        // SAFETY: their stream outlives this block.
        let stream = unsafe { Stream::from_raw(gpu, theirs.cu_stream() as u64)? };
        Attention::new().causal(true).forward_into(
            &stream,
            &view(q_ptr),
            &view(k_ptr),
            &view(v_ptr),
            &view(out_ptr),
            Some(lse),
        )?;
    }
    let out = HostTensor { bits: theirs.clone_dtoh(&out)?, ..inputs.q.clone() };
    let attention = &inputs.attention;
    let rows = attention.answers(&attention.rows(usize::MAX, 0), dtype);
    compare(&rows, dtype, &out.values(), Some(&theirs.clone_dtoh(&lse)?))?;
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    suite.test("slices_of_one_tensor", slices_of_one_tensor);
    suite.test("borrowed_streams", borrowed_streams);
    let mut cuda = Suite::on(vec![Resource::cuda()]);
    cuda.test("buffers_of_cudarc", buffers_of_cudarc);
    suite.and(cuda).run()
}
