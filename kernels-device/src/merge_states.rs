//! Merges two attention states, the outputs and log-sum-exps of two calls over disjoint sets of keys, into that of one
//! call over all of them (the second half of Flash-Decoding, Dao et al. 2023; cascade inference, Ye et al. 2024):
//!
//! ```text
//! m = max(lse1, lse2)      w_i = exp(lse_i - m)      lse = m + ln(w_1 + w_2)
//!                                                    O   = (w_1 O_1 + w_2 O_2) / (w_1 + w_2)
//! ```
//!
//! A row is `head_dim` elements of O and one number of the log-sum-exp. A warp is responsible for as many whole rows at
//! a time as it has lanes for, one lane for each chunk of 16 bytes (wider rows take their lanes twice), and then goes
//! on by the warps of the grid. Rows follow each other as those of the output do in memory, so that neighbouring lanes
//! access neighbouring chunks.
//!
//! Two things are less than obvious:
//!
//! 1. The output may lie where one of the inputs does. Each chunk is read and written by one lane, in this order; but
//! the
//!      log-sum-exp of a row is read by all of its lanes, of one warp, which therefore wait for each other before one
//!   writes.
//! 2. A state of weight 0 must not show, whatever its O holds, and 0 * NaN is NaN: its elements are replaced by zeros,
//! by
//!    arithmetic and not by a branch.
//!
//! The kernel is bound by memory: for each row it moves `6 head_dim + 12` bytes.

use crate::config::Dtype;
use crate::entry::MergeVariant;
use crate::params::MergeParams;
use crate::ptx::math::{add, exp2, fma, log2, max, mul, pack, reciprocal, select_equal, unpack};
use crate::ptx::{global, grid, thread, warp};

/// Lanes of a warp.
const LANES: u32 = 32;
/// Bytes that a lane reads or writes at once.
const CHUNK_BYTES: u64 = 16;
/// 32-bit words of a chunk.
const WORDS: usize = 4;

/// The kernel.
///
/// # Safety
/// See the entry points in [`entry`](crate::entry).
#[inline(always)]
pub unsafe fn merge_states(dtype: Dtype, p: &MergeParams) {
    // SAFETY: the host checked that rows and log-sum-exps lie where the parameters say, and that an output either
    // overlaps no input or is the same tensor. Loops and barriers are those of whole warps.
    unsafe {
        grid::launch_dependents();
        let warps_per_cta = MergeVariant::THREADS / LANES;
        let warp = thread::block_idx_x() * warps_per_cta + warp::broadcast(thread::thread_idx_x() / LANES);
        let (place, first_chunk) = p.lanes.split(warp::lane_index());
        // Lanes that no row is left for do as the last row's do, but write nothing.
        let place_read = min(place, p.warp_rows - 1);
        grid::wait_for_previous_grid();

        let mut first_row = warp * p.warp_rows;
        while first_row < p.rows {
            let row = min(first_row + place_read, p.rows - 1);
            let writes = place < p.warp_rows && first_row + place < p.rows;
            let (rest, inner) = p.inner.split(row);
            let (outer, middle) = p.middle.split(rest);
            let at = [outer, middle, inner];
            let [o1, o2, out] = [p.o1.address(at), p.o2.address(at), p.out.address(at)];
            let [a, b, c] = p.lse_strides;
            let lse_offset = 4 * (outer * a + middle * b + inner * c) as u64;

            let lse = [global::load_f32(p.lse1 + lse_offset), global::load_f32(p.lse2 + lse_offset)];
            let mut chunk = first_chunk;
            let mut offset = CHUNK_BYTES * chunk as u64;
            let mut states = [global::load_x4(o1 + offset), global::load_x4(o2 + offset)];
            warp::sync_warp();
            let merged = Weights::new(lse);
            if writes {
                if chunk == 0 && p.lse != 0 {
                    global::store_f32(p.lse + lse_offset, merged.lse);
                }
                loop {
                    global::store_x4(out + offset, merged.chunk(dtype, states));
                    chunk += LANES;
                    if chunk >= p.chunks {
                        break;
                    }
                    offset = CHUNK_BYTES * chunk as u64;
                    states = [global::load_x4(o1 + offset), global::load_x4(o2 + offset)];
                }
            }
            first_row += p.grid_rows;
        }
    }
}

/// How the two states of a row count.
struct Weights {
    /// Factors of their outputs.
    of: [f32; 2],
    /// All ones, or all zeros for a state without keys.
    keep: [u32; 2],
    /// The log-sum-exp of the merged row.
    lse: f32,
}

impl Weights {
    /// The weights of states of these log-sum-exps.
    #[inline(always)]
    fn new(lse: [f32; 2]) -> Self {
        let max = max(lse[0], lse[1]);
        // Of two states without keys the exponents must be -inf - 0, not -inf + inf. A NaN is no maximum, but stays one
        // in its own exponent, and then in the sum.
        let offset = select_equal(max, f32::NEG_INFINITY, 0.0, max);
        let weight = lse.map(|lse| exp2(mul(add(lse, -offset), core::f32::consts::LOG2_E)));
        let sum = add(weight[0], weight[1]);
        let inverse = select_equal(sum, 0.0, 0.0, reciprocal(sum));
        Weights {
            of: weight.map(|weight| mul(weight, inverse)),
            keep: lse
                .map(|lse| select_equal(lse, f32::NEG_INFINITY, 0.0, f32::from_bits(u32::MAX)).to_bits()),
            lse: fma(log2(sum), core::f32::consts::LN_2, offset),
        }
    }

    /// Eight elements of the merged row, from those of the states.
    #[inline(always)]
    fn chunk(&self, dtype: Dtype, states: [[u32; WORDS]; 2]) -> [u32; WORDS] {
        let mut merged = [0; WORDS];
        let mut word = 0;
        while word < WORDS {
            let [a, b] = unpack(dtype, states[0][word] & self.keep[0]);
            let [c, d] = unpack(dtype, states[1][word] & self.keep[1]);
            let [one, other] = self.of;
            merged[word] = pack(dtype, fma(one, a, mul(other, c)), fma(one, b, mul(other, d)));
            word += 1;
        }
        merged
    }
}

const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}
