//! The public call: checks, plans, launches.

use flashcore_kernels::score_mod::{ARGS_WORDS, Kernels};

use crate::Stream;
use crate::array::ArrayView;
use crate::bias::BiasView;
use crate::check::{self, Numbers};
use crate::dropout::Dropout;
use crate::error::{Error, Operand, Result};
use crate::features::{Align, Features, Slopes};
use crate::lse::{Lse, LseView};
use crate::plan::{Plan, Pointers};
use crate::problem::Problem;
use crate::score_mod::{self, Function, ScoreKernels};
use crate::sparse::{BlockMask, KeyRanges, SparseSizes};
use crate::tensor::{AsTensorView, Shape, Tensor, TensorLayout, TensorView};
use crate::tensor_map;

/// Scaled dot-product attention: `out = softmax(scale * q kᵀ) v`.
///
/// q and out are (batch, seqlen_q, heads_q, head_dim), k and v (batch, seqlen_kv, heads_kv, head_dim); heads_q is a
/// multiple of heads_kv, and query head h reads K/V head `h / (heads_q / heads_kv)`. v and out may have another
/// head_dim than q and k. Each is a multiple of 8 up to 512, or up to 256 with all but plain scores and bands of keys; kernels
/// compute as many columns as the narrowest of them has that is wide enough for both: (64, 64), (96, 96), (128, 128),
/// (192, 128), (64, 256), (192, 192), (256, 256) or (512, 512). Everything is f16 or everything is bf16; sums are f32. A
/// row that sees no key gives zeros and a log-sum-exp of -inf.
///
/// # NaN, infinities and large scores
///
/// NaN and infinities among the inputs go through the formula as IEEE arithmetic has it. A key that the causal mask
/// hides from a row has weight 0 there, which is not the same as being absent: a NaN or infinity in v at that key may
/// reach the row as `0 * NaN`, if another row of its tile of queries sees a key of the same tile of keys. What k holds
/// there does not matter.
///
/// Weights are `2^(x - max x)` with `x = scale * log2(e) * q·k` in f32. `max x` is rounded, by the same amount for all
/// keys of a row, which cancels but for one thing: beyond |x| of about 2^11 the largest weight is no longer exactly 1,
/// and its rounding to the element type may move the row by half a unit in the last place of that type. Scores
/// themselves have no more than the 24 bits of f32. Where |x| is far beyond 2^24, rounding alone may make a weight
/// overflow, and the row may become NaN or infinite.
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
/// # Scores
///
/// Scores are `x = scale * q·k`; with [`Self::softcap`], `cap * tanh(x / cap)`. Then [`Self::alibi`] and [`Self::bias`]
/// are added. [`Self::sinks`] adds a logit of each query head to the denominator of the softmax. [`Self::dropout`]
/// leaves out weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attention<'a> {
    causal: bool,
    features: Features,
    pub(crate) scale: Option<f32>,
    sequences: Sequences<'a>,
    prefix: Option<ArrayView<'a, i32>>,
    ranges: Option<KeyRanges<'a>>,
    blocks: Option<BlockMask<'a>>,
    sinks: Option<ArrayView<'a, f32>>,
    slopes: Option<ArrayView<'a, f32>>,
    bias: Option<BiasView<'a>>,
    function: Option<(Function, [u64; ARGS_WORDS])>,
}

/// Where sequences begin and end, if they are not all as long as their tensors: numbers on the device, which may change
/// between launches of a recorded graph. Plain attention needs none.
///
/// *Packed* sequences lie one behind the other in a tensor (1, rows of all, heads, head_dim). Starts are the first rows
/// of each sequence, and at last the end of the last one: `cu_seqlens` of other libraries. Sequences may be empty.
///
/// *Used* numbers say how many rows of each sequence count; rows beyond them are neither read nor written. They go with
/// packed sequences, and with others.
///
/// Numbers that lead out of a tensor are taken for its last row, so that nothing else is ever touched; sequences of
/// queries must not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sequences<'a> {
    starts_q: Option<ArrayView<'a, i32>>,
    starts_kv: Option<ArrayView<'a, i32>>,
    used_q: Option<ArrayView<'a, i32>>,
    used_kv: Option<ArrayView<'a, i32>>,
}

