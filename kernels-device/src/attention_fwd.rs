//! O = softmax(scale Q Kᵀ) V for one head at a time, after FlashAttention-3 (Shah et al. 2024).
//!
//! A CTA is responsible for `block_m` rows of Q of one head, and takes such work tiles from
//! [`Tiles`](crate::schedule::Tiles) until none is left. It has one producer warpgroup, of which one thread
//! issues TMA loads, and two or three consumer warpgroups, each of which owns 64 of the rows (but see *split over
//! keys*):
//!
//! ```text
//! producer   K₀ Q  K₁ V₀ K₂ V₁ …                     rings of slots for Q, K and V
//! consumer   S = Q K₀ᵀ;  P = softmax(S)
//!            loop j:   start S' = Q Kⱼᵀ              tensor cores ┐ asynchronous
//!                      start O += P Vⱼ₋₁             tensor cores ┘
//!                      wait S';  P' = softmax(S')    first part: while P Vⱼ₋₁ still multiplies
//!                      wait O;   O *= alpha;  P = P' beside the other part
//!            next work tile:               its first S beside the last O += P V;  O /= l;  store
//! ```
//!
//! Where the next Q has a place of its own, most kernels join work tiles like this; elsewhere the last product stands
//! alone.
//!
//! Two things hide the softmax behind the tensor cores: inside a warpgroup the softmax of step j begins beside the
//! product of step j - 1, and between warpgroups one multiplies while the other computes its softmax. Where products
//! are short, a baton of named barriers (*ping-pong*) sees to that. docs/attention_fwd.md draws the timeline and gives
//! the budgets.
//!
//! Where there are few work tiles, both consumers of a CTA, and of all CTAs of a cluster, share the keys of one. Each
//! leaves what its share comes to in shared memory, and combines a share of the columns of O from there (*split over
//! keys*, as Flash-Decoding does, but inside of one launch).
//!
//! Where O is wider than the registers of one consumer, both have the same rows and compute all their scores, but each
//! half of the columns of O (*split over columns*).
//!
//! *General* kernels are told by the launch which keys a query sees, where the sequences of a batch begin and end, and
//! which query heads share the tiles of a K/V head. Their tensor maps are [ragged](crate::params::Steps): what lies
//! beyond a sequence is read as zeros and not written, wherever it ends.
//!
//! *Sparse* kernels are general ones in which arrays say besides which keys each query sees, or which key tiles each tile
//! of queries visits. All consumers visit all of those, and each asks at each whether there is something to hide.
//!
//! Keys are visited from the last tile to the first, so that the tiles that need a mask come first and the steady
//! loop has none (under a window the first tiles need one again, and have a loop of their own). A consumer skips those
//! of which its own rows see nothing.

use core::marker::PhantomData;

use crate::band::Lengths;
use crate::bundle::{Bundle, Member, Place as WorkPlace};
use crate::config::{
    Dtype, Factor, Fp8, MAX_SPLITS, MMA_K, MMA_K_BYTES, Score, Spec, Tile, Variant, WARPGROUP_ROWS,
    WARPGROUP_THREADS,
};
use crate::dropout::{ALL_KEPT, Dropout};
use crate::fp8;
use crate::layout::{SLAB_COLUMNS, SLAB_ROW_BYTES, TileLayout};
use crate::mask;
use crate::params::{FwdParams, Steps};
use crate::pipeline::{Cursor, Gate, Ring};
use crate::ptx::global;
use crate::ptx::grid;
use crate::ptx::math;
use crate::ptx::mbarrier;
use crate::ptx::smem::SmemAddr;
use crate::ptx::tma::{self, CacheHint, TensorMapRef};
use crate::ptx::warp;
use crate::ptx::wgmma::{self, Acc, InFlight, Products, SmemDesc};
use crate::ptx::{cluster, matrix, thread};
use crate::schedule::{KeyBlocks, Turn as WorkTurn, WorkTile};
use crate::score;
use crate::score_mod::{Biases, Query};
use crate::search;
use crate::softmax::{Finished, Partial, Softmax};
use crate::sparse_lookup::{self, List};

/// The tensor maps of a launch, boxes (64, block_m), (64, block_n), (64, block_n) and (64, 16) of
/// (head_dim, seqlen, heads, batch); where keys are split, that of O is as narrow as a consumer's share. Those of
/// general kernels are [ragged](Steps): K and V (head_dim, rows, units, turns), Q and O with the packed heads as their
/// second dimension. Of 8 bits, boxes of Q and K are as wide as their slabs, and those of V are (slab, head_dim) of
/// (keys, head_dim, heads, batch), or (keys, head_dim, units, turns), as [`crate::fp8`] has it.
pub struct Maps {
    /// Q
    pub q: TensorMapRef,
    /// K
    pub k: TensorMapRef,
    /// V
    pub v: TensorMapRef,
    /// O
    pub o: TensorMapRef,
    /// What is added to scores, (seqlen_kv, seqlen_q, heads, batch) in boxes of (64, 64): [`Score::BiasTiles`] alone.
    pub bias: Option<TensorMapRef>,
}

/// Named barriers. Barrier 0 is the whole CTA's.
#[repr(u32)]
enum NamedBarrier {
    Cta = 0,
    /// The turn of consumer 0; those of the others follow.
    Turn = 1,
    /// All consumers.
    Consumers = 4,
}

/// Key tiles that a consumer may let pass before it ends the work tile before. Before its first scores, then, comes no
/// more than the one K beyond that which is loaded with the V that it still holds. One more, and another consumer
/// would, in its turn, wait for a V that takes the place of that one.
const MAX_SKIPPED: u32 = 1;

/// Rows of O that a warp stores on its own.
const WARP_ROWS: u32 = 16;

/// What every role of a CTA knows.
struct Cta<'a> {
    maps: Maps,
    params: &'a FwdParams,
    q: Ring,
    k: Ring,
    v: Ring,
    bias: Ring,
    o: SmemAddr,
    /// What this CTA's consumers came to, each under its share of the keys: over K and V.
    part: Part,
    /// Opens when O, staged over V, has been read.
    o_read: Gate,
    /// Which work is this CTA's team's where it is handed out in bundles: the first place, and how many tiles.
    bundle: (WorkPlace, u32),
}

/// The kernel. `S_REGS`, `P_REGS` and `O_REGS` are the registers of the fragments S, P and O of a thread, `SHORT_S` and
/// `SHORT_P` those of S and P in a short step, `O_PAIRS` those of O rounded; they follow from `S`, but Rust wants them
/// as parameters.
///
/// # Safety
/// See the entry points in [`entry`](crate::entry).
#[inline(always)]
pub unsafe fn attention_fwd<
    S: Spec,
    const S_REGS: usize,
    const P_REGS: usize,
    const O_REGS: usize,
    const SHORT_S: usize,
    const SHORT_P: usize,
    const O_PAIRS: usize,
>(
    maps: Maps,
    params: &FwdParams,
) where
    InFlight<S_REGS>: Products<S_REGS>,
    InFlight<O_REGS>: Products<O_REGS>,
    InFlight<SHORT_S>: Products<SHORT_S>,
{
    let v = &S::VARIANT;
    let smem = v.smem();
    let base = SmemAddr::base();
    let mut cta = Cta {
        q: Ring::q(base, &smem),
        k: Ring::k(base, &smem, v.tile.cluster, v.key_groups()),
        v: Ring::v(base, &smem, v.tile.cluster, v.key_groups()),
        bias: Ring::bias(base, &smem, v.consumers()),
        o: base.offset(smem.o),
        part: Part { at: base.offset(smem.k), stride: v.consumers() * WARPGROUP_THREADS * Part::CHUNK },
        o_read: Gate::new(base, &smem, v.tile.cluster),
        bundle: (WorkPlace::START, 0),
        maps,
        params,
    };
    let thread = thread::thread_idx_x();
    // SAFETY: every branch below is taken by whole warpgroups; one thread initialises the barriers, and a
    // barrier of the CTA, or of the cluster that shares them, separates that from their use.
    unsafe {
        let warpgroup = warp::broadcast(thread / WARPGROUP_THREADS);
        if thread == 0 {
            cta.q.init(v.consumers());
            cta.k.init(v.consumers() / v.key_groups());
            cta.v.init(v.consumers() / v.key_groups());
            if smem.o_over_v {
                cta.o_read.init(v.consumers());
            }
            if v.has_bias_tiles() {
                cta.bias.init(1);
            }
            mbarrier::fence_init();
        }
        if v.cluster_ctas() == 1 {
            warp::barrier_sync(NamedBarrier::Cta as u32, v.threads());
        } else {
            sync_cluster();
        }
        // All warps load lengths and prefixes, which the grid before may have written; consumers load what scores and
        // masks depend on, as constants (`ld.global.nc`), which it must be by then.
        let bundles = v.is_general() && params.general.sequences.teams != 0;
        let has_arrays = v.score.has_places() || v.is_sparse();
        if bundles || v.is_general() && params.general.band.prefix != 0 || has_arrays {
            grid::wait_for_previous_grid();
        }
        if bundles {
            cta.bundle = search::bundle(params, v.tile.block_m);
        }
        let (producer_registers, consumer_registers) = v.role_registers();
        if warpgroup == 0 {
            warp::shrink_registers(producer_registers);
            if warp::broadcast(thread / 32) == 0 {
                produce::<S>(&cta, warp::elect_one());
            }
            if v.split_ctas() > 1 {
                warp::sync_warp();
                sync_cluster(); // as the consumers do
            }
        } else {
            warp::grow_registers(consumer_registers);
            consume::<S, S_REGS, P_REGS, O_REGS, SHORT_S, SHORT_P, O_PAIRS>(&cta, warpgroup - 1);
            if v.splits_keys() {
                // What each consumer came to lies in shared memory.
                if v.split_ctas() > 1 {
                    sync_cluster();
                } else {
                    meet(v);
                }
                combine::<O_REGS, O_PAIRS>(&cta, v);
            }
        }
        if v.cluster_ctas() > 1 {
            warp::sync_warp();
            sync_cluster(); // shared memory must outlive the last arrival, or read, from another CTA
        }
    }
}

