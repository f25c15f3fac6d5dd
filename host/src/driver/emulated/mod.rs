//! The backend that is a program: the kernels' PTX, run instruction by instruction on the CPU.

mod handles;
mod modules;
mod options;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flashcore_emulator as emulator;
use flashcore_emulator::ir::Module;
use flashcore_emulator::{DeviceError, Element, Limits, Report};
use flashcore_kernels::layout::Swizzle;
use flashcore_kernels::params::TensorMap;

use self::handles::{Handles, MemoryCopy, OwnedLaunch, Recorded};
use self::modules::Parsed;
pub use self::options::EmulatorOptions;
use super::{Backend, Launch, Location, Properties};
use crate::error::{Error, Result};
use crate::kernels::KernelImage;
use crate::tensor_map::{MapElement, OobFill, TensorMapDesc};

/// An emulated H200: see [`crate::Device::emulated`].
#[derive(Debug)]
pub struct Emulated {
    properties: Properties,
    options: emulator::Options,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    device: emulator::Device,
    handles: Handles,
    reports: BTreeMap<&'static str, KernelReport>,
    substitutes: BTreeMap<String, Module>,
}

/// What the launches of one kernel did, together.
#[derive(Clone, Debug)]
pub struct KernelReport {
    /// The kernel.
    pub symbol: &'static str,
    /// Launches.
    pub launches: u64,
    /// Their counters, summed; every finding once, with how often it happened in all.
    pub report: Report,
}

impl Emulated {
    /// A device with nothing in its memory.
    pub fn new(options: &EmulatorOptions) -> Self {
        let limits = Limits { sm_count: options.sm_count, ..Limits::h200() };
        let properties = Properties {
            name: "emulated H200".into(),
            sm_count: limits.sm_count,
            smem_limit_bytes: limits.shared_bytes,
            total_memory_bytes: limits.memory_bytes,
            ..Properties::h200()
        };
        let device = emulator::Device::new(limits);
        let state = State {
            device,
            handles: Handles::default(),
            reports: BTreeMap::new(),
            substitutes: BTreeMap::new(),
        };
        Emulated { properties, options: options.of_launch(), state: Mutex::new(state) }
    }

    /// What each kernel did since the last call of this function, by name: counters and warnings of all its launches,
    /// and what was wrong with those that failed.
    pub fn take_reports(&self) -> Vec<KernelReport> {
        std::mem::take(&mut self.state().reports).into_values().collect()
    }

    /// Runs the kernels of `module` from now on wherever kernels of their names are launched: mutants, experiments.
    pub fn substitute(&self, module: Module) {
        let names: Vec<_> = module.kernels.iter().map(|kernel| kernel.name.clone()).collect();
        let substitutes = &mut self.state().substitutes;
        substitutes.extend(names.into_iter().map(|name| (name, module.clone())));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Runs a kernel to its end.
    fn run(&mut self, launch: &Launch<'_>, options: &emulator::Options) -> Result<()> {
        let (symbol, parsed) = (launch.kernel.symbol, Parsed::of(launch.kernel)?);
        let (module, kernel) = match self.substitutes.get(symbol) {
            Some(module) => {
                (module, module.kernel(symbol).expect("it is kept under the names of its kernels"))
            }
            None => (parsed.module(), parsed.kernel()),
        };
        let arguments = emulator::Launch {
            grid: launch.grid,
            block: [launch.block, 1, 1],
            cluster: [launch.cluster, 1, 1],
            shared_bytes: launch.smem_bytes,
            params: launch.params,
        };
        let options = emulator::Options { programmatic: launch.overlaps_previous, ..options.clone() };
        let report = self.device.launch(module, kernel, &arguments, &options).map_err(refused)?;
        let outcome = if report.is_clean() {
            Ok(())
        } else {
            Err(Error::Hazards { symbol, report: Box::new(report.clone()) })
        };
        match self.reports.get_mut(symbol) {
            Some(sum) => {
                sum.launches += 1;
                sum.report.absorb(report);
            }
            None => {
                self.reports.insert(symbol, KernelReport { symbol, launches: 1, report });
            }
        }
        outcome
    }

    /// Runs a kernel, or records it if the stream records.
    fn submit(&mut self, launch: &Launch<'_>, stream: u64, options: &emulator::Options) -> Result<()> {
        match self.handles.recording(stream)? {
            Some(recording) => {
                recording.push(Recorded::Launch(OwnedLaunch::new(launch)));
                Ok(())
            }
            None => self.run(launch, options),
        }
    }

    /// Copies, or records the copy if the stream records.
    fn copy(&mut self, copy: MemoryCopy, stream: u64) -> Result<()> {
        if let Some(recording) = self.handles.recording(stream)? {
            recording.push(Recorded::Copy(copy));
            return Ok(());
        }
        let mut bytes = vec![0; copy.bytes];
        self.device.read(copy.from, &mut bytes).map_err(refused)?;
        self.device.write(copy.to, &bytes).map_err(refused)
    }
}

fn refused(error: DeviceError) -> Error {
    match error {
        DeviceError::OutOfMemory { bytes, .. } => Error::OutOfMemory { bytes: bytes as usize },
        other => Error::EmulatorRefused { reason: other.to_string() },
    }
}

// All work is done when it is submitted, in order, so that nothing is ever waited for.
impl Backend for Emulated {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.state().device.alloc(bytes as u64).map_err(refused)
    }

