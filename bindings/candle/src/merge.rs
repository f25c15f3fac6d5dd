//! Merging attention states.

use candle_core::{DeviceLocation, Result, Tensor};
use flashcore::Operand;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::operand::check_location;
use crate::{Error, computed, cpu};

/// Merges two attention states, the outputs and log-sum-exps of two calls with the same queries and disjoint sets of
/// keys: the result is the state of one call over all of these keys (see [`flashcore::merge_attention_states`]).
///
/// o1 and o2 are (batch, seqlen, heads, head_dim), head_dim a multiple of 8 up to 512; lse1 and lse2 are f32, (batch,
/// heads, seqlen), as [`crate::flash_attn_with_lse`] gives them. Outputs are contiguous.
///
/// ```
/// # use candle_core::{DType, Device, Tensor};
/// # use flashcore_candle::{flash_attn_with_lse, merge_attention_states};
/// # fn main() -> candle_core::Result<()> {
/// # let q = Tensor::randn(0f32, 1.0, (1, 20, 4, 64), &Device::Cpu)?.to_dtype(DType::F16)?;
/// # let (k, v) = (q.clone(), q.clone());
/// let (o1, lse1) = flash_attn_with_lse(&q, &k.narrow(1, 0, 5)?, &v.narrow(1, 0, 5)?, 0.125, false)?;
/// let (o2, lse2) = flash_attn_with_lse(&q, &k.narrow(1, 5, 15)?, &v.narrow(1, 5, 15)?, 0.125, false)?;
/// let (out, lse) = merge_attention_states(&o1, &lse1, &o2, &lse2)?;
/// # assert_eq!((out.dims(), lse.dims()), (q.dims(), &[1, 4, 20][..]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`crate::flash_attn`], and what candle says of log-sum-exps of different shapes.
pub fn merge_attention_states(
    o1: &Tensor,
    lse1: &Tensor,
    o2: &Tensor,
    lse2: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let location = o1.device().location();
    check_location(Operand::Lse1, lse1, location)?;
    check_location(Operand::O2, o2, location)?;
    check_location(Operand::Lse2, lse2, location)?;
    // Small beside the outputs, and without gaps then.
    let lses = Tensor::stack(&[lse1, lse2], 0)?;
    let inputs = [o1, o2, &lses];
    let (out, lse) = {
        let stored = inputs.map(Tensor::storage_and_layout);
        match location {
            DeviceLocation::Cpu => cpu::merge(&stored)?,
            #[cfg(feature = "cuda")]
            DeviceLocation::Cuda { .. } => cuda::merge(&stored)?,
            found => return Err(Error::NoKernels { operand: Operand::O1, found }.into()),
        }
    };
    Ok((
        computed::tensor("merge-attention-states", (out, o1.shape().clone()), inputs)?,
        computed::tensor("merge-attention-states-lse", (lse, lse1.shape().clone()), inputs)?,
    ))
}
