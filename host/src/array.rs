//! Numbers in device memory beside the tensors: lengths, logits, slopes.

use std::marker::PhantomData;

use flashcore_kernels::score_mod::{Number, Numbers};

use crate::Device;
use crate::error::Result;
use crate::memory::Memory;

/// Numbers in device memory that somebody else owns, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArrayView<'a, T> {
    ptr: u64,
    len: usize,
    memory: PhantomData<&'a T>,
}

impl<T> ArrayView<'_, T> {
    /// The `len` numbers at device address `ptr` (a `CUdeviceptr`).
    ///
    /// # Safety
    /// They must stay allocated for the lifetime of the result and until all work submitted with it has completed;
    /// nothing else may write them while that work runs.
    pub const unsafe fn from_raw_parts(ptr: u64, len: usize) -> Self {
        ArrayView { ptr, len, memory: PhantomData }
    }

    /// The same for a function of scores: see [`crate::Attention::score_mod`].
    pub const fn numbers(&self) -> Numbers<T>
    where
        T: Number,
    {
        Numbers::at(self.ptr)
    }

    /// Device address of the first number.
    pub const fn ptr(&self) -> u64 {
        self.ptr
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Numbers with device memory of their own.
#[derive(Debug)]
pub struct Array<T> {
    memory: Memory,
    numbers: PhantomData<T>,
}

impl<T: bytemuck::Pod> Array<T> {
    /// A copy of `numbers` in device memory.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn from_slice(device: &Device, numbers: &[T]) -> Result<Self> {
        Ok(Array { memory: Memory::from_bytes(device, bytemuck::cast_slice(numbers))?, numbers: PhantomData })
    }

    /// Room for `len` numbers, uninitialised.
    pub(crate) fn uninit(device: &Device, len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>());
        Ok(Array { memory: Memory::new(device, bytes)?, numbers: PhantomData })
    }

    /// The same, all 0.
    pub(crate) fn zeros(device: &Device, len: usize) -> Result<Self> {
        let array = Array::uninit(device, len)?;
        array.memory.fill(0)?;
        Ok(array)
    }

    /// The numbers. Waits for all work of the device.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.memory.to_vec()
    }

    /// These numbers, borrowed.
    pub fn view(&self) -> ArrayView<'_, T> {
        ArrayView { ptr: self.memory.ptr(), len: self.memory.bytes() / size_of::<T>(), memory: PhantomData }
    }
}
