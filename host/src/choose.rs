//! Which kernel computes a problem: the one whose busiest SM should be done first.

use flashcore_kernels::config::{Tile, Variant};
use flashcore_kernels::entry::FWD;

use crate::problem::Problem;

/// The kernels that can compute a problem: those of its dtype and mask, and of the narrowest head_dim that is wide
/// enough.
pub(crate) fn eligible(problem: &Problem) -> impl Iterator<Item = &'static Variant> {
    let (dtype, causal, head_dim) = (problem.dtype(), problem.causal, problem.q_shape().head_dim);
    let wide_enough = move || {
        FWD.iter().filter(move |v| v.dtype == dtype && v.causal == causal && v.head_dim as usize >= head_dim)
    };
    let narrowest = wide_enough().map(|variant| variant.head_dim).min();
    wide_enough().filter(move |variant| Some(variant.head_dim) == narrowest)
}

/// The eligible kernel that should take the least time.
pub(crate) fn choose(problem: &Problem, sm_count: u32) -> &'static Variant {
    eligible(problem)
        .min_by_key(|variant| estimate(variant, problem, sm_count))
        .expect("every dtype and mask has a kernel of head_dim 256, and `Problem` admits no more")
}

/// Relative time of a kernel: the keys that its busiest SM visits, masked and padded ones included, with what each work
/// tile costs besides, times the rows of a tile and its cost of a score.
fn estimate(variant: &Variant, problem: &Problem, sm_count: u32) -> u64 {
    let Tile { block_m, block_n, .. } = variant.tile;
    let (q, kv) = (problem.q_shape(), problem.kv_shape());
    let (seqlen_q, seqlen_kv) = (q.seqlen as u64, kv.seqlen as u64);
    let (rows, keys) = (u64::from(block_m), u64::from(block_n));
    let overhead = u64::from(variant.overhead_keys());
    let m_blocks = seqlen_q.div_ceil(rows).next_multiple_of(u64::from(variant.tile.cluster));
    let heads = (q.batch * q.heads) as u64;
    let sms = u64::from(sm_count.max(1));
    // The last tile of a head sees all keys, under a causal mask too.
    let longest = if m_blocks == 0 { 0 } else { seqlen_kv.next_multiple_of(keys) + overhead };
    let busiest = if problem.causal {
        // Tiles of different lengths even out over the SMs.
        let head = causal_n_blocks(rows, keys, seqlen_q, seqlen_kv) * keys + m_blocks * overhead;
        (head.saturating_mul(heads) / sms).max(longest)
    } else {
        m_blocks.saturating_mul(heads).div_ceil(sms).saturating_mul(longest)
    };
    busiest.saturating_mul(u64::from(block_m * variant.cost))
}

/// Key tiles that all query tiles of a head visit under a causal mask: the sum of `KeyBlocks::end`, in a time that does
/// not depend on the lengths.
fn causal_n_blocks(block_m: u64, block_n: u64, seqlen_q: u64, seqlen_kv: u64) -> u64 {
    let Some(last) = seqlen_q.div_ceil(block_m).checked_sub(1) else { return 0 };
    // Tile m sees `(m + 1) * block_m + seqlen_kv - seqlen_q` keys, or none where that is negative; the last sees all.
    let hidden = seqlen_q.saturating_sub(seqlen_kv);
    let blind = (hidden / block_m).min(last);
    let first_sees = ((blind + 1) * block_m + seqlen_kv).saturating_sub(seqlen_q);
    floor_sum(last - blind, block_n, block_m, first_sees + block_n - 1) + seqlen_kv.div_ceil(block_n)
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
    use flashcore_kernels::schedule::KeyBlocks;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn causal_key_tiles_are_those_of_the_schedule(
            variant in prop::sample::select(FWD),
            seqlen_q in 0..5000u32,
            seqlen_kv in 0..5000u32,
        ) {
            let Tile { block_m, block_n, .. } = variant.tile;
            let end = |m| KeyBlocks::new(m * block_m, block_m, block_n, seqlen_q, seqlen_kv, true).end;
            let counted = (0..seqlen_q.div_ceil(block_m)).map(|m| u64::from(end(m))).sum::<u64>();
            let [m, n, q, kv] = [block_m, block_n, seqlen_q, seqlen_kv].map(u64::from);
            prop_assert_eq!(causal_n_blocks(m, n, q, kv), counted);
        }

        #[test]
        fn sums_of_floors(n in 0..200u64, m in 1..300u64, a in 0..1000u64, b in 0..1000u64) {
            prop_assert_eq!(floor_sum(n, m, a, b), (0..n).map(|i| (a * i + b) / m).sum::<u64>());
        }
    }

    #[test]
    fn the_longest_sequences_are_estimated() {
        let longest = crate::problem::MAX_DIM as u64;
        let tiles = longest.div_ceil(128);
        let about = (tiles as f64).powi(2) / 2.0;
        let counted = causal_n_blocks(128, 128, longest, longest) as f64;
        assert!((counted / about - 1.0).abs() < 1e-6, "{counted}");
    }
}
