//! How a problem is computed: which kernel, which grid, which parameters. Pure, and printable.

use std::f32::consts::LOG2_E;
use std::fmt;

use flashcore_kernels::config::{Dtype, Score, Variant, WARPGROUP_ROWS};
use flashcore_kernels::divisor::Divisor;
use flashcore_kernels::fp8::{DescaleArray, Descales};
use flashcore_kernels::layout::{SLAB_COLUMNS, Swizzle, TileLayout};
use flashcore_kernels::params::{FwdParams, General, Sequences, Work};
use flashcore_kernels::score_mod::{ARGS_WORDS, Biases};
use flashcore_kernels::sparse::Sparse;

use crate::choose::{choose, eligible, estimate, pack};
use crate::driver::Properties;
use crate::error::{Error, Result};
use crate::features::Slopes;
use crate::problem::{Fp8Layouts, Problem};
use crate::ragged::{Ragged, RaggedValues};
use crate::tensor::TensorLayout;
use crate::tensor_map::{ALIGNMENT, MapElement, TensorMapDesc, TensorMapError};

/// K and V of the heads that are worked on together take no more than this, so that they stay in L2.
const SECTION_BYTES: usize = 32 << 20;
/// Rows of O that one warp stores.
const STORE_ROWS: u32 = 16;
/// What a CTA's part of a bundle of work should cost on average, in keys of a whole tile.
const BUNDLE_KEYS: u64 = 2048;
/// What it costs to start a CTA and to find its bundle.
const START_KEYS: u64 = 335;
/// Bundles for each SM, where they fall in cost: the first are twice as costly as they are on average.
const MIN_BUNDLES: u64 = 4;
/// At most so many of them.
const MAX_BUNDLES: u64 = 8;
/// The same where each CTA has one to itself: the fewer, the less heads are in L2 for two of them.
const MAX_BUNDLES_ALONE: u64 = 24;
/// How much longer the longest sequence is taken to be than the mean.
const LONGEST_TO_MEAN: u64 = 4;
/// Work tiles are counted in i32.
const MAX_TILES: u64 = i32::MAX as u64;

/// How a problem is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The kernel.
    pub variant: Variant,
    /// CTAs; 0 if there is nothing to compute.
    pub grid: u32,
    /// Tiles of queries that the CTAs share.
    pub work_tiles: u32,
    /// What the kernel is told; `lse` is filled in at launch.
    pub params: FwdParams,
    /// What is computed.
    pub problem: Problem,
    /// SMs of the device that it is planned for.
    pub sm_count: u32,
}

/// Device addresses of a launch. `lse` is 0 if not asked for; those of empty tensors are not used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pointers {
    /// Queries.
    pub q: u64,
    /// Keys.
    pub k: u64,
    /// Values.
    pub v: u64,
    /// Output.
    pub out: u64,
    /// Log-sum-exp.
    pub lse: u64,
    /// First queries of packed sequences; 0 if there are none, as for those below.
    pub starts_q: u64,
    /// First keys of packed sequences.
    pub starts_kv: u64,
    /// Numbers of queries that count.
    pub used_q: u64,
    /// Numbers of keys that count.
    pub used_kv: u64,
    /// Lengths of prefixes.
    pub prefix: u64,
    /// Ranges of keys.
    pub ranges: u64,
    /// Numbers of blocks of a block mask.
    pub block_counts: u64,
    /// Its blocks.
    pub block_indices: u64,
    /// Logits of attention sinks.
    pub sinks: u64,
    /// Slopes of ALiBi.
    pub slopes: u64,
    /// What is added to scores.
    pub bias: u64,
    /// Descales of q, k and v of 8 bits.
    pub descales: [u64; 3],
    /// Arguments of a function of scores.
    pub score_args: [u64; ARGS_WORDS],
}

impl Plan {
    /// Plans `problem` for a device.
    ///
    /// # Errors
    /// [`Error::TooManyTiles`]; [`Error::SharedMemory`] on a device that gives a CTA less than 227 KiB.
    pub fn new(problem: &Problem, device: &Properties) -> Result<Self> {
        Plan::with_variant(problem, device, choose(problem, device.sm_count))
    }

