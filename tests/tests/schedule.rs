//! The schedule against brute force: every work tile once, every visible key visited, nobody idle for long.

use std::collections::HashSet;

use flashcore::driver::Properties;
use flashcore::{Dtype, Plan, Problem, TensorLayout};
use flashcore_kernels::config::Tile;
use flashcore_kernels::params::FwdParams;
use flashcore_kernels::schedule::{KeyBlocks, Schedule, WorkTile};
use flashcore_tests::grid;
use proptest::prelude::*;

fn params(batch: u32, heads_q: u32, gqa_ratio: u32, m_blocks: u32, section: u32) -> FwdParams {
    FwdParams {
        lse: 0,
        seqlen_q: m_blocks * 128,
        seqlen_kv: m_blocks * 128,
        heads_q,
        gqa_ratio,
        batch,
        m_blocks,
        section,
        scale_log2: 1.0,
    }
}

/// The work tiles of one CTA, in its order.
fn taken(schedule: &Schedule, cta: u32) -> impl Iterator<Item = WorkTile> {
    (0..schedule.rounds()).filter_map(move |round| schedule.tile(round, cta))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_work_tile_is_taken_once(
        batch in 1..6u32, heads_kv in 1..8u32, gqa_ratio in 1..5u32, m_blocks in 1..12u32, section in 1..130u32,
        ctas in 1..140u32, causal: bool,
    ) {
        let heads = heads_kv * gqa_ratio;
        let params = params(batch, heads, gqa_ratio, m_blocks, section.min(batch * heads));
        let schedule = Schedule::new(&params, causal, ctas);
        prop_assert_eq!(schedule.tiles(), batch * heads * m_blocks);
        let mut seen = HashSet::new();
        for cta in 0..ctas {
            for tile in taken(&schedule, cta) {
                prop_assert!(tile.batch < batch && tile.head < heads && tile.m_block < m_blocks, "{tile:?}");
                prop_assert_eq!(tile.head_kv, tile.head / gqa_ratio);
                prop_assert!(seen.insert((tile.batch, tile.head, tile.m_block)), "{tile:?} twice");
            }
        }
        prop_assert_eq!(seen.len() as u32, schedule.tiles());
    }

    /// CTAs of a cluster load K and V for each other: in every round they need the same head, or nothing.
    #[test]
    fn clusters_stay_together(
        batch in 1..6u32, heads in 1..9u32, clusters_a_head in 1..9u32, clusters in 1..70u32,
        cluster in prop::sample::select(vec![2u32, 4]),
    ) {
        let params = params(batch, heads, 1, clusters_a_head * cluster, batch * heads);
        let schedule = Schedule::new(&params, false, clusters * cluster);
        for round in 0..schedule.rounds() {
            for first in (0..clusters * cluster).step_by(cluster as usize) {
                let tile = schedule.tile(round, first);
                for rank in 1..cluster {
                    let expected = tile.map(|tile| WorkTile { m_block: tile.m_block + rank, ..tile });
                    prop_assert_eq!(schedule.tile(round, first + rank), expected);
                }
            }
        }
    }

    /// Sections one after the other, and within a section the longest tiles first.
    #[test]
    fn causal_rounds_go_from_long_to_short_tiles_in_each_section(
        batch in 1..5u32, heads in 1..9u32, m_blocks in 1..9u32, section in 1..50u32, ctas in 1..140u32,
    ) {
        let section = section.min(batch * heads);
        let schedule = Schedule::new(&params(batch, heads, 1, m_blocks, section), true, ctas);
        let rounds: Vec<Vec<WorkTile>> = (0..schedule.rounds())
            .map(|round| (0..ctas).filter_map(|cta| schedule.tile(round, cta)).collect())
            .collect();
        let section_of = |tile: &WorkTile| (tile.batch * heads + tile.head) / section;
        for pair in rounds.windows(2) {
            for (earlier, later) in pair[0].iter().flat_map(|a| pair[1].iter().map(move |b| (a, b))) {
                prop_assert!(section_of(earlier) <= section_of(later), "{earlier:?} before {later:?}");
                if section_of(earlier) == section_of(later) {
                    prop_assert!(earlier.m_block >= later.m_block, "{earlier:?} before {later:?}");
                }
            }
        }
    }

    #[test]
    fn key_blocks_match_the_mask(
        seqlen_q in 1..700u32, seqlen_kv in 0..900u32, causal: bool,
        block_m in prop::sample::select(vec![64u32, 128, 192]),
        block_n in prop::sample::select(vec![16u32, 80, 128, 176]),
    ) {
        let visible = |i: u32, j: u32| {
            j < seqlen_kv && (!causal || i64::from(j) <= i64::from(i) + i64::from(seqlen_kv) - i64::from(seqlen_q))
        };
        for m_block in 0..seqlen_q.div_ceil(block_m) {
            let blocks = KeyBlocks::new(m_block, block_m, block_n, seqlen_q, seqlen_kv, causal);
            // The last tile of a head has rows beyond seqlen_q: they may cost time, not rows that count.
            let rows = m_block * block_m..((m_block + 1) * block_m).min(seqlen_q);
            for block in 0..seqlen_kv.div_ceil(block_n) + 2 {
                let keys = block * block_n..(block + 1) * block_n;
                let any = rows.clone().any(|i| keys.clone().any(|j| visible(i, j)));
                let all = rows.clone().all(|i| keys.clone().all(|j| visible(i, j)));
                prop_assert!(!any || block < blocks.end, "tile {m_block} must visit key block {block}: {blocks:?}");
                prop_assert!(block >= blocks.full || all, "tile {m_block} must mask key block {block}: {blocks:?}");
                if rows.end == (m_block + 1) * block_m {
                    prop_assert!(any || block >= blocks.end, "tile {m_block} sees nothing in block {block}: {blocks:?}");
                    prop_assert!(block < blocks.full || !all, "tile {m_block} masks block {block} for nothing: {blocks:?}");
                }
            }
            prop_assert!(blocks.full <= blocks.end, "{blocks:?}");
            prop_assert!(blocks.end * block_n < seqlen_kv + block_n, "beyond the keys: {blocks:?}");
        }
    }
}

