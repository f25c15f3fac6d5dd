//! Attention by way of 8 bits.

#[cfg(feature = "cuda")]
use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::ThreadId,
};

use flashcore::{
    AsTensorView, Attention, Device, Fp8, Fp8Qkv, Fp8Rounding, LseView, Shape, Stream, TensorView,
};

/// How q, k and v become numbers of 8 bits. Each is divided by the descale of its head, a power of 2 with which the head's
/// largest number just fits the format, and rounded to the nearest; kernels multiply with the descales again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8Options {
    kind: Fp8,
    rotated: bool,
    per_tensor: bool,
    /// Seed and offset.
    stochastic: Option<(u64, u32)>,
}

impl Fp8Options {
    /// Rounding to this format, with a descale for each head of each sequence.
    pub const fn new(kind: Fp8) -> Self {
        Fp8Options { kind, rotated: false, per_tensor: false, stochastic: None }
    }

    /// Rotates q and k before they are rounded, which spreads columns that are much larger than others; scores are what
    /// they were. See [`Fp8Qkv::rotated`].
    pub const fn rotated(mut self) -> Self {
        self.rotated = true;
        self
    }

    /// One descale for all heads of q, of k and of v.
    pub const fn per_tensor(mut self) -> Self {
        self.per_tensor = true;
        self
    }

    /// Each number becomes one of its two neighbours in the format, by chance, right on average: by the random numbers of
    /// a seed and an offset. See [`Fp8Rounding::stochastic`].
    pub const fn stochastic(mut self, seed: u64, offset: u32) -> Self {
        self.stochastic = Some((seed, offset));
        self
    }

    /// Room for q, k and v of these shapes and so many packed sequences, which are rounded so.
    pub(crate) fn room(
        self,
        device: &Device,
        shapes: [Shape; 3],
        packed: [Option<usize>; 2],
    ) -> flashcore::Result<Fp8Qkv> {
        let room = Fp8Qkv::for_sequences(device, self.kind, shapes, packed)?;
        let room = if self.rotated { room.rotated() } else { room };
        Ok(if self.per_tensor { room.per_tensor() } else { room })
    }
}

/// Submits attention: where there is room, over q, k and v as they are rounded into it.
pub(crate) fn submit(
    attention: &Attention<'_>,
    fp8: Option<(Fp8Options, &Fp8Qkv)>,
    stream: &Stream,
    [q, k, v]: [TensorView<'_>; 3],
    out: &impl AsTensorView,
    lse: Option<LseView<'_>>,
) -> flashcore::Result<()> {
    let Some((options, room)) = fp8 else { return attention.forward_into(stream, &q, &k, &v, out, lse) };
    let rounding = Fp8Rounding::new().sequences(attention.get_sequences());
    let rounding = match options.stochastic {
        Some((seed, offset)) => rounding.stochastic(seed, offset),
        None => rounding,
    };
    room.round_with(stream, rounding, &q, &k, &v)?;
    attention.forward_fp8_into(stream, room.q.view(), room.k.view(), room.v.view(), out, lse)
}

/// A room that is kept, and what it is for: thread, number of the device, stream, rounding, shapes, packed sequences.
#[cfg(feature = "cuda")]
type Kept = ((ThreadId, usize, u64, Fp8Options, [Shape; 3], [Option<usize>; 2]), Arc<Mutex<Fp8Qkv>>);

/// A room for these shapes that only calls of this thread on this stream use, of the eight that were used last. Whoever
/// submits a call locks it: it is written and then read, and calls come one behind the other on a stream. Making room anew
/// for each call would be as safe, but freeing it waits for the device.
#[cfg(feature = "cuda")]
pub(crate) fn kept_room(
    options: Fp8Options,
    stream: &Stream,
    shapes: [Shape; 3],
    packed: [Option<usize>; 2],
) -> flashcore::Result<Arc<Mutex<Fp8Qkv>>> {
    const MOST: usize = 8;
    // The last one was used last.
    static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());
    // The same room serves all seeds.
    let options = Fp8Options { stochastic: None, ..options };
    // candle's default stream has one handle for all threads, but is another one in each.
    let thread = std::thread::current().id();
    let key = (thread, stream.device().properties().ordinal, stream.raw(), options, shapes, packed);
    let lock = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut kept = lock();
    if let Some(place) = kept.iter().position(|(of, _)| *of == key) {
        kept[place..].rotate_left(1);
        return Ok(kept[kept.len() - 1].1.clone());
    }
    drop(kept);
    let room = Arc::new(Mutex::new(options.room(stream.device(), shapes, packed)?));
    let mut kept = lock();
    kept.push((key, room.clone()));
    let surplus = kept.len().saturating_sub(MOST);
    let old: Vec<_> = kept.drain(..surplus).collect();
    drop(kept);
    // Freed without the lock, since it waits for all work of the device.
    drop(old);
    Ok(room)
}
