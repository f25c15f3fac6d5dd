//! Dynamic shared memory and its addresses.

use core::arch::{asm, global_asm};

// The one block of dynamic shared memory that every kernel carves up. 1024-byte alignment makes the 128-byte
// swizzle, which works on absolute addresses, the same as one relative to a tile.
global_asm!(".extern .shared .align 1024 .b8 flashcore_smem[];");

/// A byte address in the shared-memory window of this CTA.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SmemAddr(pub u32);

impl SmemAddr {
    /// Start of the dynamic shared memory, 1024-byte aligned.
    #[inline(always)]
    pub fn base() -> Self {
        let address: u32;
        // SAFETY: takes an address, touches nothing.
        unsafe { asm!("mov.u32 {0}, flashcore_smem;", out(reg32) address, options(pure, nomem, nostack)) };
        SmemAddr(address)
    }

    /// The address `bytes` further on.
    #[inline(always)]
    pub const fn offset(self, bytes: u32) -> Self {
        SmemAddr(self.0 + bytes)
    }

    /// `ld.shared.b32` (ISA 9.7.9.8).
    ///
    /// # Safety
    /// The address is in bounds, 4-byte aligned, and no other thread or the async proxy writes it meanwhile.
    #[inline(always)]
    pub unsafe fn load_u32(self) -> u32 {
        let value: u32;
        // SAFETY: the caller's.
        unsafe { asm!("ld.shared.b32 {0}, [{1}];", out(reg32) value, in(reg32) self.0, options(nostack)) };
        value
    }

    /// `st.shared.v4.b32` (ISA 9.7.9.11).
    ///
    /// # Safety
    /// The address is in bounds, 16-byte aligned, and nobody else accesses the 16 bytes meanwhile.
    #[inline(always)]
    pub unsafe fn store_x4(self, values: [f32; 4]) {
        let [a, b, c, d] = values.map(f32::to_bits);
        // SAFETY: the caller's.
        unsafe {
            asm!("st.shared.v4.b32 [{0}], {{{1}, {2}, {3}, {4}}};", in(reg32) self.0, in(reg32) a, in(reg32) b,
                in(reg32) c, in(reg32) d, options(nostack))
        }
    }

    /// `st.shared.b32` (ISA 9.7.9.11).
    ///
    /// # Safety
    /// The address is in bounds, 4-byte aligned, and nobody else accesses it meanwhile.
    #[inline(always)]
    pub unsafe fn store_u32(self, value: u32) {
        // SAFETY: the caller's.
        unsafe { asm!("st.shared.b32 [{0}], {1};", in(reg32) self.0, in(reg32) value, options(nostack)) }
    }
}
