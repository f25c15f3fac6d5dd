//! Calls with everything that flashcore offers.

use candle_core::{DeviceLocation, Result, Shape, Storage, Tensor};
use flashcore::{Align, Dropout, Operand};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::fp8::Fp8Options;
use crate::numbers::Numbers;
use crate::operand::check_location;
use crate::{Error, computed, cpu};

/// Attention with everything that [`flashcore::Attention`] offers, under the same names: masks, key ranges, block masks,
/// softcap, sinks, ALiBi, biases, dropout, packed sequences, and the log-sum-exp with any of them.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use flashcore_candle::Attention;
///
/// # fn main() -> candle_core::Result<()> {
/// let device = Device::Cpu;
/// // Two sequences of 30 and 70 tokens, one behind the other: (total, heads, head_dim).
/// let q = Tensor::randn(0f32, 1.0, (100, 4, 64), &device)?.to_dtype(DType::F16)?;
/// let kv = Tensor::randn(0f32, 1.0, (100, 2, 64), &device)?.to_dtype(DType::F16)?;
/// let starts = Tensor::new(&[0u32, 30, 100], &device)?;
/// let sinks = Tensor::zeros(4, DType::F32, &device)?;
///
/// let attention = Attention::new().window(Some(15), Some(0)).sinks(&sinks).starts_q(&starts).starts_kv(&starts);
/// let (out, lse) = attention.forward_with_lse(&q, &kv, &kv)?;
/// assert_eq!((out.dims(), lse.dims()), (&[100, 4, 64][..], &[4, 100][..]));
/// # Ok(())
/// # }
/// ```
///
/// # Which keys a query sees
///
/// Query i *stands* at key `d = i + seqlen_kv - seqlen_q`, or at key `i` if aligned top-left ([`Self::align`]). Without
/// a mask it sees every key. Masks compose: it sees the keys j for which all of these hold:
///
/// | method | key j is seen if |
/// |---|---|
/// | [`Self::causal`] | `j <= d` |
/// | [`Self::window`] | `d - left <= j <= d + right` |
/// | [`Self::chunk`] | j lies in the same chunk of n keys as d |
/// | [`Self::prefix`] | as above, or `j < prefix` of the sequence |
/// | [`Self::key_ranges`] | `first <= j < end` of the query's own range |
/// | [`Self::block_mask`] | the block of `(i / 128, j / 128)` is listed |
///
/// # Tensors of numbers
///
/// They have one dimension, if nothing else is said, no gaps, and are on the device of q. Lengths, starts, ranges and lists
/// are i32 or u32, which are the same below 2^31; logits and slopes are f32. Numbers stay on the device: nobody waits for
/// them, and nobody checks them. Those that lead out of a tensor are taken for its last row. Sequences of queries must not
/// overlap.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    /// All that needs no numbers.
    scalars: flashcore::Attention<'static>,
    fp8: Option<Fp8Options>,
    numbers: Numbers<Tensor>,
    bias: Option<Tensor>,
}

impl Attention {
    /// Attention of every query to every key, with scale `1 / sqrt(head_dim)`.
    pub fn new() -> Self {
        Attention::default()
    }

    /// Whether query i sees only the keys up to the one it stands at.
    pub fn causal(mut self, causal: bool) -> Self {
        self.scalars = self.scalars.causal(causal);
        self
    }

    /// What scores are multiplied with before the softmax.
    pub fn scale(mut self, scale: f32) -> Self {
        self.scalars = self.scalars.scale(scale);
        self
    }

    /// How many keys a query sees before the one it stands at, and after it; `None` is all.
    pub fn window(mut self, left: Option<usize>, right: Option<usize>) -> Self {
        self.scalars = self.scalars.window(left, right);
        self
    }

    /// Where queries stand.
    pub fn align(mut self, align: Align) -> Self {
        self.scalars = self.scalars.align(align);
        self
    }

    /// A query sees only keys of its own chunk of `keys` keys: `j / keys == d / keys`, rounded down.
    pub fn chunk(mut self, keys: usize) -> Self {
        self.scalars = self.scalars.chunk(keys);
        self
    }

    /// Scores x become `cap * tanh(x / cap)`, for caps of at most [`flashcore::MAX_SOFTCAP`].
    pub fn softcap(mut self, cap: f32) -> Self {
        self.scalars = self.scalars.softcap(cap);
        self
    }

