//! The table of kernels: one row a variant. From each row come its [`Spec`] type, its place in [`FWD`] or [`FWD_FP8`], its
//! legality check (on the host build too) and its entry point in the PTX. Kernels that merge what attention left are in
//! a table of their own, [`MERGE`], as have those that round to 8 bits, [`QUANTIZE`]; what has no element type stands
//! alone.

use core::mem::offset_of;

use crate::band::Band;
use crate::config::{Cost, Dtype, Fp8, Mask, REGISTER_FILE, Score, Spec, Tile, Variant};
use crate::layout::SLAB_COLUMNS;
use crate::params::{FwdParams, General, QuantizeParams, Sequences, TensorMap};
use crate::score_mod::{self, ARGS_WORDS};
use crate::sparse::Sparse;

/// Where the parameters of a general kernel have the addresses of lengths, and of what says which keys are seen.
const LENGTHS: &[u32] = &lengths_at(4 * size_of::<TensorMap>());

/// The same where [`FwdParams`] are `offset` bytes behind the first parameter.
pub(crate) const fn lengths_at(offset: usize) -> [u32; 8] {
    let general = offset + offset_of!(FwdParams, general);
    let sequences = general + offset_of!(General, sequences);
    let sparse = general + offset_of!(General, sparse);
    [
        (sequences + offset_of!(Sequences, start_q)) as u32,
        (sequences + offset_of!(Sequences, start_kv)) as u32,
        (sequences + offset_of!(Sequences, used_q)) as u32,
        (sequences + offset_of!(Sequences, used_kv)) as u32,
        (general + offset_of!(General, band) + offset_of!(Band, prefix)) as u32,
        (sparse + offset_of!(Sparse, ranges)) as u32,
        (sparse + offset_of!(Sparse, counts)) as u32,
        (sparse + offset_of!(Sparse, lists)) as u32,
    ]
}

/// The same, and the arguments of a function of scores: what decides who sees whom is public.
const LENGTHS_AND_ARGS: &[u32] = &{
    let mut offsets = [0; LENGTHS.len() + ARGS_WORDS];
    let mut i = 0;
    while i < offsets.len() {
        offsets[i] = if i < LENGTHS.len() {
            LENGTHS[i]
        } else {
            let args = offset_of!(FwdParams, general) + offset_of!(General, score_args);
            (4 * size_of::<TensorMap>() + args + 8 * (i - LENGTHS.len())) as u32
        };
        i += 1;
    }
    offsets
};

/// Where the parameters of a kernel that rounds to 8 bits have the addresses of lengths, and of what warps tell each
/// other: whose turn it is, magnitudes and their tags.
const ROWS_AND_TURNS: &[u32] = &{
    let (starts, used) = (offset_of!(QuantizeParams, starts), offset_of!(QuantizeParams, used));
    let [starts, used] = [starts as u32, used as u32];
    // Three kinds of maxima, the chains and the turns.
    let told = offset_of!(QuantizeParams, maxima) as u32;
    [starts, starts + 8, used, used + 8, told, told + 8, told + 16, told + 24, told + 32]
};

/// Columns of O that a warp stores at once: four matrices of 8x8 for its 16 rows.
const STMATRIX_COLUMNS: u32 = 16;

/// What the builder must know of an entry point, and what its machine code must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name in the PTX.
    pub symbol: &'static str,
    /// Threads of a CTA (`.maxntid`).
    pub threads: u32,
    /// CTAs of a cluster (`.reqnctapercluster`); 1 means no cluster.
    pub cluster: u32,
    /// CTAs that an SM must have registers for (`.minnctapersm`): ptxas takes as many for each as then remain.
    pub min_ctas: u32,
    /// Dynamic shared memory of a launch, in bytes.
    pub smem_bytes: u32,
    /// Registers of a thread at launch may not exceed this.
    pub max_registers: u32,
    /// Bytes of stack, spill stores and spill loads that it may have in all.
    pub spill_limit: u32,
    /// Offsets, among the parameters, of the addresses of what is public: lengths, which decide what a kernel does.
    pub public_pointers: &'static [u32],
    /// Whether warps take tickets for their work, by an atomic: for kernels whose results do not depend on who gets which.
    pub takes_tickets: bool,
    /// Instructions the PTX must have, no more and no fewer; `None` where nothing is promised.
    pub opcodes: Option<Opcodes>,
}

/// How often each synchronising or tensor instruction stands in the PTX of an entry. A compiler that duplicates or
/// drops one of them (they are not marked convergent) is caught by these counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opcodes {
    /// `wgmma.mma_async`
    pub wgmma: u32,
    /// `cp.async.bulk.tensor` from global to shared memory
    pub tma_load: u32,
    /// `cp.async.bulk.tensor` from shared to global memory
    pub tma_store: u32,
    /// `bar.sync` / `barrier.sync`
    pub bar_sync: u32,
    /// `bar.arrive` / `barrier.arrive`
    pub bar_arrive: u32,
    /// `setmaxnreg.inc`
    pub setmaxnreg_inc: u32,
    /// `setmaxnreg.dec`
    pub setmaxnreg_dec: u32,
    /// `barrier.cluster.arrive`
    pub cluster_arrive: u32,
    /// `barrier.cluster.wait`
    pub cluster_wait: u32,
    /// `stmatrix`
    pub stmatrix: u32,
    /// `elect.sync`
    pub elect: u32,
}

impl Variant {
    /// What the builder must know of this variant.
    pub const fn entry(&self) -> Entry {
        Entry {
            symbol: self.symbol,
            threads: self.threads(),
            cluster: self.cluster_ctas(),
            min_ctas: 1,
            smem_bytes: self.smem().bytes,
            max_registers: self.launch_registers(),
            spill_limit: self.spill_limit(),
            takes_tickets: false,
            public_pointers: match self.score {
                Score::Custom => LENGTHS_AND_ARGS,
                _ if self.is_general() => LENGTHS,
                _ => &[],
            },
            opcodes: Some(self.opcodes()),
        }
    }

