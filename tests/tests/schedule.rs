//! The schedule against brute force: every work tile once, every visible key visited, nobody idle for long.

use std::collections::HashSet;

use flashcore::driver::Properties;
use flashcore::{Dtype, MAX_DIM, Plan, Problem, TensorLayout};
use flashcore_kernels::config::{Tile, WARPGROUP_ROWS};
use flashcore_kernels::divisor::Divisor;
use flashcore_kernels::params::{FwdParams, General, Work};
use flashcore_kernels::schedule::{KeyBlocks, Span, Tiles, WorkTile};
use flashcore_tests::grid;
use proptest::prelude::*;

fn params(
    batch: u32,
    heads_q: u32,
    gqa_ratio: u32,
    head_units: u32,
    section: u32,
    clusters: u32,
) -> FwdParams {
    FwdParams {
        lse: 0,
        seqlen_q: head_units * 128,
        seqlen_kv: head_units * 128,
        heads_q: Divisor::new(heads_q),
        gqa_ratio: Divisor::new(gqa_ratio),
        work: Work::new(batch * heads_q, head_units, section, clusters),
        scale_log2: 1.0,
        general: General::NONE,
        descales: flashcore_kernels::fp8::Descales::NONE,
    }
}

/// The schedule as its documentation has it, with divisions: in round `round`, counted over all sections, cluster
/// `cluster` takes the unit (number in its head, head over all sequences).
fn unit(params: &FwdParams, causal: bool, round: u32, cluster: u32, clusters: u32) -> Option<(u32, u32)> {
    let (heads, head_units) = (params.work.heads, params.work.head_units.value);
    let section_heads = if causal { params.work.section.value } else { heads };
    let section_units = section_heads * head_units;
    let section_rounds = section_units.div_ceil(clusters);
    let (section, round) = (round / section_rounds, round % section_rounds);
    let first_head = section * section_heads;
    let section_heads = section_heads.min(heads - first_head);
    let first_cluster = section * section_units % clusters;
    let place = (cluster + clusters - first_cluster) % clusters;
    let place = match causal {
        true if round % 2 == 1 => clusters - 1 - place,
        true => place,
        false => {
            ((u64::from(cluster) + u64::from(round) * u64::from(params.work.turn)) % u64::from(clusters))
                as u32
        }
    };
    let index = round * clusters + place;
    (index < section_heads * head_units).then(|| {
        if causal {
            (head_units - 1 - index / section_heads, first_head + index % section_heads)
        } else {
            (index % head_units, index / head_units)
        }
    })
}

fn rounds(params: &FwdParams, causal: bool, clusters: u32) -> u32 {
    let Work { heads, head_units, section, .. } = params.work;
    let section = if causal { section.value } else { heads };
    heads.div_ceil(section) * (section * head_units.value).div_ceil(clusters)
}

