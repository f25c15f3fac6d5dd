//! Ragged tensor maps: those of general kernels, in which the rows of a head end with its sequence, wherever that is. How they
//! work is told at [`Steps`].

use flashcore_kernels::config::Dtype;
use flashcore_kernels::layout::Swizzle;
use flashcore_kernels::params::{ROW_BOUND, Steps};

use crate::tensor::TensorLayout;
use crate::tensor_map::{TensorMapDesc, TensorMapError};

/// Units that the coordinates of a tensor map count.
pub(crate) const MAX_UNITS: u64 = i32::MAX as u64 - 0xffff;
/// Elements of the last dimensions: more than any coordinate.
const DIM: u64 = MAX_UNITS + 1;
/// Bytes that [`ROW_BOUND`] of, make a multiple of 2⁶⁴: one turn through the address space, or two.
const TURN_BYTES: u64 = 1 << 35;

const _: () = assert!((ROW_BOUND as u128 * TURN_BYTES as u128).is_multiple_of(1 << 64));

/// How far a tensor's strides reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Elements of a unit: the greatest common divisor of the strides.
    unit: u64,
    /// Elements from the first row to the end.
    elements: u64,
}

impl Reach {
    pub(crate) fn of(layout: &TensorLayout) -> Self {
        let dims = layout.outer_dims().map(|(_, size, stride)| (size as u64, stride as u64));
        let unit = dims.iter().fold(0, |unit, &(_, stride)| gcd(unit, stride));
        let elements =
            dims.iter().map(|&(size, stride)| size.saturating_mul(stride)).fold(0, u64::saturating_add);
        // Where every stride is 0, any step will do.
        Reach { unit: if unit == 0 { layout.shape.head_dim as u64 } else { unit }, elements }
    }

    /// The same in units.
    pub(crate) fn units(self) -> u64 {
        self.elements / self.unit
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The tensor at `ptr` as general kernels see it. `heads` neighbouring heads are one for them, of as many more rows.
pub(crate) struct Ragged<'a> {
    pub(crate) ptr: u64,
    pub(crate) layout: &'a TensorLayout,
    pub(crate) heads: u32,
}

impl Ragged<'_> {
    /// How a kernel finds heads and sequences in it; `packed` sequences lie where the device says.
    pub(crate) fn steps(&self, packed: bool) -> Steps {
        let strides = self.layout.strides;
        let unit = Reach::of(self.layout).unit;
        // `check_general` saw to it that all reach in all fits.
        let units = |stride: usize| (stride as u64 / unit) as u32;
        Steps {
            batch: if packed { 0 } else { units(strides.batch) },
            row: units(strides.seqlen),
            head: units(strides.heads).wrapping_mul(self.heads),
        }
    }

    /// The map of boxes of (`columns`, `rows`).
    ///
    /// # Errors
    /// None for a tensor of a checked problem at an address that is a multiple of 16.
    pub(crate) fn map(&self, columns: u32, rows: u32) -> Result<TensorMapDesc, TensorMapError> {
        let ([head_dim, _], [_, row, unit, turn]) = self.sizes_and_strides();
        self.describe(&[head_dim, ROW_BOUND.into(), DIM, DIM], &[row, unit, turn], &[columns, rows, 1, 1])
    }

    /// The map of boxes of (`columns`, `heads`, `rows`), the heads being those that are one for kernels.
    ///
    /// # Errors
    /// As [`Self::map`].
    pub(crate) fn map_of_heads(
        &self,
        columns: u32,
        heads: u32,
        rows: u32,
    ) -> Result<TensorMapDesc, TensorMapError> {
        let ([head_dim, all_heads], strides) = self.sizes_and_strides();
        self.describe(
            &[head_dim, all_heads, ROW_BOUND.into(), DIM, DIM],
            &strides,
            &[columns, heads, rows, 1, 1],
        )
    }

    /// Columns and heads; and, in bytes, from one head to the next, from one row, from one unit, and back by all rows.
    fn sizes_and_strides(&self) -> ([u64; 2], [u64; 4]) {
        const BYTES: u64 = Dtype::SIZE as u64;
        let (shape, strides) = (self.layout.shape, self.layout.strides);
        let row = strides.seqlen as u64 * BYTES;
        let unit = Reach::of(self.layout).unit * BYTES;
        let strides = [strides.heads as u64 * BYTES, row, unit, TURN_BYTES - row];
        ([shape.head_dim as u64, self.heads.into()], strides)
    }

    fn describe(
        &self,
        dims: &[u64],
        strides: &[u64],
        boxes: &[u32],
    ) -> Result<TensorMapDesc, TensorMapError> {
        let map = TensorMapDesc::new(self.ptr, self.layout.dtype.into(), dims, strides, boxes)?;
        Ok(map.swizzle(Swizzle::B128))
    }
}
