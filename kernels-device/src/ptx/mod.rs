//! The instructions of sm_90a that Rust has no words for. The only room with inline assembly.
//!
//! House rules:
//! - one instruction, one function; its documentation names the PTX instruction and the section of the PTX ISA
//!   9.0 (numbers move between versions, names do not), its Safety sentence says what the hardware takes for granted;
//! - an instruction that threads wait for each other in goes through its LLVM intrinsic, which is marked convergent;
//!   `asm!` is not, and compilers duplicate or sink what is not. The exceptions are `wgmma.mma_async`, which has no
//!   intrinsic and is counted by the build, and `elect.sync`, `ldmatrix` and `stmatrix`, which stand where the whole
//!   warp goes the same way;
//! - what LLVM must not reorder is an `asm!` without `pure` and `nomem`; what only computes has both;
//! - shared memory is addressed in its own window by [`smem::SmemAddr`], never through generic pointers.

pub mod cluster;
pub mod global;
pub mod grid;
pub mod math;
pub mod matrix;
pub mod mbarrier;
pub mod smem;
pub mod thread;
pub mod tma;
pub mod warp;
pub mod wgmma;

/// Intrinsics of LLVM's NVPTX back end, each convergent.
#[allow(improper_ctypes)]
mod intrinsics {
    unsafe extern "unadjusted" {
        #[link_name = "llvm.nvvm.wgmma.fence.sync.aligned"]
        pub(super) fn wgmma_fence();
        #[link_name = "llvm.nvvm.wgmma.commit_group.sync.aligned"]
        pub(super) fn wgmma_commit_group();
        #[link_name = "llvm.nvvm.wgmma.wait_group.sync.aligned"]
        pub(super) fn wgmma_wait_group(pending: u64);
        #[link_name = "llvm.nvvm.setmaxnreg.inc.sync.aligned.u32"]
        pub(super) fn setmaxnreg_inc(registers: u32);
        #[link_name = "llvm.nvvm.setmaxnreg.dec.sync.aligned.u32"]
        pub(super) fn setmaxnreg_dec(registers: u32);
        #[link_name = "llvm.nvvm.barrier.cta.sync.aligned.count"]
        pub(super) fn barrier_sync(id: u32, threads: u32);
        #[link_name = "llvm.nvvm.barrier.cta.arrive.aligned.count"]
        pub(super) fn barrier_arrive(id: u32, threads: u32);
        #[link_name = "llvm.nvvm.bar.warp.sync"]
        pub(super) fn bar_warp_sync(mask: u32);
        #[link_name = "llvm.nvvm.shfl.sync.bfly.i32"]
        pub(super) fn shfl_bfly(mask: u32, value: u32, lane_mask: u32, clamp: u32) -> u32;
        #[link_name = "llvm.nvvm.shfl.sync.idx.i32"]
        pub(super) fn shfl_idx(mask: u32, value: u32, lane: u32, clamp: u32) -> u32;
        #[link_name = "llvm.nvvm.shfl.sync.up.i32"]
        pub(super) fn shfl_up(mask: u32, value: u32, distance: u32, clamp: u32) -> u32;
        #[link_name = "llvm.nvvm.vote.ballot.sync"]
        pub(super) fn ballot(mask: u32, value: bool) -> u32;
        #[link_name = "llvm.nvvm.barrier.cluster.arrive.aligned"]
        pub(super) fn cluster_arrive();
        #[link_name = "llvm.nvvm.barrier.cluster.wait.aligned"]
        pub(super) fn cluster_wait();
    }
}
