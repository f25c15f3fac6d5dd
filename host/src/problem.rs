//! What is to be computed, checked. No addresses and no device: those are checked by `check`.

use flashcore_kernels::config::Dtype;

use crate::error::{Dim, Error, Operand, Result};
use crate::tensor::{Shape, TensorLayout};
use crate::tensor_map;

/// Head dimensions are multiples of this: 16 bytes, the step of TMA.
pub const HEAD_DIM_STEP: usize = tensor_map::ALIGNMENT as usize / Dtype::SIZE as usize;
/// The widest head that a kernel computes.
pub const MAX_HEAD_DIM: usize = 256;
/// Longest sequence, and most heads and sequences: coordinates of tiles are i32, and a tile may begin inside the
/// tensor and end beyond it.
pub const MAX_DIM: usize = i32::MAX as usize - 255;
/// Strides are less than this many elements.
pub const MAX_STRIDE: usize = tensor_map::STRIDE_LIMIT as usize / Dtype::SIZE as usize;

/// An attention problem that a kernel can compute: `out = softmax(scale * q kᵀ) v`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    pub(crate) q: TensorLayout,
    pub(crate) k: TensorLayout,
    pub(crate) v: TensorLayout,
    pub(crate) out: TensorLayout,
    pub(crate) causal: bool,
    pub(crate) scale: f32,
}

impl Problem {
    /// Checks shapes, types, strides and scale; `scale` defaults to `1 / sqrt(head_dim)`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(
        q: TensorLayout,
        k: TensorLayout,
        v: TensorLayout,
        out: TensorLayout,
        causal: bool,
        scale: Option<f32>,
    ) -> Result<Self> {
        let head_dim = q.shape.head_dim;
        if !(HEAD_DIM_STEP..=MAX_HEAD_DIM).contains(&head_dim) || !head_dim.is_multiple_of(HEAD_DIM_STEP) {
            return Err(Error::HeadDim { head_dim });
        }
        check_agreement(&q, &k, &v, &out)?;
        let [q, k, v, out] = [(Operand::Q, q), (Operand::K, k), (Operand::V, v), (Operand::Out, out)]
            .map(|(operand, layout)| check_layout(operand, layout.normalized()));
        let out = check_distinct_elements(out?)?;
        let scale = check_scale(scale.unwrap_or(1.0 / (head_dim as f32).sqrt()))?;
        Ok(Problem { q: q?, k: k?, v: v?, out, causal, scale })
    }

    /// Element type of all tensors.
    pub fn dtype(&self) -> Dtype {
        self.q.dtype
    }

    /// Shape of q and out.
    pub fn q_shape(&self) -> Shape {
        self.q.shape
    }

    /// Shape of k and v.
    pub fn kv_shape(&self) -> Shape {
        self.k.shape
    }

    /// Whether query i sees only the keys up to `i + seqlen_kv - seqlen_q`.
    pub fn causal(&self) -> bool {
        self.causal
    }

    /// What scores are multiplied with before the softmax.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Query heads that share one K/V head.
    pub fn gqa_ratio(&self) -> usize {
        // No query heads, no ratio: 1 is as good as any.
        self.q.shape.heads.checked_div(self.k.shape.heads).unwrap_or(1).max(1)
    }

    /// Bytes that the log-sum-exp output needs.
    ///
    /// # Errors
    /// [`Error::ShapeOverflow`]: queries may be broadcast, so that there are more of them than memory holds.
    pub fn lse_bytes(&self) -> Result<usize> {
        crate::lse::bytes(self.q.shape).ok_or(Error::ShapeOverflow { shape: self.q.shape })
    }
}

/// All tensors have one type, and shapes that fit together.
fn check_agreement(q: &TensorLayout, k: &TensorLayout, v: &TensorLayout, out: &TensorLayout) -> Result<()> {
    for (operand, layout) in [(Operand::K, k), (Operand::V, v), (Operand::Out, out)] {
        if layout.dtype != q.dtype {
            return Err(Error::DtypeMismatch { operand, expected: q.dtype, found: layout.dtype });
        }
    }
    let (heads_q, heads_kv) = (q.shape.heads, k.shape.heads);
    if heads_q != 0 && (heads_kv == 0 || !heads_q.is_multiple_of(heads_kv)) {
        return Err(Error::HeadRatio { heads_q, heads_kv });
    }
    let k_should_be = Shape { batch: q.shape.batch, head_dim: q.shape.head_dim, ..k.shape };
    for (operand, found, expected) in
        [(Operand::K, k.shape, k_should_be), (Operand::V, v.shape, k_should_be), (Operand::Out, out.shape, q.shape)]
    {
        for (dim, found, expected) in [
            (Dim::Batch, found.batch, expected.batch),
            (Dim::Seqlen, found.seqlen, expected.seqlen),
            (Dim::Heads, found.heads, expected.heads),
            (Dim::HeadDim, found.head_dim, expected.head_dim),
        ] {
            if found != expected {
                return Err(Error::ShapeMismatch { operand, dim, expected, found });
            }
        }
    }
    Ok(())
}

/// A tensor map can be made of the tensor.
fn check_layout(operand: Operand, layout: TensorLayout) -> Result<TensorLayout> {
    for (dim, size, stride) in layout.outer_dims() {
        if size > MAX_DIM {
            return Err(Error::DimensionTooLarge { operand, dim, value: size, limit: MAX_DIM });
        }
        if !stride.is_multiple_of(HEAD_DIM_STEP) {
            return Err(Error::StrideMisaligned { operand, dim, stride, multiple: HEAD_DIM_STEP });
        }
        if stride >= MAX_STRIDE {
            return Err(Error::StrideTooLarge { operand, dim, stride, limit: MAX_STRIDE });
        }
    }
    layout.span_bytes()?;
    Ok(layout)
}

/// No two elements of the output share an address: going outwards, each step leaps over all that lies within.
fn check_distinct_elements(out: TensorLayout) -> Result<TensorLayout> {
    let mut dims = out.outer_dims();
    dims.sort_by_key(|&(_, _, stride)| stride);
    let mut needed = out.shape.head_dim;
    for (dim, size, stride) in dims.into_iter().filter(|&(_, size, _)| size > 1) {
        if stride < needed {
            return Err(Error::OverlappingOutput { dim, stride, needed });
        }
        needed += (size - 1) * stride;
    }
    Ok(out)
}

fn check_scale(scale: f32) -> Result<f32> {
    let usable = scale > 0.0 && (scale * std::f32::consts::LOG2_E).is_normal();
    if usable { Ok(scale) } else { Err(Error::Scale { scale }) }
}
