//! Numbers beside q, k and v: tensors that say where sequences begin and which keys queries see, or weigh heads.

use std::convert::Infallible;

use candle_core::{DeviceLocation, Tensor};
use flashcore::{ArrayView, BlockMask, KeyRanges, Operand, Sequences, SparseSizes};

use crate::error::{Error, Result, dtypes};
use crate::operand::{Stored, check_location};

/// Those of a call, as `T`.
#[derive(Clone, Debug)]
pub(crate) struct Numbers<T> {
    pub(crate) starts_q: Option<T>,
    pub(crate) starts_kv: Option<T>,
    pub(crate) used_q: Option<T>,
    pub(crate) used_kv: Option<T>,
    pub(crate) prefix: Option<T>,
    pub(crate) sinks: Option<T>,
    pub(crate) slopes: Option<T>,
    pub(crate) ranges: Option<T>,
    pub(crate) block_counts: Option<T>,
    pub(crate) block_indices: Option<T>,
    /// Those of ranges and lists, once they are known.
    sizes: SparseSizes,
}

/// None of them.
impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Numbers {
            starts_q: None,
            starts_kv: None,
            used_q: None,
            used_kv: None,
            prefix: None,
            sinks: None,
            slopes: None,
            ranges: None,
            block_counts: None,
            block_indices: None,
            sizes: SparseSizes::NONE,
        }
    }
}

impl<T> Numbers<T> {
    /// What `f` makes of each of them that is there.
    pub(crate) fn try_map<'a, U, E>(
        &'a self,
        f: impl Fn(Operand, &'a T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Numbers<U>, E> {
        let of = |operand, numbers: &'a Option<T>| numbers.as_ref().map(|it| f(operand, it)).transpose();
        Ok(Numbers {
            starts_q: of(Operand::StartsQ, &self.starts_q)?,
            starts_kv: of(Operand::StartsKv, &self.starts_kv)?,
            used_q: of(Operand::UsedQ, &self.used_q)?,
            used_kv: of(Operand::UsedKv, &self.used_kv)?,
            prefix: of(Operand::Prefix, &self.prefix)?,
            sinks: of(Operand::Sinks, &self.sinks)?,
            slopes: of(Operand::Slopes, &self.slopes)?,
            ranges: of(Operand::KeyRanges, &self.ranges)?,
            block_counts: of(Operand::BlockCounts, &self.block_counts)?,
            block_indices: of(Operand::BlockIndices, &self.block_indices)?,
            sizes: self.sizes,
        })
    }

    /// Which of q, k and v hold packed sequences.
    pub(crate) fn packed(&self) -> [bool; 3] {
        let (q, kv) = (self.starts_q.is_some(), self.starts_kv.is_some());
        [q, kv, kv]
    }

    /// Whether rows of the outputs may be no query's. Kernels do not write those.
    pub(crate) fn skip_rows(&self) -> bool {
        self.starts_q.is_some() || self.used_q.is_some()
    }

    /// The call with these numbers, `place` being the device address of the first one, and how many there are.
    ///
    /// u32 is read as i32: the same bits below 2^31, and no tensor has so many rows.
    ///
    /// # Safety
    /// As for [`ArrayView::from_raw_parts`], each for its place.
    pub(crate) unsafe fn join<'a>(
        &'a self,
        attention: flashcore::Attention<'a>,
        place: impl Fn(&T) -> (u64, usize),
    ) -> flashcore::Attention<'a> {
        let place = |numbers: &Option<T>| numbers.as_ref().map(&place);
        // SAFETY: the caller vouches for the memory.
        let ints = |numbers| place(numbers).map(|(ptr, len)| unsafe { ArrayView::from_raw_parts(ptr, len) });
        // SAFETY: as above.
        let floats =
            |numbers| place(numbers).map(|(ptr, len)| unsafe { ArrayView::from_raw_parts(ptr, len) });
        let mut sequences = Sequences::new();
        if let Some(starts) = ints(&self.starts_q) {
            sequences = sequences.starts_q(starts);
        }
        if let Some(starts) = ints(&self.starts_kv) {
            sequences = sequences.starts_kv(starts);
        }
        if let Some(used) = ints(&self.used_q) {
            sequences = sequences.used_q(used);
        }
        if let Some(used) = ints(&self.used_kv) {
            sequences = sequences.used_kv(used);
        }
        let mut attention = attention.sequences(sequences);
        if let Some(lengths) = ints(&self.prefix) {
            attention = attention.prefix(lengths);
        }
        if let Some(logits) = floats(&self.sinks) {
            attention = attention.sinks(logits);
        }
        if let Some(slopes) = floats(&self.slopes) {
            attention = attention.alibi(slopes);
        }
        if let (Some(numbers), Some(sizes)) = (ints(&self.ranges), self.sizes.ranges) {
            attention = attention.key_ranges(KeyRanges::new(numbers, sizes));
        }
        let lists = (ints(&self.block_counts), ints(&self.block_indices));
        if let ((Some(counts), Some(indices)), Some(sizes)) = (lists, self.sizes.blocks) {
            attention = attention.block_mask(BlockMask::new(counts, indices, sizes));
        }
        attention
    }
}

