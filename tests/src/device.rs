//! One case, run on one device.

use bytemuck::cast_slice;
use flashcore::driver::Properties;
use flashcore::kernels::{Tile, Variant};
use flashcore::{Attention, Device, Dtype, Lse, Plan, Pointers, Stream, Tensor};
use flashcore_kernels::schedule::KeyBlocks;
use half::{bf16, f16};

use crate::cases::{Case, Inputs};
use crate::compare::{Mismatch, Verdict, check_unused, compare};
use crate::extras::ExtrasOnDevice;
use crate::fp8;
use crate::oracle::{Expected, Position};
use crate::values::HostTensor;

/// A copy of `tensor` on the device, gaps included.
pub fn upload(device: &Device, tensor: &HostTensor) -> flashcore::Result<Tensor> {
    let (bits, shape, strides) = (&tensor.bits, tensor.shape, tensor.strides);
    match tensor.dtype {
        Dtype::F16 => Tensor::with_strides::<f16>(device, cast_slice(bits), shape, strides),
        Dtype::Bf16 => Tensor::with_strides::<bf16>(device, cast_slice(bits), shape, strides),
    }
}

/// A copy of `tensor` on the host, gaps included. Waits for all work of the device.
pub fn download(tensor: &Tensor) -> flashcore::Result<HostTensor> {
    let bits = match tensor.dtype() {
        Dtype::F16 => cast_slice(&tensor.to_vec::<f16>()?).to_vec(),
        Dtype::Bf16 => cast_slice(&tensor.to_vec::<bf16>()?).to_vec(),
    };
    Ok(HostTensor { dtype: tensor.dtype(), shape: tensor.shape(), strides: tensor.strides(), bits })
}

/// The tensors of a case on a device, outputs poisoned.
#[derive(Debug)]
pub struct OnDevice {
    causal: bool,
    scale: Option<f32>,
    extras: ExtrasOnDevice,
    /// Queries.
    pub q: Tensor,
    /// Keys.
    pub k: Tensor,
    /// Values.
    pub v: Tensor,
    /// Output.
    pub out: Tensor,
    /// Log-sum-exp.
    pub lse: Lse,
}

impl OnDevice {
    /// Copies the inputs of `case` to `device` and makes room for its outputs.
    pub fn new(device: &Device, case: &Case, inputs: &Inputs) -> flashcore::Result<Self> {
        let shape = case.shape_o();
        let out = HostTensor::poisoned(inputs.q.dtype, shape, case.layout.output(shape));
        let tensors = OnDevice {
            causal: case.causal,
            scale: case.scale,
            extras: ExtrasOnDevice::new(device, case.extras, &inputs.numbers, inputs.q.dtype)?,
            q: upload(device, &inputs.q)?,
            k: upload(device, &inputs.k)?,
            v: upload(device, &inputs.v)?,
            out: upload(device, &out)?,
            lse: Lse::new(device, shape.batch, shape.heads, shape.seqlen)?,
        };
        tensors.poison()?;
        Ok(tensors)
    }

    /// The call.
    pub fn attention(&self) -> Attention<'_> {
        let attention = self.extras.attention().causal(self.causal);
        self.scale.map_or(attention, |scale| attention.scale(scale))
    }

    /// Device addresses, as a launch takes them.
    pub fn pointers(&self) -> Pointers {
        let [q, k, v, out] = [&self.q, &self.k, &self.v, &self.out].map(Tensor::ptr);
        Pointers { q, k, v, out, lse: self.lse.view().ptr(), ..self.extras.pointers() }
    }

    /// Fills the outputs with NaN.
    pub fn poison(&self) -> flashcore::Result<()> {
        self.out.fill_bytes(0xFF)?;
        self.lse.fill_bytes(0xFF)
    }

    /// Submits the computation.
    pub fn run(&self, stream: &Stream) -> flashcore::Result<()> {
        self.attention().forward_into(stream, &self.q, &self.k, &self.v, &self.out, Some(self.lse.view()))
    }

    /// Every plan for this computation, one for each kernel that can do it.
    pub fn plans(&self) -> flashcore::Result<Vec<Plan>> {
        let views = [&self.q, &self.k, &self.v, &self.out].map(Tensor::view);
        let [q, k, v, out] = &views;
        let problem = self.attention().problem(q, k, v, out, Some(&self.lse.view()))?;
        Plan::all(&problem, self.q.device().properties())
    }

    /// The plan by which `variant` does it.
    ///
    /// # Panics
    /// If it cannot.
    pub fn plan_of(&self, variant: &Variant) -> flashcore::Result<Plan> {
        let mut plans = self.plans()?.into_iter();
        Ok(plans.find(|plan| plan.variant == *variant).expect("the case is the variant's"))
    }

    /// Submits the computation by the kernel of `plan`, which must be one of [`Self::plans`].
    pub fn run_plan(&self, plan: &Plan, stream: &Stream) -> flashcore::Result<()> {
        // SAFETY: the plan was made for these tensors, which live on after the work: freeing them waits for it.
        unsafe { stream.launch_plan(plan, &self.pointers()) }
    }

    /// The outputs. Waits for all work of the device.
    pub fn outputs(&self) -> flashcore::Result<Outputs> {
        Ok(Outputs { out: download(&self.out)?, lse: self.lse.to_vec()? })
    }
}

