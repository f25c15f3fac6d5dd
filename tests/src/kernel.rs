//! A case in the elements of a kernel, of 8 bits or of 16: for tests that take all kernels alike.

use flashcore::kernels::{FWD, FWD_FP8, Variant};
use flashcore::{Device, Dtype, Fp8, Plan, Pointers, Stream};
use float8::{F8E4M3, F8E5M2};

use crate::cases::{self, Case, FP8_HEAD_DIMS, Layout};
use crate::compare::Verdict;
use crate::device::{self, Failure, Judged, Outputs};
use crate::extras::Extras;
use crate::{fp8, narrow};

/// Every kernel of attention.
pub fn kernels() -> impl Iterator<Item = &'static Variant> {
    FWD.iter().chain(FWD_FP8)
}

/// Every kernel, but of those of 8 bits that differ in element types only that of e4m3 and f16: what the others do with tiles
/// and barriers is the same.
pub fn different_kernels() -> impl Iterator<Item = &'static Variant> {
    let first = (Some(Fp8::E4m3), Dtype::F16);
    kernels().filter(move |variant| variant.fp8.is_none() || (variant.fp8, variant.dtype) == first)
}

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elements {
    /// That of q, k and v if they have 8 bits.
    pub fp8: Option<Fp8>,
    /// That of the output, and of q, k and v if they have 16 bits.
    pub dtype: Dtype,
}

impl From<Dtype> for Elements {
    fn from(dtype: Dtype) -> Self {
        Elements { fp8: None, dtype }
    }
}

impl Elements {
    /// Those of a kernel.
    pub fn of(variant: &Variant) -> Self {
        Elements { fp8: variant.fp8, dtype: variant.dtype }
    }

    /// Those that there are kernels for of a case whose output is of type `dtype`.
    pub fn of_case(case: &Case, dtype: Dtype) -> Vec<Self> {
        let plain = (case.layout, case.scale, case.extras.head_dim_v) == (Layout::Bshd, None, None);
        let formats = match plain && FP8_HEAD_DIMS.contains(&case.head_dim) {
            true if case.extras == Extras::default() => &[Fp8::E4m3, Fp8::E5m2][..],
            true => &[Fp8::E4m3],
            false => &[],
        };
        let narrow = formats.iter().map(|&fp8| Elements { fp8: Some(fp8), dtype });
        [dtype.into()].into_iter().chain(narrow).collect()
    }

    /// As kernels are named.
    pub fn name(self) -> String {
        match self.fp8 {
            Some(fp8) => format!("{}_{}", fp8.name(), self.dtype.name()),
            None => self.dtype.name().to_owned(),
        }
    }

    /// This case with fresh inputs.
    pub fn inputs(self, case: &Case, seed: u64) -> Inputs {
        match self.fp8 {
            Some(Fp8::E4m3) => Inputs::E4m3(Box::new(narrow::Inputs::new(case, self.dtype, seed))),
            Some(Fp8::E5m2) => Inputs::E5m2(Box::new(narrow::Inputs::new(case, self.dtype, seed))),
            None => Inputs::Wide(Box::new((*case, case.inputs(self.dtype, seed)))),
        }
    }
}

/// Runs `case` on fresh inputs, through the public call and then once more on every kernel that can do it.
pub fn check_each(
    device: &Device,
    case: &Case,
    elements: Elements,
    seed: u64,
) -> flashcore::Result<Vec<Judged>> {
    match elements.fp8 {
        Some(Fp8::E4m3) => narrow::Inputs::<F8E4M3>::new(case, elements.dtype, seed).check_each(device),
        Some(Fp8::E5m2) => narrow::Inputs::<F8E5M2>::new(case, elements.dtype, seed).check_each(device),
        None => device::check_each(device, case, elements.dtype, seed),
    }
}

/// A case and its element types, as tests are named.
pub fn name(case: &Case, elements: Elements) -> String {
    format!("{case}_{}", elements.name())
}

/// Inputs of a case.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// Of 16 bits, with the case.
    Wide(Box<(Case, cases::Inputs)>),
    /// Of 8 bits.
    E4m3(Box<narrow::Inputs<F8E4M3>>),
    /// Of 8 bits.
    E5m2(Box<narrow::Inputs<F8E5M2>>),
}

