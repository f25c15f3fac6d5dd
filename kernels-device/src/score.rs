//! What happens to scores between QKᵀ and the softmax.

use crate::config::{Score, Variant};
use crate::params::FwdParams;
use crate::ptx::math::{add, exp2, fma, min, mul, reciprocal};
use crate::ptx::wgmma::Acc;

/// log2 of a number whose reciprocal is normal, and far beyond what tells a capped score from its cap.
const LARGEST_POWER: f32 = 60.0;

/// The factor that takes what [`apply`] leaves to exponents with base 2.
#[inline(always)]
pub fn scale_log2(v: &Variant, params: &FwdParams) -> f32 {
    match v.score {
        Score::Plain => params.scale_log2,
        Score::Softcap => mul(add(params.general.softcap, params.general.softcap), core::f32::consts::LOG2_E),
    }
}

/// What must be added to maxima that were found so, to the base 2.
#[inline(always)]
pub fn offset_log2(v: &Variant, params: &FwdParams) -> f32 {
    match v.score {
        Score::Plain => 0.0,
        Score::Softcap => mul(params.general.softcap, core::f32::consts::LOG2_E),
    }
}

/// Changes products into scores, but for the factor of [`scale_log2`] and a constant, which no weight depends on.
///
/// Capped: `cap * tanh(x / cap)` is `cap - 2 cap / (e^(2 x / cap) + 1)`, which loses nothing that a score could show, and of which
/// only the fraction depends on x. (`tanh.approx` is quicker, but off by 2^-11.) There are three special functions a score
/// then, with the softmax's, and their unit has no time for that beside the tensor cores; so every second reciprocal is computed
/// by multiplications.
#[inline(always)]
pub fn apply<const R: usize>(v: &Variant, params: &FwdParams, s: &mut Acc<R>) {
    match v.score {
        Score::Plain => {}
        Score::Softcap => {
            let mut i = 0;
            while i < R {
                let power = exp2(min(mul(s.0[i], params.general.softcap_power), LARGEST_POWER));
                let below = add(-power, -1.0);
                s.0[i] = if i % 2 == 0 { reciprocal(below) } else { multiplied_reciprocal(below) };
                i += 1;
            }
        }
    }
}

/// 1 / x for an ordinary number, within 1 ulp: a guess from the exponent, off by an eighth, and two steps that cube that
/// (Householder).
#[inline(always)]
fn multiplied_reciprocal(x: f32) -> f32 {
    let mut inverse = f32::from_bits(0x7EF3_11C7u32.wrapping_sub(x.to_bits()));
    let mut step = 0;
    while step < 2 {
        let error = fma(-x, inverse, 1.0);
        inverse = fma(inverse, fma(error, error, error), inverse);
        step += 1;
    }
    inverse
}
