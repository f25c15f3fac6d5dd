//! CTAs of the emulator that take many work tiles, of all kinds in turn ([`flashcore_tests::sections`]).

use std::process::ExitCode;

use flashcore::driver::{Completion, EmulatorOptions};
use flashcore::kernels::{Tile, Variant};
use flashcore::{Device, Dtype, Plan};
use flashcore_kernels::schedule::{KeyBlocks, Tiles, WorkTile};
use flashcore_tests::cases::has_other_head_dims;
use flashcore_tests::device::Failure;
use flashcore_tests::kernel::{Elements, Inputs, different_kernels};
use flashcore_tests::sections;
use flashcore_tests::suite::{Resource, Suite};

/// Seed and completion.
const SCHEDULES: [(u64, Completion); 4] =
    [(0, Completion::Lazy), (1, Completion::Eager), (2, Completion::Random), (3, Completion::Random)];

/// Whether CTAs of `plan` load keys for a tile after one that sees none.
fn keys_after_none(plan: &Plan) -> bool {
    let Plan { params, grid, variant, .. } = plan;
    let Tile { block_m, block_n, cluster, .. } = variant.tile;
    let sees_keys = |tile: WorkTile| {
        let first_row = tile.m_block / cluster * cluster * block_m;
        let (q, kv) = (params.seqlen_q, params.seqlen_kv);
        KeyBlocks::new(first_row, cluster * block_m, block_n, q, kv, variant.is_causal()).end > 0
    };
    (0..*grid).any(|cta| {
        let tiles = Tiles::new(params, variant.is_causal(), cluster, cta, *grid).map(sees_keys);
        tiles.collect::<Vec<_>>().windows(2).any(|pair| pair == [false, true])
    })
}

/// Whether CTAs load keys for a tile after one that sees none, if what `variant` makes of a case is right.
fn run(variant: &Variant, inputs: &Inputs, options: &EmulatorOptions) -> Result<bool, Failure> {
    let gpu = Device::emulated_with(options);
    let tensors = inputs.upload(&gpu)?;
    let plan = sections::plan(variant, &tensors)?;
    tensors.run_plan(&plan, &gpu.stream()?)?;
    for kernel in gpu.emulator().expect("it is emulated").take_reports() {
        assert!(kernel.report.findings.is_empty(), "{}", kernel.report);
    }
    inputs.judge(&tensors.outputs()?, usize::MAX)?;
    Ok(keys_after_none(&plan))
}

fn check(variant: &Variant) -> Result<(), String> {
    let mut mixed = false;
    // Kernels of bf16 are those of f16 but for the type of their products.
    let schedules = match variant {
        _ if variant.fp8.is_some() => &SCHEDULES[2..3],
        _ if variant.dtype == Dtype::Bf16 => &SCHEDULES[..1],
        _ if has_other_head_dims(variant) => &SCHEDULES[2..3],
        _ => &SCHEDULES[..],
    };
    for (case, clusters) in sections::cases(variant) {
        let inputs = Elements::of(variant).inputs(&case, 1);
        for &(seed, completion) in schedules {
            let sm_count = clusters * variant.cluster_ctas();
            let options = EmulatorOptions { sm_count, seed, completion, ..EmulatorOptions::default() };
            mixed |= run(variant, &inputs, &options)
                .map_err(|error| format!("{case}, {sm_count} SMs, {completion:?}, seed {seed}: {error}"))?;
        }
    }
    // Where CTAs share the keys of a work tile, they take one.
    let expected = variant.is_causal() && !variant.splits_keys();
    assert_eq!(mixed, expected, "tiles without keys come before others");
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(vec![Resource::new("emulated", Ok(()))]);
    for variant in different_kernels() {
        suite.test(variant.symbol, |()| check(variant));
    }
    suite.run()
}
