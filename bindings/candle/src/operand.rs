//! candle's layouts as flashcore's.

use candle_core::backend::BackendStorage;
use candle_core::{DType, Layout};
use flashcore::{Dtype, Operand, Shape, Strides, TensorLayout, TensorView};

use crate::error::{Error, Result};

/// Tensors as candle passes them to an operation: storage and layout.
pub(crate) type Inputs<'a, S, const N: usize> = [(&'a S, &'a Layout); N];

/// Those of attention.
pub(crate) const QKV: [Operand; 3] = [Operand::Q, Operand::K, Operand::V];
/// Those of a merge.
pub(crate) const STATES: [Operand; 2] = [Operand::O1, Operand::O2];

/// An input that flashcore may look at: where it begins in its storage, and how it lies there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    /// Elements before the first one.
    offset: usize,
    layout: TensorLayout,
}

impl Input {
    /// Tensors of one element type, four dimensions, and heads without gaps.
    pub(crate) fn of<S: BackendStorage, const N: usize>(
        operands: [Operand; N],
        inputs: Inputs<'_, S, N>,
    ) -> Result<[Input; N]> {
        let input = |i: usize| {
            let (storage, layout) = inputs[i];
            Input::new(operands[i], storage.dtype(), layout)
        };
        let mut found = [input(0)?; N];
        for (i, &operand) in operands.iter().enumerate().skip(1) {
            found[i] = input(i)?;
            let (expected, found) = (found[0].layout.dtype, found[i].layout.dtype);
            if found != expected {
                return Err(flashcore::Error::DtypeMismatch { operand, expected, found }.into());
            }
        }
        Ok(found)
    }

    fn new(operand: Operand, dtype: DType, layout: &Layout) -> Result<Self> {
        let dtype = match dtype {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::Bf16,
            found => return Err(Error::Dtype { operand, found }),
        };
        let rank = Error::Rank { operand, found: layout.dims().len() };
        let &[batch, seqlen, heads, head_dim] = layout.dims() else { return Err(rank) };
        let &[of_batch, of_seqlen, of_heads, stride] = layout.stride() else { return Err(rank) };
        if stride != 1 {
            return Err(Error::HeadDimStride { operand, stride });
        }
        let shape = Shape { batch, seqlen, heads, head_dim };
        let strides = Strides { batch: of_batch, seqlen: of_seqlen, heads: of_heads };
        Ok(Input { offset: layout.start_offset(), layout: TensorLayout { dtype, shape, strides } })
    }

    /// Checks two log-sum-exps of rows like those of this tensor, stacked as (2, batch, heads, seqlen).
    pub(crate) fn check_lses(&self, dtype: DType, lses: &Layout) -> Result<()> {
        if dtype != DType::F32 {
            return Err(Error::LseDtype { found: dtype });
        }
        let Shape { batch, seqlen, heads, .. } = self.shape();
        let (expected, found) = (vec![batch, heads, seqlen], lses.dims()[1..].to_vec());
        if found == expected { Ok(()) } else { Err(Error::LseShape { expected, found }) }
    }

    /// Element type.
    pub(crate) fn dtype(&self) -> Dtype {
        self.layout.dtype
    }

    /// Sizes.
    pub(crate) fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// This input, its storage being the `bytes` bytes at device address `storage`.
    ///
    /// # Safety
    /// As for [`TensorView::from_raw_parts`].
    pub(crate) unsafe fn view<'a>(&self, storage: u64, bytes: usize) -> TensorView<'a> {
        let skipped = self.offset * Dtype::SIZE as usize;
        let TensorLayout { dtype, shape, strides } = self.layout;
        let (ptr, left) = (storage + skipped as u64, bytes.saturating_sub(skipped));
        // SAFETY: the caller vouches for the memory; what is left of it is part of it.
        unsafe { TensorView::from_raw_parts(ptr, left, dtype, shape, strides) }
    }
}
