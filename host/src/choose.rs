//! Which kernel computes a problem: the one whose busiest SM should be done first.

use flashcore_kernels::config::{Mask, Score, Tile, Variant, WARPGROUP_ROWS};

use crate::problem::{MAX_GENERAL_DIM, Problem};

/// The kernels that can compute a problem: those of its dtype, mask and scores, and of the fewest columns, of Q and V
/// together, that are enough. Those for bands can compute every problem of tensors that they can reach, unless it needs
/// a sparse one.
pub(crate) fn eligible(problem: &Problem) -> impl Iterator<Item = &'static Variant> {
    let (mask, reachable) = (problem.mask(), problem.fits_general_kernels());
    let wide_enough = move || {
        let fits = move |v: &&Variant| problem.is_scored_by(v.score) && problem.fits(v);
        let stands_in = move |v: &Variant| reachable && mask != Mask::Sparse && v.mask == Mask::Band;
        problem.kernels().iter().filter(fits).filter(move |v| v.mask == mask || stands_in(v))
    };
    let columns = |variant: &Variant| variant.head_dim + variant.head_dim_v;
    let fewest = wide_enough().map(columns).min();
    let candidates = move || wide_enough().filter(move |variant| Some(columns(variant)) == fewest);
    // An approximation that will do is taken wherever there is a kernel for it: results then do not go with the length.
    let approximate = |variant: &Variant| variant.score == Score::SoftcapApprox;
    let any_approximate = candidates().any(approximate);
    candidates().filter(move |variant| approximate(variant) == any_approximate)
}

/// The eligible kernel that should take the least time. Those that split keys are for few work tiles: where there are
/// more, their smaller tiles read K and V more often than was measured when their costs were.
pub(crate) fn choose(problem: &Problem, sm_count: u32) -> &'static Variant {
    let few = |variant: &Variant| {
        let q = problem.q_shape();
        let tiles = q.seqlen.div_ceil(variant.tile.block_m as usize).saturating_mul(q.batch * q.heads);
        tiles.saturating_mul(variant.split_ctas() as usize) <= SPLIT_ROUNDS * sm_count as usize
    };
    let general = problem.needs_general_kernel();
    eligible(problem)
        .filter(|variant| !variant.splits_keys() || few(variant))
        .filter(|variant| general || variant.mask == problem.mask() || packs(variant, problem))
        .min_by_key(|variant| estimate(variant, problem, sm_count))
        .expect("`Problem` admits what every dtype, mask and kind of scores has a kernel for")
}

/// Whether a kernel that could do without packs query heads into fewer tiles.
fn packs(variant: &Variant, problem: &Problem) -> bool {
    let (block_m, seqlen_q) = (variant.tile.block_m as usize, problem.q_shape().seqlen);
    variant.may_pack_heads() && pack(problem.gqa_ratio(), seqlen_q, seqlen_q, block_m) > 0
}

/// log2 of the rows that a query has where `ratio` query heads share a K/V head: as many as there are heads, or the
/// next power of 2, if tiles are then fewer, else one. All rows of a sequence, which has at most `longest` queries, are
/// counted in i32.
pub(crate) fn pack(ratio: usize, seqlen_q: usize, longest: usize, block_m: usize) -> u32 {
    let rows = ratio.next_power_of_two();
    let packed = seqlen_q.saturating_mul(rows).div_ceil(block_m);
    let apart = seqlen_q.div_ceil(block_m).saturating_mul(ratio);
    let fits = rows <= WARPGROUP_ROWS as usize && rows.saturating_mul(longest) <= MAX_GENERAL_DIM;
    if fits && packed < apart { rows.trailing_zeros() } else { 0 }
}

