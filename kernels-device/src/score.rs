//! What happens to scores between QKᵀ and the softmax.

use crate::config::{Score, Variant};
use crate::params::FwdParams;
use crate::ptx::math::{add, exp2, fma, mul, reciprocal};
use crate::ptx::wgmma::Acc;

/// The factor that takes what [`apply`] leaves to exponents with base 2.
#[inline(always)]
pub fn scale_log2(v: &Variant, params: &FwdParams) -> f32 {
    match v.score {
        Score::Plain => params.scale_log2,
        Score::Softcap => core::f32::consts::LOG2_E,
    }
}

/// Changes products into scores, but for the factor of [`scale_log2`].
#[inline(always)]
pub fn apply<const R: usize>(v: &Variant, params: &FwdParams, s: &mut Acc<R>) {
    match v.score {
        Score::Plain => {}
        Score::Softcap => {
            let cap = params.general.softcap;
            let minus_twice_cap = -add(cap, cap);
            // tanh x = 1 - 2 / (e^2x + 1), which loses nothing that a score could show. tanh.approx is quicker, but off by 2^-11.
            let twice_log2 = mul(add(params.scale_log2, params.scale_log2), params.general.inverse_softcap);
            let mut i = 0;
            while i < R {
                let power = exp2(mul(s.0[i], twice_log2));
                s.0[i] = fma(reciprocal(add(power, 1.0)), minus_twice_cap, cap);
                i += 1;
            }
        }
    }
}
