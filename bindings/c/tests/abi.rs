//! The functions of the interface, called as C would: the bits are those that the host crate computes, and mistakes are
//! errors.

use std::ffi::{CStr, c_char, c_void};
use std::process::ExitCode;
use std::ptr::{null, null_mut};
use std::thread;

use flashcore::driver::Graph;
use flashcore::{
    BiasLayout, Device, Dtype, Fp8, Fp8Qkv, Fp8Rounding, Plan, Slopes, block_lists, dropout_mask,
};
use flashcore_c::fc_status::*;
use flashcore_c::*;
use flashcore_tests::cases::{Case, Inputs, Layout};
use flashcore_tests::device::{Failure, OnDevice, Outputs};
use flashcore_tests::extras::{
    Bias, Blocks, Dropout, Extras, PerHead, Prefix, Ranges, block_numbers, range_numbers,
};
use flashcore_tests::merge::{self, Merge, Place, States, Sums};
use flashcore_tests::oracle::Broadcast;
use flashcore_tests::side_inputs::Lengths;
use flashcore_tests::suite::{Resource, Suite};
use flashcore_tests::values::{HostTensor, encode};

const POISON: u8 = 0xFF;
/// Lengths of sequences that lie one behind the other.
const PACKED: Lengths = Lengths::WithZeros { longest: 90 };

const DROPOUT: Dropout = Dropout { threshold: 200, seed: u64::MAX - 1, offset: 9 };

/// Devices that both sides can open.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Cuda,
    Emulated,
}

impl Kind {
    fn host(self) -> flashcore::Result<Device> {
        match self {
            Kind::Cuda => Device::cuda(0),
            Kind::Emulated => Ok(Device::emulated()),
        }
    }

    fn open(self) -> Opened {
        let mut device = null_mut();
        // SAFETY: the pointer is that of a handle.
        ok(unsafe {
            match self {
                Kind::Cuda => fc_device_open_cuda(0, &mut device),
                Kind::Emulated => fc_device_open_emulated(&mut device),
            }
        });
        Opened(device)
    }
}

fn last_error() -> String {
    // SAFETY: a C string, valid until the next call.
    unsafe { CStr::from_ptr(fc_last_error()) }.to_str().expect("UTF-8").to_owned()
}

#[track_caller]
fn ok(status: fc_status) {
    assert_eq!(status, FC_OK, "{}", last_error());
}

#[track_caller]
fn refused(status: fc_status, expected: fc_status, message: &str) {
    assert_eq!((status, last_error()), (expected, message.to_owned()));
}

/// As [`refused`], whatever the message.
#[track_caller]
fn refused_as(status: fc_status, expected: fc_status) {
    assert_eq!(status, expected, "{}", last_error());
}

/// A handle that is closed at the end.
struct Opened(*mut fc_device);

impl Opened {
    fn alloc(&self, bytes: usize) -> *mut c_void {
        let mut memory = null_mut();
        // SAFETY: the pointer is that of an address.
        ok(unsafe { fc_alloc(self.0, bytes, &mut memory) });
        memory
    }

    fn upload<T>(&self, data: &[T]) -> *mut c_void {
        let memory = self.alloc(size_of_val(data));
        // SAFETY: as many bytes as there are.
        ok(unsafe { fc_copy_to_device(self.0, memory, data.as_ptr().cast(), size_of_val(data)) });
        memory
    }

    fn download<T: Clone + Default>(&self, memory: *mut c_void, len: usize) -> Vec<T> {
        let mut data = vec![T::default(); len];
        // SAFETY: as many bytes as there are, of a type of numbers.
        ok(unsafe { fc_copy_to_host(self.0, data.as_mut_ptr().cast(), memory, size_of::<T>() * len) });
        data
    }

    fn tensor(&self, host: &HostTensor) -> fc_tensor {
        let (shape, strides) = (host.shape, host.strides);
        fc_tensor {
            data: self.upload(&host.bits),
            batch: shape.batch,
            seqlen: shape.seqlen,
            heads: shape.heads,
            head_dim: shape.head_dim,
            stride_batch: strides.batch,
            stride_seqlen: strides.seqlen,
            stride_heads: strides.heads,
            dtype: dtype_number(host.dtype),
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        fc_device_close(self.0);
    }
}

fn dtype_number(dtype: Dtype) -> i32 {
    match dtype {
        Dtype::F16 => fc_dtype::FC_F16 as i32,
        Dtype::Bf16 => fc_dtype::FC_BF16 as i32,
    }
}

const NO_BIAS: fc_bias = fc_bias { data: null(), sizes: [7; 4], strides: [7; 4], dtype: 7 };

/// A bias on the device, its rows filled up with NaN.
fn bias(device: &Opened, bias: &Broadcast<f32>, dtype: Dtype) -> fc_bias {
    let BiasLayout { sizes, strides, .. } = BiasLayout::packed(dtype, bias.sizes);
    let row = |row: &[f32]| {
        (0..strides[2]).map(|key| row.get(key).map_or(u16::MAX, |&x| encode(dtype, x))).collect()
    };
    let numbers = bias.data.chunks(sizes[3]).map(row).collect::<Vec<Vec<u16>>>().concat();
    fc_bias { data: device.upload(&numbers), sizes, strides, dtype: dtype_number(dtype) }
}

const NO_RANGES: fc_key_ranges = fc_key_ranges { data: null(), batch: 7, heads: 7, queries: 7 };

const NO_BLOCKS: fc_block_mask = fc_block_mask {
    kv_num_blocks: null(),
    kv_indices: std::ptr::without_provenance(8),
    batch: 7,
    heads: 7,
    query_blocks: 7,
    room: 7,
};

/// The ranges of a case on the device.
fn key_ranges(device: &Opened, case: &Case, inputs: &Inputs) -> fc_key_ranges {
    let Some(ranges) = &inputs.numbers.ranges else { return NO_RANGES };
    let (numbers, [batch, heads]) = range_numbers(ranges, inputs.numbers.most_keys());
    let data = device.upload(&numbers).cast_const().cast();
    fc_key_ranges { data, batch, heads, queries: case.shape_q().seqlen }
}

/// The block mask of a case on the device.
fn block_mask(device: &Opened, inputs: &Inputs) -> fc_block_mask {
    let Some(blocks) = &inputs.numbers.blocks else { return NO_BLOCKS };
    let (counts, lists, [batch, heads, query_blocks, room]) = block_numbers(blocks);
    let [kv_num_blocks, kv_indices] =
        [counts, lists].map(|numbers| device.upload(&numbers).cast_const().cast());
    fc_block_mask { kv_num_blocks, kv_indices, batch, heads, query_blocks, room }
}

/// What a case asks for. What does not count is garbage.
fn options(device: &Opened, case: &Case, inputs: &Inputs) -> fc_attention_options {
    let (extras, numbers) = (&case.extras, &inputs.numbers);
    let ints = |array: &Option<Vec<i32>>| {
        array.as_ref().map_or(null(), |array| device.upload(array).cast_const().cast())
    };
    fc_attention_options {
        struct_size: size_of::<fc_attention_options>(),
        causal: case.causal.into(),
        has_scale: case.scale.is_some().into(),
        scale: case.scale.unwrap_or(f32::NAN),
        align: if extras.top_left { fc_align::FC_ALIGN_TOP_LEFT } else { fc_align::FC_ALIGN_BOTTOM_RIGHT }
            as i32,
        window_left: extras.left.unwrap_or(7),
        window_right: extras.right.unwrap_or(7),
        has_window_left: extras.left.is_some().into(),
        has_window_right: extras.right.is_some().into(),
        chunk: extras.chunk.unwrap_or(0),
        softcap: extras.softcap.unwrap_or(0.0),
        approximate_softcap: extras.approximate_tanh.into(),
        num_sequences: case.batch,
        cu_seqlens_q: ints(&numbers.starts_q),
        cu_seqlens_kv: ints(&numbers.starts_kv),
        seqused_q: ints(&numbers.used_q),
        seqused_kv: ints(&numbers.used_kv),
        prefix: ints(&numbers.prefix),
        sinks: numbers.sinks.as_ref().map_or(null(), |sinks| device.upload(sinks).cast_const().cast()),
        num_sinks: case.heads_q,
        alibi_slopes: numbers
            .slopes
            .as_ref()
            .map_or(null(), |slopes| device.upload(&slopes.data).cast_const().cast()),
        num_alibi_slopes: numbers.slopes.as_ref().map_or(7, |slopes| slopes.data.len()),
        dropout_p: extras.dropout.map_or(0.0, |dropout| dropout.asked().p()),
        dropout_offset: extras.dropout.map_or(7, |dropout| dropout.offset),
        dropout_seed: extras.dropout.map_or(7, |dropout| dropout.seed),
        bias: numbers.bias.as_ref().map_or(NO_BIAS, |numbers| bias(device, numbers, inputs.q.dtype)),
        key_ranges: key_ranges(device, case, inputs),
        block_mask: block_mask(device, inputs),
    }
}

/// A call that is right.
struct Call {
    q: fc_tensor,
    k: fc_tensor,
    v: fc_tensor,
    out: fc_tensor,
    lse: *mut f32,
    options: fc_attention_options,
    /// What `out` held before.
    poison: HostTensor,
}

impl Call {
    fn new(device: &Opened, case: &Case, inputs: &Inputs) -> Self {
        let shape = case.shape_q();
        let poison = HostTensor::poisoned(inputs.q.dtype, shape, case.layout.output(shape));
        Call {
            q: device.tensor(&inputs.q),
            k: device.tensor(&inputs.k),
            v: device.tensor(&inputs.v),
            out: device.tensor(&poison),
            lse: device.upload(&vec![POISON; 4 * shape.batch * shape.heads * shape.seqlen]).cast(),
            options: options(device, case, inputs),
            poison,
        }
    }

