//! What the host passes to a kernel, by value: nothing to keep alive, nothing to copy first.

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
    pub heads_q: u32,
    /// Query heads that share one K/V head (1 is MHA, `heads_q` is MQA).
    pub gqa_ratio: u32,
    /// Sequences.
    pub batch: u32,
    /// Tiles of `block_m` query rows in a head, rounded up to whole clusters.
    pub m_blocks: u32,
    /// Heads (counted over batch and heads) that are worked on together, so that their K and V stay in L2.
    pub section: u32,
    /// `scale * log2(e)`: exponents are taken with base 2.
    pub scale_log2: f32,
}

const _: () = assert!(size_of::<FwdParams>() == 40);
