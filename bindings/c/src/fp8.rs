//! Attention over 8 bits: room for rounded q, k and v, and the call that rounds them and attends.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use flashcore::{Device, Fp8, Fp8Qkv, Fp8Rounding, Shape};

use crate::attention::{attention, fc_attention_options, fc_tensor, lse_view, tensors, view};
use crate::call::{call, require_size, required};
use crate::device::{Opened, all_opened, fc_device, next_handle, opened};
use crate::status::{Failure, fc_status};

/// Element types of 8 bits.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum fc_fp8 {
    /// 4 significant bits, from 2⁻⁶ to 448.
    FC_E4M3 = 1,
    /// 3 significant bits, from 2⁻¹⁴ to 57344. Masks are none and causal; it goes with neither softcap nor sinks, packed
    /// sequences nor numbers of rows that count.
    FC_E5M2 = 2,
}

/// How numbers become numbers of 8 bits. Each is divided by the descale of its head, a power of 2 with which the head's
/// largest number just fits the format, and rounded to the nearest; kernels multiply with the descales again.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fc_fp8_options {
    /// `sizeof(fc_fp8_options)`, set by the caller.
    pub struct_size: usize,
    /// An `fc_fp8`: that of q, k and v.
    pub format: i32,
    /// Not 0: q and k are rotated before they are rounded (signs and a Hadamard matrix), which spreads numbers that are
    /// much larger than others. Scores are what they were. 0: they are rounded as they are.
    pub rotated: i32,
    /// Not 0: one descale for all heads of q, of k and of v. 0: one for each head of each sequence.
    pub per_tensor: i32,
    /// How many packed sequences q has, whose batch is 1; 0: none, as where the calls' `cu_seqlens_q` is null.
    pub num_sequences_q: usize,
    /// The same of k and v.
    pub num_sequences_kv: usize,
}

/// By which random numbers q, k and v are rounded: each number becomes one of its two neighbours in the format, such that
/// what is rounded is right on average.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fc_fp8_stochastic {
    /// `sizeof(fc_fp8_stochastic)`, set by the caller.
    pub struct_size: usize,
    /// What becomes of a number follows from its place, the seed and the offset, and from nothing else.
    pub seed: u64,
    /// Other random numbers of the same seed: say, those of a step or of a layer.
    pub offset: u32,
}

impl fc_fp8_options {
    fn kind(&self) -> Result<Fp8, Failure> {
        match self.format {
            found if found == fc_fp8::FC_E4M3 as i32 => Ok(Fp8::E4m3),
            found if found == fc_fp8::FC_E5M2 as i32 => Ok(Fp8::E5m2),
            found => Err(Failure::UnknownFp8 { found }),
        }
    }

    /// Room for q, k and v of these shapes, which are rounded as the options say.
    fn room(&self, device: &Device, shapes: [Shape; 3]) -> Result<Fp8Qkv, Failure> {
        let packed = [self.num_sequences_q, self.num_sequences_kv].map(|count| (count != 0).then_some(count));
        let room = Fp8Qkv::for_sequences(device, self.kind()?, shapes, packed)?;
        let room = if self.rotated != 0 { room.rotated() } else { room };
        Ok(if self.per_tensor != 0 { room.per_tensor() } else { room })
    }
}

/// Device memory for q, k and v of 8 bits, and their descales. As of devices, handles are never dereferenced, and no number
/// is given twice, so that using one after `fc_fp8_qkv_destroy` is an error and not a crash.
pub struct fc_fp8_qkv {
    _opaque: (),
}

/// Rooms by the numbers that their handles are. A call that rounds into one and reads it holds its lock, so that those of
/// other threads come before or behind it on the stream.
pub(crate) type Rooms = BTreeMap<usize, Arc<Mutex<Fp8Qkv>>>;

/// The room of a handle, and its device.
fn room(handle: *const fc_fp8_qkv) -> Result<(Arc<Opened>, Arc<Mutex<Fp8Qkv>>), Failure> {
    let number = handle.addr();
    let found = all_opened().into_iter().find_map(|opened| {
        let room = opened.rooms().get(&number).cloned();
        room.map(|room| (opened, room))
    });
    found.ok_or(Failure::Fp8QkvHandle { handle: number })
}

