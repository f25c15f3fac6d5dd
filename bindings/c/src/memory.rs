//! Device memory, for those who have no CUDA runtime at hand, or no GPU.

use std::ffi::c_void;

use flashcore::Device;
use flashcore::driver::Location;

use crate::call::{call, required};
use crate::device::{fc_device, opened};
use crate::status::{Failure, fc_status};

fn address(memory: *const c_void) -> u64 {
    memory.addr() as u64
}

/// Both ends of a range of device memory belong to the device, so that all of it does.
fn require_memory(device: &Device, memory: *const c_void, bytes: usize) -> Result<(), Failure> {
    let ptr = address(memory);
    let refused = Failure::NotDeviceMemory { ptr, bytes };
    let last = ptr.checked_add(bytes as u64 - 1).ok_or(refused.clone())?;
    for end in [ptr, last] {
        if device.backend().locate(end)? != Location::ThisDevice {
            return Err(refused);
        }
    }
    Ok(())
}

/// Allocates device memory, aligned to 256 bytes, with any contents; null for 0 bytes. Memory from elsewhere in the
/// primary context (cudaMalloc, PyTorch) does just as well.
///
/// # Safety
/// `memory` must be null, which is an error, or point to where the address is to be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_alloc(
    device: *const fc_device,
    bytes: usize,
    memory: *mut *mut c_void,
) -> fc_status {
    call(|| {
        let opened = opened(device)?;
        required(memory, "memory")?;
        let mut ptr = 0;
        if bytes > 0 {
            ptr = opened.device.backend().alloc(bytes)?;
            opened.allocations().insert(ptr);
        }
        // SAFETY: not null, and the caller vouches for the rest.
        unsafe { memory.write_unaligned(std::ptr::without_provenance_mut(ptr as usize)) };
        Ok(())
    })
}

/// Frees what `fc_alloc` gave, when all work of the device is done. Null is allowed and does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn fc_free(device: *const fc_device, memory: *mut c_void) -> fc_status {
    call(|| {
        let (opened, ptr) = (opened(device)?, address(memory));
        if ptr == 0 {
            return Ok(());
        }
        if !opened.allocations().remove(&ptr) {
            return Err(Failure::NotAllocated { ptr });
        }
        // SAFETY: allocated by this device, and freed once; the backend waits for work that still uses it.
        unsafe { opened.device.backend().free(ptr) };
        Ok(())
    })
}

/// Copies host memory to device memory. Waits for all work of the device, and returns when the copy is done.
///
/// # Safety
/// `from` must be null, which is an error unless `bytes` is 0, or point to `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_copy_to_device(
    device: *const fc_device,
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
) -> fc_status {
    call(|| {
        let device = &opened(device)?.device;
        if bytes == 0 {
            return Ok(());
        }
        required(from, "from")?;
        require_memory(device, to, bytes)?;
        // SAFETY: not null, and the caller vouches for the bytes; no device has more than `isize::MAX` of them.
        let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
        // SAFETY: the memory is the device's, as was checked.
        unsafe { device.backend().upload(address(to), from)? };
        Ok(())
    })
}

/// Copies device memory to host memory. Waits for all work of the device, and returns when the copy is done.
///
/// # Safety
/// `to` must be null, which is an error unless `bytes` is 0, or point to `bytes` bytes that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_copy_to_host(
    device: *const fc_device,
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
) -> fc_status {
    call(|| {
        let device = &opened(device)?.device;
        if bytes == 0 {
            return Ok(());
        }
        required(to, "to")?;
        require_memory(device, from, bytes)?;
        // The caller's bytes may be uninitialised, which a slice of them must not be.
        // SAFETY: not null, and the caller vouches for the bytes.
        unsafe { to.write_bytes(0, bytes) };
        // SAFETY: as above; no device has more than `isize::MAX` bytes.
        let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
        // SAFETY: the memory is the device's, as was checked.
        unsafe { device.backend().download(address(from), to)? };
        Ok(())
    })
}
