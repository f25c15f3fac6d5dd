//! A problem of attention with everything that implementations may differ in: lengths, mask, scores.

use std::fmt;
use std::ops::Range;

use flashcore::{MASK_BLOCK, Slopes};
use flashcore_tests::cases::Case;
use flashcore_tests::extras::{Bias, Blocks, Dropout, Extras, PerHead, Prefix, RangeKind, Ranges};
use flashcore_tests::side_inputs;
use serde::{Deserialize, Serialize};

/// A problem; everything but the element type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Feature {
    /// What it is there for.
    pub(crate) name: String,
    /// Query heads.
    pub(crate) heads_q: usize,
    /// Key and value heads.
    pub(crate) heads_kv: usize,
    /// Columns of Q and K.
    pub(crate) head_dim: usize,
    /// Columns of V and of the output.
    pub(crate) head_dim_v: usize,
    /// How long the sequences are.
    pub(crate) lengths: Lengths,
    /// Who sees whom.
    pub(crate) mask: Mask,
    /// What becomes of scores before the softmax, or of weights after it.
    pub(crate) score: Score,
}

/// How long sequences are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Lengths {
    /// All alike.
    Dense {
        /// Sequences.
        batch: usize,
        /// Queries of each.
        seqlen_q: usize,
        /// Keys of each.
        seqlen_kv: usize,
    },
    /// Queries and keys of each; all tokens lie one after another, as packed documents do.
    Varlen(Vec<(usize, usize)>),
    /// Documents of so many tokens fill one sequence, and each query has a range of keys, those of its document. No mask
    /// but causal ones and windows goes with it.
    Documents(Vec<usize>),
}

/// Who sees whom. The last query is level with the last key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mask {
    /// How many keys before it a query sees at most; None: all.
    pub(crate) left: Option<usize>,
    /// How many keys after it a query sees at most; None: all.
    pub(crate) right: Option<usize>,
    /// Keys, from the first, that every query sees.
    pub(crate) prefix: usize,
    /// Only every second block of 128 queries and 128 keys counts, as on a checkerboard; those of the diagonal do.
    /// Sequences are dense.
    pub(crate) checkerboard: bool,
}

/// What becomes of scores, scaled by 1/sqrt(head_dim), before the softmax, or of weights after it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Score {
    /// Nothing.
    Plain,
    /// cap tanh(score / cap).
    Softcap {
        /// What no score exceeds.
        cap: f64,
        /// Whether our kernels, as FlashAttention's, may take the GPU's own hyperbolic tangent.
        approximate: bool,
    },
    /// Less the distance between query and key times the head's slope, 2^(-8 (head + 1) / heads).
    Alibi,
    /// Plus an element of a tensor in the element type of Q.
    Bias {
        /// Whether it has the shape (batch, heads, queries, keys), or (1, 1, queries, keys).
        per_head: bool,
    },
    /// Each head has one score more, whose value is zero.
    Sinks,
    /// Weights are left out at random.
    Dropout {
        /// How many of 256 are kept on average.
        keep_256: u32,
    },
}

impl Mask {
    /// Every key.
    pub(crate) const FULL: Mask = Mask { left: None, right: None, prefix: 0, checkerboard: false };
    /// No later key.
    pub(crate) const CAUSAL: Mask = Mask { right: Some(0), ..Mask::FULL };

    /// The `left` keys before a query, and its own.
    pub(crate) const fn window(left: usize) -> Self {
        Mask { left: Some(left), ..Mask::CAUSAL }
    }

    /// Pairs of a query and a key that it sees.
    fn pairs(&self, queries: usize, keys: usize) -> u64 {
        (0..queries).map(|query| self.keys(query, queries, keys) as u64).sum()
    }

    /// Keys that `query` sees.
    fn keys(&self, query: usize, queries: usize, keys: usize) -> usize {
        // Where there are more queries than keys, the first ones come before every key.
        let at = (query + keys) as i64 - queries as i64;
        let bound = |at: i64| at.clamp(0, keys as i64) as usize;
        let first = self.left.map_or(0, |left| bound(at - left as i64));
        let end = self.right.map_or(keys, |right| bound(at + right as i64 + 1));
        let prefix = self.prefix.min(keys);
        let parts = [0..prefix, first.max(prefix)..end];
        match self.checkerboard {
            false => parts.iter().map(ExactSizeIterator::len).sum(),
            true => parts.iter().map(|part| on_checkerboard(query, part)).sum(),
        }
    }
}

