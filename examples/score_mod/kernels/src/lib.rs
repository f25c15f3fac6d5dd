//! Three functions of scores, and the kernels that are compiled with them. The same crate builds for the host, where it
//! says what the kernels are, and where the functions can be called like any other.
#![no_std]
#![cfg_attr(target_arch = "nvptx64", feature(abi_ptx, asm_experimental_arch))]

mod alibi;
mod documents;
mod tanh_softcap;

pub use alibi::{Alibi, Slopes};
pub use documents::{Documents, Ids};
pub use tanh_softcap::{Cap, TanhSoftcap};
