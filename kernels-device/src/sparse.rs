//! Which keys a query sees, where arrays of the launch say so: a range for each query, or a list of key tiles for each
//! tile of queries. What a [band](crate::band::Band) hides besides stays hidden.

/// Queries, and keys, of a tile of a list.
pub const LIST_TILE: u32 = 128;

/// Where the arrays of a launch lie, all of i32. Addresses are 0 where there are none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sparse {
    /// Device address of the range of each query: its first key, and the one behind its last.
    pub ranges: u64,
    /// Ranges from one sequence to the next; 0 where one serves all, or sequences are packed.
    pub ranges_batch: u64,
    /// Ranges from one query head to the next; 0 where one serves all.
    pub ranges_head: u64,
    /// Device address of the number of key tiles in each list.
    pub counts: u64,
    /// Device address of the lists: numbers of key tiles of [`LIST_TILE`] keys, in any order, none of them twice.
    pub lists: u64,
    /// Lists from one sequence to the next; 0 where one serves all.
    pub lists_batch: u32,
    /// Lists from one query head to the next; 0 where one serves all.
    pub lists_head: u32,
    /// Lists of a head, one for each tile of queries; beyond them no key is seen.
    pub head_lists: u32,
    /// Room for key tiles in each list.
    pub list_room: u32,
}

const _: () = assert!(size_of::<Sparse>() == 5 * 8 + 4 * 4);

impl Sparse {
    /// Nothing hidden.
    pub const NONE: Sparse = Sparse {
        ranges: 0,
        ranges_batch: 0,
        ranges_head: 0,
        counts: 0,
        lists: 0,
        lists_batch: 0,
        lists_head: 0,
        head_lists: 0,
        list_room: 0,
    };
}
