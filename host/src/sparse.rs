//! Which keys each query sees, where arrays on the device say so: ranges of keys, and block masks.

use flashcore_kernels::sparse::{LIST_TILE, Sparse};

use crate::array::ArrayView;
use crate::error::{Dim, Error, Operand, Result};
use crate::problem::MAX_DIM;

/// Queries, and keys, of a block of a [`BlockMask`].
pub const MASK_BLOCK: usize = LIST_TILE as usize;

/// A range of keys for each query: i32 numbers of shape (batch, heads_q, seqlen_q, 2), the first key and the one behind
/// the last. One sequence or one head may stand for all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyRanges<'a> {
    pub(crate) numbers: ArrayView<'a, i32>,
    pub(crate) sizes: [usize; 2],
}

impl<'a> KeyRanges<'a> {
    /// Ranges of so many sequences and heads: those of q, or 1.
    pub const fn new(numbers: ArrayView<'a, i32>, [batch, heads]: [usize; 2]) -> Self {
        KeyRanges { numbers, sizes: [batch, heads] }
    }
}

/// Which blocks of 128 queries and 128 keys are visited at all: for each block of queries the number of blocks of keys,
/// (batch, heads_q, blocks of queries), and which they are, (batch, heads_q, blocks of queries, room): FlexAttention's
/// `kv_num_blocks` and `kv_indices`. One sequence or one head may stand for all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockMask<'a> {
    pub(crate) counts: ArrayView<'a, i32>,
    pub(crate) indices: ArrayView<'a, i32>,
    pub(crate) sizes: [usize; 4],
}

impl<'a> BlockMask<'a> {
    /// Lists for so many sequences, heads and blocks of queries, each with room for so many blocks of keys:
    /// (batch, heads, blocks of queries, room).
    pub const fn new(counts: ArrayView<'a, i32>, indices: ArrayView<'a, i32>, sizes: [usize; 4]) -> Self {
        BlockMask { counts, indices, sizes }
    }
}

/// The lists of a [`BlockMask`] for a bitmap: `visible` has a row of `key_blocks` for each block of queries. Returns the
/// number of visible blocks in each row, and which they are, each row padded with zeros to the length of the longest.
pub fn block_lists(visible: &[bool], key_blocks: usize) -> (Vec<i32>, Vec<i32>) {
    let rows = || visible.chunks(key_blocks.max(1));
    let count = |row: &[bool]| row.iter().filter(|&&block| block).count();
    let room = rows().map(count).max().unwrap_or(0);
    let counts = rows().map(|row| count(row) as i32).collect();
    let listed = |row: &[bool]| {
        let of_row = (0..).zip(row.to_vec()).filter(|&(_, block)| block).map(|(index, _)| index);
        of_row.chain(std::iter::repeat(0)).take(room).collect::<Vec<i32>>()
    };
    (counts, rows().flat_map(listed).collect())
}

/// The sizes of ranges and lists, without addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SparseSizes {
    /// Sequences and heads that have ranges.
    pub ranges: Option<[usize; 2]>,
    /// Sequences, heads and blocks of queries that have lists, and the room of each.
    pub blocks: Option<[usize; 4]>,
}

