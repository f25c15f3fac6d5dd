//! Mistakes that public kernels have made, and their corrections, as micro-kernels: what a checker must tell apart. Not
//! part of the product.
//!
//! Each pattern has a wrong form, which works most of the time, and a right one that differs in one line. Parameters
//! are those of [`probe`](crate::probe): a tensor map and [`ProbeArgs`](crate::probe::ProbeArgs).

use crate::entry::Entry;
use crate::probe::PROBE_SMEM;

/// Words of a row of every tensor here: 128 bytes.
pub const ROW_WORDS: u32 = 32;
/// Rows that a kernel copies.
pub const ROWS: u32 = 4;

const fn pattern(symbol: &'static str, threads: u32) -> Entry {
    Entry {
        symbol,
        threads,
        cluster: 1,
        min_ctas: 1,
        smem_bytes: PROBE_SMEM,
        max_registers: 255,
        spill_limit: 0,
        public_pointers: &[],
        takes_tickets: false,
        opcodes: None,
    }
}

/// Every pattern, as the builder sees it: `_wrong` and `_right`.
pub const PATTERNS: &[Entry] = &[
    pattern("pattern_store_words_wrong", 32),
    pattern("pattern_store_words_right", 32),
    pattern("pattern_store_matrices_wrong", 32),
    pattern("pattern_store_matrices_right", 32),
    pattern("pattern_load_over_reads_wrong", 32),
    pattern("pattern_load_over_reads_right", 32),
    pattern("pattern_two_stages_wrong", 32),
    pattern("pattern_two_stages_right", 32),
    pattern("pattern_accumulators_wrong", 128),
    pattern("pattern_accumulators_right", 128),
];

#[cfg(target_arch = "nvptx64")]
mod kernels {
    use super::{ROW_WORDS, ROWS};
    use crate::config::{Dtype, Factor};
    use crate::params::TensorMap;
    use crate::probe::{PROBE_BARRIERS, ProbeArgs};
    use crate::ptx::mbarrier::{self, MBarrier};
    use crate::ptx::smem::SmemAddr;
    use crate::ptx::tma::{self, CacheHint, TensorMapRef};
    use crate::ptx::wgmma::{self, InFlight, Products, SmemDesc};
    use crate::ptx::{matrix, thread, warp};

    const ROW_BYTES: u32 = 4 * ROW_WORDS;

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

    /// FlashKDA #24: a tile written by ordinary stores (or stmatrix, its second path) is stored by TMA. Without a proxy
    /// fence the TMA unit may read what was there before.
    #[inline(always)]
    unsafe fn store_tile<const MATRICES: bool, const FENCE: bool>(map: TensorMapRef, args: &ProbeArgs) {
        let (tile, lane) = (SmemAddr::base(), thread::thread_idx_x());
        // SAFETY: one warp, together; the tile is 512 bytes.
        unsafe {
            let word = |row: u32| input(args, ROW_WORDS * row + lane);
            if MATRICES {
                // Four matrices of 128 bytes: each lane's words land where ordinary stores put them.
                matrix::store_x4(tile.offset(16 * lane), [word(0), word(1), word(2), word(3)]);
            } else {
                let mut row = 0;
                while row < ROWS {
                    tile.offset(ROW_BYTES * row + 4 * lane).store_u32(word(row));
                    row += 1;
                }
            }
            if FENCE {
                tma::fence_async_shared();
            }
            warp::sync_warp();
            if lane == 0 {
                tma::store_2d(map, tile, [0, 0]);
                tma::commit();
                tma::wait::<0>();
            }
        }
    }

    /// Two mbarriers for one arrival each, known to the warp.
    #[inline(always)]
    unsafe fn loaded_barriers() -> [MBarrier; 2] {
        let barriers = [0, 8].map(|at| MBarrier(SmemAddr::base().offset(PROBE_BARRIERS + at)));
        // SAFETY: one warp, together; behind the data.
        unsafe {
            if thread::thread_idx_x() == 0 {
                barriers[0].init(1);
                barriers[1].init(1);
                mbarrier::fence_init();
            }
            warp::sync_warp();
        }
        barriers
    }

    /// Loads a row of the tensor.
    #[inline(always)]
    unsafe fn load_row(map: TensorMapRef, to: SmemAddr, barrier: MBarrier, row: u32) {
        // SAFETY: the caller's.
        unsafe {
            barrier.arrive_expect_tx(ROW_BYTES);
            tma::load_2d(to, map, barrier, [0, row as i32], CacheHint::Normal);
        }
    }

