//! Devices and streams.

use std::any::Any;
use std::sync::Arc;

use flashcore_kernels::params::TensorMap;

use crate::driver::{Backend, Emulated, EmulatorOptions, Properties};
use crate::error::{Error, Result};
use crate::kernels::{self, KernelImage};
use crate::tensor_map::TensorMapDesc;

/// A GPU, or what stands in for one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Device {
    backend: Arc<dyn Backend>,
}

impl Device {
    /// The CUDA device with this number, through its primary context: pointers and streams of other libraries that
    /// use the primary context (cudarc, cust, candle, PyTorch) work as they are.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::NoDevice`], [`Error::NotHopper`], or what the driver
    /// refuses. Never panics for want of a driver.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Device::from_backend(Arc::new(crate::driver::Cuda::new(ordinal)?)))
    }

    /// An H200 that is a program: it runs the PTX of the kernels on the CPU, instruction by instruction, gives the bits
    /// that the hardware's documents promise, and looks for races and other hazards meanwhile. For tests, and to try
    /// the library where there is no GPU.
    ///
    /// It is half a million times slower than a GPU: one GFLOP takes about a second, one head of 512 tokens and
    /// head_dim 128 a seventh of that. Development builds need `[profile.dev.package.flashcore-emulator] opt-level = 3`
    /// for it.
    ///
    /// Launches return when the work is done, and fail with [`Error::Hazards`] if the kernel was wrong. Time cannot be
    /// measured: [`crate::driver::Event::elapsed_ms`] gives [`Error::NoClock`].
    pub fn emulated() -> Self {
        Device::emulated_with(&EmulatorOptions::default())
    }

    /// As [`Self::emulated`], with another order of events, other arithmetic or fewer checks.
    pub fn emulated_with(options: &EmulatorOptions) -> Self {
        Device::from_backend(Arc::new(Emulated::new(options)))
    }

    /// The first CUDA device, or, on a machine without a Hopper GPU, an emulated one. [`Self::emulator`] tells which.
    ///
    /// # Errors
    /// [`Error::DriverTooOld`], or what the driver refuses: there may be a GPU, which somebody should look at.
    pub fn cuda_or_emulated() -> Result<Self> {
        match Device::cuda(0) {
            Err(Error::NoDriver { .. } | Error::NoDevice { .. } | Error::NotHopper { .. }) => {
                Ok(Device::emulated())
            }
            other => other,
        }
    }

    /// The emulator behind this device, if it is an emulated one: what its kernels did, and what was found.
    pub fn emulator(&self) -> Option<&Emulated> {
        let backend: &dyn Any = &*self.backend;
        backend.downcast_ref()
    }

    /// A device on a backend of the caller's.
    pub fn from_backend(backend: Arc<dyn Backend>) -> Self {
        Device { backend }
    }

    /// What runs the kernels.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Facts of the device.
    pub fn properties(&self) -> &Properties {
        self.backend.properties()
    }

    /// Whether both are clones of one value, so that handles of one mean something to the other.
    pub(crate) fn require_same(&self, other: &Device) -> Result<()> {
        if Arc::ptr_eq(&self.backend, &other.backend) { Ok(()) } else { Err(Error::MixedDevices) }
    }

    /// A new stream, which does not wait for the default stream.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn stream(&self) -> Result<Stream> {
        Ok(Stream { raw: self.backend.create_stream()?, owned: true, device: self.clone() })
    }

    /// Waits for all work of the device.
    ///
    /// # Errors
    /// What the driver refuses, or the failure of earlier work.
    pub fn synchronize(&self) -> Result<()> {
        self.backend.synchronize()
    }

    /// Loads every kernel of the library now; otherwise each is loaded by the first call that needs it.
    ///
    /// # Errors
    /// [`Error::KernelRefused`], or what the driver refuses.
    pub fn preload(&self) -> Result<()> {
        kernels::IMAGES.iter().try_for_each(|kernel| self.load(kernel))
    }

    /// Makes a kernel ready to launch. Idempotent.
    ///
    /// # Errors
    /// [`Error::KernelRefused`], or what the driver refuses.
    pub fn load(&self, kernel: &KernelImage) -> Result<()> {
        self.backend.load(kernel)
    }

    /// Checks and encodes a tensor map.
    ///
    /// # Errors
    /// [`Error::TensorMap`] with the rule that is broken, or what the driver refuses.
    pub fn encode_tensor_map(&self, desc: &TensorMapDesc) -> Result<TensorMap> {
        desc.check()?;
        self.backend.encode_tensor_map(desc)
    }
}

