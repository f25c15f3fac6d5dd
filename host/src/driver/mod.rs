//! The seam between the library and a machine that runs kernels. No other module calls CUDA.

mod context;
mod cuda;
mod emulated;
mod event;
mod graph;
mod module;
mod status;

use std::any::Any;
use std::fmt::Debug;

pub use context::Entered;
pub use cuda::Cuda;
pub use emulated::{Emulated, EmulatorOptions, KernelReport};
pub use event::Event;
pub use flashcore_emulator::{Code, Completion, Counters, Finding, Level, Numerics, Report, Site};
pub use graph::Graph;

use crate::Result;
use crate::kernels::KernelImage;
use crate::tensor_map::TensorMapDesc;
use flashcore_kernels::params::TensorMap;

/// Facts of a device that plans and errors depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Number of the device, as CUDA counts.
    pub ordinal: usize,
    /// Name, such as "NVIDIA H200".
    pub name: String,
    /// Compute capability, (major, minor).
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Shared memory that a CTA may ask for, in bytes.
    pub smem_limit_bytes: u32,
    /// L2 cache, in bytes.
    pub l2_bytes: u64,
    /// Device memory, in bytes.
    pub total_memory_bytes: u64,
    /// CUDA version of the driver, as `1000 * major + 10 * minor`.
    pub driver_version: u32,
}

impl Properties {
    /// An H200 as its data sheet describes it, to plan for where there is no device.
    pub fn h200() -> Self {
        Properties {
            ordinal: 0,
            name: "NVIDIA H200".into(),
            compute_capability: (9, 0),
            sm_count: 132,
            smem_limit_bytes: flashcore_kernels::config::SMEM_LIMIT,
            l2_bytes: 50 << 20,
            total_memory_bytes: 141_000_000_000,
            driver_version: 13_000,
        }
    }
}

/// Where an address points, as seen from one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Memory of this device.
    ThisDevice,
    /// Memory of the device with this ordinal.
    OtherDevice(usize),
    /// Host memory, or no memory at all.
    NotDevice,
}

/// A kernel launch: everything that the hardware is told.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a KernelImage,
    /// CTAs in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a CTA.
    pub block: u32,
    /// CTAs of a cluster, along x; 1 means no cluster.
    pub cluster: u32,
    /// Dynamic shared memory, in bytes.
    pub smem_bytes: u32,
    /// The kernel may start while the one before it in the stream still runs: it waits itself, by
    /// `griddepcontrol.wait`, before it touches memory.
    pub overlaps_previous: bool,
    /// The bytes of each parameter, in the kernel's order.
    pub params: &'a [&'a [u8]],
}

/// Most parameters that a [`Launch`] may have.
pub const MAX_PARAMS: usize = 16;

/// A machine that runs kernels: memory, streams, tensor maps and launches.
///
/// Handles (device addresses, streams, events, graphs) are plain numbers that belong to the backend that made them;
/// [`crate::Device`], [`crate::Stream`], [`crate::Tensor`], [`Event`] and [`Graph`] own them. All methods may be
/// called from any thread.
#[allow(clippy::missing_safety_doc, reason = "one rule for all: see the trait's Safety section")]
///
/// # Safety
/// Unsafe methods take handles that must be live and of this backend, and addresses whose bytes must be allocated;
/// nothing on the device may use what they free, overwrite or read while it is still being written.
pub trait Backend: Any + Debug + Send + Sync {
    /// Facts of the device.
    fn properties(&self) -> &Properties;

    /// Makes the device the thread's own until the result is dropped. Every other method does so itself; around several
    /// of them this saves time.
    fn enter(&self) -> Result<Entered<'_>> {
        Ok(Entered::already())
    }

    /// Allocates device memory of at least one byte, aligned to 256 bytes.
    fn alloc(&self, bytes: usize) -> Result<u64>;
    /// Frees what [`Self::alloc`] gave, after the device has finished all work.
    unsafe fn free(&self, ptr: u64);
    /// Copies host bytes to the device; ordered after and before all work of the device.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()>;
    /// Copies device bytes to the host; ordered after all work of the device.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;
    /// Sets `bytes` bytes to `byte`; ordered after and before all work of the device.
    unsafe fn fill(&self, ptr: u64, byte: u8, bytes: usize) -> Result<()>;
    /// Copies device bytes to device bytes on a stream, and returns at once. The two do not overlap.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: u64) -> Result<()>;
    /// Says whose memory an address is.
    fn locate(&self, ptr: u64) -> Result<Location>;
    /// Waits for all work of the device.
    fn synchronize(&self) -> Result<()>;

    /// Creates a stream that does not wait for the default stream.
    fn create_stream(&self) -> Result<u64>;
    /// Destroys a stream; its work still completes.
    unsafe fn destroy_stream(&self, stream: u64);
    /// Whether a stream made elsewhere belongs to this backend's context.
    unsafe fn owns_stream(&self, stream: u64) -> Result<bool>;
    /// Waits for a stream's work.
    unsafe fn synchronize_stream(&self, stream: u64) -> Result<()>;

    /// Encodes a tensor map whose description was checked.
    fn encode_tensor_map(&self, desc: &TensorMapDesc) -> Result<TensorMap>;
    /// Makes a kernel ready to launch. Idempotent; a launch does it if nobody did.
    fn load(&self, kernel: &KernelImage) -> Result<()>;
    /// Launches a kernel on a stream and returns at once.
    unsafe fn launch(&self, launch: &Launch<'_>, stream: u64) -> Result<()>;

    /// Creates an event.
    fn create_event(&self) -> Result<u64>;
    /// Destroys an event.
    unsafe fn destroy_event(&self, event: u64);
    /// Records an event behind a stream's work so far.
    unsafe fn record_event(&self, event: u64, stream: u64) -> Result<()>;
    /// Makes later work of a stream wait for an event.
    unsafe fn wait_event(&self, event: u64, stream: u64) -> Result<()>;
    /// Waits for both events; milliseconds between them.
    unsafe fn elapsed_ms(&self, start: u64, end: u64) -> Result<f32>;

    /// Starts recording a stream's work instead of doing it.
    unsafe fn begin_capture(&self, stream: u64) -> Result<()>;
    /// Ends the recording and makes a graph of it.
    unsafe fn end_capture(&self, stream: u64) -> Result<u64>;
    /// Submits a graph's work to a stream.
    unsafe fn launch_graph(&self, graph: u64, stream: u64) -> Result<()>;
    /// Destroys a graph; its submitted work still completes.
    unsafe fn destroy_graph(&self, graph: u64);
}