    /// Every plan that computes `problem` as [`Self::new`] does, one for each eligible kernel.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn all(problem: &Problem, device: &Properties) -> Result<Vec<Self>> {
        eligible(problem).map(|variant| Plan::with_variant(problem, device, variant)).collect()
    }

    fn with_variant(problem: &Problem, device: &Properties, variant: &Variant) -> Result<Self> {
        let (needed, limit) = (variant.smem().bytes, device.smem_limit_bytes);
        if needed > limit {
            return Err(Error::SharedMemory { symbol: variant.symbol, needed, limit });
        }
        if variant.is_general() {
            return Plan::general(problem, device, variant);
        }
        let (q, kv) = (problem.q_shape(), problem.kv_shape());
        let (cluster, splits) = (variant.tile.cluster, variant.split_ctas());
        let m_blocks = q.seqlen.div_ceil(variant.tile.block_m as usize).next_multiple_of(cluster as usize);
        let heads = q.batch as u64 * q.heads as u64;
        let tiles = (m_blocks as u64).saturating_mul(heads);
        let ctas = tiles.saturating_mul(u64::from(splits));
        if ctas > MAX_TILES || heads > MAX_TILES {
            return Err(Error::TooManyTiles { tiles: ctas.max(heads), limit: MAX_TILES });
        }
        // Both fit: tiles were counted, and `Problem` bounds each dimension by i32.
        let work_tiles = tiles as u32;
        let grid = if variant.splits_keys() {
            work_tiles * splits
        } else {
            // Whole clusters, at least one.
            work_tiles.min((device.sm_count / cluster * cluster).max(cluster))
        };
        let params = FwdParams {
            lse: 0,
            seqlen_q: q.seqlen as u32,
            seqlen_kv: kv.seqlen as u32,
            heads_q: Divisor::new(q.heads as u32),
            gqa_ratio: Divisor::new(problem.gqa_ratio() as u32),
            work: Work::new(
                heads as u32,
                m_blocks as u32 / cluster,
                section(problem, problem.gqa_ratio(), heads),
                grid / variant.cluster_ctas(),
            ),
            scale_log2: problem.scale * LOG2_E,
            general: General::NONE,
            descales: descales(problem),
        };
        Ok(Plan { variant: *variant, grid, work_tiles, params, problem: *problem, sm_count: device.sm_count })
    }

    /// The plan of a general kernel.
    fn general(problem: &Problem, device: &Properties, variant: &Variant) -> Result<Self> {
        let (features, block_m) = (&problem.features, variant.tile.block_m as usize);
        let (q, kv, sequences) = (problem.q_shape(), problem.kv_shape(), problem.sequences());
        // Packed sequences are about as long as they are on average; where they are not, the plan is slower, but as
        // right.
        let mean = |packed: Option<usize>, seqlen: usize| match packed {
            Some(count) => seqlen.div_ceil(count.max(1)),
            None => seqlen,
        };
        let (seqlen_q, seqlen_kv) = (mean(features.packed_q, q.seqlen), mean(features.packed_kv, kv.seqlen));
        // Rows of sparse kernels, and of biases, are queries, and random numbers are of one head's queries.
        let may_pack = variant.may_pack_heads() && !features.drops_weights();
        let pack = if may_pack { pack(problem.gqa_ratio(), seqlen_q, q.seqlen, block_m) } else { 0 };
        let packed_heads = if pack == 0 { 1 } else { problem.gqa_ratio() };
        let heads = q.heads / packed_heads;
        let all_heads = heads as u64 * sequences as u64;
        // Every packed sequence may begin a tile that it does not fill.
        let tiles_of = |rows: usize| rows.saturating_mul(1 << pack).div_ceil(block_m) as u64;
        let tiles = match features.packed_q {
            Some(count) if q.seqlen > 0 => (tiles_of(q.seqlen) + count as u64).saturating_mul(heads as u64),
            Some(_) => 0,
            None => tiles_of(q.seqlen).saturating_mul(all_heads),
        };
        if tiles > MAX_TILES || all_heads > MAX_TILES {
            return Err(Error::TooManyTiles { tiles: tiles.max(all_heads), limit: MAX_TILES });
        }
        let work_tiles = if all_heads == 0 { 0 } else { tiles as u32 };
        let persistent = work_tiles.min(device.sm_count);
        let (teams, team, grid, uneven) = if features.ragged() {
            // What the tiles of sequences of the mean length cost, in keys; the longest of each, and on average.
            let longest =
                features.left.map_or(seqlen_kv, |left| seqlen_kv.min(left.saturating_add(block_m))) as u64;
            let keys = if features.uneven() { longest / 2 } else { longest };
            let tile_keys = u64::from(variant.cost.tile_keys);
            let cost = tiles_of(seqlen_q).saturating_mul(all_heads).saturating_mul(keys + tile_keys);
            let bundles = cost / u64::from(device.sm_count) / BUNDLE_KEYS;
            if LONGEST_TO_MEAN * longest / 2 <= MIN_BUNDLES * START_KEYS {
                // Sequences are short: finding the next tile behind those of a team would take too long.
                (persistent, 1, persistent, false)
            } else if variant.takes_turns() {
                // Each CTA has a tile, if there are no more of them.
                let most = u64::from(work_tiles / persistent.max(1)).max(1);
                let teams = bundles.clamp(MIN_BUNDLES, MAX_BUNDLES).min(most) as u32;
                (teams, persistent, teams * persistent, true)
            } else {
                let ctas = u64::from(device.sm_count) * bundles.clamp(MIN_BUNDLES, MAX_BUNDLES_ALONE);
                let teams = ctas.min(u64::from(work_tiles)) as u32;
                (teams, 1, teams, true)
            }
        } else {
            (0, 0, persistent, features.uneven())
        };
        let element = problem.input_element();
        let ragged = |layout, heads| Ragged { ptr: 0, layout, element, heads: heads as u32 };
        let steps = |layout, heads, packed: Option<usize>| ragged(layout, heads).steps(packed.is_some());
        let packed_kv = features.packed_kv.is_some();
        let lse_head = q.seqlen as u64;
        let power = |cap: f32| 2.0 * problem.scale * LOG2_E / cap;
        let product_scale = match variant.score {
            Score::Alibi => problem.scale.recip(),
            Score::SoftcapApprox => features.softcap.map_or(problem.scale, |cap| problem.scale / cap),
            _ => features.softcap.map_or(problem.scale, power),
        };
        let (scale_log2, offset_log2) = match (variant.score, features.softcap) {
            (Score::Softcap, Some(cap)) => (2.0 * cap * LOG2_E, cap * LOG2_E),
            (Score::SoftcapApprox, Some(cap)) => (cap * LOG2_E, 0.0),
            (Score::Plain | Score::Softcap | Score::SoftcapApprox | Score::Alibi, _) => {
                (problem.scale * LOG2_E, 0.0)
            }
            (Score::BiasTiles | Score::Biased | Score::Custom, _) => (LOG2_E, 0.0),
        };
        let general = General {
            sequences: Sequences {
                count: sequences as u32,
                teams,
                team: Divisor::new(team),
                uneven: uneven.into(),
                ..General::NONE.sequences
            },
            band: features.band(),
            sparse: features.sparse.params(q.seqlen),
            lse_batch: if features.packed_q.is_some() { 0 } else { lse_head * q.heads as u64 },
            lse_head,
            q: steps(&problem.q, packed_heads, features.packed_q),
            k: steps(&problem.k, 1, features.packed_kv),
            v: match &problem.fp8 {
                Some(fp8) => RaggedValues { ptr: 0, layout: &fp8.values }.steps(packed_kv),
                None => steps(&problem.v, 1, features.packed_kv),
            },
            o: steps(&problem.out, packed_heads, features.packed_q),
            pack,
            packed_heads: packed_heads as u32,
            offset_log2,
            product_scale,
            softcap: features.softcap.unwrap_or(0.0),
            fraction_scale: 2.0 * features.softcap.unwrap_or(0.0),
            dropout: features.dropout.map_or(General::NONE.dropout, |dropout| dropout.params()),
            ..General::NONE
        };
        let params = FwdParams {
            lse: 0,
            seqlen_q: q.seqlen as u32,
            seqlen_kv: kv.seqlen as u32,
            heads_q: Divisor::new(heads as u32),
            gqa_ratio: Divisor::new((problem.gqa_ratio() / packed_heads) as u32),
            work: Work::new(
                all_heads as u32,
                tiles_of(seqlen_q).min(MAX_TILES) as u32,
                section(problem, problem.gqa_ratio() / packed_heads, all_heads),
                grid,
            ),
            scale_log2,
            general,
            descales: descales(problem),
        };
        Ok(Plan { variant: *variant, grid, work_tiles, params, problem: *problem, sm_count: device.sm_count })
    }

    /// The parameters of a launch with these pointers.
    pub(crate) fn params_at(&self, pointers: &Pointers) -> FwdParams {
        let Pointers {
            lse,
            starts_q,
            starts_kv,
            used_q,
            used_kv,
            prefix,
            ranges,
            block_counts,
            block_indices,
            sinks,
            slopes,
            bias,
            descales,
            score_args,
            ..
        } = *pointers;
        let mut params = FwdParams { lse, ..self.params };
        [params.descales.q.ptr, params.descales.k.ptr, params.descales.v.ptr] = descales;
        let general = &mut params.general;
        general.sequences =
            Sequences { start_q: starts_q, start_kv: starts_kv, used_q, used_kv, ..general.sequences };
        general.band.prefix = prefix;
        general.sparse = Sparse { ranges, counts: block_counts, lists: block_indices, ..general.sparse };
        general.sinks = sinks;
        let features = &self.problem.features;
        general.score_args = score_args;
        if features.score() == Score::Biased {
            let biases = features.bias.map_or(Biases::NONE, |layout| layout.at(bias));
            let per_sequence = features.alibi == Some(Slopes::PerSequenceAndHead);
            let slopes_batch = if per_sequence { self.problem.q.shape.heads as u64 } else { 0 };
            general.score_args = Biases { slopes, slopes_batch, ..biases }.words();
        }
        params
    }

    /// The tensor maps of q, k, v and out, at these addresses.
    ///
    /// # Errors
    /// None for a plan of a checked problem and addresses that are multiples of 16.
    pub fn tensor_maps(&self, pointers: &Pointers) -> Result<[TensorMapDesc; 4], TensorMapError> {
        if self.variant.is_general() {
            return self.ragged_maps(pointers);
        }
        if let Some(fp8) = &self.problem.fp8 {
            return self.fp8_tensor_maps(fp8, pointers);
        }
        let Problem { q, k, v, out, .. } = &self.problem;
        let map = |ptr, layout: &TensorLayout, columns, rows, swizzle| {
            // Without keys nothing of k and v is ever loaded, but the launch still needs legal maps: one row of q.
            let (ptr, layout) =
                if layout.shape.is_empty() { (pointers.q, &one_row(q)) } else { (ptr, layout) };
            let (shape, strides) = (layout.shape, layout.strides);
            let dims = [shape.head_dim, shape.seqlen, shape.heads, shape.batch].map(|size| size as u64);
            let strides_bytes = [strides.seqlen, strides.heads, strides.batch]
                .map(|stride| stride as u64 * u64::from(Dtype::SIZE));
            TensorMapDesc::new(ptr, layout.dtype.into(), &dims, &strides_bytes, &[columns, rows, 1, 1])
                .map(|map| map.swizzle(swizzle))
        };
        let load = |ptr, layout, rows| map(ptr, layout, SLAB_COLUMNS, rows, Swizzle::B128);
        let variant = &self.variant;
        Ok([
            load(pointers.q, q, variant.tile.block_m)?,
            load(pointers.k, k, variant.box_rows(variant.k_tile()))?,
            load(pointers.v, v, variant.box_rows(variant.v_tile()))?,
            map(pointers.out, out, variant.o_box_columns(), STORE_ROWS, variant.o_swizzle())?,
        ])
    }

    /// The same for general kernels.
    fn ragged_maps(&self, pointers: &Pointers) -> Result<[TensorMapDesc; 4], TensorMapError> {
        let (Problem { q, k, v, out, fp8, .. }, variant) = (&self.problem, &self.variant);
        let General { pack, packed_heads, .. } = self.params.general;
        let element = self.problem.input_element();
        let keys = |ptr, layout: &TensorLayout, tile| {
            // As below, where there are none.
            let (ptr, layout) = if layout.shape.is_empty() { (pointers.q, q) } else { (ptr, layout) };
            Ragged { ptr, layout, element, heads: 1 }.map(tile)
        };
        let heads = |ptr, layout, element, swizzle, rows: u32| {
            let ragged = Ragged { ptr, layout, element, heads: packed_heads };
            ragged.map_of_heads(swizzle, rows.min(1 << pack), (rows >> pack).max(1))
        };
        let (q_tile, v_tile) = (variant.q_tile(), variant.v_tile());
        let values = match fp8 {
            Some(fp8) if !v.shape.is_empty() => {
                RaggedValues { ptr: pointers.v, layout: &fp8.values }.map(v_tile)
            }
            _ => keys(pointers.v, v, v_tile),
        };
        Ok([
            heads(pointers.q, q, element, q_tile.swizzle, variant.tile.block_m)?,
            keys(pointers.k, k, variant.k_tile())?,
            values?,
            heads(pointers.out, out, out.dtype.into(), variant.o_swizzle(), STORE_ROWS)?,
        ])
    }

    /// The same as [`Self::tensor_maps`] where q, k and v have 8 bits.
    fn fp8_tensor_maps(
        &self,
        fp8: &Fp8Layouts,
        pointers: &Pointers,
    ) -> Result<[TensorMapDesc; 4], TensorMapError> {
        let (Problem { q, k, out, .. }, variant) = (&self.problem, &self.variant);
        let map = |ptr, layout: &TensorLayout, element: MapElement, columns, rows, swizzle| {
            let (ptr, layout) =
                if layout.shape.is_empty() { (pointers.q, &one_row(q)) } else { (ptr, layout) };
            let (shape, strides) = (layout.shape, layout.strides);
            let dims = [shape.head_dim, shape.seqlen, shape.heads, shape.batch].map(|size| size as u64);
            // Where nobody steps by a stride it may be anything, but not for TMA.
            let strides_bytes = [strides.seqlen, strides.heads, strides.batch]
                .map(|stride| (stride as u64 * u64::from(element.bytes())).next_multiple_of(ALIGNMENT));
            TensorMapDesc::new(ptr, element, &dims, &strides_bytes, &[columns, rows, 1, 1])
                .map(|map| map.swizzle(swizzle))
        };
        let load = |ptr, layout, tile: TileLayout| {
            map(ptr, layout, MapElement::U8, tile.row_bytes(), variant.box_rows(tile), tile.swizzle)
        };
        let element = out.dtype.into();
        Ok([
            load(pointers.q, q, variant.q_tile())?,
            load(pointers.k, k, variant.k_tile())?,
            load(pointers.v, &fp8.values, variant.v_tile())?,
            map(pointers.out, out, element, variant.o_box_columns(), STORE_ROWS, variant.o_swizzle())?,
        ])
    }
}

