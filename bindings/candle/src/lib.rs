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
//! do (transposed, narrowed, broadcast tensors are used as they lie), but the elements of a head must be neighbours,
//! and the first one aligned to 16 bytes. Outputs are contiguous.
//!
//! # Devices
//!
//! *CUDA tensors* (feature `cuda`, GPUs of compute capability 9.0) are read where they lie; outputs come from candle's
//! allocator, and the kernel runs on candle's stream. Calls return before the work is done.
//!
//! *CPU tensors* are computed by the same kernels on flashcore's emulator, which also looks for races. That is meant
//! for tests: see [`flashcore::Device::emulated`] for how slow it is.
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
    let lse = q.apply_op3(k, v, TakeLse { slot, name: "flash-attn-lse" })?;
    Ok((out, lse))
}

fn attention(softmax_scale: f32, causal: bool) -> Attention<'static> {
    Attention::new().causal(causal).scale(softmax_scale)
}

/// Merges two attention states, the outputs and log-sum-exps of two calls with the same queries and disjoint sets of
/// keys: the result is the state of one call over all of these keys (see [`flashcore::merge_attention_states`]).
///
/// o1 and o2 are (batch, seqlen, heads, head_dim), head_dim a multiple of 8 up to 512; lse1 and lse2 are f32, (batch,
/// heads, seqlen), as [`flash_attn_with_lse`] gives them. Outputs are contiguous.
///
/// ```
/// # use candle_core::{DType, Device, Tensor};
/// # use flashcore_candle::{flash_attn_with_lse, merge_attention_states};
/// # fn main() -> candle_core::Result<()> {
/// # let q = Tensor::randn(0f32, 1.0, (1, 20, 4, 64), &Device::Cpu)?.to_dtype(DType::F16)?;
/// # let (k, v) = (q.clone(), q.clone());
/// let (o1, lse1) = flash_attn_with_lse(&q, &k.narrow(1, 0, 5)?, &v.narrow(1, 0, 5)?, 0.125, false)?;
/// let (o2, lse2) = flash_attn_with_lse(&q, &k.narrow(1, 5, 15)?, &v.narrow(1, 5, 15)?, 0.125, false)?;
/// let (out, lse) = merge_attention_states(&o1, &lse1, &o2, &lse2)?;
/// # assert_eq!((out.dims(), lse.dims()), (q.dims(), &[1, 4, 20][..]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`flash_attn`], and what candle says of log-sum-exps of different shapes.
pub fn merge_attention_states(
    o1: &Tensor,
    lse1: &Tensor,
    o2: &Tensor,
    lse2: &Tensor,
) -> Result<(Tensor, Tensor)> {
    // candle's operations have three inputs at most. The log-sum-exps are small beside the outputs.
    let lses = Tensor::stack(&[lse1, lse2], 0)?;
    let slot = Slot::default();
    let out = o1.apply_op3(o2, &lses, MergeStates(slot.clone()))?;
    let lse = o1.apply_op3(o2, &lses, TakeLse { slot, name: "merge-attention-states-lse" })?;
    Ok((out, lse))
}

/// Where the operation puts the log-sum-exp, since candle's operations have one output.
type Slot = Arc<Mutex<Option<Storage>>>;

struct FlashAttn {
    attention: Attention<'static>,
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

struct MergeStates(Slot);

impl MergeStates {
    fn keep(&self, lse: Storage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(lse);
    }
}

impl CustomOp3 for MergeStates {
    fn name(&self) -> &'static str {
        "merge-attention-states"
    }

    fn cpu_fwd(
        &self,
        o1: &CpuStorage,
        o1_layout: &Layout,
        o2: &CpuStorage,
        o2_layout: &Layout,
        lses: &CpuStorage,
        lses_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (out, lse) = cpu::merge([(o1, o1_layout), (o2, o2_layout)], (lses, lses_layout))?;
        self.keep(Storage::Cpu(lse));
        Ok((out, o1_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        o1: &CudaStorage,
        o1_layout: &Layout,
        o2: &CudaStorage,
        o2_layout: &Layout,
        lses: &CudaStorage,
        lses_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (out, lse) = cuda::merge([(o1, o1_layout), (o2, o2_layout)], (lses, lses_layout))?;
        self.keep(Storage::Cuda(lse));
        Ok((out, o1_layout.shape().clone()))
    }
}

/// Makes a tensor of the log-sum-exp that an operation left, one that depends on the same inputs: a backward pass
/// through it must fail rather than give no gradient.
struct TakeLse {
    slot: Slot,
    name: &'static str,
}

impl TakeLse {
    fn take(&self) -> Result<Storage> {
        let storage = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        storage.ok_or_else(|| candle_core::Error::msg("the log-sum-exp was taken before"))
    }
}

/// The shape of the log-sum-exp of rows of this layout.
fn lse_shape(q: &Layout) -> Result<Shape> {
    let (batch, seqlen, heads, _) = q.shape().dims4()?;
    Ok((batch, heads, seqlen).into())
}

impl CustomOp3 for TakeLse {
    fn name(&self) -> &'static str {
        self.name
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
