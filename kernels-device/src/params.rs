//! What the host passes to a kernel, by value: nothing to keep alive, nothing to copy first.

use crate::divisor::Divisor;

/// The 128-byte descriptor of a tensor for the TMA unit (`CUtensorMap`), opaque to everyone but the driver.
///
/// The hardware wants it 64-byte aligned. rustc accepts at most 16 for a kernel parameter, so the builder raises
/// the alignment of these parameters in the finished PTX.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap(pub [u64; 16]);

const _: () = assert!(size_of::<TensorMap>() == 128);

/// Run-time parameters of a forward kernel. Everything that does not change the code's shape is here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FwdParams {
    /// Device address of the log-sum-exp output, f32, contiguous (batch, heads_q, seqlen_q); 0 if not asked for.
    pub lse: u64,
    /// Query rows of each head.
    pub seqlen_q: u32,
    /// Keys of each head.
    pub seqlen_kv: u32,
    /// Query heads.
    pub heads_q: Divisor,
    /// Query heads that share one K/V head (1 is MHA, `heads_q` is MQA).
    pub gqa_ratio: Divisor,
    /// What there is to compute.
    pub work: Work,
    /// `scale * log2(e)`: exponents are taken with base 2.
    pub scale_log2: f32,
}

const _: () = assert!(size_of::<FwdParams>() == 8 + 2 * 4 + 2 * 12 + 44 + 4);

/// The work of a launch, in *units*: what a cluster of CTAs (often of one) takes at a time, as many neighbouring tiles of
/// `block_m` query rows of one head as it has CTAs that share K and V.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Query heads over all sequences.
    pub heads: u32,
    /// Places that clusters move on from one round to the next, without a mask. If there are few units in a head, each
    /// cluster then gets every one of them about as often: the last one is often smaller.
    pub turn: u32,
    /// Units of a head; its last one may lie partly beyond the head's end.
    pub head_units: Divisor,
    /// Heads of a *section*: those that are worked on together, so that their K and V stay in L2.
    pub section: Divisor,
    /// Heads of the last section: what is left.
    pub last_section: Divisor,
}

const _: () = assert!(size_of::<Work>() == 2 * 4 + 3 * 12);

impl Work {
    /// `heads` heads of `head_units` units, of which at most `section` are worked on together, for a grid of `clusters`.
    /// All units together are counted in i32.
    pub const fn new(heads: u32, head_units: u32, section: u32, clusters: u32) -> Self {
        let section = if section < heads { section } else { heads };
        let last_section = if section == 0 { 0 } else { (heads - 1) % section + 1 };
        Work {
            heads,
            turn: turn(head_units, clusters),
            head_units: Divisor::new(head_units),
            section: Divisor::new(section),
            last_section: Divisor::new(last_section),
        }
    }

    /// Units in all.
    #[inline(always)]
    pub const fn units(&self) -> u32 {
        self.heads * self.head_units.value
    }
}

/// The fewest places to move on, so that from one round to the next a cluster's units go on in their heads by a number that
/// shares no divisor with `head_units`, and so go through all of them (but for the rounds in which it comes round).
const fn turn(head_units: u32, clusters: u32) -> u32 {
    let mut turn = 0;
    while turn + 1 < clusters && divisor_in_common(clusters + turn, head_units) > 1 {
        turn += 1;
    }
    turn
}

/// The greatest one (Euclid).
const fn divisor_in_common(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { divisor_in_common(b, a % b) }
}
