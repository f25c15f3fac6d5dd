//! How a device is emulated.

use flashcore_emulator::{Completion, Numerics, Options};

/// How a device is emulated. The default is an H200 that checks everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Streaming multiprocessors, which plans spread work over. Fewer make a CTA take several work tiles at small
    /// shapes.
    pub sm_count: u32,
    /// Seed of the scheduler: 0 takes warps in turn, others draw priorities.
    pub seed: u64,
    /// When asynchronous operations happen.
    pub completion: Completion,
    /// Arithmetic of tensor cores.
    pub numerics: Numerics,
    /// Whether hazards are looked for. Without, only what stops a kernel is found.
    pub checks: bool,
    /// Instructions of all warps after which a launch is given up as a livelock.
    pub instruction_limit: u64,
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        let Options { seed, completion, numerics, checks, instruction_limit, .. } = Options::default();
        let sm_count = flashcore_emulator::Limits::h200().sm_count;
        EmulatorOptions { sm_count, seed, completion, numerics, checks, instruction_limit }
    }
}

impl EmulatorOptions {
    /// What each launch is told.
    pub(super) fn of_launch(&self) -> Options {
        let Self { sm_count: _, seed, completion, numerics, checks, instruction_limit } = *self;
        // The library launches no kernel before the one ahead of it has ended.
        Options { seed, completion, numerics, checks, programmatic: false, instruction_limit }
    }
}