/// Estimated time of a kernel on an H200, in picoseconds: what its busiest SM has to do.
pub(crate) fn estimate(variant: &Variant, problem: &Problem, sm_count: u32) -> u64 {
    let Tile { block_m, block_n, cluster, .. } = variant.tile;
    let [rows, keys, cluster, splits] = [block_m, block_n, cluster, variant.split_ctas()].map(u64::from);
    let (q, kv) = (problem.q_shape(), problem.kv_shape());
    // Heads that share tiles are one, of more rows.
    let ratio = problem.gqa_ratio();
    let pack = if variant.may_pack_heads() { pack(ratio, q.seqlen, q.seqlen, block_m as usize) } else { 0 };
    let (seqlen_q, seqlen_kv) = ((q.seqlen as u64) << pack, kv.seqlen as u64);
    let heads = (q.batch * q.heads) as u64 / if pack > 0 { ratio as u64 } else { 1 };
    let m_blocks = seqlen_q.div_ceil(rows).next_multiple_of(cluster);
    if m_blocks == 0 || heads == 0 {
        return 0;
    }
    let clusters = (u64::from(sm_count) / (cluster * splits)).max(1);
    let consumers = rows / CONSUMER_ROWS; // or pairs of consumers that share keys
    let groups = seqlen_q.div_ceil(CONSUMER_ROWS);
    let overhead = u64::from(variant.cost.tile_keys);
    let share = seqlen_kv.div_ceil(keys * splits) * keys;
    // A consumer that has an SM alone is faster than one of two, but not twice as fast.
    let alone = if consumers > 1 { share * 5 / 4 } else { share };
    // The last tile of a head sees all keys, under a causal mask too.
    let longest = (consumers.min(groups) * share).max(alone) + consumers * overhead;
    let busiest = if problem.features.uneven() && pack == 0 {
        // Tiles of different lengths even out over the SMs.
        let step = if variant.has_short_step() { u64::from(variant.short_n()) } else { keys };
        let visited = causal_steps(step, seqlen_q, seqlen_kv) * step / splits;
        let all = if variant.splits_keys() {
            // There are few, and the shortest takes nearly as long as others.
            let rounds = m_blocks.saturating_mul(heads).div_ceil(clusters);
            visited.saturating_mul(heads) / clusters + rounds * overhead
        } else {
            let head = visited + m_blocks * consumers * overhead;
            head.saturating_mul(heads) / (clusters * cluster)
        };
        all.max(longest)
    } else {
        // Consumers beyond the last query have nothing to do. Over the units of a head that evens out, but within a
        // cluster it does not: the first CTA of each has the first of its tiles, the busiest.
        let units = m_blocks / cluster;
        let (whole, rest) = (groups / (consumers * cluster), groups % (consumers * cluster));
        let busy = whole * consumers + rest.min(consumers);
        let tile = (busy * share / units).max(alone) + consumers * overhead;
        units.saturating_mul(heads).div_ceil(clusters).saturating_mul(tile)
    };
    let launch = if cluster > 1 { CLUSTER_LAUNCH_PS } else { 0 };
    busiest.saturating_mul(u64::from(variant.cost.key_ps)).saturating_add(launch)
}

/// Rounds of work tiles over all SMs, at most, in which keys are split.
const SPLIT_ROUNDS: usize = 2;

/// What it costs to start clusters that share K and V rather than single CTAs, as measured.
const CLUSTER_LAUNCH_PS: u64 = 3_000_000;

/// Queries of a consumer.
const CONSUMER_ROWS: u64 = WARPGROUP_ROWS as u64;

/// Steps of `step` keys that all consumers of a head visit under a causal mask: the sum of `KeyBlocks::end`, in a time
/// that does not depend on the lengths.
fn causal_steps(step: u64, seqlen_q: u64, seqlen_kv: u64) -> u64 {
    let Some(last) = seqlen_q.div_ceil(CONSUMER_ROWS).checked_sub(1) else { return 0 };
    // Group m sees `(m + 1) * 64 + seqlen_kv - seqlen_q` keys, or none where that is negative; the last sees all.
    let hidden = seqlen_q.saturating_sub(seqlen_kv);
    let blind = (hidden / CONSUMER_ROWS).min(last);
    let first_sees = ((blind + 1) * CONSUMER_ROWS + seqlen_kv).saturating_sub(seqlen_q);
    floor_sum(last - blind, step, CONSUMER_ROWS, first_sees + step - 1) + seqlen_kv.div_ceil(step)
}

/// The sum of `(a * i + b) / m`, rounded down, over i in 0..n: points below a line, counted as Euclid would.
fn floor_sum(n: u64, m: u64, a: u64, b: u64) -> u64 {
    let whole = n * n.saturating_sub(1) / 2 * (a / m) + n * (b / m);
    let (a, b) = (a % m, b % m);
    let end = a * n + b;
    if end < m { whole } else { whole + floor_sum(end / m, a, m, end % m) }
}

#[cfg(test)]
mod tests {
    use flashcore_kernels::schedule::{KeyBlocks, Tiles};
    use proptest::prelude::*;

    use super::*;
    use crate::driver::Properties;
    use crate::{Dtype, Order, Plan, Shape, TensorLayout};