impl Numbers<Tensor> {
    /// Checks all that does not take a problem: element type, dimensions, gaps, and that they are where q is. Returns the
    /// sizes of ranges and lists.
    pub(crate) fn check(&self, q: DeviceLocation) -> Result<SparseSizes> {
        self.try_map(|operand, numbers| check(operand, numbers, q))?;
        let ranges = match &self.ranges {
            Some(ranges) => Some(range_sizes(ranges, self.starts_q.is_some())?),
            None => None,
        };
        let blocks = match (&self.block_counts, &self.block_indices) {
            (Some(counts), Some(indices)) => Some(block_sizes(counts, indices)?),
            _ => None,
        };
        Ok(SparseSizes { ranges, blocks })
    }

    /// How they lie in their storages, ranges and lists being of these sizes.
    pub(crate) fn stored(&self, sizes: SparseSizes) -> Numbers<Stored<'_>> {
        let Ok(stored) = self.try_map(|_, numbers| Ok::<_, Infallible>(numbers.storage_and_layout()));
        Numbers { sizes, ..stored }
    }
}

fn check(operand: Operand, numbers: &Tensor, q: DeviceLocation) -> Result<()> {
    check_location(operand, numbers, q)?;
    if !dtypes(operand).contains(&numbers.dtype()) {
        return Err(Error::Dtype { operand, found: numbers.dtype() });
    }
    if matches!(operand, Operand::KeyRanges | Operand::BlockCounts | Operand::BlockIndices) {
        return if numbers.is_contiguous() { Ok(()) } else { Err(Error::Gaps { operand }) };
    }
    match (numbers.dims(), numbers.stride()) {
        (&[len], &[stride]) if len > 1 && stride != 1 => Err(Error::NumbersStride { operand, stride }),
        ([_], _) => Ok(()),
        (dims, _) => Err(Error::Rank { operand, expected: 1, found: dims.len() }),
    }
}

/// Sequences and heads that have ranges.
fn range_sizes(ranges: &Tensor, packed: bool) -> Result<[usize; 2]> {
    let (sizes, ends) = match (packed, ranges.dims()) {
        (false, &[batch, heads, _, ends]) => ([batch, heads], ends),
        (true, &[heads, _, ends]) => ([1, heads], ends),
        (_, dims) => {
            let expected = if packed { 3 } else { 4 };
            return Err(Error::Rank { operand: Operand::KeyRanges, expected, found: dims.len() });
        }
    };
    if ends == 2 { Ok(sizes) } else { Err(Error::RangeEnds { found: ends }) }
}

/// Sequences, heads and blocks of queries that have lists, and the room of each.
fn block_sizes(counts: &Tensor, indices: &Tensor) -> Result<[usize; 4]> {
    let rank = |operand, expected, tensor: &Tensor| {
        let found = tensor.dims().len();
        if found == expected { Ok(()) } else { Err(Error::Rank { operand, expected, found }) }
    };
    rank(Operand::BlockCounts, 3, counts)?;
    rank(Operand::BlockIndices, 4, indices)?;
    match (indices.dims(), counts.dims()) {
        (&[batch, heads, queries, room], expected) if [batch, heads, queries] == *expected => {
            Ok([batch, heads, queries, room])
        }
        (found, expected) => Err(Error::ListsShape { expected: expected.to_vec(), found: found.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn numbers_are_where_q_is() {
        let sinks = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
        let numbers = Numbers { sinks: Some(sinks), ..Numbers::default() };
        assert_eq!(numbers.check(DeviceLocation::Cpu), Ok(SparseSizes::NONE));
        let expected = DeviceLocation::Cuda { gpu_id: 1 };
        let error = Error::Device { operand: Operand::Sinks, expected, found: DeviceLocation::Cpu };
        assert_eq!(numbers.check(expected), Err(error.clone()));
        assert_eq!(
            error.to_string(),
            "sinks is on Cpu, but Cuda { gpu_id: 1 } is needed to agree with the other tensors"
        );
    }
}
