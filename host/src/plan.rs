//! How a problem is computed: which kernel, which grid, which parameters. Pure, and printable.

use std::fmt;

use flashcore_kernels::config::{Dtype, Variant};
use flashcore_kernels::entry::FWD;
use flashcore_kernels::layout::{SLAB_COLUMNS, Swizzle};
use flashcore_kernels::params::FwdParams;

use crate::driver::Properties;
use crate::error::{Error, Result};
use crate::problem::Problem;
use crate::tensor::TensorLayout;
use crate::tensor_map::{TensorMapDesc, TensorMapError};

/// K and V of the heads that are worked on together take no more than this, so that they stay in L2.
const SECTION_BYTES: usize = 32 << 20;
/// Rows of O that one warp stores.
const STORE_ROWS: u32 = 16;
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
}

/// Device addresses of a launch. `lse` is 0 if not asked for; those of empty tensors are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Plan {
    /// Plans `problem` for a device.
    ///
    /// # Errors
    /// [`Error::TooManyTiles`]; [`Error::SharedMemory`] on a device that gives a CTA less than 227 KiB.
    pub fn new(problem: &Problem, device: &Properties) -> Result<Self> {
        let variant = *choose(problem);
        let (needed, limit) = (variant.smem().bytes, device.smem_limit_bytes);
        if needed > limit {
            return Err(Error::SharedMemory { symbol: variant.symbol, needed, limit });
        }
        let (q, kv) = (problem.q_shape(), problem.kv_shape());
        let m_blocks = q.seqlen.div_ceil(variant.tile.block_m as usize);
        let heads = q.batch as u64 * q.heads as u64;
        let tiles = (m_blocks as u64).saturating_mul(heads);
        if tiles > MAX_TILES || heads > MAX_TILES {
            return Err(Error::TooManyTiles { tiles: tiles.max(heads), limit: MAX_TILES });
        }
        // Both fit: tiles were counted, and `Problem` bounds each dimension by i32.
        let work_tiles = tiles as u32;
        let params = FwdParams {
            lse: 0,
            seqlen_q: q.seqlen as u32,
            seqlen_kv: kv.seqlen as u32,
            heads_q: q.heads as u32,
            gqa_ratio: problem.gqa_ratio() as u32,
            batch: q.batch as u32,
            m_blocks: m_blocks as u32,
            section: section(problem, heads),
            scale_log2: problem.scale * std::f32::consts::LOG2_E,
        };
        Ok(Plan { variant, grid: work_tiles.min(device.sm_count), work_tiles, params, problem: *problem })
    }

    /// The tensor maps of q, k, v and out, at these addresses.
    ///
    /// # Errors
    /// None for a plan of a checked problem and addresses that are multiples of 16.
    pub fn tensor_maps(&self, pointers: &Pointers) -> Result<[TensorMapDesc; 4], TensorMapError> {
        let tile = self.variant.tile;
        let Problem { q, k, v, out, .. } = &self.problem;
        let map = |ptr, layout: &TensorLayout, rows| {
            // Without keys nothing of k and v is ever loaded, but the launch still needs legal maps: one row of q.
            let (ptr, layout) = if layout.shape.is_empty() { (pointers.q, &one_row(q)) } else { (ptr, layout) };
            let (shape, strides) = (layout.shape, layout.strides);
            let dims = [shape.head_dim, shape.seqlen, shape.heads, shape.batch].map(|size| size as u64);
            let strides_bytes =
                [strides.seqlen, strides.heads, strides.batch].map(|stride| stride as u64 * u64::from(Dtype::SIZE));
            TensorMapDesc::new(ptr, layout.dtype.into(), &dims, &strides_bytes, &[SLAB_COLUMNS, rows, 1, 1])
                .map(|map| map.swizzle(Swizzle::B128))
        };
        Ok([
            map(pointers.q, q, tile.block_m)?,
            map(pointers.k, k, tile.block_n)?,
            map(pointers.v, v, tile.block_n)?,
            map(pointers.out, out, STORE_ROWS)?,
        ])
    }
}

/// The kernel for a problem: the narrowest that is wide enough.
fn choose(problem: &Problem) -> &'static Variant {
    let head_dim = problem.q_shape().head_dim;
    FWD.iter()
        .filter(|variant| variant.dtype == problem.dtype() && variant.causal == problem.causal)
        .filter(|variant| variant.head_dim as usize >= head_dim)
        .min_by_key(|variant| variant.head_dim)
        .expect("every dtype and mask has a kernel of head_dim 256, and `Problem` admits no more")
}

/// Query heads (of `heads` in all) that are worked on together.
fn section(problem: &Problem, heads: u64) -> u32 {
    let kv = problem.kv_shape();
    let kv_bytes = 2 * kv.seqlen * kv.head_dim * Dtype::SIZE as usize;
    let kv_heads = SECTION_BYTES.checked_div(kv_bytes).map_or(u64::MAX, |fit| fit.max(1) as u64);
    kv_heads.saturating_mul(problem.gqa_ratio() as u64).min(heads) as u32
}

fn one_row(layout: &TensorLayout) -> TensorLayout {
    let shape = crate::Shape { batch: 1, seqlen: 1, heads: 1, ..layout.shape };
    TensorLayout { shape, ..*layout }.normalized()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { variant, grid, work_tiles, params, problem } = self;
        let (q, kv, tile) = (problem.q_shape(), problem.kv_shape(), variant.tile);
        let mask = if problem.causal { "causal" } else { "full" };
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
            q.head_dim,
            problem.dtype().name(),
            problem.scale
        )?;
        writeln!(
            f,
            "strides  q {}, k {}, v {}, out {}",
            order(&problem.q),
            order(&problem.k),
            order(&problem.v),
            order(&problem.out)
        )?;
        writeln!(
            f,
            "tile     {} queries x {} keys, head_dim {}, {} stages, {} threads, {} bytes of shared memory",
            tile.block_m,
            tile.block_n,
            variant.head_dim,
            tile.stages,
            variant.threads(),
            variant.smem().bytes
        )?;
        write!(f, "grid     {grid} CTAs for {work_tiles} work tiles, {} heads a section", params.section)
    }
}
