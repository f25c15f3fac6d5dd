//! The backend that is a GPU.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::driver::sys::{self, CUevent, CUgraphExec, CUmemorytype, CUpointer_attribute, CUstream};
use cudarc::driver::sys::{CUresult, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapSwizzle};
use flashcore_kernels::layout::Swizzle;
use flashcore_kernels::params::TensorMap;

use super::context::{Context, Entered};
use super::module::Modules;
use super::status::check;
use super::{Backend, Launch, Location, MAX_PARAMS, Properties};
use crate::error::{Error, Result};
use crate::kernels::KernelImage;
use crate::tensor_map::{MAX_RANK, MapElement, OobFill, TensorMapDesc};

/// A Hopper GPU, through its primary context.
#[derive(Debug)]
pub struct Cuda {
    modules: Modules,
    properties: Properties,
    context: Context,
}

impl Cuda {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// See [`crate::Device::cuda`].
    pub fn new(ordinal: usize) -> Result<Self> {
        let (context, properties) = Context::new(ordinal)?;
        Ok(Cuda { modules: Modules::default(), properties, context })
    }

    /// Makes a driver call with the context current.
    fn call(&self, name: &'static str, call: impl FnOnce() -> CUresult) -> Result<()> {
        let _entered = self.context.enter()?;
        check(name, call())
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if let Ok(_entered) = self.context.enter() {
            // Streams of others may still run our kernels.
            // SAFETY: a context is current.
            let _ = unsafe { sys::cuCtxSynchronize() };
            self.modules.clear();
        }
    }
}

fn stream_handle(raw: u64) -> CUstream {
    raw as CUstream
}

fn event_handle(raw: u64) -> CUevent {
    raw as CUevent
}

fn graph_handle(raw: u64) -> CUgraphExec {
    raw as CUgraphExec
}

