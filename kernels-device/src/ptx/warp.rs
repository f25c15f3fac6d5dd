//! Threads: who am I, talk within a warp, wait for others, move registers between warpgroups.

use core::arch::asm;

use super::intrinsics;

/// All lanes of a warp.
pub const FULL_MASK: u32 = u32::MAX;
/// Threads of a warp.
pub const LANES: u32 = 32;

/// `%laneid`: number of this thread in its warp.
#[inline(always)]
pub fn lane_index() -> u32 {
    let lane: u32;
    // SAFETY: reads a special register.
    unsafe { asm!("mov.u32 {0}, %laneid;", out(reg32) lane, options(pure, nomem, nostack)) };
    lane
}

/// `shfl.sync.bfly.b32` (ISA 9.7.9.6): the value of the lane whose number differs in the bits of `lane_mask`.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn shuffle_xor(value: f32, lane_mask: u32) -> f32 {
    // SAFETY: the caller's.
    f32::from_bits(unsafe { intrinsics::shfl_bfly(FULL_MASK, value.to_bits(), lane_mask, 31) })
}

/// `shfl.sync.up.b32` (ISA 9.7.9.6): the value of the lane `distance` below; a lane that has none keeps its own.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn shuffle_up(value: f32, distance: u32) -> f32 {
    // SAFETY: the caller's.
    f32::from_bits(unsafe { intrinsics::shfl_up(FULL_MASK, value.to_bits(), distance, 0) })
}

/// `shfl.sync.idx.b32` (ISA 9.7.9.6): the value of lane `lane`.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn shuffle(value: f32, lane: u32) -> f32 {
    // SAFETY: the caller's.
    f32::from_bits(unsafe { intrinsics::shfl_idx(FULL_MASK, value.to_bits(), lane, 31) })
}

/// `vote.sync.ballot.b32` (ISA 9.7.13.10): bit i is the value of lane i.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn ballot(value: bool) -> u32 {
    // SAFETY: the caller's.
    unsafe { intrinsics::ballot(FULL_MASK, value) }
}

/// The least of the values of all lanes.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn least(value: i32) -> i32 {
    let least: i32;
    // SAFETY: the caller's.
    unsafe {
        asm!("redux.sync.min.s32 {0}, {1}, 0xffffffff;", out(reg32) least, in(reg32) value, options(nostack));
    }
    least
}

/// The greatest of the values of all lanes.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn greatest(value: i32) -> i32 {
    let greatest: i32;
    // SAFETY: the caller's.
    unsafe {
        asm!("redux.sync.max.s32 {0}, {1}, 0xffffffff;", out(reg32) greatest, in(reg32) value, options(nostack));
    }
    greatest
}

/// `redux.sync.add.u32` (ISA 9.7.13.7): the sum over the warp.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn sum(value: u32) -> u32 {
    let sum: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("redux.sync.add.u32 {0}, {1}, 0xffffffff;", out(reg32) sum, in(reg32) value, options(nostack));
    }
    sum
}

/// `shfl.sync.idx.b32` from lane 0: tells the compiler that a value is the same in the whole warp.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn broadcast(value: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { intrinsics::shfl_idx(FULL_MASK, value, 0, 31) }
}

/// `bar.warp.sync` (ISA 9.7.13.2): all lanes wait for each other; their memory accesses before it are visible after.
///
/// # Safety
/// All lanes of the warp execute it.
#[inline(always)]
pub unsafe fn sync_warp() {
    // SAFETY: the caller's.
    unsafe { intrinsics::bar_warp_sync(FULL_MASK) }
}

/// `elect.sync` (ISA 9.7.13.14): true in exactly one lane of the warp.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn elect_one() -> bool {
    let elected: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("{{", ".reg .pred p;", "elect.sync _|p, 0xffffffff;", "selp.u32 {0}, 1, 0, p;", "}}",
            out(reg32) elected, options(nostack))
    };
    elected != 0
}

/// `bar.sync id, threads` (ISA 9.7.13.1): waits until `threads` threads came to named barrier `id`.
///
/// # Safety
/// All lanes of the warp execute it together; all users of `id` agree on `threads`.
#[inline(always)]
pub unsafe fn barrier_sync(id: u32, threads: u32) {
    // SAFETY: the caller's.
    unsafe { intrinsics::barrier_sync(id, threads) }
}

/// `bar.arrive id, threads` (ISA 9.7.13.1): counts this warp at named barrier `id` and goes on.
///
/// # Safety
/// As [`barrier_sync`]; somebody waits.
#[inline(always)]
pub unsafe fn barrier_arrive(id: u32, threads: u32) {
    // SAFETY: the caller's.
    unsafe { intrinsics::barrier_arrive(id, threads) }
}

/// `setmaxnreg.dec.sync.aligned.u32` (ISA 9.7.19.5): gives registers back until `registers` a thread are left.
///
/// # Safety
/// All warps of the warpgroup execute it; the kernel has launch bounds; no thread holds more than that.
#[inline(always)]
pub unsafe fn shrink_registers(registers: u32) {
    // SAFETY: the caller's.
    unsafe { intrinsics::setmaxnreg_dec(registers) }
}

/// `setmaxnreg.inc.sync.aligned.u32` (ISA 9.7.19.5): waits for registers and takes them, up to `registers` a thread.
///
/// # Safety
/// As [`shrink_registers`]; the CTA has or will have that many to give.
#[inline(always)]
pub unsafe fn grow_registers(registers: u32) {
    // SAFETY: the caller's.
    unsafe { intrinsics::setmaxnreg_inc(registers) }
}