/// Keys of `part` in blocks that count for `query`.
fn on_checkerboard(query: usize, part: &Range<usize>) -> usize {
    let blocks = part.start / MASK_BLOCK..part.end.div_ceil(MASK_BLOCK);
    let counts = |block: &usize| (block + query / MASK_BLOCK).is_multiple_of(2);
    let keys = |block: usize| {
        let (first, end) = (block * MASK_BLOCK, (block + 1) * MASK_BLOCK);
        part.end.min(end).saturating_sub(part.start.max(first))
    };
    blocks.filter(counts).map(keys).sum()
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.left, self.right) {
            (None, None) => write!(f, "full")?,
            (None, Some(0)) => write!(f, "causal")?,
            (Some(left), Some(0)) => write!(f, "window {left}")?,
            (left, right) => {
                let side = |side: Option<usize>| side.map_or("all".to_owned(), |keys| keys.to_string());
                write!(f, "window {}..{}", side(left), side(right))?;
            }
        }
        if self.prefix > 0 {
            write!(f, ", prefix {}", self.prefix)?;
        }
        if self.checkerboard {
            write!(f, ", checkerboard")?;
        }
        Ok(())
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Score::Plain => write!(f, "plain"),
            Score::Softcap { cap, approximate: false } => write!(f, "softcap {cap}"),
            Score::Softcap { cap, approximate: true } => write!(f, "softcap {cap}, tanh.approx"),
            Score::Alibi => write!(f, "ALiBi"),
            Score::Bias { per_head: true } => write!(f, "bias (B,H,S,S)"),
            Score::Bias { per_head: false } => write!(f, "bias (1,1,S,S)"),
            Score::Sinks => write!(f, "sinks"),
            Score::Dropout { keep_256 } => write!(f, "dropout, {keep_256} of 256 kept"),
        }
    }
}

impl From<&Case> for Feature {
    fn from(case: &Case) -> Self {
        let &Case { batch, seqlen_q, seqlen_kv, heads_q, heads_kv, head_dim, causal, .. } = case;
        Feature {
            name: "dense".to_owned(),
            heads_q,
            heads_kv,
            head_dim,
            head_dim_v: head_dim,
            lengths: Lengths::Dense { batch, seqlen_q, seqlen_kv },
            mask: if causal { Mask::CAUSAL } else { Mask::FULL },
            score: Score::Plain,
        }
    }
}

impl Feature {
    /// The same problem as a case of the tests. Lengths of sequences and documents are kept for ever, since cases are
    /// copied about; there are few.
    pub(crate) fn case(&self) -> Case {
        let &Feature { heads_q, heads_kv, head_dim, mask, .. } = self;
        let Mask { left, right, prefix, checkerboard } = mask;
        let causal = right == Some(0);
        let head_dim_v = Some(self.head_dim_v).filter(|&columns| columns != head_dim);
        let mut extras = Extras {
            head_dim_v,
            left,
            right: right.filter(|_| !causal),
            prefix: (prefix > 0).then_some(Prefix::Keys(prefix)),
            blocks: checkerboard.then_some(Blocks { of: PerHead::ONE, checkerboard }),
            ..Extras::default()
        };
        match self.score {
            Score::Plain => {}
            Score::Softcap { cap, approximate } => {
                (extras.softcap, extras.approximate_tanh) = (Some(cap as f32), approximate);
            }
            Score::Sinks => extras.sinks = true,
            Score::Alibi => extras.alibi = Some(Slopes::PerHead),
            Score::Dropout { keep_256 } => {
                extras.dropout = Some(Dropout { threshold: keep_256, seed: 1, offset: 0 });
            }
            Score::Bias { per_head } => {
                extras.bias = Some(Bias { batch: per_head, heads: per_head, ..Bias::FULL });
            }
        }
        let (batch, seqlen_q, seqlen_kv) = match &self.lengths {
            &Lengths::Dense { batch, seqlen_q, seqlen_kv } => (batch, seqlen_q, seqlen_kv),
            Lengths::Varlen(sequences) => {
                let given = |lengths: Vec<usize>| Some(side_inputs::Lengths::Given(lengths.leak()));
                extras.packed_q = given(sequences.iter().map(|&(queries, _)| queries).collect());
                extras.packed_kv = given(sequences.iter().map(|&(_, keys)| keys).collect());
                (sequences.len(), 0, 0)
            }
            Lengths::Documents(lengths) => {
                let kind = RangeKind::Given(lengths.clone().leak());
                extras.ranges = Some(Ranges { of: PerHead::ONE, kind });
                let tokens = lengths.iter().sum();
                (1, tokens, tokens)
            }
        };
        Case { batch, seqlen_q, seqlen_kv, heads_q, heads_kv, head_dim, causal, extras, ..Case::default() }
    }

