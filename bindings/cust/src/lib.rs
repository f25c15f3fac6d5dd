//! [flashcore]'s attention on buffers and streams of [`cust`], without a copy.
//!
//! ```no_run
//! use cust::memory::{CopyDestination, DeviceBuffer};
//! use cust::stream::{Stream, StreamFlags};
//! use flashcore_cust::{Input, Output, forward};
//! use flashcore::{Attention, Device, Order, Shape};
//! use half::f16;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let _context = cust::quick_init()?;
//! let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
//! let device = Device::cuda(0)?; // the same primary context
//!
//! let shape = Shape { batch: 1, seqlen: 4096, heads: 16, head_dim: 128 };
//! let ones = DeviceBuffer::from_slice(&vec![f16::ONE; 4096 * 16 * 128])?;
//! let mut out = DeviceBuffer::from_slice(&vec![f16::ZERO; 4096 * 16 * 128])?;
//!
//! let q = Input::new(&ones, shape, Order::Bshd);
//! forward(&device, &stream, &Attention::new().causal(true), [q, q, q], Output::new(&mut out, shape, Order::Bshd))?;
//! assert_eq!(out.as_host_vec()?[0], f16::ONE);
//! # Ok(())
//! # }
//! ```
//!
//! Elements are those of `half` 1.8, which cust knows by its feature `impl_half`.
//!
//! # Contexts
//!
//! `cust::quick_init` and `cust::context::Context` use the device's primary context, as flashcore does. Streams of
//! other contexts (those of `cust::context::legacy`) are refused with [`flashcore::Error::WrongStream`].
//!
//! # Waiting
//!
//! [`forward`] and [`merge`] wait for the stream, so that borrowing the buffers is all the care they need. [`submit`]
//! and [`submit_merge`] do not wait, may be recorded in a graph, and are unsafe like every asynchronous call of cust.

use cust::memory::{DeviceCopy, DeviceSlice};
use cust::stream::Stream;
use flashcore::merge_attention_states_into;
use flashcore::{Attention, Device, Dtype, LseView, Order, Result, Shape, Strides, TensorView};
use half::{bf16, f16};

/// Types of tensor elements.
pub trait Element: DeviceCopy {
    /// The same type as a value.
    const DTYPE: Dtype;
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}

/// A tensor in device memory that is read. It begins where the slice begins.
#[derive(Debug)]
pub struct Input<'a, T: Element> {
    memory: &'a DeviceSlice<T>,
    shape: Shape,
    strides: Strides,
}

impl<T: Element> Clone for Input<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Element> Copy for Input<'_, T> {}

impl<'a, T: Element> Input<'a, T> {
    /// A tensor without gaps. That the slice is long enough is checked by the call that uses it.
    pub fn new(memory: &'a DeviceSlice<T>, shape: Shape, order: Order) -> Self {
        Input::with_strides(memory, shape, order.strides(shape))
    }

    /// A tensor with these distances between neighbours, in elements. That the slice is long enough is checked by the
    /// call that uses it.
    pub fn with_strides(memory: &'a DeviceSlice<T>, shape: Shape, strides: Strides) -> Self {
        Input { memory, shape, strides }
    }

    fn view(&self) -> TensorView<'a> {
        // SAFETY: the borrow keeps the memory for the lifetime of the view; `submit` asks its caller for the rest.
        unsafe { view(self.memory, self.shape, self.strides) }
    }
}

/// A tensor in device memory that is written. It begins where the slice begins.
#[derive(Debug)]
pub struct Output<'a, T: Element> {
    memory: &'a mut DeviceSlice<T>,
    shape: Shape,
    strides: Strides,
    lse: Option<&'a mut DeviceSlice<f32>>,
}

impl<'a, T: Element> Output<'a, T> {
    /// A tensor without gaps. That the slice is long enough is checked by the call that uses it.
    pub fn new(memory: &'a mut DeviceSlice<T>, shape: Shape, order: Order) -> Self {
        Output::with_strides(memory, shape, order.strides(shape))
    }

    /// A tensor with these distances between neighbours, in elements. That the slice is long enough is checked by the
    /// call that uses it.
    pub fn with_strides(memory: &'a mut DeviceSlice<T>, shape: Shape, strides: Strides) -> Self {
        Output { memory, shape, strides, lse: None }
    }

    /// The same, and memory for the log-sum-exp of each row: f32, contiguous (batch, heads, seqlen).
    pub fn with_lse(self, lse: &'a mut DeviceSlice<f32>) -> Self {
        Output { lse: Some(lse), ..self }
    }

    fn view(&self) -> TensorView<'_> {
        // SAFETY: as for inputs.
        unsafe { view(self.memory, self.shape, self.strides) }
    }

    fn lse_view(&self) -> Option<LseView<'_>> {
        // SAFETY: as for inputs.
        self.lse.as_deref().map(|lse| unsafe { lse_view(lse) })
    }
}