    /// The instructions of `attention_fwd`, counted where it has them: the first step alone and, if work tiles are
    /// joined, beside the end of the one before; both short, too, if there are short steps; the step after a short one;
    /// the masked loop, the main loop, and the end. A lane is elected to produce, to store O, and for each release of a
    /// slot, unless the slot is the cluster's: then several lanes arrive.
    const fn opcodes(&self) -> Opcodes {
        let (short, causal) = (self.has_short_step() as u32, self.is_causal() as u32);
        let general = self.is_general() as u32;
        // Under a band both ends may be short.
        let ends_short = self.has_short_ends() as u32;
        let begins = 1 + short + ends_short;
        let joins = if self.joins_work_tiles() { begins } else { 0 };
        // The main loop, and the masked loop or the step after a short one; under a band masked loops on both sides.
        // Sparse kernels have one for all.
        let steps = if self.is_sparse() { 1 } else { 1 + causal + 2 * general + ends_short };
        let scores = begins + joins + steps;
        let ends = if joins == 0 { 1 } else { 2 }; // before a work tile without keys, and at last
        let (columns, keys) = (self.head_dim / self.mma_k(), self.tile.block_n / self.mma_k());
        let turns = if self.ping_pong() { 1 } else { 0 };
        let alone = self.tile.cluster == 1;
        let o_over_v = self.smem().o_over_v as u32;
        // Where tiles are not joined, those without keys are stored in the same place.
        let stores = if joins == 0 { 1 } else { joins + ends + 1 };
        // Key tiles are skipped by who sees none, and under a causal mask by who sees fewer.
        let short_skips = if self.skips_before_short_step() { short } else { 0 };
        let skips = self.skips_key_tiles() as u32;
        // General kernels skip those above alone or with their values, and those below: where a work tile ends alone
        // with its values, else before and after the next one's first scores.
        let k_skips = skips * (1 + causal + general * (2 + ends + (joins > 0) as u32));
        let v_skips = skips * (1 + causal + short_skips + general * (2 + ends + joins));
        let releases =
            (1 + self.has_bias_tiles() as u32) * (scores + k_skips) + (steps + joins + ends + v_skips);
        // Where O lies over V, its gate opens before the first key tile, or while that is scored, and where some pass.
        let gates = begins + 1 + skips;
        // At the start and the end; where CTAs share keys, producers and consumers meet in between, too.
        let cluster_syncs = if self.cluster_ctas() == 1 { 0 } else { 2 * self.key_groups() };
        // Consumers that share keys meet before they write over K and V, and then, unless the cluster meets.
        let meetings = match (self.splits_keys(), cluster_syncs) {
            (false, _) => 0,
            (true, 0) => 2,
            (true, _) => 1,
        };
        let biases = self.has_bias_tiles() as u32;
        let bias_loads =
            biases * (1 + (joins > 0) as u32) * self.consumers() * self.tile.block_n.div_ceil(SLAB_COLUMNS);
        Opcodes {
            wgmma: scores * columns
                + (steps - short + joins + ends) * keys
                + short * self.short_n() / self.mma_k(),
            // Of a tile of Q, K and V; the last V of a work tile apart where the next one is joined to it, or none
            // follows.
            // Those of biases for each consumer, and again for the last key tile of a work tile that the next is joined to.
            tma_load: self.q_tile().slabs
                + self.k_tile().slabs
                + if joins == 0 { 1 } else { 3 } * self.v_tile().slabs
                + bias_loads,
            tma_store: if self.splits_keys() { 1 } else { stores * self.value_slabs() },
            bar_sync: turns * (scores + k_skips + 1)
                + (cluster_syncs == 0) as u32 // all of the CTA, at the start
                + stores * o_over_v
                + meetings,
            bar_arrive: turns * (scores + k_skips + 1),
            setmaxnreg_inc: 1,
            setmaxnreg_dec: 1,
            cluster_arrive: cluster_syncs,
            cluster_wait: cluster_syncs,
            stmatrix: stores * self.value_columns() / self.tile.splits / STMATRIX_COLUMNS,
            elect: 1 + 2 + stores + if alone { releases + gates * o_over_v } else { 0 },
        }
    }
}

/// The [`Spec`] type of a forward kernel of this name, and its legality check (on the host build too).
#[doc(hidden)]
#[macro_export]
macro_rules! fwd_kernel {
    ($symbol:ident: $mod:ty, $variant:expr) => {
        #[doc = concat!("The variant `", stringify!($symbol), "`.")]
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug)]
        pub struct $symbol;

        impl $crate::config::Spec for $symbol {
            const VARIANT: $crate::config::Variant = $crate::config::Variant {
                symbol: stringify!($symbol),
                score: <$mod as $crate::score_mod::ScoreMod>::KIND,
                ..$variant
            };
            type Mod = $mod;
        }

        const _: () = <$symbol as $crate::config::Spec>::VARIANT.assert_legal();
    };
}

/// The entry point of the kernel `$symbol`, whose [`Spec`] type is `$spec`.
#[doc(hidden)]
#[macro_export]
macro_rules! fwd_entry_point {
    ($symbol:ident: $spec:ty, BiasTiles) => {
        $crate::fwd_entry_point!($symbol: $spec, [_bias: TensorMap], Some($crate::param_address!($symbol, 5)));
    };
    ($symbol:ident: $spec:ty $(, $score:ident)?) => {
        $crate::fwd_entry_point!($symbol: $spec, [], None);
    };
    ($symbol:ident: $spec:ty, [$($bias:ident: $map:ty)?], $bias_map:expr) => {
        #[cfg(target_arch = "nvptx64")]
        const _: () = {
            use $crate::config::{Spec, Variant};
            use $crate::params::{FwdParams, TensorMap};

            const V: Variant = <$spec as Spec>::VARIANT;

            /// Entry point.
            ///
            /// # Safety
            /// The launch must be one that the host's plan for this variant describes: its threads and shared
            /// memory, tensor maps with this variant's boxes, and parameters that agree with them.
            #[unsafe(no_mangle)]
            unsafe extern "ptx-kernel" fn $symbol(
                _q: TensorMap,
                _k: TensorMap,
                _v: TensorMap,
                _o: TensorMap,
                params: FwdParams,
                $($bias: $map,)?
            ) {
                let maps = $crate::attention_fwd::Maps {
                    q: $crate::param_address!($symbol, 0),
                    k: $crate::param_address!($symbol, 1),
                    v: $crate::param_address!($symbol, 2),
                    o: $crate::param_address!($symbol, 3),
                    bias: $bias_map,
                };
                // SAFETY: passed on to the caller.
                unsafe {
                    $crate::attention_fwd::attention_fwd::<
                        $spec,
                        { V.tile.block_n as usize / 2 },
                        { V.p_registers(V.tile.block_n) as usize },
                        { V.value_columns() as usize / 2 },
                        { V.short_n() as usize / 2 },
                        { V.p_registers(V.short_n()) as usize },
                        { V.value_columns() as usize / 4 },
                    >(maps, &params)
                }
            }
        };
    };
}

