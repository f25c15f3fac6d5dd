//! Ragged tensor maps: those of general kernels, in which the rows of a head end with its sequence, wherever that is.
//! How they work is told at [`Steps`].

use flashcore_kernels::fp8::{VALUE_GAP, VALUE_GROUP};
use flashcore_kernels::layout::{Swizzle, TileLayout};
use flashcore_kernels::params::{ROW_BOUND, Steps};

use crate::tensor::TensorLayout;
use crate::tensor_map::{MapElement, TensorMapDesc, TensorMapError};

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
        // Where every stride is 0, any step of TMA will do.
        let any = (layout.shape.head_dim as u64).next_multiple_of(u64::from(VALUE_GROUP));
        Reach { unit: if unit == 0 { any } else { unit }, elements }
    }

    /// The same in units.
    pub(crate) fn units(self) -> u64 {
        self.elements / self.unit
    }

    /// The same in groups of values.
    pub(crate) fn groups(self) -> u64 {
        self.elements / u64::from(VALUE_GROUP)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The tensor at `ptr` as general kernels see it. `heads` neighbouring heads are one for them, of as many more rows.
pub(crate) struct Ragged<'a> {
    pub(crate) ptr: u64,
    pub(crate) layout: &'a TensorLayout,
    pub(crate) element: MapElement,
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

    /// The map of boxes as wide as the slabs of `tile`, of as many rows.
    ///
    /// # Errors
    /// None for a tensor of a checked problem at an address that is a multiple of 16.
    pub(crate) fn map(&self, tile: TileLayout) -> Result<TensorMapDesc, TensorMapError> {
        let ([head_dim, _], [_, row, unit, turn]) = self.sizes_and_strides();
        let dims = [head_dim, ROW_BOUND.into(), DIM, DIM];
        self.describe(&dims, &[row, unit, turn], tile.swizzle, &[tile.rows, 1, 1])
    }

    /// The map of boxes as wide as `swizzle`, of `heads` and `rows`, the heads being those that are one for kernels.
    ///
    /// # Errors
    /// As [`Self::map`].
    pub(crate) fn map_of_heads(
        &self,
        swizzle: Swizzle,
        heads: u32,
        rows: u32,
    ) -> Result<TensorMapDesc, TensorMapError> {
        let ([head_dim, all_heads], strides) = self.sizes_and_strides();
        let dims = [head_dim, all_heads, ROW_BOUND.into(), DIM, DIM];
        self.describe(&dims, &strides, swizzle, &[heads, rows, 1, 1])
    }

    /// Columns and heads; and, in bytes, from one head to the next, from one row, from one unit, and back by all rows.
    fn sizes_and_strides(&self) -> ([u64; 2], [u64; 4]) {
        let bytes = u64::from(self.element.bytes());
        let (shape, strides) = (self.layout.shape, self.layout.strides);
        let row = strides.seqlen as u64 * bytes;
        let unit = Reach::of(self.layout).unit * bytes;
        // Rows that lie further apart than that take more turns.
        let turn = row.max(1).next_multiple_of(TURN_BYTES) - row;
        let strides = [strides.heads as u64 * bytes, row, unit, turn];
        ([shape.head_dim as u64, self.heads.into()], strides)
    }

    fn describe(
        &self,
        dims: &[u64],
        strides: &[u64],
        swizzle: Swizzle,
        outer: &[u32],
    ) -> Result<TensorMapDesc, TensorMapError> {
        let columns = swizzle.row_bytes() / self.element.bytes();
        let boxes = [&[columns], outer].concat();
        Ok(TensorMapDesc::new(self.ptr, self.element, dims, strides, &boxes)?.swizzle(swizzle))
    }
}

/// Transposed values of 8 bits, (batch, head_dim, heads, positions) of which `layout` says where they lie, as general
/// kernels see them: the inner dimension is that of which a sequence takes the last positions, and a unit is a group of
/// [`VALUE_GROUP`], as long as TMA's steps are.
pub(crate) struct RaggedValues<'a> {
    pub(crate) ptr: u64,
    pub(crate) layout: &'a TensorLayout,
}