impl Plan {
    /// The tensor map of the bias at these addresses, if the kernel loads it in tiles.
    ///
    /// # Errors
    /// As [`Self::tensor_maps`].
    pub fn bias_map(&self, pointers: &Pointers) -> Result<Option<TensorMapDesc>, TensorMapError> {
        let bias = self.problem.features.bias.filter(|_| self.variant.has_bias_tiles());
        let (q, keys) = (self.problem.q_shape(), self.problem.kv_shape().seqlen);
        let sizes = [q.batch, q.heads, q.seqlen, keys];
        bias.map(|layout| layout.map(pointers.bias, sizes, SLAB_COLUMNS, WARPGROUP_ROWS)).transpose()
    }
}

/// Heads (of `heads` in all, of which `ratio` share K and V) that are worked on together.
fn section(problem: &Problem, ratio: usize, heads: u64) -> u32 {
    let kv = problem.kv_shape();
    let kv_bytes = kv.seqlen * (kv.head_dim + problem.v.shape.head_dim) * problem.element_bytes();
    let kv_heads = SECTION_BYTES.checked_div(kv_bytes).map_or(u64::MAX, |fit| fit.max(1) as u64);
    kv_heads.saturating_mul(ratio as u64).min(heads) as u32
}

/// How descales follow each other, without addresses.
fn descales(problem: &Problem) -> Descales {
    let Some(fp8) = problem.fp8 else { return Descales::NONE };
    let of = |per_head: bool, heads: usize| DescaleArray {
        ptr: 0,
        batch: if per_head { heads as u32 } else { 0 },
        head: per_head.into(),
    };
    let (heads, heads_kv) = (problem.q_shape().heads, problem.kv_shape().heads);
    let [q, k, v] = fp8.per_head;
    Descales { q: of(q, heads), k: of(k, heads_kv), v: of(v, heads_kv) }
}