    fn forward(&self, device: &Opened) -> fc_status {
        self.forward_on(device, null_mut())
    }

    fn forward_on(&self, device: &Opened, stream: *mut c_void) -> fc_status {
        let Call { q, k, v, out, lse, options, .. } = self;
        // SAFETY: the memory lives until the device is closed.
        unsafe { fc_attention_forward(device.0, stream, q, k, v, out, *lse, options) }
    }

    fn outputs(&self, device: &Opened) -> Outputs {
        // SAFETY: the default stream.
        ok(unsafe { fc_stream_synchronize(device.0, null_mut()) });
        let bits = device.download(self.out.data, self.poison.bits.len());
        let queries = self.q.batch * self.q.heads * self.q.seqlen;
        let lse = if self.lse.is_null() { Vec::new() } else { device.download(self.lse.cast(), queries) };
        Outputs { out: HostTensor { bits, ..self.poison.clone() }, lse }
    }

    /// Expects a mistake to be noticed before anything is computed.
    #[track_caller]
    fn is_refused(&self, device: &Opened, status: fc_status, message: &str) {
        refused(self.forward(device), status, message);
        assert_eq!(device.download::<u16>(self.out.data, self.poison.bits.len()), self.poison.bits);
    }
}

/// What the host crate computes.
fn host(kind: Kind, case: &Case, inputs: &Inputs) -> Result<Outputs, Failure> {
    let device = kind.host()?;
    let (tensors, stream) = (OnDevice::new(&device, case, inputs)?, device.stream()?);
    tensors.run(&stream)?;
    stream.synchronize()?;
    Ok(tensors.outputs()?)
}

fn bits(lse: &[f32]) -> Vec<u32> {
    lse.iter().map(|x| x.to_bits()).collect()
}

fn same_bits(kind: Kind, case: &Case) -> Result<(), Failure> {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let inputs = case.inputs(dtype, 1);
        let expected = host(kind, case, &inputs)?;
        let device = kind.open();
        let mut call = Call::new(&device, case, &inputs);
        ok(call.forward(&device));
        let found = call.outputs(&device);
        assert_eq!((&found.out, bits(&found.lse)), (&expected.out, bits(&expected.lse)));
        found.judge(&inputs, &inputs.attention.rows(usize::MAX, 0))?;

        call.lse = null_mut();
        call.out = device.tensor(&call.poison);
        ok(call.forward(&device));
        assert_eq!(call.outputs(&device).out, expected.out);
    }
    Ok(())
}

/// A call on the caller's stream is recorded in a graph, and computes when that is launched: each time the same bits.
fn graphs_record_calls(kind: &Kind) -> Result<(), Failure> {
    let (case, dtype) =
        (Case { seqlen_q: 300, seqlen_kv: 200, causal: true, ..Case::default() }, Dtype::Bf16);
    let inputs = case.inputs(dtype, 4);
    let expected = host(*kind, &case, &inputs)?;
    let device = kind.open();
    ok(fc_device_preload(device.0));
    let call = Call::new(&device, &case, &inputs);
    let stream = kind.host()?.stream()?;
    let raw = std::ptr::without_provenance_mut(stream.raw() as usize);
    let graph = Graph::capture(&stream, |_| {
        ok(call.forward_on(&device, raw));
        Ok(())
    })?;
    assert_eq!(call.outputs(&device).out, call.poison, "recording must not compute");
    for _ in 0..3 {
        let out = call.poison.bits.as_ptr().cast();
        // SAFETY: as many bytes as there are; nothing is running.
        ok(unsafe { fc_copy_to_device(device.0, call.out.data, out, size_of_val(&call.poison.bits[..])) });
        // SAFETY: the memory lives until the device is closed.
        unsafe { graph.launch(&stream)? };
        stream.synchronize()?;
        let found = call.outputs(&device);
        assert_eq!((&found.out, bits(&found.lse)), (&expected.out, bits(&expected.lse)));
    }
    Ok(())
}

/// Two states on the device, and where the merged one goes.
struct MergeCall {
    o: [fc_tensor; 3],
    lse: [*mut f32; 3],
    /// Which of these the merged state is.
    place: usize,
    /// What `out` held before.
    out: HostTensor,
}

impl MergeCall {
    fn new(device: &Opened, merge: &Merge, states: &States) -> Self {
        let apart = HostTensor::poisoned(merge.dtype, merge.shape, merge.layouts[2].output(merge.shape));
        let (place, out) = match merge.place {
            Place::Apart => (2, apart.clone()),
            Place::First => (0, states.o[0].clone()),
            Place::Second => (1, states.o[1].clone()),
        };
        let lse = |values: &[f32]| device.upload(values).cast();
        MergeCall {
            o: [device.tensor(&states.o[0]), device.tensor(&states.o[1]), device.tensor(&apart)],
            lse: [lse(&states.lse[0]), lse(&states.lse[1]), lse(&vec![f32::NAN; states.lse[0].len()])],
            place,
            out,
        }
    }

    fn submit(&self, device: &Opened) -> fc_status {
        let ([o1, o2, _], [lse1, lse2, _]) = (&self.o, self.lse);
        let (out, lse) = (&self.o[self.place], self.lse[self.place]);
        // SAFETY: the memory lives until the device is closed.
        unsafe { fc_merge_attention_states(device.0, null_mut(), o1, lse1, o2, lse2, out, lse) }
    }

    fn outputs(&self, device: &Opened) -> Outputs {
        ok(fc_device_synchronize(device.0));
        let bits = device.download(self.o[self.place].data, self.out.bits.len());
        let rows = self.out.shape.batch * self.out.shape.heads * self.out.shape.seqlen;
        let lse = self.lse[self.place];
        Outputs { out: HostTensor { bits, ..self.out.clone() }, lse: device.download(lse.cast(), rows) }
    }
}

fn merges_have_the_same_bits(kind: &Kind) -> Result<(), Failure> {
    let layouts = [Layout::Padded, Layout::Bhsd, Layout::Bshd];
    for (dtype, place) in
        [(Dtype::F16, Place::Apart), (Dtype::Bf16, Place::First), (Dtype::F16, Place::Second)]
    {
        let shape = flashcore::Shape::new(2, 33, 3, 72);
        let merge = Merge { shape, layouts, dtype, sums: Sums::Empty, place };
        let (states, host) = (merge.states(5), kind.host()?);
        let expected = merge::OnDevice::new(&host, &merge, &states)?;
        expected.run(&host.stream()?)?;
        let expected = expected.outputs()?;
        let device = kind.open();
        let call = MergeCall::new(&device, &merge, &states);
        ok(call.submit(&device));
        let found = call.outputs(&device);
        assert_eq!((&found.out, bits(&found.lse)), (&expected.out, bits(&expected.lse)));
        found.judge_by(&states.answers())?;
    }
    Ok(())
}

fn wrong_merges_are_refused(kind: &Kind) -> Result<(), Failure> {
    let (shape, layouts) = (flashcore::Shape::new(1, 8, 2, 64), [Layout::Bshd; 3]);
    let merge = Merge { shape, layouts, dtype: Dtype::F16, sums: Sums::Near, place: Place::Apart };
    let device = kind.open();
    let call = MergeCall::new(&device, &merge, &merge.states(6));
    let refuse = |change: &dyn Fn(&mut MergeCall), status, message: &str| {
        let mut wrong = MergeCall { out: call.out.clone(), ..call };
        change(&mut wrong);
        refused(wrong.submit(&device), status, message);
        assert_eq!(device.download::<u16>(call.o[2].data, call.out.bits.len()), call.out.bits);
    };
    let message = "o2 has head_dim 72, but 64 is needed to agree with the other tensors";
    refuse(&|call| call.o[1].head_dim = 72, FC_ERROR_SHAPE_MISMATCH, message);
    let message = "head_dim 520 is not supported: it must be a multiple of 8 from 8 to 512";
    refuse(&|call| call.o[0].head_dim = 520, FC_ERROR_HEAD_DIM, message);
    let message = "out has element type bf16, but f16 is needed to agree with the other tensors";
    refuse(&|call| call.o[2].dtype = fc_dtype::FC_BF16 as i32, FC_ERROR_DTYPE_MISMATCH, message);
    refuse(&|call| call.lse[1] = null_mut(), FC_ERROR_NULL_POINTER, "lse2 is a null pointer");
    let message = "the memory of lse overlaps that of lse1";
    refuse(&|call| call.lse[2] = call.lse[0].wrapping_add(1), FC_ERROR_ALIASING, message);
    let (o1, o2, out) = (&call.o[0], &call.o[1], &call.o[2]);
    let [lse1, lse2, lse] = call.lse;
    for (name, [o1, o2, out]) in [
        ("o1", [null(), o2, out]),
        ("o2", [&raw const *o1, null(), out]),
        ("out", [&raw const *o1, o2, null()]),
    ] {
        // SAFETY: null, or a struct; the memory lives until the device is closed.
        let status = unsafe { fc_merge_attention_states(device.0, null_mut(), o1, lse1, o2, lse2, out, lse) };
        refused(status, FC_ERROR_NULL_ARGUMENT, &format!("argument {name} is null"));
    }
    Ok(())
}

