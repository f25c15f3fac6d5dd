//! O = softmax(scale Q Kᵀ) V for one head at a time, after FlashAttention-3 (Shah et al. 2024).
//!
//! A CTA is responsible for `block_m` rows of Q of one head, and takes such work tiles from
//! [`Schedule`](crate::schedule::Schedule) until none is left. It has one producer warpgroup, of which one thread
//! issues TMA loads, and two or three consumer warpgroups, each of which owns 64 of the rows:
//!
//! ```text
//! producer   K₀ Q  K₁ V₀ K₂ V₁ …                     rings of slots for Q, K and V
//! consumer   S = Q K₀ᵀ;  P = softmax(S)
//!            loop j:   start S' = Q Kⱼᵀ              tensor cores ┐ asynchronous
//!                      start O += P Vⱼ₋₁             tensor cores ┘
//!                      wait S';  P' = softmax(S')    while P Vⱼ₋₁ still multiplies
//!                      wait O;   O *= alpha;  P = P'
//!            O += P V;  O /= l;  store
//! ```
//!
//! Two things hide the softmax behind the tensor cores: inside a warpgroup the softmax of step j runs beside the
//! product of step j - 1, and between warpgroups a baton of named barriers (*ping-pong*) lets one issue its products
//! while the other computes its softmax. docs/attention_fwd.md draws the timeline and gives the budgets.
//!
//! Keys are visited from the last tile to the first, so that the tiles that need a mask come first and the steady
//! loop has none.

use crate::config::{Dtype, MMA_K, Spec, Variant, WARPGROUP_ROWS, WARPGROUP_THREADS};
use crate::layout::{SLAB_COLUMNS, SLAB_ROW_BYTES, SWIZZLE_ATOM_BYTES, Swizzle};
use crate::mask;
use crate::params::FwdParams;
use crate::pipeline::{Cursor, Ring};
use crate::ptx::math;
use crate::ptx::mbarrier;
use crate::ptx::smem::SmemAddr;
use crate::ptx::tma::{self, CacheHint, TensorMapRef};
use crate::ptx::warp;
use crate::ptx::wgmma::{self, Acc, InFlight, Products, SmemDesc};
use crate::ptx::{cluster, matrix, thread};
use crate::schedule::{KeyBlocks, Schedule, WorkTile};
use crate::softmax::{Finished, Softmax};

/// The tensor maps of a launch, boxes (64, block_m), (64, block_n), (64, block_n) and (64, 16) of
/// (head_dim, seqlen, heads, batch).
pub struct Maps {
    /// Q
    pub q: TensorMapRef,
    /// K
    pub k: TensorMapRef,
    /// V
    pub v: TensorMapRef,
    /// O
    pub o: TensorMapRef,
}

/// Named barriers. Barrier 0 is the whole CTA's.
#[repr(u32)]
enum NamedBarrier {
    Cta = 0,
    /// The turn of consumer 0; those of the others follow.
    Turn = 1,
    /// The warps of consumer 0 among themselves; those of the others follow.
    Warpgroup = 4,
}

/// Rows of O that a warp stores on its own.
const WARP_ROWS: u32 = 16;

/// What every role of a CTA knows.
struct Cta<'a> {
    maps: Maps,
    params: &'a FwdParams,
    schedule: Schedule,
    q: Ring,
    k: Ring,
    v: Ring,
    o: SmemAddr,
}

