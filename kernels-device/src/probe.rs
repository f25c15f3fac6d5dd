//! Micro-kernels, one for each primitive of `ptx`: they run it once on raw bytes and write raw bytes, so
//! that a test can compare the hardware with a plain model of it. Not part of the product.
//!
//! Every probe has the same parameters: a tensor map (of no meaning to some), and [`ProbeArgs`]. Only [`SEARCH`] has
//! those of a forward kernel.

use crate::config::SMEM_LIMIT;
use crate::entry::{Entry, lengths_at};

/// Arguments of a probe. What the words mean is said at each probe.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeArgs {
    /// Device address of the input.
    pub input: u64,
    /// Device address of the output.
    pub output: u64,
    /// A 64-bit word: high bits of the smem descriptor of A.
    pub desc_a: u64,
    /// A 64-bit word: high bits of the smem descriptor of B.
    pub desc_b: u64,
    /// Bytes of shared memory in play.
    pub bytes: u32,
    /// Further words: coordinates, offsets, counts.
    pub words: [i32; 5],
}

const _: () = assert!(size_of::<ProbeArgs>() == 56);

/// Bytes of shared memory of every probe.
pub const PROBE_SMEM: u32 = 128 * 1024;
/// Where probes keep their mbarriers, behind the data.
pub const PROBE_BARRIERS: u32 = PROBE_SMEM - 64;

const _: () = assert!(PROBE_SMEM <= SMEM_LIMIT);

const fn probe(symbol: &'static str, threads: u32, cluster: u32) -> Entry {
    Entry {
        symbol,
        threads,
        cluster,
        min_ctas: 1,
        smem_bytes: PROBE_SMEM,
        max_registers: 255,
        spill_limit: 0,
        public_pointers: &[],
        takes_tickets: false,
        opcodes: None,
    }
}

/// Every probe, as the builder sees it.
pub const PROBES: &[Entry] = &[
    probe("probe_wgmma_ss_kk_f16", 128, 1),
    probe("probe_wgmma_ss_kk_bf16", 128, 1),
    probe("probe_wgmma_ss_km_f16", 128, 1),
    probe("probe_wgmma_ss_km_bf16", 128, 1),
    probe("probe_wgmma_ss_mk_f16", 128, 1),
    probe("probe_wgmma_ss_mk_bf16", 128, 1),
    probe("probe_wgmma_rs_n64_f16", 128, 1),
    probe("probe_wgmma_rs_n64_bf16", 128, 1),
    probe("probe_wgmma_rs_n80_f16", 128, 1),
    probe("probe_wgmma_rs_n80_bf16", 128, 1),
    probe("probe_wgmma_rs_n128_f16", 128, 1),
    probe("probe_wgmma_rs_n128_bf16", 128, 1),
    probe("probe_wgmma_rs_n160_f16", 128, 1),
    probe("probe_wgmma_rs_n160_bf16", 128, 1),
    probe("probe_wgmma_rs_n256_f16", 128, 1),
    probe("probe_wgmma_rs_n256_bf16", 128, 1),
    probe("probe_tma_load_2d", 32, 1),
    probe("probe_tma_load_3d", 32, 1),
    probe("probe_tma_load_4d", 32, 1),
    probe("probe_tma_load_5d", 32, 1),
    probe("probe_tma_store_2d", 32, 1),
    probe("probe_tma_store_3d", 32, 1),
    probe("probe_tma_store_4d", 32, 1),
    probe("probe_tma_store_5d", 32, 1),
    probe("probe_tma_multicast", 32, 2),
    probe("probe_matrix_store", 32, 1),
    probe("probe_matrix_load", 32, 1),
    probe("probe_mbarrier", 32, 1),
    probe("probe_warp", 256, 1),
    probe("probe_registers", 384, 1),
    probe("probe_math", 32, 1),
    SEARCH,
];