fn default_options(kind: &Kind) -> Result<(), Failure> {
    let (case, dtype) = (Case { seqlen_q: 70, ..Case::default() }, Dtype::F16);
    let inputs = case.inputs(dtype, 2);
    let expected = host(*kind, &case, &inputs)?;
    let device = kind.open();
    let Call { q, k, v, out, lse, .. } = &Call::new(&device, &case, &inputs);
    // SAFETY: the memory lives until the device is closed.
    ok(unsafe { fc_attention_forward(device.0, null_mut(), q, k, v, out, *lse, null()) });
    ok(fc_device_synchronize(device.0));
    assert_eq!(device.download::<u16>(out.data, expected.out.bits.len()), expected.out.bits);
    Ok(())
}

/// Threads share a device, and each has its own errors.
fn two_threads(kind: &Kind) -> Result<(), Failure> {
    let cases = [false, true].map(|causal| Case { seqlen_q: 100, head_dim: 64, causal, ..Case::default() });
    let device = kind.open();
    let handle = device.0.addr();
    thread::scope(|scope| {
        let threads = cases.map(|case| {
            scope.spawn(move || {
                let device = std::mem::ManuallyDrop::new(Opened(std::ptr::without_provenance_mut(handle)));
                let inputs = case.inputs(Dtype::Bf16, 3);
                let expected = host(*kind, &case, &inputs)?;
                let mut call = Call::new(&device, &case, &inputs);
                for _ in 0..3 {
                    ok(call.forward(&device));
                    assert_eq!(call.outputs(&device).out, expected.out);
                }
                call.q.head_dim = if case.causal { 7 } else { 9 };
                let message = format!(
                    "head_dim {} is not supported: it must be a multiple of 8 from 8 to 512",
                    call.q.head_dim
                );
                refused(call.forward(&device), FC_ERROR_HEAD_DIM, &message);
                Ok(())
            })
        });
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}

fn plan_is_that_of_the_host(kind: &Kind) -> Result<(), Failure> {
    let extras = Extras { left: Some(70), softcap: Some(30.0), used: true, ..Extras::default() };
    plan_is_that_of(kind, Case { causal: true, scale: Some(0.5), ..Case::default() })?;
    plan_is_that_of(kind, Case { extras, ..Case::default() })
}

fn plan_is_that_of(kind: &Kind, case: Case) -> Result<(), Failure> {
    let expected = Plan::new(&case.problem(Dtype::Bf16)?, kind.host()?.properties())?.to_string();
    let device = kind.open();
    let call = Call::new(&device, &case, &case.inputs(Dtype::Bf16, 4));
    let plan = |buffer: &mut [u8]| {
        let Call { q, k, v, out, options, .. } = &call;
        let (start, mut length) = (buffer.as_mut_ptr().cast::<c_char>(), 0);
        let start = if buffer.is_empty() { null_mut() } else { start };
        // SAFETY: as many bytes as there are.
        let status = unsafe {
            fc_attention_plan_text(device.0, q, k, v, out, options, start, buffer.len(), &mut length)
        };
        (status, length)
    };
    assert_eq!(plan(&mut []), (FC_OK, expected.len()));
    let mut buffer = vec![POISON; expected.len() + 1];
    assert_eq!(plan(&mut buffer[..expected.len()]), (FC_ERROR_BUFFER_TOO_SMALL, expected.len()));
    assert!(buffer.iter().all(|&byte| byte == POISON));
    assert_eq!(plan(&mut buffer), (FC_OK, expected.len()));
    assert_eq!(CStr::from_bytes_until_nul(&buffer).expect("a C string").to_bytes(), expected.as_bytes());
    Ok(())
}

fn properties_are_those_of_the_host(kind: &Kind) -> Result<(), Failure> {
    let (host, device) = (kind.host()?, kind.open());
    let mut properties = fc_device_properties {
        struct_size: size_of::<fc_device_properties>(),
        total_memory_bytes: 0,
        l2_bytes: 0,
        ordinal: 7,
        is_emulated: 7,
        compute_capability_major: 0,
        compute_capability_minor: 0,
        sm_count: 0,
        smem_limit_bytes: 0,
        driver_version: 0,
        name: [1; FC_NAME_BYTES],
    };
    // SAFETY: the struct's size is set.
    ok(unsafe { fc_device_get_properties(device.0, &mut properties) });
    // SAFETY: a C string.
    let name = unsafe { CStr::from_ptr(properties.name.as_ptr()) };
    let expected = host.properties();
    assert_eq!(name.to_str(), Ok(&*expected.name));
    assert_eq!(properties.is_emulated, u32::from(host.emulator().is_some()));
    assert_eq!(properties.ordinal as usize, expected.ordinal);
    assert_eq!(
        (properties.compute_capability_major, properties.compute_capability_minor),
        expected.compute_capability
    );
    assert_eq!((properties.sm_count, properties.l2_bytes), (expected.sm_count, expected.l2_bytes));
    assert_eq!(properties.smem_limit_bytes, expected.smem_limit_bytes);
    assert_eq!(properties.total_memory_bytes, expected.total_memory_bytes);
    assert_eq!(properties.driver_version, expected.driver_version);
    properties.struct_size -= 8;
    // SAFETY: as above.
    let status = unsafe { fc_device_get_properties(device.0, &mut properties) };
    let size = size_of::<fc_device_properties>();
    let message = format!("properties has struct_size {}, but this library needs {size}", size - 8);
    refused(status, FC_ERROR_STRUCT_SIZE, &message);
    Ok(())
}

fn preload(kind: &Kind) -> Result<(), Failure> {
    ok(fc_device_preload(kind.open().0));
    Ok(())
}

fn mistakes_are_refused(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 64, seqlen_kv: 64, head_dim: 64, ..Case::default() };
    let device = kind.open();
    let inputs = case.inputs(Dtype::F16, 5);
    let mut call = Call::new(&device, &case, &inputs);

    let q = call.q;
    call.q.dtype = 0;
    call.is_refused(&device, FC_ERROR_UNKNOWN_DTYPE, "q has element type 0, which is no fc_dtype");
    call.q = q;
    call.k.dtype = fc_dtype::FC_BF16 as i32;
    call.is_refused(
        &device,
        FC_ERROR_DTYPE_MISMATCH,
        "k has element type bf16, but f16 is needed to agree with the other tensors",
    );
    call.k.dtype = fc_dtype::FC_F16 as i32;
    call.q.data = q.data.wrapping_byte_add(2);
    let message = format!("q at {:#x} is not aligned to 16 bytes", call.q.data.addr());
    call.is_refused(&device, FC_ERROR_MISALIGNED, &message);
    call.q.data = null_mut();
    call.is_refused(&device, FC_ERROR_NULL_POINTER, "q is a null pointer");
    let host = [0u128; 1];
    call.q.data = host.as_ptr().cast_mut().cast();
    let message = format!("q at {:#x} is not device memory", call.q.data.addr());
    call.is_refused(&device, FC_ERROR_NOT_DEVICE_POINTER, &message);
    call.q = call.out;
    call.is_refused(&device, FC_ERROR_ALIASING, "the memory of out overlaps that of q");
    call.q = fc_tensor { batch: 1 << 30, stride_batch: 1 << 38, ..q };
    let message = "a tensor of shape (batch 1073741824, seqlen 64, heads 3, head_dim 64) is larger than the address space";
    let batch = fc_tensor { batch: 1 << 30, ..call.k };
    let (k, out) = (call.k, call.out);
    (call.k, call.v) = (batch, batch);
    call.out = fc_tensor { batch: 1 << 30, ..out };
    refused(call.forward(&device), FC_ERROR_SHAPE_OVERFLOW, message);
    (call.q, call.k, call.v, call.out) = (q, k, k, out);
    call.options.struct_size = 0;
    let needed = size_of::<fc_attention_options>();
    let message = format!("options has struct_size 0, but this library needs {needed}");
    call.is_refused(&device, FC_ERROR_STRUCT_SIZE, &message);
    Ok(())
}

fn wrong_options_are_refused(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 64, seqlen_kv: 64, head_dim: 64, ..Case::default() };
    let device = kind.open();
    let mut call = Call::new(&device, &case, &case.inputs(Dtype::F16, 8));
    let (right, q) = (call.options, call.q);
    let (ints, floats) = (device.upload(&[64i32; 8]), device.upload(&[0f32; 8]));
    let (ints, floats) = (ints.cast_const().cast::<i32>(), floats.cast_const().cast::<f32>());
    let softcap = |softcap| fc_attention_options { softcap, ..right };
    let prefix = fc_attention_options { prefix: ints, ..right };
    let under_window =
        "a prefix goes with no limit to the left and no chunks: a query would see two ranges of keys";
    let not_capped = |cap: f32| {
        format!("softcap {cap} is not supported: it must be positive, not denormal, and at most 10000")
    };
    let misaligned = ints.wrapping_byte_add(2);
    let host = [64i32; 2];
    let of_out = call.out.data.cast_const().cast();
    for (options, status, message) in [
        (
            fc_attention_options { align: 2, ..right },
            FC_ERROR_UNKNOWN_ALIGN,
            "align is 2, which is no fc_align".to_owned(),
        ),
        (softcap(-1.0), FC_ERROR_SOFTCAP, not_capped(-1.0)),
        (softcap(f32::NAN), FC_ERROR_SOFTCAP, not_capped(f32::NAN)),
        (softcap(f32::INFINITY), FC_ERROR_SOFTCAP, not_capped(f32::INFINITY)),
        (fc_attention_options { chunk: 5, ..prefix }, FC_ERROR_PREFIX_UNDER_WINDOW, under_window.to_owned()),
        (
            fc_attention_options { has_window_left: 1, ..prefix },
            FC_ERROR_PREFIX_UNDER_WINDOW,
            under_window.to_owned(),
        ),
        (
            fc_attention_options { num_sequences: 3, ..prefix },
            FC_ERROR_ARRAY_LENGTH,
            "prefix has 3 numbers, but 2 are needed".to_owned(),
        ),
        (
            fc_attention_options { sinks: floats, num_sinks: 2, ..right },
            FC_ERROR_ARRAY_LENGTH,
            "sinks has 2 numbers, but 3 are needed".to_owned(),
        ),
        (
            fc_attention_options { alibi_slopes: floats, num_alibi_slopes: 2, ..right },
            FC_ERROR_ARRAY_LENGTH,
            "alibi_slopes has 2 numbers, but 6 are needed".to_owned(),
        ),
        (
            fc_attention_options { dropout_p: 1.0, ..right },
            FC_ERROR_DROPOUT_RATE,
            "a dropout of 1 is not supported: it must be at least 0 and below 1".to_owned(),
        ),
        (
            fc_attention_options { seqused_q: misaligned, ..right },
            FC_ERROR_MISALIGNED,
            format!("seqused_q at {misaligned:p} is not aligned to 4 bytes"),
        ),
        (
            fc_attention_options { seqused_kv: host.as_ptr(), ..right },
            FC_ERROR_NOT_DEVICE_POINTER,
            format!("seqused_kv at {:p} is not device memory", host.as_ptr()),
        ),
        (
            fc_attention_options { seqused_kv: of_out, ..right },
            FC_ERROR_ALIASING,
            "the memory of out overlaps that of seqused_kv".to_owned(),
        ),
        (
            fc_attention_options { cu_seqlens_q: ints, ..right },
            FC_ERROR_SHAPE_MISMATCH,
            "q has batch 2, but 1 is needed to agree with the other tensors".to_owned(),
        ),
        (
            fc_attention_options { cu_seqlens_kv: ints, ..right },
            FC_ERROR_SHAPE_MISMATCH,
            "k has batch 2, but 1 is needed to agree with the other tensors".to_owned(),
        ),
    ] {
        call.options = options;
        call.is_refused(&device, status, &message);
    }
    call.options = softcap(1.0);
    call.q.stride_batch = 1 << 36;
    refused_as(call.forward(&device), FC_ERROR_REACHES_TOO_FAR);
    call.q = q;
    ok(call.forward(&device));
    Ok(())
}

