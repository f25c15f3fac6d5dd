//! What makes one kernel variant different from another, and the budgets that every variant must meet.

use crate::fp8::P_SHIFT;
use crate::layout::{FwdSmem, SLAB_COLUMNS, Swizzle, TileLayout};
use crate::score_mod::ScoreMod;
use crate::sparse::LIST_TILE;

/// Element type of O, and of Q, K and V where those are not of [`Fp8`]. Accumulation is always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub const SIZE: u32 = 2;

    /// The name used in kernel symbols and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }
}

/// Element types of 8 bits that Q, K and V may have, under factors in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp8 {
    /// 4 bits of exponent, 3 of mantissa: up to 448, no infinities.
    E4m3,
    /// 5 bits of exponent, 2 of mantissa: up to 57344.
    E5m2,
}

impl Fp8 {
    /// The name used in kernel symbols and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Fp8::E4m3 => "e4m3",
            Fp8::E5m2 => "e5m2",
        }
    }

    /// Bits of the mantissa, without the one that is always there.
    pub const fn mantissa_bits(self) -> u32 {
        match self {
            Fp8::E4m3 => 3,
            Fp8::E5m2 => 2,
        }
    }

    /// The least normal number: 2^-6, 2^-14. Numbers below are as far apart as those above.
    pub const fn least_normal(self) -> f32 {
        match self {
            Fp8::E4m3 => 1.0 / 64.0,
            Fp8::E5m2 => 1.0 / 16384.0,
        }
    }

    /// The largest number.
    pub const fn max(self) -> f32 {
        match self {
            Fp8::E4m3 => 448.0,
            Fp8::E5m2 => 57344.0,
        }
    }
}

/// Element type of what tensor cores multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Factor {
    /// 16 bits.
    Wide(Dtype),
    /// 8 bits.
    Narrow(Fp8),
    /// Weights of e4m3, and values of e5m2.
    Mixed,
}

/// Which keys a query sees, as far as it changes the code of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// All of them.
    Full,
    /// Those up to `i + seqlen_kv - seqlen_q`, for query i (aligned bottom-right).
    Causal,
    /// Those of a [band](crate::band::Band) that the launch describes. Kernels with this mask also take sequences of
    /// different lengths, and the query heads of a K/V head as rows of one tile.
    Band,
    /// Those of a band that also lie in the query's own [range, or in the key tiles listed](crate::sparse) for it.
    /// Kernels with this mask can do all that those for bands can.
    Sparse,
}

impl Mask {
    /// The name used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Mask::Full => "full",
            Mask::Causal => "causal",
            Mask::Band => "band",
            Mask::Sparse => "sparse",
        }
    }
}

/// What happens to scores before the softmax, as far as it changes the code of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Score {
    /// They are scaled.
    Plain,
    /// They are capped as well: `cap * tanh(score / cap)`.
    Softcap,
    /// The same by the GPU's own hyperbolic tangent, for those who ask for less work rather than all of f32.
    SoftcapApprox,
    /// They fall with the distance between query and key as well (ALiBi).
    Alibi,
    /// A number is added to each as well, which comes in tiles like those of the scores: for numbers that TMA can reach.
    BiasTiles,
    /// What [`crate::score_mod::Biased`] says. Weights can be left out, too.
    Biased,
    /// A [`crate::score_mod::ScoreMod`] of the user's.
    Custom,
}

impl Score {
    /// Whether what happens to a score depends on its query and key.
    pub const fn has_places(self) -> bool {
        matches!(self, Score::Alibi | Score::Biased | Score::Custom)
    }

    /// Whether something is left to be added to all scores of a row of a tile.
    pub const fn adds_to_rows(&self) -> bool {
        matches!(self, Score::Alibi)
    }
}

/// Rows that one warpgroup's `wgmma` computes: the M of every `m64nNk16`.
pub const WARPGROUP_ROWS: u32 = 64;
/// Threads of a warpgroup.
pub const WARPGROUP_THREADS: u32 = 128;
/// Depth of one `wgmma`, in bytes of a row of each factor: the K of every `m64nNk16` of 16 bits, and `m64nNk32` of 8.
pub const MMA_K_BYTES: u32 = 32;
/// Depth of one 16-bit `wgmma`.
pub const MMA_K: u32 = MMA_K_BYTES / Dtype::SIZE;
/// Columns that one `wgmma` computes at most: the N of `m64nNk16`.
pub const MMA_MAX_N: u32 = 256;
/// Shared memory that a CTA may ask for on sm_90: 227 KiB.
pub const SMEM_LIMIT: u32 = 232_448;
/// Consumers that may share the keys of a work tile.
pub const MAX_SPLITS: u32 = 8;
/// 32-bit registers of an SM.
pub const REGISTER_FILE: u32 = 65_536;

