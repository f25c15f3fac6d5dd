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
//! [`Attention`] is the call with everything: masks, softcap, sinks, ALiBi, biases, dropout, packed sequences, the
//! log-sum-exp, 8 bits. The functions are short for it.
//!
//! # Tensors
//!
//! q is (batch, seqlen_q, heads_q, head_dim), k and v are (batch, seqlen_kv, heads_kv, head_dim); all f16 or all bf16.
//! Packed sequences have their rows in one dimension instead: (total_q, heads_q, head_dim), (total_kv, heads_kv,
//! head_dim). heads_q is a multiple of heads_kv, head_dim a multiple of 8 up to 512, or up to 256 with a softcap, slopes or a
//! bias; that of v, and of the output, may be another. Any strides that are multiples of 8 elements do (transposed, narrowed, broadcast tensors are used as
//! they lie), but the elements of a head must be neighbours, and the first one aligned to 16 bytes. Outputs are
//! contiguous.
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

mod attention;
mod computed;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod fp8;
mod merge;
mod numbers;
mod operand;

use candle_core::{Result, Tensor};

pub use attention::Attention;
pub use error::Error;
pub use flashcore::{Align, Dropout, Fp8, block_lists};
pub use fp8::Fp8Options;
pub use merge::merge_attention_states;

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
    Attention::new().scale(softmax_scale).causal(causal).forward(q, k, v)
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
    Attention::new().scale(softmax_scale).causal(causal).forward_with_lse(q, k, v)
}

/// As [`flash_attn`], query i seeing `window_size_left` keys before key `i + seqlen_kv - seqlen_q`, that one, and
/// `window_size_right` keys after it; `None` is all.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    use_gqa_packing: bool,
) -> Result<Tensor> {
    let _ = use_gqa_packing;
    let attention = Attention::new().scale(softmax_scale).window(window_size_left, window_size_right);
    attention.forward(q, k, v)
}

/// As [`flash_attn`] for packed sequences: q is (total_q, heads_q, head_dim), k and v are (total_kv, heads_kv,
/// head_dim).
///
/// Sequence b is rows `seqlens_q[b]..seqlens_q[b + 1]` of q and rows `seqlens_k[b]..seqlens_k[b + 1]` of k and v: 0 and
/// the sums of lengths, `sequences + 1` numbers of i32 or u32 on the device of q ([`Attention`] tells what becomes of
/// wrong ones). Rows of the output that are of no sequence are zeros. `max_seqlen_q` and `max_seqlen_k` are there for
/// the sake of the signature and change nothing.
///
/// # Errors
/// As [`flash_attn`].
#[expect(clippy::too_many_arguments, reason = "the signature of candle-flash-attn-v3")]
pub fn flash_attn_varlen(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    causal: bool,
    use_gqa_packing: bool,
) -> Result<Tensor> {
    let _ = (max_seqlen_q, max_seqlen_k, use_gqa_packing);
    let attention = Attention::new().scale(softmax_scale).causal(causal);
    attention.starts_q(seqlens_q).starts_kv(seqlens_k).forward(q, k, v)
}

/// As [`flash_attn_varlen`], with the window of [`flash_attn_windowed`] in each sequence.
///
/// # Errors
/// As [`flash_attn`].
#[expect(clippy::too_many_arguments, reason = "the signature of candle-flash-attn-v3")]
pub fn flash_attn_varlen_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    use_gqa_packing: bool,
) -> Result<Tensor> {
    let _ = (max_seqlen_q, max_seqlen_k, use_gqa_packing);
    let attention = Attention::new().scale(softmax_scale).window(window_size_left, window_size_right);
    attention.starts_q(seqlens_q).starts_kv(seqlens_k).forward(q, k, v)
}

/// As [`flash_attn`], with ALiBi: `-alibi_slopes[h] * |i + seqlen_kv - seqlen_q - j|` is added to the score of query i
/// and key j in query head h. Slopes are f32, (heads_q,).
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_alibi(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    softmax_scale: f32,
    causal: bool,
    use_gqa_packing: bool,
) -> Result<Tensor> {
    let _ = use_gqa_packing;
    Attention::new().scale(softmax_scale).causal(causal).alibi(alibi_slopes).forward(q, k, v)
}

