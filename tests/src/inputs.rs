//! What stands in the tensors of a test. Everything comes from a seed.

use flashcore::Shape;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;
use rayon::prelude::*;

use crate::values::Values;

/// A kind of input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// Standard normal Q, K and V.
    #[default]
    Normal,
    /// Q, K and V of standard deviation 8: the softmax is close to a maximum, and moves late.
    Large,
    /// Scores that rise with the key, so that the maximum moves with every tile, or falls with every tile.
    Rising,
    /// Query i is 8 at column `i % head_dim` and key j 1 at column `j % head_dim`: scores of 8 or 0.
    OneHot,
    /// Q is 1.7 and K 1 everywhere: every key weighs the same. V rises along the keys, from 0 to 64, and shows if one
    /// tile weighs more than another.
    Constant,
    /// Normal, but the last half of the keys and every third before score -inf for every query.
    Masked,
}

impl Fill {
    /// Q, K and V.
    pub fn values(self, q: Shape, kv: Shape, seed: u64) -> [Values; 3] {
        let mut rng = StdRng::seed_from_u64(seed);
        match self {
            Fill::Normal => [normal(q, 1.0, &mut rng), normal(kv, 1.0, &mut rng), normal(kv, 1.0, &mut rng)],
            Fill::Large => [normal(q, 8.0, &mut rng), normal(kv, 8.0, &mut rng), normal(kv, 8.0, &mut rng)],
            Fill::Rising => {
                let steepness = 16.0 / kv.seqlen.max(1) as f32;
                let sign = if rng.random() { 1.0 } else { -1.0 };
                let q =
                    Values::from_fn(q, |_, _, _, d| if d == 0 { (q.head_dim as f32).sqrt() } else { 0.1 });
                let k =
                    Values::from_fn(kv, |_, s, _, d| if d == 0 { sign * steepness * s as f32 } else { 0.1 });
                [q, k, normal(kv, 1.0, &mut rng)]
            }
            Fill::OneHot => {
                let hot = |shape: Shape, height| {
                    Values::from_fn(shape, |_, s, _, d| if s % shape.head_dim == d { height } else { 0.0 })
                };
                [hot(q, 8.0), hot(kv, 1.0), normal(kv, 1.0, &mut rng)]
            }
            Fill::Constant => {
                let all = |shape, value| Values::from_fn(shape, |_, _, _, _| value);
                [
                    all(q, 1.7),
                    all(kv, 1.0),
                    Values::from_fn(kv, |_, s, _, _| 64.0 * s as f32 / kv.seqlen as f32),
                ]
            }
            Fill::Masked => {
                let [mut q, mut k, v] = Fill::Normal.values(q, kv, seed);
                for row in q.data.chunks_mut(q.shape.head_dim) {
                    row[0] = 1.0;
                }
                for b in 0..kv.batch {
                    for s in (0..kv.seqlen).filter(|s| 2 * s >= kv.seqlen || s % 3 == 2) {
                        for h in 0..kv.heads {
                            k.row_mut(b, s, h)[0] = f32::NEG_INFINITY;
                        }
                    }
                }
                [q, k, v]
            }
        }
    }
}

/// Independent normal values of mean 0.
pub fn normal(shape: Shape, deviation: f32, rng: &mut StdRng) -> Values {
    const CHUNK: usize = 1 << 16;
    let mut values = Values::zeros(shape);
    let seed: u64 = rng.random();
    values.data.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(i as u64));
        chunk.fill_with(|| deviation * rng.sample::<f32, _>(StandardNormal));
    });
    values
}
