//! Matrix products of a warpgroup (ISA 9.7.15): asynchronous, so that a result is a type of its own until waited for.
//!
//! ```text
//! let mut o = o.launch();              // registers are named: nothing moves past this point
//! wgmma::fence();
//! let mut s = InFlight::start(q, k);   // S = Q Kᵀ, 16 columns of it
//! s.mma_ss(q.advance(32), k.advance(32));
//! o.mma_rs(p, v);                      // any number of products, on any number of accumulators
//! wgmma::commit();
//! let s = s.wait::<0>();               // an Acc again, readable
//! ```
//!
//! LLVM believes that an `asm!` has finished when it returns. An accumulator in flight must therefore not be read,
//! copied or spilled before the wait: the type hides its registers, and `launch` and `wait` pass every one of them
//! through an empty `asm!`, so that neither their producers nor their readers move across.

use core::arch::asm;

use super::intrinsics;
use super::smem::SmemAddr;
use crate::config::{Dtype, Factor, Fp8};
use crate::layout::Swizzle;

/// The 64-bit descriptor of an operand in shared memory (ISA 9.7.15.5.1, "Matrix Descriptor Format").
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SmemDesc(pub u64);

impl SmemDesc {
    /// A descriptor of the operand that starts at `start`, 16-byte aligned, in a pattern aligned to its size.
    ///
    /// What the two strides, in bytes, mean depends on the operand: K-major with a swizzle, `stride` is the distance
    /// of groups of 8 rows and `leading` is unused; MN-major with a swizzle, `leading` is the distance of slabs (one
    /// swizzle width of the MN extent) and `stride` that of groups of 8 k.
    #[inline(always)]
    pub fn new(start: SmemAddr, swizzle: Swizzle, leading: u32, stride: u32) -> Self {
        let field = |bytes: u32| ((bytes & 0x3_FFFF) >> 4) as u64;
        SmemDesc(
            field(start.0) | field(leading) << 16 | field(stride) << 32 | swizzle.descriptor_code() << 62,
        )
    }

    /// The same operand `bytes` further on. Shared memory ends before the address field would carry.
    #[inline(always)]
    pub const fn advance(self, bytes: u32) -> Self {
        SmemDesc(self.0 + (bytes >> 4) as u64)
    }
}

/// The f32 accumulator fragment of an m64nN product: `R = N / 2` registers a thread, laid out as
/// [`accumulator_element`](crate::layout::accumulator_element) says.
pub struct Acc<const R: usize>(pub [f32; R]);

/// An accumulator that a product may still be writing.
pub struct InFlight<const R: usize>([f32; R]);

impl<const R: usize> InFlight<R> {
    /// In the place of one that is yet to begin.
    #[inline(always)]
    pub fn none() -> Self {
        InFlight([0.0; R])
    }
}

impl<const R: usize> Acc<R> {
    /// All zeros.
    #[inline(always)]
    pub fn zeros() -> Self {
        Acc([0.0; R])
    }

    /// Keeps what computes the values before this point.
    #[inline(always)]
    pub fn hold(&mut self) {
        let mut i = 0;
        while i < R {
            // SAFETY: a comment.
            unsafe {
                asm!("// {0} {1}", inout(reg32) self.0[i], inout(reg32) self.0[i + 1], options(nostack, preserves_flags))
            }
            i += 2;
        }
    }

    /// Hands the accumulator to the tensor cores. [`fence`] must follow before the first product.
    #[inline(always)]
    pub fn launch(self) -> InFlight<R>
    where
        InFlight<R>: Products<R>,
    {
        InFlight::launch(self)
    }
}

/// Keeps what computes the A fragments `a` before the [`fence`] that follows, and their registers alive up to here.
#[inline(always)]
pub fn hold<const P: usize>(a: &mut [u32; P]) {
    let mut i = 0;
    while i < P {
        // SAFETY: a comment.
        unsafe {
            asm!("// {0} {1} {2} {3}", inout(reg32) a[i], inout(reg32) a[i + 1], inout(reg32) a[i + 2],
                inout(reg32) a[i + 3], options(nostack, preserves_flags))
        }
        i += 4;
    }
}

