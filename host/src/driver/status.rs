//! What the driver's result codes mean to a caller.

use std::ffi::{CStr, c_char};

use cudarc::driver::sys::{self, CUresult};

use crate::error::{Error, Result};

/// Turns the result of the driver function `call` into an error.
pub(super) fn check(call: &'static str, result: CUresult) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        _ if is_sticky(result) => Err(Error::ContextLost { call, code: result as u32, name: name(result) }),
        _ => Err(Error::Driver { call, code: result as u32, name: name(result), message: description(result) }),
    }
}

/// Errors of kernels that ran: from then on, every call on the context returns them.
fn is_sticky(result: CUresult) -> bool {
    use CUresult::*;
    matches!(
        result,
        CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
    )
}

fn name(result: CUresult) -> String {
    text(result, sys::cuGetErrorName)
}

fn description(result: CUresult) -> String {
    text(result, sys::cuGetErrorString)
}

fn text(result: CUresult, get: unsafe fn(CUresult, *mut *const c_char) -> CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: the driver is loaded, since it returned `result`; it writes a pointer or leaves null.
    if unsafe { get(result, &mut text) } != CUresult::CUDA_SUCCESS || text.is_null() {
        return "unknown error".into();
    }
    // SAFETY: the driver returned a static C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
