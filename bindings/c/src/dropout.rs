//! Which weights dropout keeps.

use std::ffi::c_void;

use flashcore::{ArrayView, Dropout, dropout_mask_into};

use crate::call::call;
use crate::device::{fc_device, opened};
use crate::status::fc_status;

/// Submits to `stream` what tells which weights a call with this dropout keeps, and returns, most often before it is
/// computed: bytes, 1 for a weight that is kept and 0 for one that is left out, contiguous (batch, heads_q, seqlen_q,
/// seqlen_kv), of these sizes. For checks, and for who computes attention, or its gradients, in other ways. Of packed
/// sequences, `batch` are all sequences, and the sizes those of the longest. Allocates no device memory, waits for
/// nothing, and may be recorded in a CUDA graph.
///
/// `p`, `seed` and `offset` are `dropout_p`, `dropout_seed` and `dropout_offset` of `fc_attention_options`.
///
/// After an error nothing was submitted.
///
/// # Safety
/// `stream` must be a live stream (`CUstream` or `cudaStream_t`), or null, the default stream. `mask` must be a device
/// address of as many bytes as the sizes multiply to, which stay allocated, and are not used otherwise, until the work
/// has completed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_dropout_mask(
    device: *const fc_device,
    stream: *mut c_void,
    p: f32,
    seed: u64,
    offset: u32,
    batch: usize,
    heads_q: usize,
    seqlen_q: usize,
    seqlen_kv: usize,
    mask: *mut u8,
) -> fc_status {
    call(|| {
        let opened = opened(device)?;
        // SAFETY: the caller vouches for the stream.
        let stream = unsafe { opened.stream(stream)? };
        let sizes = [batch, heads_q, seqlen_q, seqlen_kv];
        // Sizes that multiply to more are refused.
        let bytes = sizes.into_iter().fold(1usize, usize::saturating_mul);
        // SAFETY: the caller vouches for so many bytes.
        let mask = unsafe { ArrayView::from_raw_parts(mask.addr() as u64, bytes) };
        Ok(dropout_mask_into(&stream, Dropout::new(p, seed).offset(offset), sizes, mask)?)
    })
}