/// Compiles attention kernels in which a [`ScoreMod`](crate::score_mod::ScoreMod) changes the scores:
///
/// ```ignore
/// attention_kernels! {
///     Alibi: alibi_hd64_f16 = (64, F16), alibi_hd128_f16 = (128, F16), alibi_hd128_bf16 = (128, Bf16),
/// }
/// ```
///
/// One kernel computes head dims up to its own, of one element type; for key ranges and block masks, too, if it says so:
/// `(128, F16, sparse)` is a kernel for calls that have them, beside the one for those that have not. Names must be unique among the kernels of a crate.
/// The crate builds for the host too, where it tells what the kernels are: it is `no_std`, and wants the features
/// `abi_ptx` and `asm_experimental_arch` where `target_arch` is `nvptx64`.
#[macro_export]
macro_rules! attention_kernels {
    ($mod:ty: $($symbol:ident = ($head_dim:literal, $dtype:ident $(, $sparse:ident)?)),+ $(,)?) => {
        const _: () = $crate::score_mod::assert_args::<$mod>();

        $(
            $crate::fwd_kernel!(
                $symbol: $mod,
                $crate::config::Variant::general($head_dim, $crate::config::Dtype::$dtype)$(.$sparse())?
            );
            $crate::fwd_entry_point!($symbol: $symbol);
        )+

        impl $crate::score_mod::Kernels for $mod {
            const KERNELS: &'static [$crate::config::Variant] =
                &[$(<$symbol as $crate::config::Spec>::VARIANT),+];
        }
    };
}

/// What is compiled with the kernels of an element type.
macro_rules! of_dtype {
    (F16: $($item:tt)*) => {
        #[cfg(feature = "f16")]
        const _: () = { $($item)* };
    };
    (Bf16: $($item:tt)*) => {
        #[cfg(feature = "bf16")]
        const _: () = { $($item)* };
    };
}