/// Programs that know only older headers.
fn older_options_work(kind: &Kind) -> Result<(), Failure> {
    let first = Case { seqlen_q: 70, head_dim: 64, causal: true, scale: Some(0.3), ..Case::default() };
    older_options_work_for(kind, first, |options| fc_attention_options {
        struct_size: 24,
        // What was padding then, and what comes after the struct.
        align: 7,
        chunk: 3,
        sinks: std::ptr::without_provenance(8),
        ..options
    })?;
    let second = Case { extras: Extras { sinks: true, softcap: Some(5.0), ..Extras::default() }, ..first };
    let nowhere = std::ptr::without_provenance(8);
    older_options_work_for(kind, second, |options| fc_attention_options {
        struct_size: 128,
        approximate_softcap: 7,
        alibi_slopes: nowhere,
        bias: fc_bias { data: nowhere.cast(), ..NO_BIAS },
        ..options
    })?;
    let third = Case { extras: Extras { alibi: Some(Slopes::PerHead), ..Extras::default() }, ..first };
    older_options_work_for(kind, third, |options| fc_attention_options {
        struct_size: 224,
        dropout_p: 7.0,
        ..options
    })?;
    let fourth = Case { extras: Extras { dropout: Some(DROPOUT), ..Extras::default() }, ..first };
    older_options_work_for(kind, fourth, |options| fc_attention_options {
        struct_size: 240,
        key_ranges: fc_key_ranges { data: std::ptr::without_provenance(8), ..NO_RANGES },
        block_mask: fc_block_mask { kv_num_blocks: std::ptr::without_provenance(8), ..NO_BLOCKS },
        ..options
    })
}

fn older_options_work_for(
    kind: &Kind,
    case: Case,
    older: impl Fn(fc_attention_options) -> fc_attention_options,
) -> Result<(), Failure> {
    let inputs = case.inputs(Dtype::Bf16, 9);
    let expected = host(*kind, &case, &inputs)?;
    let device = kind.open();
    let mut call = Call::new(&device, &case, &inputs);
    call.options = older(call.options);
    ok(call.forward(&device));
    assert_eq!(call.outputs(&device).out, expected.out);
    Ok(())
}

fn wrong_biases_are_refused(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 64, seqlen_kv: 64, head_dim: 64, ..Case::default() };
    let device = kind.open();
    let mut call = Call::new(&device, &case, &case.inputs(Dtype::F16, 10));
    let plain = call.options;
    let sizes = [2, 3, 64, 64];
    let right = bias(&device, &flashcore_tests::side_inputs::bias(sizes, 11), Dtype::F16);
    let strides = |strides| fc_bias { strides, ..right };
    let sizes = |sizes| fc_bias { sizes, ..right };
    let mismatch = |dim: &str, expected: usize, found: usize| {
        format!("bias has {dim} {found}, but {expected} is needed to agree with the other tensors")
    };
    let misaligned = right.data.wrapping_byte_add(2);
    for (bias, status, message) in [
        (
            fc_bias { dtype: 3, ..right },
            FC_ERROR_UNKNOWN_DTYPE,
            "bias has element type 3, which is no fc_dtype".to_owned(),
        ),
        (
            fc_bias { dtype: fc_dtype::FC_BF16 as i32, ..right },
            FC_ERROR_DTYPE_MISMATCH,
            "bias has element type bf16, but f16 is needed to agree with the other tensors".to_owned(),
        ),
        (sizes([3, 3, 64, 64]), FC_ERROR_SHAPE_MISMATCH, mismatch("batch", 2, 3)),
        (sizes([2, 2, 64, 64]), FC_ERROR_SHAPE_MISMATCH, mismatch("heads", 3, 2)),
        (sizes([2, 3, 63, 64]), FC_ERROR_SHAPE_MISMATCH, mismatch("seqlen_q", 64, 63)),
        (sizes([2, 3, 64, 1]), FC_ERROR_SHAPE_MISMATCH, mismatch("seqlen_kv", 64, 1)),
        (
            strides([6 * 64 * 64, 2 * 64 * 64, 128, 2]),
            FC_ERROR_BIAS_KEYS_APART,
            "numbers of neighbouring keys must be neighbours in a bias, but they are 2 apart".to_owned(),
        ),
        (
            strides([3 * 64 * 64, 64 * 64, 63, 1]),
            FC_ERROR_STRIDE_MISALIGNED,
            "bias has seqlen_q stride 63 (elements); it must be a multiple of 2".to_owned(),
        ),
        (
            strides([usize::MAX - 1, 64 * 64, 64, 1]),
            FC_ERROR_SHAPE_OVERFLOW,
            "a bias of shape [2, 3, 64, 64] reaches over more than the address space".to_owned(),
        ),
        (
            fc_bias { data: misaligned, ..right },
            FC_ERROR_MISALIGNED,
            format!("bias at {misaligned:p} is not aligned to 4 bytes"),
        ),
        (
            fc_bias { data: call.out.data, ..right },
            FC_ERROR_ALIASING,
            "the memory of out overlaps that of bias".to_owned(),
        ),
    ] {
        call.options = fc_attention_options { bias, ..plain };
        call.is_refused(&device, status, &message);
    }
    let packed = Case { extras: Extras { packed_q: Some(PACKED), ..Extras::default() }, ..case };
    let mut call = Call::new(&device, &packed, &packed.inputs(Dtype::F16, 12));
    call.options.bias = right;
    let message = "a bias goes with sequences of one length, but those of cu_seqlens_q are packed";
    call.is_refused(&device, FC_ERROR_BIAS_OF_PACKED, message);
    Ok(())
}

