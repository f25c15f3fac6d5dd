//! What a problem has beside Q, K and V: lengths of sequences, slopes, biases, sinks, ranges of keys, visible tiles.
//! All that is random comes from a seed.

use std::ops::Range;

use rand::seq::index::sample;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};

use crate::oracle::Broadcast;

/// How long the sequences of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lengths {
    /// All alike.
    Equal(usize),
    /// 1 to `longest`, each as likely.
    Uniform {
        /// The largest length.
        longest: usize,
    },
    /// From `shortest` to `longest`, each doubling as likely: a few long sequences among many short ones.
    LogUniform {
        /// The smallest length, at least 1.
        shortest: usize,
        /// The largest length.
        longest: usize,
    },
    /// Uniform, but a third of the sequences are empty: the first, the last (of three or more), and others at random.
    WithZeros {
        /// The largest length.
        longest: usize,
    },
    /// Uniform, but half of the sequences have one token, as in a batch that mixes prefill and decoding.
    WithOnes {
        /// The largest length.
        longest: usize,
    },
    /// These, for as many sequences.
    Given(&'static [usize]),
}

impl Lengths {
    /// Log-uniform from 64 to 8192.
    pub const SERVED: Lengths = Lengths::LogUniform { shortest: 64, longest: 8192 };

    /// The lengths of `batch` sequences.
    ///
    /// # Panics
    /// If the smallest length is 0 or above the largest.
    pub fn draw(self, batch: usize, seed: u64) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut uniform = |longest| (0..batch).map(|_| rng.random_range(1..=longest)).collect::<Vec<usize>>();
        match self {
            Lengths::Equal(length) => vec![length; batch],
            Lengths::Uniform { longest } => uniform(longest),
            Lengths::LogUniform { shortest, longest } => {
                assert!(0 < shortest && shortest <= longest, "lengths of {shortest} to {longest}");
                let [low, high] = [shortest, longest].map(|length| (length as f64).ln());
                let length = |_| rng.random_range(low..=high).exp().round() as usize;
                (0..batch).map(length).map(|length| length.clamp(shortest, longest)).collect()
            }
            Lengths::WithZeros { longest } => {
                let mut lengths = uniform(longest);
                let ends = if batch < 3 { vec![0] } else { vec![0, batch - 1] };
                let others = sample(&mut rng, batch, (batch / 3).saturating_sub(ends.len()));
                for b in others.into_iter().chain(ends).filter(|&b| b < batch) {
                    lengths[b] = 0;
                }
                lengths
            }
            Lengths::WithOnes { longest } => {
                let mut lengths = uniform(longest);
                for b in sample(&mut rng, batch, batch / 2) {
                    lengths[b] = 1;
                }
                lengths
            }
            Lengths::Given(lengths) => lengths.to_vec(),
        }
    }
}

/// Where sequences of these lengths begin, one behind the other, and where the last one ends.
///
/// # Panics
/// If the sum is beyond i32.
pub fn cu_seqlens(lengths: &[usize]) -> Vec<i32> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    [0].into_iter().chain(ends).map(|end| i32::try_from(end).expect("a sum that fits")).collect()
}

/// For each sequence, how many tokens of the room for it are in use: any number, now and then none or all.
pub fn seqused(room: &[usize], seed: u64) -> Vec<i32> {
    parts(room, seed).into_iter().map(|used| i32::try_from(used).expect("a length that fits")).collect()
}

/// For each sequence, how many of its first keys all queries see: any number, now and then none or all.
pub fn prefixes(seqlens_kv: &[usize], seed: u64) -> Vec<usize> {
    parts(seqlens_kv, seed)
}

/// A part of each number.
fn parts(wholes: &[usize], seed: u64) -> Vec<usize> {
    let mut rng = StdRng::seed_from_u64(seed);
    let part = |&whole: &usize| match rng.random_range(0..8) {
        0 => 0,
        1 => whole,
        _ => rng.random_range(0..=whole),
    };
    wholes.iter().map(part).collect()
}

/// ALiBi's slopes: 2^(-8 i / heads) for head i, counted from 1.
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    (1..=heads).map(|i| (-8.0 * i as f32 / heads as f32).exp2()).collect()
}

