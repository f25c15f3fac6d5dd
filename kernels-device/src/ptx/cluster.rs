//! Clusters: CTAs that run together and see each other's shared memory.

use core::arch::asm;

use super::intrinsics;
use super::smem::SmemAddr;

/// `%cluster_ctarank`: rank of this CTA in its cluster.
#[inline(always)]
pub fn rank() -> u32 {
    let rank: u32;
    // SAFETY: reads a special register.
    unsafe { asm!("mov.u32 {0}, %cluster_ctarank;", out(reg32) rank, options(pure, nomem, nostack)) };
    rank
}

/// `mapa.shared::cluster.u32` (ISA 9.7.9.23): the address of `address` in CTA `rank` of the cluster.
#[inline(always)]
pub fn map_shared(address: SmemAddr, rank: u32) -> u32 {
    let mapped: u32;
    // SAFETY: computes an address.
    unsafe {
        asm!("mapa.shared::cluster.u32 {0}, {1}, {2};", out(reg32) mapped, in(reg32) address.0, in(reg32) rank,
            options(pure, nomem, nostack))
    };
    mapped
}

/// `ld.shared::cluster.v4.b32` (ISA 9.7.9.8): from `bytes` behind an address that [`map_shared`] gave.
///
/// # Safety
/// The address is in bounds, 16-byte aligned, of a CTA that has not exited, and nobody writes the 16 bytes meanwhile.
#[inline(always)]
pub unsafe fn load_x4(mapped: u32, bytes: u32) -> [f32; 4] {
    let (a, b, c, d): (u32, u32, u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.shared::cluster.v4.b32 {{{0}, {1}, {2}, {3}}}, [{4}];", out(reg32) a, out(reg32) b, out(reg32) c,
            out(reg32) d, in(reg32) mapped + bytes, options(nostack))
    };
    [a, b, c, d].map(f32::from_bits)
}

/// `barrier.cluster.arrive.aligned` (ISA 9.7.13.3): arrives with release semantics.
///
/// # Safety
/// All threads of the warp execute it together; every thread of the cluster arrives, then waits.
#[inline(always)]
pub unsafe fn arrive() {
    // SAFETY: the caller's.
    unsafe { intrinsics::cluster_arrive() }
}

/// `barrier.cluster.wait.aligned` (ISA 9.7.13.3): waits for all threads of the cluster, with acquire semantics.
///
/// # Safety
/// As [`arrive`], which went before.
#[inline(always)]
pub unsafe fn wait() {
    // SAFETY: the caller's.
    unsafe { intrinsics::cluster_wait() }
}
