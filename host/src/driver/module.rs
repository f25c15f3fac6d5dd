//! Loading kernels: machine code where the driver takes it, else PTX through its compiler.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::RwLock;

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute as Attribute, CUjit_option, CUmodule};
use cudarc::driver::sys::{CUresult, CUstreamCaptureMode};

use super::status::check;
use crate::error::{Error, Result};
use crate::kernels::KernelImage;

/// The kernels that are loaded into one context.
#[derive(Debug, Default)]
pub(super) struct Modules {
    loaded: RwLock<HashMap<Key, Loaded>>,
}

/// Which image: two images may use one name, but images live for ever, so that their addresses tell them apart.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    symbol: &'static str,
    ptx: *const u8,
}

#[derive(Clone, Copy, Debug)]
struct Loaded {
    module: CUmodule,
    function: CUfunction,
}

// SAFETY: handles of the driver, and an address that is only compared.
unsafe impl Send for Modules {}
// SAFETY: as above.
unsafe impl Sync for Modules {}

impl Modules {
    /// The kernel of `image`, loaded now if it was not before. The context must be current.
    pub(super) fn function(&self, image: &KernelImage, smem_limit_bytes: u32) -> Result<CUfunction> {
        let key = Key { symbol: image.symbol, ptx: image.ptx.as_ptr() };
        if let Some(loaded) = self.loaded.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&key) {
            return Ok(loaded.function);
        }
        // Held while loading, so that no kernel is loaded twice.
        let mut all = self.loaded.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(loaded) = all.get(&key) {
            return Ok(loaded.function);
        }
        let loaded = load(image, smem_limit_bytes)?;
        all.insert(key, loaded);
        Ok(loaded.function)
    }

    /// Unloads everything. The context must be current, and no kernel running.
    pub(super) fn clear(&mut self) {
        let all = self.loaded.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (_, loaded) in all.drain() {
            // SAFETY: loaded once, unloaded once.
            let _ = unsafe { sys::cuModuleUnload(loaded.module) };
        }
    }
}

fn load(image: &KernelImage, smem_limit_bytes: u32) -> Result<Loaded> {
    let module = load_module(image)?;
    match entry_point(module, image, smem_limit_bytes) {
        Ok(function) => Ok(Loaded { module, function }),
        Err(error) => {
            // SAFETY: loaded above, and nobody has seen it.
            let _ = unsafe { sys::cuModuleUnload(module) };
            Err(error)
        }
    }
}

/// The kernel's function, allowed to use all shared memory that there is.
fn entry_point(module: CUmodule, image: &KernelImage, smem_limit_bytes: u32) -> Result<CUfunction> {
    let refused = |reason: String| Error::KernelRefused { symbol: image.symbol, reason };
    let symbol = CString::new(image.symbol).map_err(|error| refused(error.to_string()))?;
    let mut function = std::ptr::null_mut();
    // SAFETY: the module is loaded; the name is a C string.
    check("cuModuleGetFunction", unsafe { sys::cuModuleGetFunction(&mut function, module, symbol.as_ptr()) })
        .map_err(|error| refused(error.to_string()))?;
    let mut static_bytes = 0;
    // SAFETY: the function is of a loaded module.
    check("cuFuncGetAttribute", unsafe {
        sys::cuFuncGetAttribute(&mut static_bytes, Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function)
    })?;
    let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let limit = smem_limit_bytes.cast_signed().saturating_sub(static_bytes);
    // SAFETY: as above.
    check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(function, dynamic, limit) })?;
    Ok(function)
}

fn load_module(image: &KernelImage) -> Result<CUmodule> {
    // Loading disturbs no capture, but in a stricter mode the driver would refuse it on a thread that captures.
    let _relaxed = RelaxedCapture::enter()?;
    let from_cubin = image.cubin.map(|cubin| {
        // Embedded bytes may lie anywhere; the driver reads the image as words, and allocations are aligned.
        let aligned = cubin.to_vec();
        load_data(&aligned)
    });
    if let Some(Ok(module)) = from_cubin {
        return Ok(module);
    }
    let refused = |reason: String| Error::KernelRefused { symbol: image.symbol, reason };
    let ptx = CString::new(image.ptx).map_err(|error| refused(error.to_string()))?;
    load_data(ptx.as_bytes_with_nul()).map_err(|from_ptx| {
        let from_cubin = from_cubin.and_then(Result::err).map(|error| format!("machine code: {error}; "));
        refused(format!("{}PTX: {from_ptx}", from_cubin.unwrap_or_default()))
    })
}

/// Loads a cubin, or PTX that ends in a zero byte; the error carries the compiler's log.
fn load_data(image: &[u8]) -> Result<CUmodule> {
    let mut log = [0u8; 8192];
    let mut options =
        [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The driver takes integers as pointers.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    let mut module = std::ptr::null_mut();
    // SAFETY: the image is complete; the log buffer is as long as said; both lists have two entries.
    let result = unsafe {
        let count = options.len() as u32;
        sys::cuModuleLoadDataEx(
            &mut module,
            image.as_ptr().cast(),
            count,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    check("cuModuleLoadDataEx", result).map(|()| module).map_err(|error| with_log(error, &log))
}

fn with_log(error: Error, log: &[u8]) -> Error {
    let log = String::from_utf8_lossy(log.split(|&byte| byte == 0).next().unwrap_or_default());
    match error {
        Error::Driver { call, code, name, message } if !log.trim().is_empty() => {
            Error::Driver { call, code, name, message: format!("{message}: {}", log.trim()) }
        }
        other => other,
    }
}

/// While it lives, the driver does not mind calls that a capture on this thread would otherwise forbid.
struct RelaxedCapture {
    before: CUstreamCaptureMode,
}

impl RelaxedCapture {
    fn enter() -> Result<Self> {
        Ok(RelaxedCapture { before: exchange(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)? })
    }
}

impl Drop for RelaxedCapture {
    fn drop(&mut self) {
        let _ = exchange(self.before);
    }
}

fn exchange(mut mode: CUstreamCaptureMode) -> Result<CUstreamCaptureMode> {
    // SAFETY: swaps the thread's mode with that of the variable.
    let result: CUresult = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
    check("cuThreadExchangeStreamCaptureMode", result)?;
    Ok(mode)
}
