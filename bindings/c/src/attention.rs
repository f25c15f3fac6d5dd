//! Attention: C's structs made into views, and the two calls on them.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::ptr::null;

use flashcore::{
    Align, ArrayView, Attention, BiasLayout, BiasView, Dropout, Dtype, LseView, Plan, Sequences, Shape,
    Strides, TensorLayout, TensorView,
};

use crate::call::{call, require_size, required};
use crate::device::{fc_device, opened};
use crate::sparse::{fc_block_mask, fc_key_ranges};
use crate::status::{Failure, fc_status};

/// Element types.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum fc_dtype {
    /// IEEE half precision.
    FC_F16 = 1,
    /// bfloat16.
    FC_BF16 = 2,
}

/// A tensor in device memory: (batch, seqlen, heads, head_dim), wherever its elements lie. All numbers count elements,
/// of 2 bytes each. The elements of a head are neighbours; the strides say how far apart the rest is. Contiguous
/// (batch, seqlen, heads, head_dim) has strides seqlen * heads * head_dim, heads * head_dim, head_dim; contiguous
/// (batch, heads, seqlen, head_dim) has heads * seqlen * head_dim, head_dim, seqlen * head_dim.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fc_tensor {
    /// Device address of the first element, a multiple of 16 bytes. Not used if there are no elements.
    pub data: *mut c_void,
    /// Sequences.
    pub batch: usize,
    /// Positions in a sequence.
    pub seqlen: usize,
    /// Attention heads.
    pub heads: usize,
    /// Elements of a head: a multiple of 8 up to 512, or up to 256 with a softcap, slopes, a bias, dropout, key ranges or
    /// a block mask, or in 8 bits.
    pub head_dim: usize,
    /// From one sequence to the next, a multiple of 8.
    pub stride_batch: usize,
    /// From one position to the next, a multiple of 8.
    pub stride_seqlen: usize,
    /// From one head to the next, a multiple of 8.
    pub stride_heads: usize,
    /// An `fc_dtype`, the same for all tensors of a call.
    pub dtype: i32,
}

/// The element type of this number.
fn dtype(operand: &'static str, number: i32) -> Result<Dtype, Failure> {
    match number {
        found if found == fc_dtype::FC_F16 as i32 => Ok(Dtype::F16),
        found if found == fc_dtype::FC_BF16 as i32 => Ok(Dtype::Bf16),
        found => Err(Failure::UnknownDtype { operand, found }),
    }
}

impl fc_tensor {
    pub(crate) fn shape(&self) -> Shape {
        Shape::new(self.batch, self.seqlen, self.heads, self.head_dim)
    }

    fn layout(&self, operand: &'static str) -> Result<TensorLayout, Failure> {
        let dtype = dtype(operand, self.dtype)?;
        let strides =
            Strides { batch: self.stride_batch, seqlen: self.stride_seqlen, heads: self.stride_heads };
        Ok(TensorLayout { dtype, shape: self.shape(), strides })
    }
}

/// A tensor of the caller's as a view.
///
/// # Safety
/// Everything that shape and strides reach over must be what the call needs of it.
pub(crate) unsafe fn view((tensor, layout): (fc_tensor, TensorLayout)) -> TensorView<'static> {
    let TensorLayout { dtype, shape, strides } = layout;
    // What reaches over more than an address can count is refused whatever this says.
    let bytes = layout.span_bytes().unwrap_or(0);
    // SAFETY: the caller vouches for all that shape and strides reach over.
    unsafe { TensorView::from_raw_parts(tensor.data.addr() as u64, bytes, dtype, shape, strides) }
}

/// The log-sum-exp of rows of this shape.
///
/// # Safety
/// There must be one value for each row.
pub(crate) unsafe fn lse_view(lse: *const f32, rows: Shape) -> LseView<'static> {
    let bytes = Shape { head_dim: size_of::<f32>(), ..rows }.elements().unwrap_or(0);
    // SAFETY: the caller vouches for the values.
    unsafe { LseView::from_raw_parts(lse.addr() as u64, bytes) }
}

/// Where queries stand among the keys.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum fc_align {
    /// Query i stands at key i + seqlen_kv - seqlen_q: the last query at the last key.
    FC_ALIGN_BOTTOM_RIGHT = 0,
    /// Query i stands at key i: the first query at the first key.
    FC_ALIGN_TOP_LEFT = 1,
}