macro_rules! fwd_variants {
    ($(#[$doc:meta])* $table:ident in $spec:ident: $($symbol:ident: $head_dim:literal $(x $head_dim_v:literal)?, $dtype:ident $(of $fp8:ident $($promoted:ident)?)?, $mask:ident, $score:ident, [$m:literal, $n:literal, $stages:literal, $cluster:literal, $splits:literal],
        $key_ps:literal, $tile_keys:literal;)*) => {
        /// Variants as types.
        pub mod $spec {
            use super::*;
            $(
                $crate::fwd_kernel!($symbol: score_mod::$score, Variant {
                    symbol: "",
                    head_dim: $head_dim,
                    head_dim_v: [$($head_dim_v,)? $head_dim][0],
                    dtype: Dtype::$dtype,
                    fp8: [$(Some(Fp8::$fp8),)? None][0],
                    promotes: [$($(stringify!($promoted).len() > 0,)?)? false][0],
                    mask: Mask::$mask,
                    score: Score::$score,
                    tile: Tile { block_m: $m, block_n: $n, stages: $stages, cluster: $cluster, splits: $splits },
                    cost: Cost { key_ps: $key_ps, tile_keys: $tile_keys },
                });
            )*
        }

        $(of_dtype! { $dtype: $crate::fwd_entry_point!($symbol: $spec::$symbol, $score); })*

        $(#[$doc])*
        pub const $table: &[Variant] = &[$(<$spec::$symbol as Spec>::VARIANT),*];
    };
}

fwd_variants! {
    /// Every forward kernel of 16 bits.
    FWD in spec:
    // symbol                              head_dim (x that of V), dtype, mask, score, tile [block_m, block_n, stages,
    // cluster, splits], cost [ps, keys]
    fwd_hd64_m192n128_f16:                 64, F16,  Full,   Plain, [192, 128, 2, 1, 1],  3980, 196;
    fwd_hd64_m128n128_f16:                 64, F16,  Full,   Plain, [128, 128, 2, 1, 1],  5013, 160;
    fwd_hd64_m192n128_bf16:                64, Bf16, Full,   Plain, [192, 128, 2, 1, 1],  3980, 196;
    fwd_hd64_m128n128_bf16:                64, Bf16, Full,   Plain, [128, 128, 2, 1, 1],  5013, 160;
    fwd_hd64_m192n128_f16_causal:          64, F16,  Causal, Plain, [192, 128, 2, 1, 1],  4250, 270;
    fwd_hd64_m128n128_f16_causal:          64, F16,  Causal, Plain, [128, 128, 2, 1, 1],  4541, 244;
    fwd_hd64_m192n128_bf16_causal:         64, Bf16, Causal, Plain, [192, 128, 2, 1, 1],  4250, 270;
    fwd_hd64_m128n128_bf16_causal:         64, Bf16, Causal, Plain, [128, 128, 2, 1, 1],  4541, 244;
    fwd_hd64_m64n128s2_f16:                64, F16,  Full,   Plain, [64, 128, 4, 1, 2],  4350, 680;
    fwd_hd64_m64n128s4_f16:                64, F16,  Full,   Plain, [64, 128, 4, 1, 4],  4350, 960;
    fwd_hd64_m64n128s2_bf16:               64, Bf16, Full,   Plain, [64, 128, 4, 1, 2],  4350, 680;
    fwd_hd64_m64n128s4_bf16:               64, Bf16, Full,   Plain, [64, 128, 4, 1, 4],  4350, 960;
    fwd_hd64_m64n128s2_f16_causal:         64, F16,  Causal, Plain, [64, 128, 4, 1, 2],  4150, 760;
    fwd_hd64_m64n128s4_f16_causal:         64, F16,  Causal, Plain, [64, 128, 4, 1, 4],  4150, 1040;
    fwd_hd64_m64n128s2_bf16_causal:        64, Bf16, Causal, Plain, [64, 128, 4, 1, 2],  4150, 760;
    fwd_hd64_m64n128s4_bf16_causal:        64, Bf16, Causal, Plain, [64, 128, 4, 1, 4],  4150, 1040;
    fwd_hd96_m192n96_f16:                  96, F16,  Full,   Plain, [192, 96, 2, 1, 1],  5520, 324;
    fwd_hd96_m128n128_f16:                 96, F16,  Full,   Plain, [128, 128, 2, 1, 1],  5820, 120;
    fwd_hd96_m192n96_bf16:                 96, Bf16, Full,   Plain, [192, 96, 2, 1, 1],  5520, 324;
    fwd_hd96_m128n128_bf16:                96, Bf16, Full,   Plain, [128, 128, 2, 1, 1],  5820, 120;
    fwd_hd96_m128n128_f16_causal:          96, F16,  Causal, Plain, [128, 128, 2, 1, 1],  6190, 148;
    fwd_hd96_m128n128_bf16_causal:         96, Bf16, Causal, Plain, [128, 128, 2, 1, 1],  6190, 148;
    fwd_hd128_m128n128_f16:               128, F16,  Full,   Plain, [128, 128, 2, 1, 1],  6410, 160;
    fwd_hd128_m128n128x2_f16:             128, F16,  Full,   Plain, [128, 128, 2, 2, 1],  6310, 178;
    fwd_hd128_m128n128_bf16:              128, Bf16, Full,   Plain, [128, 128, 2, 1, 1],  6410, 160;
    fwd_hd128_m128n128x2_bf16:            128, Bf16, Full,   Plain, [128, 128, 2, 2, 1],  6310, 178;
    fwd_hd128_m128n128_f16_causal:        128, F16,  Causal, Plain, [128, 128, 2, 1, 1],  6710, 204;
    fwd_hd128_m128n128_bf16_causal:       128, Bf16, Causal, Plain, [128, 128, 2, 1, 1],  6710, 204;
    fwd_hd128_m64n64s2_f16:               128, F16,  Full,   Plain, [64, 64, 6, 1, 2],  6600, 520;
    fwd_hd128_m64n64s4_f16:               128, F16,  Full,   Plain, [64, 64, 6, 1, 4],  6600, 720;
    fwd_hd128_m64n64s2_bf16:              128, Bf16, Full,   Plain, [64, 64, 6, 1, 2],  6600, 520;
    fwd_hd128_m64n64s4_bf16:              128, Bf16, Full,   Plain, [64, 64, 6, 1, 4],  6600, 720;
    fwd_hd128_m64n64s2_f16_causal:        128, F16,  Causal, Plain, [64, 64, 6, 1, 2],  6700, 520;
    fwd_hd128_m64n64s4_f16_causal:        128, F16,  Causal, Plain, [64, 64, 6, 1, 4],  6700, 740;
    fwd_hd128_m64n64s2_bf16_causal:       128, Bf16, Causal, Plain, [64, 64, 6, 1, 2],  6700, 520;
    fwd_hd128_m64n64s4_bf16_causal:       128, Bf16, Causal, Plain, [64, 64, 6, 1, 4],  6700, 740;
    fwd_hd192_m128n112_f16:               192, F16,  Full,   Plain, [128, 112, 2, 1, 1],  9231, 232;
    fwd_hd192_m128n96_f16:                192, F16,  Full,   Plain, [128, 96, 2, 1, 1],  9260, 188;
    fwd_hd192_m128n112_bf16:              192, Bf16, Full,   Plain, [128, 112, 2, 1, 1],  9231, 232;
    fwd_hd192_m128n96_bf16:               192, Bf16, Full,   Plain, [128, 96, 2, 1, 1],  9260, 188;
    fwd_hd192_m128n112_f16_causal:        192, F16,  Causal, Plain, [128, 112, 2, 1, 1],  9930, 304;
    fwd_hd192_m128n96_f16_causal:         192, F16,  Causal, Plain, [128, 96, 2, 1, 1], 10120, 244;
    fwd_hd192_m128n112_bf16_causal:       192, Bf16, Causal, Plain, [128, 112, 2, 1, 1],  9930, 304;
    fwd_hd192_m128n96_bf16_causal:        192, Bf16, Causal, Plain, [128, 96, 2, 1, 1], 10120, 244;
    fwd_hd256_m128n80x2_f16:              256, F16,  Full,   Plain, [128, 80, 2, 2, 1], 11300, 240;
    fwd_hd256_m128n64_f16:                256, F16,  Full,   Plain, [128, 64, 2, 1, 1], 12790, 188;
    fwd_hd256_m128n80x2_bf16:             256, Bf16, Full,   Plain, [128, 80, 2, 2, 1], 11300, 240;
    fwd_hd256_m128n64_bf16:               256, Bf16, Full,   Plain, [128, 64, 2, 1, 1], 12790, 188;
    fwd_hd256_m128n80_f16_causal:         256, F16,  Causal, Plain, [128, 80, 2, 1, 1], 11920, 276;
    fwd_hd256_m128n64_f16_causal:         256, F16,  Causal, Plain, [128, 64, 2, 1, 1], 13423, 196;
    fwd_hd256_m128n80_bf16_causal:        256, Bf16, Causal, Plain, [128, 80, 2, 1, 1], 11920, 276;
    fwd_hd256_m128n64_bf16_causal:        256, Bf16, Causal, Plain, [128, 64, 2, 1, 1], 13423, 196;
    fwd_hd192v128_m128n128_f16:            192 x 128, F16,  Full,   Plain, [128, 128, 2, 1, 1], 7850, 220;
    fwd_hd192v128_m128n128_bf16:           192 x 128, Bf16, Full,   Plain, [128, 128, 2, 1, 1], 7850, 220;
    fwd_hd192v128_m128n128_f16_causal:     192 x 128, F16,  Causal, Plain, [128, 128, 2, 1, 1], 8320, 290;
    fwd_hd192v128_m128n128_bf16_causal:    192 x 128, Bf16, Causal, Plain, [128, 128, 2, 1, 1], 8320, 290;
    fwd_hd64v256_m128n96_f16:              64 x 256, F16,  Full,   Plain, [128, 96, 2, 1, 1], 7850, 200;
    fwd_hd64v256_m128n96_bf16:             64 x 256, Bf16, Full,   Plain, [128, 96, 2, 1, 1], 7850, 200;
    fwd_hd64v256_m128n96_f16_causal:       64 x 256, F16,  Causal, Plain, [128, 96, 2, 1, 1], 8320, 260;
    fwd_hd64v256_m128n96_bf16_causal:      64 x 256, Bf16, Causal, Plain, [128, 96, 2, 1, 1], 8320, 260;
    fwd_hd64_m128n128_f16_band:             64, F16,  Band,   Plain,   [128, 128, 2, 1, 1],  5013, 300;
    fwd_hd64_m192n96_f16_band:              64, F16,  Band,   Plain,   [192, 96, 2, 1, 1],  4500, 300;
    fwd_hd64_m128n128_f16_band_softcap:     64, F16,  Band,   Softcap, [128, 128, 2, 1, 1],  5013, 300;
    fwd_hd64_m192n96_f16_band_softcap_approx: 64, F16,   Band,   SoftcapApprox, [192, 96, 2, 1, 1], 4500, 300;
    fwd_hd64_m128n128_bf16_band:            64, Bf16, Band,   Plain,   [128, 128, 2, 1, 1],  5013, 300;
    fwd_hd64_m192n96_bf16_band:             64, Bf16, Band,   Plain,   [192, 96, 2, 1, 1],  4500, 300;
    fwd_hd64_m128n128_bf16_band_softcap:    64, Bf16, Band,   Softcap, [128, 128, 2, 1, 1],  5013, 300;
    fwd_hd64_m192n96_bf16_band_softcap_approx: 64, Bf16,  Band,   SoftcapApprox, [192, 96, 2, 1, 1], 4500, 300;
    fwd_hd96_m128n128_f16_band:             96, F16,  Band,   Plain,   [128, 128, 2, 1, 1],  6200, 300;
    fwd_hd96_m128n128_f16_band_softcap:     96, F16,  Band,   Softcap, [128, 128, 2, 1, 1],  6200, 300;
    fwd_hd96_m128n128_bf16_band:            96, Bf16, Band,   Plain,   [128, 128, 2, 1, 1],  6200, 300;
    fwd_hd96_m128n128_bf16_band_softcap:    96, Bf16, Band,   Softcap, [128, 128, 2, 1, 1],  6200, 300;
    fwd_hd128_m128n128_f16_band:           128, F16,  Band,   Plain,   [128, 128, 2, 1, 1],  6710, 300;
    fwd_hd128_m128n112_f16_band_softcap:   128, F16,  Band,   Softcap, [128, 112, 2, 1, 1],  6710, 300;
    fwd_hd128_m128n128_f16_band_softcap_approx: 128, F16,   Band,   SoftcapApprox, [128, 128, 2, 1, 1], 6710, 300;
    fwd_hd128_m128n128_bf16_band:          128, Bf16, Band,   Plain,   [128, 128, 2, 1, 1],  6710, 300;
    fwd_hd128_m128n112_bf16_band_softcap:  128, Bf16, Band,   Softcap, [128, 112, 2, 1, 1],  6710, 300;
    fwd_hd128_m128n128_bf16_band_softcap_approx: 128, Bf16,  Band,   SoftcapApprox, [128, 128, 2, 1, 1], 6710, 300;
    fwd_hd192_m128n96_f16_band:            192, F16,  Band,   Plain,   [128, 96, 2, 1, 1], 10120, 300;
    fwd_hd192_m128n96_f16_band_softcap:    192, F16,  Band,   Softcap, [128, 96, 2, 1, 1], 10120, 300;
    fwd_hd192_m128n96_bf16_band:           192, Bf16, Band,   Plain,   [128, 96, 2, 1, 1], 10120, 300;
    fwd_hd192_m128n96_bf16_band_softcap:   192, Bf16, Band,   Softcap, [128, 96, 2, 1, 1], 10120, 300;
    fwd_hd256_m128n64_f16_band:            256, F16,  Band,   Plain,   [128, 64, 2, 1, 1], 13423, 300;
    fwd_hd256_m128n64_f16_band_softcap:    256, F16,  Band,   Softcap, [128, 64, 2, 1, 1], 13423, 300;
    fwd_hd256_m128n64_f16_band_softcap_approx: 256, F16,   Band,   SoftcapApprox, [128, 64, 2, 1, 1], 13423, 300;
    fwd_hd256_m128n64_bf16_band:           256, Bf16, Band,   Plain,   [128, 64, 2, 1, 1], 13423, 300;
    fwd_hd256_m128n64_bf16_band_softcap:   256, Bf16, Band,   Softcap, [128, 64, 2, 1, 1], 13423, 300;
    fwd_hd256_m128n64_bf16_band_softcap_approx: 256, Bf16,  Band,   SoftcapApprox, [128, 64, 2, 1, 1], 13423, 300;
    fwd_hd192v128_m128n128_f16_band:       192 x 128, F16,  Band,   Plain, [128, 128, 2, 1, 1], 8320, 300;
    fwd_hd192v128_m128n128_bf16_band:      192 x 128, Bf16, Band,   Plain, [128, 128, 2, 1, 1], 8320, 300;
    fwd_hd64v256_m128n80_f16_band:         64 x 256, F16,  Band,   Plain, [128, 80, 2, 1, 1], 8320, 300;
    fwd_hd64v256_m128n80_bf16_band:        64 x 256, Bf16, Band,   Plain, [128, 80, 2, 1, 1], 8320, 300;
    fwd_hd512_m64n32_f16_band:             512, F16,  Band,   Plain, [64, 32, 2, 1, 1], 45000, 130;
    fwd_hd512_m64n32_bf16_band:            512, Bf16, Band,   Plain, [64, 32, 2, 1, 1], 45000, 130;
    fwd_hd64_m128n128_f16_band_biased:      64, F16,  Band,   Biased,  [128, 128, 2, 1, 1],  9000, 300;
    fwd_hd64_m128n128_bf16_band_biased:     64, Bf16, Band,   Biased,  [128, 128, 2, 1, 1],  9000, 300;
    fwd_hd96_m128n128_f16_band_biased:      96, F16,  Band,   Biased,  [128, 128, 2, 1, 1], 11000, 300;
    fwd_hd96_m128n128_bf16_band_biased:     96, Bf16, Band,   Biased,  [128, 128, 2, 1, 1], 11000, 300;
    fwd_hd128_m128n112_f16_band_biased:    128, F16,  Band,   Biased,  [128, 112, 2, 1, 1], 12000, 300;
    fwd_hd128_m128n112_bf16_band_biased:   128, Bf16, Band,   Biased,  [128, 112, 2, 1, 1], 12000, 300;
    fwd_hd192_m128n80_f16_band_biased:     192, F16,  Band,   Biased,  [128, 80, 2, 1, 1], 18000, 300;
    fwd_hd192_m128n80_bf16_band_biased:    192, Bf16, Band,   Biased,  [128, 80, 2, 1, 1], 18000, 300;
    fwd_hd256_m128n64_f16_band_biased:     256, F16,  Band,   Biased,  [128, 64, 2, 1, 1], 22000, 300;
    fwd_hd256_m128n64_bf16_band_biased:    256, Bf16, Band,   Biased,  [128, 64, 2, 1, 1], 22000, 300;
    fwd_hd64_m128n128_f16_band_alibi:        64, F16,  Band,   Alibi,   [128, 128, 2, 1, 1],  5500, 300;
    fwd_hd64_m128n128_bf16_band_alibi:       64, Bf16, Band,   Alibi,   [128, 128, 2, 1, 1],  5500, 300;
    fwd_hd96_m128n128_f16_band_alibi:        96, F16,  Band,   Alibi,   [128, 128, 2, 1, 1],  6800, 300;
    fwd_hd96_m128n128_bf16_band_alibi:       96, Bf16, Band,   Alibi,   [128, 128, 2, 1, 1],  6800, 300;
    fwd_hd128_m128n128_f16_band_alibi:      128, F16,  Band,   Alibi,   [128, 128, 2, 1, 1],  7400, 300;
    fwd_hd128_m128n128_bf16_band_alibi:     128, Bf16, Band,   Alibi,   [128, 128, 2, 1, 1],  7400, 300;
    fwd_hd192_m128n96_f16_band_alibi:       192, F16,  Band,   Alibi,   [128, 96, 2, 1, 1], 11100, 300;
    fwd_hd192_m128n96_bf16_band_alibi:      192, Bf16, Band,   Alibi,   [128, 96, 2, 1, 1], 11100, 300;
    fwd_hd256_m128n64_f16_band_alibi:       256, F16,  Band,   Alibi,   [128, 64, 2, 1, 1], 14800, 300;
    fwd_hd256_m128n64_bf16_band_alibi:      256, Bf16, Band,   Alibi,   [128, 64, 2, 1, 1], 14800, 300;
    fwd_hd64_m128n128_f16_band_bias_tiles:   64, F16,  Band,   BiasTiles, [128, 128, 2, 1, 1],  6100, 300;
    fwd_hd64_m128n128_bf16_band_bias_tiles:  64, Bf16, Band,   BiasTiles, [128, 128, 2, 1, 1],  6100, 300;
    fwd_hd96_m128n128_f16_band_bias_tiles:   96, F16,  Band,   BiasTiles, [128, 128, 2, 1, 1],  7600, 300;
    fwd_hd96_m128n128_bf16_band_bias_tiles:  96, Bf16, Band,   BiasTiles, [128, 128, 2, 1, 1],  7600, 300;
    fwd_hd128_m128n128_f16_band_bias_tiles: 128, F16,  Band,   BiasTiles, [128, 128, 2, 1, 1],  8200, 300;
    fwd_hd128_m128n128_bf16_band_bias_tiles: 128, Bf16, Band,   BiasTiles, [128, 128, 2, 1, 1],  8200, 300;
    fwd_hd192_m128n96_f16_band_bias_tiles:  192, F16,  Band,   BiasTiles, [128, 96, 2, 1, 1], 12300, 300;
    fwd_hd192_m128n96_bf16_band_bias_tiles: 192, Bf16, Band,   BiasTiles, [128, 96, 2, 1, 1], 12300, 300;
    fwd_hd256_m128n64_f16_band_bias_tiles:  256, F16,  Band,   BiasTiles, [128, 64, 2, 1, 1], 16400, 300;
    fwd_hd256_m128n64_bf16_band_bias_tiles: 256, Bf16, Band,   BiasTiles, [128, 64, 2, 1, 1], 16400, 300;
    fwd_hd64_m128n128_f16_sparse:            64, F16,  Sparse, Plain,  [128, 128, 2, 1, 1],  5013, 300;
    fwd_hd64_m128n128_bf16_sparse:           64, Bf16, Sparse, Plain,  [128, 128, 2, 1, 1],  5013, 300;
    fwd_hd96_m128n128_f16_sparse:            96, F16,  Sparse, Plain,  [128, 128, 2, 1, 1],  6200, 300;
    fwd_hd96_m128n128_bf16_sparse:           96, Bf16, Sparse, Plain,  [128, 128, 2, 1, 1],  6200, 300;
    fwd_hd128_m128n128_f16_sparse:          128, F16,  Sparse, Plain,  [128, 128, 2, 1, 1],  6710, 300;
    fwd_hd128_m128n128_bf16_sparse:         128, Bf16, Sparse, Plain,  [128, 128, 2, 1, 1],  6710, 300;
    fwd_hd192_m128n64_f16_sparse:           192, F16,  Sparse, Plain,  [128, 64, 2, 1, 1], 10120, 300;
    fwd_hd192_m128n64_bf16_sparse:          192, Bf16, Sparse, Plain,  [128, 64, 2, 1, 1], 10120, 300;
    fwd_hd256_m128n64_f16_sparse:           256, F16,  Sparse, Plain,  [128, 64, 2, 1, 1], 13423, 300;
    fwd_hd256_m128n64_bf16_sparse:          256, Bf16, Sparse, Plain,  [128, 64, 2, 1, 1], 13423, 300;
}

fwd_variants! {
    /// Every forward kernel of Q, K and V of 8 bits.
    FWD_FP8 in spec_fp8:
    fwd_hd64_m192n96_e4m3_f16:               64, F16 of E4m3 promoted, Full,   Plain, [192, 96, 2, 1, 1], 3500, 200;
    fwd_hd64_m192n96_e4m3_bf16:              64, Bf16 of E4m3 promoted, Full,   Plain, [192, 96, 2, 1, 1], 3500, 200;
    fwd_hd64_m128n192_e4m3_f16_causal:       64, F16 of E4m3 promoted, Causal, Plain, [128, 192, 2, 1, 1], 4100, 240;
    fwd_hd64_m128n192_e4m3_bf16_causal:      64, Bf16 of E4m3 promoted, Causal, Plain, [128, 192, 2, 1, 1], 4100, 240;
    fwd_hd128_m128n128_e4m3_f16:             128, F16 of E4m3 promoted, Full,   Plain, [128, 128, 2, 1, 1], 4000, 200;
    fwd_hd128_m128n128_e4m3_bf16:            128, Bf16 of E4m3 promoted, Full,   Plain, [128, 128, 2, 1, 1], 4000, 200;
    fwd_hd128_m128n96_e4m3_f16_causal:       128, F16 of E4m3 promoted, Causal, Plain, [128, 96, 2, 1, 1], 4300, 240;
    fwd_hd128_m128n96_e4m3_bf16_causal:      128, Bf16 of E4m3 promoted, Causal, Plain, [128, 96, 2, 1, 1], 4300, 240;
    fwd_hd256_m128n128_e4m3_f16:             256, F16 of E4m3, Full,   Plain, [128, 128, 2, 1, 1], 6500, 240;
    fwd_hd256_m128n128_e4m3_bf16:            256, Bf16 of E4m3, Full,   Plain, [128, 128, 2, 1, 1], 6500, 240;
    fwd_hd256_m128n128_e4m3_f16_causal:      256, F16 of E4m3, Causal, Plain, [128, 128, 2, 1, 1], 6800, 260;
    fwd_hd256_m128n128_e4m3_bf16_causal:     256, Bf16 of E4m3, Causal, Plain, [128, 128, 2, 1, 1], 6800, 260;
    fwd_hd64_m128n128_e4m3_f16_band:           64, F16 of E4m3 promoted, Band, Plain, [128, 128, 2, 1, 1], 4400, 300;
    fwd_hd64_m128n128_e4m3_bf16_band:          64, Bf16 of E4m3 promoted, Band, Plain, [128, 128, 2, 1, 1], 4400, 300;
    fwd_hd64_m128n128_e4m3_f16_band_softcap:   64, F16 of E4m3 promoted, Band, Softcap, [128, 128, 2, 1, 1], 4400, 300;
    fwd_hd64_m128n128_e4m3_bf16_band_softcap:  64, Bf16 of E4m3 promoted, Band, Softcap, [128, 128, 2, 1, 1], 4400, 300;
    fwd_hd128_m128n96_e4m3_f16_band:           128, F16 of E4m3 promoted, Band, Plain, [128, 96, 2, 1, 1], 4700, 300;
    fwd_hd128_m128n96_e4m3_bf16_band:          128, Bf16 of E4m3 promoted, Band, Plain, [128, 96, 2, 1, 1], 4700, 300;
    fwd_hd128_m128n64_e4m3_f16_band_softcap:   128, F16 of E4m3 promoted, Band, Softcap, [128, 64, 2, 1, 1], 5000, 300;
    fwd_hd128_m128n64_e4m3_bf16_band_softcap:  128, Bf16 of E4m3 promoted, Band, Softcap, [128, 64, 2, 1, 1], 5000, 300;
    fwd_hd256_m128n64_e4m3_f16_band:           256, F16 of E4m3, Band, Plain, [128, 64, 2, 1, 1], 7600, 300;
    fwd_hd256_m128n64_e4m3_bf16_band:          256, Bf16 of E4m3, Band, Plain, [128, 64, 2, 1, 1], 7600, 300;
    fwd_hd256_m128n64_e4m3_f16_band_softcap:   256, F16 of E4m3, Band, Softcap, [128, 64, 2, 1, 1], 8000, 300;
    fwd_hd256_m128n64_e4m3_bf16_band_softcap:  256, Bf16 of E4m3, Band, Softcap, [128, 64, 2, 1, 1], 8000, 300;
    fwd_hd64_m192n96_e5m2_f16:               64, F16 of E5m2 promoted, Full,   Plain, [192, 96, 2, 1, 1], 3500, 200;
    fwd_hd64_m192n96_e5m2_bf16:              64, Bf16 of E5m2 promoted, Full,   Plain, [192, 96, 2, 1, 1], 3500, 200;
    fwd_hd64_m128n192_e5m2_f16_causal:       64, F16 of E5m2 promoted, Causal, Plain, [128, 192, 2, 1, 1], 4100, 240;
    fwd_hd64_m128n192_e5m2_bf16_causal:      64, Bf16 of E5m2 promoted, Causal, Plain, [128, 192, 2, 1, 1], 4100, 240;
    fwd_hd128_m128n128_e5m2_f16:             128, F16 of E5m2 promoted, Full,   Plain, [128, 128, 2, 1, 1], 4000, 200;
    fwd_hd128_m128n128_e5m2_bf16:            128, Bf16 of E5m2 promoted, Full,   Plain, [128, 128, 2, 1, 1], 4000, 200;
    fwd_hd128_m128n96_e5m2_f16_causal:       128, F16 of E5m2 promoted, Causal, Plain, [128, 96, 2, 1, 1], 4300, 240;
    fwd_hd128_m128n96_e5m2_bf16_causal:      128, Bf16 of E5m2 promoted, Causal, Plain, [128, 96, 2, 1, 1], 4300, 240;
    fwd_hd256_m128n128_e5m2_f16:             256, F16 of E5m2, Full,   Plain, [128, 128, 2, 1, 1], 6500, 240;
    fwd_hd256_m128n128_e5m2_bf16:            256, Bf16 of E5m2, Full,   Plain, [128, 128, 2, 1, 1], 6500, 240;
    fwd_hd256_m128n128_e5m2_f16_causal:      256, F16 of E5m2, Causal, Plain, [128, 128, 2, 1, 1], 6800, 260;
    fwd_hd256_m128n128_e5m2_bf16_causal:     256, Bf16 of E5m2, Causal, Plain, [128, 128, 2, 1, 1], 6800, 260;
}

/// A kernel that merges attention states. Only the element type changes its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MergeVariant {
    /// Name of the kernel's entry point in its PTX.
    pub symbol: &'static str,
    /// Element type of the outputs.
    pub dtype: Dtype,
}