impl RaggedValues<'_> {
    /// As [`Ragged::steps`].
    pub(crate) fn steps(&self, packed: bool) -> Steps {
        let strides = self.layout.strides;
        // All are whole groups, and `check_general` saw to it that all reach in all fits.
        let groups = |stride: usize| (stride / VALUE_GROUP as usize) as u32;
        let (batch, row) = if packed { (0, VALUE_GAP) } else { (groups(strides.batch), 0) };
        Steps { batch, row, head: groups(strides.heads) }
    }

    /// The map of boxes of the slabs of `tile`.
    ///
    /// # Errors
    /// As [`Ragged::map`].
    pub(crate) fn map(&self, tile: TileLayout) -> Result<TensorMapDesc, TensorMapError> {
        let (shape, strides, group) = (self.layout.shape, self.layout.strides, u64::from(VALUE_GROUP));
        // As many groups back as the bound has.
        let turn = (1 << 38) - group;
        let dims = [ROW_BOUND.into(), shape.seqlen as u64, DIM, DIM];
        let strides = [strides.seqlen as u64, group, turn];
        let boxes = [tile.row_bytes(), tile.rows, 1, 1];
        Ok(TensorMapDesc::new(self.ptr, MapElement::U8, &dims, &strides, &boxes)?.swizzle(tile.swizzle))
    }
}

/// [`RaggedValues::map`]: a bound of positions, in turns of a group less, is a multiple of 2⁶⁴ but for the bound itself.
const _: () = assert!((ROW_BOUND / VALUE_GROUP) as u128 * (1 << 38) == 1 << 64);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use flashcore_kernels::config::Dtype;
    use flashcore_kernels::fp8::first_value_group;

    use super::*;
    use crate::tensor::{Order, Shape, Strides};

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
        let ragged = |heads| Ragged { ptr: PTR, layout: &layout, element: MapElement::Bf16, heads };
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
            let tile = TileLayout { rows: 128, slabs: 1, swizzle: Swizzle::B128 };
            for (packed, of_heads) in [(1, false), (1, true), (ratio, true)] {
                let ragged = Ragged { ptr: PTR, layout: &layout, element: MapElement::Bf16, heads: packed };
                let map = if of_heads { ragged.map_of_heads(Swizzle::B128, 1, 16) } else { ragged.map(tile) }.unwrap();
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

        /// The same for transposed values, of packed sequences and others.
        #[test]
        fn coordinates_lead_to_values(
            lens in prop::collection::vec(0..300u32, 1..6), heads in 1..4u32, head_dim in 1..33u32, packed: bool,
            [batch, row, head] in any::<[u32; 3]>(),
        ) {
            let batch = batch % lens.len() as u32;
            let (count, len) = (lens.len() as u32, lens[batch as usize]);
            prop_assume!(len > 0);
            let (row, head, head_dim) = (row % len, head % heads, 8 * head_dim);
            let longest = lens.iter().copied().max().unwrap();
            let start: u32 = if packed { lens[..batch as usize].iter().sum() } else { 0 };
            let positions = if packed { lens.iter().sum::<u32>() + count * VALUE_GAP } else { longest };
            let positions = positions.next_multiple_of(VALUE_GROUP);
            let sequences = if packed { 1 } else { lens.len() };
            let shape = Shape::new(sequences, head_dim as usize, heads as usize, positions as usize);
            let layout = TensorLayout::packed(Dtype::Bf16, shape, Order::Bhsd).normalized();
            let values = RaggedValues { ptr: PTR, layout: &layout };
            let map = values.map(TileLayout { rows: head_dim, slabs: 1, swizzle: Swizzle::B64 }).unwrap();
            prop_assert_eq!(map.check(), Ok(()));
            let (steps, gap) = (values.steps(packed), if packed { VALUE_GAP } else { 0 });
            let at = |row| steps.value_coordinates(batch, head, start, len, row);
            let [position, unit, turn] = at(row);
            let first = VALUE_GROUP * first_value_group(start, batch, gap);
            let in_batch = if packed { 0 } else { batch };
            let line = (in_batch * heads + head) * head_dim;
            let expected = PTR + u64::from(line) * u64::from(positions) + u64::from(first + row);
            let [_, of_unit, of_turn] = *map.strides_bytes() else { unreachable!() };
            let found = PTR.wrapping_add(position.into()).wrapping_add(u64::from(unit) * of_unit);
            prop_assert_eq!(found.wrapping_add(u64::from(turn).wrapping_mul(of_turn)), expected);
            prop_assert!(u64::from(unit) < map.dims()[2] && u64::from(turn) < map.dims()[3]);
            // The sequence's last group ends with the dimension, and the next one begins no earlier.
            prop_assert_eq!(at(len.next_multiple_of(VALUE_GROUP))[0], ROW_BOUND);
            prop_assert!(expected + u64::from(len.next_multiple_of(VALUE_GROUP) - row) <= PTR + layout.span().unwrap() as u64);
        }
    }
}