/// Numbers in device memory that are added to scores: (batch, heads_q, seqlen_q, seqlen_kv), of the element type of q.
/// Sizes and strides count elements. Where one of the first three sizes is 1, the same numbers serve all.
///
/// Kernels load the numbers of two neighbouring keys at once. So the last stride is 1, the others are even, and if the
/// number of keys is odd, each row goes on for one element more, which may hold anything.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fc_bias {
    /// Device address of the first number, a multiple of 4 bytes. Null: there is no bias, and the rest is ignored.
    pub data: *const c_void,
    /// Each that of the problem, or 1 but for the keys.
    pub sizes: [usize; 4],
    /// From one number to the next along each dimension; ignored where the size is 1.
    pub strides: [usize; 4],
    /// An `fc_dtype`: that of q.
    pub dtype: i32,
}

impl fc_bias {
    const NONE: Self = fc_bias { data: null(), sizes: [0; 4], strides: [0; 4], dtype: 0 };

    /// # Safety
    /// As [`BiasView::from_raw_parts`], for everything that sizes and strides reach over.
    unsafe fn view(&self) -> Result<Option<BiasView<'static>>, Failure> {
        if self.data.is_null() {
            return Ok(None);
        }
        let layout =
            BiasLayout { dtype: dtype("bias", self.dtype)?, sizes: self.sizes, strides: self.strides };
        // SAFETY: the caller vouches for all that the layout reaches over, so that no number of bytes bounds it.
        Ok(Some(unsafe { BiasView::from_raw_parts(self.data.addr() as u64, usize::MAX, layout) }))
    }
}

/// How attention is computed. All zeros but `struct_size` is the default: every query sees every key.
///
/// Masks compose: where query i stands at key d, it sees the keys j for which all of these hold:
/// `j <= d` if `causal`; `d - window_left <= j`; `j <= d + window_right`; j / chunk = d / chunk, rounded down; or,
/// whatever these say, `j < prefix[b]`. Besides, j must be in the query's range, if there are `key_ranges`, and in one of
/// the blocks that `block_mask` lists for the query's, if there is one.
///
/// All arrays are contiguous, in device memory, and may change between launches of a recorded graph. Numbers in them
/// that lead out of a tensor are taken for its last row, so that nothing else is ever touched; sequences of queries
/// must not overlap.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fc_attention_options {
    /// `sizeof(fc_attention_options)`, set by the caller. That of an older header will do: it asks for nothing newer.
    pub struct_size: usize,
    /// Not 0: query i sees only the keys up to the one that it stands at; `window_right` is ignored. 0: no such limit.
    pub causal: i32,
    /// Not 0: `scale` counts. 0: the scale is 1 / sqrt(head_dim), and `scale` is ignored.
    pub has_scale: i32,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
    /// An `fc_align`: which key a query stands at.
    pub align: i32,
    /// Keys that a query sees before the one that it stands at, if `has_window_left`.
    pub window_left: usize,
    /// Keys that it sees after that one, if `has_window_right`.
    pub window_right: usize,
    /// Not 0: `window_left` counts. 0: all keys before are seen, and `window_left` is ignored.
    pub has_window_left: i32,
    /// Not 0: `window_right` counts. 0: all keys after are seen, and `window_right` is ignored.
    pub has_window_right: i32,
    /// Keys of a chunk: a query sees only the chunk that it stands in. 0: there are no chunks.
    pub chunk: usize,
    /// Scaled scores x become softcap * tanh(x / softcap). 0: they stay.
    pub softcap: f32,
    /// Not 0: the GPU's own hyperbolic tangent will do, which is off by up to 2⁻¹¹ of itself. Ignored without a softcap.
    pub approximate_softcap: i32,
    /// Length of `prefix`, `seqused_q` and `seqused_kv`; `cu_seqlens_q` and `cu_seqlens_kv` have one number more.
    /// Ignored if all of them are null.
    pub num_sequences: usize,
    /// Where sequences begin in q and out, which have batch 1, and at last where the last one ends, in rows. The
    /// log-sum-exp is (1, heads_q, seqlen of q). Null: each sequence of the batch is as long as the tensor.
    pub cu_seqlens_q: *const i32,
    /// The same for k and v.
    pub cu_seqlens_kv: *const i32,
    /// How many queries of each sequence count. Rows beyond them are neither read nor written. Null: all.
    pub seqused_q: *const i32,
    /// How many keys of each sequence count: it is as if there were no others. Null: all.
    pub seqused_kv: *const i32,
    /// How many keys at the start of each sequence all its queries see. It goes with no window to the left and no
    /// chunks. Null: there are no prefixes.
    pub prefix: *const i32,
    /// For each query head a logit, natural, finite or -infinity: its exponential joins the sum of those of each row's
    /// scores, also in the log-sum-exp. Null: there are no sinks.
    pub sinks: *const f32,
    /// Length of `sinks`, which must be heads_q. Ignored if that is null.
    pub num_sinks: usize,
    /// For each query head h a slope (ALiBi): `-slope * |i + seqlen_kv - seqlen_q - j|` is added to the score of query
    /// i and key j, scaled and capped. Either (heads_q), or (sequences, heads_q). Null: nothing is added.
    pub alibi_slopes: *const f32,
    /// Length of `alibi_slopes`: heads_q, or that times the number of sequences. Ignored if that is null.
    pub num_alibi_slopes: usize,
    /// `bias[b, h, i, j]` is added to the score of query i and key j, scaled and capped; -infinity hides a key. It goes
    /// with sequences that are not packed.
    pub bias: fc_bias,
    /// Each weight is left out with this probability, at least 0 and below 1; those that are kept count 1 / keep times,
    /// where keep = 1 - dropout_p is rounded to a multiple of 1/256, of which it is at least one. The log-sum-exp is that
    /// of all weights. Whether a weight is kept is a function of seed, offset, sequence, number of query heads, head,
    /// query and key, and of nothing else; `fc_dropout_mask` writes it out. 0: nothing is left out.
    pub dropout_p: f32,
    /// Tells random numbers of one seed apart: say, those of a step or of a layer.
    pub dropout_offset: u32,
    /// Seed of the random numbers. Seed and offset are those of the call: each replay of a recorded graph leaves out the
    /// same weights.
    pub dropout_seed: u64,
    /// Each query sees only keys of its own range.
    pub key_ranges: fc_key_ranges,
    /// Blocks of queries see only the blocks of keys that are listed for them.
    pub block_mask: fc_block_mask,
}