impl MergeVariant {
    /// Threads of a CTA.
    pub const THREADS: u32 = 128;
    /// CTAs that an SM has room for, and that a launch starts on each: 1536 threads, each of which waits for 32 bytes
    /// at a time, are more than enough to cover the latency of memory at its full speed (about 30 KB for each SM of an
    /// H200).
    pub const CTAS_PER_SM: u32 = 12;

    /// What the builder must know of this variant.
    pub const fn entry(&self) -> Entry {
        Entry {
            symbol: self.symbol,
            threads: Self::THREADS,
            cluster: 1,
            min_ctas: 1,
            smem_bytes: 0,
            max_registers: REGISTER_FILE / (Self::CTAS_PER_SM * Self::THREADS) / 8 * 8,
            spill_limit: 0,
            public_pointers: &[],
            takes_tickets: false,
            opcodes: None,
        }
    }
}

macro_rules! merge_variants {
    ($($symbol:ident: $dtype:ident;)*) => {
        /// Every kernel that merges attention states.
        pub const MERGE: &[MergeVariant] =
            &[$(MergeVariant { symbol: stringify!($symbol), dtype: Dtype::$dtype }),*];

        #[cfg(target_arch = "nvptx64")]
        mod merge_symbols {
            $(of_dtype! { $dtype:
                /// Entry point.
                ///
                /// # Safety
                /// The launch must be one that the host's plan describes: its threads, and parameters that are of these
                /// tensors.
                #[unsafe(no_mangle)]
                unsafe extern "ptx-kernel" fn $symbol(params: crate::params::MergeParams) {
                    // SAFETY: passed on to the caller.
                    unsafe { crate::merge_states::merge_states(super::Dtype::$dtype, &params) }
                }
            })*
        }
    };
}

