//! Scores fall with the distance between query and key (ALiBi, Press et al. 2022): `x - slope[h] |i - j|`.

use flashcore_kernels::attention_kernels;
use flashcore_kernels::float::{abs, fma};
use flashcore_kernels::score_mod::{Key, Numbers, Query, ScoreMod};

/// The function.
pub struct Alibi;

/// The slope of each query head.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Slopes(pub Numbers<f32>);

impl ScoreMod for Alibi {
    type Args = Slopes;
    type Row = f32;

    #[inline(always)]
    fn row(slopes: &Slopes, query: &Query) -> f32 {
        // SAFETY: who makes `Slopes` vouches for one for each query head.
        unsafe { slopes.0.get(query.head) }
    }

    #[inline(always)]
    fn score(_: &Slopes, slope: f32, key: Key, score: f32) -> f32 {
        fma(-slope, abs(key.distance), score)
    }
}

attention_kernels! {
    Alibi: alibi_hd64_f16 = (64, F16), alibi_hd128_f16 = (128, F16), alibi_hd128_bf16 = (128, Bf16),
    alibi_hd64_f16_sparse = (64, F16, sparse),
}
