//! Compiles the kernels and embeds them.

use flashcore_example_score_mod_kernels::{Alibi, Documents, TanhSoftcap};
use flashcore_kernels::score_mod::Kernels;
use flashcore_ptx_builder::{Entry, embed_crate};

fn main() {
    let kernels = [Alibi::KERNELS, TanhSoftcap::KERNELS, Documents::KERNELS].concat();
    embed_crate("kernels", &kernels.iter().map(|kernel| kernel.entry()).collect::<Vec<Entry>>());
}
