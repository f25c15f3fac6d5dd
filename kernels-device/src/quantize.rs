//! Rounds Q, K and V of 16 bits to 8, under factors of each head that are powers of 2, and transposes V. Q and K are
//! [rotated](crate::fp8) before if the launch says so.
//!
//! A factor follows from all numbers of a head, so each number is needed twice. Memory is read once, though: warps hold what
//! they have read in registers, 256 bytes a lane, until the factor is known. All warps of an H200
//! hold 13 to 17 million bytes, a head of 16384 rows and 256 columns has 8. So one kernel does all:
//!
//! ```text
//! take a ticket     which unit of the work is next, a part of a head of one of the tensors
//! load              the unit, into registers
//! leave             its largest magnitude, for the others
//! wait              for the largest magnitude of the head: whoever has its last unit gathers those of all
//! round             what is held, and write it
//! ```
//!
//! Units of a head are neighbours, so their warps are at the same point at nearly the same time. But nothing says that they are:
//! other work may have the SMs, or a head may be longer than what fits. So nobody waits for long. A warp that loses *patience*
//! puts the unit off, on a chain of its own, and takes the next ticket; when there are no more, it reads again what it has
//! put off. By then all tickets are taken, and whoever took them leaves magnitudes without waiting for anybody: there is
//! always somebody who can go on, however few warps run at the same time.
//!
//! A magnitude has no sign. Where its bit would be stands a *tag*, another one in each launch: so one word
//! says both what the magnitude is and that it is this launch's, and there is nothing to clear and nothing to order.
//!
//! Where a factor follows from all of a tensor there are three launches: one that leaves magnitudes, one of
//! [`largest_of_tensors`], and one that rounds.
//!
//! Factors are powers of 2: the numbers that are rounded are exact, and so is what the result stands for. Formats of 8
//! bits are floating-point numbers, so nothing is lost by it but, at most, one power of 2 of their range.
//!
//! [Rounding](crate::rounding) is to the nearest, or by chance: then numbers become such that the format holds, and the
//! conversion has nothing left to round.
//!
//! Rotated columns are summed first within a lane, and then with those of other lanes: a block is at most a warp's.

mod unit;

use unit::{Held, Unit};

use crate::config::{Dtype, Fp8};
use crate::entry::{QuantizeVariant, TENSOR_CTAS, TENSOR_MAXIMA};
use crate::fp8::{VALUE_GROUP, descale_exponent, power_of_2};
use crate::params::{QuantizeParams, QuantizeTensor, Turns};
use crate::ptx::math::{anew, max};
use crate::ptx::warp::LANES;
use crate::ptx::{global, grid, thread, warp};

const THREADS: u32 = QuantizeVariant::THREADS;
const WARPS: u32 = QuantizeVariant::WARPS;
/// Columns that a lane reads at once: 16 bytes.
const OCTET: u32 = 8;
/// Octets that a lane holds, of as many rows: of V, a group of keys.
const HELD: u32 = QuantizeVariant::LANE_ROWS;
const _: () = assert!(HELD == VALUE_GROUP);
/// Octets of V that a warp reads of a row at most, so that it has two groups of keys at least.
const VALUE_OCTETS: u32 = QuantizeVariant::VALUE_OCTETS;
const SIGN: u32 = 1 << 31;
/// Those of two numbers of 16 bits.
const SIGNS: u32 = 1 << 31 | 1 << 15;
/// The end of a chain.
const NONE: u32 = u32::MAX;