    /// Floating-point operations of the forward pass: two products of 2 for each pair of a query and a key that it
    /// sees.
    pub(crate) fn flops(&self) -> f64 {
        let pairs = match &self.lengths {
            &Lengths::Dense { batch, seqlen_q, seqlen_kv } => {
                batch as u64 * self.mask.pairs(seqlen_q, seqlen_kv)
            }
            Lengths::Varlen(sequences) => {
                sequences.iter().map(|&(queries, keys)| self.mask.pairs(queries, keys)).sum()
            }
            Lengths::Documents(lengths) => {
                lengths.iter().map(|&tokens| self.mask.pairs(tokens, tokens)).sum()
            }
        };
        2.0 * pairs as f64 * self.heads_q as f64 * (self.head_dim + self.head_dim_v) as f64
    }

    /// B,H,S,D: as shapes are given on the command line; a range where sequences differ, and D/Dv where V is not as
    /// wide as K.
    pub(crate) fn shape(&self) -> String {
        let pair = |a: String, b: String| if a == b { a } else { format!("{a}/{b}") };
        let numbers = |a: usize, b: usize| pair(a.to_string(), b.to_string());
        let (heads, columns) =
            (numbers(self.heads_q, self.heads_kv), numbers(self.head_dim, self.head_dim_v));
        let (batch, seqlen) = match &self.lengths {
            &Lengths::Dense { batch, seqlen_q, seqlen_kv } => (batch, numbers(seqlen_q, seqlen_kv)),
            Lengths::Varlen(sequences) => {
                let (queries, keys): (Vec<_>, Vec<_>) = sequences.iter().copied().unzip();
                (sequences.len(), pair(range(&queries), range(&keys)))
            }
            Lengths::Documents(lengths) => (1, lengths.iter().sum::<usize>().to_string()),
        };
        format!("{batch},{heads},{seqlen},{columns}")
    }
}

/// The smallest and the largest.
fn range(lengths: &[usize]) -> String {
    match (lengths.iter().min(), lengths.iter().max()) {
        (Some(least), Some(most)) if least < most => format!("{least}-{most}"),
        (least, _) => least.map_or("none".to_owned(), usize::to_string),
    }
}

