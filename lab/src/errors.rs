//! How wrong results are: every error on sampled rows, by size, and a few numbers of each output to compare with a later
//! or an earlier version.

use anyhow::{Context, Result};
use flashcore::{Device, Dtype};
use flashcore_tests::cases::{Case, FP8_HEAD_DIMS};
use flashcore_tests::device::{self, OnDevice};
use flashcore_tests::grid;
use flashcore_tests::kernel::{self, Elements};
use serde::{Deserialize, Serialize};

use crate::metrics::Check;
use crate::output::number;

/// Inputs are the same in every run, so that outputs can be compared between runs.
const SEED: u64 = 20_261_123;
/// Numbers of an output that are kept.
const KEPT: usize = 64;
/// The histogram: the decade where it begins, the one where it ends, and bins of a decade.
const DECADES: (i32, i32) = (-8, 0);
const BINS_PER_DECADE: usize = 4;
const BINS: usize = (DECADES.1 - DECADES.0) as usize * BINS_PER_DECADE;

/// Errors of one shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Errors {
    /// The shape and the element type.
    pub(crate) case: String,
    /// Outputs that were looked at.
    pub(crate) checked: usize,
    /// Root of the mean square error; NaN if one is.
    #[serde(deserialize_with = "number::one")]
    pub(crate) rmse: f64,
    /// The largest error.
    #[serde(deserialize_with = "number::one")]
    pub(crate) max: f64,
    /// Outputs whose error is in each bin, from 1e-8 up in quarters of a decade; the first and the last bin hold what is
    /// beyond.
    pub(crate) histogram: Vec<usize>,
    /// Outputs at evenly spaced places.
    #[serde(deserialize_with = "number::many")]
    pub(crate) samples: Vec<f32>,
}

impl Errors {
    fn of(case: String, errors: impl Iterator<Item = f64>, samples: Vec<f32>) -> Self {
        let mut found = Errors { case, checked: 0, rmse: 0.0, max: 0.0, histogram: vec![0; BINS], samples };
        for error in errors {
            found.checked += 1;
            found.rmse += error * error;
            found.max = if error > found.max || error.is_nan() { error } else { found.max };
            found.histogram[bin(error)] += 1;
        }
        found.rmse = (found.rmse / found.checked.max(1) as f64).sqrt();
        found
    }

    /// The largest difference from the samples of an earlier run; None if they are of something else.
    pub(crate) fn difference(&self, earlier: &Errors) -> Option<f64> {
        let pairs = || self.samples.iter().zip(&earlier.samples);
        let apart = pairs().map(|(now, before)| f64::from((now - before).abs()));
        let alike = self.case == earlier.case && self.samples.len() == earlier.samples.len();
        // NaN is no number that is small.
        alike
            .then(|| apart.fold(0.0, |most, apart| if apart > most || apart.is_nan() { apart } else { most }))
    }
}

/// Where the errors of bin `index` begin.
pub(crate) fn bin_start(index: usize) -> f64 {
    10f64.powf(f64::from(DECADES.0) + index as f64 / BINS_PER_DECADE as f64)
}

/// The bin of an error; the last one if it is no number.
fn bin(error: f64) -> usize {
    let above = (error.log10() - f64::from(DECADES.0)) * BINS_PER_DECADE as f64;
    if above.is_nan() { BINS - 1 } else { (above.max(0.0) as usize).min(BINS - 1) }
}

/// What is looked at: every head_dim of the grid under both masks.
pub(crate) fn cases() -> Vec<(Case, Dtype)> {
    let shape = |head_dim, causal| grid::cell(2, 8, 1024, head_dim, causal);
    let cases =
        [false, true].into_iter().flat_map(|causal| grid::HEAD_DIMS.map(|head_dim| shape(head_dim, causal)));
    cases.flat_map(|case| [Dtype::F16, Dtype::Bf16].map(|dtype| (case, dtype))).collect()
}

/// Runs each case, and compares it with the oracle.
pub(crate) fn measure(device: &Device, cases: &[(Case, Dtype)]) -> Result<Vec<Errors>> {
    cases.iter().map(|(case, dtype)| one(device, case, *dtype)).collect()
}

/// What the comparison of an 8-bit kernel with the oracle said: errors are root mean squares, relative to what each output
/// is the sum of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fp8Errors {
    /// The shape and the output's element type.
    pub(crate) case: String,
    pub(crate) kernel: String,
    pub(crate) check: Check,
}

/// What is looked at of 8 bits: every head_dim that has kernels under both masks. The oracle answers every row.
pub(crate) fn fp8_cases() -> Vec<(Case, Dtype)> {
    let shape = |head_dim, causal| grid::cell(1, 2, 1024, head_dim, causal);
    let cases =
        [false, true].into_iter().flat_map(|causal| FP8_HEAD_DIMS.map(|head_dim| shape(head_dim, causal)));
    cases.flat_map(|case| [Dtype::F16, Dtype::Bf16].map(|dtype| (case, dtype))).collect()
}