/// `wgmma.fence.sync.aligned` (ISA 9.7.15.7.1): orders register writes before the products that follow.
///
/// # Safety
/// The whole warpgroup executes it together.
#[inline(always)]
pub unsafe fn fence() {
    // SAFETY: the caller's.
    unsafe { intrinsics::wgmma_fence() }
}

/// `wgmma.commit_group.sync.aligned` (ISA 9.7.15.7.2): the products since the last commit become a group.
///
/// # Safety
/// The whole warpgroup executes it together.
#[inline(always)]
pub unsafe fn commit() {
    // SAFETY: the caller's.
    unsafe { intrinsics::wgmma_commit_group() }
}

/// Products on an accumulator in flight: one implementation for each width, `N = 2 * R` columns.
pub trait Products<const R: usize>: Sized {
    /// Hands the accumulator to the tensor cores. [`fence`] must follow before the first product.
    fn launch(acc: Acc<R>) -> Self;

    /// `wgmma.mma_async.m64nNk16` (of 8 bits, `k32`) with both operands in shared memory, which begins an accumulator:
    /// `A Bᵀ`. `TRANS_A`, `TRANS_B`: 0 for a K-major operand, 1 for an MN-major one; of 8 bits all are K-major.
    ///
    /// # Safety
    /// The whole warpgroup executes it together, after [`fence`]; the descriptors are right, their bytes written and
    /// visible to the async proxy, and not overwritten before the wait.
    unsafe fn start<const TRANS_A: u32, const TRANS_B: u32>(factor: Factor, a: SmemDesc, b: SmemDesc)
    -> Self;

    /// The same with A in registers, as of [`Self::mma_rs`].
    ///
    /// # Safety
    /// As [`Self::mma_rs`].
    unsafe fn start_rs<const TRANS_B: u32>(factor: Factor, a: [u32; 4], b: SmemDesc) -> Self;

    /// The same, added to the accumulator: `self += A Bᵀ`.
    ///
    /// # Safety
    /// As [`Self::start`].
    unsafe fn mma_ss<const TRANS_A: u32, const TRANS_B: u32>(
        &mut self,
        factor: Factor,
        a: SmemDesc,
        b: SmemDesc,
    );

    /// `self += A Bᵀ` with A in registers, laid out as [`a_element`](crate::layout::a_element) says, or
    /// [`a_element_8bit`](crate::layout::a_element_8bit).
    ///
    /// # Safety
    /// As [`Self::start`]; the registers of `a` are not written before the wait ([`hold`] them).
    unsafe fn mma_rs<const TRANS_B: u32>(&mut self, factor: Factor, a: [u32; 4], b: SmemDesc);

    /// `wgmma.wait_group.sync.aligned` (ISA 9.7.15.7.3): waits until at most `PENDING` groups are unfinished.
    ///
    /// # Safety
    /// The whole warpgroup executes it together; the products on this accumulator were committed, with at most
    /// `PENDING` groups after them.
    unsafe fn wait<const PENDING: u64>(self) -> Acc<R>;
}

/// Passes every register through an empty `asm!`: what computes them stays before, what reads them stays after.
macro_rules! pin {
    ($a:expr, $($i:tt)*) => {
        // SAFETY: a comment.
        unsafe { asm!(concat!("//" $(, " {", $i, "}")*), $(inout(reg32) $a[$i],)* options(nostack, preserves_flags)) }
    };
}