impl Inputs {
    /// What belongs to one sequence of the batch.
    ///
    /// # Panics
    /// If numbers go along.
    pub fn sequence(&self, sequence: usize) -> Self {
        match self {
            Inputs::Wide(wide) => {
                let (case, cases::Inputs { q, k, v, .. }) = &**wide;
                assert_eq!(case.extras, Extras::default(), "{case}");
                let values = [q, k, v].map(|tensor| tensor.sequence(sequence).values());
                let case = Case { batch: 1, ..*case };
                Inputs::Wide(Box::new((case, case.inputs_of(values, q.dtype))))
            }
            Inputs::E4m3(inputs) => Inputs::E4m3(Box::new(inputs.sequence(sequence))),
            Inputs::E5m2(inputs) => Inputs::E5m2(Box::new(inputs.sequence(sequence))),
        }
    }

    /// Copies them to `device` and makes room for the outputs.
    pub fn upload(&self, device: &Device) -> flashcore::Result<OnDevice> {
        Ok(match self {
            Inputs::Wide(wide) => OnDevice::Wide(device::OnDevice::new(device, &wide.0, &wide.1)?),
            Inputs::E4m3(inputs) => OnDevice::Narrow(inputs.upload(device)?),
            Inputs::E5m2(inputs) => OnDevice::Narrow(inputs.upload(device)?),
        })
    }

    /// Compares with the oracle: of 16 bits, as many rows as `budget` multiplications let it answer.
    pub fn judge(&self, outputs: &Outputs, budget: usize) -> Result<Verdict, Failure> {
        match self {
            Inputs::Wide(wide) => outputs.judge(&wide.1, &wide.1.attention.rows(budget, 0)),
            Inputs::E4m3(inputs) => inputs.judge(&inputs.answer(), outputs),
            Inputs::E5m2(inputs) => inputs.judge(&inputs.answer(), outputs),
        }
    }
}

/// The tensors of a case on a device, outputs poisoned.
#[derive(Debug)]
pub enum OnDevice {
    /// Of 16 bits.
    Wide(device::OnDevice),
    /// Of 8 bits.
    Narrow(fp8::OnDevice),
}

impl OnDevice {
    /// Fills the outputs with NaN.
    pub fn poison(&self) -> flashcore::Result<()> {
        match self {
            OnDevice::Wide(tensors) => tensors.poison(),
            OnDevice::Narrow(tensors) => tensors.poison(),
        }
    }

    /// Submits the computation.
    pub fn run(&self, stream: &Stream) -> flashcore::Result<()> {
        match self {
            OnDevice::Wide(tensors) => tensors.run(stream),
            OnDevice::Narrow(tensors) => tensors.run(stream),
        }
    }

    /// Every plan for this computation, one for each kernel that can do it.
    pub fn plans(&self) -> flashcore::Result<Vec<Plan>> {
        match self {
            OnDevice::Wide(tensors) => tensors.plans(),
            OnDevice::Narrow(tensors) => tensors.plans(),
        }
    }

    /// The plan by which `variant` does it.
    ///
    /// # Panics
    /// If it cannot.
    pub fn plan_of(&self, variant: &Variant) -> flashcore::Result<Plan> {
        let mut plans = self.plans()?.into_iter();
        Ok(plans.find(|plan| plan.variant == *variant).expect("the case is the variant's"))
    }

    /// Device addresses, as a launch takes them.
    pub fn pointers(&self) -> Pointers {
        match self {
            OnDevice::Wide(tensors) => tensors.pointers(),
            OnDevice::Narrow(tensors) => tensors.pointers(),
        }
    }

    /// Submits the computation by the kernel of `plan`, which must be one of [`Self::plans`].
    pub fn run_plan(&self, plan: &Plan, stream: &Stream) -> flashcore::Result<()> {
        // SAFETY: the plan was made for these tensors, which live on after the work: freeing them waits for it.
        unsafe { stream.launch_plan(plan, &self.pointers()) }
    }

    /// The outputs. Waits for all work of the device.
    pub fn outputs(&self) -> flashcore::Result<Outputs> {
        match self {
            OnDevice::Wide(tensors) => tensors.outputs(),
            OnDevice::Narrow(tensors) => tensors.written(),
        }
    }
}