/// The kernel: magnitudes, and rounded numbers, or one of both. `ROTATES`: Q and K are rotated before;
/// `BY_CHANCE`: numbers are rounded by chance.
///
/// # Safety
/// See the entry points in [`entry`](crate::entry).
#[inline(always)]
pub unsafe fn round<const ROTATES: bool, const BY_CHANCE: bool>(dtype: Dtype, fp8: Fp8, p: &QuantizeParams) {
    // SAFETY: the host checked that tensors, and room for what warps tell each other, lie where the parameters say; every
    // number of the results is written by one lane.
    unsafe {
        grid::launch_dependents();
        grid::wait_for_previous_grid();
        let tag = global::load_relaxed(Turns::LAST_TAG.of(p.turns)) ^ SIGN;
        let mut put_off = NONE;
        let mut ticket = take_ticket(p);
        loop {
            let is_late = ticket >= p.units;
            let number = if is_late { put_off } else { ticket };
            if number == NONE {
                break;
            }
            let chain = p.chain + 4 * number as u64;
            let unit = Unit::<ROTATES, BY_CHANCE>::new(p, number);
            let mut held = Held::default();
            let holds = p.seeks != 0 && !is_late;
            let mut patience = if is_late { u32::MAX } else { p.patience };
            if holds {
                let (largest, pieces) = load_and_seek(dtype, &unit, &mut held);
                leave(maxima(p, &unit.tensor, unit.head) + 4 * unit.part as u64, largest, tag);
                patience = if pieces > 1 { 0 } else { patience };
            }
            let (largest, is_known) = largest_of_all(p, &unit, tag, patience);
            if is_known {
                let factor = factor(fp8, &unit, largest);
                let mut first = unit.first;
                while first < unit.rows() {
                    if !holds {
                        held = Unit::<ROTATES, BY_CHANCE>::new(p, anew(number)).load(first);
                    }
                    unit.round(dtype, fp8, first, &held, factor, &p.rounding);
                    if holds {
                        break;
                    }
                    first += Unit::<ROTATES, BY_CHANCE>::new(p, anew(number)).step();
                }
            }
            if is_late {
                put_off = from_first_lane(chain);
            } else {
                if !is_known && p.rounds != 0 {
                    leave_word(chain, put_off);
                    put_off = ticket;
                }
                // All lanes have the same. Here it is also seen.
                put_off = warp::broadcast(put_off);
                ticket = take_ticket(p);
            }
        }
        // Whoever is last leaves the counters for the next launch.
        if warp::lane_index() == 0 {
            let others = thread::grid_dim_x() * WARPS - 1;
            if global::count_round(Turns::DONE.of(p.turns), others) == others {
                global::store_relaxed(Turns::TICKETS.of(p.turns), 0);
                global::store_relaxed(Turns::LAST_TAG.of(p.turns), tag);
            }
        }
    }
}

/// The next ticket, for the whole warp.
#[inline(always)]
unsafe fn take_ticket(p: &QuantizeParams) -> u32 {
    let mut ticket = 0;
    // SAFETY: the caller's: the whole warp is here.
    unsafe {
        if warp::lane_index() == 0 {
            ticket = global::count(Turns::TICKETS.of(p.turns));
        }
        warp::sync_warp();
        warp::broadcast(ticket)
    }
}

/// A number that others may write, as the first lane sees it: the same for all.
#[inline(always)]
unsafe fn from_first_lane(address: u64) -> u32 {
    let mut number = 0;
    // SAFETY: the caller's: the whole warp is here.
    unsafe {
        if warp::lane_index() == 0 {
            number = global::load_relaxed(address);
        }
        warp::sync_warp();
        warp::broadcast(number)
    }
}

/// Leaves a word for others, or for later.
#[inline(always)]
unsafe fn leave_word(address: u64, word: u32) {
    // SAFETY: the caller's; warps are together.
    unsafe {
        if warp::lane_index() == 0 {
            global::store_relaxed(address, word);
        }
        warp::sync_warp();
    }
}

/// Leaves a magnitude.
#[inline(always)]
unsafe fn leave(address: u64, magnitude: f32, tag: u32) {
    // SAFETY: the caller's.
    unsafe { leave_word(address, magnitude.to_bits() | tag) }
}

/// The largest magnitude of a unit, and how many pieces it has. The last one is held then.
#[inline(always)]
unsafe fn load_and_seek<const ROTATES: bool, const BY_CHANCE: bool>(
    dtype: Dtype,
    unit: &Unit<ROTATES, BY_CHANCE>,
    held: &mut Held,
) -> (f32, u32) {
    let (mut largest, mut pieces) = (0.0, 0);
    let mut first = unit.first;
    while first < unit.rows() {
        // SAFETY: the caller's; warps are together.
        unsafe {
            *held = unit.load(first);
            largest = max(largest, unit.largest(dtype, held));
        }
        first += unit.step();
        pieces += 1;
    }
    // SAFETY: the same.
    (unsafe { warp_max(largest) }, pieces)
}

