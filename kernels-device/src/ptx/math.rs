//! Single-instruction arithmetic, flushing denormals, without slow paths: the number of instructions never
//! depends on the data.
//!
//! Results are `lateout`: with `out` a result may not share a register with an operand, which costs a copy wherever a
//! value is updated in place, and such a copy of an accumulator may land beside products in flight.

use core::arch::asm;

use crate::config::{Dtype, Fp8};

macro_rules! f32_op {
    ($(#[$doc:meta])* $name:ident($($arg:ident),*) = $asm:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($($arg: f32),*) -> f32 {
            let result: f32;
            // SAFETY: arithmetic on registers.
            unsafe { asm!($asm, $($arg = in(reg32) $arg,)* d = lateout(reg32) result, options(pure, nomem, nostack)) };
            result
        }
    };
}

f32_op!(
    /// `ex2.approx.ftz.f32` (ISA 9.7.3.21): 2 to the x, within 2 ulp; 0 for minus infinity.
    exp2(x) = "ex2.approx.ftz.f32 {d}, {x};"
);
f32_op!(
    /// `lg2.approx.ftz.f32` (ISA 9.7.3.20): base-2 logarithm; minus infinity for 0.
    log2(x) = "lg2.approx.ftz.f32 {d}, {x};"
);
f32_op!(
    /// `rcp.approx.ftz.f32` (ISA 9.7.3.13): 1 / x, within 1 ulp.
    reciprocal(x) = "rcp.approx.ftz.f32 {d}, {x};"
);
f32_op!(
    /// `tanh.approx.f32` (ISA 9.7.3.23): the hyperbolic tangent, off by up to 2⁻¹¹ of itself.
    tanh_approx(x) = "tanh.approx.f32 {d}, {x};"
);
f32_op!(
    /// `max.ftz.f32` (ISA 9.7.3.12): the larger one; a NaN loses against a number.
    max(a, b) = "max.ftz.f32 {d}, {a}, {b};"
);
f32_op!(
    /// `min.NaN.ftz.f32` (ISA 9.7.3.11): the smaller one; NaN if either is.
    min(a, b) = "min.NaN.ftz.f32 {d}, {a}, {b};"
);
f32_op!(
    /// `fma.rn.ftz.f32` (ISA 9.7.3.6): a * b + c, rounded once.
    fma(a, b, c) = "fma.rn.ftz.f32 {d}, {a}, {b}, {c};"
);
f32_op!(
    /// `abs.ftz.f32` (ISA 9.7.3.9): the magnitude of a number.
    abs(x) = "abs.ftz.f32 {d}, {x};"
);
f32_op!(
    /// `mul.rn.ftz.f32` (ISA 9.7.3.5).
    mul(a, b) = "mul.rn.ftz.f32 {d}, {a}, {b};"
);
f32_op!(
    /// `add.rn.ftz.f32` (ISA 9.7.3.3).
    add(a, b) = "add.rn.ftz.f32 {d}, {a}, {b};"
);
f32_op!(
    /// `add.rz.ftz.f32` (ISA 9.7.3.3): what does not fit is cut off.
    add_towards_zero(a, b) = "add.rz.ftz.f32 {d}, {a}, {b};"
);