    /// DeepEP #642: threads read shared memory, meet, and TMA loads the next row over it. The loads that they have
    /// executed may still be under way in the generic proxy.
    #[inline(always)]
    unsafe fn load_over_reads<const FENCE: bool>(map: TensorMapRef, args: &ProbeArgs) {
        let (buffer, lane) = (SmemAddr::base(), thread::thread_idx_x());
        // SAFETY: one warp, together.
        unsafe {
            let [loaded, _] = loaded_barriers();
            let mut row = 0;
            while row < ROWS {
                if lane == 0 {
                    load_row(map, buffer, loaded, row);
                }
                loaded.wait(row & 1);
                output(args, ROW_WORDS * row + lane, buffer.offset(4 * lane).load_u32());
                if FENCE {
                    tma::fence_async_shared();
                }
                warp::sync_warp();
                row += 1;
            }
        }
    }

    /// DeepEP #657: rows go through two stages, in by TMA and out by TMA. The next load takes the stage of the store
    /// before, which is the newest one: a wait that leaves one store pending does not wait for it.
    #[inline(always)]
    unsafe fn two_stages<const PENDING: u32>(map: TensorMapRef) {
        // SAFETY: one warp; one thread of it does everything.
        unsafe {
            let loaded = loaded_barriers();
            if thread::thread_idx_x() != 0 {
                return;
            }
            let stage = |row: u32| SmemAddr::base().offset(ROW_BYTES * (row & 1));
            let barrier = |row: u32| MBarrier(loaded[0].0.offset(8 * (row & 1)));
            load_row(map, stage(0), barrier(0), 0);
            let mut row = 0;
            while row < ROWS {
                barrier(row).wait(row >> 1 & 1);
                if row + 1 < ROWS {
                    tma::wait_read::<PENDING>();
                    load_row(map, stage(row + 1), barrier(row + 1), row + 1);
                }
                tma::store_2d(map, stage(row), [0, (ROWS + row) as i32]);
                tma::commit();
                row += 1;
            }
            tma::wait::<0>();
        }
    }

    /// Accumulators are read though the wait leaves their group pending: `wait_group 1` where `0` was meant.
    #[inline(always)]
    unsafe fn accumulators<const PENDING: u64>(args: &ProbeArgs) {
        /// K-major without a swizzle: halves of K 128 bytes apart, groups of eight rows 256.
        const LAYOUT: u64 = 0x10_0008_0000;
        // SAFETY: one warpgroup, together; A and B are the same 2 KiB.
        unsafe {
            let thread = thread::thread_idx_x();
            let mut word = thread;
            while word < 512 {
                SmemAddr::base().offset(4 * word).store_u32(input(args, word));
                word += 128;
            }
            tma::fence_async_shared();
            warp::barrier_sync(0, 128);
            let operand = SmemDesc(LAYOUT | (SmemAddr::base().0 >> 4) as u64);
            wgmma::fence();
            let d: InFlight<32> = InFlight::start::<0, 0>(Factor::Wide(Dtype::F16), operand, operand);
            wgmma::commit();
            let d = d.wait::<PENDING>();
            let mut r = 0;
            while r < 32 {
                output(args, 128 * r as u32 + thread, d.0[r].to_bits());
                r += 1;
            }
        }
    }

    macro_rules! patterns {
        ($($symbol:ident($map:ident, $args:ident) $body:block)*) => {$(
            /// Entry point.
            ///
            /// # Safety
            /// As the module says; the buffers are large enough.
            #[unsafe(no_mangle)]
            unsafe extern "ptx-kernel" fn $symbol(_map: TensorMap, args: ProbeArgs) {
                let $map = crate::param_address!($symbol, 0);
                let $args = &args;
                // SAFETY: the caller's.
                unsafe { $body }
            }
        )*};
    }

    patterns! {
        pattern_store_words_wrong(map, args) { store_tile::<false, false>(map, args) }
        pattern_store_words_right(map, args) { store_tile::<false, true>(map, args) }
        pattern_store_matrices_wrong(map, args) { store_tile::<true, false>(map, args) }
        pattern_store_matrices_right(map, args) { store_tile::<true, true>(map, args) }
        pattern_load_over_reads_wrong(map, args) { load_over_reads::<false>(map, args) }
        pattern_load_over_reads_right(map, args) { load_over_reads::<true>(map, args) }
        pattern_two_stages_wrong(map, _args) { two_stages::<1>(map) }
        pattern_two_stages_right(map, _args) { two_stages::<0>(map) }
        pattern_accumulators_wrong(_map, args) { accumulators::<1>(args) }
        pattern_accumulators_right(_map, args) { accumulators::<0>(args) }
    }
}
