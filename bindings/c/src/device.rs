//! Devices: opened, looked up by handle, closed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use flashcore::{Device, Stream};

use crate::call::{call, require_size, required};
use crate::fp8::Rooms;
use crate::status::{Failure, fc_status};

/// An open device. Handles are not memory: they are never dereferenced, and no number is given twice, so that using one
/// after `fc_device_close` is an error and not a crash.
pub struct fc_device {
    _opaque: (),
}

/// A device, the memory that `fc_alloc` gave of it, and the rooms of `fc_fp8_qkv_create`.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) device: Device,
    allocations: Mutex<BTreeSet<u64>>,
    rooms: Mutex<Rooms>,
}

impl Opened {
    /// Addresses that `fc_alloc` gave and `fc_free` did not take back.
    pub(crate) fn allocations(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rooms that were made and not destroyed.
    pub(crate) fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller's stream.
    ///
    /// # Safety
    /// It must be a stream, and live as long as the result.
    pub(crate) unsafe fn stream(&self, stream: *mut c_void) -> Result<Stream, Failure> {
        // SAFETY: the caller vouches for the stream.
        Ok(unsafe { Stream::from_raw(&self.device, stream.addr() as u64)? })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        for &ptr in self.allocations().iter() {
            // SAFETY: allocated by this device, freed once; who closes a device has no more work on its memory.
            unsafe { self.device.backend().free(ptr) }
        }
    }
}

/// Open devices by the numbers that their handles are.
static OPEN: RwLock<BTreeMap<usize, Arc<Opened>>> = RwLock::new(BTreeMap::new());

/// A number that no handle is.
pub(crate) fn next_handle() -> usize {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

fn open(device: Device) -> *mut fc_device {
    let number = next_handle();
    let opened = Opened { device, allocations: Mutex::default(), rooms: Mutex::default() };
    OPEN.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(opened));
    std::ptr::without_provenance_mut(number)
}

/// The device of a handle. A call that holds it outlives the closing of the handle.
pub(crate) fn opened(handle: *const fc_device) -> Result<Arc<Opened>, Failure> {
    let open = OPEN.read().unwrap_or_else(PoisonError::into_inner);
    open.get(&handle.addr()).cloned().ok_or(Failure::DeviceHandle { handle: handle.addr() })
}

/// All devices that are open.
pub(crate) fn all_opened() -> Vec<Arc<Opened>> {
    OPEN.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
}

/// Opens CUDA device `ordinal`, through its primary context: memory and streams of the CUDA runtime, of PyTorch and of
/// everything else in that context can be used as they are. Each call gives a new handle.
///
/// # Safety
/// `device` must be null, which is an error, or point to where the handle is to be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_device_open_cuda(ordinal: u32, device: *mut *mut fc_device) -> fc_status {
    call(|| {
        required(device, "device")?;
        let handle = open(Device::cuda(ordinal as usize)?);
        // SAFETY: not null, and the caller vouches for the rest.
        unsafe { device.write_unaligned(handle) };
        Ok(())
    })
}

/// Opens an H200 that is a program: it runs the kernels on the CPU, about half a million times slower than a GPU, and
/// looks for races meanwhile. Its memory is its own: `fc_alloc` gives addresses that only this device understands. Its
/// only stream is null, and calls return when the work is done.
///
/// # Safety
/// `device` must be null, which is an error, or point to where the handle is to be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_device_open_emulated(device: *mut *mut fc_device) -> fc_status {
    call(|| {
        required(device, "device")?;
        // SAFETY: not null, and the caller vouches for the rest.
        unsafe { device.write_unaligned(open(Device::emulated())) };
        Ok(())
    })
}

/// Closes a device, when its work is done. Memory that `fc_alloc` gave is freed with it, rooms of `fc_fp8_qkv_create` are
/// destroyed, and kernels are unloaded: graphs that recorded calls must not be launched any more. Calls that other threads
/// are in still come to their end.
#[unsafe(no_mangle)]
pub extern "C" fn fc_device_close(device: *mut fc_device) -> fc_status {
    call(|| {
        let handle = device.addr();
        let closed = OPEN.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        closed.map(drop).ok_or(Failure::DeviceHandle { handle })
    })
}

/// Facts of a device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fc_device_properties {
    /// `sizeof(fc_device_properties)`, set by the caller.
    pub struct_size: usize,
    /// Device memory, in bytes.
    pub total_memory_bytes: u64,
    /// L2 cache, in bytes.
    pub l2_bytes: u64,
    /// Number of the device, as CUDA counts; 0 for an emulated one.
    pub ordinal: u32,
    /// 1 for an emulated device, 0 for a GPU.
    pub is_emulated: u32,
    /// Compute capability, the number before the point.
    pub compute_capability_major: u32,
    /// Compute capability, the number behind the point.
    pub compute_capability_minor: u32,
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Shared memory that a thread block may ask for, in bytes.
    pub smem_limit_bytes: u32,
    /// CUDA version of the driver, as 1000 * major + 10 * minor.
    pub driver_version: u32,
    /// Name, such as "NVIDIA H200", ended by a zero byte.
    pub name: [c_char; FC_NAME_BYTES],
}

/// Bytes of a device's name, its final zero included.
pub const FC_NAME_BYTES: usize = 256;

/// Tells facts of a device.
///
/// # Safety
/// `properties` must be null, which is an error, or point to a struct whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_device_get_properties(
    device: *const fc_device,
    properties: *mut fc_device_properties,
) -> fc_status {
    call(|| {
        let device = &opened(device)?.device;
        required(properties, "properties")?;
        // SAFETY: not null, and the caller vouches for the rest.
        let struct_size = unsafe { (&raw const (*properties).struct_size).read_unaligned() };
        require_size::<fc_device_properties>(struct_size, "properties")?;
        let facts = device.properties();
        let mut name = [0; FC_NAME_BYTES];
        for (to, from) in name[..FC_NAME_BYTES - 1].iter_mut().zip(facts.name.bytes()) {
            *to = from as c_char;
        }
        let facts = fc_device_properties {
            struct_size,
            total_memory_bytes: facts.total_memory_bytes,
            l2_bytes: facts.l2_bytes,
            ordinal: facts.ordinal as u32,
            is_emulated: device.emulator().is_some().into(),
            compute_capability_major: facts.compute_capability.0,
            compute_capability_minor: facts.compute_capability.1,
            sm_count: facts.sm_count,
            smem_limit_bytes: facts.smem_limit_bytes,
            driver_version: facts.driver_version,
            name,
        };
        // SAFETY: as above; the struct is as large as ours.
        unsafe { properties.write_unaligned(facts) };
        Ok(())
    })
}

/// Loads every kernel now; otherwise each is loaded by the first call that needs it, which takes longer then.
#[unsafe(no_mangle)]
pub extern "C" fn fc_device_preload(device: *const fc_device) -> fc_status {
    call(|| Ok(opened(device)?.device.preload()?))
}

/// Waits for all work of the device. Fails if earlier work failed.
#[unsafe(no_mangle)]
pub extern "C" fn fc_device_synchronize(device: *const fc_device) -> fc_status {
    call(|| Ok(opened(device)?.device.synchronize()?))
}

/// Waits for the work of a stream. Fails if earlier work failed.
///
/// # Safety
/// `stream` must be a live stream (`CUstream` or `cudaStream_t`) or null, the default stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_stream_synchronize(device: *const fc_device, stream: *mut c_void) -> fc_status {
    call(|| {
        let opened = opened(device)?;
        // SAFETY: the caller vouches for the stream.
        Ok(unsafe { opened.stream(stream)? }.synchronize()?)
    })
}