/// Runs each case on every kernel that can, and after rounding on the device, and compares it with the oracle.
pub(crate) fn measure_fp8(device: &Device, cases: &[(Case, Dtype)]) -> Result<Vec<Fp8Errors>> {
    let mut found = Vec::new();
    for (case, dtype) in cases {
        let narrow = Elements::of_case(case, *dtype).into_iter().filter(|elements| elements.fp8.is_some());
        for elements in narrow {
            let name = kernel::name(case, elements);
            let judged = kernel::check_each(device, case, elements, SEED).context(name.clone())?;
            found.extend(judged.into_iter().map(|(kernel, result)| Fp8Errors {
                case: name.clone(),
                kernel: kernel.to_owned(),
                check: result.into(),
            }));
        }
    }
    Ok(found)
}

fn one(device: &Device, case: &Case, dtype: Dtype) -> Result<Errors> {
    let name = device::name(case, dtype);
    let inputs = case.inputs(dtype, SEED);
    let tensors = OnDevice::new(device, case, &inputs)?;
    let stream = device.stream()?;
    tensors.run(&stream)?;
    stream.synchronize().with_context(|| name.clone())?;
    let out = tensors.outputs()?.out.values();
    let expected = inputs.attention.answers(&inputs.attention.rows(device::BUDGET, SEED), dtype);
    let errors = expected.iter().flat_map(|row| {
        let got = out.row(row.stored.b, row.stored.s, row.stored.h);
        got.iter().zip(&row.exact.o).map(|(&got, &want)| (f64::from(got) - want).abs())
    });
    let step = (out.data.len() / KEPT).max(1);
    let samples = out.data.iter().copied().step_by(step).take(KEPT).collect();
    Ok(Errors::of(name, errors, samples))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(values: &[f64]) -> Errors {
        Errors::of("a case".to_owned(), values.iter().copied(), vec![1.0, 2.0])
    }

    #[test]
    fn errors_are_summed_up_and_sorted_by_size() {
        let found = errors(&[0.0, 3e-4, 4e-4, 7.0]);
        assert_eq!((found.checked, found.max), (4, 7.0));
        assert!((errors(&[3e-4, 4e-4]).rmse - (12.5e-8f64).sqrt()).abs() < 1e-12);
        assert_eq!((found.histogram[0], found.histogram[BINS - 1]), (1, 1));
        for (index, &count) in
            found.histogram.iter().enumerate().filter(|&(index, _)| index > 0 && index < BINS - 1)
        {
            let within = |error: f64| (bin_start(index)..bin_start(index + 1)).contains(&error);
            assert_eq!(count, [3e-4, 4e-4].into_iter().filter(|&error| within(error)).count());
        }
    }

    #[test]
    fn what_is_no_number_is_no_small_error() {
        let found = errors(&[1e-4, f64::NAN]);
        assert!(found.rmse.is_nan() && found.max.is_nan());
        assert_eq!(found.histogram[BINS - 1], 1);
        let other = |samples| Errors { samples, ..errors(&[]) };
        assert_eq!(found.difference(&other(vec![1.0, 2.5])), Some(0.5));
        assert!(found.difference(&other(vec![1.0, f32::NAN])).unwrap().is_nan());
        assert_eq!(found.difference(&other(vec![1.0])), None);
        assert_eq!(found.difference(&Errors { case: "another".to_owned(), ..found.clone() }), None);
    }

    #[test]
    fn kernels_of_8_bits_are_as_close_as_they_must_be() {
        let case = Case { seqlen_q: 40, seqlen_kv: 90, heads_q: 1, heads_kv: 1, batch: 1, ..Case::default() };
        let found = measure_fp8(&Device::emulated(), &[(case, Dtype::F16)]).unwrap();
        assert!(found.len() > 1 && found.iter().all(|errors| errors.check.is_right()), "{found:?}");
        let symbols: Vec<_> = found.iter().map(|errors| errors.kernel.as_str()).collect();
        assert!(symbols.contains(&"fwd_hd128_m128n128_e4m3_f16"), "{symbols:?}");
    }

    #[test]
    fn kernels_are_hardly_wrong() {
        let case = Case { seqlen_q: 40, seqlen_kv: 90, heads_q: 1, heads_kv: 1, batch: 1, ..Case::default() };
        let found = &measure(&Device::emulated(), &[(case, Dtype::F16)]).unwrap()[0];
        assert_eq!(found.checked, 40 * 128);
        assert_eq!(found.samples.len(), KEPT);
        assert!(found.rmse > 0.0 && found.rmse < 1e-3 && found.max < 1e-2, "{found:?}");
    }
}
