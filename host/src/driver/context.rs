//! Finding a Hopper GPU, and its primary context.

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute as Attribute, CUevent, CUresult};
use libloading::{Library, Symbol};

use super::Properties;
use super::status::check;
use crate::error::{Error, Result};

/// The oldest CUDA version whose driver has `cuTensorMapEncodeTiled`.
const OLDEST_DRIVER: u32 = 12_000;

type ElapsedTime = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;

/// The primary context of a device, retained.
#[derive(Debug)]
pub(super) struct Context {
    driver: Library,
    device: CUdevice,
    raw: CUcontext,
}

// SAFETY: contexts may be used from any thread; the driver has its own locks.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Retains the primary context of Hopper GPU `ordinal`.
    pub(super) fn new(ordinal: usize) -> Result<(Self, Properties)> {
        // cudarc panics where there is no driver, so look first.
        // SAFETY: loading the CUDA driver runs no code but its own initialisation.
        let driver = unsafe { Library::new("libcuda.so.1") }.map_err(no_driver)?;
        let driver_version = driver_version()?;
        let device = device(ordinal)?;
        let properties = properties(device, ordinal, driver_version)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the device exists; the context is released once, when this value is dropped.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, device) })?;
        Ok((Context { driver, device, raw }, properties))
    }

    /// The `CUcontext`.
    pub(super) fn raw(&self) -> CUcontext {
        self.raw
    }

    /// Makes this the thread's context until the result is dropped, which brings back the one before.
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
        let mut current = std::ptr::null_mut();
        // Asking costs a fraction of pushing and popping, and most threads have the primary context already.
        // SAFETY: writes a handle.
        check("cuCtxGetCurrent", unsafe { sys::cuCtxGetCurrent(&mut current) })?;
        if current == self.raw {
            return Ok(Entered::already());
        }
        // SAFETY: the context is retained.
        check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(self.raw) })?;
        Ok(Entered { pushed: true, ..Entered::already() })
    }

    /// Milliseconds between two events that have happened.
    pub(super) fn elapsed_ms(&self, start: CUevent, end: CUevent) -> Result<f32> {
        // Bindings of CUDA 12.8 and later name this function `_v2`, which older drivers lack; all have this one.
        // SAFETY: the type is that of the function in cuda.h.
        let elapsed: Symbol<'_, ElapsedTime> =
            unsafe { self.driver.get(b"cuEventElapsedTime\0") }.map_err(no_driver)?;
        let mut ms = 0.0;
        // SAFETY: the caller passes live events.
        check("cuEventElapsedTime", unsafe { elapsed(&mut ms, start, end) })?;
        Ok(ms)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // An error here, at the end of the process say, has no one to go to.
        // SAFETY: retained once in `new`.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// While it lives, calls for a device on this thread need not change the thread's context.
#[derive(Debug)]
pub struct Entered<'a> {
    pushed: bool,
    // A raw pointer, so that it stays on its thread.
    context: PhantomData<(&'a Context, *const ())>,
}

impl Entered<'_> {
    /// Of a device whose context is current, or that has none.
    pub(crate) fn already() -> Self {
        Entered { pushed: false, context: PhantomData }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.pushed {
            let mut popped = std::ptr::null_mut();
            // SAFETY: pops what `enter` pushed.
            let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
        }
    }
}

fn no_driver(error: libloading::Error) -> Error {
    // The loader's own words are in the source.
    let reason = std::error::Error::source(&error).unwrap_or(&error).to_string();
    Error::NoDriver { reason }
}

fn driver_version() -> Result<u32> {
    let mut version = 0;
    // SAFETY: writes an integer; needs no initialisation.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    require_version(version.cast_unsigned())
}

fn require_version(found: u32) -> Result<u32> {
    if found < OLDEST_DRIVER { Err(Error::DriverTooOld { found, needed: OLDEST_DRIVER }) } else { Ok(found) }
}

fn device(ordinal: usize) -> Result<CUdevice> {
    // SAFETY: may be called any number of times.
    let initialized = unsafe { sys::cuInit(0) };
    if initialized == CUresult::CUDA_ERROR_NO_DEVICE {
        return Err(Error::NoDevice { ordinal, count: 0 });
    }
    check("cuInit", initialized)?;
    let mut count = 0;
    // SAFETY: writes an integer.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    let number = i32::try_from(ordinal).ok().filter(|&number| number < count);
    let number = number.ok_or(Error::NoDevice { ordinal, count: count.cast_unsigned() as usize })?;
    let mut device = 0;
    // SAFETY: writes an integer.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, number) })?;
    Ok(device)
}

/// Facts of the device, or the error that it is not a Hopper GPU.
fn properties(device: CUdevice, ordinal: usize, driver_version: u32) -> Result<Properties> {
    let attribute = |attribute: Attribute| -> Result<u32> {
        let mut value = 0;
        // SAFETY: the device exists; writes an integer.
        check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
        Ok(value.cast_unsigned())
    };
    let name = device_name(device)?;
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    require_hopper(&name, major, minor)?;
    let mut total_memory_bytes = 0;
    // SAFETY: the device exists; writes an integer.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut total_memory_bytes, device) })?;
    Ok(Properties {
        ordinal,
        name,
        compute_capability: (major, minor),
        sm_count: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        smem_limit_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        total_memory_bytes: total_memory_bytes as u64,
        driver_version,
    })
}

/// sm_90a has instructions that no other architecture has, later ones included.
fn require_hopper(name: &str, major: u32, minor: u32) -> Result<()> {
    if (major, minor) == (9, 0) { Ok(()) } else { Err(Error::NotHopper { name: name.into(), major, minor }) }
}

fn device_name(device: CUdevice) -> Result<String> {
    let mut name = [0u8; 256];
    // SAFETY: the device exists; the driver writes a C string of at most the length given.
    check("cuDeviceGetName", unsafe {
        sys::cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), name.len() as i32, device)
    })?;
    Ok(CStr::from_bytes_until_nul(&name)
        .map_or_else(|_| "unnamed".into(), |name| name.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_before_cuda_12_are_too_old() {
        assert_eq!(require_version(12_000), Ok(12_000));
        let error = require_version(11_080).unwrap_err();
        assert_eq!(error, Error::DriverTooOld { found: 11_080, needed: 12_000 });
        assert!(error.to_string().contains("CUDA 11.8, but at least 12.0"), "{error}");
    }

    #[test]
    fn only_compute_capability_9_0_is_hopper() {
        assert_eq!(require_hopper("NVIDIA H200", 9, 0), Ok(()));
        for (major, minor) in [(8, 9), (9, 1), (10, 0), (0, 9)] {
            let error = Error::NotHopper { name: "other".into(), major, minor };
            assert_eq!(require_hopper("other", major, minor), Err(error));
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let error = Context::new(usize::MAX).unwrap_err();
        assert!(
            matches!(error, Error::NoDriver { .. } | Error::NoDevice { ordinal: usize::MAX, .. }),
            "{error}"
        );
    }
}
