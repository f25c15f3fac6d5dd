//! A warp.

use std::collections::BTreeMap;

use crate::hazard::View;
use crate::ir::RegisterCounts;

use super::copy::CopyGroups;
use super::product::Products;
use super::registers::RegisterFile;
use super::splits::Splits;

/// A warp: registers, where its lanes are, and what they know.
pub(crate) struct Warp {
    /// Its number in the grid.
    pub(crate) id: u32,
    /// Rank of its CTA.
    pub(crate) cta: usize,
    /// Its number in the CTA.
    pub(crate) index: u32,
    pub(crate) registers: RegisterFile,
    pub(crate) splits: Splits,
    /// Instructions it has executed: the time of its accesses.
    pub(crate) time: u32,
    /// What all of its lanes know.
    pub(crate) common: View,
    /// What single lanes know beyond.
    pub(crate) private: BTreeMap<u32, View>,
    /// Up to when each lane's accesses to shared memory are covered by its own proxy fences.
    pub(crate) fenced_shared: [u32; 32],
    /// The same for global memory.
    pub(crate) fenced_global: [u32; 32],
    /// When each lane last executed a memory fence: up to there a relaxed write releases.
    pub(crate) released: [u32; 32],
    /// What relaxed reads have seen released; known after the next memory fence.
    pub(crate) pending_acquire: Option<View>,
    pub(crate) products: Products,
    /// Bulk copies of each lane that has any.
    pub(crate) copies: BTreeMap<u32, CopyGroups>,
    /// Bulk copies so far.
    pub(crate) copy_count: u32,
    /// Generations of the cluster barrier that had ended when it last waited for one.
    pub(crate) cluster_generation: u64,
    /// Polls of memory since it last did something that others could see.
    pub(crate) polls: u32,
    /// Registers of a thread, as setmaxnreg left them.
    pub(crate) register_limit: u32,
    /// Its setmaxnreg instructions so far.
    pub(crate) register_changes: Vec<u32>,
}

impl Warp {
    pub(crate) fn new(
        id: u32,
        cta: usize,
        index: u32,
        threads: u32,
        register_limit: u32,
        registers: RegisterCounts,
        nothing: &View,
    ) -> Self {
        let live = u32::MAX >> (32 - threads);
        Warp {
            id,
            cta,
            index,
            registers: RegisterFile::new(registers),
            splits: Splits::new(live),
            time: 0,
            common: nothing.clone(),
            private: BTreeMap::new(),
            fenced_shared: [0; 32],
            fenced_global: [0; 32],
            released: [0; 32],
            pending_acquire: None,
            products: Products::new(registers.narrow),
            copies: BTreeMap::new(),
            copy_count: 0,
            cluster_generation: 0,
            polls: 0,
            register_limit,
            register_changes: Vec::new(),
        }
    }

    /// Whether a part of it does not wait.
    pub(crate) fn can_run(&self) -> bool {
        self.splits.list.iter().any(|split| split.wait.is_none())
    }
}