/// One product. The accumulator is `out` where it begins (scale-d is false: the hardware does not read it) and
/// `inout` where it goes on. Products of 8 bits have no say in how their factors lie.
macro_rules! mma {
    ($factor:expr, $form:ident, $acc:expr, $a:expr, $b:expr, $n:literal, $($i:tt)*) => {
        match $factor {
            Factor::Wide(Dtype::F16) => mma!(@wide $form "k16.f32.f16.f16", $acc, $a, $b, $n, $($i)*),
            Factor::Wide(Dtype::Bf16) => mma!(@wide $form "k16.f32.bf16.bf16", $acc, $a, $b, $n, $($i)*),
            Factor::Narrow(Fp8::E4m3) => mma!(@narrow $form "k32.f32.e4m3.e4m3", $acc, $a, $b, $n, $($i)*),
            Factor::Narrow(Fp8::E5m2) => mma!(@narrow $form "k32.f32.e5m2.e5m2", $acc, $a, $b, $n, $($i)*),
            Factor::Mixed => mma!(@narrow $form "k32.f32.e4m3.e5m2", $acc, $a, $b, $n, $($i)*),
        }
    };
    (@wide start_rs $ty:literal, $acc:expr, $a:expr, $b:expr, $n:literal, $($i:tt)*) => {
        mma!(@asm start_rs $ty, ", {tb}", (tb = const TRANS_B,), $acc, $a, $b, $n, $($i)*)
    };
    (@wide rs $ty:literal, $acc:expr, $a:expr, $b:expr, $n:literal, $($i:tt)*) => {
        mma!(@asm rs $ty, ", {tb}", (tb = const TRANS_B,), $acc, $a, $b, $n, $($i)*)
    };
    (@wide $form:ident $ty:literal, $acc:expr, $a:expr, $b:expr, $n:literal, $($i:tt)*) => {
        mma!(@asm $form $ty, ", {ta}, {tb}", (ta = const TRANS_A, tb = const TRANS_B,), $acc, $a, $b, $n, $($i)*)
    };
    (@narrow $form:ident $ty:literal, $acc:expr, $a:expr, $b:expr, $n:literal, $($i:tt)*) => {
        mma!(@asm $form $ty, "", (), $acc, $a, $b, $n, $($i)*)
    };
    (@asm start $ty:literal, $trans:literal, ($($operands:tt)*), $acc:expr, $a:expr, $b:expr, $n:literal, $($i:tt)*) => {
        asm!(
            "{{", ".reg .pred p;", "setp.ne.b32 p, 0, 0;", mma!(@text $ty, $n, "{a}", $trans, $($i)*), "}}",
            $(out(reg32) $acc[$i],)*
            a = in(reg64) $a.0, b = in(reg64) $b.0, $($operands)* options(nostack)
        )
    };
    (@asm start_rs $ty:literal, $trans:literal, ($($operands:tt)*), $acc:expr, $a:expr, $b:expr, $n:literal, $($i:tt)*) => {
        asm!(
            "{{", ".reg .pred p;", "setp.ne.b32 p, 0, 0;",
            mma!(@text $ty, $n, "{{{a0}, {a1}, {a2}, {a3}}}", $trans, $($i)*), "}}",
            $(out(reg32) $acc[$i],)*
            a0 = in(reg32) $a[0], a1 = in(reg32) $a[1], a2 = in(reg32) $a[2], a3 = in(reg32) $a[3],
            b = in(reg64) $b.0, $($operands)* options(nostack)
        )
    };
    (@asm ss $ty:literal, $trans:literal, ($($operands:tt)*), $acc:expr, $a:expr, $b:expr, $n:literal, $($i:tt)*) => {
        asm!(
            "{{", ".reg .pred p;", "setp.ne.b32 p, 1, 0;", mma!(@text $ty, $n, "{a}", $trans, $($i)*), "}}",
            $(inout(reg32) $acc[$i],)*
            a = in(reg64) $a.0, b = in(reg64) $b.0, $($operands)* options(nostack)
        )
    };
    (@asm rs $ty:literal, $trans:literal, ($($operands:tt)*), $acc:expr, $a:expr, $b:expr, $n:literal, $($i:tt)*) => {
        asm!(
            "{{", ".reg .pred p;", "setp.ne.b32 p, 1, 0;",
            mma!(@text $ty, $n, "{{{a0}, {a1}, {a2}, {a3}}}", $trans, $($i)*), "}}",
            $(inout(reg32) $acc[$i],)*
            a0 = in(reg32) $a[0], a1 = in(reg32) $a[1], a2 = in(reg32) $a[2], a3 = in(reg32) $a[3],
            b = in(reg64) $b.0, $($operands)* options(nostack)
        )
    };
    (@text $ty:literal, $n:literal, $a:literal, $trans:literal, 0 $($i:tt)*) => {
        concat!("wgmma.mma_async.sync.aligned.m64n", $n, $ty, " {{{0}" $(, ", {", $i, "}")*, "}}, ", $a, ", {b}, p, 1, 1",
            $trans, ";")
    };
}