/// All consumers of the CTA wait for each other.
#[inline(always)]
unsafe fn meet(v: &Variant) {
    // SAFETY: the caller's: every consumer warp is here, each together.
    unsafe { warp::barrier_sync(NamedBarrier::Consumers as u32, v.consumers() * WARPGROUP_THREADS) }
}

/// All threads of the cluster wait for each other.
#[inline(always)]
unsafe fn sync_cluster() {
    // SAFETY: the caller's: every warp of the cluster is here, each together.
    unsafe {
        cluster::arrive();
        cluster::wait();
    }
}

impl Cta<'_> {
    /// The query head, and the query, of row `row` of a work tile's head.
    #[inline(always)]
    fn head_and_query(&self, tile: WorkTile, row: u32) -> [u32; 2] {
        let general = &self.params.general;
        let packed = row & ((1 << general.pack) - 1);
        [tile.head * general.packed_heads + packed, row >> general.pack]
    }

    /// The logits that join the denominators of this thread's two rows, to the base 2.
    #[inline(always)]
    fn sinks(&self, v: &Variant, tile: WorkTile) -> [f32; 2] {
        let sinks = self.params.general.sinks as *const f32;
        if !v.is_general() || sinks.is_null() {
            return [f32::NEG_INFINITY; 2];
        }
        let Place { warp_row, lane } = Place::here();
        let row = tile.m_block * v.tile.block_m + row_in_tile(v, warp_row) + lane / 4;
        [row, row + 8].map(|row| {
            let [head, _] = self.head_and_query(tile, row);
            let head = head.min(self.params.heads_q.value * self.params.general.packed_heads - 1);
            // SAFETY: there is one for each query head; rows that pad a query read the last one's, and are not stored.
            math::mul(unsafe { *sinks.add(head as usize) }, core::f32::consts::LOG2_E)
        })
    }

    /// What scores are multiplied with before a power of 2 is taken. Q of the work tile has arrived.
    #[inline(always)]
    fn scale_log2(&self, v: &Variant, tile: WorkTile) -> f32 {
        let scale = self.params.scale_log2;
        // What comes of capped products is what is scaled.
        if v.caps_scores() { scale } else { self.descaled(v, tile, scale) }
    }

    /// Of 8 bits, what products of Q and K are multiplied with before they are capped.
    #[inline(always)]
    fn product_scale(&self, v: &Variant, tile: WorkTile) -> f32 {
        if v.fp8.is_none() || !v.caps_scores() {
            return 0.0;
        }
        self.descaled(v, tile, self.params.general.product_scale)
    }

    /// A factor of products of Q and K, and what these stand for.
    #[inline(always)]
    fn descaled(&self, v: &Variant, tile: WorkTile, scale: f32) -> f32 {
        if v.fp8.is_none() {
            return scale;
        }
        let fp8::Descales { q, k, .. } = &self.params.descales;
        // SAFETY: the host vouches for one of each head, written before the tensors were.
        let [q, k] = unsafe {
            [q.address(tile.batch, tile.head), k.address(tile.batch, tile.head_kv)]
                .map(|at| global::load_f32(at))
        };
        math::mul(scale, math::mul(q, k))
    }

    /// What O is multiplied with in the end.
    #[inline(always)]
    fn descale_v(&self, tile: WorkTile) -> f32 {
        // SAFETY: as above.
        unsafe { global::load_f32(self.params.descales.v.address(tile.batch, tile.head_kv)) }
    }

    /// The work tiles of this CTA.
    #[inline(always)]
    fn tiles<'a>(&'a self, v: &'a Variant) -> WorkTiles<'a> {
        let at = if v.is_general() && self.params.general.sequences.teams != 0 {
            let ((first, tiles), team) = (self.bundle, &self.params.general.sequences.team);
            let rounds = if v.takes_turns() { team.quotient(tiles + team.value - 1) } else { tiles };
            WorkAt::Bundle(Bundle::new(first, tiles, rounds, member(self.params, v)))
        } else {
            WorkAt::Turn(WorkTurn::new(thread::block_idx_x() / v.cluster_ctas()))
        };
        WorkTiles { params: self.params, v, at }
    }

    /// The lengths of the sequence of a work tile.
    #[inline(always)]
    fn lengths(&self, v: &Variant, tile: WorkTile) -> Lengths {
        let p = self.params;
        if !v.is_general() {
            return Lengths { q: p.seqlen_q, kv: p.seqlen_kv, prefix: 0 };
        }
        let prefixes = p.general.band.prefix;
        // SAFETY: the host vouches for the prefixes.
        let load = || unsafe { global::load_constant(prefixes + 4 * u64::from(tile.batch)) };
        let prefix = if prefixes == 0 { 0 } else { load() };
        Lengths { q: tile.q.len, kv: tile.kv.len, prefix }
    }

    /// The key tiles that are loaded for a work tile: those that any row of the cluster sees, or this CTA's share of
    /// them.
    ///
    /// # Safety
    /// All lanes of the warp execute it together.
    #[inline(always)]
    unsafe fn key_blocks(&self, v: &Variant, tile: WorkTile) -> KeyBlocks {
        if v.is_sparse() {
            // SAFETY: the caller's.
            return unsafe { sparse_lookup::key_blocks(self.params, v, tile, self.lengths(v, tile)) };
        }
        let Tile { block_m, cluster, .. } = v.tile;
        let first_row = tile.m_block / cluster * cluster * block_m;
        let all = self.blocks_of_rows(v, self.lengths(v, tile), first_row, cluster * block_m);
        if v.splits_keys() { all.share(cluster::rank(), v.split_ctas()) } else { all }
    }

    /// Sparse: the keys that this thread's two of a consumer's rows see, from the first to before the second.
    #[inline(always)]
    fn keys_of_rows(&self, v: &Variant, tile: WorkTile, rows: Rows, lengths: Lengths) -> [[i32; 2]; 2] {
        if !v.is_sparse() {
            return [[0; 2]; 2];
        }
        let Place { warp_row, lane } = Place::here();
        let query = rows.0 + warp_row % WARPGROUP_ROWS + lane / 4;
        [query, query + 8].map(|query| sparse_lookup::keys(self.params, tile, query, lengths))
    }

    /// [`Score::Alibi`]: the slopes of this thread's two of a consumer's rows.
    #[inline(always)]
    fn slopes_of_rows(&self, v: &Variant, tile: WorkTile, rows: Rows) -> [f32; 2] {
        if !matches!(v.score, Score::Alibi) {
            return [0.0; 2];
        }
        // SAFETY: the launch has passed arguments of this kernel's type.
        let biases = unsafe { &*self.params.general.score_args.as_ptr().cast::<Biases>() };
        let Place { warp_row, lane } = Place::here();
        let row = rows.0 + warp_row % WARPGROUP_ROWS + lane / 4;
        [row, row + 8].map(|row| {
            let [head, _] = self.head_and_query(tile, row);
            let head = head.min(self.params.heads_q.value * self.params.general.packed_heads - 1);
            let slope = u64::from(tile.batch) * biases.slopes_batch + u64::from(head);
            // SAFETY: the host vouches for a slope of each head; rows that pad a query read the last one's.
            f32::from_bits(unsafe { global::load_public(biases.slopes + 4 * slope) })
        })
    }

    /// Whether a consumer's rows see only the last keys of their first key tile, as many as a short step scores, and
    /// whether only the first ones of their last.
    #[inline(always)]
    fn short_ends(&self, v: &Variant, lengths: Lengths, rows: Rows, blocks: KeyBlocks) -> [bool; 2] {
        if !v.has_short_ends() {
            return [false; 2];
        }
        let general = &self.params.general;
        let row = |row: u32| general.band.keys((row >> general.pack).min(lengths.q - 1), lengths);
        let ([first, _], [_, end]) = (row(rows.0), row(rows.0 + WARPGROUP_ROWS - 1));
        let (block_n, short_n) = (v.tile.block_n, v.short_n());
        let last = (blocks.end - 1) * block_n;
        [first as u32 >= blocks.first * block_n + (block_n - short_n), end as u32 <= last + short_n]
    }

    /// The key tiles that the rows `first_row..first_row + rows` see.
    #[inline(always)]
    fn blocks_of_rows(&self, v: &Variant, lengths: Lengths, first_row: u32, rows: u32) -> KeyBlocks {
        let (block_n, general) = (v.tile.block_n, &self.params.general);
        if v.is_general() {
            KeyBlocks::of_band(&general.band, first_row, rows, block_n, lengths, general.pack)
        } else {
            KeyBlocks::new(first_row, rows, block_n, lengths.q, lengths.kv, v.is_causal())
        }
    }
}

/// The work tiles of a CTA that are left.
struct WorkTiles<'a> {
    params: &'a FwdParams,
    v: &'a Variant,
    at: WorkAt,
}