/// What a kernel wrote.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// The output.
    pub out: HostTensor,
    /// Log-sum-exp, contiguous (batch, heads, seqlen).
    pub lse: Vec<f32>,
}

impl Outputs {
    /// Compares with the oracle's answers at `rows`, and checks that rows that are no query's were left alone.
    pub fn judge(&self, inputs: &Inputs, rows: &[Position]) -> Result<Verdict, Failure> {
        check_unused(&inputs.attention, &self.out, Some(&self.lse))?;
        self.judge_by(&inputs.attention.answers(rows, self.out.dtype))
    }

    /// Compares with answers of the oracle.
    pub fn judge_by(&self, expected: &[Expected]) -> Result<Verdict, Failure> {
        if !self.out.gaps_untouched() {
            return Err(Failure::WroteIntoGaps);
        }
        Ok(compare(expected, self.out.dtype, &self.out.values(), Some(&self.lse))?)
    }

    /// Every bit that was written.
    pub fn bits(&self) -> (&[u16], &[u32]) {
        (&self.out.bits, cast_slice(&self.lse))
    }
}

/// Why a case failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// flashcore refused it.
    #[error("flashcore refuses it: {0}")]
    Refused(#[from] flashcore::Error),
    /// The result is wrong.
    #[error(transparent)]
    Wrong(#[from] Mismatch),
    /// A result of 8-bit inputs is too far from the right answer.
    #[error("{errors:?}; errors and what they may be: {bounds:?}")]
    Inaccurate {
        /// What is wrong with it.
        errors: fp8::Errors,
        /// Errors, each with the largest allowed: of O relative to its spread and to its magnitude, of the log-sum-exp.
        bounds: [(f64, f64); 3],
    },
    /// Something was written where no element is.
    #[error("something was written between the rows of the output")]
    WroteIntoGaps,
    /// One of several kernels failed.
    #[error("{symbol}: {failure}")]
    Kernel {
        /// The kernel.
        symbol: &'static str,
        /// Why.
        failure: Box<Failure>,
    },
}

/// Multiplications that the oracle may spend on the scores of one case; beyond, it checks a sample of the rows.
pub const BUDGET: usize = 1 << 27;

/// What a kernel made of a case: its name, and how its result compares with the oracle's.
pub type Judged = (&'static str, Result<Verdict, Failure>);

/// Runs `case` on fresh inputs, through the public call and then once more on every kernel that can do it.
pub fn check_each(device: &Device, case: &Case, dtype: Dtype, seed: u64) -> flashcore::Result<Vec<Judged>> {
    let inputs = case.inputs(dtype, seed);
    let rows = inputs.attention.rows(BUDGET, seed);
    let expected = inputs.attention.answers(&rows, dtype);
    let tensors = OnDevice::new(device, case, &inputs)?;
    let stream = device.stream()?;
    let mut judged = Vec::new();
    let judge = |outputs: Outputs| {
        check_unused(&inputs.attention, &outputs.out, Some(&outputs.lse))?;
        outputs.judge_by(&expected)
    };
    tensors.run(&stream)?;
    judged.push(("attention", judge(tensors.outputs()?)));
    for plan in tensors.plans()? {
        tensors.poison()?;
        tensors.run_plan(&plan, &stream)?;
        judged.push((plan.variant.symbol, judge(tensors.outputs()?)));
    }
    Ok(judged)
}

/// As [`check_each`]: the first failure, if any.
pub fn check(device: &Device, case: &Case, dtype: Dtype, seed: u64) -> Result<(), Failure> {
    let named = |(symbol, result): Judged| {
        result.map(|_| ()).map_err(|failure| Failure::Kernel { symbol, failure: Box::new(failure) })
    };
    check_each(device, case, dtype, seed)?.into_iter().try_for_each(named)
}

/// Floating-point operations that all kernels together spend on `case`: those of whole tiles, and of one more tile of
/// keys for all else. 0 if flashcore refuses the case.
pub fn work(case: &Case, dtype: Dtype) -> f64 {
    let plans = case.problem(dtype).and_then(|problem| Plan::all(&problem, &Properties::h200()));
    plans.unwrap_or_default().iter().map(flops).sum()
}

fn flops(plan: &Plan) -> f64 {
    let (variant, params) = (&plan.variant, &plan.params);
    // Consumers that share columns compute the same scores.
    let columns = variant.column_groups() * variant.head_dim + variant.head_dim_v;
    let Tile { block_m, block_n, cluster, .. } = variant.tile;
    if variant.is_general() {
        let keys = f64::from(params.seqlen_kv + 2 * block_n); // at most
        return 2.0 * f64::from(plan.work_tiles) * keys * f64::from(block_m * columns);
    }
    // The CTAs of a cluster go through the same keys.
    let rows = cluster * block_m;
    let visited = |unit| {
        let (seqlen_q, seqlen_kv) = (params.seqlen_q, params.seqlen_kv);
        KeyBlocks::new(unit * rows, rows, block_n, seqlen_q, seqlen_kv, variant.is_causal()).end + 1
    };
    let units = (0..params.work.head_units.value).map(|unit| f64::from(visited(unit))).sum::<f64>();
    2.0 * f64::from(params.work.heads) * units * f64::from(rows * block_n * columns)
}

/// A case and its element type, as tests are named.
pub fn name(case: &Case, dtype: Dtype) -> String {
    format!("{case}_{}", dtype.name())
}
