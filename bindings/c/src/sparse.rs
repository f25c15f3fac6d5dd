//! Which keys a query sees, where arrays say so: ranges of keys, and block masks.

use std::ptr::null;
use std::{iter, slice};

use flashcore::{ArrayView, BlockMask, Dim, Error, KeyRanges, MAX_DIM, Operand};

use crate::attention::array;
use crate::call::{call, required};
use crate::status::fc_status;

/// A range of keys for each query: pairs of the first key and the one behind the last, contiguous (batch, heads, queries,
/// 2), in device memory. A range may be empty; what lies beyond the sequence is ignored. Kernels visit the keys from the
/// first to the last that any of 128 queries sees.
///
/// Where sequences of queries are packed, ranges are those of the rows of q, and count keys from the start of the
/// sequence. Ranges and block masks go with all else that says which keys a query sees, and with sinks; not with a
/// softcap, slopes, a bias or dropout.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fc_key_ranges {
    /// Device address of the first number, a multiple of 4 bytes. Null: there are no ranges, and the rest is ignored.
    pub data: *const i32,
    /// Sequences that have ranges: the batch of q, or 1, which serves all.
    pub batch: usize,
    /// Heads that have ranges: those of q, or 1, which serves all.
    pub heads: usize,
    /// The seqlen of q.
    pub queries: usize,
}

/// Which blocks of 128 queries and 128 keys are visited at all: for each block of queries a list of blocks of keys, in any
/// order, none of them twice. They are the `kv_num_blocks` and `kv_indices` of PyTorch's FlexAttention, in device memory.
/// `fc_block_lists` makes them of a bitmap.
///
/// Where sequences of queries are packed, blocks are those of each sequence, and one beyond the lists sees nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fc_block_mask {
    /// Device address of the lengths of the lists, contiguous (batch, heads, query_blocks), a multiple of 4 bytes. Null:
    /// there is no block mask, and the rest is ignored.
    pub kv_num_blocks: *const i32,
    /// Device address of the lists, contiguous (batch, heads, query_blocks, room), a multiple of 4 bytes. What a list holds
    /// beyond its length is never looked at; blocks that it lists beyond the keys are ignored.
    pub kv_indices: *const i32,
    /// Sequences that have lists: all, or 1, which serves all.
    pub batch: usize,
    /// Heads that have lists: those of q, or 1, which serves all.
    pub heads: usize,
    /// Blocks of queries: the seqlen of q / 128, rounded up; any number where sequences of queries are packed.
    pub query_blocks: usize,
    /// Room for blocks of keys in each list.
    pub room: usize,
}

/// The product of sizes. Where it overflows it is too large in any case.
fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product, &size| product.saturating_mul(size))
}

impl fc_key_ranges {
    pub(crate) const NONE: Self = fc_key_ranges { data: null(), batch: 0, heads: 0, queries: 0 };

    /// # Safety
    /// As [`ArrayView::from_raw_parts`], for as many numbers as the sizes say.
    pub(crate) unsafe fn view(&self) -> Option<KeyRanges<'static>> {
        let &fc_key_ranges { data, batch, heads, queries } = self;
        // SAFETY: the caller's.
        let numbers = unsafe { array(data, product(&[batch, heads, queries, 2])) };
        numbers.map(|numbers| KeyRanges::new(numbers, [batch, heads]))
    }
}

impl fc_block_mask {
    pub(crate) const NONE: Self = fc_block_mask {
        kv_num_blocks: null(),
        kv_indices: null(),
        batch: 0,
        heads: 0,
        query_blocks: 0,
        room: 0,
    };

    /// # Safety
    /// As [`ArrayView::from_raw_parts`], for as many numbers as the sizes say.
    pub(crate) unsafe fn view(&self) -> Option<BlockMask<'static>> {
        let sizes = [self.batch, self.heads, self.query_blocks, self.room];
        // SAFETY: the caller's.
        let counts = unsafe { array(self.kv_num_blocks, product(&sizes[..3])) };
        let address = self.kv_indices.addr() as u64;
        // SAFETY: as above; where there is room for blocks, null is refused like any wrong address.
        let lists = unsafe { ArrayView::from_raw_parts(address, product(&sizes)) };
        counts.map(|counts| BlockMask::new(counts, lists, sizes))
    }
}

/// Makes the lists of a block mask of a bitmap, all in host memory: `visible` is contiguous (rows, key_blocks), a row for
/// each block of queries of each head and sequence, and a byte of it is 0 where a block is hidden. `kv_num_blocks` gets as
/// many numbers as there are rows, `kv_indices` one for each byte: what `fc_block_mask` calls room is `key_blocks`. Lists
/// are in rising order, and zeros stand behind them.
///
/// # Safety
/// Each pointer must be null, which is an error unless there is nothing to read or write, or point to so many bytes or
/// numbers; outputs must overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fc_block_lists(
    visible: *const u8,
    rows: usize,
    key_blocks: usize,
    kv_num_blocks: *mut i32,
    kv_indices: *mut i32,
) -> fc_status {
    call(|| {
        let (counts, lists) = (Operand::BlockCounts, Operand::BlockIndices);
        for (operand, dim, value) in [(counts, Dim::Queries, rows), (lists, Dim::Keys, key_blocks)] {
            if value > MAX_DIM {
                return Err(Error::DimensionTooLarge { operand, dim, value, limit: MAX_DIM }.into());
            }
        }
        if rows > 0 {
            required(kv_num_blocks.cast_const(), "kv_num_blocks")?;
        }
        // No overflow: both are below 2^31.
        let blocks = rows * key_blocks;
        let mut bitmap: &[u8] = &[];
        if blocks > 0 {
            required(visible, "visible")?;
            required(kv_indices.cast_const(), "kv_indices")?;
            // SAFETY: not null, and the caller vouches for so many bytes.
            bitmap = unsafe { slice::from_raw_parts(visible, blocks) };
        }
        for row in 0..rows {
            let seen = &bitmap[row * key_blocks..][..key_blocks];
            let list = (0..).zip(seen).filter(|&(_, &byte)| byte != 0).map(|(block, _)| block);
            let padded = list.clone().chain(iter::repeat(0)).take(key_blocks);
            // SAFETY: not null, and the caller vouches for a number for each row, and for each block of it.
            unsafe {
                kv_num_blocks.add(row).write_unaligned(list.count() as i32);
                for (i, block) in padded.enumerate() {
                    kv_indices.add(row * key_blocks + i).write_unaligned(block);
                }
            }
        }
        Ok(())
    })
}