fn one_row(layout: &TensorLayout) -> TensorLayout {
    let shape = crate::Shape { batch: 1, seqlen: 1, heads: 1, ..layout.shape };
    TensorLayout { shape, ..*layout }.normalized()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { variant, grid, work_tiles, params, problem, sm_count } = self;
        let (q, kv, tile) = (problem.q_shape(), problem.kv_shape(), variant.tile);
        let mask = problem.features;
        // Head dims, of V too if it has its own.
        let pair = |head_dim: usize, head_dim_v: usize| match head_dim_v {
            same if same == head_dim => head_dim.to_string(),
            other => format!("{head_dim} x {other}"),
        };
        let order = |layout: &TensorLayout| {
            let strides = layout.strides;
            format!("{}/{}/{}", strides.batch, strides.seqlen, strides.heads)
        };
        writeln!(f, "kernel   {}", variant.symbol)?;
        writeln!(
            f,
            "problem  batch {}, seqlen {} x {}, heads {} x {}, head_dim {}, {}, {mask}, scale {}",
            q.batch,
            q.seqlen,
            kv.seqlen,
            q.heads,
            kv.heads,
            pair(q.head_dim, problem.v.shape.head_dim),
            match problem.fp8 {
                Some(fp8) => format!("{} to {}", fp8.kind.name(), problem.dtype().name()),
                None => problem.dtype().name().to_owned(),
            },
            problem.scale
        )?;
        writeln!(
            f,
            "strides  q {}, k {}, v {}, out {} (batch/seqlen/heads)",
            order(&problem.q),
            order(&problem.k),
            order(&problem.v),
            order(&problem.out)
        )?;
        writeln!(
            f,
            "tile     {} queries x {} keys, head_dim {}, {} stages, cluster of {}{}, {} threads, {} bytes of shared memory",
            tile.block_m,
            tile.block_n,
            pair(variant.head_dim as usize, variant.head_dim_v as usize),
            tile.stages,
            variant.cluster_ctas(),
            match (tile.splits, variant.column_groups()) {
                (1, 1) => String::new(),
                (1, groups) => format!(", columns shared by {groups} consumers"),
                (splits, _) => format!(", keys shared by {splits} consumers"),
            },
            variant.threads(),
            variant.smem().bytes
        )?;
        writeln!(
            f,
            "grid     {grid} CTAs for {work_tiles} work tiles, {} heads a section",
            params.work.section.value
        )?;
        let general = problem.needs_general_kernel();
        let candidates = eligible(problem).filter(|variant| general || variant.mask == problem.mask());
        let estimates = candidates.map(|variant| {
            let us = estimate(variant, problem, *sm_count) as f64 / 1e6;
            format!("{} {us:.1}", variant.symbol)
        });
        write!(f, "chosen   by estimated µs: {}", estimates.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Features;
    use crate::problem::MAX_DIM;
    use crate::tensor::{Order, Shape, Strides};

    const POINTERS: Pointers = Pointers {
        q: 0x10_0000,
        k: 0x20_0000,
        v: 0x30_0000,
        out: 0x40_0000,
        lse: 0x50_0000,
        starts_q: 0,
        starts_kv: 0,
        used_q: 0,
        used_kv: 0,
        prefix: 0,
        ranges: 0,
        block_counts: 0,
        block_indices: 0,
        sinks: 0,
        slopes: 0,
        bias: 0,
        descales: [0; 3],
        score_args: [0; ARGS_WORDS],
    };

    fn problem(dtype: Dtype, q: Shape, kv: (usize, usize), order: Order, causal: bool) -> Problem {
        let (seqlen, heads) = kv;
        let q_layout = TensorLayout::packed(dtype, q, order);
        let kv_layout = TensorLayout::packed(dtype, Shape { seqlen, heads, ..q }, order);
        Problem::new(q_layout, kv_layout, kv_layout, q_layout, causal, None).unwrap()
    }

    fn plan(problem: &Problem) -> Plan {
        Plan::new(problem, &Properties::h200()).unwrap()
    }

    #[test]
    fn plans_print_as_recorded() {
        use Dtype::{Bf16, F16};
        use Order::{Bhsd, Bshd};
        let problems = [
            problem(F16, Shape::new(4, 1024, 16, 64), (1024, 16), Bshd, false),
            problem(Bf16, Shape::new(1, 1, 8, 8), (512, 8), Bshd, false),
            problem(F16, Shape::new(2, 2048, 16, 80), (2048, 16), Bhsd, true),
            problem(Bf16, Shape::new(2, 1000, 12, 96), (1000, 12), Bshd, false),
            problem(Bf16, Shape::new(2, 333, 12, 112), (777, 4), Bshd, true),
            problem(F16, Shape::new(1, 16384, 16, 128), (16384, 16), Bshd, false),
            problem(F16, Shape::new(1, 16384, 32, 128), (16384, 8), Bshd, true),
            problem(F16, Shape::new(1, 4096, 16, 128), (100_000, 1), Bhsd, true),
            problem(Bf16, Shape::new(3, 799, 6, 192), (3, 2), Bshd, true),
            problem(Bf16, Shape::new(1, 8192, 8, 256), (8192, 8), Bshd, false),
            problem(F16, Shape::new(2, 17, 4, 128), (0, 4), Bshd, false),
            problem(F16, Shape::new(2, 0, 4, 128), (100, 4), Bshd, false),
            problem(F16, Shape::new(1, 4096, 8, 512), (4096, 2), Bshd, true),
        ];
        let printed = problems.map(|problem| plan(&problem).to_string());
        insta::assert_snapshot!(printed.join("\n\n"));
    }

    fn general(q: Shape, kv: Shape, features: Features) -> Problem {
        let layout = |shape| TensorLayout::packed(Dtype::Bf16, shape, Order::Bshd);
        Problem::with_features([layout(q), layout(kv), layout(kv), layout(q)], features, None).unwrap()
    }

    #[test]
    fn general_plans_print_as_recorded() {
        let window = Features { left: Some(1023), ..Features::causal(true) };
        let packed = Features { packed_q: Some(9), packed_kv: Some(9), ..Features::causal(true) };
        let decode = Features { sinks: true, used_kv: true, ..Features::causal(true) };
        let shape = Shape::new;
        let problems = [
            general(shape(1, 16384, 16, 128), shape(1, 16384, 16, 128), window),
            general(shape(1, 16384, 16, 128), shape(1, 16384, 4, 128), packed),
            general(shape(8, 1, 32, 128), shape(8, 4096, 8, 128), decode),
            general(
                shape(2, 300, 6, 80),
                shape(2, 500, 6, 80),
                Features { softcap: Some(30.0), ..Features::NONE },
            ),
        ];
        insta::assert_snapshot!(problems.map(|problem| plan(&problem).to_string()).join("\n\n"));
    }

    #[test]
    fn heads_are_packed_where_that_leaves_fewer_tiles() {
        let pack = |ratio: usize, seqlen: usize| {
            let plan = plan(&general(
                Shape::new(2, seqlen, 2 * ratio, 128),
                Shape::new(2, 900, 2, 128),
                Features { sinks: true, ..Features::NONE },
            ));
            let FwdParams { general, heads_q, gqa_ratio, work, .. } = plan.params;
            let rows = (seqlen << general.pack) as u32;
            assert_eq!(heads_q.value * general.packed_heads, 2 * ratio as u32);
            assert_eq!(gqa_ratio.value * general.packed_heads, ratio as u32);
            assert_eq!(work.head_units.value, rows.div_ceil(plan.variant.tile.block_m));
            assert_eq!(plan.work_tiles, work.head_units.value * work.heads);
            (general.pack, general.packed_heads)
        };
        assert_eq!([pack(1, 5), pack(8, 5), pack(6, 5), pack(64, 1)], [(0, 1), (3, 8), (3, 6), (6, 64)]);
        assert_eq!(
            [pack(65, 1), pack(8, 1024)],
            [(0, 1), (0, 1)],
            "more than a warpgroup's rows; nothing saved"
        );
    }

    #[test]
    fn an_approximate_softcap_is_taken_wherever_there_is_a_kernel_for_it() {
        let approximate = Features { softcap: Some(50.0), approximate_tanh: true, ..Features::NONE };
        for (head_dim, has_kernel) in [(64, true), (80, false), (128, true), (192, false), (200, true)] {
            for seqlen in [1, 65, 300, 1024, 16384] {
                let shape = Shape::new(2, seqlen, 4, head_dim);
                let Plan { variant, params, .. } = plan(&general(shape, shape, approximate));
                let scale = (head_dim as f32).sqrt().recip();
                let (score, scales, offset) = if has_kernel {
                    (Score::SoftcapApprox, [scale / 50.0, 50.0 * LOG2_E], 0.0)
                } else {
                    (Score::Softcap, [2.0 * scale * LOG2_E / 50.0, 100.0 * LOG2_E], 50.0 * LOG2_E)
                };
                assert_eq!(variant.score, score, "{shape}");
                assert_eq!(params.general.offset_log2, offset);
                for (found, expected) in
                    [params.general.product_scale, params.scale_log2].into_iter().zip(scales)
                {
                    assert!((found / expected - 1.0).abs() < 1e-6, "{shape}: {found} for {expected}");
                }
                let exact = Features { approximate_tanh: false, ..approximate };
                assert_eq!(plan(&general(shape, shape, exact)).variant.score, Score::Softcap);
            }
        }
        let alibi = Some(crate::features::Slopes::PerHead);
        let shape = Shape::new(2, 300, 4, 128);
        assert_eq!(
            plan(&general(shape, shape, Features { alibi, ..approximate })).variant.score,
            Score::Biased
        );
    }

    #[test]
    fn heads_are_apart_where_weights_are_left_out() {
        let dropout = crate::Dropout::new(0.1, 1);
        let (q, kv) = (Shape::new(2, 5, 8, 128), Shape::new(2, 900, 2, 128));
        let plan = plan(&general(q, kv, Features { dropout: Some(dropout), ..Features::NONE }));
        let FwdParams { general, heads_q, .. } = plan.params;
        assert_eq!((general.pack, general.packed_heads, heads_q.value), (0, 1, 8));
        assert_eq!(general.dropout, dropout.params());
        assert_eq!(plan.variant.score, Score::Biased);
    }

    #[test]
    fn packed_rows_are_counted_in_i32() {
        // Many short sequences on average; but one of them may have all the queries.
        let mut problem = general(
            Shape::new(1, 1, 33, 8),
            Shape::new(1, 1, 1, 8),
            Features { packed_q: Some(1 << 20), packed_kv: Some(1 << 20), ..Features::NONE },
        );
        problem.q.shape.seqlen = 1 << 26;
        problem.out.shape.seqlen = 1 << 26;
        let plan = plan(&problem);
        assert!((1u64 << 26) << plan.params.general.pack < 1 << 31, "{plan}");
    }

    #[test]
    fn general_tensor_maps_are_legal_without_keys() {
        let sinks = Features { sinks: true, ..Features::NONE };
        let plan = plan(&general(Shape::new(2, 30, 6, 96), Shape::new(2, 0, 3, 96), sinks));
        for map in plan.tensor_maps(&Pointers { k: 0, v: 0, ..POINTERS }).unwrap() {
            assert_eq!(map.check(), Ok(()));
        }
    }

    #[test]
    fn the_narrowest_kernel_that_is_wide_enough_is_chosen() {
        for (head_dim, expected) in [
            (8, 64),
            (64, 64),
            (72, 96),
            (96, 96),
            (104, 128),
            (128, 128),
            (136, 192),
            (200, 256),
            (256, 256),
        ] {
            for dtype in [Dtype::F16, Dtype::Bf16] {
                for causal in [false, true] {
                    let problem =
                        problem(dtype, Shape::new(1, 64, 1, head_dim), (64, 1), Order::Bshd, causal);
                    let variant = plan(&problem).variant;
                    assert_eq!(
                        (variant.head_dim, variant.dtype, variant.is_causal()),
                        (expected, dtype, causal)
                    );
                }
            }
        }
    }

    #[test]
    fn the_kernel_of_the_fewest_columns_is_chosen() {
        for (head_dims, expected) in [
            ((192, 128), (192, 128)),
            ((160, 128), (192, 128)),
            ((136, 8), (192, 128)),
            ((192, 136), (192, 192)),
            ((200, 128), (256, 256)),
            ((64, 256), (64, 256)),
            ((8, 200), (64, 256)),
            ((64, 192), (64, 256)),
            ((72, 256), (256, 256)),
            ((64, 128), (128, 128)),
            ((128, 64), (128, 128)),
            ((264, 8), (512, 512)),
            ((8, 264), (512, 512)),
            ((512, 512), (512, 512)),
        ] {
            for features in
                [Features::NONE, Features::causal(true), Features { sinks: true, ..Features::NONE }]
            {
                let (head_dim, head_dim_v) = head_dims;
                let layout =
                    |head_dim| TensorLayout::packed(Dtype::F16, Shape::new(1, 64, 2, head_dim), Order::Bshd);
                let [qk, vo] = [head_dim, head_dim_v].map(layout);
                let variant =
                    plan(&Problem::with_features([qk, qk, vo, vo], features, None).unwrap()).variant;
                assert_eq!((variant.head_dim, variant.head_dim_v), expected, "{head_dims:?} {features}");
            }
        }
    }

    #[test]
    fn heads_that_only_general_kernels_compute_must_be_in_their_reach() {
        let layout = |head_dim| {
            let shape = Shape::new(2, 64, 1, head_dim);
            let strides = Strides { batch: (1 << 38) + 8, seqlen: 8, heads: 8 };
            TensorLayout { dtype: Dtype::F16, shape, strides }
        };
        let problem = |head_dim| {
            let (qkv, out) =
                (layout(head_dim), TensorLayout::packed(Dtype::F16, layout(head_dim).shape, Order::Bshd));
            Problem::new(qkv, qkv, qkv, out, true, None)
        };
        assert!(problem(256).is_ok());
        let error = problem(264).unwrap_err();
        assert!(matches!(error, Error::ReachesTooFar { .. }), "{error}");
    }

    #[test]
    fn nothing_to_compute_needs_no_cta() {
        for q in [Shape::new(0, 5, 2, 64), Shape::new(3, 0, 2, 64), Shape::new(3, 5, 0, 64)] {
            assert_eq!(plan(&problem(Dtype::F16, q, (7, q.heads), Order::Bshd, true)).grid, 0, "{q}");
        }
    }

    #[test]
    fn sections_hold_whole_kv_heads_that_fit_in_l2() {
        // K and V of one head: 2 * seqlen * 128 * 2 bytes = 8 MiB at 16384.
        let section = |seqlen, heads, heads_kv| {
            let problem =
                problem(Dtype::F16, Shape::new(1, 64, heads, 128), (seqlen, heads_kv), Order::Bshd, true);
            plan(&problem).params.work.section.value
        };
        assert_eq!(section(16384, 32, 32), 4);
        assert_eq!(section(16384, 32, 8), 16);
        assert_eq!(section(16384, 32, 1), 32);
        assert_eq!(section(1 << 20, 32, 8), 4);
        assert_eq!(section(0, 32, 8), 32);
    }

    #[test]
    fn work_tiles_are_counted_in_i32() {
        // The largest that can be asked for at all: inputs that are one row in memory, and no checked output.
        let all = Strides { batch: 0, seqlen: 0, heads: 0 };
        for (batch, seqlen, heads) in [(1 << 20, 1 << 14, 1 << 6), (MAX_DIM, 1 << 20, MAX_DIM)] {
            let mut problem = problem(Dtype::F16, Shape::new(1, 1, 1, 8), (1, 1), Order::Bshd, false);
            problem.q =
                TensorLayout { shape: Shape::new(batch, seqlen, heads, 8), strides: all, ..problem.q };
            let error = Plan::new(&problem, &Properties::h200()).unwrap_err();
            assert!(matches!(error, Error::TooManyTiles { limit: MAX_TILES, .. }), "{error}");
        }
    }

    #[test]
    fn a_device_with_little_shared_memory_is_refused() {
        let problem = problem(Dtype::F16, Shape::new(1, 64, 1, 128), (64, 1), Order::Bshd, false);
        let variant = plan(&problem).variant;
        let (symbol, needed, limit) = (variant.symbol, variant.smem().bytes, 101_376);
        let device = Properties { smem_limit_bytes: limit, ..Properties::h200() };
        let error = Error::SharedMemory { symbol, needed, limit };
        assert_eq!(Plan::new(&problem, &device), Err(error));
    }

    #[test]
    fn tensor_maps_follow_shapes_and_strides() {
        let plan = plan(&problem(Dtype::Bf16, Shape::new(2, 300, 6, 96), (500, 3), Order::Bhsd, false));
        let [q, k, v, out] = plan.tensor_maps(&POINTERS).unwrap();
        let tile = plan.variant.tile;
        assert_eq!(
            (q.ptr(), k.ptr(), v.ptr(), out.ptr()),
            (POINTERS.q, POINTERS.k, POINTERS.v, POINTERS.out)
        );
        assert_eq!((q.dims(), k.dims()), (&[96, 300, 6, 2][..], &[96, 500, 3, 2][..]));
        assert_eq!(q.strides_bytes(), [2 * 96, 2 * 96 * 300, 2 * 96 * 300 * 6]);
        assert_eq!(k.strides_bytes(), [2 * 96, 2 * 96 * 500, 2 * 96 * 500 * 3]);
        assert_eq!(
            (q.box_dims(), k.box_dims()),
            (&[64, tile.block_m, 1, 1][..], &[64, tile.block_n, 1, 1][..])
        );
        assert_eq!((v.box_dims(), out.box_dims()), (k.box_dims(), &[64, 16, 1, 1][..]));
        for map in [q, k, v, out] {
            assert_eq!((map.check(), map.swizzle_mode()), (Ok(()), Swizzle::B128));
        }
    }

    #[test]
    fn tensor_maps_are_legal_without_keys() {
        let plan = plan(&problem(Dtype::F16, Shape::new(2, 300, 6, 96), (0, 3), Order::Bshd, true));
        let [q, k, v, out] = plan.tensor_maps(&Pointers { k: 0, v: 0, ..POINTERS }).unwrap();
        assert_eq!((k.ptr(), k.dims()), (POINTERS.q, &[96, 1, 1, 1][..]));
        for map in [q, k, v, out] {
            assert_eq!(map.check(), Ok(()));
        }
    }
}
