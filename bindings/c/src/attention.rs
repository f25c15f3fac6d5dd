//! Attention: C's structs made into views, and the two calls on them.

use std::ffi::{c_char, c_void};

use flashcore::{Attention, Dtype, LseView, Plan, Problem, Shape, Strides, TensorLayout, TensorView};

use crate::call::{call, require_size, required};
use crate::device::{fc_device, opened};
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
    /// Elements of a head: a multiple of 8 up to 256, or up to 512 where states are merged.
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

impl fc_tensor {
    pub(crate) fn layout(&self, operand: &'static str) -> Result<TensorLayout, Failure> {
        let dtype = match self.dtype {
            found if found == fc_dtype::FC_F16 as i32 => Dtype::F16,
            found if found == fc_dtype::FC_BF16 as i32 => Dtype::Bf16,
            found => return Err(Failure::UnknownDtype { operand, found }),
        };
        let shape = Shape::new(self.batch, self.seqlen, self.heads, self.head_dim);
        let strides =
            Strides { batch: self.stride_batch, seqlen: self.stride_seqlen, heads: self.stride_heads };
        Ok(TensorLayout { dtype, shape, strides })
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

/// How attention is computed. All zeros but `struct_size` is the default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fc_attention_options {
    /// `sizeof(fc_attention_options)`, set by the caller.
    pub struct_size: usize,
    /// Not 0: query i sees only the keys up to i + seqlen_kv - seqlen_q (aligned bottom-right). 0: it sees every key.
    pub causal: i32,
    /// Not 0: `scale` counts. 0: the scale is 1 / sqrt(head_dim), and `scale` is ignored.
    pub has_scale: i32,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
}

impl fc_attention_options {
    fn causal(&self) -> bool {
        self.causal != 0
    }

    fn scale(&self) -> Option<f32> {
        (self.has_scale != 0).then_some(self.scale)
    }

    fn attention(&self) -> Attention<'static> {
        let attention = Attention::new().causal(self.causal());
        self.scale().map_or(attention, |scale| attention.scale(scale))
    }
}

/// The caller's options; null means the default.
///
/// # Safety
/// The pointer must be null, or point to a struct whose `struct_size` is set.
unsafe fn options(options: *const fc_attention_options) -> Result<fc_attention_options, Failure> {
    if options.is_null() {
        let struct_size = size_of::<fc_attention_options>();
        return Ok(fc_attention_options { struct_size, causal: 0, has_scale: 0, scale: 0.0 });
    }
    // SAFETY: not null, and the caller vouches for the rest.
    let struct_size = unsafe { (&raw const (*options).struct_size).read_unaligned() };
    require_size::<fc_attention_options>(struct_size, "options")?;
    // SAFETY: as above; the struct is as large as ours.
    Ok(unsafe { options.read_unaligned() })
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
unsafe fn tensors([q, k, v, out]: [*const fc_tensor; 4]) -> Result<[(fc_tensor, TensorLayout); 4], Failure> {
    // SAFETY: the caller's.
    unsafe { Ok([tensor(q, "q")?, tensor(k, "k")?, tensor(v, "v")?, tensor(out, "out")?]) }
}

/// Submits `out = softmax(scale * q k^T) v` to `stream` and returns, most often before it is computed. Allocates no
/// device memory, waits for nothing, and may be recorded in a CUDA graph.
///
/// q and out are (batch, seqlen_q, heads_q, head_dim), k and v (batch, seqlen_kv, heads_kv, head_dim); heads_q is a
/// multiple of heads_kv, and query head h reads K/V head h / (heads_q / heads_kv). Sums are in f32. A row that sees no key
/// becomes zeros.
///
/// `lse`, unless null, gets the natural logarithm of the sum of the exponentials of each row's scaled scores: f32,
/// contiguous (batch, heads_q, seqlen_q), -infinity for a row that sees no key.
///
/// After an error nothing was submitted, with two exceptions: FC_ERROR_HAZARDS and FC_ERROR_EMULATOR_REFUSED may leave
/// anything in the outputs. The structs are read during the call only; `options` may be null.
///
/// # Safety
/// `stream` must be a live stream (`CUstream` or `cudaStream_t`), or null, the default stream. The structs must be null,
/// which is an error, or readable. Everything that a tensor's shape and strides reach over, and the whole of `lse`, must
/// stay allocated until the work has completed; until then, nothing else may write inputs, or use outputs.
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
        let (tensors, options, stream) =
            unsafe { (tensors([q, k, v, out])?, self::options(options)?, opened.stream(stream)?) };
        // SAFETY: the caller vouches for all that shape and strides reach over.
        let [q, k, v, out] = tensors.map(|tensor| unsafe { view(tensor) });
        // SAFETY: the caller vouches for one value for each query.
        let lse = (!lse.is_null()).then(|| unsafe { lse_view(lse, q.shape()) });
        Ok(options.attention().forward_into(&stream, &q, &k, &v, &out, lse)?)
    })
}

/// Writes how the device would compute this: kernel, tiles, grid, estimated time. For people; the text changes between
/// versions. Shapes, strides and options are checked as by `fc_attention_forward`, addresses are not looked at.
///
/// `length` gets the length of the text without its final zero byte. If `buffer` is null that is all; otherwise the text
/// is written to it, and a zero byte, or nothing if `capacity` bytes are not enough.
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
        let (tensors, options) = unsafe { (tensors([q, k, v, out])?, self::options(options)?) };
        required(length, "length")?;
        let [q, k, v, out] = tensors.map(|(_, layout)| layout);
        let problem = Problem::new(q, k, v, out, options.causal(), options.scale())?;
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
