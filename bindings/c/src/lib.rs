//! The C interface of flashcore. The header `include/flashcore.h` is made from this crate, by cbindgen: what it says
//! and what stands here are the same words.
//!
//! Every function that can fail returns an [`fc_status`]; [`fc_last_error`] has the message. Nothing that goes wrong on
//! the Rust side reaches C as a panic. Device handles are numbers that look like pointers: nobody dereferences them, so
//! that a closed one is an error like any other.
//!
//! Rust programs have no use for this crate: they use `flashcore`.
#![allow(non_camel_case_types, reason = "the names are those of the header")]

mod attention;
mod call;
mod device;
mod dropout;
mod fp8;
mod memory;
mod merge;
mod sparse;
mod status;
#[cfg(test)]
mod tests;

use std::ffi::c_char;

pub use attention::{
    fc_align, fc_attention_forward, fc_attention_options, fc_attention_plan_text, fc_bias, fc_dtype,
    fc_tensor,
};
pub use call::fc_last_error;
pub use device::{
    FC_NAME_BYTES, fc_device, fc_device_close, fc_device_get_properties, fc_device_open_cuda,
    fc_device_open_emulated, fc_device_preload, fc_device_properties, fc_device_synchronize,
    fc_stream_synchronize,
};
pub use dropout::fc_dropout_mask;
pub use fp8::{
    fc_attention_fp8, fc_fp8, fc_fp8_options, fc_fp8_qkv, fc_fp8_qkv_create, fc_fp8_qkv_destroy,
    fc_fp8_stochastic,
};
pub use memory::{fc_alloc, fc_copy_to_device, fc_copy_to_host, fc_free};
pub use merge::fc_merge_attention_states;
pub use sparse::{fc_block_lists, fc_block_mask, fc_key_ranges};
pub use status::fc_status;

/// Version of the interface that this header describes. It changes when something that compiled or ran before no longer
/// does; additions do not change it.
pub const FC_ABI_VERSION: u32 = 1;

/// The `FC_ABI_VERSION` of the library that is loaded: it must be that of the header.
#[unsafe(no_mangle)]
pub extern "C" fn fc_abi_version() -> u32 {
    FC_ABI_VERSION
}

/// Version of the library, such as "0.1.0". Static: do not free it.
#[unsafe(no_mangle)]
pub extern "C" fn fc_version_string() -> *const c_char {
    const { concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast() }
}

/// Number of kernels that the library carries.
#[unsafe(no_mangle)]
pub extern "C" fn fc_kernel_count() -> usize {
    flashcore::kernels::IMAGES.len()
}
