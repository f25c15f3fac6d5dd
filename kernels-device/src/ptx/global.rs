//! Global memory that kernels read for themselves: little, beside what TMA copies.

use core::arch::asm;

/// `ld.global.nc.b32` (ISA 9.7.9.9): a number that nobody writes while the kernel runs.
///
/// # Safety
/// The address is one of global memory, 4-byte aligned, and what it says holds.
#[inline(always)]
pub unsafe fn load_constant(address: u64) -> u32 {
    let value: u32;
    // SAFETY: the caller's.
    unsafe { asm!("ld.global.nc.b32 {0}, [{1}];", out(reg32) value, in(reg64) address, options(nostack)) };
    value
}
