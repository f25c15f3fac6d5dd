//! What flashcore can do of a problem.

use anyhow::Result;
use flashcore::{Device, Dtype};
use flashcore_tests::device::OnDevice;

use crate::bench::judged;
use crate::feature::Feature;
use crate::metrics::Check;
use crate::timing::Recorded;

/// What flashcore makes of a problem.
pub(crate) enum Ours {
    /// It cannot compute it, for this reason.
    Unsupported(String),
    /// It computes something else.
    Wrong(Check),
    /// Its result is right; these calls can be timed.
    Right(Check, Box<Recorded<OnDevice>>),
}

/// Runs flashcore on `feature`, compares the result with the oracle, and records `launches` calls.
///
/// # Errors
/// The device failed.
pub(crate) fn ours(device: &Device, feature: &Feature, dtype: Dtype, launches: usize) -> Result<Ours> {
    let case = feature.case();
    if let Err(refusal) = case.problem(dtype) {
        return Ok(Ours::Unsupported(refusal.to_string()));
    }
    let (tensors, check) = judged(device, &case, dtype)?;
    Ok(match check.is_right() {
        false => Ours::Wrong(check),
        true => Ours::Right(check, Box::new(Recorded::new(device, tensors, launches)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::rows::rows;

    /// Why `feature` is not supported.
    fn reason(feature: &Feature) -> Option<String> {
        match ours(&Device::emulated(), feature, Dtype::F16, 1).unwrap() {
            Ours::Unsupported(reason) => Some(reason),
            Ours::Wrong(_) | Ours::Right(..) => None,
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_with_a_reason() {
        let wide = Feature { head_dim: 520, ..rows().swap_remove(0) };
        let reason = reason(&wide).expect("it is refused");
        assert!(reason.starts_with("head_dim 520"), "{reason}");
    }

    #[test]
    fn every_row_is_one_that_kernels_can_compute() {
        for feature in rows() {
            let problem = feature.case().problem(Dtype::F16);
            assert!(problem.is_ok(), "{feature}: {problem:?}");
        }
    }
}
