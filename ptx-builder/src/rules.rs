//! What the lints of the emulator are asked, and which opcodes a kernel may use.

use std::collections::BTreeSet;

use flashcore_emulator::lint::Config;
use flashcore_kernels::entry::Entry;

/// What LLVM computes with.
const ARITHMETIC: &[&str] = &[
    "abs",
    "add",
    "and",
    "bfe",
    "bfi",
    "brev",
    "clz",
    "copysign",
    "cvt",
    "div",
    "ex2",
    "fma",
    "lg2",
    "lop3",
    "mad",
    "mad.hi",
    "mad.wide",
    "max",
    "min",
    "mov",
    "mul",
    "mul.hi",
    "mul.wide",
    "neg",
    "not",
    "or",
    "popc",
    "prmt",
    "rcp",
    "rem",
    "selp",
    "set",
    "setp",
    "shf.l.clamp",
    "shf.l.wrap",
    "shf.r.clamp",
    "shf.r.wrap",
    "shl",
    "shr",
    "sub",
    "tanh",
    "testp.finite",
    "xor",
];

/// Control flow, and ordinary memory. No `trap`: a kernel has no check that could fail. No atomics on memory: their
/// order would show in the result.
const CONTROL_AND_MEMORY: &[&str] = &["bra", "cvta", "cvta.to", "ld", "mapa", "ret", "st"];

/// Warps, named barriers, clusters, mbarriers and grids that overlap. No votes and matches: what a warp decides
/// together is the same in all its lanes from the start.
const COOPERATION: &[&str] = &[
    "bar.arrive",
    "bar.sync",
    "bar.warp.sync",
    "barrier.cluster.arrive",
    "barrier.cluster.wait",
    "elect.sync",
    "fence.mbarrier_init",
    "fence.proxy.async",
    "griddepcontrol.launch_dependents",
    "griddepcontrol.wait",
    "mbarrier.arrive",
    "mbarrier.arrive.expect_tx",
    "mbarrier.init",
    "mbarrier.try_wait",
    "redux.sync",
    "setmaxnreg.dec",
    "setmaxnreg.inc",
    "shfl.sync",
    "vote.sync",
];

/// Tensor cores, and copies of tensors and matrices.
const TENSORS: &[&str] = &[
    "cp.async.bulk.commit_group",
    "cp.async.bulk.prefetch.tensor",
    "cp.async.bulk.tensor.global.shared",
    "cp.async.bulk.tensor.shared.global",
    "cp.async.bulk.wait_group",
    "ldmatrix",
    "prefetch.tensormap",
    "stmatrix",
    "wgmma.commit_group",
    "wgmma.fence",
    "wgmma.mma_async",
    "wgmma.wait_group",
];

/// All rules, for kernels and micro-kernels alike; what public pointers point to is no secret.
pub(crate) fn lints(entry: &Entry) -> Config {
    let tickets: &[_] = if entry.takes_tickets { &["atom"] } else { &[] };
    let opcodes = [ARITHMETIC, CONTROL_AND_MEMORY, COOPERATION, TENSORS, tickets].concat();
    let opcodes = opcodes.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    let public_pointers = entry.public_pointers.iter().copied().collect();
    Config { opcodes: Some(opcodes), constant_time: true, public_pointers, ..Config::default() }
}