/// An attention state that is read: an output, and the log-sum-exp of its rows.
#[derive(Clone, Copy, Debug)]
pub struct State<'a, T: Element> {
    /// The output.
    pub o: Input<'a, T>,
    /// f32, contiguous (batch, heads, seqlen).
    pub lse: &'a DeviceSlice<f32>,
}

/// # Safety
/// As for [`LseView::from_raw_parts`], but that the memory is allocated.
unsafe fn lse_view(lse: &DeviceSlice<f32>) -> LseView<'_> {
    // SAFETY: the slice is allocated; the caller vouches for the rest.
    unsafe { LseView::from_raw_parts(lse.as_device_ptr().as_raw(), lse.len() * size_of::<f32>()) }
}

/// # Safety
/// As for [`TensorView::from_raw_parts`], but that the memory is allocated.
unsafe fn view<T: Element>(memory: &DeviceSlice<T>, shape: Shape, strides: Strides) -> TensorView<'_> {
    let (ptr, bytes) = (memory.as_device_ptr().as_raw(), memory.len() * size_of::<T>());
    // SAFETY: the slice is allocated; the caller vouches for the rest.
    unsafe { TensorView::from_raw_parts(ptr, bytes, T::DTYPE, shape, strides) }
}

/// Computes attention of `[q, k, v]` and waits for the stream.
///
/// # Errors
/// As [`submit`], and the failure of earlier work of the stream.
pub fn forward<T: Element>(
    device: &Device,
    stream: &Stream,
    attention: &Attention,
    inputs: [Input<'_, T>; 3],
    output: Output<'_, T>,
) -> Result<()> {
    let stream = borrowed(device, stream)?;
    // SAFETY: the memory is borrowed until the work is done, outputs exclusively: no safe code uses it meanwhile.
    unsafe { launch(&stream, attention, inputs, &output) }?;
    stream.synchronize()
}

/// Computes attention of `[q, k, v]`. Returns before it is computed, allocates nothing, waits for nothing, and may be
/// recorded in a graph.
///
/// # Errors
/// [`flashcore::Error::WrongStream`] if the stream is not of the device's primary context; what is wrong with the
/// tensors (see [`enum@flashcore::Error`]): nothing is launched then.
///
/// # Safety
/// All memory must stay allocated until the work has completed; while it runs, nothing else may write the inputs or use
/// the outputs.
pub unsafe fn submit<T: Element>(
    device: &Device,
    stream: &Stream,
    attention: &Attention,
    inputs: [Input<'_, T>; 3],
    output: Output<'_, T>,
) -> Result<()> {
    // SAFETY: the caller vouches for the memory.
    unsafe { launch(&borrowed(device, stream)?, attention, inputs, &output) }
}

/// Merges two attention states into one, as [`flashcore::merge_attention_states`] says, and waits for the stream.
///
/// # Errors
/// As [`submit`], and the failure of earlier work of the stream.
pub fn merge<T: Element>(
    device: &Device,
    stream: &Stream,
    states: [State<'_, T>; 2],
    output: Output<'_, T>,
) -> Result<()> {
    let stream = borrowed(device, stream)?;
    // SAFETY: the memory is borrowed until the work is done, outputs exclusively: no safe code uses it meanwhile.
    unsafe { launch_merge(&stream, states, &output) }?;
    stream.synchronize()
}

/// Merges two attention states into one. Returns before it is computed, allocates nothing, waits for nothing, and may
/// be recorded in a graph.
///
/// # Errors
/// As [`submit`].
///
/// # Safety
/// As [`submit`].
pub unsafe fn submit_merge<T: Element>(
    device: &Device,
    stream: &Stream,
    states: [State<'_, T>; 2],
    output: Output<'_, T>,
) -> Result<()> {
    // SAFETY: the caller vouches for the memory.
    unsafe { launch_merge(&borrowed(device, stream)?, states, &output) }
}

/// # Safety
/// As for [`submit`].
unsafe fn launch_merge<T: Element>(
    stream: &flashcore::Stream,
    [one, other]: [State<'_, T>; 2],
    output: &Output<'_, T>,
) -> Result<()> {
    // SAFETY: as for inputs.
    let [lse1, lse2] = [one.lse, other.lse].map(|lse| unsafe { lse_view(lse) });
    let (o1, o2, out) = (one.o.view(), other.o.view(), output.view());
    merge_attention_states_into(stream, &o1, lse1, &o2, lse2, &out, output.lse_view())
}

fn borrowed(device: &Device, stream: &Stream) -> Result<flashcore::Stream> {
    // SAFETY: cust's stream outlives the calls that borrow it.
    unsafe { flashcore::Stream::from_raw(device, stream.as_inner() as u64) }
}

/// # Safety
/// As for [`submit`].
unsafe fn launch<T: Element>(
    stream: &flashcore::Stream,
    attention: &Attention,
    inputs: [Input<'_, T>; 3],
    output: &Output<'_, T>,
) -> Result<()> {
    let [q, k, v] = inputs.map(|input| input.view());
    attention.forward_into(stream, &q, &k, &v, &output.view(), output.lse_view())
}

#[cfg(test)]
mod tests;
