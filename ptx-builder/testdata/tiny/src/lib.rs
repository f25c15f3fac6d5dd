//! Three small kernels for the builder's tests; the last one breaks a rule.
#![no_std]
#![feature(abi_ptx, stdarch_nvptx)]

use core::arch::nvptx::{_syncthreads, _thread_idx_x};

/// `out[i] = FACTOR * i`. The test edits the factor.
const FACTOR: u32 = 3;

/// # Safety
/// `out` has an element for each thread.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn scale(out: *mut u32) {
    unsafe {
        let thread = _thread_idx_x() as u32;
        *out.add(thread as usize) = FACTOR * thread;
    }
}

/// # Safety
/// `out` has an element for each thread.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn shift(out: *mut u32) {
    unsafe {
        let thread = _thread_idx_x() as usize;
        let value = *out.add(thread);
        _syncthreads();
        *out.add(thread + 1) = value;
    }
}

/// Indexes an array by a variable, which needs local memory.
///
/// # Safety
/// `out` has an element for each thread.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn gather(out: *mut u32) {
    unsafe {
        let thread = _thread_idx_x() as usize;
        let mut values = [0; 64];
        for (place, value) in values.iter_mut().enumerate() {
            *value = *out.add(place);
        }
        *out.add(thread) = values[*out.add(thread) as usize % 64];
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