/// The search for the work of each CTA. Its parameters are [`FwdParams`](crate::params::FwdParams) and the address of
/// four words for each CTA: head and tile of the first place of its team, how many tiles it has, and 0.
pub const SEARCH: Entry = {
    const LENGTHS: &[u32] = &lengths_at(0);
    Entry { public_pointers: LENGTHS, ..probe("probe_search", 32, 1) }
};
/// Rows of a tile there.
pub const SEARCH_BLOCK_M: u32 = 128;

#[cfg(target_arch = "nvptx64")]
mod kernels {
    use super::{PROBE_BARRIERS, ProbeArgs, SEARCH_BLOCK_M};
    use crate::config::{Dtype, Factor};
    use crate::params::{FwdParams, TensorMap};
    use crate::ptx::mbarrier::{self, MBarrier};
    use crate::ptx::smem::SmemAddr;
    use crate::ptx::tma::{self, CacheHint};
    use crate::ptx::wgmma::{self, Acc, InFlight, Products, SmemDesc};
    use crate::ptx::{cluster, global, math, matrix, thread, warp};
    use crate::search;

    /// Entry point of [`SEARCH`](super::SEARCH).
    ///
    /// # Safety
    /// The addresses in the parameters are those of arrays for as many sequences; the output has four words for each
    /// CTA.
    #[unsafe(no_mangle)]
    unsafe extern "ptx-kernel" fn probe_search(params: FwdParams, output: u64) {
        // SAFETY: the caller's; there is one warp, all of which is here.
        unsafe {
            let (first, tiles) = search::bundle(&params, SEARCH_BLOCK_M);
            let words = [first.head, first.tile, tiles, 0];
            let lane = thread::thread_idx_x();
            if lane == 0 {
                global::store_x4(output + 16 * u64::from(thread::block_idx_x()), words);
            }
        }
    }

    /// Word `i` of the input.
    unsafe fn input(args: &ProbeArgs, i: u32) -> u32 {
        // SAFETY: the test allocated it.
        unsafe { *(args.input as *const u32).add(i as usize) }
    }

    /// Writes word `i` of the output.
    unsafe fn output(args: &ProbeArgs, i: u32, value: u32) {
        // SAFETY: the test allocated it, and no other thread writes this word.
        unsafe { *(args.output as *mut u32).add(i as usize) = value }
    }

    /// Copies the first `bytes` of the input to shared memory, by ordinary stores that the async proxy then sees.
    #[inline(always)]
    unsafe fn fill(args: &ProbeArgs, threads: u32) {
        let mut i = thread::thread_idx_x();
        while i < args.bytes / 4 {
            // SAFETY: in bounds, each word written by one thread.
            unsafe { SmemAddr::base().offset(4 * i).store_u32(input(args, i)) };
            i += threads;
        }
        tma::fence_async_shared();
    }

    /// Copies the first `bytes` of shared memory to the output, `at` words in.
    #[inline(always)]
    unsafe fn dump(args: &ProbeArgs, at: u32, threads: u32) {
        let mut i = thread::thread_idx_x();
        while i < args.bytes / 4 {
            // SAFETY: in bounds; every write of them has completed.
            unsafe { output(args, at + i, SmemAddr::base().offset(4 * i).load_u32()) };
            i += threads;
        }
    }

    /// The descriptor whose fields but the start address are `high`, for the operand `offset` bytes into the image.
    fn descriptor(high: u64, offset: i32) -> SmemDesc {
        SmemDesc(high | ((SmemAddr::base().0 + offset as u32) >> 4) as u64)
    }

    /// Writes register r of thread t to word `128 * r + t`.
    #[inline(always)]
    unsafe fn dump_accumulator<const R: usize>(args: &ProbeArgs, acc: &Acc<R>) {
        let mut r = 0;
        while r < R {
            // SAFETY: in bounds.
            unsafe { output(args, 128 * r as u32 + thread::thread_idx_x(), acc.0[r].to_bits()) };
            r += 1;
        }
    }

