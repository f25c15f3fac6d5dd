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
    /// Consumers that take turns: each has slots of its own, every `takers`-th, since one may run ahead of the other by
    /// more than a round. 1 means that all read all of them.
    takers: u32,
    stages: u32,
    stage_bytes: u32,
    full: SmemAddr,
    empty: SmemAddr,
}

/// Where one side stands in a ring: how many slots it has passed.
#[derive(Clone, Copy)]
pub struct Cursor(u32);

impl Cursor {
    /// At the first slot.
    pub const START: Cursor = Cursor(0);

    /// At the slot of number `slots`.
    #[inline(always)]
    pub const fn at(slots: u32) -> Self {
        Cursor(slots)
    }
}

impl Ring {
    /// The ring of Q.
    #[inline(always)]
    pub fn q(base: SmemAddr, smem: &FwdSmem) -> Self {
        Ring::new(base, smem, [1, 1], smem.q, smem.q_stages, smem.q_bytes, [Barrier::QFull, Barrier::QEmpty])
    }

    /// The ring of K, shared by `cluster` CTAs, in each of which `takers` consumers take turns.
    #[inline(always)]
    pub fn k(base: SmemAddr, smem: &FwdSmem, cluster: u32, takers: u32) -> Self {
        Ring::new(
            base,
            smem,
            [cluster, takers],
            smem.k,
            smem.kv_stages,
            smem.k_bytes,
            [Barrier::KFull, Barrier::KEmpty],
        )
    }

    /// The ring of V, shared by `cluster` CTAs, in each of which `takers` consumers take turns.
    #[inline(always)]
    pub fn v(base: SmemAddr, smem: &FwdSmem, cluster: u32, takers: u32) -> Self {
        Ring::new(
            base,
            smem,
            [cluster, takers],
            smem.v,
            smem.kv_stages,
            smem.v_bytes,
            [Barrier::VFull, Barrier::VEmpty],
        )
    }

    /// The ring of biases, in which each of the `consumers` has slots of its own.
    #[inline(always)]
    pub fn bias(base: SmemAddr, smem: &FwdSmem, consumers: u32) -> Self {
        let barriers = [Barrier::BiasFull, Barrier::BiasEmpty];
        Ring::new(base, smem, [1, consumers], smem.bias, smem.bias_stages, smem.bias_bytes, barriers)
    }

    #[inline(always)]
    fn new(
        base: SmemAddr,
        smem: &FwdSmem,
        [ctas, takers]: [u32; 2],
        data: u32,
        stages: u32,
        stage_bytes: u32,
        barriers: [Barrier; 2],
    ) -> Self {
        let [full, empty] = barriers.map(|barrier| base.offset(smem.barrier(barrier, 0)));
        Ring { data: base.offset(data), ctas, takers, stages, stage_bytes, full, empty }
    }

