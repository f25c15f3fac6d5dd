//! A kernel that starts while the one before it still runs (programmatic dependent launch) and reads what that one
//! writes. The emulator knows which of its accesses come too early.

use std::process::ExitCode;

use flashcore::driver::{Code, EmulatorOptions};
use flashcore::kernels::{self, FWD, Tile, Variant};
use flashcore::{Device, Error, Pointers, Tensor};
use flashcore_emulator::ir::Module;
use flashcore_tests::cases::Case;
use flashcore_tests::device::OnDevice;
use flashcore_tests::extras::{Extras, Prefix};
use flashcore_tests::suite::{Resource, Suite};

const WAIT: &str = "griddepcontrol.wait;";

/// Runs a kernel, then once more with the first output for Q, or V, over the first log-sum-exp; a general kernel takes that
/// for the lengths of prefixes instead.
fn twice(gpu: &Device, variant: &Variant) -> flashcore::Result<()> {
    let Tile { block_m, cluster, .. } = variant.tile;
    let case = Case {
        // The last rows of the last tile lie beyond the sequence.
        seqlen_q: (cluster * block_m) as usize - 56,
        seqlen_kv: 40,
        extras: Extras {
            prefix: variant.is_general().then_some(Prefix::Drawn),
            ..Extras::of_kernel(variant)
        },
        ..Case::of_kernel(variant)
    };
    let inputs = case.inputs(variant.dtype, 1);
    let [first, second] = [OnDevice::new(gpu, &case, &inputs)?, OnDevice::new(gpu, &case, &inputs)?];
    let plan = first.plan_of(variant)?;
    let stream = gpu.stream()?;
    first.run_plan(&plan, &stream)?;
    // An output that is narrower than Q stands in for V, which has no more rows.
    let operands = if case.head_dim_v() < case.head_dim {
        [&first.q, &first.k, &first.out, &second.out]
    } else {
        [&first.out, &first.k, &first.v, &second.out]
    };
    let [q, k, v, out] = operands.map(Tensor::ptr);
    let [of_first, of_second] = [&first.lse, &second.lse].map(|lse| lse.view().ptr());
    let (lse, prefix) = if variant.is_general() { (of_second, of_first) } else { (of_first, 0) };
    let pointers = Pointers { q, k, v, out, lse, prefix, ..first.pointers() };
    // SAFETY: the first output is at least as large as what it stands for, and all tensors live on after the work: freeing
    // them waits for it.
    unsafe { stream.launch_plan(&plan, &pointers) }
}

fn check(variant: &Variant) -> Result<(), String> {
    let gpu = Device::emulated_with(&EmulatorOptions { sm_count: 2, ..EmulatorOptions::default() });
    let emulator = gpu.emulator().expect("it is emulated");
    twice(&gpu, variant).map_err(|error| error.to_string())?;
    for kernel in emulator.take_reports() {
        assert!(kernel.report.findings.is_empty(), "{}", kernel.report);
    }
    // The test would notice: without the wait, Q or V is read too early, or what all warps load.
    let ptx = kernels::image(variant.symbol).map_err(|error| error.to_string())?.ptx;
    let waits = ptx.matches(WAIT).count();
    let expected = if variant.is_general() { 2 } else { 1 };
    assert_eq!(waits, expected, "one warp waits for all, or where lengths lie on the device each for itself");
    emulator.substitute(Module::parse(&ptx.replacen(WAIT, "", 1)).map_err(|error| error.to_string())?);
    match twice(&gpu, variant) {
        Err(Error::Hazards { report, .. }) if report.has(Code::E50) => Ok(()),
        other => Err(format!("without its first wait: {other:?}")),
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::on(vec![Resource::new("emulated", Ok(()))]);
    for variant in FWD {
        suite.test(variant.symbol, |()| check(variant));
    }
    suite.run()
}