/// How a CTA cuts the problem: `block_m` rows of Q against `block_n` keys at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Rows of Q that a CTA owns, 64 for each consumer warpgroup, or for the two that share their keys or columns.
    pub block_m: u32,
    /// Keys of one step of the main loop: the N of QKᵀ, the depth of PV.
    pub block_n: u32,
    /// Slots of the K ring, and of the V ring.
    pub stages: u32,
    /// CTAs of a cluster that shares K and V, with neighbouring tiles of the same head: each loads its part into the
    /// shared memory of all of them, so that K and V leave L2 once for the cluster. 1 means no such cluster.
    pub cluster: u32,
    /// Consumers that share the keys of a work tile, for where there are few tiles: the two of a CTA take every second
    /// key tile of the CTA's share, and half as many CTAs form a cluster. What they come to is combined through shared
    /// memory. 1 means that a consumer visits all keys that its rows see.
    pub splits: u32,
}

/// What a kernel costs on an H200, fitted to measured times of long and short sequences (docs/results/log.md). By this
/// the host chooses among kernels that can compute the same problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cost {
    /// Time that an SM takes for a key of 64 queries, in picoseconds.
    pub key_ps: u32,
    /// What starting and ending a work tile costs besides, in keys that could be visited in that time.
    pub tile_keys: u32,
}

/// One compiled forward kernel. A row of the table in [`crate::entry`]; everything else is derived from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Name of the kernel's entry point in its PTX.
    pub symbol: &'static str,
    /// Columns of Q and K that the kernel computes; narrower tensors are padded with zeros by TMA.
    pub head_dim: u32,
    /// The same of V and O.
    pub head_dim_v: u32,
    /// Element type of O, and of Q, K and V unless they have 8 bits.
    pub dtype: Dtype,
    /// That of Q, K and V if they have 8 bits. V then lies transposed: see [`crate::fp8`].
    pub fp8: Option<Fp8>,
    /// Whether each product with V is summed on its own, and then added to O: tensor cores cut sums of 8-bit products to 13
    /// fraction bits each time that they go on with them, always towards zero.
    pub promotes: bool,
    /// Which keys a query sees.
    pub mask: Mask,
    /// What happens to its scores.
    pub score: Score,
    /// The tile shape.
    pub tile: Tile,
    /// What it costs.
    pub cost: Cost,
}

/// A kernel variant as a type, so that the kernel can be generic over it.
pub trait Spec {
    /// The facts of this variant.
    const VARIANT: Variant;
    /// What becomes of its scores.
    type Mod: ScoreMod;
}

impl Variant {
    /// A general kernel as this library has them, for heads of up to `head_dim` columns.
    ///
    /// # Panics
    /// If `head_dim` is not 64, 96, 128, 192 or 256.
    pub const fn general(head_dim: u32, dtype: Dtype) -> Self {
        let (block_n, key_ps) = match head_dim {
            64 => (128, 5013),
            96 => (128, 6200),
            128 => (112, 6710),
            192 => (80, 10_120),
            256 => (64, 13_423),
            _ => panic!("general kernels have a head_dim of 64, 96, 128, 192 or 256"),
        };
        Variant {
            symbol: "",
            head_dim,
            head_dim_v: head_dim,
            dtype,
            fp8: None,
            promotes: false,
            mask: Mask::Band,
            score: Score::Plain,
            tile: Tile { block_m: 128, block_n, stages: 2, cluster: 1, splits: 1 },
            cost: Cost { key_ps, tile_keys: 300 },
        }
    }

    /// The same kernel for calls that have key ranges or a block mask: [`Mask::Sparse`].
    pub const fn sparse(self) -> Self {
        let block_n = if self.head_dim < 128 { 128 } else { 64 };
        Variant { mask: Mask::Sparse, tile: Tile { block_n, ..self.tile }, ..self }
    }