/// Causal tiles cost what their key blocks cost. Over the grid that is timed, no CTA may do much more than the mean.
#[test]
fn causal_work_is_balanced() {
    for case in grid::large(&grid::LENGTHS, &[true]) {
        let (q, kv) = (case.shape_q(), case.shape_kv());
        let layout = |shape, strides| TensorLayout { dtype: Dtype::F16, shape, strides };
        let (query, key) = (layout(q, case.layout.query(q)), layout(kv, case.layout.key(kv)));
        let problem = Problem::new(query, key, key, query, true, None).expect("a legal problem");
        let plan = Plan::new(&problem, &Properties::h200()).expect("a plan");
        let schedule = Schedule::new(&plan.params, true, plan.grid);
        let Tile { block_m, block_n, .. } = plan.variant.tile;
        let cost = |tile: WorkTile| {
            let (seqlen_q, seqlen_kv) = (plan.params.seqlen_q, plan.params.seqlen_kv);
            f64::from(KeyBlocks::new(tile.m_block, block_m, block_n, seqlen_q, seqlen_kv, true).end)
        };
        let loads: Vec<f64> = (0..plan.grid).map(|cta| taken(&schedule, cta).map(cost).sum()).collect();
        let mean = loads.iter().sum::<f64>() / f64::from(plan.grid);
        let longest = loads.iter().copied().fold(0.0, f64::max);
        // With few tiles a head, one more or less of them already counts.
        let allowed = if case.seqlen_q < 2048 { 1.05 } else { 1.02 };
        assert!(longest <= allowed * mean, "{case}: longest {longest}, mean {mean:.1}\n{plan}");
    }
}