/// The kernel. `S_REGS`, `P_REGS` and `O_REGS` are the registers of the fragments S, P and O of a thread; they follow
/// from `S`, but Rust wants them as parameters.
///
/// # Safety
/// See the entry points in [`entry`](crate::entry).
#[inline(always)]
pub unsafe fn attention_fwd<S: Spec, const S_REGS: usize, const P_REGS: usize, const O_REGS: usize>(
    maps: Maps,
    params: &FwdParams,
) where
    InFlight<S_REGS>: Products<S_REGS>,
    InFlight<O_REGS>: Products<O_REGS>,
{
    let v = &S::VARIANT;
    let smem = v.smem();
    let base = SmemAddr::base();
    let cta = Cta {
        schedule: Schedule::new(params, v.causal, thread::grid_dim_x()),
        q: Ring::q(base, &smem),
        k: Ring::k(base, &smem, v.tile.cluster),
        v: Ring::v(base, &smem, v.tile.cluster),
        o: base.offset(smem.o),
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
            cta.k.init(v.consumers());
            cta.v.init(v.consumers());
            mbarrier::fence_init();
        }
        if v.tile.cluster == 1 {
            warp::barrier_sync(NamedBarrier::Cta as u32, v.threads());
        } else {
            sync_cluster();
        }
        let (producer_registers, consumer_registers) = v.role_registers();
        if warpgroup == 0 {
            warp::shrink_registers(producer_registers);
            if warp::broadcast(thread / 32) == 0 {
                produce::<S>(&cta, warp::elect_one());
            }
        } else {
            warp::grow_registers(consumer_registers);
            consume::<S, S_REGS, P_REGS, O_REGS>(&cta, warpgroup - 1, thread % WARPGROUP_THREADS);
        }
        if v.tile.cluster > 1 {
            warp::sync_warp();
            sync_cluster(); // shared memory must outlive the last arrival from another CTA
        }
    }
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
    /// The key blocks of a work tile.
    #[inline(always)]
    fn key_blocks(&self, v: &Variant, tile: WorkTile) -> KeyBlocks {
        let p = self.params;
        KeyBlocks::new(tile.m_block, v.tile.block_m, v.tile.block_n, p.seqlen_q, p.seqlen_kv, v.causal)
    }
}

/// The producer: a warp that keeps the rings filled. The whole warp walks along, so that what it computes is uniform
/// and needs few registers; its `leader` alone touches barriers and issues loads.
#[inline(always)]
unsafe fn produce<S: Spec>(cta: &Cta, leader: bool) {
    let v = &S::VARIANT;
    // SAFETY: the tensor maps are kernel parameters; every acquired slot is filled by exactly its bytes.
    unsafe {
        if leader {
            tma::prefetch_map(cta.maps.q);
            tma::prefetch_map(cta.maps.k);
            tma::prefetch_map(cta.maps.v);
            tma::prefetch_map(cta.maps.o);
        }
        let (mut q_at, mut k_at, mut v_at) = (Cursor::PRODUCER, Cursor::PRODUCER, Cursor::PRODUCER);
        let mut round = 0;
        while round < cta.schedule.rounds() {
            let tile = cta.schedule.tile(round, thread::block_idx_x());
            round += 1;
            let Some(tile) = tile else { continue };
            let blocks = cta.key_blocks(v, tile);
            let load = |ring: &Ring, cursor: &mut Cursor, map, n_block: u32| {
                let (slot, full) = ring.acquire(cursor, leader);
                if leader {
                    let at = [n_block * v.tile.block_n, tile.head_kv, tile.batch];
                    load_tile(v, slot, map, full, v.tile.block_n, v.tile.cluster, at, CacheHint::Last);
                }
            };
            // K₀ Q  K₁ V₀  K₂ V₁ ... V: the order in which the consumers free the slots, so that no load waits behind one
            // whose slot comes free later. Q is loaded also for rows that see no key: where O is staged over Q, the
            // slot is what its store needs.
            let mut n_block = blocks.end;
            loop {
                if n_block > 0 {
                    load(&cta.k, &mut k_at, cta.maps.k, n_block - 1);
                }
                if n_block < blocks.end {
                    load(&cta.v, &mut v_at, cta.maps.v, n_block);
                } else {
                    let (slot, full) = cta.q.acquire(&mut q_at, leader);
                    if leader {
                        let at = [tile.m_block * v.tile.block_m, tile.head, tile.batch];
                        load_tile(v, slot, cta.maps.q, full, v.tile.block_m, 1, at, CacheHint::First);
                    }
                }
                if n_block == 0 {
                    break;
                }
                n_block -= 1;
            }
        }
    }
}

