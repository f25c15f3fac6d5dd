//! Global memory: allocations far apart, so that an address says which one it means.

use std::collections::BTreeMap;

use crate::hazard::Shadow;

/// Address of the first allocation, and distance between them.
const FIRST: u64 = 0x10_0000_0000;
const SPACING: u64 = 1 << 32;
/// What uninitialised memory holds.
const POISON: u8 = 0xA5;

/// An allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) data: Vec<u8>,
    pub(crate) shadow: Shadow,
}

/// Global memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    allocations: BTreeMap<u64, Allocation>,
    slots: u64,
    /// Bytes that are allocated.
    pub(crate) used: u64,
}

impl Memory {
    /// Allocates memory that holds poison, if the host has as much. Addresses are never used again.
    pub(crate) fn alloc(&mut self, bytes: usize) -> Option<u64> {
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).ok()?;
        data.resize(bytes, POISON);
        let shadow = Shadow::of_global(bytes)?;
        let address = FIRST + self.slots * SPACING;
        // A size beyond the spacing takes several slots; one more is a guard.
        self.slots +=
            (bytes as u64).div_ceil(SPACING).max(1) + u64::from((bytes as u64).is_multiple_of(SPACING));
        let allocation = Allocation { data, shadow };
        self.allocations.insert(address, allocation);
        self.used += bytes as u64;
        Some(address)
    }

    /// Frees an allocation by its first address.
    pub(crate) fn free(&mut self, address: u64) -> Option<()> {
        let allocation = self.allocations.remove(&address)?;
        self.used -= allocation.data.len() as u64;
        Some(())
    }

    /// The allocation that holds all of these bytes, and where in it they start.
    pub(crate) fn find(&self, address: u64, bytes: u64) -> Option<(&Allocation, usize)> {
        let (start, allocation) = self.allocations.range(..=address).next_back()?;
        let at = address - start;
        (at.checked_add(bytes)? <= allocation.data.len() as u64).then_some((allocation, at as usize))
    }

    /// The same, to write.
    pub(crate) fn find_mut(&mut self, address: u64, bytes: u64) -> Option<(&mut Allocation, usize)> {
        let (start, allocation) = self.allocations.range_mut(..=address).next_back()?;
        let at = address - start;
        (at.checked_add(bytes)? <= allocation.data.len() as u64).then_some((allocation, at as usize))
    }

    /// Forgets who did what, between launches; if they overlap, what was written is remembered.
    pub(crate) fn forget(&mut self, overlap: bool) {
        self.allocations.values_mut().for_each(|allocation| allocation.shadow.forget(overlap));
    }
}

/// Splits `bytes` bytes at `at` into (chunk, bytes of the chunk).
pub(crate) fn chunks(at: usize, bytes: usize) -> impl Iterator<Item = (usize, u16)> {
    let end = at + bytes;
    (at / 16..end.div_ceil(16)).map(move |chunk| {
        let from = at.saturating_sub(chunk * 16);
        let to = (end - chunk * 16).min(16);
        (chunk, ((((1u32 << to) - 1) >> from) << from) as u16)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_finds_its_allocation() {
        let mut memory = Memory::default();
        let (a, b) = (memory.alloc(100).unwrap(), memory.alloc(16).unwrap());
        assert!(a.is_multiple_of(256) && b.is_multiple_of(256));
        assert_eq!(memory.find(a + 90, 10).map(|(_, at)| at), Some(90));
        assert!(
            memory.find(a + 90, 11).is_none()
                && memory.find(a - 1, 1).is_none()
                && memory.find(b, u64::MAX).is_none()
        );
        assert_eq!(memory.used, 116);
        assert!(memory.free(a).is_some() && memory.free(a).is_none() && memory.find(a, 1).is_none());
    }

    #[test]
    fn bytes_split_into_chunks() {
        assert_eq!(chunks(14, 4).collect::<Vec<_>>(), [(0, 0xC000), (1, 0x0003)]);
        assert_eq!(chunks(16, 16).collect::<Vec<_>>(), [(1, 0xFFFF)]);
        assert_eq!(chunks(5, 2).collect::<Vec<_>>(), [(0, 0x60)]);
    }
}