fn any_cluster() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![1u32, 2, 4])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn divisors_divide(value in 1..=1u32 << 31, small in 1..1000u32, x in 0..1u32 << 31, multiple: u32) {
        for value in [value, small, value.next_power_of_two(), 1 << 31] {
            let divisor = Divisor::new(value);
            let around = multiple % ((1 << 31) / value).max(1) * value;
            let numbers = [0, 1, x, around, around + 1, around.saturating_sub(1), value, value - 1, value + 1, i32::MAX as u32];
            for x in numbers.into_iter().filter(|x| *x < 1 << 31) {
                prop_assert_eq!(divisor.split(x), (x / value, x % value), "{} / {}", x, value);
            }
        }
    }

    #[test]
    fn every_work_tile_is_taken_once(
        batch in 1..6u32, heads_kv in 1..8u32, gqa_ratio in 1..5u32, head_units in 1..12u32, section in 1..130u32,
        clusters in 1..140u32, cluster in any_cluster(), causal: bool,
    ) {
        let heads = heads_kv * gqa_ratio;
        let m_blocks = head_units * cluster;
        let params = params(batch, heads, gqa_ratio, head_units, section, clusters);
        let mut seen = HashSet::new();
        for cta in 0..clusters * cluster {
            for tile in Tiles::new(&params, causal, cluster, cta, clusters * cluster) {
                prop_assert!(tile.batch < batch && tile.head < heads && tile.m_block < m_blocks, "{tile:?}");
                prop_assert_eq!(tile.head_kv, tile.head / gqa_ratio);
                prop_assert!(seen.insert((tile.batch, tile.head, tile.m_block)), "{tile:?} twice");
            }
        }
        prop_assert_eq!(seen.len() as u32, batch * heads * m_blocks);
    }

    /// CTAs of a cluster load K and V for each other: they have neighbouring tiles of the same head at the same time.
    #[test]
    fn tiles_follow_the_rounds(
        batch in 1..6u32, heads in 1..9u32, head_units in 1..9u32, section in 1..50u32, clusters in 1..70u32,
        cluster in any_cluster(), causal: bool,
    ) {
        let params = params(batch, heads, 1, head_units, section, clusters);
        for cta in 0..clusters * cluster {
            let units = (0..rounds(&params, causal, clusters))
                .filter_map(|round| unit(&params, causal, round, cta / cluster, clusters));
            let expected = units.map(|(unit, head)| WorkTile {
                m_block: unit * cluster + cta % cluster,
                head: head % heads,
                head_kv: head % heads,
                batch: head / heads,
                q: Span { start: 0, len: params.seqlen_q },
                kv: Span { start: 0, len: params.seqlen_kv },
            });
            let tiles: Vec<_> = Tiles::new(&params, causal, cluster, cta, clusters * cluster).collect();
            prop_assert_eq!(tiles, expected.collect::<Vec<_>>());
        }
    }

    /// Sections one after the other, and within a section the longest tiles first.
    #[test]
    fn causal_tiles_go_from_long_to_short_in_each_section(
        batch in 1..5u32, heads in 1..9u32, head_units in 1..9u32, section in 1..50u32, clusters in 1..140u32,
        cluster in any_cluster(),
    ) {
        let params = params(batch, heads, 1, head_units, section, clusters);
        let section_of = |tile: &WorkTile| (tile.batch * heads + tile.head) / params.work.section.value;
        for cta in 0..clusters * cluster {
            let tiles: Vec<_> = Tiles::new(&params, true, cluster, cta, clusters * cluster).collect();
            for pair in tiles.windows(2) {
                let [earlier, later] = pair else { unreachable!() };
                prop_assert!(section_of(earlier) <= section_of(later), "{earlier:?} before {later:?}");
                if section_of(earlier) == section_of(later) {
                    prop_assert!(earlier.m_block >= later.m_block, "{earlier:?} before {later:?}");
                }
            }
        }
    }

    #[test]
    fn key_blocks_match_the_mask(
        seqlen_q in 1..700u32, seqlen_kv in 0..900u32, causal: bool, step in 1..40u32,
        rows in prop::sample::select(vec![1u32, 64, 128, 192, 256]),
        block_n in prop::sample::select(vec![16u32, 80, 128, 176]),
    ) {
        let visible = |i: u32, j: u32| {
            j < seqlen_kv && (!causal || i64::from(j) <= i64::from(i) + i64::from(seqlen_kv) - i64::from(seqlen_q))
        };
        for first_row in (0..seqlen_q + 2 * rows).step_by(8 * step as usize) {
            let blocks = KeyBlocks::new(first_row, rows, block_n, seqlen_q, seqlen_kv, causal);
            if first_row >= seqlen_q {
                prop_assert_eq!(blocks, KeyBlocks { first: 0, end: 0, full: 0, clear: 0 });
                continue;
            }
            // What a row sees, the ones below see too.
            let (first, last) = (first_row, (first_row + rows).min(seqlen_q) - 1);
            for block in 0..seqlen_kv.div_ceil(block_n) + 2 {
                let mut keys = block * block_n..(block + 1) * block_n;
                let any = keys.clone().any(|j| visible(last, j));
                let all = keys.all(|j| visible(first, j));
                prop_assert_eq!(block < blocks.end, any, "rows from {}, key block {}: {:?}", first, block, blocks);
                prop_assert_eq!(block < blocks.full, all, "rows from {}, key block {}: {:?}", first, block, blocks);
            }
        }
    }

    #[test]
    fn shares_of_the_keys_are_all_of_them_and_even(
        end in prop_oneof![0..100u32, 0..=MAX_DIM as u32 / 16], full in 0..100u32, seen in 0..100u32, splits in 1..=8u32,
    ) {
        let all = KeyBlocks { first: 0, end, full, clear: 0 };
        let mut next = 0;
        for rank in 0..splits {
            let share = all.share(rank, splits);
            prop_assert_eq!((share.first, share.full), (next, full));
            prop_assert!(share.count().abs_diff(end / splits) <= 1, "{share:?} of {end}");
            next = share.end;
            // What rows see that do not see all.
            let seen = seen.min(end);
            let among = KeyBlocks { first: 0, end: seen, full, clear: 0 }.among(share);
            prop_assert_eq!((among.first, among.full), (share.first, full));
            prop_assert_eq!(among.count(), seen.clamp(share.first, share.end) - share.first);
        }
        prop_assert_eq!(next, end);
    }
}