/// As [`flash_attn_windowed`], with the slopes of [`flash_attn_alibi`].
///
/// # Errors
/// As [`flash_attn`].
#[expect(clippy::too_many_arguments, reason = "the signature of candle-flash-attn-v3")]
pub fn flash_attn_alibi_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    use_gqa_packing: bool,
) -> Result<Tensor> {
    let _ = use_gqa_packing;
    let attention = Attention::new().scale(softmax_scale).window(window_size_left, window_size_right);
    attention.alibi(alibi_slopes).forward(q, k, v)
}

/// As [`flash_attn_varlen`], with the slopes of [`flash_attn_alibi`].
///
/// # Errors
/// As [`flash_attn`].
#[expect(clippy::too_many_arguments, reason = "the signature of candle-flash-attn-v3")]
pub fn flash_attn_varlen_alibi(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    causal: bool,
    use_gqa_packing: bool,
) -> Result<Tensor> {
    let _ = (max_seqlen_q, max_seqlen_k, use_gqa_packing);
    let attention = Attention::new().scale(softmax_scale).causal(causal).alibi(alibi_slopes);
    attention.starts_q(seqlens_q).starts_kv(seqlens_k).forward(q, k, v)
}

/// As [`flash_attn_varlen_windowed`], with the slopes of [`flash_attn_alibi`].
///
/// # Errors
/// As [`flash_attn`].
#[expect(clippy::too_many_arguments, reason = "the signature of candle-flash-attn-v3")]
pub fn flash_attn_varlen_alibi_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    use_gqa_packing: bool,
) -> Result<Tensor> {
    let _ = (max_seqlen_q, max_seqlen_k, use_gqa_packing);
    let attention = Attention::new().scale(softmax_scale).window(window_size_left, window_size_right);
    let attention = attention.alibi(alibi_slopes).starts_q(seqlens_q).starts_kv(seqlens_k);
    attention.forward(q, k, v)
}

/// As [`flash_attn_alibi_windowed`], with scaled scores x capped to `softcap * tanh(x / softcap)` before slopes are
/// added. Without slopes nothing is added; a softcap of 0 is none.
///
/// # Errors
/// As [`flash_attn`].
#[expect(clippy::too_many_arguments, reason = "the signature of candle-flash-attn")]
pub fn flash_attn_alibi_windowed_softcap(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: Option<&Tensor>,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    softcap: f32,
) -> Result<Tensor> {
    let attention = Attention::new().scale(softmax_scale).window(window_size_left, window_size_right);
    with_slopes_and_cap(attention, alibi_slopes, softcap).forward(q, k, v)
}

/// As [`flash_attn_varlen_alibi_windowed`], with scaled scores x capped to `softcap * tanh(x / softcap)` before slopes
/// are added. Without slopes nothing is added; a softcap of 0 is none.
///
/// # Errors
/// As [`flash_attn`].
#[expect(clippy::too_many_arguments, reason = "the signature of candle-flash-attn")]
pub fn flash_attn_varlen_alibi_windowed_softcap(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: Option<&Tensor>,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    softcap: f32,
) -> Result<Tensor> {
    let _ = (max_seqlen_q, max_seqlen_k);
    let attention = Attention::new().scale(softmax_scale).window(window_size_left, window_size_right);
    let attention = attention.starts_q(seqlens_q).starts_kv(seqlens_k);
    with_slopes_and_cap(attention, alibi_slopes, softcap).forward(q, k, v)
}

fn with_slopes_and_cap(attention: Attention, alibi_slopes: Option<&Tensor>, softcap: f32) -> Attention {
    let attention = match alibi_slopes {
        Some(slopes) => attention.alibi(slopes),
        None => attention,
    };
    if softcap == 0.0 { attention } else { attention.softcap(softcap) }
}