impl<'a> Sequences<'a> {
    /// All as long as their tensors.
    pub const fn new() -> Self {
        Sequences { starts_q: None, starts_kv: None, used_q: None, used_kv: None }
    }

    /// Sequences of q and out are packed, and begin there.
    pub const fn starts_q(self, starts: ArrayView<'a, i32>) -> Self {
        Sequences { starts_q: Some(starts), ..self }
    }

    /// Sequences of k and v are packed, and begin there.
    pub const fn starts_kv(self, starts: ArrayView<'a, i32>) -> Self {
        Sequences { starts_kv: Some(starts), ..self }
    }

    /// So many queries of each sequence count.
    pub const fn used_q(self, used: ArrayView<'a, i32>) -> Self {
        Sequences { used_q: Some(used), ..self }
    }

    /// So many keys of each sequence count.
    pub const fn used_kv(self, used: ArrayView<'a, i32>) -> Self {
        Sequences { used_kv: Some(used), ..self }
    }

    /// How many packed sequences there are, of q, and of k and v; `None` where they are not packed.
    ///
    /// # Errors
    /// [`Error::NoStarts`].
    pub fn packed(&self) -> Result<[Option<usize>; 2]> {
        let count = |operand, starts: Option<ArrayView<'_, i32>>| match starts {
            Some(starts) => starts.len().checked_sub(1).ok_or(Error::NoStarts { operand }).map(Some),
            None => Ok(None),
        };
        Ok([count(Operand::StartsQ, self.starts_q)?, count(Operand::StartsKv, self.starts_kv)?])
    }

    /// The arrays, with how many numbers so many sequences of q, and of k and v, need.
    pub(crate) fn arrays(&self, of_q: usize, of_kv: usize) -> [Option<Numbers>; 4] {
        [
            (Operand::StartsQ, self.starts_q, of_q + 1),
            (Operand::StartsKv, self.starts_kv, of_kv + 1),
            (Operand::UsedQ, self.used_q, of_q),
            (Operand::UsedKv, self.used_kv, of_kv),
        ]
        .map(|(operand, array, expected)| {
            array.map(|array| Numbers { operand, ptr: array.ptr(), found: array.len(), expected })
        })
    }

    /// Where they are, 0 those that are not.
    pub(crate) fn addresses(&self) -> [u64; 4] {
        [self.starts_q, self.starts_kv, self.used_q, self.used_kv]
            .map(|array| array.map_or(0, |array| array.ptr()))
    }
}

impl<'a> Attention<'a> {
    /// Attention of every query to every key, with scale `1 / sqrt(head_dim)`.
    pub const fn new() -> Self {
        Attention {
            causal: false,
            features: Features::NONE,
            scale: None,
            sequences: Sequences::new(),
            prefix: None,
            ranges: None,
            blocks: None,
            sinks: None,
            slopes: None,
            bias: None,
            function: None,
        }
    }

    /// Whether query i sees only the keys up to the one it stands at: `i + seqlen_kv - seqlen_q` (aligned
    /// bottom-right).
    pub const fn causal(self, causal: bool) -> Self {
        Attention { causal, ..self }
    }

