//! Arithmetic in f32 of the pure half: as kernels do it on the device, plain on the host.
//!
//! On the device results are flushed to zero where they are denormal, and functions are approximations: [`exp2`] is
//! within 2 ulp, [`log2`] and [`reciprocal`] within 1, [`tanh`] off by about 2⁻²².

#[cfg(target_arch = "nvptx64")]
pub use crate::ptx::math::{abs, add, exp2, fma, log2, max, mul, reciprocal};

#[cfg(not(target_arch = "nvptx64"))]
pub use host::*;

#[cfg(not(target_arch = "nvptx64"))]
mod host {
    extern crate std;

    /// |x|
    pub fn abs(x: f32) -> f32 {
        x.abs()
    }

    /// a + b
    pub fn add(a: f32, b: f32) -> f32 {
        a + b
    }

    /// 2 to the x
    pub fn exp2(x: f32) -> f32 {
        x.exp2()
    }

    /// a * b + c, rounded once
    pub fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    /// Logarithm to the base 2
    pub fn log2(x: f32) -> f32 {
        x.log2()
    }

    /// The larger one; a NaN loses against a number
    pub fn max(a: f32, b: f32) -> f32 {
        a.max(b)
    }

    /// a * b
    pub fn mul(a: f32, b: f32) -> f32 {
        a * b
    }

    /// 1 / x
    pub fn reciprocal(x: f32) -> f32 {
        1.0 / x
    }
}

/// The hyperbolic tangent, as `1 - 2 / (e^(2 x) + 1)`.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let power = exp2(mul(x, 2.0 * core::f32::consts::LOG2_E));
    fma(-2.0, reciprocal(add(power, 1.0)), 1.0)
}
