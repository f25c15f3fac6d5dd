//! A number that is added to each score.

use std::marker::PhantomData;

use flashcore_kernels::layout::Swizzle;
use flashcore_kernels::score_mod::Biases;

use crate::array::ArrayView;
use crate::error::{Dim, Error, Operand, Result};
use crate::kernels::Dtype;
use crate::tensor::Element;
use crate::tensor_map::{self, STRIDE_LIMIT, TensorMapDesc, TensorMapError};

/// Numbers that kernels load at once: those of two neighbouring keys.
const PAIR: usize = 2;
/// What they are aligned to.
pub(crate) const ALIGNMENT: u64 = bytes(PAIR as u64);

/// Where the numbers that are added to scores lie, without an address: (batch, heads_q, seqlen_q, seqlen_kv). Where one
/// of the first three sizes is 1, the same numbers serve all.
///
/// Kernels load the numbers of two neighbouring keys at once. So these are neighbours in memory (the last stride is 1),
/// the other strides are even, and where the number of keys is odd, memory goes on for one number more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BiasLayout {
    /// Element type: that of q.
    pub dtype: Dtype,
    /// Sizes, each that of the problem, or 1 but for the keys.
    pub sizes: [usize; 4],
    /// Elements from one number to the next along each dimension.
    pub strides: [usize; 4],
}

/// Names of the dimensions, in their order.
const DIMS: [Dim; 4] = [Dim::Batch, Dim::Heads, Dim::Queries, Dim::Keys];

impl BiasLayout {
    /// Rows of keys one behind the other; a row of an odd number has room for one more.
    pub const fn packed(dtype: Dtype, sizes: [usize; 4]) -> Self {
        let [_, heads, queries, keys] = sizes;
        // More than memory holds is refused later.
        let keys = keys.saturating_add(keys % PAIR);
        let head = queries.saturating_mul(keys);
        BiasLayout { dtype, sizes, strides: [heads.saturating_mul(head), head, keys, 1] }
    }

    /// The same with a stride of 0 where one number serves all, if it is of this type and these sizes.
    pub(crate) fn checked(mut self, dtype: Dtype, sizes: [usize; 4]) -> Result<Self> {
        let operand = Operand::Bias;
        if self.dtype != dtype {
            return Err(Error::DtypeMismatch { operand, expected: dtype, found: self.dtype });
        }
        let of_nothing = sizes.contains(&0);
        for (i, dim) in DIMS.into_iter().enumerate() {
            let (found, expected) = (self.sizes[i], sizes[i]);
            let serves_all = found == 1 && dim != Dim::Keys;
            if found != expected && !serves_all {
                return Err(Error::ShapeMismatch { operand, dim, expected, found });
            }
            if serves_all || of_nothing {
                self.strides[i] = 0; // which may have been anything
            }
            let stride = self.strides[i];
            if dim == Dim::Keys && stride != 1 && found > 1 && !of_nothing {
                return Err(Error::BiasKeysApart { stride });
            }
            if dim != Dim::Keys && !stride.is_multiple_of(PAIR) {
                return Err(Error::StrideMisaligned { operand, dim, stride, multiple: PAIR });
            }
        }
        self.span_bytes()?;
        Ok(self)
    }

    /// Bytes from the first number to the end of the last one.
    pub(crate) fn span_bytes(&self) -> Result<usize> {
        if self.sizes.contains(&0) {
            return Ok(0);
        }
        let [.., keys] = self.sizes;
        let rows = self.sizes.iter().zip(self.strides).take(3);
        rows.map(|(&size, stride)| (size - 1).checked_mul(stride))
            .chain([keys.checked_next_multiple_of(PAIR)])
            .try_fold(0usize, |span, step| span.checked_add(step?))
            .and_then(|elements| elements.checked_mul(Dtype::SIZE as usize))
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .ok_or(Error::BiasOverflow { sizes: self.sizes })
    }

    /// Whether a tensor map can be made of it, for an address that is a multiple of 16.
    pub(crate) fn comes_in_tiles(&self) -> bool {
        let rows = self.strides.iter().take(3).map(|&stride| bytes(stride as u64));
        !self.sizes.contains(&0)
            && rows
                .into_iter()
                .all(|stride| stride.is_multiple_of(tensor_map::ALIGNMENT) && stride < STRIDE_LIMIT)
    }

    /// The map of boxes of (`columns`, `rows`) of the numbers at `ptr`, for a problem of `sizes`: what serves all is found
    /// at each of them.
    ///
    /// # Errors
    /// None where [`Self::comes_in_tiles`].
    pub(crate) fn map(
        &self,
        ptr: u64,
        sizes: [usize; 4],
        columns: u32,
        rows: u32,
    ) -> std::result::Result<TensorMapDesc, TensorMapError> {
        let [batch, heads, queries, keys] = sizes.map(|size| size as u64);
        let [batch_bytes, head_bytes, query_bytes, _] = self.strides.map(|stride| bytes(stride as u64));
        let dims = [keys, queries, heads, batch];
        let strides = [query_bytes, head_bytes, batch_bytes];
        let map = TensorMapDesc::new(ptr, self.dtype.into(), &dims, &strides, &[columns, rows, 1, 1])?;
        Ok(map.swizzle(Swizzle::B128))
    }

    /// What a kernel is told of the numbers at `ptr`.
    pub(crate) fn at(&self, ptr: u64) -> Biases {
        let [bias_batch, bias_head, bias_query, _] = self.strides.map(|stride| bytes(stride as u64));
        Biases { bias: ptr, bias_batch, bias_head, bias_query, ..Biases::NONE }
    }
}

