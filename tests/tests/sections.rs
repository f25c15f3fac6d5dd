//! CTAs of the emulator that take many work tiles, of all kinds in turn: rows that see several key tiles, few keys or
//! none, rows beyond the sequence. Sections are as short as they get, a head each, so that tiles without keys are
//! followed by others, as they are on a GPU where K and V of all heads are more than its L2 holds.

use std::process::ExitCode;

use flashcore::driver::{Completion, EmulatorOptions};
use flashcore::kernels::{FWD, Tile, Variant};
use flashcore::{Device, Plan};
use flashcore_kernels::params::Work;
use flashcore_kernels::schedule::{KeyBlocks, Tiles, WorkTile};
use flashcore_tests::cases::Case;
use flashcore_tests::device::{Failure, OnDevice};
use flashcore_tests::suite::{Resource, Suite};

/// Seed and completion.
const SCHEDULES: [(u64, Completion); 4] =
    [(0, Completion::Lazy), (1, Completion::Eager), (2, Completion::Random), (3, Completion::Random)];

/// Cases, each with the number of clusters that share its tiles.
fn cases(variant: &Variant) -> Vec<(Case, u32)> {
    let Tile { block_m, block_n, cluster, .. } = variant.tile;
    let [block_m, block_n, rows] = [block_m, block_n, cluster * block_m].map(|rows| rows as usize);
    let lengths = if variant.causal {
        vec![
            (2 * rows, 40, 1), // of two tiles one sees no key, of the other the last rows see some
            (3 * rows - 8, rows - 20, 1), // of three tiles two see none
            (3 * rows - 70, rows + 30, 1), // of three tiles one sees none
            (2 * rows, rows, 3), // some clusters begin with a tile that sees none
            (rows + 9, 3 * block_n + 5, 1),
        ]
    } else {
        vec![
            (rows + 9, 3 * block_n + 5, 1), // the last rows of the second tile lie beyond the sequence
            (2 * rows - block_m, 20, 1),    // so does all of the last tile, if it is part of a cluster
            (rows + 70, 0, 1),
        ]
    };
    let case = |(seqlen_q, seqlen_kv, clusters)| {
        let case = Case {
            batch: 1,
            seqlen_q,
            seqlen_kv,
            heads_q: 3,
            heads_kv: 1,
            head_dim: variant.head_dim as usize,
            causal: variant.causal,
            ..Case::default()
        };
        (case, clusters)
    };
    lengths.into_iter().map(case).collect()
}

/// Whether CTAs of `plan` load keys for a tile after one that sees none.
fn keys_after_none(plan: &Plan) -> bool {
    let Plan { params, grid, variant, .. } = plan;
    let Tile { block_m, block_n, cluster, .. } = variant.tile;
    let sees_keys = |tile: WorkTile| {
        let first_row = tile.m_block / cluster * cluster * block_m;
        let (q, kv) = (params.seqlen_q, params.seqlen_kv);
        KeyBlocks::new(first_row, cluster * block_m, block_n, q, kv, variant.causal).end > 0
    };
    (0..*grid).any(|cta| {
        let tiles = Tiles::new(params, variant.causal, cluster, cta, *grid).map(sees_keys);
        tiles.collect::<Vec<_>>().windows(2).any(|pair| pair == [false, true])
    })
}

fn run(variant: &Variant, case: &Case, options: &EmulatorOptions) -> Result<bool, Failure> {
    let (gpu, inputs) = (Device::emulated_with(options), case.inputs(variant.dtype, 1));
    let tensors = OnDevice::new(&gpu, case, &inputs)?;
    let plans = tensors.plans()?;
    let mut plan =
        plans.into_iter().find(|plan| plan.variant == *variant).expect("the case is the variant's");
    let Work { heads, head_units, .. } = plan.params.work;
    plan.params.work = Work::new(heads, head_units.value, 1);
    tensors.run_plan(&plan, &gpu.stream()?)?;
    for kernel in gpu.emulator().expect("it is emulated").take_reports() {
        assert!(kernel.report.findings.is_empty(), "{}", kernel.report);
    }
    tensors.outputs()?.judge(&inputs, &inputs.attention.rows(usize::MAX, 0))?;
    Ok(keys_after_none(&plan))
}

fn check(variant: &Variant) -> Result<(), String> {
    let mut mixed = false;
    for (case, clusters) in cases(variant) {
        for (seed, completion) in SCHEDULES {
            let sm_count = clusters * variant.tile.cluster;
            let options = EmulatorOptions { sm_count, seed, completion, ..EmulatorOptions::default() };
            mixed |= run(variant, &case, &options)
                .map_err(|error| format!("{case}, {sm_count} SMs, {completion:?}, seed {seed}: {error}"))?;
        }
    }
    assert_eq!(mixed, variant.causal, "tiles without keys come before others");
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(vec![Resource::new("emulated", Ok(()))]);
    for variant in FWD {
        suite.test(variant.symbol, |()| check(variant));
    }
    suite.run()
}
