//! candle's layouts as flashcore's.

use candle_core::backend::BackendStorage;
use candle_core::{DType, DeviceLocation, Layout, StorageRef, Tensor};
use flashcore::{BiasLayout, BiasView, Dtype, Operand, Shape, Strides, TensorLayout, TensorView};

use crate::error::{Error, Result};

/// A tensor's storage, which nobody writes meanwhile, and its layout.
pub(crate) type Stored<'a> = (StorageRef<'a>, &'a Layout);

/// Tensors as a backend has them: storage and layout.
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
    /// Tensors of one element type, four dimensions (three, if `packed`), and heads without gaps.
    pub(crate) fn of<S: BackendStorage, const N: usize>(
        operands: [Operand; N],
        packed: [bool; N],
        inputs: Inputs<'_, S, N>,
    ) -> Result<[Input; N]> {
        let input = |i: usize| {
            let (storage, layout) = inputs[i];
            Input::new(operands[i], packed[i], storage.dtype(), layout)
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

    fn new(operand: Operand, packed: bool, dtype: DType, layout: &Layout) -> Result<Self> {
        let dtype = element_type(operand, dtype)?;
        let (shape, strides, stride) = match (packed, layout.dims(), layout.stride()) {
            (false, &[batch, seqlen, heads, head_dim], &[of_batch, of_seqlen, of_heads, stride]) => (
                Shape { batch, seqlen, heads, head_dim },
                Strides { batch: of_batch, seqlen: of_seqlen, heads: of_heads },
                stride,
            ),
            (true, &[seqlen, heads, head_dim], &[of_seqlen, of_heads, stride]) => (
                Shape { batch: 1, seqlen, heads, head_dim },
                Strides { batch: 0, seqlen: of_seqlen, heads: of_heads },
                stride,
            ),
            (_, dims, _) => {
                let expected = if packed { 3 } else { 4 };
                return Err(Error::Rank { operand, expected, found: dims.len() });
            }
        };
        if stride != 1 {
            return Err(Error::HeadDimStride { operand, stride });
        }
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

    /// Sizes of the output where this is q.
    pub(crate) fn output(&self, v: &Input) -> Shape {
        Shape { head_dim: v.shape().head_dim, ..self.shape() }
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

/// A bias that flashcore may look at, as [`Input`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct BiasInput {
    /// Elements before the first one.
    offset: usize,
    layout: BiasLayout,
}

impl BiasInput {
    /// Four dimensions, and the element type of q.
    pub(crate) fn of(storage: &impl BackendStorage, layout: &Layout, expected: Dtype) -> Result<Self> {
        let operand = Operand::Bias;
        let found = element_type(operand, storage.dtype())?;
        if found != expected {
            return Err(flashcore::Error::DtypeMismatch { operand, expected, found }.into());
        }
        let (Ok(sizes), Ok(strides)) = (layout.dims().try_into(), layout.stride().try_into()) else {
            return Err(Error::Rank { operand, expected: 4, found: layout.dims().len() });
        };
        Ok(BiasInput { offset: layout.start_offset(), layout: BiasLayout { dtype: found, sizes, strides } })
    }

    /// This bias, its storage being the `bytes` bytes at device address `storage`.
    ///
    /// # Safety
    /// As for [`BiasView::from_raw_parts`].
    pub(crate) unsafe fn view<'a>(&self, storage: u64, bytes: usize) -> BiasView<'a> {
        let skipped = self.offset * Dtype::SIZE as usize;
        let (ptr, left) = (storage + skipped as u64, bytes.saturating_sub(skipped));
        // SAFETY: the caller vouches for the memory; what is left of it is part of it.
        unsafe { BiasView::from_raw_parts(ptr, left, self.layout) }
    }
}

/// candle's element type as flashcore's.
fn element_type(operand: Operand, dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::Bf16),
        found => Err(Error::Dtype { operand, found }),
    }
}

/// Checks that a tensor is where the first one of the call is.
pub(crate) fn check_location(operand: Operand, tensor: &Tensor, expected: DeviceLocation) -> Result<()> {
    let found = tensor.device().location();
    if found == expected { Ok(()) } else { Err(Error::Device { operand, expected, found }) }
}