macro_rules! select {
    ($(#[$doc:meta])* $name:ident = $compare:literal) => {
        $(#[$doc])*
        ///
        /// Two instructions that LLVM cannot turn into a branch: what depends on data is chosen, never jumped to.
        #[inline(always)]
        pub fn $name(a: f32, b: f32, yes: f32, no: f32) -> f32 {
            let result: f32;
            // SAFETY: arithmetic on registers.
            unsafe {
                asm!(
                    "{{", ".reg .pred p;", concat!($compare, " p, {a}, {b};"), "selp.f32 {d}, {yes}, {no}, p;", "}}",
                    a = in(reg32) a, b = in(reg32) b, yes = in(reg32) yes, no = in(reg32) no,
                    d = lateout(reg32) result, options(pure, nomem, nostack)
                )
            }
            result
        }
    };
}

select!(
    /// `yes` where `a` equals `b`, else `no`, which includes NaN.
    select_equal = "setp.eq.ftz.f32"
);
select!(
    /// `yes` where `a` is less than `b`, else `no`, which includes NaN.
    select_less = "setp.lt.ftz.f32"
);

/// All ones, or all zeros where `x` is zero.
#[inline(always)]
pub fn mask_of_nonzero(x: f32) -> u32 {
    select_equal(x, 0.0, 0.0, f32::from_bits(u32::MAX)).to_bits()
}

/// `mul.wide.u32` (ISA 9.7.1.3): low and high half of a product.
#[inline(always)]
pub fn wide_product(a: u32, b: u32) -> [u32; 2] {
    let (low, high): (u32, u32);
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!(
            "{{", ".reg .b64 product;", "mul.wide.u32 product, {a}, {b};", "mov.b64 {{{low}, {high}}}, product;", "}}",
            a = in(reg32) a, b = in(reg32) b, low = lateout(reg32) low, high = lateout(reg32) high,
            options(pure, nomem, nostack)
        )
    }
    [low, high]
}

/// `prmt.b32` (ISA 9.7.9.7): each half all ones if its highest bit is set, else all zeros.
#[inline(always)]
pub fn spread_signs(halves: u32) -> u32 {
    let spread: u32;
    // SAFETY: arithmetic on registers. Selectors of 8 and more stand for the sign of a byte.
    unsafe {
        asm!("prmt.b32 {0}, {1}, 0, 0xBB99;", lateout(reg32) spread, in(reg32) halves, options(pure, nomem, nostack))
    }
    spread
}

/// The same number anew: what follows from it is computed where it stands, and holds no register before.
#[inline(always)]
pub fn anew(x: u32) -> u32 {
    let y: u32;
    // SAFETY: a copy of a register.
    unsafe { asm!("mov.b32 {0}, {1};", lateout(reg32) y, in(reg32) x, options(nostack)) }
    y
}

/// `cvt.rn.{f16x2,bf16x2}.f32` (ISA 9.7.9.21): two elements packed into one register, `low` in its low half.
#[inline(always)]
pub fn pack(dtype: Dtype, low: f32, high: f32) -> u32 {
    let packed: u32;
    // SAFETY: arithmetic on registers. The instruction names the upper half first.
    unsafe {
        match dtype {
            Dtype::F16 => {
                asm!("cvt.rn.f16x2.f32 {0}, {1}, {2};", lateout(reg32) packed, in(reg32) high, in(reg32) low,
                options(pure, nomem, nostack))
            }
            Dtype::Bf16 => {
                asm!("cvt.rn.bf16x2.f32 {0}, {1}, {2};", lateout(reg32) packed, in(reg32) high, in(reg32) low,
                options(pure, nomem, nostack))
            }
        }
    }
    packed
}

/// `cvt.rn.satfinite.{e4m3x2,e5m2x2}.f32` (ISA 9.7.9.21): four elements packed into one register, the first in its low
/// byte. Numbers beyond the largest become that; NaN stays one.
#[inline(always)]
pub fn pack_x4(fp8: Fp8, [a, b, c, d]: [f32; 4]) -> u32 {
    let packed: u32;
    // SAFETY: arithmetic on registers. The instruction names the upper byte first.
    unsafe {
        match fp8 {
            Fp8::E4m3 => asm!(
                "{{", ".reg .b16 low, high;", "cvt.rn.satfinite.e4m3x2.f32 low, {b}, {a};",
                "cvt.rn.satfinite.e4m3x2.f32 high, {d}, {c};", "mov.b32 {packed}, {{low, high}};", "}}",
                a = in(reg32) a, b = in(reg32) b, c = in(reg32) c, d = in(reg32) d, packed = lateout(reg32) packed,
                options(pure, nomem, nostack)
            ),
            Fp8::E5m2 => asm!(
                "{{", ".reg .b16 low, high;", "cvt.rn.satfinite.e5m2x2.f32 low, {b}, {a};",
                "cvt.rn.satfinite.e5m2x2.f32 high, {d}, {c};", "mov.b32 {packed}, {{low, high}};", "}}",
                a = in(reg32) a, b = in(reg32) b, c = in(reg32) c, d = in(reg32) d, packed = lateout(reg32) packed,
                options(pure, nomem, nostack)
            ),
        }
    }
    packed
}

/// `max.{f16x2,bf16x2}` (ISA 9.7.4.10) of two pairs of elements; a NaN loses against a number.
#[inline(always)]
pub fn max_x2(dtype: Dtype, a: u32, b: u32) -> u32 {
    let larger: u32;
    // SAFETY: arithmetic on registers.
    unsafe {
        match dtype {
            Dtype::F16 => asm!("max.f16x2 {0}, {1}, {2};", lateout(reg32) larger, in(reg32) a, in(reg32) b,
                options(pure, nomem, nostack)),
            Dtype::Bf16 => asm!("max.bf16x2 {0}, {1}, {2};", lateout(reg32) larger, in(reg32) a, in(reg32) b,
                options(pure, nomem, nostack)),
        }
    }
    larger
}

/// The two elements that [`pack`] packed, the low half first.
///
/// `cvt.f32.f16` (ISA 9.7.9.21) of each half; a bfloat16 is the upper half of the f32 of its value.
#[inline(always)]
pub fn unpack(dtype: Dtype, packed: u32) -> [f32; 2] {
    match dtype {
        Dtype::F16 => {
            let (low, high): (f32, f32);
            // SAFETY: arithmetic on registers.
            unsafe {
                asm!(
                    "{{", ".reg .b16 a, b;", "mov.b32 {{a, b}}, {packed};", "cvt.f32.f16 {low}, a;",
                    "cvt.f32.f16 {high}, b;", "}}",
                    packed = in(reg32) packed, low = out(reg32) low, high = lateout(reg32) high,
                    options(pure, nomem, nostack)
                )
            };
            [low, high]
        }
        Dtype::Bf16 => [f32::from_bits(packed << 16), f32::from_bits(packed & 0xffff_0000)],
    }
}