fn wrong_ranges_and_blocks_are_refused(kind: &Kind) -> Result<(), Failure> {
    let (ranges, blocks) = (Some(Ranges::drawn(PerHead::EACH)), Some(Blocks::drawn(PerHead::EACH)));
    let extras = Extras { ranges, blocks, ..Extras::default() };
    let case = Case { seqlen_q: 140, seqlen_kv: 300, head_dim: 64, extras, ..Case::default() };
    let device = kind.open();
    let mut call = Call::new(&device, &case, &case.inputs(Dtype::F16, 10));
    let right = call.options;
    let (key_ranges, block_mask) = (right.key_ranges, right.block_mask);
    let (of_ranges, of_blocks) = (
        |key_ranges| fc_attention_options { key_ranges, ..right },
        |block_mask| fc_attention_options { block_mask, ..right },
    );
    let mismatch = |operand: &str, dim: &str, expected: usize, found: usize| {
        format!("{operand} has {dim} {found}, but {expected} is needed to agree with the other tensors")
    };
    let length = |operand: &str, expected: usize, found: usize| {
        format!("{operand} has {found} numbers, but {expected} are needed")
    };
    let misaligned = key_ranges.data.wrapping_byte_add(2);
    let of_out = call.out.data.cast_const().cast();
    let scores = "key ranges and block masks go with no softcap, ALiBi, bias or dropout; a function of scores may do all \
                  but the last";
    let large = flashcore::MAX_DIM + 1;
    for (options, status, message) in [
        (
            of_ranges(fc_key_ranges { batch: 3, ..key_ranges }),
            FC_ERROR_SHAPE_MISMATCH,
            mismatch("key_ranges", "batch", 2, 3),
        ),
        (
            of_ranges(fc_key_ranges { heads: 2, ..key_ranges }),
            FC_ERROR_SHAPE_MISMATCH,
            mismatch("key_ranges", "heads", 3, 2),
        ),
        (
            of_ranges(fc_key_ranges { queries: 139, ..key_ranges }),
            FC_ERROR_ARRAY_LENGTH,
            length("key_ranges", 2 * 3 * 140 * 2, 2 * 3 * 139 * 2),
        ),
        (
            of_ranges(fc_key_ranges { queries: usize::MAX, ..key_ranges }),
            FC_ERROR_ARRAY_LENGTH,
            length("key_ranges", 2 * 3 * 140 * 2, usize::MAX),
        ),
        (
            of_ranges(fc_key_ranges { data: misaligned, ..key_ranges }),
            FC_ERROR_MISALIGNED,
            format!("key_ranges at {misaligned:p} is not aligned to 4 bytes"),
        ),
        (
            of_ranges(fc_key_ranges { data: of_out, ..key_ranges }),
            FC_ERROR_ALIASING,
            "the memory of out overlaps that of key_ranges".to_owned(),
        ),
        (
            of_blocks(fc_block_mask { batch: 5, ..block_mask }),
            FC_ERROR_SHAPE_MISMATCH,
            mismatch("kv_num_blocks", "batch", 2, 5),
        ),
        (
            of_blocks(fc_block_mask { heads: 0, ..block_mask }),
            FC_ERROR_SHAPE_MISMATCH,
            mismatch("kv_num_blocks", "heads", 3, 0),
        ),
        (
            of_blocks(fc_block_mask { query_blocks: 3, ..block_mask }),
            FC_ERROR_SHAPE_MISMATCH,
            mismatch("kv_num_blocks", "seqlen_q", 2, 3),
        ),
        (
            of_blocks(fc_block_mask { room: large, ..block_mask }),
            FC_ERROR_DIMENSION_TOO_LARGE,
            format!("kv_num_blocks has seqlen_q {large}; at most {} is supported", flashcore::MAX_DIM),
        ),
        (
            of_blocks(fc_block_mask { kv_indices: null(), ..block_mask }),
            FC_ERROR_NULL_POINTER,
            "kv_indices is a null pointer".to_owned(),
        ),
        (
            of_blocks(fc_block_mask { kv_indices: of_out, ..block_mask }),
            FC_ERROR_ALIASING,
            "the memory of out overlaps that of kv_indices".to_owned(),
        ),
        (fc_attention_options { softcap: 5.0, ..right }, FC_ERROR_SPARSE_SCORES, scores.to_owned()),
        (fc_attention_options { dropout_p: 0.5, ..right }, FC_ERROR_SPARSE_SCORES, scores.to_owned()),
    ] {
        call.options = options;
        call.is_refused(&device, status, &message);
    }
    call.options = right;
    ok(call.forward(&device));
    Ok(())
}

/// The lists of a bitmap, each with room for all blocks.
fn block_lists_are_those_of_the_host(_: &Kind) -> Result<(), Failure> {
    let bitmap = [[0u8, 1, 0, 7], [0; 4], [1; 4], [0, 0, 0, 255]].concat();
    let (mut counts, mut lists) = ([-1; 4], [-1; 16]);
    // SAFETY: as many bytes and numbers as the sizes say.
    let make = |visible: *const u8, rows, keys, counts: *mut i32, lists: *mut i32| unsafe {
        fc_block_lists(visible, rows, keys, counts, lists)
    };
    ok(make(bitmap.as_ptr(), 4, 4, counts.as_mut_ptr(), lists.as_mut_ptr()));
    let visible: Vec<bool> = bitmap.iter().map(|&byte| byte != 0).collect();
    // A row sees all, so that the host's lists are as long.
    assert_eq!((counts.to_vec(), lists.to_vec()), block_lists(&visible, 4));
    ok(make(null(), 4, 0, counts.as_mut_ptr(), null_mut()));
    assert_eq!(counts, [0; 4]);
    ok(make(null(), 0, 9, null_mut(), null_mut()));
    let (large, at_most) = (flashcore::MAX_DIM + 1, flashcore::MAX_DIM);
    let (counts, lists) = (counts.as_mut_ptr(), lists.as_mut_ptr());
    let null_argument = |status, name: &str| {
        refused(status, FC_ERROR_NULL_ARGUMENT, &format!("argument {name} is null"));
    };
    null_argument(make(null(), 1, 1, counts, lists), "visible");
    null_argument(make(bitmap.as_ptr(), 1, 1, null_mut(), lists), "kv_num_blocks");
    null_argument(make(bitmap.as_ptr(), 1, 1, counts, null_mut()), "kv_indices");
    let too_large = |status, what: &str| {
        let message = format!("{what} {large}; at most {at_most} is supported");
        refused(status, FC_ERROR_DIMENSION_TOO_LARGE, &message);
    };
    too_large(make(bitmap.as_ptr(), large, 0, counts, lists), "kv_num_blocks has seqlen_q");
    too_large(make(bitmap.as_ptr(), 0, large, counts, lists), "kv_indices has seqlen_kv");
    Ok(())
}

fn masks_of_dropout_are_those_of_the_host(kind: &Kind) -> Result<(), Failure> {
    let (sizes, len) = ([2, 3, 33, 70], 2 * 3 * 33 * 70);
    let expected = dropout_mask(&kind.host()?.stream()?, DROPOUT.asked(), sizes)?.to_vec()?;
    let device = kind.open();
    let memory = device.upload(&vec![POISON; len]);
    let write = |p, keys, mask: *mut c_void| {
        let ([batch, heads, queries, _], Dropout { seed, offset, .. }) = (sizes, DROPOUT);
        // SAFETY: the memory has a byte for each query and key, or null is refused.
        unsafe {
            let (stream, mask) = (null_mut(), mask.cast());
            fc_dropout_mask(device.0, stream, p, seed, offset, batch, heads, queries, keys, mask)
        }
    };
    refused(
        write(1.5, 70, memory),
        FC_ERROR_DROPOUT_RATE,
        "a dropout of 1.5 is not supported: it must be at least 0 and below 1",
    );
    refused(write(0.5, 70, null_mut()), FC_ERROR_NULL_POINTER, "mask is a null pointer");
    let message = format!("mask has seqlen_kv {}; at most {} is supported", usize::MAX, flashcore::MAX_DIM);
    refused(write(0.5, usize::MAX, memory), FC_ERROR_DIMENSION_TOO_LARGE, &message);
    assert_eq!(device.download::<u8>(memory, len), vec![POISON; len]);
    ok(write(DROPOUT.asked().p(), 70, memory));
    assert_eq!(device.download::<u8>(memory, len), expected);
    Ok(())
}

/// How a call is rounded to 8 bits.
#[derive(Clone, Copy, Debug)]
struct Narrowing {
    kind: Fp8,
    rotated: bool,
    per_tensor: bool,
    /// Seed and offset.
    stochastic: Option<(u64, u32)>,
}

const E4M3: Narrowing = Narrowing { kind: Fp8::E4m3, rotated: false, per_tensor: false, stochastic: None };
const E5M2: Narrowing = Narrowing { kind: Fp8::E5m2, ..E4M3 };

impl Narrowing {
    fn options(self) -> fc_fp8_options {
        fc_fp8_options {
            struct_size: size_of::<fc_fp8_options>(),
            format: match self.kind {
                Fp8::E4m3 => fc_fp8::FC_E4M3 as i32,
                Fp8::E5m2 => fc_fp8::FC_E5M2 as i32,
            },
            rotated: self.rotated.into(),
            per_tensor: self.per_tensor.into(),
            num_sequences_q: 0,
            num_sequences_kv: 0,
        }
    }

    /// The same for the sequences of a case.
    fn options_of(self, case: &Case) -> fc_fp8_options {
        let count = |packed: Option<Lengths>| packed.map_or(0, |_| case.batch);
        let Extras { packed_q, packed_kv, .. } = case.extras;
        fc_fp8_options {
            num_sequences_q: count(packed_q),
            num_sequences_kv: count(packed_kv),
            ..self.options()
        }
    }

    /// What the host crate computes.
    fn host(self, kind: Kind, case: &Case, inputs: &Inputs) -> Result<Outputs, Failure> {
        let device = kind.host()?;
        let (tensors, stream) = (OnDevice::new(&device, case, inputs)?, device.stream()?);
        let OnDevice { q, k, v, out, lse, .. } = &tensors;
        let sequences = tensors.attention().get_sequences();
        let shapes = [q.shape(), k.shape(), v.shape()];
        let mut room = Fp8Qkv::for_sequences(&device, self.kind, shapes, sequences.packed()?)?;
        room = if self.rotated { room.rotated() } else { room };
        room = if self.per_tensor { room.per_tensor() } else { room };
        let rounding = Fp8Rounding::new().sequences(sequences);
        let rounding = self.stochastic.map_or(rounding, |(seed, offset)| rounding.stochastic(seed, offset));
        room.round_with(&stream, rounding, q, k, v)?;
        let (q, k, v) = (room.q.view(), room.k.view(), room.v.view());
        tensors.attention().forward_fp8_into(&stream, q, k, v, out, Some(lse.view()))?;
        Ok(tensors.outputs()?)
    }
}

