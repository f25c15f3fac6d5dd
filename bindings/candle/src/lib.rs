//! [flashcore]'s attention for candle, under the names of `candle-flash-attn-v3`.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use flashcore_candle::flash_attn;
//!
//! # fn main() -> candle_core::Result<()> {
//! let device = Device::Cpu; // or Device::new_cuda(0)?
//! let q = Tensor::randn(0f32, 1.0, (1, 100, 4, 64), &device)?.to_dtype(DType::F16)?;
//! let kv = Tensor::randn(0f32, 1.0, (1, 100, 2, 64), &device)?.to_dtype(DType::F16)?;
//! let out = flash_attn(&q, &kv, &kv, 1.0 / 64f32.sqrt(), true, false)?;
//! assert_eq!(out.dims(), [1, 100, 4, 64]);
//! # Ok(())
//! # }
//! ```
//!
//! # Tensors
//!
//! q is (batch, seqlen_q, heads_q, head_dim), k and v are (batch, seqlen_kv, heads_kv, head_dim); all f16 or all bf16.
//! heads_q is a multiple of heads_kv, head_dim a multiple of 8 up to 256. Any strides that are multiples of 8 elements
//! do (transposed, narrowed, broadcast tensors are used as they lie), but the elements of a head must be neighbours, and
//! the first one aligned to 16 bytes. Outputs are contiguous.
//!
//! # Devices
//!
//! *CUDA tensors* (feature `cuda`, GPUs of compute capability 9.0) are read where they lie; outputs come from candle's
//! allocator, and the kernel runs on candle's stream. Calls return before the work is done.
//!
//! *CPU tensors* are computed by the same kernels on flashcore's emulator, which also looks for races. That is meant for
//! tests: see [`flashcore::Device::emulated`] for how slow it is.
//!
//! # Errors
//!
//! Every function gives a [`candle_core::Error`] with an [`enum@Error`] inside, which [`Error::of`] finds. There is no
//! backward pass yet: [`Tensor::backward`] through a result is candle's error `BackwardNotSupported`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod operand;

use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor};
use flashcore::Attention;

pub use error::Error;

/// Attention: `softmax(softmax_scale * q kᵀ) v`, in the shape of q.
///
/// `causal` lets query i see the keys up to `i + seqlen_kv - seqlen_q` (aligned bottom-right); a query that sees no key
/// gives zeros. `use_gqa_packing` is there for the sake of the signature and changes nothing: flashcore chooses its
/// kernel itself.
///
/// # Errors
/// What is wrong with the arguments, or what the driver refuses: see [`enum@Error`].
pub fn flash_attn(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    causal: bool,
    use_gqa_packing: bool,
) -> Result<Tensor> {
    let _ = use_gqa_packing;
    q.apply_op3(k, v, FlashAttn { attention: attention(softmax_scale, causal), lse: None })
}

/// As [`flash_attn`], and the log-sum-exp of each row of scores: natural logarithm, f32, (batch, heads_q, seqlen_q),
/// -inf for a query that sees no key.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_with_lse(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    causal: bool,
) -> Result<(Tensor, Tensor)> {
    let slot = Slot::default();
    let attention = attention(softmax_scale, causal);
    let out = q.apply_op3(k, v, FlashAttn { attention, lse: Some(slot.clone()) })?;
    let lse = q.apply_op3(k, v, TakeLse(slot))?;
    Ok((out, lse))
}

fn attention(softmax_scale: f32, causal: bool) -> Attention {
    Attention::new().causal(causal).scale(softmax_scale)
}

/// Where the operation puts the log-sum-exp, since candle's operations have one output.
type Slot = Arc<Mutex<Option<Storage>>>;

struct FlashAttn {
    attention: Attention,
    lse: Option<Slot>,
}

impl FlashAttn {
    fn keep(&self, lse: Option<Storage>) {
        if let Some(slot) = &self.lse {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = lse;
        }
    }
}

impl CustomOp3 for FlashAttn {
    fn name(&self) -> &'static str {
        "flash-attn"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [(q, q_layout), (k, k_layout), (v, v_layout)];
        let (out, lse) = cpu::forward(&self.attention, inputs, self.lse.is_some())?;
        self.keep(lse.map(Storage::Cpu));
        Ok((out, q_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        q_layout: &Layout,
        k: &CudaStorage,
        k_layout: &Layout,
        v: &CudaStorage,
        v_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(q, q_layout), (k, k_layout), (v, v_layout)];
        let (out, lse) = cuda::forward(&self.attention, inputs, self.lse.is_some())?;
        self.keep(lse.map(Storage::Cuda));
        Ok((out, q_layout.shape().clone()))
    }
}

/// Makes a tensor of what [`FlashAttn`] left, one that depends on q, k and v: a backward pass through it must fail
/// rather than give no gradient.
struct TakeLse(Slot);

impl TakeLse {
    fn take(&self) -> Result<Storage> {
        let storage = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        storage.ok_or_else(|| candle_core::Error::msg("the log-sum-exp was taken before"))
    }
}

/// The shape of the log-sum-exp of queries of this layout.
fn lse_shape(q: &Layout) -> Result<Shape> {
    let (batch, seqlen, heads, _) = q.shape().dims4()?;
    Ok((batch, heads, seqlen).into())
}

impl CustomOp3 for TakeLse {
    fn name(&self) -> &'static str {
        "flash-attn-lse"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        q: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            Storage::Cpu(lse) => Ok((lse, lse_shape(q)?)),
            _ => Err(candle_core::Error::msg("the log-sum-exp is not on the CPU")),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        q: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            Storage::Cuda(lse) => Ok((lse, lse_shape(q)?)),
            _ => Err(candle_core::Error::msg("the log-sum-exp is not on a CUDA device")),
        }
    }
}