impl fc_attention_options {
    /// Size of the struct in the first header, which ended with `scale`.
    const FIRST_SIZE: usize = 24;
    /// Size in the second header, which ended with `num_sinks`.
    const SECOND_SIZE: usize = 128;
    /// Size in the third header, which ended with `bias`.
    const THIRD_SIZE: usize = 224;
    /// Size in the fourth header, which ended with `dropout_seed`.
    const FOURTH_SIZE: usize = 240;

    /// The default.
    const PLAIN: Self = fc_attention_options {
        struct_size: size_of::<Self>(),
        causal: 0,
        has_scale: 0,
        scale: 0.0,
        align: fc_align::FC_ALIGN_BOTTOM_RIGHT as i32,
        window_left: 0,
        window_right: 0,
        has_window_left: 0,
        has_window_right: 0,
        chunk: 0,
        softcap: 0.0,
        approximate_softcap: 0,
        num_sequences: 0,
        cu_seqlens_q: null(),
        cu_seqlens_kv: null(),
        seqused_q: null(),
        seqused_kv: null(),
        prefix: null(),
        sinks: null(),
        num_sinks: 0,
        alibi_slopes: null(),
        num_alibi_slopes: 0,
        bias: fc_bias::NONE,
        dropout_p: 0.0,
        dropout_offset: 0,
        dropout_seed: 0,
        key_ranges: fc_key_ranges::NONE,
        block_mask: fc_block_mask::NONE,
    };