    /// Element type of Q and K.
    pub const fn factor(&self) -> Factor {
        match self.fp8 {
            Some(fp8) => Factor::Narrow(fp8),
            None => Factor::Wide(self.dtype),
        }
    }

    /// That of weights and V. Weights of 8 bits are always e4m3: between 0 and 1 they need no range.
    pub const fn value_factor(&self) -> Factor {
        match self.fp8 {
            Some(Fp8::E5m2) => Factor::Mixed,
            _ => self.factor(),
        }
    }

    /// Bytes of an element of Q, K and V.
    pub const fn element_bytes(&self) -> u32 {
        if self.fp8.is_some() { 1 } else { Dtype::SIZE }
    }

    /// Depth of one `wgmma`.
    pub const fn mma_k(&self) -> u32 {
        MMA_K_BYTES / self.element_bytes()
    }

    /// log2 of what probabilities are multiplied with.
    pub const fn p_shift(&self) -> f32 {
        if self.fp8.is_some() { P_SHIFT } else { 0.0 }
    }

    /// Registers of the probabilities of `keys` keys.
    pub const fn p_registers(&self, keys: u32) -> u32 {
        keys * self.element_bytes() / 8
    }

    /// Whether later rows see more keys, by a mask that is known when the kernel is compiled.
    pub const fn is_causal(&self) -> bool {
        matches!(self.mask, Mask::Causal)
    }

    /// Whether the launch says which keys a query sees, how long sequences are, and which heads share a tile.
    pub const fn is_general(&self) -> bool {
        matches!(self.mask, Mask::Band | Mask::Sparse)
    }

    /// Whether the launch says for each query, or tile of queries, which keys it sees.
    pub const fn is_sparse(&self) -> bool {
        matches!(self.mask, Mask::Sparse)
    }

    /// Consumer warpgroups: each owns 64 rows of the Q tile, or half of the key tiles, or half of the columns of V.
    pub const fn consumers(&self) -> u32 {
        self.tile.block_m / WARPGROUP_ROWS * self.key_groups() * self.column_groups()
    }

    /// Whether consumers share the keys of a work tile. Such kernels take one work tile for each CTA, or cluster of
    /// CTAs.
    pub const fn splits_keys(&self) -> bool {
        self.tile.splits > 1
    }

    /// Consumers of a CTA that share keys.
    pub const fn key_groups(&self) -> u32 {
        if self.splits_keys() { 2 } else { 1 }
    }

    /// Consumers that share the columns of V and O, where O is too wide for one: each computes all scores of the same
    /// rows, and its own columns of O.
    pub const fn column_groups(&self) -> u32 {
        if self.head_dim_v > MMA_MAX_N { 2 } else { 1 }
    }

    /// Whether the consumers of a CTA have the same rows, and share something else.
    pub const fn consumers_share_rows(&self) -> bool {
        self.splits_keys() || self.column_groups() > 1
    }

    /// Columns of V that a consumer multiplies with: the N of PV.
    pub const fn value_columns(&self) -> u32 {
        self.head_dim_v / self.column_groups()
    }

    /// The wider of both head dims.
    pub const fn widest_head_dim(&self) -> u32 {
        if self.head_dim > self.head_dim_v { self.head_dim } else { self.head_dim_v }
    }

    /// CTAs that share the keys of a work tile.
    pub const fn split_ctas(&self) -> u32 {
        self.tile.splits / self.key_groups()
    }

    /// CTAs of a cluster, whatever they share.
    pub const fn cluster_ctas(&self) -> u32 {
        self.tile.cluster * self.split_ctas()
    }

    /// Whether some rows that load keys together visit more of them than others. Where key tiles are listed, all rows
    /// of a tile visit them.
    pub const fn skips_key_tiles(&self) -> bool {
        self.tile.block_m * self.tile.cluster > WARPGROUP_ROWS && !self.is_sparse()
    }

    /// Columns of O that one TMA store takes: a slab, or a consumer's share of the columns.
    pub const fn o_box_columns(&self) -> u32 {
        if self.splits_keys() { self.head_dim_v / self.tile.splits } else { SLAB_COLUMNS }
    }

    /// The swizzle under which O is staged: as wide as its boxes.
    pub const fn o_swizzle(&self) -> Swizzle {
        match self.o_box_columns() * Dtype::SIZE {
            32 => Swizzle::B32,
            64 => Swizzle::B64,
            _ => Swizzle::B128,
        }
    }

