//! What an access costs in passes over the banks of shared memory.

use crate::machine::Engine;

/// Banks of shared memory, of four bytes each.
const BANKS: usize = 32;

impl Engine<'_, '_> {
    /// Counts bytes, passes over the banks and conflicts of an access of a warp: its addresses and sizes.
    pub(super) fn count_shared(&mut self, accesses: &[(u32, u32)], write: bool) {
        if accesses.is_empty() {
            return;
        }
        let bytes = accesses.iter().map(|&(_, bytes)| u64::from(bytes)).sum::<u64>();
        let counters = &mut self.grid.counters;
        *(if write { &mut counters.shared_store_bytes } else { &mut counters.shared_load_bytes }) += bytes;
        // A warp's access goes in groups of lanes that need at most 128 bytes together.
        let group = (128 / accesses[0].1.max(4)).min(32) as usize;
        for lanes in accesses.chunks(group) {
            let mut words: Vec<u32> =
                lanes.iter().flat_map(|&(at, bytes)| at / 4..(at + bytes).div_ceil(4)).collect();
            words.sort_unstable();
            words.dedup();
            let mut banks = [0u64; BANKS];
            words.iter().for_each(|word| banks[*word as usize % BANKS] += 1);
            let passes = banks.into_iter().max().unwrap_or(0);
            counters.shared_passes += passes;
            counters.bank_conflicts += passes - (words.len() as u64).div_ceil(BANKS as u64);
        }
    }
}