    /// Where sequences lie, as [`Self::sequences`] was told.
    pub const fn get_sequences(&self) -> Sequences<'a> {
        self.sequences
    }

    /// What scores are multiplied with before the softmax.
    pub const fn scale(self, scale: f32) -> Self {
        Attention { scale: Some(scale), ..self }
    }

    /// How many keys a query sees before the one it stands at, and after it; `None` is all.
    pub const fn window(mut self, left: Option<usize>, right: Option<usize>) -> Self {
        self.features.left = left;
        self.features.right = right;
        self
    }

    /// Where queries stand.
    pub const fn align(mut self, align: Align) -> Self {
        self.features.align = align;
        self
    }

    /// A query sees only keys of its own chunk of `keys` keys: `j / keys == d / keys`, rounded down.
    pub const fn chunk(mut self, keys: usize) -> Self {
        self.features.chunk = Some(keys);
        self
    }

    /// Keys before `lengths[b]` are seen by all queries of sequence b, whatever else they see. Goes with no limit to
    /// the left and no chunks.
    pub const fn prefix(self, lengths: ArrayView<'a, i32>) -> Self {
        Attention { prefix: Some(lengths), ..self }
    }

    /// Each query sees only keys of its own range, which may be empty; what lies beyond the sequence is ignored. Kernels
    /// visit the keys from the first to the last that any of 128 queries sees.
    ///
    /// Where sequences of queries are packed, ranges are those of the rows of q, and count keys from the start of the
    /// sequence.
    pub const fn key_ranges(self, ranges: KeyRanges<'a>) -> Self {
        Attention { ranges: Some(ranges), ..self }
    }

    /// Queries see only keys of the blocks that are listed for theirs; kernels visit no others. Blocks are listed in any
    /// order, none of them twice; what a list says beyond the keys is ignored.
    ///
    /// Where sequences of queries are packed, blocks are those of each sequence, and one beyond the lists sees nothing.
    pub const fn block_mask(self, mask: BlockMask<'a>) -> Self {
        Attention { blocks: Some(mask), ..self }
    }

    /// Scores x become `cap * tanh(x / cap)`, for caps of at most [`crate::MAX_SOFTCAP`], as exactly as f32 has it.
    pub const fn softcap(mut self, cap: f32) -> Self {
        self.features.softcap = Some(cap);
        self.features.approximate_tanh = false;
        self
    }

    /// As [`Self::softcap`], but the GPU's own hyperbolic tangent (`tanh.approx`) will do, as in FlashAttention-2 and -3:
    /// less work, but a capped score is off by up to 2⁻¹¹ of itself, and so its weight by up to about `cap * 2⁻¹⁰` of itself.
    /// It is what kernels for 64, 128 and 256 columns have; where there is none, and where slopes or a bias are added,
    /// weights left out, or elements have 8 bits, scores are as exact as with [`Self::softcap`].
    pub const fn approximate_softcap(self, cap: f32) -> Self {
        let mut attention = self.softcap(cap);
        attention.features.approximate_tanh = true;
        attention
    }

    /// `exp(logits[h])` is added to the sum of the exponentials of the scores of each row of query head h: weights then
    /// add up to less than 1. It counts in the log-sum-exp; a row that sees no key gives zeros, and the logit as its
    /// log-sum-exp. Logits are natural, finite or -inf.
    pub const fn sinks(self, logits: ArrayView<'a, f32>) -> Self {
        Attention { sinks: Some(logits), ..self }
    }

    /// `-slopes[h] * |i + seqlen_kv - seqlen_q - j|` is added to the score of query i and key j in query head h (ALiBi,
    /// Press et al. 2022). There is one slope for each query head, or one for each query head of each sequence:
    /// (sequences, heads_q).
    pub const fn alibi(self, slopes: ArrayView<'a, f32>) -> Self {
        Attention { slopes: Some(slopes), ..self }
    }

    /// `bias[b, h, i, j]` is added to the score of query i and key j of query head h in sequence b; sizes of 1 are
    /// broadcast. -inf hides a key. Sequences are not packed.
    pub const fn bias(self, bias: BiasView<'a>) -> Self {
        Attention { bias: Some(bias), ..self }
    }

    /// Weights are left out at random. Those that are kept count `1 / keep` times, where `keep = 1 - p`, rounded to a
    /// multiple of 1/256, is the probability of that. Sums of rows and the log-sum-exp are those of all weights.
    ///
    /// Whether a weight is kept is a function of seed, offset, sequence, number of query heads, head, query and key, and
    /// of nothing else: not of lengths, masks, types or strides, nor of the kernel and its tiles. It is the same in all
    /// versions of this library; docs/attention_fwd.md has the formula, and [`crate::dropout_mask`] writes it out.
    /// Queries and keys are counted from the start of their sequence, packed or not.
    ///
    /// Seed and offset are those of the call: each replay of a recorded CUDA graph leaves out the same weights. It goes
    /// with everything but [`Self::score_mod`].
    pub const fn dropout(mut self, dropout: Dropout) -> Self {
        self.features.dropout = Some(dropout);
        self
    }

    /// Scores become what a function written in Rust makes of them: see [`flashcore_kernels::score_mod`], and
    /// docs/score_mod.md. It goes with everything that says which keys a query sees, and with [`Self::sinks`].
    ///
    /// # Safety
    /// The function reads what `args` say, and nobody checks that: addresses in them must be of memory of the stream's
    /// device, large enough for what the function reads, allocated until the work has completed, and not written while
    /// it runs.
    pub unsafe fn score_mod<M: Kernels>(self, kernels: &ScoreKernels<M>, args: M::Args) -> Self {
        Attention { function: Some((kernels.function(), score_mod::words::<M>(args))), ..self }
    }

    /// Where sequences begin and end.
    pub const fn sequences(self, sequences: Sequences<'a>) -> Self {
        Attention { sequences, ..self }
    }

    /// What is asked for, without addresses.
    ///
    /// # Errors
    /// [`crate::Error::NoStarts`].
    pub(crate) fn features(&self, heads_q: usize) -> Result<Features> {
        let Sequences { used_q, used_kv, .. } = self.sequences;
        let [packed_q, packed_kv] = self.sequences.packed()?;
        Ok(Features {
            right: if self.causal { Some(0) } else { self.features.right },
            prefix: self.prefix.is_some(),
            sparse: SparseSizes {
                ranges: self.ranges.map(|ranges| ranges.sizes),
                blocks: self.blocks.map(|mask| mask.sizes),
            },
            sinks: self.sinks.is_some(),
            alibi: self.slopes.map(|slopes| match slopes.len() == heads_q {
                true => Slopes::PerHead,
                false => Slopes::PerSequenceAndHead,
            }),
            bias: self.bias.map(|bias| *bias.layout()),
            bias_is_aligned: self.bias.is_some_and(|bias| bias.ptr().is_multiple_of(tensor_map::ALIGNMENT)),
            function: self.function.map(|(function, _)| function),
            packed_q,
            packed_kv,
            used_q: used_q.is_some(),
            used_kv: used_kv.is_some(),
            ..self.features
        })
    }

    /// The numbers that go along, with how many are needed for this problem.
    pub(crate) fn arrays(&self, problem: &Problem) -> [Option<Numbers>; 10] {
        let sequences = problem.sequences();
        let of = |operand, array: Option<(u64, usize)>, expected| {
            array.map(|(ptr, found)| Numbers { operand, ptr, found, expected })
        };
        let ints = |array: Option<ArrayView<'_, i32>>| array.map(|array| (array.ptr(), array.len()));
        let [starts_q, starts_kv, used_q, used_kv] = self.sequences.arrays(sequences, sequences);
        let floats = |array: Option<ArrayView<'_, f32>>| array.map(|array| (array.ptr(), array.len()));
        let heads = problem.q_shape().heads;
        let [ranges, counts, lists] = problem.features().sparse.lengths(problem.q_shape().seqlen);
        let slopes = match problem.features().alibi {
            Some(Slopes::PerSequenceAndHead) => sequences * heads,
            _ => heads,
        };
        [
            starts_q,
            starts_kv,
            used_q,
            used_kv,
            of(Operand::Prefix, ints(self.prefix), sequences),
            of(Operand::Sinks, floats(self.sinks), heads),
            of(Operand::Slopes, floats(self.slopes), slopes),
            of(Operand::KeyRanges, ints(self.ranges.map(|ranges| ranges.numbers)), ranges),
            of(Operand::BlockCounts, ints(self.blocks.map(|mask| mask.counts)), counts),
            of(Operand::BlockIndices, ints(self.blocks.map(|mask| mask.indices)), lists),
        ]
    }

    /// Computes the output into a new tensor, in the order of `q`. Returns before it is computed.
    ///
    /// # Errors
    /// As [`Self::forward_into`], and [`crate::Error::OutOfMemory`].
    pub fn forward(
        &self,
        stream: &Stream,
        q: &impl AsTensorView,
        k: &impl AsTensorView,
        v: &impl AsTensorView,
    ) -> Result<Tensor> {
        let out = new_output(stream, &q.as_view(), &v.as_view())?;
        self.forward_into(stream, q, k, v, &out, None)?;
        Ok(out)
    }

    /// As [`Self::forward`], with the log-sum-exp of each row.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_with_lse(
        &self,
        stream: &Stream,
        q: &impl AsTensorView,
        k: &impl AsTensorView,
        v: &impl AsTensorView,
    ) -> Result<(Tensor, Lse)> {
        let out = new_output(stream, &q.as_view(), &v.as_view())?;
        let shape = out.shape();
        let lse = Lse::new(stream.device(), shape.batch, shape.heads, shape.seqlen)?;
        self.forward_into(stream, q, k, v, &out, Some(lse.view()))?;
        Ok((out, lse))
    }

    /// Computes the output, and the log-sum-exp if asked for, into memory of the caller's. Allocates nothing, waits
    /// for nothing, and may be recorded in a CUDA graph.
    ///
    /// # Errors
    /// What is wrong with the arguments (see [`enum@crate::Error`]); nothing is launched then.
    pub fn forward_into(
        &self,
        stream: &Stream,
        q: &impl AsTensorView,
        k: &impl AsTensorView,
        v: &impl AsTensorView,
        out: &impl AsTensorView,
        lse: Option<LseView<'_>>,
    ) -> Result<()> {
        let (q, k, v, out) = (q.as_view(), k.as_view(), v.as_view(), out.as_view());
        let problem = self.problem(&q, &k, &v, &out, lse.as_ref())?;
        let plan = Plan::new(&problem, stream.device().properties())?;
        if plan.grid == 0 {
            return Ok(());
        }
        let _entered = stream.device().backend().enter()?;
        let arrays = self.arrays(&problem);
        check::residence(stream.device(), [&q, &k, &v, &out], lse.as_ref(), &arrays, self.bias.as_ref())?;
        let pointers = Pointers {
            q: q.ptr(),
            k: k.ptr(),
            v: v.ptr(),
            out: out.ptr(),
            lse: lse.map_or(0, |lse| lse.ptr()),
            bias: self.bias.map_or(0, |bias| bias.ptr()),
            score_args: self.function.map_or([0; ARGS_WORDS], |(_, args)| args),
            ..pointers_of(&arrays)
        };
        // SAFETY: the problem was checked against the views, whose makers vouch for the memory.
        unsafe { stream.launch_plan(&plan, &pointers) }
    }

    /// Checks the arguments of [`Self::forward_into`], except which device their memory is of.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn problem(
        &self,
        q: &TensorView<'_>,
        k: &TensorView<'_>,
        v: &TensorView<'_>,
        out: &TensorView<'_>,
        lse: Option<&LseView<'_>>,
    ) -> Result<Problem> {
        let problem = self.problem_of([*q.layout(), *k.layout(), *v.layout(), *out.layout()])?;
        check::extents(&problem, [q, k, v, out], lse, &self.arrays(&problem), self.bias.as_ref())?;
        Ok(problem)
    }

    /// The problem for q, k, v and out of these layouts: all that can be checked without addresses.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn problem_of(&self, layouts: [TensorLayout; 4]) -> Result<Problem> {
        Problem::with_features(layouts, self.features(layouts[0].shape.heads)?, self.scale)
    }
}

