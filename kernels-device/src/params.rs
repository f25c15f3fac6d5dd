//! What the host passes to a kernel, by value: nothing to keep alive, nothing to copy first.

use crate::band::Band;
use crate::divisor::Divisor;
use crate::dropout::Dropout;
use crate::fp8::{Descales, VALUE_GROUP, first_value_group};
use crate::rounding::Rounding;
use crate::score_mod::ARGS_WORDS;
use crate::sparse::Sparse;

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
    /// Heads that have tiles of their own: query heads, or K/V heads if query heads are packed.
    pub heads_q: Divisor,
    /// Query heads that share one K/V head (1 is MHA, `heads_q` is MQA).
    pub gqa_ratio: Divisor,
    /// What there is to compute.
    pub work: Work,
    /// What scores are multiplied with before a power of 2 is taken: `scale * log2(e)`. Where they are capped,
    /// `2 * softcap * log2(e)`, by an approximation half of that, and `log2(e)` where they are changed in ways that the launch chooses: see the module
    /// `score`.
    pub scale_log2: f32,
    /// What only general kernels read.
    pub general: General,
    /// What only kernels of 8 bits read.
    pub descales: Descales,
}

const _: () = assert!(
    size_of::<FwdParams>() == 8 + 2 * 4 + 2 * 12 + 44 + 4 + size_of::<General>() + size_of::<Descales>()
);

/// What a launch tells a general kernel beside what every kernel is told.
///
/// *Rows* are queries; where query heads are packed, they are the queries of all heads of a K/V head, `1 << pack` rows
/// a query.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct General {
    /// Where sequences begin and end.
    pub sequences: Sequences,
    /// Which keys a query sees.
    pub band: Band,
    /// What says more about that, for each query or tile of queries.
    pub sparse: Sparse,
    /// Device address of a logit for each query head that joins the denominator, f32; 0 if there are none.
    pub sinks: u64,
    /// Elements of the log-sum-exp from one sequence to the next, and from one head to the next.
    pub lse_batch: u64,
    /// See [`Self::lse_batch`].
    pub lse_head: u64,
    /// Where heads and sequences of Q lie.
    pub q: Steps,
    /// Where those of K lie.
    pub k: Steps,
    /// Where those of V lie.
    pub v: Steps,
    /// Where those of O lie.
    pub o: Steps,
    /// log2 of the rows that a query has.
    pub pack: u32,
    /// Query heads of a K/V head that share tiles: at most `1 << pack`.
    pub packed_heads: u32,
    /// What is missing in scores that the softmax sees, to the base 2: see the module `score`.
    pub offset_log2: f32,
    /// What products are multiplied with before anything else is done to them: the scale. Where they are capped, `2 *
    /// scale * log2(e) / softcap`: a power of 2 is taken; by an approximation, `scale / softcap`. Where they fall with the distance and nothing else happens, what
    /// slopes are multiplied with: one part of the scale.
    pub product_scale: f32,
    /// What else a capped score is made of, where more happens to it: the softcap, or 0 if there is none, and twice as
    /// much.
    pub softcap: f32,
    /// See [`Self::softcap`].
    pub fraction_scale: f32,
    /// What the function of the scores is told: the arguments of a [`ScoreMod`](crate::score_mod::ScoreMod).
    pub score_args: [u64; ARGS_WORDS],
    /// Which weights are left out, of kernels that can.
    pub dropout: Dropout,
    /// Makes the size a multiple of 8.
    pub reserved: u32,
}

const _: () = assert!(
    size_of::<General>()
        == 56 + 40 + size_of::<Sparse>() + 3 * 8 + 4 * 12 + 24 + 8 * ARGS_WORDS + size_of::<Dropout>() + 4
);

impl General {
    /// Says nothing: for kernels that do not ask.
    pub const NONE: General = General {
        sequences: Sequences {
            start_q: 0,
            start_kv: 0,
            used_q: 0,
            used_kv: 0,
            count: 0,
            teams: 0,
            team: Divisor::new(0),
            uneven: 0,
        },
        band: Band::FULL,
        sparse: Sparse::NONE,
        sinks: 0,
        lse_batch: 0,
        lse_head: 0,
        q: Steps::NONE,
        k: Steps::NONE,
        v: Steps::NONE,
        o: Steps::NONE,
        pack: 0,
        packed_heads: 1,
        offset_log2: 0.0,
        product_scale: 0.0,
        softcap: 0.0,
        fraction_scale: 0.0,
        score_args: [0; ARGS_WORDS],
        dropout: Dropout::NONE,
        reserved: 0,
    };
}