/// Bytes of so many numbers.
const fn bytes(numbers: u64) -> u64 {
    numbers * Dtype::SIZE as u64
}

/// Numbers in device memory, of somebody else, that are added to scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BiasView<'a> {
    ptr: u64,
    bytes: usize,
    layout: BiasLayout,
    memory: PhantomData<&'a ()>,
}

impl BiasView<'_> {
    /// The numbers of this layout at device address `ptr` (a `CUdeviceptr`), for which `bytes` bytes are allocated.
    ///
    /// # Safety
    /// They must stay allocated for the lifetime of the result and until all work submitted with it has completed;
    /// nothing else may write them while that work runs.
    pub const unsafe fn from_raw_parts(ptr: u64, bytes: usize, layout: BiasLayout) -> Self {
        BiasView { ptr, bytes, layout, memory: PhantomData }
    }

    /// Device address of the first number.
    pub const fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Bytes that are allocated there.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the numbers lie.
    pub const fn layout(&self) -> &BiasLayout {
        &self.layout
    }
}

impl<'a> BiasView<'a> {
    /// The numbers of an array, one behind the other: see [`BiasLayout::packed`].
    pub fn packed<T: Element>(numbers: ArrayView<'a, T>, sizes: [usize; 4]) -> Self {
        let bytes = numbers.len() * Dtype::SIZE as usize;
        let layout = BiasLayout::packed(T::DTYPE, sizes);
        BiasView { ptr: numbers.ptr(), bytes, layout, memory: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 4] = [2, 3, 50, 70];

    fn checked(sizes: [usize; 4]) -> Result<BiasLayout> {
        BiasLayout::packed(Dtype::F16, sizes).checked(Dtype::F16, SIZES)
    }

    fn error(strides: [usize; 4]) -> Error {
        let layout = BiasLayout { strides, ..BiasLayout::packed(Dtype::F16, SIZES) };
        layout.checked(Dtype::F16, SIZES).unwrap_err()
    }

    #[test]
    fn numbers_may_serve_all_sequences_heads_and_queries() {
        assert_eq!(checked(SIZES).unwrap().strides, [10_500, 3500, 70, 1]);
        assert_eq!(checked([1, 3, 1, 70]).unwrap().strides, [0, 70, 0, 1]);
        assert_eq!(checked([1, 1, 1, 70]).unwrap().strides, [0, 0, 0, 1]);
        for (i, dim) in DIMS.into_iter().enumerate() {
            let mut sizes = SIZES;
            sizes[i] += 1;
            let (expected, found) = (SIZES[i], SIZES[i] + 1);
            assert_eq!(
                checked(sizes),
                Err(Error::ShapeMismatch { operand: Operand::Bias, dim, expected, found })
            );
        }
        let (operand, dim) = (Operand::Bias, Dim::Keys);
        assert_eq!(checked([1; 4]), Err(Error::ShapeMismatch { operand, dim, expected: 70, found: 1 }));
    }

    #[test]
    fn numbers_are_of_the_type_of_q() {
        let (operand, expected, found) = (Operand::Bias, Dtype::Bf16, Dtype::F16);
        let error = Error::DtypeMismatch { operand, expected, found };
        assert_eq!(BiasLayout::packed(Dtype::F16, SIZES).checked(Dtype::Bf16, SIZES), Err(error));
    }

    #[test]
    fn neighbouring_keys_are_neighbours_and_pairs_are_aligned() {
        assert_eq!(error([10_500, 3500, 2, 50]), Error::BiasKeysApart { stride: 50 });
        for (i, dim) in DIMS.into_iter().take(3).enumerate() {
            let mut strides = [10_500, 3500, 70, 1];
            strides[i] += 1;
            let (operand, stride) = (Operand::Bias, strides[i]);
            assert_eq!(error(strides), Error::StrideMisaligned { operand, dim, stride, multiple: 2 });
        }
    }

    #[test]
    fn spans_are_counted_and_bounded() {
        assert_eq!(checked(SIZES).unwrap().span_bytes(), Ok(2 * 2 * 3 * 50 * 70));
        assert_eq!(checked([1, 3, 1, 70]).unwrap().span_bytes(), Ok(2 * 3 * 70));
        let odd = [1, 1, 5, 71];
        let layout = BiasLayout::packed(Dtype::F16, odd).checked(Dtype::F16, odd).unwrap();
        assert_eq!((layout.strides, layout.span_bytes()), ([0, 0, 72, 1], Ok(2 * 5 * 72)));
        assert_eq!(error([0, 0, usize::MAX / 8 * 2, 1]), Error::BiasOverflow { sizes: SIZES });
        let none = [2, 3, 0, 70];
        let far = BiasLayout { strides: [3, usize::MAX, 1, 7], ..BiasLayout::packed(Dtype::F16, none) };
        let none = far.checked(Dtype::F16, none).unwrap();
        assert_eq!((none.span_bytes(), none.at(0).bias_head), (Ok(0), 0));
        let sizes = [1 << 40, 1 << 40, 1 << 40, (1 << 40) + 1];
        let beyond = BiasLayout::packed(Dtype::F16, sizes).checked(Dtype::F16, sizes).unwrap_err();
        assert!(matches!(beyond, Error::StrideMisaligned { .. } | Error::BiasOverflow { .. }), "{beyond}");
    }
}