/// Makes room for q, k and v of 8 bits, which `fc_attention_fp8` needs. Of the three tensors only batch, seqlen, heads and
/// head_dim are looked at, which are those of the calls to come; head_dim is a multiple of 8 up to 256.
///
/// Each call gives a new handle. Room may be used again and again, but only by one call at a time: the calls are on one
/// stream (that of a thread, `cudaStreamPerThread`, is another one in each), or each waits for the one before it. Closing the device destroys it, too.
///
/// # Safety
/// The structs must be null, which is an error, or readable, and `options` with its `struct_size` set. `qkv` must be null,
/// which is an error, or point to where the handle is to be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_fp8_qkv_create(
    device: *const fc_device,
    q: *const fc_tensor,
    k: *const fc_tensor,
    v: *const fc_tensor,
    options: *const fc_fp8_options,
    qkv: *mut *mut fc_fp8_qkv,
) -> fc_status {
    call(|| {
        let opened = opened(device)?;
        required(q, "q")?;
        required(k, "k")?;
        required(v, "v")?;
        required(options, "options")?;
        required(qkv, "qkv")?;
        // SAFETY: not null, and the caller vouches for the rest.
        let struct_size = unsafe { (&raw const (*options).struct_size).read_unaligned() };
        require_size::<fc_fp8_options>(struct_size, "options")?;
        // SAFETY: as above; the struct is as large as ours.
        let (options, tensors) =
            unsafe { (options.read_unaligned(), [q, k, v].map(|tensor| tensor.read_unaligned())) };
        let room = options.room(&opened.device, tensors.map(|tensor| tensor.shape()))?;
        let number = next_handle();
        opened.rooms().insert(number, Arc::new(Mutex::new(room)));
        // SAFETY: not null, and the caller vouches for the rest.
        unsafe { qkv.write_unaligned(std::ptr::without_provenance_mut(number)) };
        Ok(())
    })
}

/// Frees such room, when all work of the device is done. Null is allowed and does nothing. Graphs that recorded calls with
/// it must not be launched any more.
#[unsafe(no_mangle)]
pub extern "C" fn fc_fp8_qkv_destroy(qkv: *mut fc_fp8_qkv) -> fc_status {
    call(|| {
        if qkv.is_null() {
            return Ok(());
        }
        let (opened, _) = room(qkv)?;
        let destroyed = opened.rooms().remove(&qkv.addr());
        destroyed.map(drop).ok_or(Failure::Fp8QkvHandle { handle: qkv.addr() })
    })
}

/// As `fc_attention_forward` on the device of `qkv`, by way of 8 bits: submits to `stream` what rounds q, k and v into the
/// room of `qkv`, and attention over what is there. Allocates no device memory, waits for nothing, and may be recorded in a
/// CUDA graph.
///
/// q, k and v are f16 or bf16, all of one type, of the shapes that the room was made for; out is f16 or bf16, and may lie
/// where q, k or v do: they have been rounded by then. Scores, softmax and sums are f32; weights are rounded to e4m3. O is
/// off by some percent of its root mean square, the log-sum-exp by what rounding does to scores.
///
/// `options` may say what `fc_attention_forward` takes, but for what there is no kernel for: FC_ERROR_FP8_FEATURES. Rows that
/// are no sequence's are not rounded. `stochastic` null: numbers are rounded to the nearest.
///
/// After an error `out` and `lse` are as they were, with two exceptions: FC_ERROR_HAZARDS and FC_ERROR_EMULATOR_REFUSED may
/// leave anything in them. The structs are read during the call only; `options` may be null.
///
/// # Safety
/// As of `fc_attention_forward`; besides, work that used `qkv` before must be done, or come earlier on `stream`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_attention_fp8(
    qkv: *const fc_fp8_qkv,
    stream: *mut c_void,
    q: *const fc_tensor,
    k: *const fc_tensor,
    v: *const fc_tensor,
    out: *const fc_tensor,
    lse: *mut f32,
    options: *const fc_attention_options,
    stochastic: *const fc_fp8_stochastic,
) -> fc_status {
    call(|| {
        let (opened, room) = room(qkv)?;
        // SAFETY: the caller vouches for structs and stream.
        let (tensors, attention, stream) =
            unsafe { (tensors([q, k, v, out])?, attention(options)?, opened.stream(stream)?) };
        // SAFETY: the caller vouches for all that shape and strides reach over.
        let [q, k, v, out] = tensors.map(|tensor| unsafe { view(tensor) });
        // SAFETY: the caller vouches for one value for each query.
        let lse = (!lse.is_null()).then(|| unsafe { lse_view(lse, q.shape()) });
        let mut rounding = Fp8Rounding::new().sequences(attention.get_sequences());
        if !stochastic.is_null() {
            // SAFETY: not null, and the caller vouches for the rest.
            let struct_size = unsafe { (&raw const (*stochastic).struct_size).read_unaligned() };
            require_size::<fc_fp8_stochastic>(struct_size, "stochastic")?;
            // SAFETY: as above; the struct is as large as ours.
            let fc_fp8_stochastic { seed, offset, .. } = unsafe { stochastic.read_unaligned() };
            rounding = rounding.stochastic(seed, offset);
        }
        let room = room.lock().unwrap_or_else(PoisonError::into_inner);
        room.round_with(&stream, rounding, &q, &k, &v)?;
        let (q, k, v) = (room.q.view(), room.k.view(), room.v.view());
        Ok(attention.forward_fp8_into(&stream, q, k, v, &out, lse)?)
    })
}