/// Where the numbers of [`Attention::arrays`] are, and nothing else.
pub(crate) fn pointers_of(arrays: &[Option<Numbers>; 10]) -> Pointers {
    let [starts_q, starts_kv, used_q, used_kv, prefix, sinks, slopes, ranges, block_counts, block_indices] =
        arrays.map(|array| array.map_or(0, |array| array.ptr));
    Pointers {
        starts_q,
        starts_kv,
        used_q,
        used_kv,
        prefix,
        sinks,
        slopes,
        ranges,
        block_counts,
        block_indices,
        ..Pointers::default()
    }
}

fn new_output(stream: &Stream, q: &TensorView<'_>, v: &TensorView<'_>) -> Result<Tensor> {
    let shape = Shape { head_dim: v.shape().head_dim, ..q.shape() };
    Tensor::uninit(stream.device(), q.dtype(), shape, q.layout().order())
}

#[cfg(test)]
mod tests {
    use flashcore_kernels::params::FwdParams;

    use super::*;
    use crate::array::Array;
    use crate::driver::{Graph, Properties};
    use crate::mock::{Mock, OTHER_DEVICE};
    use crate::{Device, Dtype, Error, Operand, Order, Shape};

    const SHAPE: Shape = Shape::new(2, 100, 4, 64);

