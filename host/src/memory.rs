//! Device memory with an owner.

use crate::{Device, Result};

/// An allocation of a device; none is made for 0 bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    device: Device,
    ptr: u64,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(device: &Device, bytes: usize) -> Result<Self> {
        let ptr = if bytes == 0 { 0 } else { device.backend().alloc(bytes)? };
        Ok(Memory { device: device.clone(), ptr, bytes })
    }

    pub(crate) fn from_bytes(device: &Device, data: &[u8]) -> Result<Self> {
        let memory = Memory::new(device, data.len())?;
        if !data.is_empty() {
            // SAFETY: the allocation is live and as long as the data.
            unsafe { device.backend().upload(memory.ptr, data)? };
        }
        Ok(memory)
    }

    /// The whole memory as values; bytes beyond the last whole value are left out.
    pub(crate) fn to_vec<T: bytemuck::Pod>(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.bytes / size_of::<T>()];
        if !values.is_empty() {
            // SAFETY: the allocation is live and at least as long as the values.
            unsafe { self.device.backend().download(self.ptr, bytemuck::cast_slice_mut(&mut values))? };
        }
        Ok(values)
    }

    pub(crate) fn fill(&self, byte: u8) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        // SAFETY: the allocation is live.
        unsafe { self.device.backend().fill(self.ptr, byte, self.bytes) }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn ptr(&self) -> u64 {
        self.ptr
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: made by this backend, freed once; the backend waits for work that still uses it.
            unsafe { self.device.backend().free(self.ptr) }
        }
    }
}