    /// D = A Bᵀ, m64n64k16. Input: the image of shared memory. Words 0 and 1: offsets of A and B in it.
    #[inline(always)]
    unsafe fn wgmma_ss<const TRANS_A: u32, const TRANS_B: u32>(args: &ProbeArgs, dtype: Dtype) {
        // SAFETY: one warpgroup, together.
        unsafe {
            fill(args, 128);
            warp::barrier_sync(0, 128);
            let a = descriptor(args.desc_a, args.words[0]);
            let b = descriptor(args.desc_b, args.words[1]);
            wgmma::fence();
            let d: InFlight<32> = InFlight::start::<TRANS_A, TRANS_B>(Factor::Wide(dtype), a, b);
            wgmma::commit();
            dump_accumulator(args, &d.wait::<0>());
        }
    }

    /// D = 1 + A Bᵀ, m64nNk16, A from registers. Input: the image of B (K-major), then, `words[0]` words in, register r
    /// of thread t of A at word `128 * r + t`.
    #[inline(always)]
    unsafe fn wgmma_rs<const R: usize>(args: &ProbeArgs, dtype: Dtype)
    where
        InFlight<R>: Products<R>,
    {
        // SAFETY: one warpgroup, together.
        unsafe {
            fill(args, 128);
            warp::barrier_sync(0, 128);
            let at = |r: u32| input(args, args.words[0] as u32 + 128 * r + thread::thread_idx_x());
            let mut a = [at(0), at(1), at(2), at(3)];
            let mut d = Acc([1.0; R]).launch();
            wgmma::hold(&mut a);
            wgmma::fence();
            d.mma_rs::<0>(Factor::Wide(dtype), a, descriptor(args.desc_b, 0));
            wgmma::commit();
            dump_accumulator(args, &d.wait::<0>());
        }
    }

    macro_rules! probes {
        ($($symbol:ident($map:ident, $args:ident) $body:block)*) => {$(
            /// Entry point.
            ///
            /// # Safety
            /// As the module says; the buffers are as large as the arguments say.
            #[unsafe(no_mangle)]
            unsafe extern "ptx-kernel" fn $symbol(_map: TensorMap, args: ProbeArgs) {
                let $map = crate::param_address!($symbol, 0);
                let $args = &args;
                // SAFETY: the caller's.
                unsafe { $body }
            }
        )*};
    }

    macro_rules! tma_probes {
        ($load:ident $store:ident, $rank:literal, $tma_load:ident, $tma_store:ident) => {
            probes! {
                // Input: what shared memory holds before. Loads the box at `words` over it; output: what it holds
                // after. `desc_a`: the bytes of the box.
                $load(map, args) {
                    let barrier = MBarrier(SmemAddr::base().offset(PROBE_BARRIERS));
                    fill(args, 32);
                    if thread::thread_idx_x() == 0 {
                        barrier.init(1);
                        mbarrier::fence_init();
                    }
                    warp::sync_warp();
                    if thread::thread_idx_x() == 0 {
                        barrier.arrive_expect_tx(args.desc_a as u32);
                        let at = core::array::from_fn(|i| args.words[i]);
                        tma::$tma_load(SmemAddr::base(), map, barrier, at, CacheHint::Normal);
                    }
                    barrier.wait(0);
                    dump(args, 0, 32);
                }
                // Input: the image of the box, which is stored at `words`.
                $store(map, args) {
                    fill(args, 32);
                    warp::sync_warp();
                    if thread::thread_idx_x() == 0 {
                        tma::$tma_store(map, SmemAddr::base(), core::array::from_fn(|i| args.words[i]));
                        tma::commit();
                        tma::wait::<0>();
                    }
                }
            }
        };
    }

    tma_probes!(probe_tma_load_2d probe_tma_store_2d, 2, load_2d, store_2d);
    tma_probes!(probe_tma_load_3d probe_tma_store_3d, 3, load_3d, store_3d);
    tma_probes!(probe_tma_load_4d probe_tma_store_4d, 4, load_4d, store_4d);
    tma_probes!(probe_tma_load_5d probe_tma_store_5d, 5, load_5d, store_5d);