/// Which CTA of its team this one is. Where none takes turns each is alone.
#[inline(always)]
fn member(params: &FwdParams, v: &Variant) -> Member {
    if !v.takes_turns() {
        return Member::ALONE;
    }
    let team = &params.general.sequences.team;
    let (_, number) = team.split(thread::block_idx_x());
    Member { team: team.value, number }
}

/// Where a CTA stands in its work, as that is handed out.
enum WorkAt {
    Turn(WorkTurn),
    Bundle(Bundle),
}

impl Iterator for WorkTiles<'_> {
    type Item = WorkTile;

    #[inline(always)]
    fn next(&mut self) -> Option<WorkTile> {
        let (p, v) = (self.params, self.v);
        match &mut self.at {
            WorkAt::Turn(turn) => {
                let uneven = if v.is_general() { p.general.sequences.uneven != 0 } else { v.is_causal() };
                let (unit, head) = turn.next(&p.work, thread::grid_dim_x() / v.cluster_ctas(), uneven)?;
                let rank = if v.tile.cluster > 1 { cluster::rank() } else { 0 };
                Some(WorkTile::of_unit(p, unit * v.tile.cluster + rank, head))
            }
            // SAFETY: the host vouches for the lengths.
            WorkAt::Bundle(bundle) => {
                bundle.next(p, v.tile.block_m, member(p, v), |batch| unsafe { search::load(p, batch) })
            }
        }
    }
}

/// The producer: a warp that keeps the rings filled. The whole warp walks along, so that what it computes is uniform
/// and needs few registers; its `leader` alone touches barriers and issues loads.
#[inline(always)]
unsafe fn produce<S: Spec>(cta: &Cta, leader: bool) {
    let v = &S::VARIANT;
    // SAFETY: the tensor maps are kernel parameters; every acquired slot is filled by exactly its bytes.
    unsafe {
        grid::launch_dependents();
        if leader {
            tma::prefetch_map(cta.maps.q);
            tma::prefetch_map(cta.maps.k);
            tma::prefetch_map(cta.maps.v);
            tma::prefetch_map(cta.maps.o);
            if let Some(bias) = cta.maps.bias {
                tma::prefetch_map(bias);
            }
        }
        // The maps are parameters and may be fetched ahead of this; tensors may not. It holds for the consumers too:
        // they touch memory only after their Q has arrived, which is loaded behind it.
        grid::wait_for_previous_grid();
        let (mut q_at, mut k_at, mut v_at) = (Cursor::START, Cursor::START, Cursor::START);
        let mut o_read = Cursor::START;
        let general = &cta.params.general;
        let load = |of, ring: &Ring, at: &mut Cursor, map, steps: &Steps, tile: WorkTile, n_block: u32| {
            let (slot, full) = ring.acquire(at, leader);
            let row = List::of(cta.params, v, tile).key_block(v, n_block) * v.tile.block_n;
            if leader {
                let at = match (of, v.fp8) {
                    _ if !v.is_general() => [row, tile.head_kv, tile.batch],
                    (Operand::V, Some(_)) => {
                        steps.value_coordinates(tile.batch, tile.head_kv, tile.kv.start, tile.kv.len, row)
                    }
                    _ => steps.coordinates(tile.batch, tile.head_kv, tile.kv.start, tile.kv.len, row),
                };
                load_tile(v, of, slot, map, full, at, CacheHint::Last);
            }
        };
        let mut bias_at = Cursor::START;
        // Those of consumers `from..to`, for a key tile.
        let load_biases = |at: &mut Cursor, tile: WorkTile, n_block: u32, from: u32, to: u32| {
            if let Some(map) = cta.maps.bias {
                let mut consumer = from;
                while consumer < to {
                    let (slot, full) = cta.bias.acquire(at, leader);
                    if leader {
                        load_bias(v, slot, map, full, tile, n_block, consumer);
                    }
                    consumer += 1;
                }
            }
        };
        // K₀ Q  K₁ V₀  K₂ V₁ ... V: the order in which the consumers want them and free the slots, so that no load
        // waits behind one whose slot comes free later. Where work tiles are joined, the last V follows the next tile's
        // Q. Biases of a key tile come around K of the next one: consumers have one slot each, which is free once they have
        // the scores of the tile before, and the first of them has them half a step ahead.
        let mut before: Option<(WorkTile, u32)> = None;
        for tile in cta.tiles(v) {
            let blocks = cta.key_blocks(v, tile);
            let mut n_block = blocks.end;
            loop {
                if n_block < blocks.end {
                    load_biases(&mut bias_at, tile, n_block, 0, 1);
                }
                if n_block > blocks.first {
                    load(Operand::K, &cta.k, &mut k_at, cta.maps.k, &general.k, tile, n_block - 1);
                }
                if n_block < blocks.end {
                    load_biases(&mut bias_at, tile, n_block, 1, v.consumers());
                    if v.smem().o_over_v && n_block + 1 == blocks.end {
                        cta.o_read.wait(&mut o_read);
                    }
                    load(Operand::V, &cta.v, &mut v_at, cta.maps.v, &general.v, tile, n_block);
                } else {
                    let (slot, full) = cta.q.acquire(&mut q_at, leader);
                    if leader {
                        load_q(cta, v, slot, full, tile);
                    }
                    if let Some((before, n_block)) = before.take() {
                        load(Operand::V, &cta.v, &mut v_at, cta.maps.v, &general.v, before, n_block);
                    }
                }
                if n_block == blocks.first {
                    break;
                }
                n_block -= 1;
                let first = if v.is_general() { blocks.first } else { 0 };
                if v.joins_work_tiles() && n_block == first {
                    before = Some((tile, first));
                    load_biases(&mut bias_at, tile, first, 0, v.consumers());
                    break;
                }
            }
            if v.splits_keys() {
                break; // there is one for each cluster
            }
        }
        if let Some((before, n_block)) = before {
            load(Operand::V, &cta.v, &mut v_at, cta.maps.v, &general.v, before, n_block);
        }
    }
}

/// Loads the Q of a work tile.
#[inline(always)]
unsafe fn load_q(cta: &Cta, v: &Variant, dst: SmemAddr, full: mbarrier::MBarrier, tile: WorkTile) {
    let (general, row) = (&cta.params.general, tile.m_block * v.tile.block_m);
    // SAFETY: the caller acquired the slot for all slabs of the tile.
    unsafe {
        if !v.is_general() {
            let at = [row, tile.head, tile.batch];
            load_tile(v, Operand::Q, dst, cta.maps.q, full, at, CacheHint::First);
            return;
        }
        let query = row >> general.pack;
        let [row, end, turn] = general.q.coordinates(tile.batch, tile.head, tile.q.start, tile.q.len, query);
        let (layout, mut slab) = (v.q_tile(), 0);
        let columns = layout.row_bytes() / v.element_bytes();
        while slab < layout.slabs {
            let dst = dst.offset(slab * layout.slab_bytes());
            let coordinates = [slab * columns, 0, row, end, turn].map(|c| c as i32);
            tma::load_5d(dst, cta.maps.q, full, coordinates, CacheHint::First);
            slab += 1;
        }
    }
}

/// Loads what is added to a consumer's scores under a key tile.
#[inline(always)]
unsafe fn load_bias(
    v: &Variant,
    dst: SmemAddr,
    map: TensorMapRef,
    full: mbarrier::MBarrier,
    tile: WorkTile,
    n_block: u32,
    consumer: u32,
) {
    let row = tile.m_block * v.tile.block_m + consumer * WARPGROUP_ROWS;
    let mut slab = 0;
    while slab < v.tile.block_n.div_ceil(SLAB_COLUMNS) {
        let dst = dst.offset(slab * WARPGROUP_ROWS * SLAB_ROW_BYTES);
        let column = n_block * v.tile.block_n + slab * SLAB_COLUMNS;
        let coordinates = [column, row, tile.head, tile.batch].map(|c| c as i32);
        // SAFETY: the caller acquired the slot for all slabs of the tile.
        unsafe { tma::load_4d(dst, map, full, coordinates, CacheHint::Normal) };
        slab += 1;
    }
}

/// What is loaded in tiles.
#[derive(Clone, Copy)]
enum Operand {
    Q,
    K,
    V,
}

impl Operand {
    /// How its tiles lie in shared memory.
    #[inline(always)]
    const fn tile(self, v: &Variant) -> TileLayout {
        match self {
            Operand::Q => v.q_tile(),
            Operand::K => v.k_tile(),
            Operand::V => v.v_tile(),
        }
    }
}

/// Loads a tile, slab by slab. `at` is (row, head, batch), or what ragged maps have instead; of transposed V, (key, head,
/// batch). CTAs that share K and V each load an equal part of the rows into all of them.
#[inline(always)]
unsafe fn load_tile(
    v: &Variant,
    of: Operand,
    dst: SmemAddr,
    map: TensorMapRef,
    full: mbarrier::MBarrier,
    at: [u32; 3],
    hint: CacheHint,
) {
    let (tile, columns) = (of.tile(v), of.tile(v).row_bytes() / v.element_bytes());
    let ctas = if matches!(of, Operand::Q) { 1 } else { v.tile.cluster };
    let first = if ctas == 1 { 0 } else { cluster::rank() * (tile.rows / ctas) };
    let all = (1 << ctas) - 1;
    let mut slab = 0;
    while slab < tile.slabs {
        let dst = dst.offset(slab * tile.slab_bytes() + first * tile.row_bytes());
        let (column, row) = match (of, v.fp8) {
            (Operand::V, Some(_)) => (at[0] + slab * columns, first),
            _ => (slab * columns, at[0] + first),
        };
        let coordinates = [column, row, at[1], at[2]].map(|c| c as i32);
        // SAFETY: the caller acquired the slot, in all CTAs that share it, for all slabs of the tile.
        unsafe {
            if ctas == 1 {
                tma::load_4d(dst, map, full, coordinates, hint);
            } else {
                tma::load_multicast_4d(dst, map, full, coordinates, all, hint);
            }
        }
        slab += 1;
    }
}