/// The sequences of a launch. Where addresses are 0, all are as long as the parameters say, and lie one behind the
/// other by the batch steps of their tensors.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// Device address of the first query of each sequence, and the end of the last: i32.
    pub start_q: u64,
    /// The same for keys.
    pub start_kv: u64,
    /// Device address of the number of queries of each sequence that count: i32. 0: all.
    pub used_q: u64,
    /// The same for keys.
    pub used_kv: u64,
    /// Sequences.
    pub count: u32,
    /// How work is handed out: 0 in [tiles](crate::schedule::Tiles), else in as many [bundles](crate::bundle::Bundle) to
    /// teams of which the grid consists.
    pub teams: u32,
    /// CTAs of a team.
    pub team: Divisor,
    /// Whether tiles differ in cost, or the cost of bundles falls, as work is handed out.
    pub uneven: u32,
}

/// Where a head of a sequence begins in a tensor map that general kernels use.
///
/// In such a map the rows of a head must end with its sequence, wherever that is: what a box reaches beyond must be
/// read as zeros and not be written. TMA knows only bounds of whole dimensions; so the dimension of the rows is given
/// [`ROW_BOUND`] rows, of which a sequence takes the *last*, and the address of what comes before is made up for by two
/// more dimensions: the next one leads to the end of the sequence, in *units*, and the last one back by `ROW_BOUND`
/// rows, modulo 2⁶⁴. (Triton calls this a ragged tensor map.)
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Units from one sequence to the next; 0 where sequences begin where [`Sequences`] says.
    pub batch: u32,
    /// Units from one row to the next. Of transposed values of 8 bits, where a unit is a group of keys, the positions that
    /// packed sequences may leave free from one to the next: see [`Self::value_coordinates`].
    pub row: u32,
    /// Units from one head to the next.
    pub head: u32,
}

/// Rows of the row dimension of a ragged tensor map.
pub const ROW_BOUND: u32 = 1 << 30;

impl Steps {
    /// Nowhere.
    pub const NONE: Steps = Steps { batch: 0, row: 0, head: 0 };

    /// The last three coordinates of row `row` of a head of a sequence that begins with row `start` and has `len`.
    #[inline(always)]
    pub const fn coordinates(&self, batch: u32, head: u32, start: u32, len: u32, row: u32) -> [u32; 3] {
        let end = batch * self.batch + head * self.head + (start + len) * self.row;
        [ROW_BOUND - len + row, end, ROW_BOUND]
    }

    /// The same in a map of transposed values of 8 bits, of which rows are the inner dimension: whole groups of keys, each
    /// of which is a unit, as [`crate::fp8`] has it.
    #[inline(always)]
    pub const fn value_coordinates(&self, batch: u32, head: u32, start: u32, len: u32, row: u32) -> [u32; 3] {
        let (first, groups) = (first_value_group(start, batch, self.row), len.div_ceil(VALUE_GROUP));
        let end = batch * self.batch + head * self.head + first + groups;
        [ROW_BOUND - groups * VALUE_GROUP + row, end, ROW_BOUND / VALUE_GROUP]
    }
}

/// The work of a launch, in *units*: what a cluster of CTAs (often of one) takes at a time, as many neighbouring tiles
/// of `block_m` query rows of one head as it has CTAs that share K and V.
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
    /// `heads` heads of `head_units` units, of which at most `section` are worked on together, for a grid of
    /// `clusters`. All units together are counted in i32.
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

/// The fewest places to move on, so that from one round to the next a cluster's units go on in their heads by a number
/// that shares no divisor with `head_units`, and so go through all of them (but for the rounds in which it comes
/// round).
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

/// Run-time parameters of the kernels that round Q, K and V to 8 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeParams {
    /// Q, K and V.
    pub tensors: [QuantizeTensor; 3],
    /// Device addresses of the first row of each of the packed sequences of Q, and of K and V, and the end of the last:
    /// i32. 0: each sequence has as many rows, one behind the other by the first stride.
    pub starts: [u64; 2],
    /// Device addresses of the number of rows of each sequence of Q, and of K and V, that count: i32. 0: all.
    pub used: [u64; 2],
    /// Device address of room for largest magnitudes, f32, where signs are tags: of each head of Q, then K, then V,
    /// `most_parts` of them.
    pub maxima: u64,
    /// Device address of room for the largest of those of each head, with the tag.
    pub head_maxima: u64,
    /// Device address of room for the largest of those of each of the three tensors, where all its heads have the same
    /// descale: [`TENSOR_MAXIMA`](crate::entry::TENSOR_MAXIMA) numbers for each. 0: each head has its own descale.
    pub tensor_maxima: u64,
    /// Device address of room for a number for each unit: the one that the same warp has put off before.
    pub chain: u64,
    /// Device address of [`Turns`].
    pub turns: u64,
    /// Parts that a head has at most.
    pub most_parts: u32,
    /// Parts of all heads of all tensors, counted in i32.
    pub units: u32,
    /// 1: magnitudes are looked for.
    pub seeks: u32,
    /// 1: numbers are rounded.
    pub rounds: u32,
    /// How many times a warp that holds a unit looks whether the largest magnitude of the head is known; 0: it holds none.
    pub patience: u32,
    /// Columns of Q and K that are [rotated](crate::fp8) together; 0 where they are rounded as they are.
    pub rotation_block: u32,
    /// How numbers are rounded.
    pub rounding: Rounding,
}

