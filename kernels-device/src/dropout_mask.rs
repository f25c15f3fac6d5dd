//! Writes which weights dropout keeps, for tests and for who computes attention in other ways: (batch, heads_q,
//! seqlen_q, seqlen_kv), a byte each. CTAs take rows in turn, threads take keys in turn.

use crate::entry::DROPOUT_MASK;
use crate::params::DropoutMaskParams;
use crate::ptx::{global, grid, thread};

/// The kernel.
///
/// # Safety
/// See the entry point in [`entry`](crate::entry).
#[inline(always)]
pub unsafe fn dropout_mask(p: &DropoutMaskParams) {
    // SAFETY: the host checked that there is a byte for each query and key; each is written by one thread.
    unsafe {
        grid::launch_dependents();
        grid::wait_for_previous_grid();
        let mut row = thread::block_idx_x();
        while row < p.rows {
            let (head, query) = p.queries.split(row);
            let mut key = thread::thread_idx_x();
            while key < p.keys {
                let at = p.mask + row as u64 * p.keys as u64 + key as u64;
                global::store_byte(at, p.dropout.keeps(head, query, key) as u32);
                key += DROPOUT_MASK.threads;
            }
            row += thread::grid_dim_x();
        }
    }
}
