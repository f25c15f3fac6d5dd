//! Bulk copies of boxes of a tensor by the TMA unit (ISA 9.7.9.27), and the proxy fence they need.
//!
//! Coordinates are elements, innermost dimension first; a box may reach outside of the tensor: loads fill with
//! zeros, stores skip. The bytes of a whole box are always counted. The innermost coordinate must be a multiple of 16
//! bytes, which the ISA does not say: an H200 takes anything else for an illegal instruction. Stores clip rows to whole
//! chunks of 16 bytes: where a row of the tensor ends inside of one, the rest of the chunk is written too.
//!
//! In shared memory the rows of a box follow each other without gaps; with a swizzle they lie one swizzle width apart,
//! however narrow they are.

use core::arch::asm;

use super::mbarrier::MBarrier;
use super::smem::SmemAddr;

/// Address of a [`TensorMap`](crate::params::TensorMap), in the generic window.
#[derive(Clone, Copy)]
pub struct TensorMapRef(pub u64);

/// The address of parameter `$index` of the entry point `$symbol` itself.
///
/// Taking `&parameter` in Rust would copy it to local memory, where the TMA unit must not find it.
#[doc(hidden)]
#[macro_export]
macro_rules! param_address {
    ($symbol:ident, $index:literal) => {{
        let address: u64;
        // SAFETY: takes the address of a kernel parameter, which is constant memory for the whole launch.
        unsafe {
            core::arch::asm!(
                concat!("mov.b64 {0}, ", stringify!($symbol), "_param_", $index, ";"),
                "cvta.param.u64 {0}, {0};",
                out(reg64) address, options(pure, nomem, nostack)
            )
        };
        $crate::ptx::tma::TensorMapRef(address)
    }};
}

/// How long L2 should keep what a load brings (`createpolicy` words, as CUTLASS `TMA::CacheHintSm90` has them).
#[derive(Clone, Copy)]
#[repr(u64)]
pub enum CacheHint {
    /// No preference.
    Normal = 0x1000_0000_0000_0000,
    /// Read once: evict first.
    First = 0x12F0_0000_0000_0000,
    /// Read by many CTAs: evict last.
    Last = 0x14F0_0000_0000_0000,
}

macro_rules! tma_rank {
    ($rank:literal, $load:ident, $multicast:ident, $store:ident, $prefetch:ident, $c0:literal $($c:literal)*) => {
        #[doc = concat!("`cp.async.bulk.tensor.", $rank, "d.shared::cluster.global.mbarrier::complete_tx::bytes`: ")]
        #[doc = "loads the box at `coordinates`; its bytes are counted by `barrier`."]
        ///
        /// # Safety
        /// `map` is a tensor map of this rank; `dst` has room for its box and the alignment of its swizzle, and is
        /// free; `barrier` expects the bytes.
        #[inline(always)]
        pub unsafe fn $load(
            dst: SmemAddr, map: TensorMapRef, barrier: MBarrier, coordinates: [i32; $rank], hint: CacheHint,
        ) {
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    concat!(
                        "cp.async.bulk.tensor.", $rank, "d.shared::cluster.global.mbarrier::complete_tx::bytes",
                        ".L2::cache_hint [{dst}], [{map}, {{{", $c0, "}", $(", {", $c, "}",)* "}}], [{bar}], {hint};"
                    ),
                    in(reg32) coordinates[$c0], $(in(reg32) coordinates[$c],)*
                    dst = in(reg32) dst.0, map = in(reg64) map.0, bar = in(reg32) barrier.0.0,
                    hint = in(reg64) hint as u64, options(nostack)
                )
            }
        }

        #[doc = concat!("`cp.async.bulk.tensor.", $rank, "d.shared::cluster.global...multicast::cluster`: ")]
        #[doc = "loads the box once into every CTA whose bit is set in `ctas`, at the same offsets of data and barrier."]
        ///
        /// # Safety
        /// As the load without multicast, in each of those CTAs.
        #[inline(always)]
        pub unsafe fn $multicast(
            dst: SmemAddr, map: TensorMapRef, barrier: MBarrier, coordinates: [i32; $rank], ctas: u16, hint: CacheHint,
        ) {
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    concat!(
                        "cp.async.bulk.tensor.", $rank, "d.shared::cluster.global.mbarrier::complete_tx::bytes",
                        ".multicast::cluster.L2::cache_hint [{dst}], [{map}, {{{", $c0, "}", $(", {", $c, "}",)*
                        "}}], [{bar}], {ctas}, {hint};"
                    ),
                    in(reg32) coordinates[$c0], $(in(reg32) coordinates[$c],)*
                    dst = in(reg32) dst.0, map = in(reg64) map.0, bar = in(reg32) barrier.0.0,
                    ctas = in(reg16) ctas, hint = in(reg64) hint as u64, options(nostack)
                )
            }
        }

        #[doc = concat!("`cp.async.bulk.tensor.", $rank, "d.global.shared::cta.bulk_group`: ")]
        #[doc = "stores the box at `coordinates`, as part of this thread's open bulk group."]
        ///
        /// # Safety
        /// `map` is a tensor map of this rank and `src` a written box, made visible by [`fence_async_shared`]; it is
        /// not written again before [`wait_read`]. Coordinates are not negative.
        #[inline(always)]
        pub unsafe fn $store(map: TensorMapRef, src: SmemAddr, coordinates: [i32; $rank]) {
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    concat!(
                        "cp.async.bulk.tensor.", $rank, "d.global.shared::cta.bulk_group [{map}, {{{", $c0, "}",
                        $(", {", $c, "}",)* "}}], [{src}];"
                    ),
                    in(reg32) coordinates[$c0], $(in(reg32) coordinates[$c],)*
                    map = in(reg64) map.0, src = in(reg32) src.0, options(nostack)
                )
            }
        }

        #[doc = concat!("`cp.async.bulk.prefetch.tensor.", $rank, "d.L2.global`: brings the box to L2.")]
        ///
        /// # Safety
        /// `map` is a tensor map of this rank.
        #[inline(always)]
        pub unsafe fn $prefetch(map: TensorMapRef, coordinates: [i32; $rank]) {
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    concat!(
                        "cp.async.bulk.prefetch.tensor.", $rank, "d.L2.global [{map}, {{{", $c0, "}",
                        $(", {", $c, "}",)* "}}];"
                    ),
                    in(reg32) coordinates[$c0], $(in(reg32) coordinates[$c],)*
                    map = in(reg64) map.0, options(nostack)
                )
            }
        }
    };
}