/// The numbers of the longest sequences and of the most work that is planned for.
#[test]
fn nothing_overflows() {
    let most = i32::MAX as u32;
    for causal in [false, true] {
        for (heads, head_units) in [(1, most), (most, 1), (1 << 15, (1 << 16) - 1), (1 << 15, (1 << 16) - 2)]
        {
            let clusters = 1 << 30;
            let work = Work::new(heads, head_units, heads, clusters);
            let params = FwdParams { work, ..params(1, heads, 1, 1, heads, clusters) };
            for cta in [0, 1, clusters - 1] {
                let tiles = Tiles::new(&params, causal, 1, cta, clusters);
                let units = (0..rounds(&params, causal, clusters))
                    .filter_map(|round| unit(&params, causal, round, cta, clusters));
                let found = tiles.map(|tile| (tile.m_block, tile.head));
                assert_eq!(found.collect::<Vec<_>>(), units.collect::<Vec<_>>());
            }
        }
        let longest = MAX_DIM as u32;
        let last = KeyBlocks::new(longest - 1, 256, 128, longest, longest, causal);
        assert_eq!(last.end, longest.div_ceil(128));
        assert_eq!(KeyBlocks::new(longest - 1, 256, 128, longest, 5, causal).end, 1);
        assert_eq!(KeyBlocks::new(0, 256, 128, 1, longest, causal), last);
    }
}

/// Tiles cost what the key blocks of their consumers cost. Over the grid that is timed, no CTA may do much more than
/// the mean.
#[test]
fn work_is_balanced() {
    for case in grid::large(&grid::LENGTHS, &[false, true]) {
        let (q, kv) = (case.shape_q(), case.shape_kv());
        let layout = |shape, strides| TensorLayout { dtype: Dtype::F16, shape, strides };
        let (query, key) = (layout(q, case.layout.query(q)), layout(kv, case.layout.key(kv)));
        let problem = Problem::new(query, key, key, query, case.causal, None).expect("a legal problem");
        for plan in Plan::all(&problem, &Properties::h200()).expect("plans") {
            if plan.variant.splits_keys() {
                continue; // one work tile a cluster: whichever SMs are free take the next
            }
            let Tile { block_m, block_n, cluster, .. } = plan.variant.tile;
            // Each consumer visits the keys that its own rows see.
            let cost = |tile: WorkTile| -> f64 {
                let (seqlen_q, seqlen_kv) = (plan.params.seqlen_q, plan.params.seqlen_kv);
                let first = tile.m_block * block_m;
                let rows = (first..first + block_m).step_by(WARPGROUP_ROWS as usize);
                let blocks = |first| {
                    KeyBlocks::new(first, WARPGROUP_ROWS, block_n, seqlen_q, seqlen_kv, case.causal).end
                };
                rows.map(|first| f64::from(blocks(first))).sum()
            };
            let tiles = |cta| Tiles::new(&plan.params, case.causal, cluster, cta, plan.grid);
            let loads: Vec<f64> = (0..plan.grid).map(|cta| tiles(cta).map(cost).sum()).collect();
            let mean = loads.iter().sum::<f64>() / f64::from(plan.grid);
            let busiest = loads.iter().copied().fold(0.0, f64::max);
            let allowed = match case.causal {
                // Whole tiles, as evenly as they go.
                false => mean + cost(WorkTile::of_unit(&plan.params, 0, 0)),
                // With few tiles a head, one more or less of them already counts. The worst is head_dim 64 at 4096,
                // with 21 1/3 tiles of 192 rows.
                true if case.seqlen_q <= 4096 => 1.07 * mean,
                true => 1.03 * mean,
            };
            assert!(busiest <= allowed, "{case}: busiest {busiest}, mean {mean:.1}\n{plan}");
        }
    }
}