    probes! {
        probe_wgmma_ss_kk_f16(_map, args) { wgmma_ss::<0, 0>(args, Dtype::F16) }
        probe_wgmma_ss_kk_bf16(_map, args) { wgmma_ss::<0, 0>(args, Dtype::Bf16) }
        probe_wgmma_ss_km_f16(_map, args) { wgmma_ss::<0, 1>(args, Dtype::F16) }
        probe_wgmma_ss_km_bf16(_map, args) { wgmma_ss::<0, 1>(args, Dtype::Bf16) }
        probe_wgmma_ss_mk_f16(_map, args) { wgmma_ss::<1, 0>(args, Dtype::F16) }
        probe_wgmma_ss_mk_bf16(_map, args) { wgmma_ss::<1, 0>(args, Dtype::Bf16) }
        probe_wgmma_rs_n64_f16(_map, args) { wgmma_rs::<32>(args, Dtype::F16) }
        probe_wgmma_rs_n64_bf16(_map, args) { wgmma_rs::<32>(args, Dtype::Bf16) }
        probe_wgmma_rs_n80_f16(_map, args) { wgmma_rs::<40>(args, Dtype::F16) }
        probe_wgmma_rs_n80_bf16(_map, args) { wgmma_rs::<40>(args, Dtype::Bf16) }
        probe_wgmma_rs_n128_f16(_map, args) { wgmma_rs::<64>(args, Dtype::F16) }
        probe_wgmma_rs_n128_bf16(_map, args) { wgmma_rs::<64>(args, Dtype::Bf16) }
        probe_wgmma_rs_n160_f16(_map, args) { wgmma_rs::<80>(args, Dtype::F16) }
        probe_wgmma_rs_n160_bf16(_map, args) { wgmma_rs::<80>(args, Dtype::Bf16) }
        probe_wgmma_rs_n256_f16(_map, args) { wgmma_rs::<128>(args, Dtype::F16) }
        probe_wgmma_rs_n256_bf16(_map, args) { wgmma_rs::<128>(args, Dtype::Bf16) }

        // A cluster of two. CTA 0 prefetches and loads the box at `words` (rank 2, `desc_a` bytes) into both; each
        // waits for its own barrier and writes its shared memory to its half of the output. CTA 1 then arrives at
        // CTA 0's second barrier, which CTA 0 waits for.
        probe_tma_multicast(map, args) {
            let loaded = MBarrier(SmemAddr::base().offset(PROBE_BARRIERS));
            let passed = MBarrier(SmemAddr::base().offset(PROBE_BARRIERS + 8));
            let rank = cluster::rank();
            fill(args, 32);
            if thread::thread_idx_x() == 0 {
                loaded.init(1);
                passed.init(1);
                mbarrier::fence_init();
                loaded.arrive_expect_tx(args.desc_a as u32);
            }
            warp::sync_warp();
            cluster::arrive();
            cluster::wait();
            if rank == 0 && thread::thread_idx_x() == 0 {
                let at = [args.words[0], args.words[1]];
                tma::prefetch_map(map);
                tma::prefetch_2d(map, at);
                tma::load_multicast_2d(SmemAddr::base(), map, loaded, at, 0b11, CacheHint::Last);
            }
            warp::sync_warp();
            loaded.wait(0);
            dump(args, rank * (args.bytes / 4), 32);
            if rank == 1 && thread::thread_idx_x() == 0 {
                passed.arrive_at(0);
            }
            warp::sync_warp();
            if rank == 0 {
                passed.wait(0);
            }
            cluster::arrive();
            cluster::wait();
        }

        // Input: register r of lane l at word `32 * r + l`. Stores them as four 8x8 matrices, row i of the 32 rows at
        // byte 16 * i; then transposed, 512 bytes further. Output: the 1024 bytes.
        probe_matrix_store(_map, args) {
            let lane = thread::thread_idx_x();
            let m = [input(args, lane), input(args, 32 + lane), input(args, 64 + lane), input(args, 96 + lane)];
            let row = SmemAddr::base().offset(16 * lane);
            matrix::store_x4(row, m);
            matrix::store_x4_trans(row.offset(512), m);
            warp::sync_warp();
            dump(args, 0, 32);
        }

        // Input: 512 bytes, row i of the 32 rows at byte 16 * i. Output: register r of lane l at word `32 * r + l`,
        // then the same, loaded transposed.
        probe_matrix_load(_map, args) {
            let lane = thread::thread_idx_x();
            fill(args, 32);
            warp::sync_warp();
            let row = SmemAddr::base().offset(16 * lane);
            let (m, t) = (matrix::load_x4(row), matrix::load_x4_trans(row));
            let mut r = 0;
            while r < 4 {
                output(args, 32 * r as u32 + lane, m[r]);
                output(args, 128 + 32 * r as u32 + lane, t[r]);
                r += 1;
            }
        }

        // Output: for each state of a barrier of two arrivals (fresh, after one arrival, two, three, four), whether
        // parities 0 and 1 count as completed.
        probe_mbarrier(_map, args) {
            let barrier = MBarrier(SmemAddr::base().offset(PROBE_BARRIERS));
            if thread::thread_idx_x() == 0 {
                barrier.init(2);
                mbarrier::fence_init();
                let mut state = 0;
                while state < 5 {
                    output(args, 2 * state, barrier.try_wait(0) as u32);
                    output(args, 2 * state + 1, barrier.try_wait(1) as u32);
                    barrier.arrive();
                    state += 1;
                }
            }
        }

        // Two warpgroups. Output, for each thread: the lane that `shuffle_xor` of 1, 2, 4, 8, 16 reads, the thread that
        // `broadcast` reads, whether it is elected, and what the other warpgroup wrote to shared memory before it
        // arrived at a named barrier.
        probe_warp(_map, args) {
            let thread = thread::thread_idx_x();
            let lane = (thread % 32) as f32;
            let mut i = 0;
            while i < 5 {
                output(args, 8 * thread + i, warp::shuffle_xor(lane, 1 << i) as u32);
                i += 1;
            }
            output(args, 8 * thread + 5, warp::broadcast(thread));
            output(args, 8 * thread + 6, warp::elect_one() as u32);
            let first = warp::broadcast(thread / 128) == 0;
            SmemAddr::base().offset(4 * thread).store_u32(1000 + thread);
            if first {
                warp::barrier_arrive(1, 256);
                warp::barrier_sync(2, 256);
            } else {
                warp::barrier_sync(1, 256);
                warp::barrier_arrive(2, 256);
            }
            output(args, 8 * thread + 7, SmemAddr::base().offset(4 * (thread ^ 128)).load_u32());
        }

        // Three warpgroups, the first of which gives registers that the others take. Output, for each thread: a sum of
        // inputs that had to survive it.
        probe_registers(_map, args) {
            let thread = thread::thread_idx_x();
            let before = input(args, thread);
            if warp::broadcast(thread / 128) == 0 {
                warp::shrink_registers(24);
                output(args, thread, before + 1);
            } else {
                warp::grow_registers(240);
                output(args, thread, before + 2);
            }
        }

        // Input: `words[0]` triples (a, b, c) of f32. Output, for each: exp2(a), log2(a), reciprocal(a), max(a, b),
        // fma(a, b, c), mul(a, b), add(a, b), (a, b) packed as f16, and as bf16.
        probe_math(_map, args) {
            let mut i = thread::thread_idx_x();
            while i < args.words[0] as u32 {
                let word = |k: u32| f32::from_bits(input(args, 3 * i + k));
                let (a, b, c) = (word(0), word(1), word(2));
                let results = [math::exp2(a), math::log2(a), math::reciprocal(a), math::max(a, b), math::fma(a, b, c),
                    math::mul(a, b), math::add(a, b)];
                let mut k = 0;
                while k < 7 {
                    output(args, 9 * i + k as u32, results[k].to_bits());
                    k += 1;
                }
                output(args, 9 * i + 7, math::pack(Dtype::F16, a, b));
                output(args, 9 * i + 8, math::pack(Dtype::Bf16, a, b));
                i += 32;
            }
        }
    }
}
