//! The emulated device: memory, tensor maps and launches.

use std::collections::HashMap;

use crate::ir::{Kernel, Module};
use crate::machine::{Grid, MAP_MAGIC};
use crate::memory::{self, Memory};
use crate::report::Report;
use crate::tensor_map::{TensorMap, TensorMapError};

/// When asynchronous operations happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// At once.
    Eager,
    /// As late as possible: when nothing else can run.
    #[default]
    Lazy,
    /// At random steps, by the seed.
    Random,
}

/// Arithmetic of tensor cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Exact products and sums, rounded once an instruction.
    Exact,
    /// As Hopper does: aligned to the largest exponent, cut to 25 fraction bits (FP8: 13).
    #[default]
    Hopper,
}

/// How a launch is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed of the scheduler: 0 takes warps in turn, others draw priorities.
    pub seed: u64,
    /// When asynchronous operations happen.
    pub completion: Completion,
    /// Arithmetic of tensor cores.
    pub numerics: Numerics,
    /// Whether hazards are looked for. Without, only what stops a kernel is found.
    pub checks: bool,
    /// Programmatic dependent launch: the kernel may start before the one ahead of it has ended, whose writes it may
    /// therefore not touch before `griddepcontrol.wait`.
    pub programmatic: bool,
    /// Instructions of all warps after which a launch is given up as a livelock.
    pub instruction_limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 0,
            completion: Completion::default(),
            numerics: Numerics::default(),
            checks: true,
            programmatic: false,
            instruction_limit: 1_000_000_000,
        }
    }
}

/// What a device can do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Streaming multiprocessors: CTAs that are resident together.
    pub sm_count: u32,
    /// Shared memory that a CTA may have, in bytes.
    pub shared_bytes: u32,
    /// Registers of 32 bits in a streaming multiprocessor.
    pub registers: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

impl Limits {
    /// An H200.
    pub const fn h200() -> Self {
        Limits { sm_count: 132, shared_bytes: 227 << 10, registers: 65536, memory_bytes: 141_000_000_000 }
    }
}

/// A launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// CTAs along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a CTA along x, y and z.
    pub block: [u32; 3],
    /// CTAs of a cluster along x, y and z; 1, 1, 1 means none.
    pub cluster: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// The bytes of each parameter, in order.
    pub params: &'a [&'a [u8]],
}

/// What the device refuses to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No memory left.
    #[error("{bytes} bytes do not fit in the {free} that are left")]
    OutOfMemory {
        /// Asked for.
        bytes: u64,
        /// Left.
        free: u64,
    },
    /// An address that is not allocated.
    #[error("{bytes} bytes at {address:#x} are not inside one allocation")]
    NotAllocated {
        /// Address.
        address: u64,
        /// Bytes.
        bytes: u64,
    },
    /// A launch that the hardware would refuse.
    #[error("the kernel cannot be launched so: {why}")]
    Launch {
        /// Why.
        why: String,
    },
}

/// A device: memory, tensor maps and launches. Deterministic.
#[derive(Debug)]
pub struct Device {
    limits: Limits,
    memory: Memory,
    maps: Vec<TensorMap>,
    /// Which maps there are, so that none is kept twice.
    indices: HashMap<TensorMap, usize>,
}

impl Device {
    /// A device with nothing in its memory.
    pub fn new(limits: Limits) -> Self {
        Device { limits, memory: Memory::default(), maps: Vec::new(), indices: HashMap::new() }
    }

    /// What it can do.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Allocates memory, aligned to 256 bytes. It holds no particular bytes, and a kernel that reads them is told so.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`]
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        let free = self.limits.memory_bytes - self.memory.used;
        let size = usize::try_from(bytes).ok().filter(|_| bytes <= free);
        size.and_then(|size| self.memory.alloc(size)).ok_or(DeviceError::OutOfMemory { bytes, free })
    }

    /// Frees what [`Self::alloc`] gave. Its address is never used again.
    ///
    /// # Errors
    /// [`DeviceError::NotAllocated`]
    pub fn free(&mut self, address: u64) -> Result<(), DeviceError> {
        self.memory.free(address).ok_or(DeviceError::NotAllocated { address, bytes: 0 })
    }

    /// Whether an address is inside of an allocation.
    pub fn contains(&self, address: u64) -> bool {
        self.memory.find(address, 1).is_some()
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    /// [`DeviceError::NotAllocated`]
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.part(address, bytes.len() as u64)?.copy_from_slice(bytes);
        Ok(())
    }

    /// Sets bytes of the device.
    ///
    /// # Errors
    /// [`DeviceError::NotAllocated`]
    pub fn fill(&mut self, address: u64, byte: u8, bytes: u64) -> Result<(), DeviceError> {
        self.part(address, bytes)?.fill(byte);
        Ok(())
    }

    /// Bytes of the device that are about to be written.
    fn part(&mut self, address: u64, bytes: u64) -> Result<&mut [u8], DeviceError> {
        let (allocation, at) =
            self.memory.find_mut(address, bytes).ok_or(DeviceError::NotAllocated { address, bytes })?;
        for (chunk, mask) in memory::chunks(at, bytes as usize) {
            allocation.shadow.mark_written(chunk, mask);
        }
        Ok(&mut allocation.data[at..at + bytes as usize])
    }

    /// Copies bytes from the device.
    ///
    /// # Errors
    /// [`DeviceError::NotAllocated`]
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let length = bytes.len() as u64;
        let (allocation, at) =
            self.memory.find(address, length).ok_or(DeviceError::NotAllocated { address, bytes: length })?;
        bytes.copy_from_slice(&allocation.data[at..at + bytes.len()]);
        Ok(())
    }

    /// Encodes a tensor map: 128 bytes that mean something to this device only, to be given to kernels as a parameter
    /// or through memory, at a multiple of 64 bytes.
    ///
    /// # Errors
    /// The rule that the map breaks.
    pub fn encode_tensor_map(&mut self, map: &TensorMap) -> Result<[u64; 16], TensorMapError> {
        map.check()?;
        let next = self.maps.len();
        let index = *self.indices.entry(map.clone()).or_insert(next);
        if index == next {
            self.maps.push(map.clone());
        }
        let mut words = [0; 16];
        words[..2].copy_from_slice(&[MAP_MAGIC, index as u64]);
        Ok(words)
    }

    /// Runs a kernel of `module` to its end.
    ///
    /// # Errors
    /// [`DeviceError::Launch`] if the hardware would refuse it. What a kernel does wrong is in the report.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &Kernel,
        launch: &Launch<'_>,
        options: &Options,
    ) -> Result<Report, DeviceError> {
        self.memory.forget(options.programmatic);
        let Device { limits, memory, maps, .. } = self;
        Ok(Grid::new(module, kernel, launch, options, limits, memory, maps)?.run())
    }
}