impl Call {
    fn room(&self, device: &Opened, options: &fc_fp8_options) -> *mut fc_fp8_qkv {
        let (Call { q, k, v, .. }, mut room) = (self, null_mut());
        // SAFETY: structs, and the pointer of a handle.
        ok(unsafe { fc_fp8_qkv_create(device.0, q, k, v, options, &mut room) });
        room
    }

    fn forward_fp8(&self, room: *const fc_fp8_qkv) -> fc_status {
        self.forward_fp8_by(room, null())
    }

    fn forward_fp8_by(&self, room: *const fc_fp8_qkv, stochastic: *const fc_fp8_stochastic) -> fc_status {
        let Call { q, k, v, out, lse, options, .. } = self;
        // SAFETY: the memory lives until the device is closed.
        unsafe { fc_attention_fp8(room, null_mut(), q, k, v, out, *lse, options, stochastic) }
    }
}

/// How far numbers are from others, relative to these, in the root mean square.
fn relative_rms(found: &HostTensor, expected: &HostTensor) -> f64 {
    let (found, expected) = (found.values().data, expected.values().data);
    let sum = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let errors = sum(&mut found.iter().zip(&expected).map(|(found, expected)| found - expected));
    (errors / sum(&mut expected.iter().copied())).sqrt()
}

/// In 8 bits: the bits of the host crate, and near the result of 16 bits, but not near that under another mask.
fn same_bits_in_fp8(kind: Kind, case: &Case, narrowing: Narrowing) -> Result<(), Failure> {
    let limit = if narrowing.kind == Fp8::E4m3 { 0.08 } else { 0.16 };
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let inputs = case.inputs(dtype, 1);
        let expected = narrowing.host(kind, case, &inputs)?;
        let device = kind.open();
        let mut call = Call::new(&device, case, &inputs);
        let room = call.room(&device, &narrowing.options_of(case));
        let by_chance = narrowing.stochastic.map(|(seed, offset)| {
            let struct_size = size_of::<fc_fp8_stochastic>();
            fc_fp8_stochastic { struct_size, seed, offset }
        });
        let by_chance = by_chance.as_ref().map_or(null(), std::ptr::from_ref);
        ok(call.forward_fp8_by(room, by_chance));
        let found = call.outputs(&device);
        assert_eq!((&found.out, bits(&found.lse)), (&expected.out, bits(&expected.lse)));

        // Room may be used again, and a log-sum-exp need not be wanted.
        (call.out, call.lse) = (device.tensor(&call.poison), null_mut());
        ok(call.forward_fp8_by(room, by_chance));
        assert_eq!(call.outputs(&device).out, expected.out);
        if case.extras.packed_kv.is_some() || case.extras.used {
            continue; // whose rows may be no query's
        }

        let wide = host(kind, case, &inputs)?;
        let error = relative_rms(&found.out, &wide.out);
        assert!(error < limit, "relative error {error}");
        let of_lse = found.lse.iter().zip(&wide.lse).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(of_lse < 0.5, "error of the log-sum-exp {of_lse}");
        let other = Case { causal: !case.causal, ..*case };
        let error = relative_rms(&found.out, &host(kind, &other, &other.inputs(dtype, 1))?.out);
        assert!(error > 2.0 * limit, "another mask makes a difference of {error}");
    }
    Ok(())
}

/// The output may be of the other type, and lie where q does.
fn outputs_of_fp8(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 64, seqlen_kv: 100, head_dim: 64, ..Case::default() };
    let inputs = case.inputs(Dtype::Bf16, 3);
    let device = kind.open();
    let mut call = Call::new(&device, &case, &inputs);
    let room = call.room(&device, &E4M3.options());
    ok(call.forward_fp8(room));
    let expected = call.outputs(&device);
    let out = call.out;
    call.out.dtype = fc_dtype::FC_F16 as i32;
    ok(call.forward_fp8(room));
    let found = call.outputs(&device);
    assert!(relative_rms(&HostTensor { dtype: Dtype::F16, ..found.out }, &expected.out) < 0.01);
    assert_eq!(bits(&found.lse), bits(&expected.lse));
    (call.q, call.out) = (device.tensor(&HostTensor { bits: inputs.q.bits.clone(), ..inputs.q }), out);
    call.out.data = call.q.data;
    ok(call.forward_fp8(room));
    assert_eq!(call.outputs(&device).out, expected.out);
    Ok(())
}

/// Threads share room: that of a call is not used by another before it is done.
fn two_threads_in_one_room(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 100, head_dim: 64, ..Case::default() };
    let device = kind.open();
    let inputs = [1, 2].map(|seed| case.inputs(Dtype::Bf16, seed));
    let room = Call::new(&device, &case, &inputs[0]).room(&device, &E4M3.options());
    let (handle, room) = (device.0.addr(), room.addr());
    thread::scope(|scope| {
        let threads = inputs.each_ref().map(|inputs| {
            scope.spawn(move || {
                let device = std::mem::ManuallyDrop::new(Opened(std::ptr::without_provenance_mut(handle)));
                let expected = E4M3.host(*kind, &case, inputs)?;
                let call = Call::new(&device, &case, inputs);
                for _ in 0..3 {
                    ok(call.forward_fp8(std::ptr::without_provenance(room)));
                    assert_eq!(call.outputs(&device).out, expected.out);
                }
                Ok(())
            })
        });
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}

fn wrong_rooms_are_refused(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 64, seqlen_kv: 64, head_dim: 64, ..Case::default() };
    let device = kind.open();
    let Call { q, k, v, .. } = Call::new(&device, &case, &case.inputs(Dtype::F16, 5));
    let right = E4M3.options();
    let mut room = null_mut();
    let (pq, pk, pv, of_room) = (&raw const q, &raw const k, &raw const v, &raw mut room);
    for (name, (q, k, v, options, room)) in [
        ("q", (null(), pk, pv, &raw const right, of_room)),
        ("k", (pq, null(), pv, &raw const right, of_room)),
        ("v", (pq, pk, null(), &raw const right, of_room)),
        ("options", (pq, pk, pv, null(), of_room)),
        ("qkv", (pq, pk, pv, &raw const right, null_mut())),
    ] {
        // SAFETY: null, or what it should be.
        let status = unsafe { fc_fp8_qkv_create(device.0, q, k, v, options, room) };
        refused(status, FC_ERROR_NULL_ARGUMENT, &format!("argument {name} is null"));
    }
    let mut refuse = |q: fc_tensor, options, status, message: &str| {
        // SAFETY: structs, and the pointer of a handle.
        let found = unsafe { fc_fp8_qkv_create(device.0, &q, &k, &v, &options, &mut room) };
        refused(found, status, message);
    };
    let (size, needed) = (right.struct_size - 8, right.struct_size);
    let message = format!("options has struct_size {size}, but this library needs {needed}");
    refuse(q, fc_fp8_options { struct_size: size, ..right }, FC_ERROR_STRUCT_SIZE, &message);
    for format in [0, 3] {
        let message = format!("format is {format}, which is no fc_fp8");
        refuse(q, fc_fp8_options { format, ..right }, FC_ERROR_UNKNOWN_FP8, &message);
    }
    for head_dim in [12, 264] {
        let message =
            format!("head_dim {head_dim} is not supported: it must be a multiple of 8 from 8 to 256");
        refuse(fc_tensor { head_dim, ..q }, right, FC_ERROR_HEAD_DIM, &message);
    }
    let seqlen = flashcore::MAX_DIM + 1;
    let message = format!("q has seqlen {seqlen}; at most {} is supported", flashcore::MAX_DIM);
    refuse(fc_tensor { seqlen, ..q }, right, FC_ERROR_DIMENSION_TOO_LARGE, &message);
    assert!(room.is_null());
    ok(fc_fp8_qkv_destroy(null_mut()));
    Ok(())
}

/// Handles of rooms are used up once they are destroyed, or their device is closed.
fn rooms_are_destroyed(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 64, seqlen_kv: 64, head_dim: 64, ..Case::default() };
    let device = kind.open();
    let call = Call::new(&device, &case, &case.inputs(Dtype::F16, 5));
    let [one, other] = [E4M3, E5M2].map(|narrowing| call.room(&device, &narrowing.options()));
    let no_room = |room: *mut fc_fp8_qkv| {
        let message = format!("the handle {:#x} is no room for q, k and v of 8 bits", room.addr());
        refused(call.forward_fp8(room), FC_ERROR_FP8_QKV_HANDLE, &message);
        if !room.is_null() {
            refused(fc_fp8_qkv_destroy(room), FC_ERROR_FP8_QKV_HANDLE, &message);
        }
    };
    no_room(null_mut());
    no_room(device.0.cast());
    ok(fc_fp8_qkv_destroy(one));
    no_room(one);
    ok(call.forward_fp8(other));
    drop(device);
    no_room(other);
    Ok(())
}

