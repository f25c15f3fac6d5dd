//! mbarrier objects: phases that complete when enough arrivals *and* enough bytes have come (ISA 9.7.13.15).

use core::arch::asm;

use super::smem::SmemAddr;

/// An mbarrier: eight bytes of shared memory that only these functions touch.
#[derive(Clone, Copy)]
pub struct MBarrier(pub SmemAddr);

impl MBarrier {
    /// `mbarrier.init.shared::cta.b64`: phase 0, `arrivals` expected in each phase.
    ///
    /// # Safety
    /// One thread does this once, on 8-byte-aligned memory that is no live mbarrier; other threads use it only after
    /// [`fence_init`] and a barrier.
    #[inline(always)]
    pub unsafe fn init(self, arrivals: u32) {
        // SAFETY: the caller's.
        unsafe {
            asm!("mbarrier.init.shared::cta.b64 [{0}], {1};", in(reg32) self.0.0, in(reg32) arrivals, options(nostack))
        }
    }

    /// `mbarrier.arrive.shared::cta.b64`: one arrival; what this thread did before is visible to who waits.
    ///
    /// # Safety
    /// The barrier is initialised and still expects an arrival in this phase.
    #[inline(always)]
    pub unsafe fn arrive(self) {
        // SAFETY: the caller's.
        unsafe { asm!("mbarrier.arrive.shared::cta.b64 _, [{0}];", in(reg32) self.0.0, options(nostack)) }
    }

    /// `mbarrier.arrive.expect_tx.shared::cta.b64`: expect `bytes` more in this phase, and arrive.
    ///
    /// # Safety
    /// As [`Self::arrive`]; asynchronous copies of exactly `bytes` signal this barrier in this phase.
    #[inline(always)]
    pub unsafe fn arrive_expect_tx(self, bytes: u32) {
        // SAFETY: the caller's.
        unsafe {
            asm!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [{0}], {1};", in(reg32) self.0.0, in(reg32) bytes,
                options(nostack))
        }
    }

    /// `mbarrier.arrive.shared::cluster.b64` on the same barrier of CTA `rank` of the cluster, this one or another.
    ///
    /// Its release has the scope of this CTA: it says "I have read", not "I have written". With the scope of the
    /// cluster ptxas puts a fence of the whole GPU before it, which in a main loop costs a fifth of the speed.
    ///
    /// # Safety
    /// As [`Self::arrive`], for the barrier of that CTA, which has not exited; that CTA does not read what this thread
    /// wrote on the strength of it.
    #[inline(always)]
    pub unsafe fn arrive_at(self, rank: u32) {
        let remote = super::cluster::map_shared(self.0, rank);
        // SAFETY: the caller's.
        unsafe { asm!("mbarrier.arrive.shared::cluster.b64 _, [{0}];", in(reg32) remote, options(nostack)) }
    }

    /// `mbarrier.try_wait.parity.shared::cta.b64`: whether the phase of parity `parity` has completed; may suspend
    /// the thread for a while first. On a fresh barrier parity 1 counts as completed.
    ///
    /// # Safety
    /// The barrier is initialised.
    #[inline(always)]
    pub unsafe fn try_wait(self, parity: u32) -> bool {
        let done: u32;
        // SAFETY: the caller's.
        unsafe {
            asm!("{{", ".reg .pred p;", "mbarrier.try_wait.parity.shared::cta.b64 p, [{1}], {2};",
                "selp.u32 {0}, 1, 0, p;", "}}",
                out(reg32) done, in(reg32) self.0.0, in(reg32) parity, options(nostack))
        }
        done != 0
    }

    /// Waits until the phase of parity `parity` has completed.
    ///
    /// # Safety
    /// As [`Self::try_wait`]; somebody completes that phase.
    #[inline(always)]
    pub unsafe fn wait(self, parity: u32) {
        // SAFETY: the caller's.
        while !unsafe { self.try_wait(parity) } {}
    }
}

/// `fence.mbarrier_init.release.cluster` (ISA 9.7.13.4): makes [`MBarrier::init`] visible to the async proxy and to
/// the cluster, once followed by a barrier.
#[inline(always)]
pub fn fence_init() {
    // SAFETY: a fence has no precondition.
    unsafe { asm!("fence.mbarrier_init.release.cluster;", options(nostack)) }
}
