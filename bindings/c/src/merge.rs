//! Merging attention states.

use std::ffi::c_void;

use flashcore::merge_attention_states_into;

use crate::attention::{fc_tensor, lse_view, tensor, view};
use crate::call::call;
use crate::device::{fc_device, opened};
use crate::status::fc_status;

/// Submits `lse = ln(exp lse1 + exp lse2)`, `out = exp(lse1 - lse) o1 + exp(lse2 - lse) o2` to `stream` and returns,
/// most often before it is computed: the states, output and log-sum-exp, of two calls of `fc_attention_forward` with
/// the same queries and disjoint sets of keys become that of one call over all of these keys. Allocates no device
/// memory, waits for nothing, and may be recorded in a CUDA graph.
///
/// o1, o2 and out are (batch, seqlen, heads, head_dim) of one element type, head_dim a multiple of 8 up to 512. The
/// log-sum-exps are f32, contiguous (batch, heads, seqlen); `lse` may be null, if it is not wanted. Sums are in f32. A
/// state whose log-sum-exp is -infinity weighs nothing, whatever its output holds; if both are, the row is zeros. A
/// log-sum-exp of NaN or +infinity makes its row NaN.
///
/// It may be done in place: out may be o1 or o2 (the same address, shape and strides), and `lse` may be `lse1` or
/// `lse2`.
///
/// After an error nothing was submitted, with two exceptions: FC_ERROR_HAZARDS and FC_ERROR_EMULATOR_REFUSED may leave
/// anything in the outputs. The structs are read during the call only.
///
/// # Safety
/// `stream` must be a live stream (`CUstream` or `cudaStream_t`), or null, the default stream. The structs must be
/// null, which is an error, or readable. Everything that a tensor's shape and strides reach over, and the whole of each
/// log-sum-exp, must stay allocated until the work has completed; until then, nothing else may write inputs, or use
/// outputs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_merge_attention_states(
    device: *const fc_device,
    stream: *mut c_void,
    o1: *const fc_tensor,
    lse1: *const f32,
    o2: *const fc_tensor,
    lse2: *const f32,
    out: *const fc_tensor,
    lse: *mut f32,
) -> fc_status {
    call(|| {
        let opened = opened(device)?;
        // SAFETY: the caller vouches for structs and stream.
        let (tensors, stream) =
            unsafe { ([tensor(o1, "o1")?, tensor(o2, "o2")?, tensor(out, "out")?], opened.stream(stream)?) };
        // SAFETY: the caller vouches for all that shape and strides reach over.
        let [o1, o2, out] = tensors.map(|tensor| unsafe { view(tensor) });
        // SAFETY: the caller vouches for one value for each row.
        let [lse1, lse2] = [lse1, lse2].map(|lse| unsafe { lse_view(lse, o1.shape()) });
        // SAFETY: as above.
        let lse = (!lse.is_null()).then(|| unsafe { lse_view(lse, o1.shape()) });
        Ok(merge_attention_states_into(&stream, &o1, lse1, &o2, lse2, &out, lse)?)
    })
}
