//! `ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements between shared memory and a warp's registers.
//!
//! Lane `8 * i + r` gives the address of row r of matrix i (16 bytes, 16-byte aligned). Register i of lane l holds
//! row l / 4, columns 2 * (l % 4) and the next, low half first; `.trans` swaps rows and columns.

use core::arch::asm;

use super::smem::SmemAddr;

/// `stmatrix.sync.aligned.m8n8.x4.shared.b16` (ISA 9.7.14.5.16).
///
/// # Safety
/// All lanes of the warp execute it together; the 32 rows are in bounds and nobody else accesses them.
#[inline(always)]
pub unsafe fn store_x4(row: SmemAddr, m: [u32; 4]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("stmatrix.sync.aligned.m8n8.x4.shared.b16 [{0}], {{{1}, {2}, {3}, {4}}};", in(reg32) row.0,
            in(reg32) m[0], in(reg32) m[1], in(reg32) m[2], in(reg32) m[3], options(nostack))
    }
}

/// `stmatrix.sync.aligned.m8n8.x4.trans.shared.b16` (ISA 9.7.14.5.16).
///
/// # Safety
/// As [`store_x4`].
#[inline(always)]
pub unsafe fn store_x4_trans(row: SmemAddr, m: [u32; 4]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [{0}], {{{1}, {2}, {3}, {4}}};", in(reg32) row.0,
            in(reg32) m[0], in(reg32) m[1], in(reg32) m[2], in(reg32) m[3], options(nostack))
    }
}

/// `ldmatrix.sync.aligned.m8n8.x4.shared.b16` (ISA 9.7.14.5.15).
///
/// # Safety
/// All lanes of the warp execute it together; the 32 rows are in bounds, written, and nobody writes them meanwhile.
#[inline(always)]
pub unsafe fn load_x4(row: SmemAddr) -> [u32; 4] {
    let mut m = [0u32; 4];
    // SAFETY: the caller's.
    unsafe {
        asm!("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{{0}, {1}, {2}, {3}}}, [{4}];", out(reg32) m[0],
            out(reg32) m[1], out(reg32) m[2], out(reg32) m[3], in(reg32) row.0, options(nostack))
    }
    m
}

/// `ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16` (ISA 9.7.14.5.15).
///
/// # Safety
/// As [`load_x4`].
#[inline(always)]
pub unsafe fn load_x4_trans(row: SmemAddr) -> [u32; 4] {
    let mut m = [0u32; 4];
    // SAFETY: the caller's.
    unsafe {
        asm!("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{{0}, {1}, {2}, {3}}}, [{4}];", out(reg32) m[0],
            out(reg32) m[1], out(reg32) m[2], out(reg32) m[3], in(reg32) row.0, options(nostack))
    }
    m
}
