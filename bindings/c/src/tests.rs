//! What cannot be seen from outside: panics, recordings on the emulator, errors that need a broken machine.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use flashcore::Error;
use flashcore::driver::Graph;

use crate::call::call;
use crate::status::Failure;
use crate::*;

fn last_error() -> String {
    // SAFETY: a C string, valid until the next call.
    unsafe { CStr::from_ptr(fc_last_error()) }.to_str().unwrap().to_owned()
}

#[test]
fn panics_become_errors() {
    assert_eq!(call(|| panic!("with {}", "words")), fc_status::FC_ERROR_INTERNAL);
    assert_eq!(last_error(), "flashcore panicked: with words");
    assert_eq!(call(|| std::panic::panic_any(1)), fc_status::FC_ERROR_INTERNAL);
    assert_eq!(last_error(), "flashcore panicked: no message");
}

#[test]
fn messages_are_those_of_rust_and_stay() {
    let error = Error::NotHopper { name: "odd\0name".into(), major: 8, minor: 0 };
    assert_eq!(call(|| Err(error.clone().into())), fc_status::FC_ERROR_NOT_HOPPER);
    let expected = error.to_string().replace('\0', "\\0");
    assert_eq!(last_error(), expected);
    assert_eq!(call(|| Ok(())), fc_status::FC_OK);
    assert_eq!(last_error(), expected);
    std::thread::spawn(|| assert_eq!(last_error(), "")).join().unwrap();
}

#[test]
fn errors_of_other_machines_have_their_codes() {
    let (symbol, name, call) = ("fwd", String::new(), "cuCall");
    let operand = flashcore::Operand::K;
    let errors = [
        (Error::NoDriver { reason: String::new() }, 20),
        (Error::DriverTooOld { found: 11_080, needed: 12_000 }, 21),
        (Error::NoDevice { ordinal: 1, count: 1 }, 22),
        (Error::NotHopper { name: name.clone(), major: 8, minor: 9 }, 23),
        (Error::OutOfMemory { bytes: 1 }, 24),
        (Error::Driver { call, code: 1, name: name.clone(), message: name.clone() }, 25),
        (Error::ContextLost { call, code: 700, name: name.clone() }, 26),
        (Error::WrongStream { raw: 1, ordinal: 0 }, 27),
        (Error::SharedMemory { symbol, needed: 2, limit: 1 }, 28),
        (Error::KernelMissing { symbol }, 29),
        (Error::KernelRefused { symbol, reason: name.clone() }, 30),
        (Error::EmulatorRefused { reason: name }, 32),
        (Error::WrongDevice { operand, ptr: 1, found: 1, expected: 0 }, 62),
        (Error::NoClock, 7),
    ];
    for (error, number) in errors {
        assert_eq!(Failure::from(error.clone()).status() as i32, number, "{error}");
    }
}

#[test]
fn calls_may_be_recorded() {
    // SAFETY: all memory is live until the graph has run.
    may_be_recorded(|handle, stream, q, out| unsafe {
        fc_attention_forward(handle, stream, q, q, q, out, null_mut(), null())
    });
}

#[test]
fn calls_of_8_bits_may_be_recorded() {
    let room = std::cell::OnceCell::new();
    may_be_recorded(|handle, stream, q, out| {
        let make = || {
            let (mut room, struct_size) = (null_mut(), size_of::<fc_fp8_options>());
            let options = fc_fp8_options {
                struct_size,
                format: fc_fp8::FC_E4M3 as i32,
                rotated: 1,
                per_tensor: 1,
                num_sequences_q: 0,
                num_sequences_kv: 0,
            };
            // SAFETY: structs, and the pointer of a handle.
            let status = unsafe { fc_fp8_qkv_create(handle, q, q, q, &options, &mut room) };
            assert_eq!(status, fc_status::FC_OK);
            room
        };
        // SAFETY: all memory is live until the graph has run.
        unsafe { fc_attention_fp8(*room.get_or_init(make), stream, q, q, q, out, null_mut(), null(), null()) }
    });
}

/// A call over ones, made once before, may be recorded, allocates nothing, and computes when the recording is launched.
fn may_be_recorded(submit: impl Fn(*mut fc_device, *mut c_void, &fc_tensor, &fc_tensor) -> fc_status) {
    const BYTES: usize = 2 * 64 * 64;
    let mut handle = null_mut();
    // SAFETY: the pointer is that of a handle.
    assert_eq!(unsafe { fc_device_open_emulated(&mut handle) }, fc_status::FC_OK);
    let mut memory: [*mut c_void; 2] = [null_mut(); 2];
    let ones = [0x3F80u16; BYTES / 2];
    for data in &mut memory {
        // SAFETY: the pointers are those of an address and of as many bytes.
        unsafe {
            assert_eq!(fc_alloc(handle, BYTES, data), fc_status::FC_OK);
            assert_eq!(fc_copy_to_device(handle, *data, ones.as_ptr().cast(), BYTES), fc_status::FC_OK);
        }
    }
    let tensor = |data| fc_tensor {
        data,
        batch: 1,
        seqlen: 64,
        heads: 1,
        head_dim: 64,
        stride_batch: 64 * 64,
        stride_seqlen: 64,
        stride_heads: 64,
        dtype: fc_dtype::FC_BF16 as i32,
    };
    let (q, out) = (tensor(memory[0]), tensor(memory[1]));
    let twos = [0x4000u16; BYTES / 2];
    let opened = device::opened(handle).unwrap();
    let stream = opened.device.stream().unwrap();
    let raw = std::ptr::without_provenance_mut(stream.raw() as usize);
    assert_eq!(submit(handle, raw, &q, &out), fc_status::FC_OK);
    let allocated = (opened.allocations().len(), opened.rooms().len());
    let graph = Graph::capture(&stream, |_| {
        assert_eq!(submit(handle, raw, &q, &out), fc_status::FC_OK);
        Ok(())
    })
    .unwrap();
    assert_eq!((opened.allocations().len(), opened.rooms().len()), allocated);
    let mut result = [0u16; BYTES / 2];
    // SAFETY: the memory is live, and the pointers are those of as many bytes.
    unsafe {
        assert_eq!(fc_copy_to_device(handle, out.data, twos.as_ptr().cast(), BYTES), fc_status::FC_OK);
        graph.launch(&stream).unwrap();
        assert_eq!(fc_copy_to_host(handle, result.as_mut_ptr().cast(), out.data, BYTES), fc_status::FC_OK);
    }
    assert_eq!(result, ones);
    assert_eq!(fc_device_close(handle), fc_status::FC_OK);
}