    /// # Safety
    /// The arrays must be what [`ArrayView::from_raw_parts`] asks for, and the bias what [`BiasView::from_raw_parts`]
    /// does.
    unsafe fn attention(&self) -> Result<Attention<'static>, Failure> {
        let align = match self.align {
            found if found == fc_align::FC_ALIGN_BOTTOM_RIGHT as i32 => Align::BottomRight,
            found if found == fc_align::FC_ALIGN_TOP_LEFT as i32 => Align::TopLeft,
            found => return Err(Failure::UnknownAlign { found }),
        };
        let left = (self.has_window_left != 0).then_some(self.window_left);
        let right = (self.has_window_right != 0).then_some(self.window_right);
        let (sequences, starts) = (self.num_sequences, self.num_sequences.saturating_add(1));
        let mut lengths = Sequences::new();
        // SAFETY: the caller's, of all arrays.
        unsafe {
            lengths = array(self.cu_seqlens_q, starts).map_or(lengths, |array| lengths.starts_q(array));
            lengths = array(self.cu_seqlens_kv, starts).map_or(lengths, |array| lengths.starts_kv(array));
            lengths = array(self.seqused_q, sequences).map_or(lengths, |array| lengths.used_q(array));
            lengths = array(self.seqused_kv, sequences).map_or(lengths, |array| lengths.used_kv(array));
        }
        let mut call =
            Attention::new().causal(self.causal != 0).window(left, right).align(align).sequences(lengths);
        if self.has_scale != 0 {
            call = call.scale(self.scale);
        }
        if self.chunk != 0 {
            call = call.chunk(self.chunk);
        }
        if self.softcap != 0.0 {
            call = match self.approximate_softcap {
                0 => call.softcap(self.softcap),
                _ => call.approximate_softcap(self.softcap),
            };
        }
        if self.dropout_p != 0.0 {
            call = call.dropout(Dropout::new(self.dropout_p, self.dropout_seed).offset(self.dropout_offset));
        }
        // SAFETY: as above.
        unsafe {
            call = array(self.prefix, sequences).map_or(call, |array| call.prefix(array));
            call = array(self.sinks, self.num_sinks).map_or(call, |array| call.sinks(array));
            call = array(self.alibi_slopes, self.num_alibi_slopes).map_or(call, |array| call.alibi(array));
            call = self.bias.view()?.map_or(call, |bias| call.bias(bias));
            call = self.key_ranges.view().map_or(call, |ranges| call.key_ranges(ranges));
            call = self.block_mask.view().map_or(call, |mask| call.block_mask(mask));
        }
        Ok(call)
    }
}

/// An array of the caller's, unless it is null.
///
/// # Safety
/// As [`ArrayView::from_raw_parts`].
pub(crate) unsafe fn array<T>(pointer: *const T, len: usize) -> Option<ArrayView<'static, T>> {
    // SAFETY: the caller's.
    (!pointer.is_null()).then(|| unsafe { ArrayView::from_raw_parts(pointer.addr() as u64, len) })
}

/// The caller's options; null means the default.
///
/// # Safety
/// The pointer must be null, or point to a struct whose `struct_size` is set. Its arrays are those of
/// [`ArrayView::from_raw_parts`], its bias is that of [`BiasView::from_raw_parts`].
pub(crate) unsafe fn attention(options: *const fc_attention_options) -> Result<Attention<'static>, Failure> {
    let mut ours = fc_attention_options::PLAIN;
    if !options.is_null() {
        // SAFETY: not null, and the caller vouches for the rest.
        let struct_size = unsafe { (&raw const (*options).struct_size).read_unaligned() };
        let known = match struct_size {
            // What follows the scale was padding, which may hold anything.
            fc_attention_options::FIRST_SIZE => offset_of!(fc_attention_options, align),
            older @ (fc_attention_options::SECOND_SIZE
            | fc_attention_options::THIRD_SIZE
            | fc_attention_options::FOURTH_SIZE) => older,
            _ => {
                require_size::<fc_attention_options>(struct_size, "options")?;
                struct_size
            }
        };
        // SAFETY: the caller's struct has so many bytes, and ours, too; numbers and addresses may be any.
        unsafe { options.cast::<u8>().copy_to_nonoverlapping((&raw mut ours).cast(), known) };
        if struct_size < size_of::<fc_attention_options>() {
            // What had no meaning then.
            ours.approximate_softcap = 0;
        }
    }
    // SAFETY: the caller's.
    unsafe { ours.attention() }
}

/// A tensor of the caller's, with its layout.
///
/// # Safety
/// The pointer must be null, or point to a struct.
pub(crate) unsafe fn tensor(
    tensor: *const fc_tensor,
    operand: &'static str,
) -> Result<(fc_tensor, TensorLayout), Failure> {
    required(tensor, operand)?;
    // SAFETY: not null, and the caller vouches for the rest.
    let tensor = unsafe { tensor.read_unaligned() };
    Ok((tensor, tensor.layout(operand)?))
}

