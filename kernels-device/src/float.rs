//! Arithmetic in f32 of the pure half: as kernels do it on the device, plain on the host.

#[cfg(target_arch = "nvptx64")]
pub use crate::ptx::math::{add, mul};

/// a + b
#[cfg(not(target_arch = "nvptx64"))]
pub fn add(a: f32, b: f32) -> f32 {
    a + b
}

/// a * b
#[cfg(not(target_arch = "nvptx64"))]
pub fn mul(a: f32, b: f32) -> f32 {
    a * b
}
