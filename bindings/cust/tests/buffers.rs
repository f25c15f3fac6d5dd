//! Buffers and streams of cust, on a GPU.

use std::process::ExitCode;

use cust::context::{Context, CurrentContext, legacy};
use cust::memory::{CopyDestination, DeviceBuffer, DeviceCopy};
use cust::stream::{Stream, StreamFlags};
use flashcore::{Attention, Device, Error, Operand, Order, Shape};
use flashcore_cust::{Element, Input, Output, forward, submit};
use flashcore_tests::cases::{Case, Layout};
use flashcore_tests::compare::compare;
use flashcore_tests::suite::{Resource, Suite};
use flashcore_tests::values::{HostTensor, POISON};
use half::{bf16, f16};

type Failure = Box<dyn std::error::Error>;
type TestResult = Result<(), Failure>;

/// A GPU as both libraries see it.
#[derive(Clone)]
struct Gpu {
    context: Context,
    flashcore: Device,
}

impl Gpu {
    fn open() -> Result<Self, Failure> {
        // In this order, since cust's errors cannot always be printed.
        let flashcore = Device::cuda(0)?;
        Ok(Gpu { context: cust::quick_init()?, flashcore })
    }

    /// A stream of cust's, on the calling thread.
    fn stream(&self) -> Result<Stream, Failure> {
        CurrentContext::set_current(&self.context)?;
        Ok(Stream::new(StreamFlags::NON_BLOCKING, None)?)
    }
}

/// Elements that are made of bits.
trait Bits: Element {
    fn from_bits(bits: u16) -> Self;
    fn to_bits(self) -> u16;
}

impl Bits for f16 {
    fn from_bits(bits: u16) -> Self {
        f16::from_bits(bits)
    }
    fn to_bits(self) -> u16 {
        f16::to_bits(self)
    }
}

impl Bits for bf16 {
    fn from_bits(bits: u16) -> Self {
        bf16::from_bits(bits)
    }
    fn to_bits(self) -> u16 {
        bf16::to_bits(self)
    }
}

fn upload<T: Bits>(bits: &[u16]) -> Result<DeviceBuffer<T>, Failure> {
    Ok(DeviceBuffer::from_slice(&bits.iter().map(|&bits| T::from_bits(bits)).collect::<Vec<_>>())?)
}

fn download<T: DeviceCopy>(buffer: &DeviceBuffer<T>, filler: T) -> Result<Vec<T>, Failure> {
    let mut values = vec![filler; buffer.len()];
    buffer.copy_to(&mut values)?;
    Ok(values)
}

/// A case against the oracle, waiting in the call or, if `asynchronous`, after it.
fn right<T: Bits>(gpu: &Gpu, case: &Case, asynchronous: bool) -> TestResult {
    let (stream, inputs, shape) = (gpu.stream()?, case.inputs(T::DTYPE, 1), case.shape_q());
    let attention = Attention::new().causal(case.causal);
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|tensor| upload::<T>(&tensor.bits));
    let buffers = [q?, k?, v?];
    let poisoned = HostTensor::poisoned(T::DTYPE, shape, case.layout.output(shape));
    let mut out = upload::<T>(&poisoned.bits)?;
    let mut lse = DeviceBuffer::from_slice(&vec![f32::NAN; shape.batch * shape.heads * shape.seqlen])?;

    let input = |i: usize, of: &HostTensor| Input::with_strides(&buffers[i], of.shape, of.strides);
    let three = [input(0, &inputs.q), input(1, &inputs.k), input(2, &inputs.v)];
    let output = Output::with_strides(&mut out, shape, poisoned.strides).with_lse(&mut lse);
    if asynchronous {
        // SAFETY: nothing uses the buffers before the stream has been waited for.
        unsafe { submit(&gpu.flashcore, &stream, &attention, three, output)? };
        stream.synchronize()?;
    } else {
        forward(&gpu.flashcore, &stream, &attention, three, output)?;
    }

    let bits = download(&out, T::from_bits(POISON))?.into_iter().map(T::to_bits).collect();
    let out = HostTensor { bits, ..poisoned };
    assert!(out.gaps_untouched());
    let expected = inputs.attention.answers(&inputs.attention.rows(1 << 24, 0), T::DTYPE);
    compare(&expected, T::DTYPE, &out.values(), Some(&download(&lse, 0.0)?))?;
    Ok(())
}

/// A stream of a context that is not the primary one.
fn other_contexts_are_refused(gpu: &Gpu) -> TestResult {
    let device = cust::device::Device::get_device(0)?;
    let other = legacy::Context::create_and_push(legacy::ContextFlags::SCHED_AUTO, device)?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
    CurrentContext::set_current(&gpu.context)?;
    let shape = Shape::new(1, 64, 1, 64);
    let zeros = upload::<f16>(&[0; 64 * 64])?;
    let mut out = upload::<f16>(&[0; 64 * 64])?;
    let q = Input::new(&zeros, shape, Order::Bshd);
    let output = Output::new(&mut out, shape, Order::Bshd);
    let refused = forward(&gpu.flashcore, &stream, &Attention::new(), [q; 3], output);
    assert_eq!(refused, Err(Error::WrongStream { raw: stream.as_inner() as u64, ordinal: 0 }));
    drop((stream, other));
    Ok(())
}

fn short_buffers_are_refused(gpu: &Gpu) -> TestResult {
    let stream = gpu.stream()?;
    let shape = Shape::new(1, 64, 1, 64);
    let (whole, short) = (upload::<bf16>(&[0; 64 * 64])?, upload::<bf16>(&[0; 64 * 64 - 1])?);
    let mut out = upload::<bf16>(&[0; 64 * 64])?;
    let [q, v] = [&whole, &short].map(|buffer| Input::new(buffer, shape, Order::Bhsd));
    let output = Output::new(&mut out, shape, Order::Bhsd);
    let refused = forward(&gpu.flashcore, &stream, &Attention::new(), [q, q, v], output);
    assert_eq!(refused, Err(Error::TooSmall { operand: Operand::V, needed: 8192, given: 8190 }));
    Ok(())
}

fn main() -> ExitCode {
    let gpu = Gpu::open().map_err(|error| format!("skipped: no CUDA device ({error})"));
    let mut suite = Suite::on(vec![Resource::new("cuda", gpu)]);
    let base = Case { seqlen_q: 300, seqlen_kv: 500, heads_q: 4, heads_kv: 2, ..Case::default() };
    let cases = [
        base,
        Case { causal: true, head_dim: 64, layout: Layout::Bhsd, ..base },
        Case { causal: true, head_dim: 256, layout: Layout::Padded, ..base },
        Case { head_dim: 80, layout: Layout::Packed, seqlen_q: 500, heads_q: 2, ..base },
    ];
    for case in cases {
        suite.test(format!("forward_{case}_f16"), move |gpu: &Gpu| right::<f16>(gpu, &case, false));
        suite.test(format!("submit_{case}_bf16"), move |gpu: &Gpu| right::<bf16>(gpu, &case, true));
    }
    suite.test("other_contexts_are_refused", other_contexts_are_refused);
    suite.test("short_buffers_are_refused", short_buffers_are_refused);
    suite.run()
}
