//! A kernel that starts while the one before it still runs (programmatic dependent launch) and reads what that one
//! writes. The emulator knows which of its accesses come too early.

use std::process::ExitCode;

use flashcore::driver::{Code, EmulatorOptions};
use flashcore::kernels::{self, Tile, Variant};
use flashcore::{Attention, Device, Dtype, Error, Fp8, Fp8Qkv, Pointers};
use flashcore_emulator::ir::Module;
use flashcore_tests::cases::Case;
use flashcore_tests::device::OnDevice;
use flashcore_tests::extras::{Extras, Prefix};
use flashcore_tests::kernel::{Elements, different_kernels};
use flashcore_tests::suite::{Resource, Suite};

const WAIT: &str = "griddepcontrol.wait;";

/// Runs a kernel, then once more with the first output for Q, or V, over the first log-sum-exp; a general kernel takes that
/// for the lengths of prefixes instead, and one of 8 bits for descales.
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
    let inputs = Elements::of(variant).inputs(&case, 1);
    let [first, second] = [inputs.upload(gpu)?, inputs.upload(gpu)?];
    let plan = first.plan_of(variant)?;
    let stream = gpu.stream()?;
    first.run_plan(&plan, &stream)?;
    let (first, second) = (first.pointers(), second.pointers());
    let mut pointers = Pointers { out: second.out, ..first };
    // An output that is narrower than Q stands in for V, which has no more rows.
    if case.head_dim_v() < case.head_dim {
        pointers.v = first.out;
    } else {
        pointers.q = first.out;
    }
    if variant.is_general() {
        (pointers.lse, pointers.prefix) = (second.lse, first.lse);
    }
    if variant.fp8.is_some() {
        (pointers.lse, pointers.descales) = (second.lse, [first.lse; 3]);
    }
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

/// Rounds what attention has just written to 8 bits and attends to that, twice over the same memory. One descale for all takes
/// more launches, and a kernel more.
fn rounds_and_attends(gpu: &Device, per_tensor: bool) -> flashcore::Result<()> {
    let case = Case {
        batch: 1,
        seqlen_q: 72,
        seqlen_kv: 72,
        heads_q: 1,
        heads_kv: 1,
        head_dim: 64,
        ..Case::default()
    };
    let tensors = OnDevice::new(gpu, &case, &case.inputs(Dtype::F16, 1))?;
    let (out, stream) = (&tensors.out, gpu.stream()?);
    let narrow = Fp8Qkv::new(gpu, Fp8::E4m3, [out.shape(); 3])?;
    let narrow = if per_tensor { narrow.per_tensor() } else { narrow };
    tensors.run(&stream)?;
    for _ in 0..2 {
        narrow.round(&stream, out, out, out)?;
        let (q, k, v) = (narrow.q.view(), narrow.k.view(), narrow.v.view());
        Attention::new().forward_fp8_into(&stream, q, k, v, out, None)?;
    }
    Ok(())
}

/// Of these launches each waits for the one before: without that, something is read too early.
fn check_rounding(per_tensor: bool) -> Result<(), String> {
    let gpu = || Device::emulated_with(&EmulatorOptions { sm_count: 2, ..EmulatorOptions::default() });
    let device = gpu();
    rounds_and_attends(&device, per_tensor).map_err(|error| error.to_string())?;
    let mut symbols = Vec::new();
    for kernel in device.emulator().expect("it is emulated").take_reports() {
        assert!(kernel.report.findings.is_empty(), "{}", kernel.report);
        symbols.push(kernel.symbol);
    }
    symbols.retain(|symbol| symbol.contains("fp8") || symbol.contains("e4m3"));
    assert_eq!(symbols.len(), if per_tensor { 3 } else { 2 }, "{symbols:?}");
    for symbol in symbols {
        let device = gpu();
        let ptx = kernels::image(symbol).map_err(|error| error.to_string())?.ptx;
        let module = Module::parse(&ptx.replacen(WAIT, "", 1)).map_err(|error| error.to_string())?;
        device.emulator().expect("it is emulated").substitute(module);
        match rounds_and_attends(&device, per_tensor) {
            Err(Error::Hazards { report, .. }) if report.has(Code::E50) => {}
            other => return Err(format!("{symbol} without its wait: {other:?}")),
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(vec![Resource::new("emulated", Ok(()))]);
    for variant in different_kernels() {
        suite.test(variant.symbol, |()| check(variant));
    }
    for per_tensor in [false, true] {
        let name = if per_tensor { "fp8_round_per_tensor" } else { "fp8_round" };
        suite.test(name, move |()| check_rounding(per_tensor));
    }
    suite.run()
}
