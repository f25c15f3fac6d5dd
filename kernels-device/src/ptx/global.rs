//! Global memory that kernels access for themselves: constants, single numbers, and sixteen bytes at a time. None of
//! these is moved across another, or across a barrier, but those that say so.

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

/// As [`load_constant`], but nothing waits for it to be in its place: it may be moved, and be done once for several
/// uses.
///
/// # Safety
/// As of [`load_constant`].
#[inline(always)]
pub unsafe fn load_public(address: u64) -> u32 {
    let value: u32;
    // SAFETY: the caller's; what it reads does not change while the kernel runs.
    unsafe {
        asm!("ld.global.nc.b32 {0}, [{1}];", out(reg32) value, in(reg64) address, options(pure, readonly, nostack))
    };
    value
}

/// As [`load_constant`], if `key` is below `end`; else 0, and nothing is read.
///
/// # Safety
/// As of [`load_constant`], then.
#[inline(always)]
pub unsafe fn load_below(address: u64, key: u32, end: u32) -> u32 {
    let value: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "{{", ".reg .pred p;", "setp.lt.u32 p, {key}, {end};", "mov.b32 {value}, 0;",
            "@p ld.global.nc.b32 {value}, [{address}];", "}}",
            key = in(reg32) key, end = in(reg32) end, address = in(reg64) address, value = out(reg32) value,
            options(nostack)
        )
    };
    value
}

/// `ld.global.nc.v4.b32` (ISA 9.7.9.9) of 16 bytes of row `row`, if that is below `end`; else zeros, and nothing is read.
///
/// # Safety
/// As of [`load_constant`], then, and the 16 bytes are aligned.
#[inline(always)]
pub unsafe fn load_x4_below(address: u64, row: u32, end: u32) -> [u32; 4] {
    let mut words = [0u32; 4];
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "{{", ".reg .pred p;", "setp.lt.u32 p, {row}, {end};", "mov.b32 {a}, 0;", "mov.b32 {b}, 0;",
            "mov.b32 {c}, 0;", "mov.b32 {d}, 0;", "@p ld.global.nc.v4.b32 {{{a}, {b}, {c}, {d}}}, [{address}];", "}}",
            row = in(reg32) row, end = in(reg32) end, address = in(reg64) address, a = out(reg32) words[0],
            b = out(reg32) words[1], c = out(reg32) words[2], d = out(reg32) words[3], options(nostack)
        )
    };
    words
}

/// `ld.global.nc.b16` (ISA 9.7.9.9), otherwise as [`load_public`].
///
/// # Safety
/// The address is one of global memory, 2-byte aligned, and nobody writes there while the kernel runs.
#[inline(always)]
pub unsafe fn load_public_half(address: u64) -> u16 {
    let value: u16;
    // SAFETY: the caller's; what it reads does not change while the kernel runs.
    unsafe {
        asm!("ld.global.nc.b16 {0}, [{1}];", out(reg16) value, in(reg64) address, options(pure, readonly, nostack))
    };
    value
}

/// `ld.global.v4.b32` (ISA 9.7.9.8).
///
/// # Safety
/// The 16 bytes are allocated and aligned, and nobody writes them meanwhile.
#[inline(always)]
pub unsafe fn load_x4(address: u64) -> [u32; 4] {
    let mut words = [0u32; 4];
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.global.v4.b32 {{{0}, {1}, {2}, {3}}}, [{4}];", out(reg32) words[0], out(reg32) words[1],
            out(reg32) words[2], out(reg32) words[3], in(reg64) address, options(nostack))
    }
    words
}

/// `st.global.v4.b32` (ISA 9.7.9.11).
///
/// # Safety
/// The 16 bytes are allocated and aligned, and nobody else accesses them meanwhile.
#[inline(always)]
pub unsafe fn store_x4(address: u64, words: [u32; 4]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.global.v4.b32 [{0}], {{{1}, {2}, {3}, {4}}};", in(reg64) address, in(reg32) words[0],
            in(reg32) words[1], in(reg32) words[2], in(reg32) words[3], options(nostack))
    }
}

/// `st.global.v2.b32` (ISA 9.7.9.11).
///
/// # Safety
/// The 8 bytes are allocated and aligned, and nobody else accesses them meanwhile.
#[inline(always)]
pub unsafe fn store_x2(address: u64, words: [u32; 2]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.global.v2.b32 [{0}], {{{1}, {2}}};", in(reg64) address, in(reg32) words[0], in(reg32) words[1],
            options(nostack))
    }
}

/// `st.global.u8` (ISA 9.7.9.11): the low byte of a number.
///
/// # Safety
/// The byte is allocated, and nobody else accesses it meanwhile.
#[inline(always)]
pub unsafe fn store_byte(address: u64, byte: u32) {
    // SAFETY: the caller's.
    unsafe { asm!("st.global.u8 [{0}], {1};", in(reg64) address, in(reg32) byte, options(nostack)) }
}

/// `ld.global.f32` (ISA 9.7.9.8).
///
/// # Safety
/// The number is allocated and aligned, and nobody writes it meanwhile.
#[inline(always)]
pub unsafe fn load_f32(address: u64) -> f32 {
    let value: f32;
    // SAFETY: the caller's.
    unsafe { asm!("ld.global.f32 {0}, [{1}];", out(reg32) value, in(reg64) address, options(nostack)) };
    value
}

/// `st.global.f32` (ISA 9.7.9.11).
///
/// # Safety
/// The number is allocated and aligned, and nobody else accesses it meanwhile.
#[inline(always)]
pub unsafe fn store_f32(address: u64, value: f32) {
    // SAFETY: the caller's.
    unsafe { asm!("st.global.f32 [{0}], {1};", in(reg64) address, in(reg32) value, options(nostack)) }
}

/// `ld.relaxed.gpu.global.b32` (ISA 9.7.9.8): a number that other CTAs may write meanwhile.
///
/// # Safety
/// The number is allocated and aligned, and whoever accesses it meanwhile does so by such instructions.
#[inline(always)]
pub unsafe fn load_relaxed(address: u64) -> u32 {
    let value: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.relaxed.gpu.global.b32 {0}, [{1}];", out(reg32) value, in(reg64) address, options(nostack))
    };
    value
}

/// `st.relaxed.gpu.global.b32` (ISA 9.7.9.11): a number that other CTAs may read meanwhile.
///
/// # Safety
/// As of [`load_relaxed`].
#[inline(always)]
pub unsafe fn store_relaxed(address: u64, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.relaxed.gpu.global.b32 [{0}], {1};", in(reg64) address, in(reg32) value, options(nostack))
    }
}

/// `atom.relaxed.gpu.global.add.u32` (ISA 9.7.13.5) of one: what the number was before. It orders nothing else.
///
/// # Safety
/// As of [`load_relaxed`].
#[inline(always)]
pub unsafe fn count(address: u64) -> u32 {
    let before: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("atom.relaxed.gpu.global.add.u32 {0}, [{1}], 1;", out(reg32) before, in(reg64) address, options(nostack))
    };
    before
}

/// `atom.acq_rel.gpu.global.inc.u32` (ISA 9.7.13.5): one more, or 0 after `last`; what it was before. Whoever reads `last`
/// comes after all that those before it did.
///
/// # Safety
/// As of [`load_relaxed`].
#[inline(always)]
pub unsafe fn count_round(address: u64, last: u32) -> u32 {
    let before: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("atom.acq_rel.gpu.global.inc.u32 {0}, [{1}], {2};", out(reg32) before, in(reg64) address,
            in(reg32) last, options(nostack))
    };
    before
}
