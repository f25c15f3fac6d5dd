//! Where the work of a team of CTAs begins and ends: the search of a warp in the order of [`bundle`](crate::bundle).
//!
//! Costs are added up in f32, and every warp of every CTA adds the same numbers in the same order. Each step takes the
//! first candidate beyond the cost looked for, so that a place never comes before that of a smaller cost, whatever was
//! rounded; and since the end of a team's work is computed as the beginning of the next one's, no tile is lost or done
//! twice.

use crate::bundle::{Place, Sequence, part_before};
use crate::params::{FwdParams, Sequences};
use crate::ptx::global::load_constant;
use crate::ptx::math::{add, max, mul, reciprocal};
use crate::ptx::thread;
use crate::ptx::warp::{self, LANES};
use crate::schedule::Span;

/// Sequence `batch` of the launch.
///
/// # Safety
/// The addresses in the parameters are 0, or those of arrays that have a value for it, which nobody writes meanwhile.
#[inline(always)]
pub unsafe fn load(params: &FwdParams, batch: u32) -> Sequence {
    let sequences = &params.general.sequences;
    let prefix = params.general.band.prefix;
    // SAFETY: the caller's.
    unsafe {
        Sequence {
            q: rows([sequences.start_q, sequences.used_q], params.seqlen_q, batch),
            kv: rows([sequences.start_kv, sequences.used_kv], params.seqlen_kv, batch),
            prefix: if prefix == 0 { 0 } else { load_constant(prefix + 4 * u64::from(batch)) },
        }
    }
}

/// The rows of sequence `batch` of a tensor that has `all` of them: by the arrays of the starts, and of how many count.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub unsafe fn rows([starts, used]: [u64; 2], all: u32, batch: u32) -> Span {
    // SAFETY: the caller's.
    let value = |array: u64, index: u32| unsafe { load_constant(array + 4 * u64::from(index)) };
    // Whatever the numbers are, they become rows of the tensor.
    let mut span = Span { start: 0, len: all };
    if starts != 0 {
        let (start, end) = (value(starts, batch).min(all), value(starts, batch + 1).min(all));
        span = Span { start, len: end.saturating_sub(start) };
    }
    if used != 0 {
        span.len = value(used, batch).min(span.len);
    }
    span
}

/// Which work is that of this CTA's team: the first place, and how many tiles. Each warp finds out for itself.
///
/// # Safety
/// All lanes of the warp execute it together, and as [`load`] for all sequences.
#[inline(always)]
pub unsafe fn bundle(params: &FwdParams, block_m: u32) -> (Place, u32) {
    let Sequences { teams, team, uneven, .. } = params.general.sequences;
    let this = team.quotient(thread::block_idx_x());
    // SAFETY: the caller's.
    unsafe {
        let whole = whole_cost(params, block_m);
        let before = |of: u32| mul(whole, part_before(of, reciprocal(teams as f32), uneven != 0));
        let (first, passed) = find(params, block_m, before(this));
        // All cost comes before the end, whatever was rounded.
        let end = if this + 1 == teams { f32::INFINITY } else { before(this + 1) };
        let (_, passed_at_end) = find(params, block_m, end);
        (first, passed_at_end - passed)
    }
}

/// What all work costs.
#[inline(always)]
unsafe fn whole_cost(params: &FwdParams, block_m: u32) -> f32 {
    let mut whole = 0.0;
    let mut first = 0;
    while first < params.general.sequences.count {
        // SAFETY: the caller's.
        unsafe { whole = add(whole, last_lane(sums_up_to_lane(of_lane(params, block_m, first).0))) };
        first += LANES;
    }
    whole
}

/// The first tile half of which lies beyond `cost` in the order of tiles, and how many come before it.
#[inline(always)]
unsafe fn find(params: &FwdParams, block_m: u32, cost: f32) -> (Place, u32) {
    let sequences = &params.general.sequences;
    // SAFETY: the caller's; what the loops are left on is the same in all lanes.
    unsafe {
        let mut before = 0.0;
        let mut passed = 0;
        let mut first = 0;
        while first < sequences.count {
            let (own, tiles) = of_lane(params, block_m, first);
            let up_to = add(before, sums_up_to_lane(own));
            let beyond = warp::ballot(up_to > cost);
            if beyond != 0 {
                let lane = beyond.trailing_zeros();
                let batch = first + lane;
                let left = add(cost, -warp::shuffle(add(up_to, -own), lane));
                passed += warp::sum(if warp::lane_index() < lane { tiles } else { 0 });
                let (place, within) = find_in_sequence(params, block_m, batch, max(left, 0.0));
                return (place, passed + within);
            }
            before = last_lane(up_to);
            passed += warp::sum(tiles);
            first += LANES;
        }
        (Place { head: sequences.count * params.heads_q.value, tile: 0 }, passed)
    }
}

/// The same within sequence `batch`, which has tiles.
#[inline(always)]
unsafe fn find_in_sequence(params: &FwdParams, block_m: u32, batch: u32, cost: f32) -> (Place, u32) {
    // SAFETY: the caller's.
    unsafe {
        let sequence = load(params, batch);
        let per_head = sequence.cost_of_head(params, block_m);
        let head = (mul(cost, reciprocal(per_head)) as u32).min(params.heads_q.value - 1);
        let cost = add(cost, -mul(head as f32, per_head));
        let tiles = sequence.tiles(params, block_m);
        let place = |tile| (Place { head: batch * params.heads_q.value + head, tile }, head * tiles + tile);
        let mut first = 0;
        while first < tiles {
            let tile = first + warp::lane_index();
            let cost_of = |tiles| sequence.cost_of_last(params, block_m, tiles);
            let is_beyond = tile < tiles && add(cost_of(tile), cost_of(tile + 1)) >= add(cost, cost);
            let beyond = warp::ballot(is_beyond);
            if beyond != 0 {
                return place(first + beyond.trailing_zeros());
            }
            first += LANES;
        }
        place(tiles)
    }
}

/// What sequence `first + lane` costs, and its tiles; nothing if there is none.
#[inline(always)]
unsafe fn of_lane(params: &FwdParams, block_m: u32, first: u32) -> (f32, u32) {
    let batch = first + warp::lane_index();
    if batch < params.general.sequences.count {
        // SAFETY: the caller's.
        let sequence = unsafe { load(params, batch) };
        (sequence.cost(params, block_m), sequence.tiles(params, block_m) * params.heads_q.value)
    } else {
        (0.0, 0)
    }
}

/// The sum of the values of all lanes up to this one.
#[inline(always)]
unsafe fn sums_up_to_lane(value: f32) -> f32 {
    let mut sum = value;
    let mut distance = 1;
    while distance < LANES {
        // SAFETY: the caller's: the whole warp is here.
        let below = unsafe { warp::shuffle_up(sum, distance) };
        sum = add(sum, if warp::lane_index() >= distance { below } else { 0.0 });
        distance *= 2;
    }
    sum
}

#[inline(always)]
unsafe fn last_lane(value: f32) -> f32 {
    // SAFETY: the caller's: the whole warp is here.
    unsafe { warp::shuffle(value, LANES - 1) }
}
