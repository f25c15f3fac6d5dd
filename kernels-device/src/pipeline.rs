//! A ring of tiles in shared memory between the producer and the consumers: the one place where stage and phase of a
//! barrier are reckoned.

use crate::config::WARPGROUP_THREADS;
use crate::layout::{Barrier, FwdSmem};
use crate::ptx::mbarrier::MBarrier;
use crate::ptx::smem::SmemAddr;
use crate::ptx::warp;

/// `stages` slots of `stage_bytes`, each with a barrier for "has arrived" and one for "may be overwritten".
///
/// Both sides walk through the slots in the same order, each with a [`Cursor`].
///
/// A ring may be shared by the CTAs of a cluster: each has its own slots and barriers, every slot is filled by all of
/// them together, a part each, and is free when the consumers of all of them are done with theirs.
#[derive(Clone, Copy)]
pub struct Ring {
    data: SmemAddr,
    /// CTAs that share the ring.
    ctas: u32,
    stages: u32,
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

impl Ring {
    /// The ring of Q.
    #[inline(always)]
    pub fn q(base: SmemAddr, smem: &FwdSmem) -> Self {
        Ring::new(base, smem, 1, smem.q, smem.q_stages, smem.q_bytes, [Barrier::QFull, Barrier::QEmpty])
    }

    /// The ring of K, shared by `cluster` CTAs.
    #[inline(always)]
    pub fn k(base: SmemAddr, smem: &FwdSmem, cluster: u32) -> Self {
        Ring::new(
            base,
            smem,
            cluster,
            smem.k,
            smem.kv_stages,
            smem.kv_bytes,
            [Barrier::KFull, Barrier::KEmpty],
        )
    }

    /// The ring of V, shared by `cluster` CTAs.
    #[inline(always)]
    pub fn v(base: SmemAddr, smem: &FwdSmem, cluster: u32) -> Self {
        Ring::new(
            base,
            smem,
            cluster,
            smem.v,
            smem.kv_stages,
            smem.kv_bytes,
            [Barrier::VFull, Barrier::VEmpty],
        )
    }

    #[inline(always)]
    fn new(
        base: SmemAddr,
        smem: &FwdSmem,
        ctas: u32,
        data: u32,
        stages: u32,
        stage_bytes: u32,
        barriers: [Barrier; 2],
    ) -> Self {
        let [full, empty] = barriers.map(|barrier| base.offset(smem.barrier(barrier, 0)));
        Ring { data: base.offset(data), ctas, stages, stage_bytes, full, empty }
    }

    /// Initialises the barriers. A slot is full after one arrival (the producer's, with its bytes), and empty again
    /// after one arrival of each consumer warp of each CTA.
    ///
    /// # Safety
    /// One thread does this, once, before anybody uses the ring.
    #[inline(always)]
    pub unsafe fn init(&self, consumers: u32) {
        let mut stage = 0;
        while stage < self.stages {
            // SAFETY: the caller's.
            unsafe {
                self.barrier(self.full, stage).init(1);
                self.barrier(self.empty, stage).init(self.ctas * consumers * (WARPGROUP_THREADS / 32));
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
            let empty = self.barrier(self.empty, at.stage);
            if self.ctas == 1 {
                if warp::elect_one() {
                    empty.arrive();
                }
            } else if warp::lane_index() < self.ctas {
                empty.arrive_at(warp::lane_index());
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
        if at.stage == self.stages {
            at.stage = 0;
            at.parity ^= 1;
        }
    }
}
