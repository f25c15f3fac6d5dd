//! Random shapes, such as models might ask for. They do not depend on which kernels there are.

use flashcore::Dtype;
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::shape::Bhsd;
use crate::timing::guess_ms;

const MAX_BATCH: usize = 32;
const MAX_HEADS: usize = 64;
const MAX_SEQLEN: usize = 16_384;
/// Self-attention of less is nobody's business; a few queries to many keys are.
const MIN_SELF: usize = 64;
/// Query heads that share a K/V head.
const GQA_RATIOS: [usize; 4] = [1, 2, 4, 8];
/// Head dims are multiples of this, up to so many of them.
const HEAD_DIM_STEP: usize = 8;
const MAX_STEPS: usize = 32;
/// Q, K, V and O take no more than this together.
const MAX_BYTES: usize = 4_000_000_000;
/// A kernel takes about this long at most.
const MAX_MS: f64 = 5.0;

/// Random shapes without end, under `masks` and in `dtypes`.
pub(super) fn shapes(seed: u64, masks: &[bool], dtypes: &[Dtype]) -> impl Iterator<Item = (Case, Dtype)> {
    let mut rng = StdRng::seed_from_u64(seed);
    std::iter::repeat_with(move || (draw(&mut rng, masks), *dtypes.choose(&mut rng).unwrap_or(&Dtype::F16)))
        .filter(|(case, _)| bytes(case) <= MAX_BYTES && guess_ms(case) <= MAX_MS)
}

fn draw(rng: &mut StdRng, masks: &[bool]) -> Case {
    let causal = *masks.choose(rng).unwrap_or(&false);
    let ratio = *GQA_RATIOS.choose(rng).unwrap_or(&1);
    let heads_kv = log_uniform(rng, 1, MAX_HEADS / ratio);
    let (mut seqlen_q, mut seqlen_kv) = if rng.random() {
        let seqlen = log_uniform(rng, MIN_SELF, MAX_SEQLEN);
        (seqlen, seqlen)
    } else {
        (log_uniform(rng, 1, MAX_SEQLEN), log_uniform(rng, 1, MAX_SEQLEN))
    };
    if causal && seqlen_q > seqlen_kv {
        // Queries that see no key are legal, but nobody asks for them.
        std::mem::swap(&mut seqlen_q, &mut seqlen_kv);
    }
    let common = KERNEL_HEAD_DIMS.choose(rng).copied().filter(|_| rng.random());
    let head_dim = common.unwrap_or_else(|| HEAD_DIM_STEP * rng.random_range(1..=MAX_STEPS));
    let batch = log_uniform(rng, 1, MAX_BATCH);
    Bhsd { batch, heads_q: heads_kv * ratio, heads_kv, seqlen_q, seqlen_kv, head_dim }.case(causal)
}

/// A number from `low` to `high`; every factor of two is as likely as another.
fn log_uniform(rng: &mut StdRng, low: usize, high: usize) -> usize {
    let number = low as f64 * ((high + 1) as f64 / low as f64).powf(rng.random());
    (number as usize).clamp(low, high)
}

/// Bytes of Q, K, V and O.
fn bytes(case: &Case) -> usize {
    let Case { batch, heads_q, heads_kv, seqlen_q, seqlen_kv, head_dim, .. } = case;
    2 * (heads_q * seqlen_q + heads_kv * seqlen_kv) * batch * head_dim * Dtype::SIZE as usize
}

#[cfg(test)]
mod tests {
    use flashcore::Plan;
    use flashcore::driver::Properties;

    use super::*;

    const DTYPES: [Dtype; 2] = [Dtype::F16, Dtype::Bf16];

    #[test]
    fn random_shapes_are_legal_and_within_bounds() {
        for (case, dtype) in (0..20).flat_map(|seed| shapes(seed, &[false, true], &DTYPES).take(100)) {
            assert!((1..=MAX_BATCH).contains(&case.batch), "{case}");
            assert!((1..=MAX_HEADS).contains(&case.heads_q), "{case}");
            assert!((1..=MAX_SEQLEN).contains(&case.seqlen_q), "{case}");
            assert!((1..=MAX_SEQLEN).contains(&case.seqlen_kv), "{case}");
            assert!(bytes(&case) <= MAX_BYTES && guess_ms(&case) <= MAX_MS, "{case}");
            assert!(!case.causal || case.seqlen_q <= case.seqlen_kv, "{case}");
            let problem = case.problem(dtype).unwrap();
            assert!(GQA_RATIOS.contains(&problem.gqa_ratio()), "{case}");
            let device = Properties::h200();
            let choice = Plan::new(&problem, &device).unwrap();
            assert!(Plan::all(&problem, &device).unwrap().contains(&choice), "{case}");
        }
    }

    #[test]
    fn random_shapes_are_of_all_kinds() {
        let drawn: Vec<_> = shapes(1, &[false, true], &DTYPES).take(300).collect();
        let share = |kind: &dyn Fn(&Case) -> bool| {
            drawn.iter().filter(|(case, _)| kind(case)).count() as f64 / drawn.len() as f64
        };
        for (kind, share) in [
            ("causal", share(&|case| case.causal)),
            ("full", share(&|case| !case.causal)),
            ("as many keys as queries", share(&|case| case.seqlen_q == case.seqlen_kv)),
            ("a kernel's own head_dim", share(&|case| KERNEL_HEAD_DIMS.contains(&case.head_dim))),
            ("grouped heads", share(&|case| case.heads_q != case.heads_kv)),
            ("short", share(&|case| case.seqlen_q < 128)),
            ("long", share(&|case| case.seqlen_kv > 2048)),
        ] {
            assert!((0.15..0.85).contains(&share), "{kind}: {share}");
        }
        assert!(DTYPES.iter().all(|wanted| drawn.iter().any(|(_, dtype)| dtype == wanted)));
    }

    #[test]
    fn a_seed_always_draws_the_same() {
        let drawn = |seed| shapes(seed, &[true], &DTYPES).take(10).collect::<Vec<_>>();
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }
}