/// The baton that consumers pass around: who has it issues products (*ping-pong*).
#[derive(Clone, Copy)]
struct Turn {
    mine: u32,
    next: u32,
}

impl Turn {
    const THREADS: u32 = 2 * WARPGROUP_THREADS;

    #[inline(always)]
    unsafe fn wait(self, v: &Variant) {
        if v.ping_pong() {
            // SAFETY: the whole warpgroup is here, and the one before it arrives with as many threads.
            unsafe { warp::barrier_sync(self.mine, Self::THREADS) }
        }
    }

    #[inline(always)]
    unsafe fn pass(self, v: &Variant) {
        if v.ping_pong() {
            // SAFETY: the whole warpgroup is here, and the next one waits with as many threads.
            unsafe { warp::barrier_arrive(self.next, Self::THREADS) }
        }
    }
}

/// A consumer warpgroup: the rows `64 * consumer ..` of every work tile, or all of them where consumers share rows.
struct Consumer<'a, S: Spec> {
    cta: &'a Cta<'a>,
    v: &'a Variant,
    spec: PhantomData<S>,
    turn: Turn,
    /// Which slab of V is the first of its columns.
    first_slab: u32,
    /// Where it stands in the rings.
    q: Cursor,
    k: Cursor,
    values: Cursor,
    bias: Cursor,
    /// Whether O is staged over V and may not have been read yet.
    o_over_v: bool,
}

/// Scores to be computed: of a consumer's 64 rows, under one key tile.
#[derive(Clone, Copy)]
struct ScoreTile {
    tile: WorkTile,
    rows: Rows,
    lengths: Lengths,
    /// Sparse: the keys that the thread's two rows see, from the first to before the second.
    keys: [[i32; 2]; 2],
    /// [`Score::Alibi`]: the slopes of the thread's two rows.
    slopes: [f32; 2],
    /// [`Score::Softcap`] of 8 bits: what products are multiplied with.
    product_scale: f32,
    /// Where these rows of Q lie.
    q: SmemAddr,
    n_block: u32,
    /// Keys of the tile before those that are scored: none, but at the short end of a band.
    skipped: u32,
    /// Whether some row does not see some key.
    masked: bool,
    /// Whether these rows see keys of the next key tile, too.
    goes_on: bool,
}

/// What a consumer's 64 rows of a work tile have come to.
struct Progress<const P: usize, const O: usize> {
    /// Sum of the values under the key tiles before the last one that was scored.
    o: Acc<O>,
    /// Probabilities under that one.
    p: [u32; P],
    /// Where products are summed on their own, what `o` is yet to be multiplied with: O is rescaled when they are added.
    alpha: [f32; 2],
}

impl<const P: usize, const O: usize> Progress<P, O> {
    /// After the first key tile.
    #[inline(always)]
    fn first(p: [u32; P]) -> Self {
        Progress { o: Acc::zeros(), p, alpha: [1.0; 2] }
    }
}

/// A work tile of which all keys were scored: what remains is the product of the last key tile.
struct Scored<const P: usize, const O: usize> {
    tile: WorkTile,
    softmax: Softmax,
    at: Progress<P, O>,
    /// Key tiles that were loaded beyond it, of which these rows see nothing.
    below: u32,
}

/// What a consumer's rows of a work tile have come to, ready to be stored.
struct Done<const H: usize> {
    tile: WorkTile,
    /// O / l, rounded to the element type: two columns a register.
    o: [u32; H],
    /// The log-sum-exp of the thread's two rows.
    lse: [f32; 2],
}

impl<const H: usize> Done<H> {
    /// Rows that see no key.
    #[inline(always)]
    fn without_keys(cta: &Cta, v: &Variant, tile: WorkTile) -> Self {
        let mut rows = Partial::NO_KEYS;
        rows.join(cta.sinks(v, tile));
        let lse = if v.is_general() { rows.finish().lse } else { [f32::NEG_INFINITY; 2] };
        Done { tile, o: [0; H], lse }
    }

    /// Divides O by the sums of the rows and rounds it.
    ///
    /// # Safety
    /// All lanes of the warp execute it together.
    #[inline(always)]
    unsafe fn new<const O: usize>(
        cta: &Cta,
        v: &Variant,
        tile: WorkTile,
        o: Acc<O>,
        softmax: &Softmax,
    ) -> Self {
        // SAFETY: the caller's.
        let mut rows =
            unsafe { if v.score.adds_to_rows() { softmax.partial_of_added() } else { softmax.partial() } };
        if !v.is_general() {
            let mut finished = rows.finish();
            if v.fp8.is_some() {
                let descale = cta.descale_v(tile);
                finished.inverse_sum = finished.inverse_sum.map(|inverse| math::mul(inverse, descale));
            }
            return Done::divided(v, tile, o, finished);
        }
        rows.max = rows.max.map(|max| math::add(max, cta.params.general.offset_log2));
        let descale = if v.fp8.is_some() { cta.descale_v(tile) } else { 1.0 };
        let weight = rows.join(cta.sinks(v, tile));
        let mut finished = rows.finish();
        let mut row = 0;
        while row < 2 {
            finished.inverse_sum[row] = math::mul(finished.inverse_sum[row], weight[row]);
            if v.fp8.is_some() {
                finished.inverse_sum[row] = math::mul(finished.inverse_sum[row], descale);
            }
            if v.drops_weights() {
                let factor = cta.params.general.dropout.factor;
                finished.inverse_sum[row] = math::mul(finished.inverse_sum[row], factor);
            }
            row += 1;
        }
        Done::divided(v, tile, o, finished)
    }

    /// Divides O, and rounds it.
    #[inline(always)]
    fn divided<const O: usize>(v: &Variant, tile: WorkTile, mut o: Acc<O>, finished: Finished) -> Self {
        let mut i = 0;
        while i < O {
            o.0[i] = math::mul(o.0[i], finished.inverse_sum[i >> 1 & 1]);
            i += 1;
        }
        // A row without keys is zero whatever V holds: 0 times infinity would not be.
        let has_keys = finished.inverse_sum.map(math::mask_of_nonzero);
        let mut packed: [u32; H] = pack(v, &o);
        let mut i = 0;
        while i < H {
            packed[i] &= has_keys[i & 1];
            i += 1;
        }
        Done { tile, o: packed, lse: finished.lse }
    }
}

#[inline(always)]
unsafe fn consume<
    S: Spec,
    const S_REGS: usize,
    const P_REGS: usize,
    const O_REGS: usize,
    const SHORT_S: usize,
    const SHORT_P: usize,
    const O_PAIRS: usize,