// Unsafe methods: the trait's Safety section is what their callers promise, and what the driver needs.
impl Backend for Cuda {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn enter(&self) -> Result<Entered<'_>> {
        self.context.enter()
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let mut ptr = 0;
        // SAFETY: writes an address.
        let allocated = self.call("cuMemAlloc", || unsafe { sys::cuMemAlloc_v2(&mut ptr, bytes) });
        match allocated {
            Err(Error::Driver { code, .. }) if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32 => {
                Err(Error::OutOfMemory { bytes })
            }
            other => other.map(|()| ptr),
        }
    }

    unsafe fn free(&self, ptr: u64) {
        // The driver waits for the device's work itself. An error is that of earlier work; it shows at the next call.
        // SAFETY: the caller passes an allocation that nothing will use.
        let _ = self.call("cuMemFree", || unsafe { sys::cuMemFree_v2(ptr) });
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.synchronize()?;
        // SAFETY: the caller vouches for the destination.
        self.call("cuMemcpyHtoD", || unsafe { sys::cuMemcpyHtoD_v2(to, from.as_ptr().cast(), from.len()) })?;
        self.synchronize()
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.synchronize()?;
        // SAFETY: the caller vouches for the source.
        self.call("cuMemcpyDtoH", || unsafe { sys::cuMemcpyDtoH_v2(to.as_mut_ptr().cast(), from, to.len()) })
    }

    unsafe fn fill(&self, ptr: u64, byte: u8, bytes: usize) -> Result<()> {
        self.synchronize()?;
        // SAFETY: the caller vouches for the destination.
        self.call("cuMemsetD8", || unsafe { sys::cuMemsetD8_v2(ptr, byte, bytes) })?;
        self.synchronize()
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: u64) -> Result<()> {
        // SAFETY: the caller vouches for both, and passes a live stream.
        self.call("cuMemcpyDtoDAsync", || unsafe {
            sys::cuMemcpyDtoDAsync_v2(to, from, bytes, stream_handle(stream))
        })
    }

    fn locate(&self, ptr: u64) -> Result<Location> {
        let (mut memory_type, mut managed, mut ordinal): (c_uint, c_uint, c_int) = (0, 0, 0);
        let mut attributes = [
            CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            CUpointer_attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED,
            CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
        ];
        let mut values: [*mut c_void; 3] =
            [(&raw mut memory_type).cast(), (&raw mut managed).cast(), (&raw mut ordinal).cast()];
        // SAFETY: three attributes of 4 bytes at most; any address may be asked about.
        self.call("cuPointerGetAttributes", || unsafe {
            let count = attributes.len() as c_uint;
            sys::cuPointerGetAttributes(count, attributes.as_mut_ptr(), values.as_mut_ptr(), ptr)
        })?;
        // The driver answers zeros for addresses that it does not know.
        let on_device = memory_type == CUmemorytype::CU_MEMORYTYPE_DEVICE as c_uint;
        Ok(match usize::try_from(ordinal) {
            _ if managed & 1 == 1 => Location::ThisDevice,
            Ok(found) if on_device && found == self.properties.ordinal => Location::ThisDevice,
            Ok(found) if on_device => Location::OtherDevice(found),
            _ => Location::NotDevice,
        })
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: a context is current.
        self.call("cuCtxSynchronize", || unsafe { sys::cuCtxSynchronize() })
    }

    fn create_stream(&self) -> Result<u64> {
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: writes a handle.
        self.call("cuStreamCreate", || unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        Ok(stream as u64)
    }

    unsafe fn destroy_stream(&self, stream: u64) {
        // SAFETY: the caller passes a stream that nothing will use.
        let _ = self.call("cuStreamDestroy", || unsafe { sys::cuStreamDestroy_v2(stream_handle(stream)) });
    }

    unsafe fn owns_stream(&self, stream: u64) -> Result<bool> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the caller passes a live stream.
        self.call("cuStreamGetCtx", || unsafe { sys::cuStreamGetCtx(stream_handle(stream), &mut context) })?;
        Ok(context == self.context.raw())
    }

    unsafe fn synchronize_stream(&self, stream: u64) -> Result<()> {
        // SAFETY: the caller passes a live stream.
        self.call("cuStreamSynchronize", || unsafe { sys::cuStreamSynchronize(stream_handle(stream)) })
    }

    fn encode_tensor_map(&self, desc: &TensorMapDesc) -> Result<TensorMap> {
        let element_strides = [1; MAX_RANK];
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: all lists have `rank` entries (strides one less); the address is only stored.
        self.call("cuTensorMapEncodeTiled", || unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                element_code(desc.element()),
                desc.dims().len() as u32,
                std::ptr::without_provenance_mut(desc.ptr() as usize),
                desc.dims().as_ptr(),
                desc.strides_bytes().as_ptr(),
                desc.box_dims().as_ptr(),
                element_strides.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle_code(desc.swizzle_mode()),
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                fill_code(desc.oob_fill_mode()),
            )
        })?;
        Ok(TensorMap(map.opaque))
    }

    fn load(&self, kernel: &KernelImage) -> Result<()> {
        let _entered = self.context.enter()?;
        self.modules.function(kernel, self.properties.smem_limit_bytes).map(|_| ())
    }

    unsafe fn launch(&self, launch: &Launch<'_>, stream: u64) -> Result<()> {
        let _entered = self.context.enter()?;
        let function = self.modules.function(launch.kernel, self.properties.smem_limit_bytes)?;
        let mut attributes = [overlap_attribute(launch.overlaps_previous), cluster_attribute(launch.cluster)];
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.smem_bytes,
            hStream: stream_handle(stream),
            attrs: attributes.as_mut_ptr(),
            numAttrs: if launch.cluster > 1 { 2 } else { 1 },
        };
        let mut params = [std::ptr::null_mut::<c_void>(); MAX_PARAMS];
        for (slot, bytes) in params.iter_mut().zip(launch.params) {
            *slot = bytes.as_ptr().cast_mut().cast();
        }
        // SAFETY: the caller vouches for kernel, parameters and stream; the driver copies the parameters at once.
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), std::ptr::null_mut())
        })
    }

    fn create_event(&self) -> Result<u64> {
        let mut event = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as c_uint;
        // SAFETY: writes a handle.
        self.call("cuEventCreate", || unsafe { sys::cuEventCreate(&mut event, flags) })?;
        Ok(event as u64)
    }

    unsafe fn destroy_event(&self, event: u64) {
        // SAFETY: the caller passes an event that nothing will use.
        let _ = self.call("cuEventDestroy", || unsafe { sys::cuEventDestroy_v2(event_handle(event)) });
    }

    unsafe fn record_event(&self, event: u64, stream: u64) -> Result<()> {
        // SAFETY: the caller passes live handles.
        self.call("cuEventRecord", || unsafe {
            sys::cuEventRecord(event_handle(event), stream_handle(stream))
        })
    }

    unsafe fn wait_event(&self, event: u64, stream: u64) -> Result<()> {
        // SAFETY: the caller passes live handles.
        self.call("cuStreamWaitEvent", || unsafe {
            sys::cuStreamWaitEvent(stream_handle(stream), event_handle(event), 0)
        })
    }

    unsafe fn elapsed_ms(&self, start: u64, end: u64) -> Result<f32> {
        for event in [start, end] {
            // SAFETY: the caller passes live events.
            self.call("cuEventSynchronize", || unsafe { sys::cuEventSynchronize(event_handle(event)) })?;
        }
        let _entered = self.context.enter()?;
        self.context.elapsed_ms(event_handle(start), event_handle(end))
    }

    unsafe fn begin_capture(&self, stream: u64) -> Result<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the caller passes a live stream.
        self.call("cuStreamBeginCapture", || unsafe {
            sys::cuStreamBeginCapture_v2(stream_handle(stream), mode)
        })
    }

    unsafe fn end_capture(&self, stream: u64) -> Result<u64> {
        let (mut recorded, mut graph) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the caller passes a live stream.
        self.call("cuStreamEndCapture", || unsafe {
            sys::cuStreamEndCapture(stream_handle(stream), &mut recorded)
        })?;
        // SAFETY: a graph that was just recorded.
        let made = self.call("cuGraphInstantiate", || unsafe {
            sys::cuGraphInstantiateWithFlags(&mut graph, recorded, 0)
        });
        // SAFETY: the executable graph is a copy; the recording is used no more.
        self.call("cuGraphDestroy", || unsafe { sys::cuGraphDestroy(recorded) })?;
        made.map(|()| graph as u64)
    }

    unsafe fn launch_graph(&self, graph: u64, stream: u64) -> Result<()> {
        // SAFETY: the caller passes live handles, and vouches for the memory that the graph uses.
        self.call("cuGraphLaunch", || unsafe {
            sys::cuGraphLaunch(graph_handle(graph), stream_handle(stream))
        })
    }

    unsafe fn destroy_graph(&self, graph: u64) {
        // SAFETY: the caller passes a graph that nothing will use.
        let _ = self.call("cuGraphExecDestroy", || unsafe { sys::cuGraphExecDestroy(graph_handle(graph)) });
    }
}

fn overlap_attribute(overlaps_previous: bool) -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue {
            programmaticStreamSerializationAllowed: overlaps_previous.into(),
        },
    }
}

fn cluster_attribute(ctas: u32) -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue {
            clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: ctas, y: 1, z: 1 },
        },
    }
}

fn element_code(element: MapElement) -> CUtensorMapDataType {
    use CUtensorMapDataType::*;
    match element {
        MapElement::U8 => CU_TENSOR_MAP_DATA_TYPE_UINT8,
        MapElement::U16 => CU_TENSOR_MAP_DATA_TYPE_UINT16,
        MapElement::U32 => CU_TENSOR_MAP_DATA_TYPE_UINT32,
        MapElement::F16 => CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        MapElement::Bf16 => CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        MapElement::F32 => CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    }
}

fn swizzle_code(swizzle: Swizzle) -> CUtensorMapSwizzle {
    match swizzle {
        Swizzle::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::B32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::B64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::B128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    }
}

fn fill_code(fill: OobFill) -> CUtensorMapFloatOOBfill {
    match fill {
        OobFill::Zero => CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        OobFill::Nan => CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
    }
}
