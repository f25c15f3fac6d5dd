//! Ragged tensor maps: those of general kernels, in which the rows of a head end with its sequence, wherever that is.
//! How they work is told at [`Steps`].

use flashcore_kernels::config::Dtype;
use flashcore_kernels::layout::Swizzle;
use flashcore_kernels::params::{ROW_BOUND, Steps};

use crate::tensor::TensorLayout;
use crate::tensor_map::{TensorMapDesc, TensorMapError};

/// Units that the coordinates of a tensor map count.
pub(crate) const MAX_UNITS: u64 = i32::MAX as u64 - 0xffff;
/// Elements of the last dimensions: more than any coordinate.
const DIM: u64 = MAX_UNITS + 1;
/// Bytes of which [`ROW_BOUND`] make a multiple of 2⁶⁴: two turns through the address space.
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
        // Rows that lie further apart than that take more turns.
        let turn = row.max(1).next_multiple_of(TURN_BYTES) - row;
        let strides = [strides.heads as u64 * BYTES, row, unit, turn];
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::{Shape, Strides};

    const PTR: u64 = 0x7f00_1234_5670;

    fn layout(shape: Shape, [batch, seqlen, heads]: [usize; 3]) -> TensorLayout {
        let strides = Strides { batch, seqlen, heads };
        TensorLayout { dtype: Dtype::Bf16, shape, strides }.normalized()
    }

    #[test]
    fn the_unit_divides_all_strides() {
        let reach = |shape, strides| Reach::of(&layout(shape, strides));
        let shape = Shape::new(2, 10, 3, 64);
        assert_eq!(reach(shape, [1920, 192, 64]), Reach { unit: 64, elements: 3840 + 1920 + 192 });
        assert_eq!(reach(shape, [1920, 192, 64]).units(), 93);
        assert_eq!(reach(shape, [1920, 200, 64]).unit, 8);
        // Broadcast heads take no step; where nobody takes one, any will do.
        assert_eq!(reach(shape, [1920, 192, 0]), Reach { unit: 192, elements: 3840 + 1920 });
        assert_eq!(reach(shape, [0, 0, 0]), Reach { unit: 64, elements: 0 });
    }

    #[test]
    fn packed_sequences_take_no_step_of_their_own() {
        let layout = layout(Shape::new(1, 10, 6, 64), [0, 384, 64]);
        let ragged = |heads| Ragged { ptr: PTR, layout: &layout, heads };
        assert_eq!(ragged(1).steps(true), Steps { batch: 0, row: 6, head: 1 });
        assert_eq!(ragged(3).steps(true), Steps { batch: 0, row: 6, head: 3 });
        assert_eq!(ragged(3).steps(false), Steps { batch: 1, row: 6, head: 3 });
    }

    /// Strides as tensors have them, with gaps, broadcast, and as far apart as a tensor map can have them.
    fn layouts() -> impl Strategy<Value = (TensorLayout, u32)> {
        let shapes = (1..4usize, 1..600usize, 1..9u32, 1..5u32, 1..33usize);
        let gaps = prop::sample::select(vec![0usize, 8, 64, 1 << 20]);
        let far = prop::sample::select(vec![0usize, 1 << 33, (1 << 34) - 8, 1 << 34, 3 << 34, (1 << 39) - 8]);
        (shapes, 0..6usize, gaps, far).prop_map(
            |((batch, seqlen, heads_kv, ratio, head_dim), order, gap, far)| {
                let (heads, head_dim) = ((heads_kv * ratio) as usize, 8 * head_dim);
                let row = heads * head_dim + gap;
                let strides = match order {
                    0 => [seqlen * row, row, head_dim],
                    1 => [heads * seqlen * head_dim + gap, head_dim, seqlen * head_dim],
                    2 => [seqlen * row, row, 0],
                    3 => [0, head_dim, 0],
                    4 => [0, far, head_dim],
                    _ => [far, far, far],
                };
                (layout(Shape::new(batch, seqlen, heads, head_dim), strides), ratio)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        /// A coordinate times its stride, added up modulo 2⁶⁴ as TMA does, is where the element lies; rows beyond the
        /// sequence lie beyond the dimension.
        #[test]
        fn coordinates_lead_to_elements(
            (layout, ratio) in layouts(), [batch, start, end, row, head] in any::<[usize; 5]>(),
        ) {
            prop_assume!(Reach::of(&layout).units() <= MAX_UNITS);
            let Shape { seqlen, heads, .. } = layout.shape;
            let (batch, start) = (batch % layout.shape.batch, start % seqlen);
            let len = 1 + end % (seqlen - start);
            let (row, head) = (row % len, head % heads);
            let Strides { batch: of_batch, seqlen: of_row, heads: of_head } = layout.strides;
            let element = batch * of_batch + (start + row) * of_row + head * of_head;
            let expected = PTR.wrapping_add(2 * element as u64);
            for (packed, of_heads) in [(1, false), (1, true), (ratio, true)] {
                let ragged = Ragged { ptr: PTR, layout: &layout, heads: packed };
                let map = if of_heads { ragged.map_of_heads(64, 1, 16) } else { ragged.map(64, 128) }.unwrap();
                prop_assert_eq!(map.check(), Ok(()));
                let steps = ragged.steps(false);
                let (group, within) = (head as u32 / packed, head as u32 % packed);
                let [at, unit, turn] = steps.coordinates(batch as u32, group, start as u32, len as u32, row as u32);
                let coordinates = if of_heads { vec![within, at, unit, turn] } else { vec![at, unit, turn] };
                let steps_bytes = coordinates.iter().zip(map.strides_bytes()).map(|(&at, &stride)| u64::from(at).wrapping_mul(stride));
                prop_assert_eq!(steps_bytes.fold(PTR, u64::wrapping_add), expected);
                prop_assert!(coordinates.iter().zip(&map.dims()[1..]).all(|(&at, &size)| u64::from(at) < size));
                let [first_beyond, ..] = steps.coordinates(batch as u32, group, start as u32, len as u32, len as u32);
                prop_assert_eq!(u64::from(first_beyond), map.dims()[map.dims().len() - 3]);
            }
        }
    }
}