fn mistakes_in_fp8_are_refused(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 64, seqlen_kv: 64, head_dim: 64, ..Case::default() };
    let device = kind.open();
    let right = Call::new(&device, &case, &case.inputs(Dtype::F16, 5));
    let [e4m3, e5m2] = [E4M3, E5M2].map(|narrowing| right.room(&device, &narrowing.options()));
    let floats = device.upload(&[1f32; 6]).cast_const().cast();
    let refuse = |room, change: &dyn Fn(&mut Call), status, message: &str| {
        let mut wrong = Call { poison: right.poison.clone(), ..right };
        change(&mut wrong);
        refused(wrong.forward_fp8(room), status, message);
        assert_eq!(device.download::<u16>(right.out.data, right.poison.bits.len()), right.poison.bits);
    };
    let mismatch = |operand: &str, dim: &str, expected: usize, found: usize| {
        format!("{operand} has {dim} {found}, but {expected} is needed to agree with the other tensors")
    };
    let size = size_of::<fc_fp8_stochastic>();
    let wrong = fc_fp8_stochastic { struct_size: size - 1, seed: 0, offset: 0 };
    let message = format!("stochastic has struct_size {}, but this library needs {size}", size - 1);
    refused(right.forward_fp8_by(e4m3, &wrong), FC_ERROR_STRUCT_SIZE, &message);
    // Room of packed sequences is another one.
    let options = fc_fp8_options { num_sequences_kv: 3, ..E4M3.options() };
    let packed = Call {
        k: fc_tensor { batch: 1, ..right.k },
        v: fc_tensor { batch: 1, ..right.v },
        poison: right.poison.clone(),
        ..right
    };
    let room = packed.room(&device, &options);
    let message = "v of 8 bits was made for 3 packed sequences, but the call has sequences of one length";
    refused(packed.forward_fp8(room), FC_ERROR_FP8_PACKING, message);
    let message = "q has element type 0, which is no fc_dtype";
    refuse(e4m3, &|call| call.q.dtype = 0, FC_ERROR_UNKNOWN_DTYPE, message);
    let message = "k has element type bf16, but f16 is needed to agree with the other tensors";
    refuse(e4m3, &|call| call.k.dtype = fc_dtype::FC_BF16 as i32, FC_ERROR_DTYPE_MISMATCH, message);
    refuse(e4m3, &|call| call.q.seqlen = 63, FC_ERROR_SHAPE_MISMATCH, &mismatch("q", "seqlen", 64, 63));
    refuse(e4m3, &|call| call.k.heads = 2, FC_ERROR_SHAPE_MISMATCH, &mismatch("k", "heads", 3, 2));
    refuse(e4m3, &|call| call.v.head_dim = 56, FC_ERROR_SHAPE_MISMATCH, &mismatch("v", "head_dim", 64, 56));
    refuse(e4m3, &|call| call.out.batch = 1, FC_ERROR_SHAPE_MISMATCH, &mismatch("out", "batch", 2, 1));
    refuse(e4m3, &|call| call.v.data = null_mut(), FC_ERROR_NULL_POINTER, "v is a null pointer");
    refuse(e4m3, &|call| call.out.data = null_mut(), FC_ERROR_NULL_POINTER, "out is a null pointer");
    let host = [0u128; 1];
    let message = format!("q at {:p} is not device memory", host.as_ptr());
    let of_host = |call: &mut Call| call.q.data = host.as_ptr().cast_mut().cast();
    refuse(e4m3, &of_host, FC_ERROR_NOT_DEVICE_POINTER, &message);
    let misaligned = right.k.data.wrapping_byte_add(2);
    let message = format!("k at {misaligned:p} is not aligned to 16 bytes");
    refuse(e4m3, &|call| call.k.data = misaligned, FC_ERROR_MISALIGNED, &message);
    let message = "k has seqlen stride 196 (elements); it must be a multiple of 8";
    refuse(e4m3, &|call| call.k.stride_seqlen += 4, FC_ERROR_STRIDE_MISALIGNED, message);
    let message = "the memory of lse overlaps that of out";
    refuse(e4m3, &|call| call.lse = call.out.data.cast(), FC_ERROR_ALIASING, message);
    let message = "softmax scale -1 is not supported: it must be positive, finite and not denormal";
    let scaled = |call: &mut Call| (call.options.has_scale, call.options.scale) = (1, -1.0);
    refuse(e4m3, &scaled, FC_ERROR_SCALE, message);
    let needed = size_of::<fc_attention_options>();
    let message = format!("options has struct_size 7, but this library needs {needed}");
    refuse(e4m3, &|call| call.options.struct_size = 7, FC_ERROR_STRUCT_SIZE, &message);
    let message = "align is 2, which is no fc_align";
    refuse(e4m3, &|call| call.options.align = 2, FC_ERROR_UNKNOWN_ALIGN, message);

    let message = flashcore::Error::Fp8Features.to_string();
    let slopes = |call: &mut Call| (call.options.alibi_slopes, call.options.num_alibi_slopes) = (floats, 3);
    refuse(e4m3, &slopes, FC_ERROR_FP8_FEATURES, &message);
    refuse(e4m3, &|call| call.options.dropout_p = 0.5, FC_ERROR_FP8_FEATURES, &message);
    refuse(e5m2, &|call| call.options.softcap = 5.0, FC_ERROR_FP8_FEATURES, &message);
    for (missing, name) in ["q", "k", "v", "out"].into_iter().enumerate() {
        let mut tensors: [*const fc_tensor; 4] = [&right.q, &right.k, &right.v, &right.out];
        tensors[missing] = null();
        let [q, k, v, out] = tensors;
        // SAFETY: null, or a struct.
        let status = unsafe { fc_attention_fp8(e4m3, null_mut(), q, k, v, out, null_mut(), null(), null()) };
        refused(status, FC_ERROR_NULL_ARGUMENT, &format!("argument {name} is null"));
    }
    ok(right.forward_fp8(e4m3));
    ok(right.forward_fp8(e5m2));
    Ok(())
}

fn null_arguments_are_refused(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 64, seqlen_kv: 64, head_dim: 64, ..Case::default() };
    let device = kind.open();
    let call = Call::new(&device, &case, &case.inputs(Dtype::F16, 6));
    for (missing, name) in ["q", "k", "v", "out"].into_iter().enumerate() {
        let mut tensors: [*const fc_tensor; 4] = [&call.q, &call.k, &call.v, &call.out];
        tensors[missing] = null();
        let [q, k, v, out] = tensors;
        // SAFETY: null, or a struct.
        let status = unsafe { fc_attention_forward(device.0, null_mut(), q, k, v, out, null_mut(), null()) };
        refused(status, FC_ERROR_NULL_ARGUMENT, &format!("argument {name} is null"));
    }
    let mut byte = 0u8;
    let memory = device.alloc(16);
    // SAFETY: null, or as many bytes as there are.
    unsafe {
        for status in [
            fc_device_open_cuda(0, null_mut()),
            fc_device_open_emulated(null_mut()),
            fc_device_get_properties(device.0, null_mut()),
            fc_alloc(device.0, 1, null_mut()),
            fc_copy_to_device(device.0, memory, null(), 16),
            fc_copy_to_host(device.0, null_mut(), memory, 16),
        ] {
            assert_eq!(status, FC_ERROR_NULL_ARGUMENT);
        }
        ok(fc_copy_to_device(device.0, null_mut(), null(), 0));
        ok(fc_copy_to_host(device.0, null_mut(), null(), 0));
        let status = fc_copy_to_host(device.0, (&raw mut byte).cast(), null(), 1);
        refused(status, FC_ERROR_NOT_DEVICE_POINTER, "1 bytes at 0x0 are not memory of this device");
    }
    Ok(())
}

fn memory_is_allocated_and_freed(kind: &Kind) -> Result<(), Failure> {
    let device = kind.open();
    let data: Vec<u32> = (0..1000).collect();
    let memory = device.upload(&data);
    assert_eq!(memory.addr() % 256, 0);
    assert_eq!(device.download::<u32>(memory, 1000), data);
    assert_eq!(device.download::<u32>(memory.wrapping_byte_add(40), 10), data[10..20]);
    ok(fc_free(device.0, memory));
    let message = format!("{:#x} is not memory that fc_alloc gave, or was freed before", memory.addr());
    refused(fc_free(device.0, memory), FC_ERROR_NOT_ALLOCATED, &message);
    assert_eq!(device.alloc(0), null_mut());
    ok(fc_free(device.0, null_mut()));
    let mut memory = null_mut();
    // SAFETY: the pointer is that of an address.
    let status = unsafe { fc_alloc(device.0, 1 << 50, &mut memory) };
    refused(status, FC_ERROR_OUT_OF_MEMORY, "out of device memory: cannot allocate 1125899906842624 bytes");
    Ok(())
}

fn closed_devices_are_refused(kind: &Kind) -> Result<(), Failure> {
    let case = Case { seqlen_q: 64, seqlen_kv: 64, head_dim: 64, ..Case::default() };
    let device = kind.open();
    let Call { q, k, v, out, options, .. } = Call::new(&device, &case, &case.inputs(Dtype::F16, 7));
    let closed = device.0;
    ok(fc_device_close(closed));
    for handle in [closed, null_mut()] {
        let message = format!("the device handle {:#x} is not open", handle.addr());
        let (mut memory, mut length, mut byte, mut room) = (null_mut(), 0, 0u8, null_mut());
        // SAFETY: the handle is what is tested; all else is as it should be.
        let statuses = unsafe {
            [
                fc_device_close(handle),
                fc_device_preload(handle),
                fc_device_synchronize(handle),
                fc_stream_synchronize(handle, null_mut()),
                fc_device_get_properties(handle, null_mut()),
                fc_alloc(handle, 1, &mut memory),
                fc_free(handle, null_mut()),
                fc_copy_to_device(handle, q.data, (&raw const byte).cast(), 1),
                fc_copy_to_host(handle, (&raw mut byte).cast(), q.data, 1),
                fc_attention_plan_text(handle, &q, &k, &v, &out, &options, null_mut(), 0, &mut length),
                fc_attention_forward(handle, null_mut(), &q, &k, &v, &out, null_mut(), &options),
                fc_merge_attention_states(handle, null_mut(), &q, null(), &q, null(), &out, null_mut()),
                fc_fp8_qkv_create(handle, &q, &k, &v, &E4M3.options(), &mut room),
            ]
        };
        for status in statuses {
            refused(status, FC_ERROR_DEVICE_HANDLE, &message);
        }
    }
    Ok(())
}