>(
    cta: &Cta,
    consumer: u32,
) where
    InFlight<S_REGS>: Products<S_REGS>,
    InFlight<O_REGS>: Products<O_REGS>,
    InFlight<SHORT_S>: Products<SHORT_S>,
{
    let v = &S::VARIANT;
    let turn = Turn {
        mine: NamedBarrier::Turn as u32 + consumer,
        next: NamedBarrier::Turn as u32 + if consumer + 1 == v.consumers() { 0 } else { consumer + 1 },
    };
    // Which of the consumers that share keys this is, and so which key tiles it takes, from the last.
    let group = if v.splits_keys() { consumer } else { 0 };
    let row_group = if v.consumers_share_rows() { 0 } else { consumer };
    let first_slab = first_slab(v, consumer);
    let [k, values] = [Cursor::at(group); 2];
    let (q, bias) = (Cursor::START, Cursor::at(consumer));
    let mut me =
        Consumer::<S> { cta, v, spec: PhantomData, turn, first_slab, q, k, values, bias, o_over_v: false };
    // SAFETY: the warpgroup goes through all of this together: what it branches on is the same in all its threads.
    // Consumers take one turn for every key tile that is loaded, so the baton comes back to where it started.
    unsafe {
        if consumer + 1 == v.consumers() {
            turn.pass(v); // the first consumer begins
        }
        let mut before: Option<Scored<P_REGS, O_REGS>> = None;
        // What a work tile came to under a share of its keys.
        let mut part = (Acc::<O_REGS>::zeros(), Partial::NO_KEYS);
        for tile in cta.tiles(v) {
            let rows = Rows(tile.m_block * v.tile.block_m + row_group * WARPGROUP_ROWS);
            let lengths = cta.lengths(v, tile);
            let loaded = cta.key_blocks(v, tile);
            let mut blocks = if v.is_sparse() {
                loaded
            } else {
                cta.blocks_of_rows(v, lengths, rows.0, WARPGROUP_ROWS).among(loaded)
            };
            if v.splits_keys() {
                blocks.end -= group.min(blocks.count());
            }
            // What this tile has come to, unless it ends beside the next one. Where O is stored over V consumers meet,
            // and the barrier wants them at one instruction: so there is one place to store, with keys or without.
            let done: Option<Done<O_PAIRS>> = 'tile: {
                // Key tiles that only rows of other consumers see.
                let differ = v.skips_key_tiles() && (v.is_causal() || v.is_general());
                let above = if differ { loaded.end - blocks.end } else { 0 };
                let below = if differ && v.is_general() { blocks.first - loaded.first } else { 0 };
                let before_below =
                    if v.is_general() { before.as_ref().map_or(0, |before| before.below) } else { 0 };
                // The work tile before ends beside this one's first scores, if there are any; and unless this consumer
                // would have to let so many keys pass before it that those behind wait for a V that it still holds.
                let apart = v.is_general() && above + before_below > MAX_SKIPPED;
                if (blocks.count() == 0 || apart)
                    && let Some(before) = before.take()
                {
                    let done: Done<O_PAIRS> = me.end(before);
                    me.store(&done);
                } else if v.is_general() {
                    me.skip_keys(before_below);
                }
                if blocks.count() == 0 {
                    me.no_keys(loaded.count());
                    break 'tile if v.splits_keys() { None } else { Some(Done::without_keys(cta, v, tile)) };
                }
                if !me.o_over_v || apart {
                    // At once in the first tile, and before values pass; others do it while they begin, when O has been
                    // read.
                    me.open_gate();
                }
                let above = if apart {
                    me.skip_both(above);
                    0
                } else {
                    me.skip_keys(above);
                    above
                };
                let q = cta.q.wait(me.q).offset(row_group * WARPGROUP_ROWS * v.q_tile().row_bytes());
                cta.k.wait(me.k);
                let mut softmax = Softmax::new(cta.scale_log2(v, tile), v.p_shift());
                // The last key tile: scores beside the last product of the work tile before. Where a few of its keys
                // are all that these rows see, only those.
                let mut n_block = blocks.end - 1;
                let keys = cta.keys_of_rows(v, tile, rows, lengths);
                let slopes = if v.keeps_slopes() { cta.slopes_of_rows(v, tile, rows) } else { [0.0; 2] };
                let product_scale = cta.product_scale(v, tile);
                let list = List::of(cta.params, v, tile);
                let tile_at = move |n_block: u32, masked: bool| ScoreTile {
                    tile,
                    rows,
                    lengths,
                    q,
                    n_block: list.key_block(v, n_block),
                    skipped: 0,
                    keys,
                    slopes,
                    product_scale,
                    masked,
                    goes_on: n_block >= blocks.first + v.key_groups(),
                };
                let last =
                    tile_at(n_block, n_block >= blocks.full || v.is_general() && n_block < blocks.clear);
                let [first_short, last_short] = cta.short_ends(v, lengths, rows, blocks);
                let is_short = v.has_short_step()
                    && n_block >= blocks.first + v.key_groups()
                    && rows.last_keys(v, cta.params, n_block) <= v.short_n();
                let mut at: Progress<P_REGS, O_REGS>;
                if is_short {
                    let p = me.first::<SHORT_S, _, SHORT_P, _, O_PAIRS>(last, &mut softmax, before);
                    if v.skips_before_short_step() {
                        me.skip_values(above);
                    }
                    let first: Progress<SHORT_P, O_REGS> = Progress::first(p);
                    n_block -= v.key_groups();
                    let second = tile_at(n_block, n_block >= blocks.full);
                    at = me.step::<S_REGS, _, _, _>(second, &mut softmax, first);
                } else {
                    let p = if last_short {
                        let p = me.first::<SHORT_S, _, SHORT_P, _, O_PAIRS>(last, &mut softmax, before);
                        among_zeros(&p, 0)
                    } else {
                        me.first::<S_REGS, _, P_REGS, _, O_PAIRS>(last, &mut softmax, before)
                    };
                    me.skip_values(above);
                    at = Progress::first(p);
                }
                wgmma::hold(&mut at.p);
                // Scores of a tile beside the product of the tile before: those with a mask, then those without.
                let has_masked_loop = (v.is_causal() || v.is_general()) && !v.is_sparse();
                if has_masked_loop && !v.has_short_step() {
                    while n_block >= blocks.full.max(blocks.first) + v.key_groups() {
                        n_block -= v.key_groups();
                        at = me.step::<S_REGS, _, _, _>(tile_at(n_block, true), &mut softmax, at);
                    }
                }
                let clear = if v.is_general() { blocks.first.max(blocks.clear) } else { blocks.first };
                while !v.is_sparse() && n_block >= clear + v.key_groups() {
                    n_block -= v.key_groups();
                    at = me.step::<S_REGS, _, _, _>(tile_at(n_block, false), &mut softmax, at);
                }
                if v.is_general() {
                    while n_block > blocks.first + u32::from(first_short) {
                        n_block -= 1;
                        at = me.step::<S_REGS, _, _, _>(tile_at(n_block, true), &mut softmax, at);
                    }
                    if first_short && n_block > blocks.first {
                        let skipped = v.tile.block_n - v.short_n();
                        let tile = ScoreTile { skipped, ..tile_at(blocks.first, true) };
                        let Progress { o, p, alpha } =
                            me.step::<SHORT_S, _, SHORT_P, _>(tile, &mut softmax, at);
                        at = Progress { o, p: among_zeros(&p, P_REGS - SHORT_P), alpha };
                    }
                }
                cta.q.release(&mut me.q);
                let scored = Scored { tile, softmax, at, below };
                if v.joins_work_tiles() {
                    before = Some(scored);
                    None
                } else if v.splits_keys() {
                    before = None;
                    part = (me.last_values(scored.at), scored.softmax.partial());
                    None
                } else {
                    before = None;
                    Some(me.end(scored))
                }
            };
            if let Some(done) = done {
                me.store(&done);
            }
            if v.splits_keys() {
                break; // there is one for each cluster
            }
        }
        if let Some(before) = before {
            let done: Done<O_PAIRS> = me.end(before);
            me.store(&done);
        }
        if consumer == 0 {
            turn.wait(v); // the baton is back
        }
        if v.splits_keys() {
            meet(v); // K and V are read no more once all consumers have waited for their last product
            cta.part.write(&part.0, &part.1);
        }
        tma::wait_read::<0>(); // shared memory must outlive the last store
    }
}

