//! Every kernel under many schedules of the emulator: warps in other orders, asynchronous copies and products early,
//! late and at random. Nothing may be wrong, and the bits may not change.

use std::process::ExitCode;

use flashcore::driver::{Completion, EmulatorOptions};
use flashcore::kernels::{Tile, Variant};
use flashcore::{Device, Dtype, Fp8, Fp8Qkv, Fp8Rounding, Plan};
use flashcore_tests::cases::{Case, has_other_head_dims};
use flashcore_tests::device::{Failure, OnDevice, Outputs};
use flashcore_tests::kernel::{Elements, Inputs, different_kernels};
use flashcore_tests::suite::{Resource, Suite};

/// Names how many orders of warps each kernel runs in under each policy of completion, instead of the usual number.
const SEEDS_VARIABLE: &str = "FLASHCORE_SCHEDULES";

/// Orders in which warps take turns. Kernels of bf16 are those of f16 but for the type of their products.
fn seeds(variant: &Variant) -> u64 {
    if let Ok(asked) = std::env::var(SEEDS_VARIABLE) {
        return asked.parse().unwrap_or_else(|_| panic!("{SEEDS_VARIABLE} is {asked}, and no number"));
    }
    if variant.fp8.is_some() {
        return 2;
    }
    match (variant.dtype, has_other_head_dims(variant)) {
        (Dtype::F16, false) => 20,
        (Dtype::Bf16, false) => 3,
        (Dtype::F16, true) => 4,
        (Dtype::Bf16, true) => 1,
    }
}
const COMPLETIONS: [Completion; 3] = [Completion::Eager, Completion::Lazy, Completion::Random];

/// Two work tiles for each of the few CTAs, of two key tiles or more, the last one not full: stages are filled again,
/// and Q and O meet the next tile's. Where consumers share the keys of a work tile, each CTA has one, and more key
/// tiles than stages.
fn case(variant: &Variant) -> Case {
    let Tile { block_m, block_n, stages, cluster, .. } = variant.tile;
    let key_tiles = if variant.splits_keys() { (stages + 1) * variant.split_ctas() } else { 1 };
    Case {
        // The tiles of a cluster are neighbours of one head, so that a second tile is that of a second head.
        seqlen_q: if cluster == 1 { block_m as usize + 8 } else { (cluster * block_m) as usize - 8 },
        seqlen_kv: (key_tiles * block_n) as usize + 24,
        heads_q: cluster as usize,
        ..Case::of_kernel(variant)
    }
}

/// What `variant` makes of these inputs of its case, if not even a warning is found.
fn run(variant: &Variant, inputs: &Inputs, options: &EmulatorOptions) -> Result<(Plan, Outputs), Failure> {
    let gpu = Device::emulated_with(options);
    let tensors = inputs.upload(&gpu)?;
    let plan = tensors.plan_of(variant)?;
    tensors.run_plan(&plan, &gpu.stream()?)?;
    for kernel in gpu.emulator().expect("it is emulated").take_reports() {
        assert!(kernel.report.findings.is_empty(), "{options:?}: {}", kernel.report);
    }
    Ok((plan, tensors.outputs()?))
}

/// Runs the first schedule, whose result must be right, then all others, whose results must be the same.
fn agree(variant: &Variant) -> Result<(), String> {
    let sm_count = variant.cluster_ctas();
    let options = EmulatorOptions { sm_count, ..EmulatorOptions::default() };
    let inputs = Elements::of(variant).inputs(&case(variant), 1);
    let (plan, first) = run(variant, &inputs, &options).map_err(|error| error.to_string())?;
    assert!(variant.splits_keys() || plan.work_tiles >= 2 * plan.grid, "{plan}");
    inputs.judge(&first, usize::MAX).map_err(|failure| failure.to_string())?;
    for completion in COMPLETIONS {
        for seed in 0..seeds(variant) {
            let options = EmulatorOptions { seed, completion, ..options.clone() };
            let (_, outputs) = run(variant, &inputs, &options)
                .map_err(|error| format!("{completion:?}, seed {seed}: {error}"))?;
            if outputs.bits() != first.bits() {
                return Err(format!("{completion:?}, seed {seed}: other bits than in the first run"));
            }
        }
    }
    Ok(())
}

/// Q, K and V as they are rounded to 8 bits, twice into the same memory, if not even a warning is found.
fn rounded(options: &EmulatorOptions, rotated_by_chance: bool) -> flashcore::Result<Vec<Vec<u8>>> {
    let gpu = Device::emulated_with(options);
    let case = Case { seqlen_q: 70, seqlen_kv: 150, heads_q: 4, heads_kv: 2, batch: 1, ..Case::default() };
    let OnDevice { q, k, v, .. } = OnDevice::new(&gpu, &case, &case.inputs(Dtype::F16, 1))?;
    let narrow = Fp8Qkv::new(&gpu, Fp8::E4m3, [q.shape(), k.shape(), v.shape()])?;
    let narrow = if rotated_by_chance { narrow.rotated().per_tensor() } else { narrow };
    let stream = gpu.stream()?;
    for _ in 0..2 {
        match rotated_by_chance {
            false => narrow.round(&stream, &q, &k, &v)?,
            true => narrow.round_with(&stream, Fp8Rounding::new().stochastic(5, 0), &q, &k, &v)?,
        }
    }
    for kernel in gpu.emulator().expect("it is emulated").take_reports() {
        assert!(kernel.report.findings.is_empty(), "{options:?}: {}", kernel.report);
    }
    Ok(vec![narrow.q.to_bytes()?, narrow.k.to_bytes()?, narrow.v.to_bytes()?])
}

/// Rounds under all schedules to the same bytes. That they are right is known from `fp8.rs`.
fn rounding_agrees(rotated_by_chance: bool) -> flashcore::Result<()> {
    let options = EmulatorOptions { sm_count: 2, ..EmulatorOptions::default() };
    let first = rounded(&options, rotated_by_chance)?;
    for completion in COMPLETIONS {
        for seed in 0..3 {
            let options = EmulatorOptions { seed, completion, ..options.clone() };
            assert_eq!(rounded(&options, rotated_by_chance)?, first, "{completion:?}, seed {seed}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(vec![Resource::new("emulated", Ok(()))]);
    for variant in different_kernels() {
        suite.test(variant.symbol, |()| agree(variant));
    }
    suite.test("fp8_round", |()| rounding_agrees(false));
    suite.test("fp8_round_rotated_by_chance_per_tensor", |()| rounding_agrees(true));
    suite.run()
}