impl SparseSizes {
    /// Nothing hidden.
    pub const NONE: SparseSizes = SparseSizes { ranges: None, blocks: None };

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.ranges.is_some() || self.blocks.is_some()
    }

    /// Checks them against those of the problem: tensors of q of `batch` and `rows`, `sequences` of `heads`.
    pub(crate) fn check(
        &self,
        batch: usize,
        sequences: usize,
        heads: usize,
        rows: usize,
        packed: bool,
    ) -> Result<()> {
        let fits = |operand, dim, found: usize, expected: usize| match found == 1 || found == expected {
            true => Ok(()),
            false => Err(Error::ShapeMismatch { operand, dim, expected, found }),
        };
        if let Some([of_batch, of_heads]) = self.ranges {
            fits(Operand::KeyRanges, Dim::Batch, of_batch, batch)?;
            fits(Operand::KeyRanges, Dim::Heads, of_heads, heads)?;
        }
        if let Some(sizes @ [of_sequences, of_heads, blocks, room]) = self.blocks {
            let operand = Operand::BlockCounts;
            fits(operand, Dim::Batch, of_sequences, sequences)?;
            fits(operand, Dim::Heads, of_heads, heads)?;
            let expected = rows.div_ceil(MASK_BLOCK);
            if !packed && blocks != expected {
                return Err(Error::ShapeMismatch { operand, dim: Dim::Queries, expected, found: blocks });
            }
            // Kernels count lists and their places in i32.
            let lists = sizes[..3].iter().try_fold(1usize, |lists, &size| lists.checked_mul(size));
            for value in [lists.unwrap_or(usize::MAX), room] {
                if value > MAX_DIM {
                    return Err(Error::DimensionTooLarge {
                        operand,
                        dim: Dim::Queries,
                        value,
                        limit: MAX_DIM,
                    });
                }
            }
        }
        Ok(())
    }

    /// How many numbers the ranges, the counts and the lists have; more than memory holds if they overflow.
    pub(crate) fn lengths(&self, rows: usize) -> [usize; 3] {
        let product = |sizes: &[usize]| sizes.iter().fold(1usize, |a, &b| a.saturating_mul(b));
        let ranges = self.ranges.map_or(0, |[batch, heads]| product(&[batch, heads, rows, 2]));
        let [counts, lists] = self.blocks.map_or([0; 2], |sizes| [product(&sizes[..3]), product(&sizes)]);
        [ranges, counts, lists]
    }

    /// What a kernel is told, without addresses; `rows` are those of q.
    pub(crate) fn params(&self, rows: usize) -> Sparse {
        let step = |size: usize, step: usize| if size == 1 { 0 } else { step };
        let mut sparse = Sparse::NONE;
        if let Some([batch, heads]) = self.ranges {
            sparse.ranges_batch = step(batch, heads * rows) as u64;
            sparse.ranges_head = step(heads, rows) as u64;
        }
        if let Some([batch, heads, blocks, room]) = self.blocks {
            sparse.lists_batch = step(batch, heads * blocks) as u32;
            sparse.lists_head = step(heads, blocks) as u32;
            sparse.head_lists = blocks as u32;
            sparse.list_room = room as u32;
        }
        sparse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sizes: SparseSizes) -> Result<()> {
        sizes.check(2, 2, 4, 300, false)
    }

    #[test]
    fn one_may_stand_for_all() {
        for batch in [1, 2] {
            for heads in [1, 4] {
                let ranges = Some([batch, heads]);
                assert_eq!(check(SparseSizes { ranges, ..SparseSizes::NONE }), Ok(()));
                let blocks = Some([batch, heads, 3, 5]);
                assert_eq!(check(SparseSizes { blocks, ..SparseSizes::NONE }), Ok(()));
            }
        }
        let all = SparseSizes { ranges: Some([2, 4]), blocks: Some([2, 4, 3, 5]) };
        assert_eq!(all.lengths(300), [2 * 2 * 4 * 300, 24, 120]);
        let sparse = all.params(300);
        assert_eq!((sparse.ranges_batch, sparse.ranges_head), (1200, 300));
        assert_eq!((sparse.lists_batch, sparse.lists_head), (12, 3));
        assert_eq!((sparse.head_lists, sparse.list_room), (3, 5));
        let one = SparseSizes { ranges: Some([1, 1]), blocks: Some([1, 1, 3, 5]) }.params(300);
        assert_eq!(one, Sparse { head_lists: 3, list_room: 5, ..Sparse::NONE });
    }

    #[test]
    fn sizes_are_those_of_the_problem() {
        let mismatch =
            |operand, dim, expected, found| Err(Error::ShapeMismatch { operand, dim, expected, found });
        let ranges = |sizes| check(SparseSizes { ranges: Some(sizes), ..SparseSizes::NONE });
        assert_eq!(ranges([3, 1]), mismatch(Operand::KeyRanges, Dim::Batch, 2, 3));
        assert_eq!(ranges([1, 2]), mismatch(Operand::KeyRanges, Dim::Heads, 4, 2));
        let blocks = |sizes| check(SparseSizes { blocks: Some(sizes), ..SparseSizes::NONE });
        assert_eq!(blocks([0, 1, 3, 5]), mismatch(Operand::BlockCounts, Dim::Batch, 2, 0));
        assert_eq!(blocks([1, 3, 3, 5]), mismatch(Operand::BlockCounts, Dim::Heads, 4, 3));
        assert_eq!(blocks([1, 1, 4, 5]), mismatch(Operand::BlockCounts, Dim::Queries, 3, 4));
        let (operand, dim) = (Operand::BlockCounts, Dim::Queries);
        let value = MAX_DIM + 1;
        let large = Err(Error::DimensionTooLarge { operand, dim, value, limit: MAX_DIM });
        assert_eq!(blocks([1, 1, 3, value]), large);
    }

    #[test]
    fn packed_sequences_have_as_many_blocks_as_the_mask_says() {
        let sizes = SparseSizes { blocks: Some([7, 1, 9, 2]), ..SparseSizes::NONE };
        assert_eq!(sizes.check(1, 7, 4, 300, true), Ok(()));
        let value = 7 << 40;
        let huge = SparseSizes { blocks: Some([7, 1, 1 << 40, 2]), ..SparseSizes::NONE };
        let (operand, dim) = (Operand::BlockCounts, Dim::Queries);
        let expected = Error::DimensionTooLarge { operand, dim, value, limit: MAX_DIM };
        assert_eq!(huge.check(1, 7, 4, 300, true), Err(expected));
    }

    #[test]
    fn bitmaps_become_lists() {
        let visible = [[true, false, true], [false; 3], [false, false, true]].concat();
        let (counts, lists) = block_lists(&visible, 3);
        assert_eq!((counts, lists), (vec![2, 0, 1], vec![0, 2, 0, 0, 2, 0]));
        assert_eq!(block_lists(&[], 0), (vec![], vec![]));
    }
}