impl<V: Spec> Consumer<'_, V> {
    /// A work tile of which these rows see no key: lets its `loaded` key tiles pass.
    #[inline(always)]
    unsafe fn no_keys(&mut self, loaded: u32) {
        // SAFETY: the warpgroup is together. Values pass in step with the keys: the producer has no slots to go far
        // ahead with one of them.
        unsafe {
            // Where all rows see the same key tiles, none is loaded that these rows do not see.
            let loaded = if self.v.skips_key_tiles() { loaded } else { 0 };
            if loaded > 0 {
                self.open_gate();
            }
            self.skip_both(loaded);
            self.cta.q.wait(self.q);
            self.cta.q.release(&mut self.q);
        }
    }

    /// Lets `n_blocks` key tiles pass with their values, of which these rows see nothing.
    #[inline(always)]
    unsafe fn skip_both(&mut self, n_blocks: u32) {
        let mut left = n_blocks;
        while left > 0 {
            left -= 1;
            // SAFETY: the warpgroup is together.
            unsafe {
                self.skip_keys(1);
                self.skip_values(1);
            }
        }
    }

    /// Lets `n_blocks` key tiles pass, of which these rows see nothing.
    #[inline(always)]
    unsafe fn skip_keys(&mut self, n_blocks: u32) {
        let mut left = n_blocks;
        while left > 0 {
            left -= 1;
            // SAFETY: the warpgroup is together; a slot is given back after it was filled, as if it had been read.
            unsafe {
                self.cta.k.let_pass(&mut self.k);
                if self.v.has_bias_tiles() {
                    self.cta.bias.let_pass(&mut self.bias);
                }
                self.turn.wait(self.v);
                self.turn.pass(self.v);
            }
        }
    }

    /// The same for their values.
    #[inline(always)]
    unsafe fn skip_values(&mut self, n_blocks: u32) {
        let mut left = n_blocks;
        while left > 0 {
            left -= 1;
            // SAFETY: as above.
            unsafe {
                self.cta.v.let_pass(&mut self.values);
            }
        }
    }

    /// The first key tile that these rows see, or its first `2 * S` keys: the probabilities. The work tile before, if
    /// it has not ended yet, does so beside them.
    #[inline(always)]
    unsafe fn first<const S: usize, const P_IN: usize, const P: usize, const O: usize, const H: usize>(
        &mut self,
        tile: ScoreTile,
        softmax: &mut Softmax,
        before: Option<Scored<P_IN, O>>,
    ) -> [u32; P]
    where
        InFlight<S>: Products<S>,
        InFlight<O>: Products<O>,
    {
        // SAFETY: the warpgroup is together; Q and this tile of K have arrived.
        unsafe {
            match before {
                None => self.begin::<S, P>(tile, softmax),
                Some(before) => {
                    let (o, _, p) = self.scores_and_values::<S, _, P, _>(tile, softmax, before.at);
                    self.skip_values(before.below);
                    let done: Done<H> = Done::new(self.cta, self.v, before.tile, o, &before.softmax);
                    self.store(&done);
                    p
                }
            }
        }
    }

    /// Adds what is loaded for that to scores of a key tile.
    #[inline(always)]
    unsafe fn add_bias<const S: usize>(&mut self, s: &mut Acc<S>) {
        if self.v.has_bias_tiles() {
            // SAFETY: the warpgroup is together.
            unsafe {
                let tile = self.cta.bias.wait(self.bias);
                score::add_tile(self.cta.params, self.v.dtype, s, tile);
                // All lanes have read it, and what TMA writes there next comes after that.
                tma::fence_async_shared();
                warp::sync_warp();
                self.cta.bias.release(&mut self.bias);
            }
        }
    }

    /// The scores of a key tile, which has arrived, alone.
    #[inline(always)]
    unsafe fn begin<const S: usize, const P: usize>(
        &mut self,
        tile: ScoreTile,
        softmax: &mut Softmax,
    ) -> [u32; P]
    where
        InFlight<S>: Products<S>,
    {
        let (cta, v) = (self.cta, self.v);
        // SAFETY: the warpgroup is together; Q and this tile of K have arrived.
        unsafe {
            self.turn.wait(v);
            wgmma::fence();
            let s: InFlight<S> = scores(v, tile.q, tile.keys_of(cta.k.slot(self.k)));
            wgmma::commit();
            self.turn.pass(v);
            let mut s = s.wait::<0>();
            cta.k.release(&mut self.k);
            let at = if v.score.has_places() { Some(tile.place(cta, v)) } else { None };
            let added = score::apply::<V, S>(cta.params, tile.product_scale(cta, v), &mut s, at, tile.masked);
            // Behind key tiles that these rows do not see, the bias comes after a V: then the gate must be open for that.
            if self.o_over_v && v.has_bias_tiles() {
                self.open_gate();
            }
            self.add_bias(&mut s);
            if tile.masked {
                tile.hide(v, cta.params, &mut s);
            }
            observe(softmax, &s, added);
            // Summed as beside values: which work tiles begin like this depends on the batch, and the bits must not.
            let early = v.scores_beside_values().unwrap_or(0) as usize;
            softmax.exponentiate(&mut s, 0, early);
            softmax.exponentiate(&mut s, early, S);
            let p = tile.drop_weights(cta, v, pack_weights(v, &s));
            if self.o_over_v && !v.has_bias_tiles() {
                self.open_gate();
            }
            if tile.goes_on {
                cta.k.wait(self.k);
            }
            p
        }
    }

    /// The scores of a key tile, which has arrived, beside the product of the one before.
    #[inline(always)]
    unsafe fn step<const S: usize, const P_IN: usize, const P: usize, const O: usize>(
        &mut self,
        tile: ScoreTile,
        softmax: &mut Softmax,
        before: Progress<P_IN, O>,
    ) -> Progress<P, O>
    where
        InFlight<S>: Products<S>,
        InFlight<O>: Products<O>,
    {
        // SAFETY: the caller's.
        let (mut o, alpha, p) = unsafe { self.scores_and_values::<S, _, P, _>(tile, softmax, before) };
        if !self.v.promotes {
            rescale(&mut o, alpha);
        }
        Progress { o, p, alpha }
    }

    /// Computes at once the scores of a key tile, which has arrived, and the product of the one before, which may be
    /// the last of another work tile. Returns that one's O, the factors for what was accumulated under the maxima
    /// before these scores, and the probabilities.
    #[inline(always)]
    unsafe fn scores_and_values<const S: usize, const P_IN: usize, const P: usize, const O: usize>(
        &mut self,
        tile: ScoreTile,
        softmax: &mut Softmax,
        before: Progress<P_IN, O>,
    ) -> (Acc<O>, [f32; 2], [u32; P])
    where
        InFlight<S>: Products<S>,
        InFlight<O>: Products<O>,
    {
        let (cta, v) = (self.cta, self.v);
        let Progress { o, mut p, alpha: pending } = before;
        // SAFETY: the warpgroup is together; Q and this tile of K have arrived.
        unsafe {
            let sum = Acc(o.0);
            let mut o = if v.promotes { InFlight::none() } else { o.launch() };
            wgmma::hold(&mut p);
            self.turn.wait(v);
            wgmma::fence();
            let s: InFlight<S> = scores(v, tile.q, tile.keys_of(cta.k.slot(self.k)));
            wgmma::commit();
            let v_tile = self.wait_for_values();
            wgmma::fence(); // again: ptxas does not see the first one across the wait's loop
            weighted_values(v, &mut o, &p, v_tile);
            wgmma::commit();
            self.turn.pass(v);
            let mut s = s.wait::<1>();
            cta.k.release(&mut self.k);
            let take_values = |o: InFlight<O>, values: &mut Cursor| {
                let o = o.wait::<0>();
                cta.v.release(values);
                o
            };
            let at = if v.score.has_places() { Some(tile.place(cta, v)) } else { None };
            let added = score::apply::<V, S>(cta.params, tile.product_scale(cta, v), &mut s, at, tile.masked);
            self.add_bias(&mut s);
            if tile.masked {
                tile.hide(v, cta.params, &mut s);
            }
            let (o_done, alpha);
            match v.scores_beside_values() {
                None => {
                    o_done = take_values(o, &mut self.values);
                    alpha = observe(softmax, &s, added);
                    softmax.exponentiate(&mut s, 0, S);
                    if tile.goes_on {
                        cta.k.wait(self.k);
                    }
                }
                Some(early) => {
                    let early = early as usize;
                    alpha = observe(softmax, &s, added);
                    softmax.exponentiate(&mut s, 0, early);
                    s.hold();
                    // K of the next step, here of all places: its loop keeps ptxas from moving the wait for the
                    // values up to where the scores came, which would leave nothing to do beside them.
                    if tile.goes_on {
                        cta.k.wait(self.k);
                    }
                    o_done = take_values(o, &mut self.values);
                    softmax.exponentiate(&mut s, early, S);
                }
            }
            let o_done = if v.promotes { promoted(o_done, &sum, pending) } else { o_done };
            (o_done, alpha, tile.drop_weights(cta, v, pack_weights(v, &s)))
        }
    }

    /// The last product of a work tile, alone.
    #[inline(always)]
    unsafe fn end<const P: usize, const O: usize, const H: usize>(&mut self, scored: Scored<P, O>) -> Done<H>
    where
        InFlight<O>: Products<O>,
    {
        let Scored { tile, softmax, at, below } = scored;
        // SAFETY: the warpgroup is together.
        unsafe {
            let o = self.last_values(at);
            if self.v.is_general() {
                self.skip_both(below);
            }
            Done::new(self.cta, self.v, tile, o, &softmax)
        }
    }

    /// The last product alone: O, not yet divided.
    #[inline(always)]
    unsafe fn last_values<const P: usize, const O: usize>(&mut self, at: Progress<P, O>) -> Acc<O>
    where
        InFlight<O>: Products<O>,
    {
        let Progress { o, mut p, alpha } = at;
        // SAFETY: the warpgroup is together.
        unsafe {
            let sum = Acc(o.0);
            let mut o = if self.v.promotes { InFlight::none() } else { o.launch() };
            wgmma::hold(&mut p);
            let v_tile = self.wait_for_values();
            wgmma::fence();
            weighted_values(self.v, &mut o, &p, v_tile);
            wgmma::commit();
            let o = o.wait::<0>();
            self.cta.v.release(&mut self.values);
            if self.v.promotes { promoted(o, &sum, alpha) } else { o }
        }
    }

    /// This consumer's columns of the next tile of values, once that has arrived.
    #[inline(always)]
    unsafe fn wait_for_values(&self) -> SmemAddr {
        // SAFETY: the warpgroup is together.
        let tile = unsafe { self.cta.v.wait(self.values) };
        tile.offset(self.first_slab * self.v.v_tile().slab_bytes())
    }

    /// Starts to store it.
    #[inline(always)]
    unsafe fn store<const H: usize>(&mut self, done: &Done<H>) {
        // SAFETY: the warp is together.
        unsafe { store(self.cta, self.v, done.tile, &done.o, done.lse) };
        self.o_over_v = self.v.smem().o_over_v;
    }

    /// Where O is staged over V: the producers may load the V of this work tile as far as this warp goes, since what it
    /// staged before has been read. Once for each work tile of which keys are loaded.
    #[inline(always)]
    unsafe fn open_gate(&mut self) {
        if self.v.smem().o_over_v {
            // SAFETY: the warp is together.
            unsafe {
                if self.o_over_v {
                    tma::wait_read::<0>();
                    warp::sync_warp();
                }
                self.cta.o_read.arrive();
            }
            self.o_over_v = false;
        }
    }
}

/// Shows the softmax the scores of a tile.
#[inline(always)]
unsafe fn observe<const R: usize>(softmax: &mut Softmax, s: &Acc<R>, added: Option<[f32; 2]>) -> [f32; 2] {
    // SAFETY: the warp is together.
    unsafe {
        match added {
            Some(added) => softmax.observe_added(s, added),
            None => softmax.observe(s),
        }
    }
}

/// S = Q Kᵀ, both K-major in shared memory: 32 bytes of each row a product.
#[inline(always)]
unsafe fn scores<const R: usize>(v: &Variant, q: SmemAddr, k: SmemAddr) -> InFlight<R>
where
    InFlight<R>: Products<R>,
{
    let (q_tile, k_tile) = (v.q_tile(), v.k_tile());
    let q = SmemDesc::new(q, q_tile.swizzle, 0, q_tile.group_bytes());
    let k = SmemDesc::new(k, k_tile.swizzle, 0, k_tile.group_bytes());
    // SAFETY: the caller's: Q and K have arrived, and a fence went before.
    unsafe {
        let mut s = InFlight::start::<0, 0>(v.factor(), q, k);
        let mut byte = MMA_K_BYTES;
        while byte < v.head_dim * v.element_bytes() {
            s.mma_ss::<0, 0>(v.factor(), q.advance(q_tile.at(byte)), k.advance(k_tile.at(byte)));
            byte += MMA_K_BYTES;
        }
        s
    }
}

