//! Fused attention for NVIDIA Hopper (H100, H200), with kernels written in Rust.
//!
//! ```no_run
//! use flashcore::{Attention, Device, Order, Shape, Tensor};
//! use half::bf16;
//!
//! # fn main() -> flashcore::Result<()> {
//! let device = Device::cuda(0)?;
//! let stream = device.stream()?;
//! let shape = Shape { batch: 1, seqlen: 4096, heads: 16, head_dim: 128 };
//! let ones = vec![bf16::ONE; 4096 * 16 * 128];
//! let q = Tensor::from_slice(&device, &ones, shape, Order::Bshd)?;
//! let k = Tensor::from_slice(&device, &ones, shape, Order::Bshd)?;
//! let v = Tensor::from_slice(&device, &ones, shape, Order::Bshd)?;
//!
//! let out = Attention::new().causal(true).forward(&stream, &q, &k, &v)?;
//! assert_eq!(out.to_vec::<bf16>()?[0], bf16::ONE);
//! # Ok(())
//! # }
//! ```
//!
//! A call goes one way: [`Attention`] → [`Problem`] (checked) → [`Plan`] (pure, printable) → tensor maps → one launch.
//! Calls return before the work is done. [`Attention::forward_into`] allocates nothing and waits for nothing, so that
//! it can be recorded in a CUDA graph ([`driver::Graph`]). Kernels are loaded by the first call that needs them, or all
//! at once by [`Device::preload`].
//!
//! [`merge_attention_states`] makes one result of those of two calls over disjoint sets of keys.
//!
//! # Without a GPU
//!
//! [`Device::emulated`] runs the same kernels, from the same PTX, on the CPU, and looks for races meanwhile. It is
//! slow, and meant for tests and for first steps. [`Device::cuda_or_emulated`] takes what there is.
//!
//! ```
//! use flashcore::{Attention, Device, Order, Shape, Tensor};
//! use half::f16;
//!
//! # fn main() -> flashcore::Result<()> {
//! let device = Device::emulated();
//! let ones = vec![f16::ONE; 100 * 64];
//! let ones = Tensor::from_slice(&device, &ones, Shape::new(1, 100, 1, 64), Order::Bshd)?;
//! let out = Attention::new().forward(&device.stream()?, &ones, &ones, &ones)?;
//! assert_eq!(out.to_vec::<f16>()?[0], f16::ONE);
//! # Ok(())
//! # }
//! ```
//!
//! # With memory and streams of other libraries
//!
//! flashcore works in a device's primary context, as cudarc, cust, candle and PyTorch do. Their memory and streams are
//! used as they are, without a copy, through their raw handles: a `CUdeviceptr` and a `CUstream`, both as `u64`.
//!
//! | library | address | stream |
//! |---|---|---|
//! | cudarc, candle | `slice.device_ptr(&stream).0` | `stream.cu_stream() as u64` |
//! | cust | `buffer.as_device_ptr().as_raw()` | `stream.as_inner() as u64` |
//! | PyTorch | `tensor.data_ptr()` | `torch.cuda.current_stream().cuda_stream` |
//!
//! ```no_run
//! use flashcore::{Attention, Device, Dtype, Order, Result, Shape, Stream, TensorView};
//!
//! /// Attention over q, k, v and out: contiguous (batch, seqlen, heads, head_dim) in f16, at these addresses.
//! ///
//! /// # Safety
//! /// The addresses must be allocations of `shape`, and the stream be live, until the work has completed.
//! unsafe fn attend(device: &Device, stream: u64, [q, k, v, out]: [u64; 4], shape: Shape) -> Result<()> {
//!     let bytes = 2 * shape.batch * shape.seqlen * shape.heads * shape.head_dim;
//!     let strides = Order::Bshd.strides(shape);
//!     let view = |ptr| unsafe { TensorView::from_raw_parts(ptr, bytes, Dtype::F16, shape, strides) };
//!     let stream = unsafe { Stream::from_raw(device, stream)? };
//!     Attention::new().forward_into(&stream, &view(q), &view(k), &view(v), &view(out), None)
//! }
//! ```
//!
//! The views and the stream are plain values: make them once, or anew for each call.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("device addresses are 64 bits wide: flashcore needs a 64-bit host");

mod array;
mod attention;
mod bias;
mod check;
mod choose;
mod device;
pub mod driver;
mod dropout;
mod error;
mod features;
mod fp8;
pub mod kernels;
mod launch;
mod lse;
mod memory;
mod merge;
#[cfg(test)]
mod mock;
mod plan;
mod problem;
mod quantize;
mod ragged;
mod score_mod;
mod sparse;
mod tensor;
pub mod tensor_map;

pub use array::{Array, ArrayView};
pub use attention::{Attention, Sequences};
pub use bias::{BiasLayout, BiasView};
pub use device::{Device, Stream};
pub use dropout::{Dropout, dropout_mask, dropout_mask_into};
pub use error::{Dim, Error, Operand, Result};
pub use features::{Align, Features, MAX_SOFTCAP, Slopes};
pub use flashcore_kernels::config::{Dtype, Fp8};
pub use fp8::{Fp8Element, Fp8Tensor, Fp8Values, Fp8ValuesView, Fp8View};
pub use lse::{Lse, LseView};
pub use merge::{
    MAX_MERGE_HEAD_DIM, MergePlan, MergePointers, merge_attention_states, merge_attention_states_into,
};
pub use plan::{Plan, Pointers};
pub use problem::{
    FP8_STEP, HEAD_DIM_STEP, MAX_DIM, MAX_FP8_HEAD_DIM, MAX_GENERAL_DIM, MAX_HEAD_DIM, MAX_STRIDE, Problem,
};
pub use quantize::{Fp8Qkv, Fp8Rounding, attention_fp8};
pub use score_mod::{Function, ScoreKernels};
pub use sparse::{BlockMask, KeyRanges, MASK_BLOCK, SparseSizes, block_lists};
pub use tensor::{AsTensorView, Element, Order, Shape, Strides, Tensor, TensorLayout, TensorView};
