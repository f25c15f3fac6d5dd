//! What is looked up in the arrays of a [`Sparse`] launch.

use crate::band::{Lengths, UNLIMITED};
use crate::config::Variant;
use crate::params::FwdParams;
use crate::ptx::{global, warp};
use crate::schedule::{KeyBlocks, WorkTile};
use crate::sparse::{LIST_TILE, Sparse};

impl Sparse {
    /// The keys, from the first to before the second, that the range of a query of this work tile has.
    #[inline(always)]
    fn range(&self, tile: WorkTile, query: u32) -> [i32; 2] {
        if self.ranges == 0 {
            return [0, UNLIMITED];
        }
        let index = u64::from(tile.batch) * self.ranges_batch
            + u64::from(tile.head) * self.ranges_head
            + u64::from(tile.q.start + query);
        // SAFETY: the host vouches for a range of each query.
        [0, 4].map(|word| unsafe { global::load_public(self.ranges + 8 * index + word) } as i32)
    }

    /// Which list is that of a work tile.
    #[inline(always)]
    fn list_index(&self, tile: WorkTile) -> u64 {
        u64::from(tile.batch * self.lists_batch + tile.head * self.lists_head + tile.m_block)
    }

    /// How many key tiles are listed for a work tile.
    #[inline(always)]
    fn count(&self, tile: WorkTile) -> u32 {
        if tile.m_block >= self.head_lists {
            return 0;
        }
        // SAFETY: the host vouches for a number for each list.
        let count = unsafe { global::load_public(self.counts + 4 * self.list_index(tile)) } as i32;
        count.max(0).min(self.list_room as i32) as u32
    }
}

/// The keys that query `query` of a work tile sees, from the first to before the second; none if that is not above the
/// first.
#[inline(always)]
pub fn keys(params: &FwdParams, tile: WorkTile, query: u32, lengths: Lengths) -> [i32; 2] {
    // Queries that pad a tile are as the last one.
    let query = query.min(lengths.q - 1);
    let [first, end] = params.general.band.keys(query, lengths);
    let [range_first, range_end] = params.general.sparse.range(tile, query);
    [first.max(range_first), end.min(range_end)]
}

/// The key tiles of a work tile, from the first to the last of which any of its queries sees something: by their places
/// in its list, or by number. All need a mask: whether one hides anything turns out where it is visited.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
pub unsafe fn key_blocks(params: &FwdParams, v: &Variant, tile: WorkTile, lengths: Lengths) -> KeyBlocks {
    let sparse = &params.general.sparse;
    let block_n = v.tile.block_n;
    let first_row = tile.m_block * v.tile.block_m;
    if first_row >= lengths.q {
        return KeyBlocks::NONE;
    }
    let [mut first, mut end] = [i32::MAX, 0];
    let mut row = first_row + warp::lane_index();
    while row < first_row + v.tile.block_m {
        let [row_first, row_end] = keys(params, tile, row, lengths);
        if row_first < row_end {
            first = first.min(row_first);
            end = end.max(row_end);
        }
        row += warp::LANES;
    }
    // SAFETY: the caller's.
    let [first, end] = unsafe { [warp::least(first) as u32, warp::greatest(end) as u32] };
    if first >= end {
        return KeyBlocks::NONE;
    }
    if sparse.counts == 0 {
        return KeyBlocks { first: first / block_n, end: end.div_ceil(block_n), ..KeyBlocks::NONE };
    }
    let (list, count) = (List::of(params, v, tile), sparse.count(tile));
    let [mut from, mut to] = [i32::MAX, 0];
    let mut place = warp::lane_index();
    while place < count {
        let key = list.tile(place) * LIST_TILE;
        if key < end && key + LIST_TILE > first {
            from = from.min(place as i32);
            to = to.max(place as i32 + 1);
        }
        place += warp::LANES;
    }
    // SAFETY: the caller's.
    let [from, to] = unsafe { [warp::least(from) as u32, warp::greatest(to) as u32] };
    let parts = LIST_TILE / block_n;
    KeyBlocks { first: from.min(to) * parts, end: to * parts, ..KeyBlocks::NONE }
}

/// The key tiles of a work tile, as [`key_blocks`] counts them.
#[derive(Clone, Copy)]
pub struct List {
    /// Whether there is one; else they are those of that number.
    exists: bool,
    /// Device address.
    at: u64,
}

impl List {
    /// That of a work tile.
    #[inline(always)]
    pub fn of(params: &FwdParams, v: &Variant, tile: WorkTile) -> Self {
        let sparse = &params.general.sparse;
        if !v.is_sparse() {
            return List { exists: false, at: 0 };
        }
        let at = sparse.lists + 4 * sparse.list_index(tile) * u64::from(sparse.list_room);
        List { exists: sparse.counts != 0, at }
    }

    /// The key tile of `block_n` keys at place `at`.
    #[inline(always)]
    pub fn key_block(self, v: &Variant, at: u32) -> u32 {
        if !self.exists {
            return at;
        }
        let parts = LIST_TILE / v.tile.block_n;
        self.tile(at / parts) * parts + at % parts
    }

    /// The tile of [`LIST_TILE`] keys at a place of the list.
    #[inline(always)]
    fn tile(self, place: u32) -> u32 {
        // SAFETY: the host vouches for as many key tiles as a list has room for, and this is one of them.
        let listed = unsafe { global::load_public(self.at + 4 * u64::from(place)) };
        // Beyond all keys nothing is seen, whatever the number is.
        listed.min(UNLIMITED as u32 / LIST_TILE)
    }
}