/// One width of accumulator: `N`, then the numbers of its registers.
macro_rules! width {
    ($n:literal, $($i:tt)*) => {
        impl Products<{ $n / 2 }> for InFlight<{ $n / 2 }> {
            #[inline(always)]
            fn launch(mut acc: Acc<{ $n / 2 }>) -> Self {
                pin!(acc.0, $($i)*);
                InFlight(acc.0)
            }

            #[inline(always)]
            unsafe fn start<const TRANS_A: u32, const TRANS_B: u32>(factor: Factor, a: SmemDesc, b: SmemDesc) -> Self {
                let mut d = [0.0; { $n / 2 }];
                // SAFETY: the caller's.
                unsafe { mma!(factor, start, d, a, b, $n, $($i)*) }
                InFlight(d)
            }

            #[inline(always)]
            unsafe fn start_rs<const TRANS_B: u32>(factor: Factor, a: [u32; 4], b: SmemDesc) -> Self {
                let mut d = [0.0; { $n / 2 }];
                // SAFETY: the caller's.
                unsafe { mma!(factor, start_rs, d, a, b, $n, $($i)*) }
                InFlight(d)
            }

            #[inline(always)]
            unsafe fn mma_ss<const TRANS_A: u32, const TRANS_B: u32>(
                &mut self, factor: Factor, a: SmemDesc, b: SmemDesc,
            ) {
                // SAFETY: the caller's.
                unsafe { mma!(factor, ss, self.0, a, b, $n, $($i)*) }
            }

            #[inline(always)]
            unsafe fn mma_rs<const TRANS_B: u32>(&mut self, factor: Factor, a: [u32; 4], b: SmemDesc) {
                // SAFETY: the caller's.
                unsafe { mma!(factor, rs, self.0, a, b, $n, $($i)*) }
            }

            #[inline(always)]
            unsafe fn wait<const PENDING: u64>(mut self) -> Acc<{ $n / 2 }> {
                // SAFETY: the caller's.
                unsafe { intrinsics::wgmma_wait_group(PENDING) };
                pin!(self.0, $($i)*);
                Acc(self.0)
            }
        }
    };
}

#[rustfmt::skip]
width!(16,
    0 1 2 3 4 5 6 7
);
#[rustfmt::skip]
width!(32,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
);
#[rustfmt::skip]
width!(48,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23
);
#[rustfmt::skip]
width!(64,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
);
#[rustfmt::skip]
width!(80,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
    35 36 37 38 39
);
#[rustfmt::skip]
width!(96,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
    35 36 37 38 39 40 41 42 43 44 45 46 47
);
#[rustfmt::skip]
width!(112,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
    35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55
);
#[rustfmt::skip]
width!(128,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
    35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
);
#[rustfmt::skip]
width!(160,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
    35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66
    67 68 69 70 71 72 73 74 75 76 77 78 79
);
#[rustfmt::skip]
width!(192,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
    35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66
    67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95
);
#[rustfmt::skip]
width!(224,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
    35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66
    67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98
    99 100 101 102 103 104 105 106 107 108 109 110 111
);
#[rustfmt::skip]
width!(256,
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
    35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66
    67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98
    99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122
    123 124 125 126 127
);
