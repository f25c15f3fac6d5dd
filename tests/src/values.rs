//! Tensors on the host: as they lie in memory, and as plain values.

use flashcore::{Dtype, Order, Shape, Strides};
use half::{bf16, f16};
use rayon::prelude::*;

/// The nearest number that `dtype` can represent (ties to even; too large becomes infinite).
pub fn round(dtype: Dtype, x: f64) -> f64 {
    match dtype {
        Dtype::F16 => f16::from_f64(x).to_f64(),
        Dtype::Bf16 => bf16::from_f64(x).to_f64(),
    }
}

/// The bits of `x`, rounded to `dtype`.
pub fn encode(dtype: Dtype, x: f32) -> u16 {
    match dtype {
        Dtype::F16 => f16::from_f32(x).to_bits(),
        Dtype::Bf16 => bf16::from_f32(x).to_bits(),
    }
}

/// The number that `bits` mean in `dtype`.
pub fn decode(dtype: Dtype, bits: u16) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_bits(bits).to_f32(),
        Dtype::Bf16 => bf16::from_bits(bits).to_f32(),
    }
}

/// Values without their memory layout: contiguous (batch, seqlen, heads, head_dim).
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// The shape.
    pub shape: Shape,
    /// The values, `head_dim` fastest.
    pub data: Vec<f32>,
}

impl Values {
    /// All zeros.
    pub fn zeros(shape: Shape) -> Self {
        Values { shape, data: vec![0.0; shape.batch * shape.seqlen * shape.heads * shape.head_dim] }
    }

    /// A tensor whose element at (batch, seqlen, head, column) is `f` of that position, called in memory order.
    pub fn from_fn(shape: Shape, mut f: impl FnMut(usize, usize, usize, usize) -> f32) -> Self {
        let mut data = Vec::with_capacity(shape.batch * shape.seqlen * shape.heads * shape.head_dim);
        for b in 0..shape.batch {
            for s in 0..shape.seqlen {
                for h in 0..shape.heads {
                    data.extend((0..shape.head_dim).map(|d| f(b, s, h, d)));
                }
            }
        }
        Values { shape, data }
    }

    fn row_start(&self, b: usize, s: usize, h: usize) -> usize {
        ((b * self.shape.seqlen + s) * self.shape.heads + h) * self.shape.head_dim
    }

    /// The `head_dim` values of token `s` of head `h` of sequence `b`.
    pub fn row(&self, b: usize, s: usize, h: usize) -> &[f32] {
        &self.data[self.row_start(b, s, h)..][..self.shape.head_dim]
    }

    /// The same, to change them.
    pub fn row_mut(&mut self, b: usize, s: usize, h: usize) -> &mut [f32] {
        let start = self.row_start(b, s, h);
        &mut self.data[start..][..self.shape.head_dim]
    }
}

/// A tensor as it lies in memory, gaps between rows included.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Shape of the tensor.
    pub shape: Shape,
    /// Distances between neighbours, in elements.
    pub strides: Strides,
    /// The bits of every element from the first to the last, and of the gaps.
    pub bits: Vec<u16>,
}

/// NaN in both element types: what stands where no kernel should read, or should have written.
pub const POISON: u16 = 0xFFFF;

impl HostTensor {
    /// A tensor of `shape` in memory laid out by `strides`, every element and gap [`POISON`].
    pub fn poisoned(dtype: Dtype, shape: Shape, strides: Strides) -> Self {
        let extents =
            [(shape.batch, strides.batch), (shape.seqlen, strides.seqlen), (shape.heads, strides.heads)];
        let empty = shape.head_dim == 0 || extents.iter().any(|&(size, _)| size == 0);
        let last: usize = extents.iter().map(|(size, stride)| size.saturating_sub(1) * stride).sum();
        let len = if empty { 0 } else { last + shape.head_dim };
        HostTensor { dtype, shape, strides, bits: vec![POISON; len] }
    }

    /// `values`, rounded to `dtype`, laid out by `strides`. Where a stride of 0 puts several values in one
    /// place, the last one stays.
    pub fn lay_out(values: &Values, dtype: Dtype, strides: Strides) -> Self {
        let rounded: Vec<u16> = values.data.par_iter().map(|&x| encode(dtype, x)).collect();
        let mut tensor = Self::poisoned(dtype, values.shape, strides);
        if !rounded.is_empty() {
            let rows = rounded.chunks(values.shape.head_dim);
            for ((b, s, h), row) in tensor.positions().zip(rows) {
                let start = tensor.offset(b, s, h);
                tensor.bits[start..][..row.len()].copy_from_slice(row);
            }
        }
        tensor
    }

    /// The values that a reader of this memory sees.
    pub fn values(&self) -> Values {
        let mut bits = Vec::with_capacity(self.bits.len());
        for (b, s, h) in self.positions() {
            bits.extend_from_slice(self.row_bits(b, s, h));
        }
        Values { shape: self.shape, data: bits.par_iter().map(|&x| decode(self.dtype, x)).collect() }
    }

    /// One sequence of the batch, contiguous.
    pub fn sequence(&self, sequence: usize) -> Self {
        let shape = Shape { batch: 1, ..self.shape };
        let size = shape.seqlen * shape.heads * shape.head_dim;
        let data = self.values().data[sequence * size..][..size].to_vec();
        HostTensor::lay_out(&Values { shape, data }, self.dtype, Order::Bshd.strides(shape))
    }

    /// The bits of the `head_dim` elements of token `s` of head `h` of sequence `b`.
    pub fn row_bits(&self, b: usize, s: usize, h: usize) -> &[u16] {
        &self.bits[self.offset(b, s, h)..][..self.shape.head_dim]
    }

    /// Whether everything between the rows is still [`POISON`].
    pub fn gaps_untouched(&self) -> bool {
        let mut owned = vec![false; self.bits.len()];
        for (b, s, h) in self.positions() {
            owned[self.offset(b, s, h)..][..self.shape.head_dim].fill(true);
        }
        self.bits.iter().zip(owned).all(|(&bits, owned)| owned || bits == POISON)
    }

    fn offset(&self, b: usize, s: usize, h: usize) -> usize {
        b * self.strides.batch + s * self.strides.seqlen + h * self.strides.heads
    }

    fn positions(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let Shape { batch, seqlen, heads, .. } = self.shape;
        (0..batch).flat_map(move |b| (0..seqlen).flat_map(move |s| (0..heads).map(move |h| (b, s, h))))
    }
}