/// The tensors q, k, v and out, with their layouts.
///
/// # Safety
/// The pointers must be null, or point to structs.
pub(crate) unsafe fn tensors(
    [q, k, v, out]: [*const fc_tensor; 4],
) -> Result<[(fc_tensor, TensorLayout); 4], Failure> {
    // SAFETY: the caller's.
    unsafe { Ok([tensor(q, "q")?, tensor(k, "k")?, tensor(v, "v")?, tensor(out, "out")?]) }
}

/// Submits `out = softmax(scale * q k^T) v` to `stream` and returns, most often before it is computed. Allocates no
/// device memory, waits for nothing, and may be recorded in a CUDA graph.
///
/// q and out are (batch, seqlen_q, heads_q, head_dim), k and v (batch, seqlen_kv, heads_kv, head_dim); heads_q is a
/// multiple of heads_kv, and query head h reads K/V head h / (heads_q / heads_kv). v and out may have another head_dim
/// than q and k. Sums are in f32. A row that sees no
/// key becomes zeros. `options` says which keys a query sees, and where sequences begin and end.
///
/// `lse`, unless null, gets the natural logarithm of the sum of the exponentials of each row's scaled scores: f32,
/// contiguous (batch, heads_q, seqlen_q), -infinity for a row that sees no key.
///
/// After an error nothing was submitted, with two exceptions: FC_ERROR_HAZARDS and FC_ERROR_EMULATOR_REFUSED may leave
/// anything in the outputs. The structs are read during the call only; `options` may be null.
///
/// # Safety
/// `stream` must be a live stream (`CUstream` or `cudaStream_t`), or null, the default stream. The structs must be
/// null, which is an error, or readable. Everything that a tensor's shape and strides reach over, the arrays and the
/// bias of `options` and the whole of `lse` must stay allocated until the work has completed; until then, nothing else
/// may write inputs, or use outputs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_attention_forward(
    device: *const fc_device,
    stream: *mut c_void,
    q: *const fc_tensor,
    k: *const fc_tensor,
    v: *const fc_tensor,
    out: *const fc_tensor,
    lse: *mut f32,
    options: *const fc_attention_options,
) -> fc_status {
    call(|| {
        let opened = opened(device)?;
        // SAFETY: the caller vouches for structs and stream.
        let (tensors, attention, stream) =
            unsafe { (tensors([q, k, v, out])?, attention(options)?, opened.stream(stream)?) };
        // SAFETY: the caller vouches for all that shape and strides reach over.
        let [q, k, v, out] = tensors.map(|tensor| unsafe { view(tensor) });
        // SAFETY: the caller vouches for one value for each query.
        let lse = (!lse.is_null()).then(|| unsafe { lse_view(lse, q.shape()) });
        Ok(attention.forward_into(&stream, &q, &k, &v, &out, lse)?)
    })
}

/// Writes how the device would compute this: kernel, tiles, grid, estimated time. For people; the text changes between
/// versions. Shapes, strides and options are checked as by `fc_attention_forward`, addresses are not looked at.
///
/// `length` gets the length of the text without its final zero byte. If `buffer` is null that is all; otherwise the
/// text is written to it, and a zero byte, or nothing if `capacity` bytes are not enough.
///
/// # Safety
/// `buffer` must be null, or point to `capacity` bytes; all else must be null, which is an error but for `options`, or
/// point to what its type says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_attention_plan_text(
    device: *const fc_device,
    q: *const fc_tensor,
    k: *const fc_tensor,
    v: *const fc_tensor,
    out: *const fc_tensor,
    options: *const fc_attention_options,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> fc_status {
    call(|| {
        let device = &opened(device)?.device;
        // SAFETY: the caller vouches for the structs.
        let (tensors, attention) = unsafe { (tensors([q, k, v, out])?, attention(options)?) };
        required(length, "length")?;
        let problem = attention.problem_of(tensors.map(|(_, layout)| layout))?;
        let text = Plan::new(&problem, device.properties())?.to_string();
        // SAFETY: not null, and the caller vouches for the rest.
        unsafe { length.write_unaligned(text.len()) };
        if buffer.is_null() {
            return Ok(());
        }
        if capacity <= text.len() {
            return Err(Failure::BufferTooSmall { needed: text.len() + 1, capacity });
        }
        // SAFETY: the caller vouches for `capacity` bytes, which are enough for the text and a zero.
        unsafe {
            buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
            buffer.add(text.len()).write(0);
        }
        Ok(())
    })
}