    fn tensors(device: &Device, order: Order) -> [Tensor; 4] {
        std::array::from_fn(|_| Tensor::zeros(device, Dtype::F16, SHAPE, order).unwrap())
    }

    #[test]
    fn forward_launches_what_the_plan_says() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        let [q, k, v, _] = tensors(&device, Order::Bshd);
        let attention = Attention::new().causal(true).scale(0.5);
        let (out, lse) = attention.forward_with_lse(&stream, &q, &k, &v).unwrap();
        assert_eq!(
            (out.shape(), out.strides(), lse.to_vec().unwrap().len()),
            (SHAPE, q.strides(), 2 * 100 * 4)
        );

        let lse = lse.view();
        let problem = attention.problem(&q.view(), &k.view(), &v.view(), &out.view(), Some(&lse)).unwrap();
        let plan = Plan::new(&problem, device.properties()).unwrap();
        let state = mock.state();
        let [launched] = &state.launches[..] else { panic!("one launch") };
        assert_eq!(launched.symbol, "fwd_hd64_m128n128_f16_causal");
        assert_eq!((launched.grid, launched.overlaps_previous), ([plan.grid, 1, 1], true));
        assert_eq!(
            (launched.block, launched.smem_bytes),
            (plan.variant.threads(), plan.variant.smem().bytes)
        );
        let ptrs: Vec<u64> = state.maps.iter().map(|map| map.ptr()).collect();
        assert_eq!(ptrs, [q.ptr(), k.ptr(), v.ptr(), out.ptr()]);
        let [maps @ .., params] = &launched.params[..] else { panic!("five parameters") };
        for (i, map) in maps.iter().enumerate() {
            assert_eq!(*map, bytemuck::bytes_of(&[i as u64; 16]));
        }
        assert_eq!(params.len(), size_of::<FwdParams>());
        // SAFETY: as many bytes as parameters have, and any bytes are parameters.
        let params = unsafe { params.as_ptr().cast::<FwdParams>().read_unaligned() };
        assert_eq!(params, FwdParams { lse: lse.ptr(), ..plan.params });
        assert_eq!(params.scale_log2, 0.5 * std::f32::consts::LOG2_E);
    }

    #[test]
    fn a_launch_has_the_addresses_of_all_numbers() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        // 3 sequences of queries, packed; keys of 3 sequences that are not.
        let q = Tensor::zeros(&device, Dtype::F16, Shape::new(1, 100, 4, 64), Order::Bshd).unwrap();
        let [k, v] = [(); 2]
            .map(|()| Tensor::zeros(&device, Dtype::F16, Shape::new(3, 50, 2, 64), Order::Bshd).unwrap());
        let ints = |count| Array::from_slice(&device, &vec![0i32; count]).unwrap();
        let [starts, used_q, used_kv, prefix] = [4, 3, 3, 3].map(ints);
        let sinks = Array::from_slice(&device, &[0f32; 4]).unwrap();
        let sequences =
            Sequences::new().starts_q(starts.view()).used_q(used_q.view()).used_kv(used_kv.view());
        let attention = Attention::new()
            .causal(true)
            .sequences(sequences)
            .prefix(prefix.view())
            .sinks(sinks.view())
            .softcap(20.0);
        let (out, lse) = attention.forward_with_lse(&stream, &q, &k, &v).unwrap();
        let lse = lse.view();
        let problem = attention.problem(&q.view(), &k.view(), &v.view(), &out.view(), Some(&lse)).unwrap();
        let plan = Plan::new(&problem, device.properties()).unwrap();
        let state = mock.state();
        let [launched] = &state.launches[..] else { panic!("one launch") };
        let params = launched.params.last().unwrap();
        // SAFETY: as many bytes as parameters have, and any bytes are parameters.
        let params = unsafe { params.as_ptr().cast::<FwdParams>().read_unaligned() };
        let mut expected = FwdParams { lse: lse.ptr(), ..plan.params };
        let general = &mut expected.general;
        general.sequences.start_q = starts.view().ptr();
        general.sequences.used_q = used_q.view().ptr();
        general.sequences.used_kv = used_kv.view().ptr();
        general.band.prefix = prefix.view().ptr();
        general.sinks = sinks.view().ptr();
        assert_eq!(params, expected);
        assert_eq!(params.general.sequences.start_kv, 0, "keys are not packed");
        let given = [starts.view().ptr(), used_q.view().ptr(), used_kv.view().ptr()];
        assert!(given.iter().all(|&ptr| ptr != 0) && given[0] != given[1] && given[1] != given[2]);
        let log2_e = std::f32::consts::LOG2_E;
        assert_eq!((params.general.offset_log2, params.scale_log2), (20.0 * log2_e, 40.0 * log2_e));
        assert_eq!(params.general.product_scale, 2.0 * problem.scale() * log2_e / 20.0);
        assert_eq!(params.general.sequences.count, 3);
    }

    #[test]
    fn wrong_numbers_launch_nothing() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        let [q, k, v, out] = tensors(&device, Order::Bshd);
        let call = |attention: Attention<'_>| attention.forward_into(&stream, &q, &k, &v, &out, None);
        let three = Array::from_slice(&device, &[1i32; 3]).unwrap();
        let none = Array::<i32>::from_slice(&device, &[]).unwrap();
        let length = |operand, expected| Err(Error::ArrayLength { operand, expected, found: 3 });
        let used = |sequences| call(Attention::new().sequences(sequences));
        assert_eq!(used(Sequences::new().used_q(three.view())), length(Operand::UsedQ, 2));
        assert_eq!(used(Sequences::new().used_kv(three.view())), length(Operand::UsedKv, 2));
        assert_eq!(call(Attention::new().prefix(three.view())), length(Operand::Prefix, 2));
        let logits = Array::from_slice(&device, &[0f32; 3]).unwrap();
        assert_eq!(call(Attention::new().sinks(logits.view())), length(Operand::Sinks, 4));
        let starts = Sequences::new().starts_q(none.view());
        assert_eq!(used(starts), Err(Error::NoStarts { operand: Operand::StartsQ }));
        let starts = Sequences::new().starts_kv(none.view());
        assert_eq!(used(starts), Err(Error::NoStarts { operand: Operand::StartsKv }));
        // SAFETY: nothing is launched with it.
        let foreign = unsafe { ArrayView::from_raw_parts(OTHER_DEVICE, 2) };
        let (operand, ptr) = (Operand::Prefix, OTHER_DEVICE);
        let wrong = Error::WrongDevice { operand, ptr, found: 1, expected: 0 };
        assert_eq!(call(Attention::new().prefix(foreign)), Err(wrong));
        // SAFETY: nothing is launched with it.
        let endless = unsafe { ArrayView::from_raw_parts(OTHER_DEVICE, usize::MAX) };
        let starts = Sequences::new().starts_q(endless).starts_kv(endless);
        assert!(matches!(used(starts), Err(Error::DimensionTooLarge { operand: Operand::StartsQ, .. })));
        assert!(mock.state().launches.is_empty());
    }

    #[test]
    fn forward_keeps_the_order_of_q() {
        let (_mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        for order in [Order::Bshd, Order::Bhsd] {
            let [q, k, v, _] = tensors(&device, order);
            let out = Attention::new().forward(&stream, &q, &k, &v).unwrap();
            assert_eq!(out.strides(), order.strides(SHAPE));
        }
    }

    #[test]
    fn forward_into_allocates_nothing() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        let [q, k, v, out] = tensors(&device, Order::Bshd);
        let before = mock.state().allocations.len();
        Attention::new().forward_into(&stream, &q, &k, &v, &out, None).unwrap();
        let state = mock.state();
        assert_eq!((state.allocations.len(), state.launches.len()), (before, 1));
    }

    #[test]
    fn empty_problems_launch_nothing() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        let empty = Shape { seqlen: 0, ..SHAPE };
        let [_, k, v, _] = tensors(&device, Order::Bshd);
        let q = Tensor::zeros(&device, Dtype::F16, empty, Order::Bshd).unwrap();
        assert_eq!(Attention::new().forward(&stream, &q, &k, &v).unwrap().bytes(), 0);
        assert!(mock.state().launches.is_empty());
    }

    #[test]
    fn a_problem_without_keys_is_launched() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        let empty = Tensor::zeros(&device, Dtype::F16, Shape { seqlen: 0, ..SHAPE }, Order::Bshd).unwrap();
        let [q, ..] = tensors(&device, Order::Bshd);
        Attention::new().forward(&stream, &q, &empty, &empty).unwrap();
        assert_eq!(mock.state().launches.len(), 1);
    }

    #[test]
    fn bad_arguments_launch_nothing() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        let [q, k, v, out] = tensors(&device, Order::Bshd);
        let view = q.view();
        // SAFETY: nothing is launched with it.
        let foreign = unsafe {
            TensorView::from_raw_parts(OTHER_DEVICE, view.bytes(), view.dtype(), view.shape(), view.strides())
        };
        let attention = Attention::new();
        let wrong = Error::WrongDevice { operand: Operand::K, ptr: OTHER_DEVICE, found: 1, expected: 0 };
        assert_eq!(attention.forward_into(&stream, &q, &foreign, &v, &out, None), Err(wrong));
        let aliasing = Error::Aliasing { output: Operand::Out, other: Operand::Q };
        assert_eq!(attention.forward_into(&stream, &q, &k, &v, &q, None), Err(aliasing));
        let scale = Error::Scale { scale: -1.0 };
        assert_eq!(attention.scale(-1.0).forward_into(&stream, &q, &k, &v, &out, None), Err(scale));
        assert!(mock.state().launches.is_empty());
    }

    #[test]
    fn memory_runs_out_as_an_error() {
        let (_mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        // Queries that are one row in memory, and 32 MiB of output.
        let strides = crate::Strides { batch: 0, seqlen: 0, heads: 0 };
        let shape = Shape::new(4, 1 << 16, 1, 64);
        let row = vec![half::f16::ONE; 64];
        let q = Tensor::with_strides(&device, &row, shape, strides).unwrap();
        let error = Attention::new().forward(&stream, &q, &q, &q).unwrap_err();
        assert_eq!(error, Error::OutOfMemory { bytes: 1 << 25 });
    }

    #[test]
    fn a_device_with_little_shared_memory_is_refused() {
        let (mock, device) = Mock::with(Properties { smem_limit_bytes: 48 << 10, ..Properties::h200() });
        let stream = device.stream().unwrap();
        let [q, k, v, _] = tensors(&device, Order::Bshd);
        let error = Attention::new().forward(&stream, &q, &k, &v).unwrap_err();
        assert!(
            matches!(error, Error::SharedMemory { symbol: "fwd_hd64_m128n128_f16", limit: 49152, .. }),
            "{error}"
        );
        assert!(mock.state().launches.is_empty());
    }

    #[test]
    fn a_capture_ends_even_if_the_work_fails() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        let handles = mock.state().handles;
        let failed = Graph::capture(&stream, |_| Err(Error::NoClock));
        assert_eq!(failed.unwrap_err(), Error::NoClock);
        assert_eq!(mock.state().handles, handles);
        let graph = Graph::capture(&stream, |_| Ok(())).unwrap();
        assert_eq!(mock.state().handles, handles + 1);
        drop(graph);
        assert_eq!(mock.state().handles, handles);
    }
}
