//! How long single calls take, one after the other: the median, and what a call in a hundred exceeds.

use anyhow::{Context, Result};
use flashcore::{Device, Dtype};
use flashcore_tests::cases::Case;
use flashcore_tests::device::{self, OnDevice};
use flashcore_tests::grid;
use serde::{Deserialize, Serialize};

use crate::shape::{Bhsd, mask};
use crate::stats::quantile;
use crate::timing::Recorded;

/// Calls before those that count, and those.
const WARM_UP: usize = 200;
const CALLS: usize = 2000;

/// One shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// B,H,S,D.
    pub(crate) shape: String,
    pub(crate) mask: String,
    pub(crate) dtype: String,
    /// Floating-point operations of a call.
    pub(crate) flops: f64,
    /// Calls that were timed.
    pub(crate) calls: usize,
    /// Microseconds of a call: the median, and quantiles.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Latency {
    fn of(case: &Case, dtype: Dtype, mut us: Vec<f64>) -> Result<Self> {
        us.sort_by(f64::total_cmp);
        let at = |share| quantile(&us, share).context("no call was timed");
        Ok(Latency {
            shape: Bhsd::from(case).to_string(),
            mask: mask(case.causal).to_owned(),
            dtype: dtype.name().to_owned(),
            flops: grid::flops(case),
            calls: us.len(),
            p50_us: at(0.5)?,
            p99_us: at(0.99)?,
            max_us: at(1.0)?,
        })
    }
}

/// What is timed: the shape whose operations are those of 92 TFLOPS for 0.28 ms, and the smallest of the grid.
pub(crate) fn cases() -> Vec<(Case, Dtype)> {
    [grid::cell(1, 12, 2048, 128, false), grid::cell(1, 8, 512, 64, false)]
        .map(|case| (case, Dtype::F16))
        .into()
}

/// Times each case.
pub(crate) fn measure(device: &Device, cases: &[(Case, Dtype)]) -> Result<Vec<Latency>> {
    let one = |&(ref case, dtype): &(Case, Dtype)| -> Result<Latency> {
        let tensors = OnDevice::new(device, case, &case.inputs(dtype, 0))?;
        let call = Recorded::new(device, tensors, 1)?;
        let times = call.each_us(WARM_UP, CALLS).with_context(|| device::name(case, dtype))?;
        Latency::of(case, dtype, times)
    };
    cases.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_in_a_hundred_is_slower() {
        let (case, dtype) = cases()[1];
        let us = (0..1000).map(|i| if i % 50 == 0 { 30.0 } else { 5.0 }).collect();
        let latency = Latency::of(&case, dtype, us).unwrap();
        assert_eq!((latency.shape.as_str(), latency.calls), ("1,8,512,64", 1000));
        assert_eq!((latency.p50_us, latency.p99_us, latency.max_us), (5.0, 30.0, 30.0));
        assert!(Latency::of(&case, dtype, Vec::new()).is_err());
    }
}