    /// Initialises the barriers. A slot is full after one arrival (the producer's, with its bytes), and empty again
    /// after one arrival of each warp of the `consumers` that read it, of each CTA.
    ///
    /// # Safety
    /// One thread does this, once, before anybody uses the ring.
    #[inline(always)]
    pub unsafe fn init(&self, consumers: u32) {
        let mut stage = 0;
        while stage < self.stages {
            // SAFETY: the caller's.
            unsafe {
                self.barrier(self.full, Cursor(stage)).init(1);
                self.barrier(self.empty, Cursor(stage))
                    .init(self.ctas * consumers * (WARPGROUP_THREADS / 32));
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
        let full = self.barrier(self.full, *at);
        let data = self.slot(*at);
        // SAFETY: the caller's.
        unsafe {
            // The round before must have been read. A fresh barrier passes for one whose odd phase has completed.
            self.barrier(self.empty, *at).wait(self.parity(*at) ^ 1);
            if leader {
                full.arrive_expect_tx(self.stage_bytes);
            }
        }
        at.0 += 1;
        (data, full)
    }

    /// Consumer: waits until the slot has arrived, and returns it.
    ///
    /// # Safety
    /// The ring is initialised, and `at` is this consumer's cursor.
    #[inline(always)]
    pub unsafe fn wait(&self, at: Cursor) -> SmemAddr {
        // SAFETY: the caller's.
        unsafe { self.barrier(self.full, at).wait(self.parity(at)) };
        self.slot(at)
    }

    /// Consumer: this warp has read the slot; go to its next.
    ///
    /// # Safety
    /// All lanes of the warp call it together, after all their reads of the slot have completed.
    #[inline(always)]
    pub unsafe fn release(&self, at: &mut Cursor) {
        // SAFETY: the caller's.
        unsafe {
            arrive_at_all(self.barrier(self.empty, *at), self.ctas);
        }
        at.0 += self.takers;
    }

    /// Consumer: gives a slot back unread, once it was filled.
    ///
    /// # Safety
    /// As [`Self::wait`] and [`Self::release`].
    #[inline(always)]
    pub unsafe fn let_pass(&self, at: &mut Cursor) {
        // SAFETY: the caller's.
        unsafe {
            self.wait(*at);
            warp::sync_warp(); // convergent: LLVM must not unroll the loops around it
            self.release(at);
        }
    }

    /// Where the slot lies.
    #[inline(always)]
    pub fn slot(&self, at: Cursor) -> SmemAddr {
        self.data.offset(at.0 % self.stages * self.stage_bytes)
    }

    #[inline(always)]
    fn barrier(&self, first: SmemAddr, at: Cursor) -> MBarrier {
        MBarrier(first.offset(8 * (at.0 % self.stages)))
    }

    /// Parity of the phase in which the slot is filled.
    #[inline(always)]
    fn parity(&self, at: Cursor) -> u32 {
        at.0 / self.stages & 1
    }
}

/// A door that the consumers of a CTA, or of all CTAs of a cluster, open once for each work tile of which keys are
/// loaded, and the producers then pass.
#[derive(Clone, Copy)]
pub struct Gate {
    barrier: MBarrier,
    ctas: u32,
}

impl Gate {
    /// The gate of a CTA that stages O over V, in a cluster of `ctas`.
    #[inline(always)]
    pub fn new(base: SmemAddr, smem: &FwdSmem, ctas: u32) -> Self {
        Gate { barrier: MBarrier(base.offset(smem.barrier(Barrier::ORead, 0))), ctas }
    }

    /// Initialises the barrier: it opens after one arrival of each consumer warp of each CTA.
    ///
    /// # Safety
    /// As [`Ring::init`].
    #[inline(always)]
    pub unsafe fn init(&self, consumers: u32) {
        // SAFETY: the caller's.
        unsafe { self.barrier.init(self.ctas * consumers * (WARPGROUP_THREADS / 32)) };
    }

    /// Producer: waits until the gate has opened once more.
    ///
    /// # Safety
    /// The gate is initialised; `at` is the producer's cursor for it.
    #[inline(always)]
    pub unsafe fn wait(&self, at: &mut Cursor) {
        // SAFETY: the caller's.
        unsafe { self.barrier.wait(at.0 & 1) };
        at.0 += 1;
    }

    /// Consumer: as far as this warp goes, the gate may open.
    ///
    /// # Safety
    /// All lanes of the warp call it together, once between two waits of the producers.
    #[inline(always)]
    pub unsafe fn arrive(&self) {
        // SAFETY: the caller's.
        unsafe { arrive_at_all(self.barrier, self.ctas) };
    }
}

/// One arrival of this warp at `barrier` in each CTA that shares it.
///
/// # Safety
/// All lanes of the warp call it together; the barriers are initialised, of CTAs that have not exited, and expect it.
#[inline(always)]
unsafe fn arrive_at_all(barrier: MBarrier, ctas: u32) {
    // SAFETY: the caller's.
    unsafe {
        if ctas == 1 {
            if warp::elect_one() {
                barrier.arrive();
            }
        } else if warp::lane_index() < ctas {
            barrier.arrive_at(warp::lane_index());
        }
    }
}