merge_variants! {
    merge_states_f16: F16;
    merge_states_bf16: Bf16;
}

/// A kernel that rounds Q, K and V to 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantizeVariant {
    /// Name of the kernel's entry point in its PTX.
    pub symbol: &'static str,
    /// Element type of what is rounded.
    pub dtype: Dtype,
    /// That of the results.
    pub fp8: Fp8,
    /// Whether it rotates Q and K before.
    pub rotates: bool,
    /// Whether it rounds by chance.
    pub by_chance: bool,
}

impl QuantizeVariant {
    /// Threads of a CTA.
    pub const THREADS: u32 = 128;
    /// Warps of a CTA: each works for itself.
    pub const WARPS: u32 = Self::THREADS / 32;
    /// Rows of which a lane holds 8 columns each: 256 bytes.
    pub const LANE_ROWS: u32 = 16;
    /// How many times 8 columns of V a warp holds at most.
    pub const VALUE_OCTETS: u32 = 16;
    /// CTAs that an SM has room for.
    pub const fn ctas_per_sm(&self) -> u32 {
        if self.rotates || self.by_chance { 3 } else { 4 }
    }

    /// What the builder must know of this variant.
    pub const fn entry(&self) -> Entry {
        Entry {
            symbol: self.symbol,
            threads: Self::THREADS,
            cluster: 1,
            min_ctas: self.ctas_per_sm(),
            smem_bytes: 0,
            max_registers: REGISTER_FILE / (self.ctas_per_sm() * Self::THREADS) / 8 * 8,
            spill_limit: 0,
            public_pointers: ROWS_AND_TURNS,
            takes_tickets: true,
            opcodes: None,
        }
    }
}