const _: () = assert!(
    size_of::<QuantizeParams>() == 3 * size_of::<QuantizeTensor>() + 9 * 8 + 6 * 4 + size_of::<Rounding>()
);

/// What warps of a launch count together in device memory: all 0 before the first launch, and left by each as the next one
/// needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns(u32);

impl Turns {
    /// Tickets that were taken.
    pub const TICKETS: Turns = Turns(0);
    /// Warps that have ended.
    pub const DONE: Turns = Turns(1);
    /// The tag of the last launch's magnitudes.
    pub const LAST_TAG: Turns = Turns(2);
    /// How many numbers there are.
    pub const COUNT: usize = 3;

    /// The address of this one.
    #[inline(always)]
    pub const fn of(self, turns: u64) -> u64 {
        turns + 4 * self.0 as u64
    }
}

/// One tensor that is rounded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeTensor {
    /// Device address of the first element of 16 bits.
    pub from: u64,
    /// Bytes from one sequence to the next, from one row, from one head.
    pub strides_bytes: [u64; 3],
    /// Device address of the result.
    pub to: u64,
    /// Bytes from one of its sequences to the next; 0 where they are packed.
    pub to_batch: u64,
    /// Bytes from one of its heads to the next.
    pub to_head: u64,
    /// Bytes from one of its rows to the next; of V, from one column.
    pub to_row: u64,
    /// Device address of the descales.
    pub descales: u64,
    /// Rows of a head; of packed sequences together.
    pub rows: u32,
    /// Parts of all heads of all sequences.
    pub units: u32,
    /// Octets of columns of a head.
    pub octets: u32,
    /// log2 of the rows that a warp reads at once, of which lanes have an octet each; of V, of the groups of keys that it holds.
    /// A piece has [`LANE_ROWS`](crate::entry::QuantizeVariant::LANE_ROWS) times as many rows.
    pub row_shift: u32,
    /// Parts of a head. It may have more rows than so many parts: they take turns.
    pub parts: Divisor,
    /// Parts of the same rows: of V some columns each, of Q and K one of all.
    pub column_parts: Divisor,
    /// Heads of a sequence.
    pub heads: Divisor,
    /// Heads of all tensors before this one.
    pub first_head: u32,
}

const _: () = assert!(size_of::<QuantizeTensor>() == 9 * 8 + 4 * 4 + 3 * 12 + 4);

/// Run-time parameters of a kernel that merges attention states. Its rows have three coordinates, batch, head and
/// position, in the order in which the output lies in memory: outer, middle, inner.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeParams {
    /// Output of one call.
    pub o1: MergeRows,
    /// Output of the other.
    pub o2: MergeRows,
    /// The merged output.
    pub out: MergeRows,
    /// Device address of the log-sum-exp of `o1`, f32.
    pub lse1: u64,
    /// The same of `o2`.
    pub lse2: u64,
    /// Where that of `out` is written; 0 if not asked for.
    pub lse: u64,
    /// Rows in all, counted in i32.
    pub rows: u32,
    /// Chunks of 16 bytes in a row.
    pub chunks: u32,
    /// Rows that a warp works on at once.
    pub warp_rows: u32,
    /// Rows that all warps of the grid work on at once.
    pub grid_rows: u32,
    /// Lanes that a row takes: one for each chunk, as far as there are lanes.
    pub lanes: Divisor,
    /// How many values the middle coordinate has.
    pub middle: Divisor,
    /// How many values the inner coordinate has.
    pub inner: Divisor,
    /// From one number of each log-sum-exp to the next, along the outer, middle and inner coordinate.
    pub lse_strides: [u32; 3],
}

const _: () = assert!(size_of::<MergeParams>() == 3 * 32 + 3 * 8 + 4 * 4 + 3 * 12 + 3 * 4);

/// The rows of a tensor that is merged.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeRows {
    /// Device address of the first one.
    pub ptr: u64,
    /// Bytes from one row to the next along the outer, middle and inner coordinate.
    pub strides_bytes: [u64; 3],
}

impl MergeRows {
    /// Address of the row at these coordinates.
    #[inline(always)]
    pub const fn address(&self, [outer, middle, inner]: [u32; 3]) -> u64 {
        let [a, b, c] = self.strides_bytes;
        self.ptr + outer as u64 * a + middle as u64 * b + inner as u64 * c
    }
}

/// Run-time parameters of the kernel that writes which weights dropout keeps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutMaskParams {
    /// Device address of the output: u8, contiguous (batch, heads_q, seqlen_q, seqlen_kv).
    pub mask: u64,
    /// Queries of all heads of all sequences, counted in i32.
    pub rows: u32,
    /// Keys of a sequence.
    pub keys: u32,
    /// Which weights are left out.
    pub dropout: Dropout,
    /// Queries of a head.
    pub queries: Divisor,
}

const _: () = assert!(size_of::<DropoutMaskParams>() == 8 + 2 * 4 + 20 + 12);