/// `o += P V`, or P V alone where sums are promoted; P from registers, as many keys as P has; V is MN-major, or K-major
/// where it lies transposed.
#[inline(always)]
unsafe fn weighted_values<const R: usize, const P: usize>(
    v: &Variant,
    o: &mut InFlight<R>,
    p: &[u32; P],
    v_tile: SmemAddr,
) where
    InFlight<R>: Products<R>,
{
    let tile = v.v_tile();
    let leading = if v.fp8.is_none() { tile.slab_bytes() } else { 0 };
    let desc = SmemDesc::new(v_tile, tile.swizzle, leading, tile.group_bytes());
    let mut i = 0;
    while i < P {
        let a = [p[i], p[i + 1], p[i + 2], p[i + 3]];
        let key = i as u32 / 4 * v.mma_k();
        // SAFETY: the caller's: V has arrived, and accumulator and P are fenced.
        unsafe {
            if v.fp8.is_none() {
                o.mma_rs::<1>(v.value_factor(), a, desc.advance(key * tile.row_bytes()));
            } else if v.promotes && i == 0 {
                *o = InFlight::start_rs::<0>(v.value_factor(), a, desc);
            } else {
                o.mma_rs::<0>(v.value_factor(), a, desc.advance(tile.at(key)));
            }
        }
        i += 4;
    }
}

/// Rounds probabilities to the element type of V, or of 8 bits to e4m3. The accumulator's layout is that of an A fragment,
/// register by register, or would be if keys were [permuted](fp8) as they are in V.
#[inline(always)]
fn pack_weights<const R: usize, const P: usize>(v: &Variant, s: &Acc<R>) -> [u32; P] {
    let mut p = [0; P];
    let mut i = 0;
    while i < P {
        p[i] = match v.value_factor() {
            Factor::Wide(dtype) => math::pack(dtype, s.0[2 * i], s.0[2 * i + 1]),
            Factor::Narrow(_) | Factor::Mixed => {
                // One row of the thread's two, of 16 keys.
                let at = 8 * (i / 2) + 2 * (i % 2);
                math::pack_x4(Fp8::E4m3, [s.0[at], s.0[at + 1], s.0[at + 4], s.0[at + 5]])
            }
        };
        i += 1;
    }
    p
}

/// Rounds O to the element type.
#[inline(always)]
fn pack<const R: usize, const H: usize>(v: &Variant, o: &Acc<R>) -> [u32; H] {
    let mut packed = [0; H];
    let mut i = 0;
    while i < H {
        packed[i] = math::pack(v.dtype, o.0[2 * i], o.0[2 * i + 1]);
        i += 1;
    }
    packed
}

/// Adds products to the sum of those before, which is rescaled.
#[inline(always)]
fn promoted<const R: usize>(products: Acc<R>, sum: &Acc<R>, factors: [f32; 2]) -> Acc<R> {
    let mut o = products;
    let mut i = 0;
    while i < R {
        o.0[i] = math::fma(sum.0[i], factors[i >> 1 & 1], o.0[i]);
        i += 1;
    }
    o
}

/// Probabilities of a short step as those of a whole one, from register `from` on: those of other keys are 0.
#[inline(always)]
fn among_zeros<const P: usize, const W: usize>(p: &[u32; P], from: usize) -> [u32; W] {
    // A zero of its own: one that is at hand already would be put in its place while a product still reads from there.
    let mut whole = [math::anew(0); W];
    let mut i = 0;
    while i < P {
        whole[from + i] = p[i];
        i += 1;
    }
    whole
}

/// Multiplies the two rows of a thread by their factors.
#[inline(always)]
fn rescale<const R: usize>(o: &mut Acc<R>, factors: [f32; 2]) {
    let mut i = 0;
    while i < R {
        o.0[i] = math::mul(o.0[i], factors[i >> 1 & 1]);
        i += 1;
    }
}

/// The 64 rows of a consumer in a work tile, by the first one's number in the head.
///
/// Where a thread stands among them is asked for where it matters, which is seldom: registers are short.
#[derive(Clone, Copy)]
struct Rows(u32);

/// Where a thread stands among the consumers of its work tile.
struct Place {
    /// First of the 16 rows of the thread's warp, counted through all consumers.
    warp_row: u32,
    lane: u32,
}

impl Place {
    #[inline(always)]
    fn here() -> Self {
        let thread = thread::thread_idx_x_anew() - WARPGROUP_THREADS;
        Place { warp_row: thread / 32 * WARP_ROWS, lane: thread % 32 }
    }
}

/// The row of the work tile that consumers' row `row` is: consumers that share rows have the same.
#[inline(always)]
fn row_in_tile(v: &Variant, row: u32) -> u32 {
    if v.consumers_share_rows() { row % WARPGROUP_ROWS } else { row }
}

/// Which slab of V and O is the first of consumer `consumer`'s columns.
#[inline(always)]
fn first_slab(v: &Variant, consumer: u32) -> u32 {
    if v.column_groups() > 1 { consumer * v.value_slabs() } else { 0 }
}

impl Rows {
    /// Keys of their last key tile, `n_block`, that any of them sees.
    #[inline(always)]
    fn last_keys(self, v: &Variant, params: &FwdParams, n_block: u32) -> u32 {
        let (q, kv) = (params.seqlen_q, params.seqlen_kv);
        let all = if v.is_causal() { kv.min(self.0 + WARPGROUP_ROWS + kv - q) } else { kv };
        all - n_block * v.tile.block_n
    }
}

impl ScoreTile {
    /// Where the keys that are scored lie in a slot of K.
    #[inline(always)]
    fn keys_of(&self, slot: SmemAddr) -> SmemAddr {
        slot.offset(self.skipped * SLAB_ROW_BYTES)
    }

    /// What products are multiplied with before they are capped.
    #[inline(always)]
    fn product_scale(&self, cta: &Cta, v: &Variant) -> f32 {
        if v.fp8.is_some() { self.product_scale } else { cta.params.general.product_scale }
    }

    /// Where the scores of this thread are.
    #[inline(always)]
    fn place(&self, cta: &Cta, v: &Variant) -> score::At {
        let Place { warp_row, lane } = Place::here();
        let row = self.rows.0 + warp_row % WARPGROUP_ROWS + lane / 4;
        let Lengths { q: queries, kv: keys, .. } = self.lengths;
        let heads = cta.params.heads_q.value * cta.params.general.packed_heads;
        let query = |row: u32| {
            let [head, index] = cta.head_and_query(self.tile, row);
            let index = index.min(queries - 1);
            let at = index as i32 + cta.params.general.band.diagonal(self.lengths);
            let (batch, head) = (self.tile.batch, head.min(heads - 1));
            Query { batch, head, index, at, queries, keys, dtype: v.dtype }
        };
        let slopes = if v.keeps_slopes() { self.slopes } else { cta.slopes_of_rows(v, self.tile, self.rows) };
        let first_key = self.n_block * v.tile.block_n + self.skipped + 2 * (lane % 4);
        score::At { queries: [query(row), query(row + 8)], first_key, masked: self.masked, slopes }
    }

    /// Hides the scores of keys that the two rows of this thread do not see.
    ///
    /// # Safety
    /// All lanes of the warp execute it together.
    #[inline(always)]
    unsafe fn hide<const R: usize>(&self, v: &Variant, params: &FwdParams, s: &mut Acc<R>) {
        let Place { warp_row, lane } = Place::here();
        let row = self.rows.0 + warp_row % WARPGROUP_ROWS + lane / 4;
        let (q, kv) = (self.lengths.q as i32, self.lengths.kv as i32);
        let column = (self.n_block * v.tile.block_n + self.skipped + 2 * (lane % 4)) as i32;
        if v.is_sparse() {
            let first = (self.n_block * v.tile.block_n) as i32;
            let end = first + v.tile.block_n as i32;
            let [[from_0, to_0], [from_1, to_1]] = self.keys;
            let sees_all = from_0.max(from_1) <= first && end <= to_0.min(to_1);
            // SAFETY: the caller's.
            if unsafe { warp::ballot(!sees_all) } != 0 {
                mask::apply_range(s, [from_0 - column, from_1 - column], [to_0 - column, to_1 - column]);
            }
        } else if v.is_general() {
            let general = &params.general;
            let keys = [row, row + 8].map(|row| general.band.keys(row >> general.pack, self.lengths));
            mask::apply_range(s, keys.map(|[first, _]| first - column), keys.map(|[_, end]| end - column));
        } else {
            let visible = [row, row + 8].map(|row| {
                if v.is_causal() { kv.min(row as i32 + 1 + kv - q) - column } else { kv - column }
            });
            mask::apply(s, visible);
        }
    }
}

impl ScoreTile {
    /// Leaves out probabilities of this thread, if the launch says so. Their sums have them all.
    ///
    /// Random numbers come for two groups of 16 keys at a time. A tile of an odd number of groups may begin with the
    /// second of two.
    #[inline(always)]
    fn drop_weights<const P: usize>(&self, cta: &Cta, v: &Variant, p: [u32; P]) -> [u32; P] {
        let Dropout { seed, offset, threshold, factor } = cta.params.general.dropout;
        if !v.drops_weights() || threshold == ALL_KEPT {
            return p;
        }
        let mut kept = p;
        let dropout =
            Dropout { seed: seed.map(math::anew), offset, threshold: math::anew(threshold), factor };
        let Place { warp_row, lane } = Place::here();
        let query = self.rows.0 + warp_row % WARPGROUP_ROWS + lane / 4;
        let head = math::anew(self.tile.batch) * cta.params.heads_q.value + math::anew(self.tile.head);
        let (groups, first) = (v.tile.block_n / MMA_K, self.n_block * v.tile.block_n);
        let random = |pair: u32| dropout.random(head, query, (first / 32 + pair) * 32 + 2 * (lane % 4));
        let begins_with_second = !groups.is_multiple_of(2) && !(first / MMA_K).is_multiple_of(2);
        let choose = |even: u32, odd: u32| if begins_with_second { odd } else { even };
        let mut group = 0;
        let mut now = random(0);
        while group < groups {
            let next = if group + 2 < groups { random(group / 2 + 1) } else { now };
            let words = [
                [choose(now[0], now[2]), choose(now[1], now[3])],
                [choose(now[2], next[0]), choose(now[3], next[1])],
            ];
            let mut i = 0;
            while i < 8 && group as usize + i / 4 < groups as usize {
                let dropped = dropout.dropped(words[i / 4][i % 2], i as u32 / 2 % 2);
                kept[4 * group as usize + i] &= !math::spread_signs(dropped);
                i += 1;
            }
            now = next;
            group += 2;
        }
        kept
    }
}