tma_rank!(2, load_2d, load_multicast_2d, store_2d, prefetch_2d, 0 1);
tma_rank!(3, load_3d, load_multicast_3d, store_3d, prefetch_3d, 0 1 2);
tma_rank!(4, load_4d, load_multicast_4d, store_4d, prefetch_4d, 0 1 2 3);
tma_rank!(5, load_5d, load_multicast_5d, store_5d, prefetch_5d, 0 1 2 3 4);

/// `prefetch.tensormap` (ISA 9.7.9.15): brings a tensor map to the descriptor cache before its first use.
///
/// # Safety
/// `map` is the address of a tensor map that is a kernel parameter.
#[inline(always)]
pub unsafe fn prefetch_map(map: TensorMapRef) {
    // SAFETY: the caller's.
    unsafe { asm!("prefetch.tensormap [{0}];", in(reg64) map.0, options(nostack)) }
}

/// `cp.async.bulk.commit_group`: closes this thread's bulk group.
#[inline(always)]
pub fn commit() {
    // SAFETY: no precondition.
    unsafe { asm!("cp.async.bulk.commit_group;", options(nostack)) }
}

/// `cp.async.bulk.wait_group.read`: waits until all but the newest `PENDING` of this thread's bulk groups have read
/// their sources, which may then be written again.
#[inline(always)]
pub fn wait_read<const PENDING: u32>() {
    // SAFETY: no precondition.
    unsafe { asm!("cp.async.bulk.wait_group.read {0};", const PENDING, options(nostack)) }
}

/// `cp.async.bulk.wait_group`: waits until all but the newest `PENDING` of this thread's bulk groups are complete,
/// their writes visible to this thread.
#[inline(always)]
pub fn wait<const PENDING: u32>() {
    // SAFETY: no precondition.
    unsafe { asm!("cp.async.bulk.wait_group {0};", const PENDING, options(nostack)) }
}

/// `fence.proxy.async.shared::cta` (ISA 9.7.13.4): orders this thread's ordinary accesses to shared memory before
/// what TMA and wgmma do later, and the reverse.
#[inline(always)]
pub fn fence_async_shared() {
    // SAFETY: a fence has no precondition.
    unsafe { asm!("fence.proxy.async.shared::cta;", options(nostack)) }
}