    unsafe fn free(&self, ptr: u64) {
        // The trait gives errors no way out; what is not allocated is not there afterwards either.
        let _ = self.state().device.free(ptr);
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.state().device.write(to, from).map_err(refused)
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.state().device.read(from, to).map_err(refused)
    }

    unsafe fn fill(&self, ptr: u64, byte: u8, bytes: usize) -> Result<()> {
        self.state().device.fill(ptr, byte, bytes as u64).map_err(refused)
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: u64) -> Result<()> {
        self.state().copy(MemoryCopy { to, from, bytes }, stream)
    }

    fn locate(&self, ptr: u64) -> Result<Location> {
        let here = self.state().device.contains(ptr);
        Ok(if here { Location::ThisDevice } else { Location::NotDevice })
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn create_stream(&self) -> Result<u64> {
        Ok(self.state().handles.create_stream())
    }

    unsafe fn destroy_stream(&self, stream: u64) {
        self.state().handles.destroy_stream(stream);
    }

    unsafe fn owns_stream(&self, stream: u64) -> Result<bool> {
        Ok(self.state().handles.owns_stream(stream))
    }

    unsafe fn synchronize_stream(&self, stream: u64) -> Result<()> {
        self.state().handles.require_not_recording(stream)
    }

    fn encode_tensor_map(&self, desc: &TensorMapDesc) -> Result<TensorMap> {
        let map = tensor_map(desc);
        let encoded = self.state().device.encode_tensor_map(&map);
        encoded.map(TensorMap).map_err(|error| Error::EmulatorRefused { reason: error.to_string() })
    }

    fn load(&self, kernel: &KernelImage) -> Result<()> {
        Parsed::of(kernel).map(|_| ())
    }

    unsafe fn launch(&self, launch: &Launch<'_>, stream: u64) -> Result<()> {
        self.state().submit(launch, stream, &self.options)
    }

    fn create_event(&self) -> Result<u64> {
        Ok(self.state().handles.create_event())
    }

    unsafe fn destroy_event(&self, event: u64) {
        self.state().handles.destroy_event(event);
    }

    unsafe fn record_event(&self, event: u64, stream: u64) -> Result<()> {
        let mut state = self.state();
        state.handles.require_event(event)?;
        state.handles.require_not_recording(stream)
    }

    unsafe fn wait_event(&self, event: u64, stream: u64) -> Result<()> {
        let mut state = self.state();
        state.handles.require_event(event)?;
        state.handles.require_not_recording(stream)
    }

    unsafe fn elapsed_ms(&self, _: u64, _: u64) -> Result<f32> {
        Err(Error::NoClock)
    }

    unsafe fn begin_capture(&self, stream: u64) -> Result<()> {
        self.state().handles.begin_recording(stream)
    }

    unsafe fn end_capture(&self, stream: u64) -> Result<u64> {
        self.state().handles.end_recording(stream)
    }

    unsafe fn launch_graph(&self, graph: u64, stream: u64) -> Result<()> {
        let mut state = self.state();
        let work = state.handles.graph(graph)?.to_vec();
        work.iter().try_for_each(|work| match work {
            Recorded::Launch(launch) => launch.replay(|launch| state.submit(launch, stream, &self.options)),
            Recorded::Copy(copy) => state.copy(*copy, stream),
        })
    }

    unsafe fn destroy_graph(&self, graph: u64) {
        self.state().handles.destroy_graph(graph);
    }
}

fn tensor_map(desc: &TensorMapDesc) -> emulator::TensorMap {
    let element = match desc.element() {
        MapElement::U8 => Element::U8,
        MapElement::U16 => Element::U16,
        MapElement::U32 => Element::U32,
        MapElement::F16 => Element::F16,
        MapElement::Bf16 => Element::Bf16,
        MapElement::F32 => Element::F32,
    };
    let swizzle = match desc.swizzle_mode() {
        Swizzle::None => emulator::Swizzle::None,
        Swizzle::B32 => emulator::Swizzle::B32,
        Swizzle::B64 => emulator::Swizzle::B64,
        Swizzle::B128 => emulator::Swizzle::B128,
    };
    let oob_fill = match desc.oob_fill_mode() {
        OobFill::Zero => emulator::OobFill::Zero,
        OobFill::Nan => emulator::OobFill::Nan,
    };
    emulator::TensorMap {
        address: desc.ptr(),
        element,
        dims: desc.dims().to_vec(),
        strides: desc.strides_bytes().to_vec(),
        box_dims: desc.box_dims().to_vec(),
        element_strides: vec![1; desc.dims().len()],
        swizzle,
        oob_fill,
    }
}
