//! Running a call on a device.

use flashcore::Device;
use flashcore::driver::Launch;
use flashcore::tensor_map::{MapElement, OobFill, TensorMapDesc};
use flashcore_kernels::params::TensorMap;
use flashcore_kernels::probe::{PROBE_SMEM, PROBES, ProbeArgs};
use flashcore_tests::probes;

use crate::call::{Bytes, Call, Element, MARGIN, Outcome, Tensor};

/// What the output holds before: no micro-kernel writes only this.
const POISON: u8 = 0xA7;

/// Device memory that is freed when dropped.
struct Buffer<'a> {
    device: &'a Device,
    ptr: u64,
    bytes: usize,
}

impl<'a> Buffer<'a> {
    /// A copy of `data`, and at least one byte of memory.
    fn new(device: &'a Device, data: &[u8]) -> flashcore::Result<Self> {
        let buffer = Buffer { device, ptr: device.backend().alloc(data.len().max(1))?, bytes: data.len() };
        if !data.is_empty() {
            // SAFETY: as many bytes were just allocated.
            unsafe { device.backend().upload(buffer.ptr, data)? };
        }
        Ok(buffer)
    }

    fn read(&self) -> flashcore::Result<Vec<u8>> {
        let mut data = vec![0; self.bytes];
        if !data.is_empty() {
            // SAFETY: the memory is live and as long.
            unsafe { self.device.backend().download(self.ptr, &mut data)? };
        }
        Ok(data)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed once; the backend waits for work that still uses it.
        unsafe { self.device.backend().free(self.ptr) }
    }
}

/// The tensor map of `tensor`, whose memory lies at `ptr`.
fn encode(device: &Device, tensor: &Tensor, ptr: u64) -> flashcore::Result<TensorMap> {
    let element = match tensor.element {
        Element::U8 => MapElement::U8,
        Element::F16 => MapElement::F16,
        Element::F32 => MapElement::F32,
    };
    let fill = if tensor.nan_fill { OobFill::Nan } else { OobFill::Zero };
    let start = ptr + MARGIN as u64;
    let desc = TensorMapDesc::new(start, element, &tensor.dims, &tensor.strides_bytes, &tensor.box_dims)?;
    device.encode_tensor_map(&desc.swizzle(tensor.pattern.library()).oob_fill(fill))
}

/// What the device makes of a call.
pub(crate) fn run(device: &Device, call: &Call) -> flashcore::Result<Outcome> {
    let probe = PROBES.iter().find(|probe| probe.symbol == call.symbol).expect("a known micro-kernel");
    let input = Buffer::new(device, &call.input.0)?;
    let output = Buffer::new(device, &vec![POISON; call.output_bytes])?;
    let memory = call.tensor.as_ref().map(|tensor| Buffer::new(device, &tensor.memory.0)).transpose()?;
    let map = match (&call.tensor, &memory) {
        (Some(tensor), Some(memory)) => encode(device, tensor, memory.ptr)?,
        _ => TensorMap([0; 16]),
    };
    let args = ProbeArgs {
        input: input.ptr,
        output: output.ptr,
        desc_a: call.desc_a,
        desc_b: call.desc_b,
        bytes: call.bytes,
        words: call.words,
    };
    // SAFETY: `repr(C)`, 4 * 8 + 6 * 4 = 56 bytes (asserted where it is declared), so no padding.
    let args = unsafe { std::slice::from_raw_parts((&raw const args).cast::<u8>(), size_of::<ProbeArgs>()) };
    let launch = Launch {
        kernel: probes::image(probe.symbol).expect("every micro-kernel is embedded"),
        grid: [probe.cluster, 1, 1],
        block: probe.threads,
        cluster: probe.cluster,
        smem_bytes: PROBE_SMEM,
        overlaps_previous: false,
        params: &[bytemuck::bytes_of(&map.0), args],
    };
    let stream = device.stream()?;
    // SAFETY: parameters and launch shape are those of every micro-kernel; the buffers are as large as the call says
    // and live until the end of this function, which waits.
    unsafe { stream.launch(&launch)? };
    stream.synchronize()?;
    let changed = |tensor: &Tensor, now: Vec<u8>| (now != tensor.memory.0).then_some(Bytes(now));
    Ok(Outcome {
        output: Bytes(output.read()?),
        memory: match (&call.tensor, memory) {
            (Some(tensor), Some(memory)) => changed(tensor, memory.read()?),
            _ => None,
        },
    })
}