/// A queue of work on a device.
#[derive(Debug)]
pub struct Stream {
    device: Device,
    raw: u64,
    owned: bool,
}

impl Stream {
    /// Borrows a stream made elsewhere: a `CUstream` as a number (0 is the default stream).
    ///
    /// # Errors
    /// [`Error::WrongStream`] if it belongs to another context than the device's primary one.
    ///
    /// # Safety
    /// `raw` must be a stream, and outlive the result.
    pub unsafe fn from_raw(device: &Device, raw: u64) -> Result<Self> {
        // SAFETY: the caller vouches for the handle.
        if unsafe { device.backend.owns_stream(raw)? } {
            Ok(Stream { device: device.clone(), raw, owned: false })
        } else {
            Err(Error::WrongStream { raw, ordinal: device.properties().ordinal })
        }
    }

    /// The `CUstream` as a number.
    pub fn raw(&self) -> u64 {
        self.raw
    }

    /// The device of this stream.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits for this stream's work.
    ///
    /// # Errors
    /// What the driver refuses, or the failure of earlier work.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is live.
        unsafe { self.device.backend.synchronize_stream(self.raw) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: made by this backend, destroyed once.
            unsafe { self.device.backend.destroy_stream(self.raw) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Event, Graph};
    use crate::mock::{FOREIGN_STREAM, Mock};

    #[test]
    fn a_cuda_device_that_is_not_there_is_an_error() {
        let error = Device::cuda(usize::MAX).unwrap_err();
        assert!(matches!(error, Error::NoDriver { .. } | Error::NoDevice { .. }), "{error}");
    }

    #[test]
    fn borrowed_streams_belong_to_the_device_and_are_not_destroyed() {
        let (mock, device) = Mock::device();
        // SAFETY: the mock's streams are numbers.
        let foreign = unsafe { Stream::from_raw(&device, FOREIGN_STREAM) };
        assert_eq!(foreign.map(|_| ()), Err(Error::WrongStream { raw: FOREIGN_STREAM, ordinal: 0 }));
        let owned = device.stream().unwrap();
        // SAFETY: as above.
        drop(unsafe { Stream::from_raw(&device, owned.raw()) }.unwrap());
        assert_eq!(mock.state().handles, 1);
        drop(owned);
        assert_eq!(mock.state().handles, 0);
    }

    #[test]
    fn events_and_graphs_stay_on_their_device() {
        let ((_a, here), (_b, there)) = (Mock::device(), Mock::device());
        let (stream, other) = (here.stream().unwrap(), there.stream().unwrap());
        let event = Event::new(&here).unwrap();
        assert_eq!(event.record(&stream), Ok(()));
        assert_eq!(event.record(&other), Err(Error::MixedDevices));
        assert_eq!(event.block(&other), Err(Error::MixedDevices));
        assert_eq!(event.elapsed_ms(&Event::new(&there).unwrap()), Err(Error::MixedDevices));
        let graph = Graph::capture(&stream, |_| Ok(())).unwrap();
        // SAFETY: the graph is empty.
        assert_eq!(unsafe { graph.launch(&other) }, Err(Error::MixedDevices));
    }

    #[test]
    fn illegal_tensor_maps_do_not_reach_the_backend() {
        let (mock, device) = Mock::device();
        let desc = TensorMapDesc::new(0x1001, crate::tensor_map::MapElement::U8, &[16], &[], &[16]).unwrap();
        let address = crate::tensor_map::TensorMapError::Address { ptr: 0x1001 };
        assert_eq!(device.encode_tensor_map(&desc), Err(Error::TensorMap(address)));
        assert!(mock.state().maps.is_empty());
    }
}
