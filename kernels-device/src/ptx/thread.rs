//! Where a thread stands in its launch, under the names that rust-cuda gave these (`cuda_std::thread`).

use core::arch::{asm, nvptx};

/// `%tid.x`: number of this thread in its CTA.
#[inline(always)]
pub fn thread_idx_x() -> u32 {
    // SAFETY: reads a special register.
    unsafe { nvptx::_thread_idx_x() as u32 }
}

/// The same, read anew: what follows from it is computed where it stands, and holds no register before.
#[inline(always)]
pub fn thread_idx_x_anew() -> u32 {
    let thread: u32;
    // SAFETY: reads a special register.
    unsafe { asm!("mov.u32 {0}, %tid.x;", out(reg32) thread, options(nostack)) };
    thread
}

/// `%ctaid.x`: number of this CTA.
#[inline(always)]
pub fn block_idx_x() -> u32 {
    // SAFETY: reads a special register.
    unsafe { nvptx::_block_idx_x() as u32 }
}

/// `%nctaid.x`: CTAs of the launch.
#[inline(always)]
pub fn grid_dim_x() -> u32 {
    // SAFETY: reads a special register.
    unsafe { nvptx::_grid_dim_x() as u32 }
}