/// The largest magnitude of the unit's head, if all of its units have left theirs before so many tries; or of its tensor.
#[inline(always)]
unsafe fn largest_of_all<const ROTATES: bool, const BY_CHANCE: bool>(
    p: &QuantizeParams,
    unit: &Unit<ROTATES, BY_CHANCE>,
    tag: u32,
    patience: u32,
) -> (f32, bool) {
    // SAFETY: the caller's; warps are together.
    unsafe {
        if p.tensor_maxima != 0 && patience > 0 {
            let of_tensor = p.tensor_maxima + 4 * (unit.index * TENSOR_MAXIMA) as u64;
            return (gathered(of_tensor, TENSOR_MAXIMA, 0).0, true);
        }
        let of_head = p.head_maxima + 4 * (unit.tensor.first_head + unit.head) as u64;
        let gathers = unit.is_last() || patience == u32::MAX;
        let mut tries = 0;
        while tries < patience {
            let word = from_first_lane(of_head);
            if word & SIGN == tag {
                return (f32::from_bits(word & !SIGN), true);
            }
            if gathers {
                let maxima = maxima(p, &unit.tensor, unit.head);
                let (largest, is_all) = gathered(maxima, unit.tensor.parts.value, tag);
                if is_all {
                    leave(of_head, largest, tag);
                    return (largest, true);
                }
            }
            tries += 1;
        }
        (0.0, false)
    }
}

/// The largest of these magnitudes, and whether all have the tag.
#[inline(always)]
unsafe fn gathered(maxima: u64, count: u32, tag: u32) -> (f32, bool) {
    let (mut largest, mut missing) = (0.0, 0);
    let mut i = warp::lane_index();
    // SAFETY: the caller's; warps are together.
    unsafe {
        while i < count {
            let word = global::load_relaxed(maxima + 4 * i as u64);
            largest = max(largest, f32::from_bits(word & !SIGN));
            missing |= (word ^ tag) & SIGN;
            i += LANES;
        }
        warp::sync_warp();
        (warp_max(largest), warp::ballot(missing != 0) == 0)
    }
}

/// What numbers of a unit are multiplied with, where this is the largest magnitude. The first unit of a head writes what
/// they then stand for.
#[inline(always)]
unsafe fn factor<const ROTATES: bool, const BY_CHANCE: bool>(
    fp8: Fp8,
    unit: &Unit<ROTATES, BY_CHANCE>,
    largest: f32,
) -> f32 {
    let mut exponent = descale_exponent(fp8, largest);
    // Sums were divided by as much, once for Q and once for K.
    let mut restored = 0;
    if unit.rotation_block != 0 && unit.index == 0 {
        restored = unit.rotation_block.trailing_zeros() as i32;
        exponent = exponent.min(127 - restored);
    }
    if unit.part == 0 && warp::lane_index() == 0 {
        let descale = power_of_2(exponent + restored);
        // SAFETY: the caller's.
        unsafe { global::store_f32(unit.tensor.descales + 4 * unit.head as u64, descale) };
    }
    power_of_2(-exponent)
}

/// Address of the maxima of a head.
#[inline(always)]
fn maxima(p: &QuantizeParams, tensor: &QuantizeTensor, head: u32) -> u64 {
    p.maxima + 4 * ((tensor.first_head + head) * p.most_parts) as u64
}

/// The kernel between both launches, for factors of whole tensors: the largest of the magnitudes that the first one left. Each
/// tensor has as many CTAs.
///
/// # Safety
/// See the entry points in [`entry`](crate::entry).
#[inline(always)]
pub unsafe fn largest_of_tensors(p: &QuantizeParams) {
    // SAFETY: as above.
    unsafe {
        grid::launch_dependents();
        grid::wait_for_previous_grid();
        let (index, share) = (thread::block_idx_x() / TENSOR_CTAS, thread::block_idx_x() % TENSOR_CTAS);
        let tensor = unit::one_of(p, index);
        let mut largest = 0.0;
        let mut i = share * THREADS + thread::thread_idx_x();
        while i < tensor.units {
            let (head, part) = tensor.parts.split(i);
            let word = global::load_relaxed(maxima(p, &tensor, head) + 4 * part as u64);
            largest = max(largest, f32::from_bits(word & !SIGN));
            i += TENSOR_CTAS * THREADS;
        }
        let warp = warp::broadcast(thread::thread_idx_x() / 32);
        warp::sync_warp();
        let largest = warp_max(largest);
        if warp::elect_one() {
            let at = index * TENSOR_MAXIMA + share * WARPS + warp;
            global::store_f32(p.tensor_maxima + 4 * at as u64, largest);
        }
    }
}

/// The largest of the numbers of a warp's lanes.
#[inline(always)]
unsafe fn warp_max(x: f32) -> f32 {
    let mut x = x;
    let mut distance = 16;
    while distance > 0 {
        // SAFETY: the caller's: the whole warp is here.
        x = max(x, unsafe { warp::shuffle_xor(x, distance) });
        distance /= 2;
    }
    x
}