/// Loads a tile of `rows` rows as slabs of 64 columns. `at` is (row, head, batch). `ctas` CTAs share the work: each
/// loads an equal part of the rows into all of them.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a copy has a source, a destination and a size")]
unsafe fn load_tile(
    v: &Variant,
    dst: SmemAddr,
    map: TensorMapRef,
    full: mbarrier::MBarrier,
    rows: u32,
    ctas: u32,
    at: [u32; 3],
    hint: CacheHint,
) {
    let first = if ctas == 1 { 0 } else { cluster::rank() * (rows / ctas) };
    let all = (1 << ctas) - 1;
    let mut slab = 0;
    while slab < v.head_dim / SLAB_COLUMNS {
        let dst = dst.offset((slab * rows + first) * SLAB_ROW_BYTES);
        let coordinates = [slab * SLAB_COLUMNS, at[0] + first, at[1], at[2]].map(|c| c as i32);
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

/// A consumer warpgroup: the rows `64 * consumer ..` of every work tile.
#[inline(always)]
unsafe fn consume<S: Spec, const S_REGS: usize, const P_REGS: usize, const O_REGS: usize>(
    cta: &Cta,
    consumer: u32,
    thread: u32,
) where
    InFlight<S_REGS>: Products<S_REGS>,
    InFlight<O_REGS>: Products<O_REGS>,
{
    let v = &S::VARIANT;
    let turn = Turn {
        mine: NamedBarrier::Turn as u32 + consumer,
        next: NamedBarrier::Turn as u32 + if consumer + 1 == v.consumers() { 0 } else { consumer + 1 },
    };
    // SAFETY: the warpgroup goes through all of this together: what it branches on is the same in all its threads.
    // Consumers take the same number of turns, so the baton comes back to where it started.
    unsafe {
        if consumer + 1 == v.consumers() {
            turn.pass(v); // the first consumer begins
        }
        let (mut q_at, mut k_at, mut v_at) = (Cursor::CONSUMER, Cursor::CONSUMER, Cursor::CONSUMER);
        let mut round = 0;
        while round < cta.schedule.rounds() {
            let tile = cta.schedule.tile(round, thread::block_idx_x());
            round += 1;
            let Some(tile) = tile else { continue };
            let rows = Rows::new(v, cta.params, tile, consumer, thread);
            let blocks = cta.key_blocks(v, tile);
            let mut softmax = Softmax::new(cta.params.scale_log2);
            let mut o = Acc::<O_REGS>::zeros();
            let mut finished = Finished::NO_KEYS;
            let o_over_q = v.smem().o_over_q;
            if blocks.end > 0 {
                // The last key tile: scores only.
                let mut n_block = blocks.end - 1;
                let q = cta.q.wait(q_at).offset(consumer * WARPGROUP_ROWS * SLAB_ROW_BYTES);
                let k = cta.k.wait(k_at);
                wgmma::fence();
                let s: InFlight<S_REGS> = scores(v, q, k);
                wgmma::commit();
                let mut s = s.wait::<0>();
                cta.k.release(&mut k_at);
                if n_block >= blocks.full {
                    mask::apply(&mut s, rows.visible(v, n_block));
                }
                softmax.update(&mut s);
                let mut p: [u32; P_REGS] = pack(v, &s);

                // Scores of a tile beside the product of the tile before: those with a mask, then those without.
                while n_block > 0 {
                    n_block -= 1;
                    let mut o_next = o.launch();
                    wgmma::hold(&mut p);
                    let k = cta.k.wait(k_at);
                    turn.wait(v);
                    wgmma::fence();
                    let s: InFlight<S_REGS> = scores(v, q, k);
                    wgmma::commit();
                    let v_tile = cta.v.wait(v_at);
                    wgmma::fence(); // again: ptxas does not see the first one across the wait's loop
                    weighted_values(v, &mut o_next, &p, v_tile);
                    wgmma::commit();
                    turn.pass(v);
                    let mut s = s.wait::<1>();
                    cta.k.release(&mut k_at);
                    if v.causal && n_block >= blocks.full {
                        mask::apply(&mut s, rows.visible(v, n_block));
                    }
                    let alpha = softmax.update(&mut s);
                    o = o_next.wait::<0>();
                    cta.v.release(&mut v_at);
                    p = pack(v, &s);
                    rescale(&mut o, alpha);
                }
                if !o_over_q {
                    cta.q.release(&mut q_at);
                }

                // The product of the first key tile; the sums of the rows meanwhile.
                let mut o_last = o.launch();
                wgmma::hold(&mut p);
                let v_tile = cta.v.wait(v_at);
                wgmma::fence();
                weighted_values(v, &mut o_last, &p, v_tile);
                wgmma::commit();
                finished = softmax.finish();
                o = o_last.wait::<0>();
                cta.v.release(&mut v_at);
            } else {
                cta.q.wait(q_at);
                if !o_over_q {
                    cta.q.release(&mut q_at);
                }
            }
            store(cta, v, &rows, tile, o, finished);
            if o_over_q {
                tma::wait_read::<0>();
                warp::sync_warp();
                cta.q.release(&mut q_at);
            }
        }
        if consumer == 0 {
            turn.wait(v); // the baton is back
        }
        if !v.smem().o_over_q {
            tma::wait_read::<0>(); // shared memory must outlive the last store
        }
    }
}

/// S = Q Kᵀ, both K-major in shared memory: 16 columns of head_dim a product.
#[inline(always)]
unsafe fn scores<const R: usize>(v: &Variant, q: SmemAddr, k: SmemAddr) -> InFlight<R>
where
    InFlight<R>: Products<R>,
{
    let q = SmemDesc::new(q, Swizzle::B128, 0, SWIZZLE_ATOM_BYTES);
    let k = SmemDesc::new(k, Swizzle::B128, 0, SWIZZLE_ATOM_BYTES);
    // SAFETY: the caller's: Q and K have arrived, and a fence went before.
    unsafe {
        let mut s = InFlight::start::<0, 0>(v.dtype, q, k);
        let mut column = MMA_K;
        while column < v.head_dim {
            let (slab, within) = (column / SLAB_COLUMNS, column % SLAB_COLUMNS * Dtype::SIZE);
            let a = q.advance(slab * v.tile.block_m * SLAB_ROW_BYTES + within);
            let b = k.advance(slab * v.tile.block_n * SLAB_ROW_BYTES + within);
            s.mma_ss::<0, 0>(v.dtype, a, b);
            column += MMA_K;
        }
        s
    }
}

/// O += P V, P from registers, V MN-major: 16 keys a product.
#[inline(always)]
unsafe fn weighted_values<const R: usize, const P: usize>(
    v: &Variant,
    o: &mut InFlight<R>,
    p: &[u32; P],
    v_tile: SmemAddr,
) where
    InFlight<R>: Products<R>,
{
    let v_tile = SmemDesc::new(v_tile, Swizzle::B128, v.tile.block_n * SLAB_ROW_BYTES, SWIZZLE_ATOM_BYTES);
    let mut key = 0;
    while key < v.tile.block_n {
        let i = key as usize / 4;
        let a = [p[i], p[i + 1], p[i + 2], p[i + 3]];
        // SAFETY: the caller's: V has arrived, and accumulator and P are fenced.
        unsafe { o.mma_rs::<1>(v.dtype, a, v_tile.advance(key * SLAB_ROW_BYTES)) };
        key += MMA_K;
    }
}

/// Rounds probabilities to the element type. The accumulator's layout is that of an A fragment, register by register.
#[inline(always)]
fn pack<const R: usize, const P: usize>(v: &Variant, s: &Acc<R>) -> [u32; P] {
    let mut p = [0; P];
    let mut i = 0;
    while i < P {
        p[i] = math::pack(v.dtype, s.0[2 * i], s.0[2 * i + 1]);
        i += 1;
    }
    p
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

/// Which rows and columns a thread of a consumer holds, in a work tile.
struct Rows {
    /// First of the 16 rows of the thread's warp, in the tile.
    in_tile: u32,
    /// The same, in the head.
    warp_row: u32,
    lane: u32,
    /// Keys that the thread's two rows see.
    limits: [i32; 2],
}

impl Rows {
    #[inline(always)]
    fn new(v: &Variant, params: &FwdParams, tile: WorkTile, consumer: u32, thread: u32) -> Self {
        let in_tile = consumer * WARPGROUP_ROWS + thread / 32 * WARP_ROWS;
        let warp_row = tile.m_block * v.tile.block_m + in_tile;
        let lane = thread % 32;
        let seqlen_kv = params.seqlen_kv as i32;
        let limit = |row: u32| {
            let diagonal = seqlen_kv - params.seqlen_q as i32;
            if v.causal { seqlen_kv.min(row as i32 + 1 + diagonal) } else { seqlen_kv }
        };
        let row = warp_row + lane / 4;
        Rows { in_tile, warp_row, lane, limits: [limit(row), limit(row + 8)] }
    }

    /// Keys of key tile `n_block` that the two rows see, counted from the thread's first column.
    #[inline(always)]
    fn visible(&self, v: &Variant, n_block: u32) -> [i32; 2] {
        let first = (n_block * v.tile.block_n + 2 * (self.lane % 4)) as i32;
        [self.limits[0] - first, self.limits[1] - first]
    }
}

/// The epilogue of a warp: O / l to shared memory, from there by TMA (which clips what lies outside of the tensor),
/// and the log-sum-exp directly.
#[inline(always)]
unsafe fn store<const R: usize>(
    cta: &Cta,
    v: &Variant,
    rows: &Rows,
    tile: WorkTile,
    mut o: Acc<R>,
    finished: Finished,
) {
    let p = cta.params;
    // SAFETY: the warp is together. Its 16 rows of the staging area are its own: nobody else touches them, and its
    // last store from there has been read before it writes again. Where they are rows of Q, the consumers have the
    // slot, and the warpgroup waited for its products with them.
    unsafe {
        // A row without keys is zero whatever V holds: 0 times infinity would not be.
        let has_keys = finished.inverse_sum.map(math::mask_of_nonzero);
        let mut i = 0;
        while i < R {
            let row = i >> 1 & 1;
            let quotient = math::mul(o.0[i], finished.inverse_sum[row]);
            o.0[i] = f32::from_bits(quotient.to_bits() & has_keys[row]);
            i += 1;
        }
        if v.smem().o_over_q {
            // Q is read no more once all warps of the warpgroup have waited for their last product.
            let consumer = rows.in_tile / WARPGROUP_ROWS;
            warp::barrier_sync(NamedBarrier::Warpgroup as u32 + consumer, WARPGROUP_THREADS);
        } else {
            tma::wait_read::<0>();
            warp::sync_warp();
        }
        // Lane l writes row l % 16, the chunk of 8 columns l / 16 of every 16; chunks are swizzled by the row.
        let slab_bytes = v.tile.block_m * SLAB_ROW_BYTES;
        let staged = cta.o.offset(rows.in_tile * SLAB_ROW_BYTES);
        let row = rows.lane % WARP_ROWS;
        let chunk = (rows.lane / WARP_ROWS) ^ (row % 8);
        let mut i = 0;
        while i < R {
            let column = 2 * i as u32;
            let (slab, pair) = (column / SLAB_COLUMNS, column % SLAB_COLUMNS / 8);
            let at = staged.offset(slab * slab_bytes + row * SLAB_ROW_BYTES + ((chunk ^ pair) << 4));
            let m = |j: usize| math::pack(v.dtype, o.0[i + 2 * j], o.0[i + 2 * j + 1]);
            matrix::store_x4(at, [m(0), m(1), m(2), m(3)]);
            i += 8;
        }
        tma::fence_async_shared();
        warp::sync_warp();
        if warp::elect_one() && rows.warp_row < p.seqlen_q {
            let mut slab = 0;
            while slab < v.head_dim / SLAB_COLUMNS {
                let at = [slab * SLAB_COLUMNS, rows.warp_row, tile.head, tile.batch].map(|c| c as i32);
                tma::store_4d(cta.maps.o, staged.offset(slab * slab_bytes), at);
                slab += 1;
            }
            tma::commit();
        }
        if p.lse != 0 && rows.lane % 4 == 0 {
            let head = (tile.batch * p.heads_q + tile.head) as u64;
            let mut r = 0;
            while r < 2 {
                let row = rows.warp_row + rows.lane / 4 + 8 * r as u32;
                if row < p.seqlen_q {
                    *(p.lse as *mut f32).add((head * p.seqlen_q as u64 + row as u64) as usize) =
                        finished.lse[r];
                }
                r += 1;
            }
        }
    }
}