    /// Rows of a tile of K or V that one TMA load brings: this CTA's part.
    pub const fn box_rows(&self, tile: TileLayout) -> u32 {
        tile.rows / self.tile.cluster
    }

    /// How `rows` rows of Q or K lie in shared memory; TMA fills what lies beyond the tensor with zeros.
    const fn row_major(&self, rows: u32, columns: u32) -> TileLayout {
        let row_bytes = columns * self.element_bytes();
        // Narrow heads of 8 bits fill half a slab, which is then half as wide.
        let swizzle = if row_bytes <= 64 { Swizzle::B64 } else { Swizzle::B128 };
        TileLayout { rows, slabs: row_bytes.div_ceil(swizzle.row_bytes()), swizzle }
    }

    /// How a tile of Q lies in shared memory.
    pub const fn q_tile(&self) -> TileLayout {
        self.row_major(self.tile.block_m, self.head_dim)
    }

    /// How a tile of K lies in shared memory.
    pub const fn k_tile(&self) -> TileLayout {
        self.row_major(self.tile.block_n, self.head_dim)
    }

    /// How a tile of V lies in shared memory: a row for each key; of 8 bits, for each column, in slabs as wide as the
    /// keys of a tile have whole ones.
    pub const fn v_tile(&self) -> TileLayout {
        let (keys, columns) = (self.tile.block_n, self.head_dim_v);
        if self.fp8.is_none() {
            return self.row_major(keys, columns);
        }
        let swizzle = match keys % 128 {
            0 => Swizzle::B128,
            64 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        TileLayout { rows: columns, slabs: keys / swizzle.row_bytes(), swizzle }
    }

    /// Whether scores are capped, and nothing else happens to them.
    pub const fn caps_scores(&self) -> bool {
        matches!(self.score, Score::Softcap | Score::SoftcapApprox)
    }

    /// Whether the launch may ask for dropout.
    pub const fn drops_weights(&self) -> bool {
        matches!(self.score, Score::Biased)
    }

    /// Slabs of 64 columns of O.
    pub const fn o_slabs(&self) -> u32 {
        self.head_dim_v.div_ceil(SLAB_COLUMNS)
    }

    /// Slabs of O, and of 16-bit V, that are a consumer's.
    pub const fn value_slabs(&self) -> u32 {
        self.o_slabs() / self.column_groups()
    }

    /// Threads of a CTA: the producer warpgroup, then the consumers.
    pub const fn threads(&self) -> u32 {
        (1 + self.consumers()) * WARPGROUP_THREADS
    }

    /// Registers that each thread starts with: the register file shared evenly, in steps of 8.
    pub const fn launch_registers(&self) -> u32 {
        REGISTER_FILE / self.threads() / 8 * 8
    }

    /// Registers of a thread of (the producer, a consumer) after `setmaxnreg` moved them.
    pub const fn role_registers(&self) -> (u32, u32) {
        match self.consumers() {
            // Which work is next, and which keys, takes more to say; so do tiles of more slabs.
            2 if self.is_sparse() || self.column_groups() > 1 => (56, 224),
            // One more ring, where O leaves the consumers enough.
            2 if self.has_bias_tiles() && self.head_dim_v <= 64 => (56, 224),
            2 if self.is_general() => (40, 232),
            // Longer key tiles than of 16 bits, beside as wide an O.
            2 if self.fp8.is_some() && self.head_dim_v > 128 => (24, 240),
            2 => (32, 232),
            _ if self.is_general() => (40, 152),
            _ => (32, 160),
        }
    }

    /// Bytes that may be spilled: a few numbers of a work tile, which are read again once a step, where O takes many
    /// registers, and a bias is loaded and weights are left out beside it. What a function of the user's takes is the
    /// user's business.
    pub const fn spill_limit(&self) -> u32 {
        match self.score {
            Score::Biased if self.head_dim_v > 192 => 128,
            Score::Biased if self.head_dim_v > 128 => 224,
            Score::Biased if self.head_dim_v == 128 => 80,
            Score::BiasTiles if self.head_dim_v > 192 => 280,
            Score::Custom => 4096,
            // Two numbers, read again once a work tile.
            Score::Plain if self.is_general() && self.promotes && self.head_dim_v == 128 => 40,
            _ => 0,
        }
    }

    /// Whether teams of CTAs take the tiles of a bundle in turn; else each CTA is a team, since what is added to scores
    /// leaves no registers for more.
    pub const fn takes_turns(&self) -> bool {
        !matches!(self.score, Score::Biased | Score::BiasTiles)
    }

    /// Whether a consumer keeps the slopes of its rows for a work tile, where there are registers for that; else it loads
    /// them for each key tile.
    pub const fn keeps_slopes(&self) -> bool {
        self.head_dim_v <= 192
    }

    /// Whether tiles of what is added to scores are loaded beside those of K and V.
    pub const fn has_bias_tiles(&self) -> bool {
        matches!(self.score, Score::BiasTiles)
    }

    /// Whether query heads that share a K/V head may be rows of one tile. Of 8 bits, each has another scale.
    pub const fn may_pack_heads(&self) -> bool {
        self.is_general() && self.fp8.is_none() && !self.is_sparse() && !self.has_bias_tiles()
    }

    /// Whether consumers take turns on the tensor cores, so that one computes its softmax while another
    /// multiplies. Above a head_dim of 128 the products are so long that the turns cost more than they give, and
    /// consumers that share keys have too few.
    pub const fn ping_pong(&self) -> bool {
        self.widest_head_dim() <= 128 && !self.splits_keys()
    }

    /// Keys of a short first step: a consumer whose 64 rows see no more of their last key tile computes only these.
    pub const fn short_n(&self) -> u32 {
        (self.tile.block_n / 2).next_multiple_of(self.mma_k())
    }

    /// Whether the kernel has short first steps: under a causal mask half of all rows have one. It takes registers.
    /// Below a short step that is at least as long as the rows are many, one key tile needs a mask; below a whole one,
    /// none.
    pub const fn has_short_step(&self) -> bool {
        self.is_causal() && self.widest_head_dim() <= 128 && self.short_n() >= WARPGROUP_ROWS
    }

    /// Whether the kernel has short steps at both ends of what a consumer's rows see under a band: where that is no more
    /// than the first keys of the last key tile, or the last ones of the first, only those are scored. Their
    /// probabilities are filled up with zeros, so that everything else is as after whole steps. At a head_dim of 128 it
    /// gains nothing (docs/results/log.md), and three consumers have no registers for it.
    pub const fn has_short_ends(&self) -> bool {
        matches!((self.mask, self.score), (Mask::Band, Score::Plain))
            && self.fp8.is_none()
            && self.widest_head_dim() <= 64
            && self.consumers() == 2
    }

    /// Whether other consumers may see more key tiles than one that has a short first step: as many keys more as they
    /// have rows behind it.
    pub const fn skips_before_short_step(&self) -> bool {
        self.short_n() + self.tile.block_m * self.tile.cluster - WARPGROUP_ROWS > self.tile.block_n
    }

    /// Whether the first scores of a work tile are computed beside the last product of the one before, for which its Q
    /// must have arrived. At head_dim 64 without a mask it is a little slower than without (docs/results/log.md); above
    /// 128 it takes more registers than there are.
    pub const fn joins_work_tiles(&self) -> bool {
        self.smem().q_stages == 2
            && !self.splits_keys()
            && self.widest_head_dim() <= 128
            && (self.widest_head_dim() > 64 || !matches!(self.mask, Mask::Full))
    }

    /// Registers of a thread's scores that become probabilities before the consumer waits for the product of the step
    /// before; the others are computed beside the rescaling of that product. `None` if it waits as soon as it has the
    /// scores. As measured on an H200 (docs/results/log.md).
    pub const fn scores_beside_values(&self) -> Option<u32> {
        match self.widest_head_dim() {
            0..=64 => Some(0),
            65..=128 => Some(self.tile.block_n / 32 * 4),
            _ => None,
        }
    }

    /// Where everything lies in shared memory.
    pub const fn smem(&self) -> FwdSmem {
        FwdSmem::new(self)
    }

    /// Fails the build (on the host too) if the variant breaks a rule of the hardware or a budget.
    pub const fn assert_legal(&self) {
        let Tile { block_m, block_n, stages, cluster, splits } = self.tile;
        assert!(self.consumers() == 2 || self.consumers() == 3, "two or three consumer warpgroups");
        assert!(block_m.is_multiple_of(WARPGROUP_ROWS), "block_m is 64 rows for each consumer");
        assert!(block_m <= 256 && block_n <= 256, "a TMA box has at most 256 rows");
        assert!(
            block_n.is_multiple_of(self.mma_k()),
            "the keys of a tile are the depth of PV, in whole steps"
        );
        assert!(
            cluster <= 8 && self.box_rows(self.k_tile()) * cluster == block_n,
            "each CTA loads an equal part of a tile"
        );
        assert!(
            splits == 1
                || splits.is_multiple_of(2)
                    && splits <= MAX_SPLITS
                    && cluster == 1
                    && block_m == WARPGROUP_ROWS,
            "who shares keys has 64 rows, and shares no K and V"
        );
        assert!(
            stages >= 2 * self.key_groups(),
            "a consumer wants its next K before it gives back the V of its last step"
        );
        assert!(matches!(self.o_box_columns(), 16 | 32 | 64), "rows of a box are as wide as a swizzle");
        assert!(
            splits == 1 || self.head_dim_v == self.o_box_columns() * splits,
            "O is combined in equal shares of its columns"
        );
        assert!(self.box_rows(self.k_tile()).is_multiple_of(8), "parts of a tile are whole swizzle atoms");
        assert!(stages >= 2, "K of the next step loads while this step computes");
        assert!(
            stages.is_multiple_of(self.key_groups()),
            "consumers that take turns have slots of their own"
        );
        assert!(self.head_dim.is_multiple_of(self.mma_k()), "head_dim is the depth of QKᵀ, in whole steps");
        assert!(
            self.fp8.is_none()
                || self.column_groups() == 1
                    && !self.splits_keys()
                    && cluster == 1
                    && !self.is_sparse()
                    && matches!(self.score, Score::Plain | Score::Softcap),
            "kernels of 8 bits share nothing, list no keys, and add nothing to scores"
        );
        assert!(
            self.value_columns().is_multiple_of(32) && self.value_columns() <= MMA_MAX_N,
            "a consumer's columns of V are the N of PV, and O is stored 16 columns at a time"
        );
        assert!(
            self.column_groups() == 1
                || self.is_general()
                    && block_m == WARPGROUP_ROWS
                    && self.head_dim_v == self.column_groups() * self.value_slabs() * SLAB_COLUMNS,
            "who shares columns has 64 rows and whole slabs"
        );
        assert!(!self.is_general() || cluster == 1 && splits == 1, "bundles of work are for single CTAs");
        assert!(
            !self.is_sparse() || block_m == LIST_TILE && LIST_TILE.is_multiple_of(block_n),
            "lists are of tiles of queries and keys as kernels have them, or of whole ones of theirs"
        );
        assert!(
            self.is_general() || matches!(self.score, Score::Plain),
            "scores are changed by general kernels only"
        );
        let smem = self.smem();
        assert!(smem.bytes <= SMEM_LIMIT, "shared memory");
        assert!(
            splits == 1
                || !smem.o_over_v && smem.part_bytes(self) <= smem.kv_stages * (smem.k_bytes + smem.v_bytes),
            "what consumers come to lies over K and V, O beside them"
        );
        assert!(
            !self.is_causal() || block_m * cluster <= WARPGROUP_ROWS + block_n,
            "a consumer skips at most one key tile before it ends the work tile before: the next would wait for that"
        );
        assert!(!smem.o_over_v || smem.o_bytes <= smem.kv_stages * smem.v_bytes, "O over V");
        assert!(
            !smem.o_over_v || !self.ping_pong() && !self.joins_work_tiles(),
            "a consumer that waits for its turn, or for the last V of the tile before, does not open the gate"
        );
        let (producer, consumer) = self.role_registers();
        let registers = WARPGROUP_THREADS * (producer + self.consumers() * consumer);
        assert!(registers <= REGISTER_FILE, "registers after setmaxnreg");
        // Live at the peak: scores (f32), probabilities (packed pairs), output (f32), and room for addresses and state.
        let sums = if self.promotes { 2 } else { 1 };
        let live = block_n / 2
            + self.p_registers(block_n)
            + sums * self.value_columns() / 2
            + if self.promotes { 24 } else { 28 };
        assert!(live <= consumer, "registers of a consumer");
    }
}
