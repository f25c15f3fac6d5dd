//! A backend for unit tests: device memory is host memory, and launches are written down instead of done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use flashcore_kernels::params::TensorMap;

use crate::Device;
use crate::driver::{Backend, Launch, Location, Properties};
use crate::error::{Error, Result};
use crate::kernels::KernelImage;
use crate::tensor_map::TensorMapDesc;

/// Addresses from here on belong to device 1.
pub(crate) const OTHER_DEVICE: u64 = 1 << 48;
/// A stream of another context.
pub(crate) const FOREIGN_STREAM: u64 = 77;
/// Bytes that can be allocated.
pub(crate) const CAPACITY: usize = 1 << 24;

#[derive(Debug)]
pub(crate) struct Mock {
    properties: Properties,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) allocations: BTreeMap<u64, Vec<u8>>,
    pub(crate) launches: Vec<Launched>,
    pub(crate) maps: Vec<TensorMapDesc>,
    pub(crate) handles: usize,
    next_address: u64,
}

/// A launch that was asked for.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) symbol: &'static str,
    pub(crate) grid: [u32; 3],
    pub(crate) block: u32,
    pub(crate) smem_bytes: u32,
    pub(crate) overlaps_previous: bool,
    pub(crate) params: Vec<Vec<u8>>,
}

impl Mock {
    /// A mock, and a device on it.
    pub(crate) fn device() -> (Arc<Mock>, Device) {
        Mock::with(Properties::h200())
    }

    pub(crate) fn with(properties: Properties) -> (Arc<Mock>, Device) {
        let state = Mutex::new(State { next_address: 0x10_0000, ..State::default() });
        let mock = Arc::new(Mock { properties, state });
        (mock.clone(), Device::from_backend(mock))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn new_handle(&self) -> Result<u64> {
        let mut state = self.state();
        state.handles += 1;
        Ok(state.handles as u64)
    }

    fn drop_handle(&self) {
        self.state().handles -= 1;
    }
}

impl Backend for Mock {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let mut state = self.state();
        let used: usize = state.allocations.values().map(Vec::len).sum();
        if bytes > CAPACITY - used {
            return Err(Error::OutOfMemory { bytes });
        }
        let ptr = state.next_address;
        state.next_address += bytes.next_multiple_of(256) as u64;
        state.allocations.insert(ptr, vec![0xcd; bytes]);
        Ok(ptr)
    }

    unsafe fn free(&self, ptr: u64) {
        self.state().allocations.remove(&ptr).expect("freed once");
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.state().allocations.get_mut(&to).unwrap().copy_from_slice(from);
        Ok(())
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        to.copy_from_slice(&self.state().allocations[&from][..to.len()]);
        Ok(())
    }

    unsafe fn fill(&self, ptr: u64, byte: u8, _: usize) -> Result<()> {
        self.state().allocations.get_mut(&ptr).unwrap().fill(byte);
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, _: u64) -> Result<()> {
        let mut state = self.state();
        let copied = state.allocations[&from][..bytes].to_vec();
        state.allocations.get_mut(&to).unwrap()[..bytes].copy_from_slice(&copied);
        Ok(())
    }

    fn locate(&self, ptr: u64) -> Result<Location> {
        let state = self.state();
        let below = state.allocations.range(..=ptr).next_back();
        Ok(match below {
            _ if ptr >= OTHER_DEVICE => Location::OtherDevice(1),
            Some((start, bytes)) if ptr - start < bytes.len() as u64 => Location::ThisDevice,
            _ => Location::NotDevice,
        })
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn create_stream(&self) -> Result<u64> {
        self.new_handle()
    }

    unsafe fn destroy_stream(&self, _: u64) {
        self.drop_handle();
    }

    unsafe fn owns_stream(&self, stream: u64) -> Result<bool> {
        Ok(stream != FOREIGN_STREAM)
    }

    unsafe fn synchronize_stream(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn encode_tensor_map(&self, desc: &TensorMapDesc) -> Result<TensorMap> {
        let mut state = self.state();
        state.maps.push(*desc);
        Ok(TensorMap([state.maps.len() as u64 - 1; 16]))
    }

    fn load(&self, _: &KernelImage) -> Result<()> {
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>, _: u64) -> Result<()> {
        self.state().launches.push(Launched {
            symbol: launch.kernel.symbol,
            grid: launch.grid,
            block: launch.block,
            smem_bytes: launch.smem_bytes,
            overlaps_previous: launch.overlaps_previous,
            params: launch.params.iter().map(|bytes| bytes.to_vec()).collect(),
        });
        Ok(())
    }

    fn create_event(&self) -> Result<u64> {
        self.new_handle()
    }

    unsafe fn destroy_event(&self, _: u64) {
        self.drop_handle();
    }

    unsafe fn record_event(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn wait_event(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn elapsed_ms(&self, _: u64, _: u64) -> Result<f32> {
        Ok(0.0)
    }

    unsafe fn begin_capture(&self, _: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn end_capture(&self, _: u64) -> Result<u64> {
        self.new_handle()
    }

    unsafe fn launch_graph(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn destroy_graph(&self, _: u64) {
        self.drop_handle();
    }
}