macro_rules! quantize_variants {
    ($($symbol:ident: $dtype:ident to $fp8:ident, $rotates:literal, $by_chance:literal;)*) => {
        /// Every kernel that rounds to 8 bits.
        pub const QUANTIZE: &[QuantizeVariant] = &[$(QuantizeVariant {
            symbol: stringify!($symbol),
            dtype: Dtype::$dtype,
            fp8: Fp8::$fp8,
            rotates: $rotates,
            by_chance: $by_chance,
        }),*];

        #[cfg(target_arch = "nvptx64")]
        mod quantize_symbols {
            $(of_dtype! { $dtype:
                /// Entry point.
                ///
                /// # Safety
                /// The launch must be one that the host's plan describes: its threads, and parameters that are of these
                /// tensors.
                #[unsafe(no_mangle)]
                unsafe extern "ptx-kernel" fn $symbol(params: crate::params::QuantizeParams) {
                    // SAFETY: passed on to the caller.
                    unsafe { crate::quantize::round::<$rotates, $by_chance>(super::Dtype::$dtype, super::Fp8::$fp8, &params) }
                }
            })*
        }
    };
}

quantize_variants! {
    // symbol                                   types         rotates, by chance
    fp8_round_f16_e4m3:                        F16  to E4m3, false, false;
    fp8_round_bf16_e4m3:                       Bf16 to E4m3, false, false;
    fp8_round_f16_e5m2:                        F16  to E5m2, false, false;
    fp8_round_bf16_e5m2:                       Bf16 to E5m2, false, false;
    fp8_round_f16_e4m3_rotated:                F16  to E4m3, true, false;
    fp8_round_bf16_e4m3_rotated:               Bf16 to E4m3, true, false;
    fp8_round_f16_e5m2_rotated:                F16  to E5m2, true, false;
    fp8_round_bf16_e5m2_rotated:               Bf16 to E5m2, true, false;
    fp8_round_f16_e4m3_by_chance:              F16  to E4m3, false, true;
    fp8_round_bf16_e4m3_by_chance:             Bf16 to E4m3, false, true;
    fp8_round_f16_e5m2_by_chance:              F16  to E5m2, false, true;
    fp8_round_bf16_e5m2_by_chance:             Bf16 to E5m2, false, true;
    fp8_round_f16_e4m3_rotated_by_chance:      F16  to E4m3, true, true;
    fp8_round_bf16_e4m3_rotated_by_chance:     Bf16 to E4m3, true, true;
    fp8_round_f16_e5m2_rotated_by_chance:      F16  to E5m2, true, true;
    fp8_round_bf16_e5m2_rotated_by_chance:     Bf16 to E5m2, true, true;
}

