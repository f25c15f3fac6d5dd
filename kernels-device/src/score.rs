//! What happens to scores between QKᵀ and the softmax.

use crate::config::{Score, Variant};
use crate::params::FwdParams;
use crate::ptx::math::{add, exp2, mul, reciprocal};
use crate::ptx::wgmma::Acc;

/// What must be added to maxima that were found so, to the base 2.
#[inline(always)]
pub fn offset_log2(v: &Variant, params: &FwdParams) -> f32 {
    match v.score {
        Score::Plain => 0.0,
        Score::Softcap => params.general.softcap_log2,
    }
}

/// Changes products into scores, but for the factor `scale_log2` of the parameters and a constant, which no weight
/// depends on.
///
/// Capped: `cap * tanh(x / cap)` is `cap - 2 cap / (e^(2 x / cap) + 1)`, which loses nothing that a score could show,
/// and of which only the fraction depends on x. `tanh.approx` is quicker, one special function instead of two, but off
/// by 2^-11.
#[inline(always)]
pub fn apply<const R: usize>(v: &Variant, params: &FwdParams, s: &mut Acc<R>) {
    match v.score {
        Score::Plain => {}
        Score::Softcap => {
            let mut i = 0;
            while i < R {
                let power = exp2(mul(s.0[i], params.general.softcap_power));
                s.0[i] = reciprocal(add(-power, -1.0));
                i += 1;
            }
        }
    }
}
