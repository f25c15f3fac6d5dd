//! Scores approach a bound, but never exceed it: `cap tanh(x / cap)`.

use flashcore_kernels::attention_kernels;
use flashcore_kernels::float::{mul, tanh};
use flashcore_kernels::score_mod::{Key, Query, ScoreMod};

/// The function.
pub struct TanhSoftcap;

/// The bound.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Cap {
    cap: f32,
    inverse: f32,
}

impl Cap {
    /// A bound.
    pub fn new(cap: f32) -> Self {
        Cap { cap, inverse: 1.0 / cap }
    }
}

impl ScoreMod for TanhSoftcap {
    type Args = Cap;
    type Row = ();

    #[inline(always)]
    fn row(_: &Cap, _: &Query) {}

    #[inline(always)]
    fn score(&Cap { cap, inverse }: &Cap, (): (), _: Key, score: f32) -> f32 {
        mul(cap, tanh(mul(score, inverse)))
    }
}

attention_kernels! {
    TanhSoftcap: tanh_softcap_hd64_f16 = (64, F16), tanh_softcap_hd128_f16 = (128, F16),
}