/// The kernel that looks for the largest number of each of three tensors among those of their parts.
pub const FP8_LARGEST_OF_TENSORS: Entry = Entry {
    symbol: "fp8_largest_of_tensors",
    threads: QuantizeVariant::THREADS,
    cluster: 1,
    min_ctas: 1,
    smem_bytes: 0,
    max_registers: 64,
    spill_limit: 0,
    public_pointers: &[],
    takes_tickets: false,
    opcodes: None,
};

/// CTAs of [`FP8_LARGEST_OF_TENSORS`] for each tensor.
pub const TENSOR_CTAS: u32 = 32;
/// Numbers that it leaves of each tensor: one of each warp.
pub const TENSOR_MAXIMA: u32 = TENSOR_CTAS * QuantizeVariant::WARPS;

#[cfg(all(target_arch = "nvptx64", feature = "f16"))]
mod fp8_largest_of_tensors_symbol {
    use crate::params::QuantizeParams;

    /// Entry point.
    ///
    /// # Safety
    /// The launch must be one that the host describes: its threads, and parameters that are of these tensors.
    #[unsafe(no_mangle)]
    unsafe extern "ptx-kernel" fn fp8_largest_of_tensors(params: QuantizeParams) {
        // SAFETY: passed on to the caller.
        unsafe { crate::quantize::largest_of_tensors(&params) }
    }
}

/// The kernel that writes which weights dropout keeps.
pub const DROPOUT_MASK: Entry = Entry {
    symbol: "dropout_mask",
    threads: 128,
    cluster: 1,
    min_ctas: 1,
    smem_bytes: 0,
    max_registers: 40,
    spill_limit: 0,
    public_pointers: &[],
    takes_tickets: false,
    opcodes: None,
};

/// CTAs of [`DROPOUT_MASK`] that an SM has room for.
pub const DROPOUT_MASK_CTAS_PER_SM: u32 = REGISTER_FILE / (DROPOUT_MASK.max_registers * DROPOUT_MASK.threads);

#[cfg(all(target_arch = "nvptx64", feature = "f16"))]
mod dropout_mask_symbol {
    use crate::params::DropoutMaskParams;

    /// Entry point.
    ///
    /// # Safety
    /// The launch must have [`super::DROPOUT_MASK`]'s threads, and parameters that say where there is room for the mask.
    #[unsafe(no_mangle)]
    unsafe extern "ptx-kernel" fn dropout_mask(params: DropoutMaskParams) {
        // SAFETY: passed on to the caller.
        unsafe { crate::dropout_mask::dropout_mask(&params) }
    }
}

/// Every entry point of the product, as the builder sees it.
pub fn entries() -> impl Iterator<Item = Entry> {
    let attention = FWD.iter().chain(FWD_FP8).map(Variant::entry);
    let others = MERGE.iter().map(MergeVariant::entry).chain(QUANTIZE.iter().map(QuantizeVariant::entry));
    attention.chain(others).chain([FP8_LARGEST_OF_TENSORS, DROPOUT_MASK])
}
