//! Fused attention for NVIDIA Hopper (sm_90a), written in Rust and compiled to PTX by rustc.
//!
//! In reading order:
//! - [`config`]: what a kernel variant is, and the budgets it must meet;
//! - [`entry`]: the table of variants;
//! - [`params`], [`layout`], [`schedule`]: what the host passes, where bytes lie, who computes what ([`divisor`]
//!   helps);
//! - [`score_mod`], [`float`]: what becomes of scores, as a function of yours;
//! - [`dropout`], [`philox`]: which weights are left out;
//! - [`fp8`], [`rounding`]: what elements of 8 bits stand for, where they lie, and how numbers are rounded to them;
//! - [`band`], [`sparse`], [`bundle`]: which keys a query sees, and who computes what, where only the launch or the device knows;
//! - `pipeline`, `softmax`, `score`, `mask`, `search`, `sparse_lookup`, `attention_fwd`: the kernel (device build only);
//! - `merge_states`: the kernel that merges what several calls of it left; `dropout_mask`: the one that writes which
//!   weights are left out; `quantize`: those that round to 8 bits (device build only);
//! - `ptx`: the only room with inline assembly (device build only).
//!
//! The first seven lines are plain Rust, the *pure half*: the host crate depends on it and tests run it.
#![no_std]
#![cfg_attr(target_arch = "nvptx64", feature(abi_ptx, asm_experimental_arch, stdarch_nvptx))]
#![cfg_attr(target_arch = "nvptx64", feature(link_llvm_intrinsics, abi_unadjusted))]
#![cfg_attr(target_arch = "nvptx64", allow(internal_features))]

pub mod band;
pub mod bundle;
pub mod config;
pub mod divisor;
pub mod dropout;
pub mod entry;
pub mod float;
pub mod fp8;
pub mod layout;
pub mod params;
#[cfg(feature = "patterns")]
pub mod patterns;
pub mod philox;
#[cfg(feature = "probes")]
pub mod probe;
pub mod rounding;
pub mod schedule;
pub mod score_mod;
pub mod sparse;

#[cfg(target_arch = "nvptx64")]
pub mod attention_fwd;
#[cfg(target_arch = "nvptx64")]
pub mod dropout_mask;
#[cfg(target_arch = "nvptx64")]
pub mod mask;
#[cfg(target_arch = "nvptx64")]
pub mod merge_states;
#[cfg(target_arch = "nvptx64")]
pub mod pipeline;
#[cfg(target_arch = "nvptx64")]
pub mod ptx;
#[cfg(target_arch = "nvptx64")]
pub mod quantize;
#[cfg(target_arch = "nvptx64")]
pub mod score;
#[cfg(target_arch = "nvptx64")]
pub mod search;
#[cfg(target_arch = "nvptx64")]
pub mod softmax;
#[cfg(target_arch = "nvptx64")]
pub mod sparse_lookup;

#[cfg(target_arch = "nvptx64")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