/// Slopes of every head of every sequence, (batch, heads): uniform from 0 to 0.3.
pub fn random_slopes(batch: usize, heads: usize, seed: u64) -> Broadcast<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    Broadcast::per_sequence_and_head(batch, (0..batch * heads).map(|_| rng.random_range(0.0..0.3)).collect())
}

/// A normal bias of mean 0, in multiples of 1/64 from -4 to 4: f16 and bf16 hold the same numbers as f32.
pub fn bias(sizes: [usize; 4], seed: u64) -> Broadcast<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let number = |_| {
        let number: f32 = StandardNormal.sample(&mut rng);
        ((number * 64.0).round() / 64.0).clamp(-4.0, 4.0)
    };
    Broadcast::new(sizes, (0..sizes.iter().product()).map(number).collect())
}

/// A bias that hides: -inf for a share of `hidden` of its elements, 0 for the others.
pub fn hiding_bias(sizes: [usize; 4], hidden: f64, seed: u64) -> Broadcast<f32> {
    let tiles = bitmap(sizes, hidden, seed);
    let number = |&hidden: &bool| if hidden { f32::NEG_INFINITY } else { 0.0 };
    Broadcast::new(sizes, tiles.data.iter().map(number).collect())
}

/// A sink for each query head, normal of mean 0 and standard deviation 2: some matter, some do not.
pub fn sinks(heads: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..heads).map(|_| 2.0 * rng.sample::<f32, _>(StandardNormal)).collect()
}

/// A range of keys for each of `rows` queries, within `seqlen_kv` keys. One in eight is empty, as many hold all keys.
pub fn key_ranges(rows: usize, seqlen_kv: usize, seed: u64) -> Vec<Range<usize>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let range = |_| {
        let [a, b] = [(); 2].map(|()| rng.random_range(0..=seqlen_kv));
        match rng.random_range(0..8) {
            0 => a..a,
            1 => 0..seqlen_kv,
            _ => a.min(b)..a.max(b),
        }
    };
    (0..rows).map(range).collect()
}

/// A range of keys for each of `rows` queries: the document that it is in, of those that fill the keys.
pub fn document_ranges(rows: usize, seqlen_kv: usize, seed: u64) -> Vec<Range<usize>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let longest = seqlen_kv / 3 + 1;
    let ends = std::iter::successors(Some(0), |&end| Some(end + rng.random_range(1..=longest)));
    let ends: Vec<usize> = ends.take_while(|&end| end < seqlen_kv).chain([seqlen_kv]).collect();
    let document = |row: usize| {
        let key = row * seqlen_kv / rows;
        let next = ends.partition_point(|&end| end <= key).min(ends.len() - 1);
        ends[next.saturating_sub(1)]..ends[next]
    };
    (0..rows).map(document).collect()
}

/// The range of keys of each query where documents of these lengths fill a sequence: its document.
pub fn ranges_of_documents(lengths: &[usize]) -> Vec<Range<usize>> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    let document = |(end, &length): (usize, &usize)| std::iter::repeat_n(end - length..end, length);
    ends.zip(lengths).flat_map(document).collect()
}

/// Bits of the same sizes as those of [`bitmap`]: every second tile, as on a checkerboard; those of the diagonal are set.
pub fn checkerboard(sizes: [usize; 4]) -> Broadcast<bool> {
    let [.., queries, keys] = sizes;
    let bit = |tile: usize| (tile / keys % queries + tile % keys).is_multiple_of(2);
    Broadcast::new(sizes, (0..sizes.iter().product()).map(bit).collect())
}

/// Bits, (batch, heads, tiles of queries, tiles of keys), each set with a probability of `density`.
pub fn bitmap(sizes: [usize; 4], density: f64, seed: u64) -> Broadcast<bool> {
    let mut rng = StdRng::seed_from_u64(seed);
    Broadcast::new(sizes, (0..sizes.iter().product()).map(|_| rng.random_bool(density)).collect())
}

/// Whether dropout with probability `p` keeps the weight of (b, h, i, j): a function of these and the seed alone.
pub fn keep(p: f64, seed: u64) -> impl Fn(usize, usize, usize, usize) -> bool + Send + Sync + 'static {
    move |b, h, i, j| {
        let place = [b, h, i, j].into_iter().fold(seed, |place, index| mixed(place ^ index as u64));
        (place as f64) >= p * 2f64.powi(64)
    }
}

/// A number whose bits all depend on all bits of `x`: the finalizer of SplitMix64.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
