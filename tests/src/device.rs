//! One case, run on one device.

use bytemuck::cast_slice;
use flashcore::{Attention, Device, Dtype, Lse, Stream, Tensor};
use half::{bf16, f16};

use crate::cases::{Case, Inputs};
use crate::compare::{Mismatch, Verdict, compare};
use crate::oracle::Position;
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
    /// The call.
    pub attention: Attention,
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
        let shape = case.shape_q();
        let out = HostTensor::poisoned(inputs.q.dtype, shape, case.layout.output(shape));
        let mut attention = Attention::new().causal(case.causal);
        if let Some(scale) = case.scale {
            attention = attention.scale(scale);
        }
        let tensors = OnDevice {
            attention,
            q: upload(device, &inputs.q)?,
            k: upload(device, &inputs.k)?,
            v: upload(device, &inputs.v)?,
            out: upload(device, &out)?,
            lse: Lse::new(device, shape.batch, shape.heads, shape.seqlen)?,
        };
        tensors.poison()?;
        Ok(tensors)
    }

    /// Fills the outputs with NaN.
    pub fn poison(&self) -> flashcore::Result<()> {
        self.out.fill_bytes(0xFF)?;
        self.lse.fill_bytes(0xFF)
    }

    /// Submits the computation.
    pub fn run(&self, stream: &Stream) -> flashcore::Result<()> {
        self.attention.forward_into(stream, &self.q, &self.k, &self.v, &self.out, Some(self.lse.view()))
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
    /// Compares with the oracle's answers at `rows`.
    pub fn judge(&self, inputs: &Inputs, rows: &[Position]) -> Result<Verdict, Failure> {
        if !self.out.gaps_untouched() {
            return Err(Failure::WroteIntoGaps);
        }
        let dtype = self.out.dtype;
        let expected = inputs.attention.answers(rows, dtype);
        Ok(compare(&expected, dtype, &self.out.values(), Some(&self.lse))?)
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
    /// Something was written where no element is.
    #[error("something was written between the rows of the output")]
    WroteIntoGaps,
}

/// Multiplications that the oracle may spend on the scores of one case; beyond, it checks a sample of the rows.
pub const BUDGET: usize = 1 << 27;

/// Runs `case` with fresh inputs and compares the result with the oracle.
pub fn check(device: &Device, case: &Case, dtype: Dtype, seed: u64) -> Result<Verdict, Failure> {
    let inputs = case.inputs(dtype, seed);
    let tensors = OnDevice::new(device, case, &inputs)?;
    let stream = device.stream()?;
    tensors.run(&stream)?;
    stream.synchronize()?;
    tensors.outputs()?.judge(&inputs, &inputs.attention.rows(BUDGET, seed))
}

/// A case and its element type, as tests are named.
pub fn name(case: &Case, dtype: Dtype) -> String {
    format!("{case}_{}", dtype.name())
}
