//! What the driver's result codes mean to a caller.

use std::ffi::CStr;

use cudarc::driver::sys::{self, CUresult};

use crate::error::{Error, Result};

/// Turns the result of the driver function `call` into an error.
pub(super) fn check(call: &'static str, result: CUresult) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        failure => Err(error(call, failure, description)),
    }
}

fn error(call: &'static str, failure: CUresult, describe: impl Fn(CUresult) -> String) -> Error {
    let (code, name) = (failure as u32, format!("{failure:?}"));
    if is_sticky(failure) {
        Error::ContextLost { call, code, name }
    } else {
        Error::Driver { call, code, name, message: describe(failure) }
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

fn description(result: CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: the driver is loaded, since it returned `result`; it writes a pointer or leaves null.
    let known = unsafe { sys::cuGetErrorString(result, &mut text) } == CUresult::CUDA_SUCCESS;
    if !known || text.is_null() {
        return "no description".into();
    }
    // SAFETY: the driver returned a static C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(failure: CUresult) -> Error {
        error("cuCall", failure, |_| "why".into())
    }

    #[test]
    fn a_refusal_says_what_and_why() {
        let refusal = classify(CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(refusal.to_string(), "cuCall failed: CUDA_ERROR_INVALID_VALUE (1), why");
    }

    #[test]
    fn a_crash_is_not_blamed_on_the_call_that_reports_it() {
        let name = "CUDA_ERROR_ILLEGAL_ADDRESS".to_owned();
        let lost = Error::ContextLost { call: "cuCall", code: 700, name };
        assert_eq!(classify(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS), lost);
    }
}
