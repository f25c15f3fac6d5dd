//! Cases over elements of 8 bits: their inputs, and how far from the right answer a kernel may be.

use flashcore::{Device, Dtype, Fp8, Fp8Qkv, Fp8Rounding, Order};

use crate::cases::{Case, Layout};
use crate::compare::Verdict;
use crate::device::{Failure, Judged, Outputs, upload};
use crate::extras::{Extras, Numbers};
use crate::fp8::{Answer, Format, Narrow, OnDevice, attend};
use crate::inputs::Fill;
use crate::oracle::{Attention, Tokens};
use crate::values::{HostTensor, Values};

/// How far off tensor cores may be with a score: they cut each product to 13 fraction bits of the largest one, or of the
/// sum. Where no product is much larger than others, that evens out.
pub fn score_error(q: &Values, k: &Values, fill: Fill) -> f64 {
    let largest = |x: &Values| x.data.iter().fold(0.0, |max, &x| f64::max(max, x.abs().into()));
    let head_dim = q.shape.head_dim;
    let cut = (33 * head_dim.div_ceil(32)) as f64 / 2f64.powi(13);
    let at_most = cut * largest(q) * largest(k) / (head_dim as f64).sqrt();
    if matches!(fill, Fill::Normal | Fill::Constant) { at_most.min(2e-3) } else { at_most }
}

impl Answer {
    /// Whether `o` and `lse`, as in [`Self::errors`], are as close as a kernel must be whose scores are off by no more than
    /// `score_error`. The error of a verdict is the root of the mean of the squares, relative to that of the spread.
    ///
    /// # Errors
    /// [`Failure::Inaccurate`].
    pub fn judge(&self, o: &[f32], lse: &[f32], dtype: Dtype, score_error: f64) -> Result<Verdict, Failure> {
        let errors = self.errors(o, lse);
        // Where there are no keys, nothing is allowed.
        let spread = self.mean_spread().max(f64::MIN_POSITIVE);
        let bounds = [
            (errors.rms / spread, 0.04 + self.granularity(dtype) / spread + score_error),
            (errors.of_magnitude, 1.0 / 16.0 + 1.0 / 128.0 + 2.0 * score_error),
            (errors.lse, score_error),
        ];
        if !bounds.iter().all(|(error, bound)| error <= bound) {
            return Err(Failure::Inaccurate { errors, bounds });
        }
        let (error, bound) = bounds[0];
        Ok(Verdict { error, bound, lse_error: errors.lse })
    }
}

/// Inputs of a case, of which q, k and v are rounded to `T`.
#[derive(Clone, Debug)]
pub struct Inputs<T> {
    case: Case,
    /// q, k and v of 16 bits.
    wide: [HostTensor; 3],
    /// The same as they are rounded to 8.
    pub tensors: [Narrow<T>; 3],
    /// The numbers that go along.
    pub numbers: Numbers,
    attention: Attention,
}

impl<T: Format> Inputs<T> {
    /// Fresh inputs, for an output of type `dtype`.
    ///
    /// # Panics
    /// If tensors are not contiguous, or the case says how scores are scaled.
    pub fn new(case: &Case, dtype: Dtype, seed: u64) -> Self {
        assert_eq!((case.layout, case.scale, case.extras.head_dim_v), (Layout::Bshd, None, None), "{case}");
        let values = case.fill.values(case.shape_q(), case.shape_kv(), seed);
        let wide =
            values.map(|values| HostTensor::lay_out(&values, dtype, Order::Bshd.strides(values.shape)));
        Inputs::rounded(case, wide, case.numbers(seed))
    }

    fn rounded(case: &Case, wide: [HostTensor; 3], numbers: Numbers) -> Self {
        let [q, k, v] = wide.each_ref().map(|tensor| tensor.values());
        let rounded = |values: &Values, tokens: &[Tokens]| Narrow::<T>::of_sequences(values, tokens);
        let tensors = [rounded(&q, &numbers.queries), rounded(&k, &numbers.keys), rounded(&v, &numbers.keys)];
        let [q, k, v] = tensors.each_ref().map(|tensor| tensor.values.clone());
        let plain = Attention::new(q, k, v, 1.0 / (case.head_dim as f64).sqrt());
        let attention = case.extras.judged_by(case.causal, &numbers, plain);
        Inputs { case: *case, wide, tensors, numbers, attention }
    }

    fn dtype(&self) -> Dtype {
        self.wide[0].dtype
    }

    /// Copies them to `device` and makes room for the outputs.
    pub fn upload(&self, device: &Device) -> flashcore::Result<OnDevice> {
        let Case { causal, extras, .. } = self.case;
        OnDevice::new(device, &self.tensors, causal, (extras, &self.numbers), self.dtype())
    }

    /// The right answer.
    pub fn answer(&self) -> Answer {
        attend(&self.attention)
    }

    /// Compares all rows with the right answer.
    ///
    /// # Errors
    /// As [`Answer::judge`].
    pub fn judge(&self, answer: &Answer, outputs: &Outputs) -> Result<Verdict, Failure> {
        let score_error = score_error(&self.attention.q, &self.attention.k, self.case.fill);
        answer.judge(&outputs.out.values().data, &outputs.lse, self.dtype(), score_error)
    }

    /// Rounds tensors of 16 bits on `device` and attends to what comes of it; then does the same with tensors that were
    /// rounded on the host, by every kernel that can.
    pub fn check_each(&self, device: &Device) -> flashcore::Result<Vec<Judged>> {
        let (answer, stream) = (self.answer(), device.stream()?);
        let tensors = self.upload(device)?;
        let [q, k, v] = self.wide.each_ref().map(|tensor| upload(device, tensor));
        let (q16, k16, v16) = (q?, k?, v?);
        let (shapes, sequences) = ([q16.shape(), k16.shape(), v16.shape()], tensors.sequences());
        let packed = sequences.packed()?;
        let rounded = Fp8Qkv::for_sequences(device, T::KIND, shapes, packed)?;
        let rounding = Fp8Rounding::new().sequences(sequences);
        rounded.round_with(&stream, rounding, &q16, &k16, &v16)?;
        let (q, k, v) = (rounded.q.view(), rounded.k.view(), rounded.v.view());
        tensors.attention().forward_fp8_into(&stream, q, k, v, &tensors.out, Some(tensors.lse.view()))?;
        let name = match T::KIND {
            Fp8::E4m3 => "rounding to e4m3, and attention",
            Fp8::E5m2 => "rounding to e5m2, and attention",
        };
        let mut judged = vec![(name, self.judge(&answer, &tensors.written()?))];
        // What comes of that is judged elsewhere; here it is run, for those who watch.
        let others = Fp8Qkv::for_sequences(device, T::KIND, shapes, packed)?.rotated().per_tensor();
        others.round_with(&stream, rounding.stochastic(1, 0), &q16, &k16, &v16)?;
        for plan in tensors.plans()? {
            tensors.poison()?;
            tensors.run_plan(&plan, &stream)?;
            judged.push((plan.variant.symbol, self.judge(&answer, &tensors.written()?)));
        }
        Ok(judged)
    }

    /// What belongs to one sequence of the batch.
    ///
    /// # Panics
    /// If numbers go along.
    pub fn sequence(&self, sequence: usize) -> Self {
        assert_eq!(self.case.extras, Extras::default(), "{}", self.case);
        let case = Case { batch: 1, ..self.case };
        let wide = self.wide.each_ref().map(|all| all.sequence(sequence));
        Inputs::rounded(&case, wide, case.numbers(0))
    }
}