    proptest! {
        #[test]
        fn causal_steps_are_those_of_the_schedule(
            step in prop::sample::select(&[48, 64, 80, 96, 112, 128][..]),
            seqlen_q in 0..5000u32,
            seqlen_kv in 0..5000u32,
        ) {
            let group = |first| KeyBlocks::new(first, WARPGROUP_ROWS, step, seqlen_q, seqlen_kv, true).end;
            let counted = (0..seqlen_q).step_by(64).map(|first| u64::from(group(first))).sum::<u64>();
            let [step, q, kv] = [step, seqlen_q, seqlen_kv].map(u64::from);
            prop_assert_eq!(causal_steps(step, q, kv), counted);
        }

        /// Without a mask, what the busiest CTA of the schedule has to do is what was estimated, but for one work tile.
        #[test]
        fn the_busiest_cta_was_foreseen(
            seqlen_q in 1..3000usize,
            seqlen_kv in 1..3000usize,
            heads in 1..300usize,
            (head_dim, head_dim_v) in prop::sample::select(
                &[(64, 64), (96, 96), (128, 128), (192, 192), (256, 256), (192, 128), (64, 256), (512, 512)][..],
            ),
        ) {
            let layout = |seqlen, head_dim| {
                TensorLayout::packed(Dtype::F16, Shape { batch: 1, seqlen, heads, head_dim }, Order::Bhsd)
            };
            let (q, k) = (layout(seqlen_q, head_dim), layout(seqlen_kv, head_dim));
            let (o, v) = (layout(seqlen_q, head_dim_v), layout(seqlen_kv, head_dim_v));
            let problem = Problem::new(q, k, v, o, false, None).unwrap();
            let device = Properties::h200();
            for plan in Plan::all(&problem, &device).unwrap() {
                let Variant { tile: Tile { block_m, block_n, cluster, .. }, cost, .. } = plan.variant;
                let (consumers, splits) = (u64::from(block_m) / CONSUMER_ROWS, plan.variant.split_ctas());
                let keys = (seqlen_kv as u64).div_ceil(u64::from(block_n * splits)) * u64::from(block_n);
                let work = |m_block: u32| {
                    let rows = (seqlen_q as u64).saturating_sub(u64::from(m_block * block_m));
                    rows.div_ceil(CONSUMER_ROWS).min(consumers) * keys + consumers * u64::from(cost.tile_keys)
                };
                // Where CTAs share the keys, those of a cluster are one, and take no more than one work tile: as many
                // clusters as there are SMs for work at a time.
                let persistent = plan.work_tiles.min((device.sm_count / (cluster * splits) * cluster).max(cluster));
                let tiles = |cta| Tiles::new(&plan.params, false, cluster, cta, persistent);
                let busiest = (0..persistent).map(|cta| tiles(cta).map(|tile| work(tile.m_block)).sum::<u64>());
                let busiest = busiest.max().unwrap() * u64::from(cost.key_ps);
                let launch = if cluster > 1 { CLUSTER_LAUNCH_PS } else { 0 };
                let estimated = estimate(&plan.variant, &problem, device.sm_count) - launch;
                let one = work(0) * u64::from(cost.key_ps);
                prop_assert!(estimated.abs_diff(busiest) <= one + busiest / 20, "{estimated} ps, {busiest} ps:\n{plan}");
            }
        }

        #[test]
        fn sums_of_floors(n in 0..200u64, m in 1..300u64, a in 0..1000u64, b in 0..1000u64) {
            prop_assert_eq!(floor_sum(n, m, a, b), (0..n).map(|i| (a * i + b) / m).sum::<u64>());
        }
    }

    #[test]
    fn keys_are_split_where_tiles_are_few() {
        let splits = |heads, seqlen, head_dim, causal| {
            let layout =
                TensorLayout::packed(Dtype::F16, Shape { batch: 1, seqlen, heads, head_dim }, Order::Bhsd);
            let problem = Problem::new(layout, layout, layout, layout, causal, None).unwrap();
            choose(&problem, Properties::h200().sm_count).splits_keys()
        };
        for causal in [false, true] {
            for head_dim in [64, 128] {
                assert!(splits(8, 512, head_dim, causal));
                // By its estimated costs alone such a kernel would win some of these, which were never measured.
                for seqlen in [1024, 65_536, 131_072] {
                    assert!(!splits(64, seqlen, head_dim, causal), "{seqlen}, {head_dim}, {causal}");
                }
            }
        }
    }

    #[test]
    fn the_longest_sequences_are_estimated() {
        let longest = crate::problem::MAX_DIM as u64;
        let groups = longest.div_ceil(64);
        let about = (groups as f64).powi(2) / 4.0;
        let counted = causal_steps(128, longest, longest) as f64;
        assert!((counted / about - 1.0).abs() < 1e-6, "{counted}");
    }
}