fn closing_one_handle_leaves_the_other(kind: &Kind) -> Result<(), Failure> {
    let (one, other) = (kind.open(), kind.open());
    let memory = other.upload(&[1u8, 2, 3]);
    drop(one);
    assert_eq!(other.download::<u8>(memory, 3), [1, 2, 3]);
    Ok(())
}

fn versions(_: &Kind) -> Result<(), Failure> {
    assert_eq!(fc_abi_version(), FC_ABI_VERSION);
    // SAFETY: a static C string.
    let version = unsafe { CStr::from_ptr(fc_version_string()) };
    assert_eq!(version.to_str(), Ok(env!("CARGO_PKG_VERSION")));
    assert_eq!(fc_kernel_count(), flashcore::kernels::IMAGES.len());
    Ok(())
}

fn unknown_streams_are_refused(kind: &Kind) -> Result<(), Failure> {
    let device = kind.open();
    // SAFETY: an emulated device knows its streams, so that any number may be asked for.
    let status = unsafe { fc_stream_synchronize(device.0, std::ptr::without_provenance_mut(0xDEAD_0000)) };
    let message = "stream 0xdead0000 does not belong to the primary context of device 0";
    refused(status, FC_ERROR_WRONG_STREAM, message);
    Ok(())
}

fn main() -> ExitCode {
    let cuda = Device::cuda(0).map(|_| Kind::Cuda);
    let cuda = Resource::new("cuda", cuda.map_err(|error| format!("skipped: no CUDA device ({error})")));
    let emulated = Resource::new("emulated", Ok(Kind::Emulated));
    let mut suite = Suite::on(vec![cuda.clone(), emulated.clone()]);
    let base = Case { seqlen_q: 100, seqlen_kv: 130, heads_q: 4, heads_kv: 2, ..Case::default() };
    let cases = [
        Case { batch: 1, ..base },
        Case { causal: true, head_dim: 64, layout: Layout::Bhsd, ..base },
        Case { seqlen_q: 150, seqlen_kv: 70, causal: true, head_dim: 80, ..base },
        Case { heads_kv: 1, head_dim: 64, scale: Some(0.25), layout: Layout::Packed, ..base },
        Case { seqlen_q: 1, head_dim: 96, layout: Layout::Padded, ..base },
        Case { seqlen_kv: 0, head_dim: 64, ..base },
        Case { seqlen_q: 0, head_dim: 64, ..base },
    ];
    let extras = Extras::default();
    let (q, kv) = (Some(PACKED), Some(Lengths::WithOnes { longest: 130 }));
    let with = [
        Extras { left: Some(20), right: Some(3), ..extras },
        Extras { left: Some(40), top_left: true, ..extras },
        Extras { chunk: Some(33), ..extras },
        Extras { softcap: Some(5.0), ..extras },
        Extras { sinks: true, right: Some(7), ..extras },
        Extras { prefix: Some(Prefix::Drawn), right: Some(0), ..extras },
        Extras { packed_q: q, packed_kv: kv, ..extras },
        Extras { packed_q: q, packed_kv: kv, used: true, sinks: true, left: Some(30), ..extras },
        Extras { packed_kv: kv, ..extras },
        Extras { used: true, ..extras },
        Extras { alibi: Some(Slopes::PerHead), right: Some(0), ..extras },
        Extras { alibi: Some(Slopes::PerSequenceAndHead), packed_q: q, packed_kv: kv, ..extras },
        Extras { bias: Some(Bias::FULL), softcap: Some(5.0), ..extras },
        Extras { bias: Some(Bias { heads: false, hides: true, ..Bias::FULL }), sinks: true, ..extras },
        Extras { dropout: Some(DROPOUT), right: Some(0), ..extras },
        Extras { ranges: Some(Ranges::drawn(PerHead::EACH)), sinks: true, ..extras },
        Extras { ranges: Some(Ranges::drawn(PerHead::ONE)), packed_q: q, packed_kv: kv, ..extras },
        Extras { blocks: Some(Blocks::drawn(PerHead::EACH)), packed_q: q, packed_kv: kv, ..extras },
        Extras { softcap: Some(5.0), approximate_tanh: true, ..extras },
    ];
    let blocks = Extras { blocks: Some(Blocks::drawn(PerHead::ONE)), ..with[15] };
    let some_blocks = Case { seqlen_q: 270, seqlen_kv: 400, head_dim: 64, extras: blocks, ..base };
    let odd_keys = Case {
        seqlen_kv: 131,
        head_dim: 64,
        extras: Extras { bias: Some(Bias { batch: false, queries: false, ..Bias::FULL }), ..extras },
        ..base
    };
    let causal_varlen = Case { causal: true, extras: with[6], head_dim: 64, ..base };
    let with = with.map(|extras| Case { head_dim: 64, extras, ..base });
    for case in cases.into_iter().chain(with).chain([causal_varlen, odd_keys, some_blocks]) {
        suite.test(format!("same_bits_{case}"), move |kind: &Kind| same_bits(*kind, &case));
    }
    let causal = Case { causal: true, head_dim: 64, ..base };
    let packed = Extras { packed_q: q, packed_kv: kv, ..extras };
    let band = Extras { left: Some(20), softcap: Some(5.0), sinks: true, ..extras };
    for (case, narrowing) in [
        (Case { layout: Layout::Padded, ..causal }, E4M3),
        (causal, E5M2),
        (Case { head_dim: 128, ..base }, Narrowing { rotated: true, ..E4M3 }),
        (Case { head_dim: 72, layout: Layout::Bhsd, ..causal }, Narrowing { per_tensor: true, ..E4M3 }),
        (Case { scale: Some(0.25), ..causal }, Narrowing { rotated: true, per_tensor: true, ..E5M2 }),
        (Case { head_dim: 128, ..base }, Narrowing { stochastic: Some((1 << 40, 7)), ..E4M3 }),
        (Case { batch: 5, extras: packed, ..causal }, Narrowing { stochastic: Some((3, 1)), ..E4M3 }),
        (Case { batch: 5, extras: Extras { used: true, packed_q: None, ..packed }, ..base }, E4M3),
        (Case { extras: band, ..causal }, E4M3),
    ] {
        let Narrowing { kind: format, rotated, per_tensor, stochastic } = narrowing;
        let by_chance = if stochastic.is_some() { "_by_chance" } else { "" };
        let rotated = if rotated { "_rotated" } else { "" };
        let per_tensor = if per_tensor { "_per_tensor" } else { "" };
        let name = format!("same_bits_{}{rotated}{per_tensor}{by_chance}_{case}", format.name());
        suite.test(name, move |kind: &Kind| same_bits_in_fp8(*kind, &case, narrowing));
    }
    type Test = fn(&Kind) -> Result<(), Failure>;
    let tests: [(&str, Test); 24] = [
        ("outputs_of_fp8", outputs_of_fp8),
        ("two_threads_in_one_room", two_threads_in_one_room),
        ("wrong_rooms_are_refused", wrong_rooms_are_refused),
        ("rooms_are_destroyed", rooms_are_destroyed),
        ("mistakes_in_fp8_are_refused", mistakes_in_fp8_are_refused),
        ("masks_of_dropout_are_those_of_the_host", masks_of_dropout_are_those_of_the_host),
        ("merges_have_the_same_bits", merges_have_the_same_bits),
        ("wrong_merges_are_refused", wrong_merges_are_refused),
        ("default_options", default_options),
        ("two_threads", two_threads),
        ("plan_is_that_of_the_host", plan_is_that_of_the_host),
        ("properties_are_those_of_the_host", properties_are_those_of_the_host),
        ("preload", preload),
        ("mistakes_are_refused", mistakes_are_refused),
        ("wrong_options_are_refused", wrong_options_are_refused),
        ("wrong_biases_are_refused", wrong_biases_are_refused),
        ("wrong_ranges_and_blocks_are_refused", wrong_ranges_and_blocks_are_refused),
        ("block_lists_are_those_of_the_host", block_lists_are_those_of_the_host),
        ("older_options_work", older_options_work),
        ("null_arguments_are_refused", null_arguments_are_refused),
        ("memory_is_allocated_and_freed", memory_is_allocated_and_freed),
        ("closed_devices_are_refused", closed_devices_are_refused),
        ("closing_one_handle_leaves_the_other", closing_one_handle_leaves_the_other),
        ("versions", versions),
    ];
    for (name, test) in tests {
        suite.test(name, test);
    }
    // The emulated device of this interface has no stream but the default one, which records nothing.
    let mut cuda = Suite::on(vec![cuda]);
    cuda.test("graphs_record_calls", graphs_record_calls);
    let mut emulator = Suite::on(vec![emulated]);
    emulator.test("unknown_streams_are_refused", unknown_streams_are_refused);
    suite.and(cuda).and(emulator).run_serially()
}
