//! The log-sum-exp of each row of scores: natural logarithm, f32, -inf for rows that see no key.

use std::marker::PhantomData;

use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::{Device, Shape};

/// Bytes of the log-sum-exp of queries of this shape, if that fits.
pub(crate) fn bytes(q: Shape) -> Option<usize> {
    Shape { head_dim: size_of::<f32>(), ..q }.elements()
}

/// Log-sum-exp in device memory that somebody else owns: f32, contiguous (batch, heads, seqlen).
#[derive(Clone, Copy, Debug)]
pub struct LseView<'a> {
    ptr: u64,
    bytes: usize,
    memory: PhantomData<&'a ()>,
}

impl LseView<'_> {
    /// The output at device address `ptr` (a `CUdeviceptr`), behind which `bytes` bytes are allocated.
    ///
    /// # Safety
    /// The bytes must stay allocated for the lifetime of the result and until all work submitted with it has
    /// completed; nothing else may use them while that work runs.
    pub const unsafe fn from_raw_parts(ptr: u64, bytes: usize) -> Self {
        LseView { ptr, bytes, memory: PhantomData }
    }

    /// Device address of the first value.
    pub const fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Bytes allocated behind [`Self::ptr`].
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Log-sum-exp with device memory of its own: f32, contiguous (batch, heads, seqlen).
#[derive(Debug)]
pub struct Lse {
    memory: Memory,
}

impl Lse {
    /// Room for one value for each query, uninitialised.
    ///
    /// # Errors
    /// [`Error::ShapeOverflow`], [`Error::OutOfMemory`].
    pub fn new(device: &Device, batch: usize, heads: usize, seqlen: usize) -> Result<Self> {
        let shape = Shape { batch, seqlen, heads, head_dim: 1 };
        let bytes = bytes(shape).ok_or(Error::ShapeOverflow { shape })?;
        Ok(Lse { memory: Memory::new(device, bytes)? })
    }

    /// Values from the host, (batch, heads, seqlen).
    ///
    /// # Errors
    /// [`Error::DataLength`] if there are not as many as the sizes say, [`Error::ShapeOverflow`],
    /// [`Error::OutOfMemory`].
    pub fn from_slice(
        device: &Device,
        values: &[f32],
        batch: usize,
        heads: usize,
        seqlen: usize,
    ) -> Result<Self> {
        let shape = Shape { batch, seqlen, heads, head_dim: 1 };
        let expected = shape.elements().ok_or(Error::ShapeOverflow { shape })?;
        if values.len() != expected {
            return Err(Error::DataLength { expected, found: values.len() });
        }
        Ok(Lse { memory: Memory::from_bytes(device, bytemuck::cast_slice(values))? })
    }

    /// The values, (batch, heads, seqlen). Waits for all work of the device.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        self.memory.to_vec()
    }

    /// Sets every byte. Waits for all work of the device.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn fill_bytes(&self, byte: u8) -> Result<()> {
        self.memory.fill(byte)
    }

    /// These values, borrowed.
    pub fn view(&self) -> LseView<'_> {
        LseView { ptr: self.memory.ptr(), bytes: self.memory.bytes(), memory: PhantomData }
    }
}