    /// As [`Self::softcap`], but the GPU's own hyperbolic tangent will do: see
    /// [`flashcore::Attention::approximate_softcap`].
    pub fn approximate_softcap(mut self, cap: f32) -> Self {
        self.scalars = self.scalars.approximate_softcap(cap);
        self
    }

    /// Keys before `lengths[b]` are seen by all queries of sequence b, whatever else they see: (sequences,), i32 or
    /// u32. Goes with no limit to the left and no chunks.
    pub fn prefix(mut self, lengths: &Tensor) -> Self {
        self.numbers.prefix = Some(lengths.clone());
        self
    }

    /// Each query sees only keys of its own range: (batch, heads_q, seqlen_q, 2), the first key and the one behind the
    /// last, or, if q is packed, (heads_q, total_q, 2), counted from the start of the sequence; i32 or u32. One sequence or
    /// one head may stand for all. Ranges may be empty; what lies beyond the keys is ignored. They go with everything that
    /// says which keys a query sees, and with sinks, not with softcap, ALiBi, biases and dropout.
    pub fn key_ranges(mut self, ranges: &Tensor) -> Self {
        self.numbers.ranges = Some(ranges.clone());
        self
    }

    /// Each block of 128 queries sees only the blocks of 128 keys that are listed for it, and visits no others:
    /// (batch, heads_q, blocks of queries), how many there are, and (batch, heads_q, blocks of queries, room), which they
    /// are, in any order, none of them twice; i32 or u32, `kv_num_blocks` and `kv_indices` of PyTorch's FlexAttention. One
    /// sequence or one head may stand for all. If q is packed, blocks are those of each sequence. It goes with the same as
    /// [`Self::key_ranges`]. [`flashcore::block_lists`] makes the lists of a bitmap.
    pub fn block_mask(mut self, counts: &Tensor, indices: &Tensor) -> Self {
        self.numbers.block_counts = Some(counts.clone());
        self.numbers.block_indices = Some(indices.clone());
        self
    }

    /// `exp(logits[h])` is added to the sum of the exponentials of the scores of each row of query head h: (heads_q,),
    /// f32, finite or -inf. It counts in the log-sum-exp; a row that sees no key gives zeros, and the logit as its
    /// log-sum-exp.
    pub fn sinks(mut self, logits: &Tensor) -> Self {
        self.numbers.sinks = Some(logits.clone());
        self
    }

    /// `-slopes[h] * |i + seqlen_kv - seqlen_q - j|` is added to the score of query i and key j in query head h
    /// (ALiBi): f32, (heads_q,), or, where each sequence has slopes of its own, (sequences * heads_q,), those of a
    /// sequence side by side.
    pub fn alibi(mut self, slopes: &Tensor) -> Self {
        self.numbers.slopes = Some(slopes.clone());
        self
    }

    /// `bias[b, h, i, j]` is added to the score of query i and key j of query head h in sequence b: (batch, heads_q,
    /// seqlen_q, seqlen_kv) of the element type of q, of which the first three may be 1, or broadcast. -inf hides a
    /// key. Sequences are not packed.
    ///
    /// Kernels load the numbers of two neighbouring keys at once: they are neighbours in memory, the first one is
    /// aligned to 4 bytes, other strides are even, and each row of an odd number of keys has room for one number more.
    /// `bias.pad_with_zeros(3, 0, 1)?.narrow(3, 0, keys)?` has it.
    pub fn bias(mut self, bias: &Tensor) -> Self {
        self.bias = Some(bias.clone());
        self
    }

    /// Weights are left out at random; those that are kept count `1 / keep` times. Which ones is a function of seed,
    /// offset, sequence, number of query heads, head, query and key: see [`flashcore::Attention::dropout`].
    pub fn dropout(mut self, dropout: Dropout) -> Self {
        self.scalars = self.scalars.dropout(dropout);
        self
    }

    /// Sequences of q are packed, one behind the other in (total_q, heads_q, head_dim), and begin there; the last
    /// number is the end of the last one: (sequences + 1,), i32 or u32, known as `cu_seqlens_q`. Sequences may be
    /// empty.
    pub fn starts_q(mut self, starts: &Tensor) -> Self {
        self.numbers.starts_q = Some(starts.clone());
        self
    }

    /// The same for k and v: (total_kv, heads_kv, head_dim). If only these are packed, q is (sequences, seqlen_q,
    /// heads_q, head_dim); and the other way round.
    pub fn starts_kv(mut self, starts: &Tensor) -> Self {
        self.numbers.starts_kv = Some(starts.clone());
        self
    }