/// Name, shape, and what is special about mask and scores.
impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}, {}", self.name, self.shape(), self.mask)?;
        if self.score != Score::Plain {
            write!(f, ", {}", self.score)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(seqlen_q: usize, seqlen_kv: usize, mask: Mask) -> Feature {
        let case =
            Case { batch: 3, heads_q: 8, heads_kv: 2, head_dim: 64, seqlen_q, seqlen_kv, ..Case::default() };
        Feature { mask, ..Feature::from(&case) }
    }

    /// Whether a query sees a key, by the definition.
    fn sees(mask: &Mask, query: i64, queries: i64, key: i64, keys: i64) -> bool {
        let apart = key - (query + keys - queries);
        let within = mask.left.is_none_or(|left| -apart <= left as i64)
            && mask.right.is_none_or(|right| apart <= right as i64);
        let counts = !mask.checkerboard || (query / 128 + key / 128) % 2 == 0;
        counts && (within || key < mask.prefix as i64)
    }

    #[test]
    fn pairs_are_counted_as_they_are_defined() {
        let sides = [None, Some(0), Some(1), Some(5), Some(40)];
        let check = |mask: Mask, queries: i64, keys: i64| {
            let pairs = (0..queries).flat_map(|query| (0..keys).map(move |key| (query, key)));
            let seen = pairs.filter(|&(query, key)| sees(&mask, query, queries, key, keys)).count();
            let counted = mask.pairs(queries as usize, keys as usize);
            assert_eq!(counted, seen as u64, "{mask:?}, {queries} queries, {keys} keys");
        };
        for (left, right) in sides.iter().flat_map(|&left| sides.map(|right| (left, right))) {
            for prefix in [0, 1, 4, 12, 100] {
                for (queries, keys) in [(1, 1), (7, 7), (3, 17), (17, 3), (1, 20), (20, 20), (0, 5)] {
                    check(Mask { left, right, prefix, checkerboard: false }, queries, keys);
                }
            }
            for (queries, keys) in [(300, 300), (130, 400), (400, 130)] {
                check(Mask { left, right, prefix: 0, checkerboard: true }, queries, keys);
                check(Mask { left, right, prefix: 270, checkerboard: true }, queries, keys);
            }
        }
    }

    #[test]
    fn operations_are_those_of_visible_pairs() {
        assert_eq!(dense(10, 10, Mask::FULL).flops(), 4.0 * 3.0 * 8.0 * 100.0 * 64.0);
        assert_eq!(dense(10, 10, Mask::CAUSAL).flops(), 4.0 * 3.0 * 8.0 * 55.0 * 64.0);
        assert_eq!(dense(10, 10, Mask::window(2)).flops(), 4.0 * 3.0 * 8.0 * 27.0 * 64.0);
        let varlen = Feature {
            lengths: Lengths::Varlen(vec![(2, 2), (1, 5)]),
            head_dim_v: 32,
            ..dense(1, 1, Mask::CAUSAL)
        };
        assert_eq!(varlen.flops(), 2.0 * 8.0 * 8.0 * 96.0);
        let documents = Feature { lengths: Lengths::Documents(vec![2, 3]), ..varlen };
        assert_eq!(documents.flops(), 2.0 * 9.0 * 8.0 * 96.0);
    }

    #[test]
    fn cases_of_the_tests_are_known_again() {
        for causal in [false, true] {
            let case = Case { batch: 2, seqlen_q: 3, seqlen_kv: 500, heads_kv: 1, causal, ..Case::default() };
            assert_eq!(Feature::from(&case).case(), case);
        }
        let causal = dense(9, 9, Mask::CAUSAL);
        let case = causal.case();
        let window = Feature { mask: Mask::window(1), ..causal.clone() };
        let left = Extras { left: Some(1), ..Extras::default() };
        assert_eq!(window.case(), Case { extras: left, ..case });
        let packed = Feature { lengths: Lengths::Varlen(vec![(9, 9), (2, 4)]), ..causal.clone() };
        let (packed_q, packed_kv) =
            (side_inputs::Lengths::Given(&[9, 2]), side_inputs::Lengths::Given(&[9, 4]));
        let extras = Extras { packed_q: Some(packed_q), packed_kv: Some(packed_kv), ..Extras::default() };
        assert_eq!(packed.case(), Case { batch: 2, seqlen_q: 0, seqlen_kv: 0, extras, ..case });
        let wide = Feature { head_dim_v: 128, ..causal.clone() };
        let head_dim_v = Some(128);
        assert_eq!(wide.case(), Case { extras: Extras { head_dim_v, ..Extras::default() }, ..case });
        let prefix = Feature { mask: Mask { prefix: 5, ..Mask::CAUSAL }, ..causal.clone() };
        let extras = Extras { prefix: Some(Prefix::Keys(5)), ..Extras::default() };
        assert_eq!(prefix.case(), Case { extras, ..case });
        let mask = Mask { checkerboard: true, ..Mask::CAUSAL };
        let blocks = Some(Blocks { of: PerHead::ONE, checkerboard: true });
        let extras = Extras { blocks, ..Extras::default() };
        assert_eq!(Feature { mask, ..causal.clone() }.case(), Case { extras, ..case });
        let documents = Feature { lengths: Lengths::Documents(vec![4, 5]), ..causal };
        let ranges = Some(Ranges { of: PerHead::ONE, kind: RangeKind::Given(&[4, 5]) });
        let extras = Extras { ranges, ..Extras::default() };
        assert_eq!(documents.case(), Case { batch: 1, extras, ..case });
    }

    #[test]
    fn names_say_what_is_special() {
        let cap = Score::Softcap { cap: 15.0, approximate: false };
        let feature = Feature { score: cap, ..dense(1, 4096, Mask { prefix: 8, ..Mask::CAUSAL }) };
        assert_eq!(feature.to_string(), "dense: 3,8/2,1/4096,64, causal, prefix 8, softcap 15");
        let lengths = Lengths::Varlen(vec![(7, 9), (5, 9)]);
        let feature = Feature { lengths, head_dim_v: 128, ..dense(1, 1, Mask::window(4)) };
        assert_eq!(feature.to_string(), "dense: 2,8/2,5-7/9,64/128, window 4");
        assert_eq!(Mask { right: Some(3), ..Mask::window(4) }.to_string(), "window 4..3");
        assert_eq!(Mask { checkerboard: true, ..Mask::FULL }.to_string(), "full, checkerboard");
        let documents = Feature { lengths: Lengths::Documents(vec![7, 9]), ..feature };
        assert_eq!(documents.to_string(), "dense: 1,8/2,16,64/128, window 4");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let dropout = Score::Dropout { keep_256: 230 };
        for score in [
            Score::Plain,
            Score::Softcap { cap: 50.0, approximate: true },
            Score::Bias { per_head: true },
            dropout,
        ] {
            let feature = Feature { score, ..dense(5, 6, Mask::window(3)) };
            let text = serde_json::to_string(&feature).unwrap();
            assert_eq!(serde_json::from_str::<Feature>(&text).unwrap(), feature, "{text}");
        }
    }
}