/// What consumers came to, each under its share of the keys, in shared memory: O in f32, not divided, and the maxima
/// and sums of the rows. Chunk i has the registers `4 * i ..` of all consumer threads, so that neighbours lie side by
/// side; the last one has maxima and sums.
#[derive(Clone, Copy)]
struct Part {
    at: SmemAddr,
    /// Bytes of a chunk of all threads.
    stride: u32,
}

impl Part {
    /// Bytes of a chunk of one thread.
    const CHUNK: u32 = 16;

    /// Where the first chunk of consumer thread `thread` lies.
    #[inline(always)]
    fn of(self, thread: u32) -> SmemAddr {
        self.at.offset(thread * Self::CHUNK)
    }

    /// Which of those that share a work tile this consumer is.
    #[inline(always)]
    fn share(v: &Variant) -> u32 {
        if !v.splits_keys() {
            return 0;
        }
        let rank = if v.split_ctas() > 1 { cluster::rank() } else { 0 };
        rank * v.key_groups() + Place::here().warp_row / WARPGROUP_ROWS
    }

    /// Leaves this thread's part for the others.
    #[inline(always)]
    unsafe fn write<const O: usize>(self, o: &Acc<O>, rows: &Partial) {
        let mut at = self.of(thread::thread_idx_x_anew() - WARPGROUP_THREADS);
        let mut i = 0;
        // SAFETY: these bytes are the thread's own, since K and V are read no more.
        unsafe {
            while i < O {
                at.store_x4([o.0[i], o.0[i + 1], o.0[i + 2], o.0[i + 3]]);
                at = at.offset(self.stride);
                i += 4;
            }
            at.store_x4([rows.max[0], rows.max[1], rows.sum[0], rows.sum[1]]);
        }
    }
}

/// Combines this consumer's share of the columns of O from what all that share the work tile came to, and stores it.
#[inline(always)]
unsafe fn combine<const O: usize, const H: usize>(cta: &Cta, v: &Variant) {
    let splits = v.tile.splits as usize;
    let Some(tile) = cta.tiles(v).next() else { return };
    let share = Part::share(v);
    // All have the same rows in the same registers.
    let in_group = (thread::thread_idx_x_anew() - WARPGROUP_THREADS) % WARPGROUP_THREADS;
    let load = |split: usize, chunk: u32| {
        let (rank, group) = (split as u32 / v.key_groups(), split as u32 % v.key_groups());
        let theirs = cta.part.of(group * WARPGROUP_THREADS + in_group);
        // An address in this CTA is one in the cluster, too.
        let mapped = if v.split_ctas() > 1 { cluster::map_shared(theirs, rank) } else { theirs.0 };
        // SAFETY: all parts were written before everybody met, and nobody overwrites them.
        unsafe { cluster::load_x4(mapped, chunk * cta.part.stride) }
    };
    // All loads first: each takes as long as all of them.
    let mut rows = [Partial::NO_KEYS; MAX_SPLITS as usize];
    let mut whole = Partial::NO_KEYS;
    let mut split = 0;
    while split < splits {
        let [max_0, max_1, sum_0, sum_1] = load(split, O as u32 / 4);
        rows[split] = Partial { max: [max_0, max_1], sum: [sum_0, sum_1] };
        whole.raise(&rows[split]);
        split += 1;
    }
    let mut parts = Acc::<O>::zeros();
    let chunks = O / 4 / splits;
    let mut i = 0;
    while i < O / 4 {
        let chunk = load(i / chunks, share * chunks as u32 + (i % chunks) as u32);
        let mut r = 0;
        while r < 4 {
            parts.0[4 * i + r] = chunk[r];
            r += 1;
        }
        i += 1;
    }
    let mut o = Acc::<O>::zeros();
    let mut split = 0;
    while split < splits {
        let weight = rows[split].weight(whole.max);
        let mut row = 0;
        while row < 2 {
            whole.sum[row] = math::fma(weight[row], rows[split].sum[row], whole.sum[row]);
            row += 1;
        }
        let mut i = 0;
        while i < 4 * chunks {
            o.0[i] = math::fma(weight[i >> 1 & 1], parts.0[4 * chunks * split + i], o.0[i]);
            i += 1;
        }
        split += 1;
    }
    // SAFETY: the warp is together.
    unsafe {
        let done: Done<H> = Done::divided(v, tile, o, whole.finish());
        store(cta, v, tile, &done.o, done.lse);
        tma::wait_read::<0>(); // shared memory must outlive the store
    }
}

/// The epilogue of a warp: O / l to shared memory, from there by TMA (which clips what lies outside of the tensor),
/// and the log-sum-exp directly.
#[inline(always)]
unsafe fn store<const H: usize>(cta: &Cta, v: &Variant, tile: WorkTile, o: &[u32; H], lse: [f32; 2]) {
    let p = cta.params;
    let Place { warp_row, lane } = Place::here();
    let row_in_head = tile.m_block * v.tile.block_m + row_in_tile(v, warp_row);
    // Where consumers share rows, each has a share of the columns, and one the log-sum-exp.
    let (share, first_slab) = (Part::share(v), first_slab(v, warp_row / WARPGROUP_ROWS));
    // SAFETY: the warp is together. Its 16 rows of the staging area are its own: nobody else touches them, and its
    // last store from there has been read before it writes again. Where they lie over V, all consumers have read its
    // slots, and the producers load the next V only once the gate opens.
    unsafe {
        tma::wait_read::<0>();
        if v.smem().o_over_v {
            meet(v); // V is read no more once all consumers have waited for their last product
        } else {
            warp::sync_warp();
        }
        // Lane l writes row l % 16, the chunk of 8 columns l / 16 of every 16; chunks are swizzled by the row.
        let box_columns = v.o_box_columns();
        let row_bytes = box_columns * Dtype::SIZE;
        let box_bytes = v.tile.block_m * row_bytes;
        let staged_row = if v.column_groups() > 1 { row_in_tile(v, warp_row) } else { warp_row };
        let staged = cta.o.offset(first_slab * box_bytes + staged_row * row_bytes);
        let row = lane % WARP_ROWS;
        let at_row = v.o_swizzle().apply(row * row_bytes + lane / WARP_ROWS * 16);
        let mut i = 0;
        while i < H / v.tile.splits as usize {
            let column = 4 * i as u32;
            let (slab, within) = (column / box_columns, column % box_columns * Dtype::SIZE);
            let at = staged.offset(slab * box_bytes + (at_row ^ within));
            matrix::store_x4(at, [o[i], o[i + 1], o[i + 2], o[i + 3]]);
            i += 4;
        }
        tma::fence_async_shared();
        warp::sync_warp();
        let general = &p.general;
        let rows = if v.is_general() { tile.q.len << general.pack } else { p.seqlen_q };
        if warp::elect_one() && row_in_head < rows {
            let mut slab = 0;
            while slab < if v.splits_keys() { 1 } else { v.value_slabs() } {
                let column = box_columns * if v.splits_keys() { share } else { first_slab + slab };
                let from = staged.offset(slab * box_bytes);
                if v.is_general() {
                    let packed = row_in_head & ((1 << general.pack) - 1);
                    let query = row_in_head >> general.pack;
                    let [row, end, turn] =
                        general.o.coordinates(tile.batch, tile.head, tile.q.start, tile.q.len, query);
                    tma::store_5d(cta.maps.o, from, [column, packed, row, end, turn].map(|c| c as i32));
                } else {
                    let at = [column, row_in_head, tile.head, tile.batch].map(|c| c as i32);
                    tma::store_4d(cta.maps.o, from, at);
                }
                slab += 1;
            }
            tma::commit();
        }
        if v.is_general() {
            if first_slab == 0 && p.lse != 0 && lane % 4 == 0 {
                let mut r = 0;
                while r < 2 {
                    let row = row_in_head + lane / 4 + 8 * r as u32;
                    let [head, query] = cta.head_and_query(tile, row);
                    let pads = row & ((1 << general.pack) - 1) >= general.packed_heads;
                    if row < rows && !pads {
                        let at = tile.batch as u64 * general.lse_batch
                            + head as u64 * general.lse_head
                            + (tile.q.start + query) as u64;
                        *(p.lse as *mut f32).add(at as usize) = lse[r];
                    }
                    r += 1;
                }
            }
        } else if p.lse != 0 && share == 0 && lane % 4 == 0 {
            let head = (tile.batch * p.heads_q.value + tile.head) as u64;
            let mut r = 0;
            while r < 2 {
                let row = row_in_head + lane / 4 + 8 * r as u32;
                if row < p.seqlen_q {
                    *(p.lse as *mut f32).add((head * p.seqlen_q as u64 + row as u64) as usize) = lse[r];
                }
                r += 1;
            }
        }
        warp::sync_warp(); // lanes part above; they take the next tile together
    }
}