    /// So many queries of each sequence count, packed or not: (sequences,), i32 or u32, known as `seqused_q`.
    pub fn used_q(mut self, used: &Tensor) -> Self {
        self.numbers.used_q = Some(used.clone());
        self
    }

    /// So many keys of each sequence count, packed or not: (sequences,), i32 or u32, known as `seqused_k`. What k and v
    /// hold behind them is never read.
    pub fn used_kv(mut self, used: &Tensor) -> Self {
        self.numbers.used_kv = Some(used.clone());
        self
    }

    /// Goes by way of 8 bits: q, k and v are rounded, on the device, and tensor cores multiply twice as fast. The output is
    /// off by some percent of its root mean square: docs/fp8.md of the repository tells how much, and why.
    ///
    /// head_dim is at most 256, and some of the above has no kernel of 8 bits: [`flashcore::Error::Fp8Features`]. On a GPU,
    /// memory for the rounded tensors, half as many bytes as theirs, is kept for the next call: that of the eight
    /// combinations of thread, stream, shapes and rounding that were used last. So a CUDA graph must not record the call.
    pub fn fp8(mut self, options: Fp8Options) -> Self {
        self.fp8 = Some(options);
        self
    }

    /// The output, in the shape of q but for the head_dim, which is that of v, contiguous. Rows that see no key, and
    /// rows that are of no sequence or do not count, are zeros.
    ///
    /// # Errors
    /// What is wrong with the arguments, or what the driver refuses: see [`enum@Error`].
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (out, _) = self.compute([q, k, v], false)?;
        self.tensor("flash-attn", out, output_shape(q, v)?, [q, k, v])
    }

    /// As [`Self::forward`], and the log-sum-exp of each row of scores: natural logarithm, f32, (batch, heads_q,
    /// seqlen_q), or (heads_q, total_q) if q is packed. It is -inf for rows that see no key, unless there are sinks,
    /// and 0 for rows that are of no sequence or do not count.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_with_lse(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let (out, lse) = self.compute([q, k, v], true)?;
        let lse = lse.expect("a log-sum-exp was asked for");
        let lse_shape = if self.numbers.starts_q.is_some() {
            let (total, heads, _) = q.dims3()?;
            Shape::from((heads, total))
        } else {
            let (batch, seqlen, heads, _) = q.dims4()?;
            Shape::from((batch, heads, seqlen))
        };
        Ok((
            self.tensor("flash-attn", out, output_shape(q, v)?, [q, k, v])?,
            self.tensor("flash-attn-lse", lse, lse_shape, [q, k, v])?,
        ))
    }

    /// The output, and the log-sum-exp if it is wanted.
    fn compute(&self, tensors: [&Tensor; 3], want_lse: bool) -> Result<(Storage, Option<Storage>)> {
        let [q, k, v] = tensors;
        let location = q.device().location();
        check_location(Operand::K, k, location)?;
        check_location(Operand::V, v, location)?;
        let sizes = self.numbers.check(location)?;
        if let Some(bias) = &self.bias {
            check_location(Operand::Bias, bias, location)?;
        }
        let stored = tensors.map(Tensor::storage_and_layout);
        let numbers = self.numbers.stored(sizes);
        let bias = self.bias.as_ref().map(Tensor::storage_and_layout);
        match location {
            DeviceLocation::Cpu => {
                cpu::forward(&self.scalars, self.fp8, &stored, &numbers, bias.as_ref(), want_lse)
            }
            #[cfg(feature = "cuda")]
            DeviceLocation::Cuda { .. } => {
                cuda::forward(&self.scalars, self.fp8, &stored, &numbers, bias.as_ref(), want_lse)
            }
            found => Err(Error::NoKernels { operand: Operand::Q, found }.into()),
        }
    }

    /// A result as a tensor.
    fn tensor(
        &self,
        name: &'static str,
        result: Storage,
        shape: Shape,
        tensors: [&Tensor; 3],
    ) -> Result<Tensor> {
        let others = [&self.numbers.sinks, &self.numbers.slopes, &self.bias].into_iter().flatten();
        computed::tensor(name, (result, shape), tensors.into_iter().chain(others))
    }
}

/// The shape of q, but for the last dimension, which is that of v.
fn output_shape(q: &Tensor, v: &Tensor) -> Result<Shape> {
    let mut dims = q.dims().to_vec();
    if let Some(columns) = dims.last_mut() {
        *columns = v.dim(candle_core::D::Minus1)?;
    }
    Ok(dims.into())
}
