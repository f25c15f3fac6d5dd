//! A ring of tiles in shared memory between the producer and the consumers: the one place where stage and phase of a
//! barrier are reckoned.

use crate::config::{Variant, WARPGROUP_THREADS};
use crate::layout::Barrier;
use crate::ptx::mbarrier::MBarrier;
use crate::ptx::smem::SmemAddr;
use crate::ptx::warp;

/// `STAGES` slots of `stage_bytes`, each with a barrier for "has arrived" and one for "may be overwritten".
///
/// Both sides walk through the slots in the same order, each with a [`Cursor`].
#[derive(Clone, Copy)]
pub struct Ring<const STAGES: u32> {
    data: SmemAddr,
    stage_bytes: u32,
    full: SmemAddr,
    empty: SmemAddr,
}

/// Where one side stands in a ring: the slot, and the parity of the phase that it waits for there.
#[derive(Clone, Copy)]
pub struct Cursor {
    stage: u32,
    parity: u32,
}

impl Cursor {
    /// The producer finds every slot free: a fresh barrier passes for one whose odd phase has completed.
    pub const PRODUCER: Cursor = Cursor { stage: 0, parity: 1 };
    /// The consumer waits for the first arrival.
    pub const CONSUMER: Cursor = Cursor { stage: 0, parity: 0 };
}

impl<const STAGES: u32> Ring<STAGES> {
    /// The ring at `data`, whose barriers are `full` and `empty` (of stage 0) in the layout of `variant`.
    #[inline(always)]
    pub fn new(
        base: SmemAddr,
        variant: &Variant,
        data: u32,
        stage_bytes: u32,
        full: Barrier,
        empty: Barrier,
    ) -> Self {
        let smem = variant.smem();
        Ring {
            data: base.offset(data),
            stage_bytes,
            full: base.offset(smem.barrier(full, 0, variant.tile.stages)),
            empty: base.offset(smem.barrier(empty, 0, variant.tile.stages)),
        }
    }

    /// Initialises the barriers. A slot is full after one arrival (the producer's, with its bytes), and empty again
    /// after one arrival of each consumer warp.
    ///
    /// # Safety
    /// One thread does this, once, before anybody uses the ring.
    #[inline(always)]
    pub unsafe fn init(&self, consumers: u32) {
        let mut stage = 0;
        while stage < STAGES {
            // SAFETY: the caller's.
            unsafe {
                self.barrier(self.full, stage).init(1);
                self.barrier(self.empty, stage).init(consumers * (WARPGROUP_THREADS / 32));
            }
            stage += 1;
        }
    }

    /// Producer: waits until the slot is free, announces the bytes of a stage, and returns where they go and what
    /// counts them.
    ///
    /// # Safety
    /// Only the producer warp calls it, with its one cursor; exactly one lane is the `leader`, which then copies
    /// exactly a stage.
    #[inline(always)]
    pub unsafe fn acquire(&self, at: &mut Cursor, leader: bool) -> (SmemAddr, MBarrier) {
        let full = self.barrier(self.full, at.stage);
        let data = self.slot(*at);
        // SAFETY: the caller's.
        unsafe {
            self.barrier(self.empty, at.stage).wait(at.parity);
            if leader {
                full.arrive_expect_tx(self.stage_bytes);
            }
        }
        self.advance(at);
        (data, full)
    }

    /// Consumer: waits until the slot has arrived, and returns it.
    ///
    /// # Safety
    /// The ring is initialised, and `at` is this consumer's cursor.
    #[inline(always)]
    pub unsafe fn wait(&self, at: Cursor) -> SmemAddr {
        // SAFETY: the caller's.
        unsafe { self.barrier(self.full, at.stage).wait(at.parity) };
        self.slot(at)
    }

    /// Consumer: this warp has read the slot; go to the next.
    ///
    /// # Safety
    /// All lanes of the warp call it together, after all their reads of the slot have completed.
    #[inline(always)]
    pub unsafe fn release(&self, at: &mut Cursor) {
        // SAFETY: the caller's.
        unsafe {
            if warp::elect_one() {
                self.barrier(self.empty, at.stage).arrive();
            }
        }
        self.advance(at);
    }

    #[inline(always)]
    fn slot(&self, at: Cursor) -> SmemAddr {
        self.data.offset(at.stage * self.stage_bytes)
    }

    #[inline(always)]
    fn barrier(&self, first: SmemAddr, stage: u32) -> MBarrier {
        MBarrier(first.offset(8 * stage))
    }

    #[inline(always)]
    fn advance(&self, at: &mut Cursor) {
        at.stage += 1;
        if at.stage == STAGES {
            at.stage = 0;
            at.parity ^= 1;
        }
    }
}
