//! What a call asks for beyond plain attention, without addresses.

use std::fmt;

use flashcore_kernels::band::{Band, UNLIMITED};
use flashcore_kernels::config::{Mask, Score};
use flashcore_kernels::divisor::Divisor;

use crate::bias::BiasLayout;
use crate::dropout::Dropout;
use crate::error::{Error, Operand, Result};
use crate::score_mod::Function;
use crate::sparse::SparseSizes;

/// Largest bound of scores. Capped scores are off by about 2⁻²¹ of it, which up to here they do not show.
pub const MAX_SOFTCAP: f32 = 1e4;

/// The key that query i stands at, from which windows are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Align {
    /// Key `i + seqlen_kv - seqlen_q`: the last query stands at the last key.
    #[default]
    BottomRight,
    /// Key i: the first query stands at the first key.
    TopLeft,
}

/// How many slopes ALiBi has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slopes {
    /// One for each query head.
    PerHead,
    /// One for each query head of each sequence.
    PerSequenceAndHead,
}

/// What a call asks for beyond plain attention: see the methods of [`crate::Attention`], which have the formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Features {
    /// Keys that a query sees before the one it stands at; all, if absent.
    pub left: Option<usize>,
    /// Keys that it sees after that one; all, if absent. A causal mask has 0.
    pub right: Option<usize>,
    /// Where queries stand.
    pub align: Align,
    /// Keys of a chunk: a query sees only the one that it stands in.
    pub chunk: Option<usize>,
    /// Whether each sequence has a prefix that all its queries see.
    pub prefix: bool,
    /// Bound of the scores.
    pub softcap: Option<f32>,
    /// Whether the GPU's own hyperbolic tangent is good enough for it.
    pub approximate_tanh: bool,
    /// What says for each query, or block of queries, which keys it may see.
    pub sparse: SparseSizes,
    /// Whether each query head has a logit that joins the denominator.
    pub sinks: bool,
    /// Whether scores fall with the distance between query and key, and how many slopes there are.
    pub alibi: Option<Slopes>,
    /// What is added to scores.
    pub bias: Option<BiasLayout>,
    /// Whether its address is a multiple of 16 bytes, so that it may be loaded in tiles.
    pub bias_is_aligned: bool,
    /// The function that changes scores, if there is one.
    pub function: Option<Function>,
    /// Which weights are left out.
    pub dropout: Option<Dropout>,
    /// Sequences packed one behind the other in q and out, if they are.
    pub packed_q: Option<usize>,
    /// The same in k and v.
    pub packed_kv: Option<usize>,
    /// Whether it is said how many queries of each sequence count.
    pub used_q: bool,
    /// The same for keys.
    pub used_kv: bool,
}

impl Features {
    /// Nothing: every query sees every key.
    pub const NONE: Features = Features {
        left: None,
        right: None,
        align: Align::BottomRight,
        chunk: None,
        prefix: false,
        sparse: SparseSizes::NONE,
        softcap: None,
        approximate_tanh: false,
        sinks: false,
        alibi: None,
        bias: None,
        bias_is_aligned: false,
        function: None,
        dropout: None,
        packed_q: None,
        packed_kv: None,
        used_q: false,
        used_kv: false,
    };

    /// A causal mask, or nothing.
    pub fn causal(causal: bool) -> Self {
        Features { right: causal.then_some(0), ..Features::default() }
    }

    /// Checks what can be checked without tensors.
    pub(crate) fn check(&self) -> Result<()> {
        if self.chunk == Some(0) {
            return Err(Error::EmptyChunk);
        }
        if self.function.is_some() && (self.adds_to_scores() || self.softcap.is_some()) {
            return Err(Error::ScoreModAlone);
        }
        if self.sparse.any() && !matches!(self.score(), Score::Plain | Score::Custom) {
            return Err(Error::SparseScores);
        }
        if let Some(dropout) = &self.dropout {
            dropout.check()?;
            if self.function.is_some() {
                return Err(Error::DropoutOfScoreMod);
            }
        }
        if self.bias.is_some() {
            for (operand, packed) in [(Operand::StartsQ, self.packed_q), (Operand::StartsKv, self.packed_kv)]
            {
                if packed.is_some() {
                    return Err(Error::BiasOfPacked { operand });
                }
            }
        }
        if self.prefix && (self.left.is_some() || self.chunk.is_some()) {
            return Err(Error::PrefixUnderWindow);
        }
        match self.softcap {
            Some(softcap) if !(f32::MIN_POSITIVE..=MAX_SOFTCAP).contains(&softcap) => {
                Err(Error::Softcap { softcap })
            }
            _ => Ok(()),
        }
    }

    /// The mask that a kernel needs.
    pub(crate) fn mask(&self) -> Mask {
        if self.sparse.any() {
            return Mask::Sparse;
        }
        let banded =
            self.left.is_some() || self.chunk.is_some() || self.prefix || self.align != Align::BottomRight;
        let general = banded || self.score() != Score::Plain || self.sinks || self.ragged();
        match (general, self.right) {
            (false, None) => Mask::Full,
            (false, Some(0)) => Mask::Causal,
            _ => Mask::Band,
        }
    }

    /// What kernels do to scores; those that add to them can leave out weights, too.
    pub(crate) fn score(&self) -> Score {
        let biased = self.adds_to_scores() || self.drops_weights();
        match (self.function, biased, self.softcap) {
            (Some(_), ..) => Score::Custom,
            (None, true, _) => Score::Biased,
            (None, false, Some(_)) => Score::Softcap,
            (None, false, None) => Score::Plain,
        }
    }

    fn adds_to_scores(&self) -> bool {
        self.alibi.is_some() || self.bias.is_some()
    }

    /// Whether weights are left out.
    pub(crate) fn drops_weights(&self) -> bool {
        self.dropout.is_some_and(|dropout| dropout.drops())
    }

    /// Whether only the device knows how long sequences are.
    pub(crate) fn ragged(&self) -> bool {
        self.packed_q.is_some() || self.packed_kv.is_some() || self.used_q || self.used_kv
    }

    /// Whether tiles of one sequence differ in cost.
    pub(crate) fn uneven(&self) -> bool {
        self.left.is_none() && self.right.is_some() && self.chunk.is_none()
    }

    /// The band of a launch; the prefix is filled in there.
    pub(crate) fn band(&self) -> Band {
        let distance =
            |keys: Option<usize>| keys.map_or(UNLIMITED, |keys| keys.min(UNLIMITED as usize) as i32);
        Band {
            prefix: 0,
            left: distance(self.left),
            right: distance(self.right),
            chunk: Divisor::new(self.chunk.map_or(0, |keys| keys.min(UNLIMITED as usize) as u32)),
            top_left: u32::from(self.align == Align::TopLeft),
            reserved: 0,
        }
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.left, self.right) {
            (None, None) => write!(f, "full")?,
            (None, Some(0)) => write!(f, "causal")?,
            (left, right) => {
                let keys = |keys: Option<usize>| keys.map_or("all".to_owned(), |keys| keys.to_string());
                write!(f, "window {} to {}", keys(left), keys(right))?;
            }
        }
        if self.align == Align::TopLeft {
            write!(f, " from top-left")?;
        }
        if let Some(keys) = self.chunk {
            write!(f, ", chunks of {keys}")?;
        }
        if let Some(softcap) = self.softcap {
            write!(f, ", softcap {}{softcap}", if self.approximate_tanh { "about " } else { "" })?;
        }
        if let Some(dropout) = self.dropout {
            write!(f, ", dropout {}", dropout.p())?;
        }
        for (sequences, of) in [(self.packed_q, "queries"), (self.packed_kv, "keys")] {
            if let Some(sequences) = sequences {
                write!(f, ", {sequences} sequences of {of}")?;
            }
        }
        let parts = [
            (self.prefix, "prefixes"),
            (self.sparse.ranges.is_some(), "ranges of keys"),
            (self.sparse.blocks.is_some(), "a block mask"),
            (self.sinks, "sinks"),
            (self.alibi.is_some(), "ALiBi"),
            (self.bias.is_some(), "bias"),
            (self.function.is_some(), "a function of scores"),
            (self.used_q, "used queries"),
            (self.used_kv, "used keys"),
        ];
        parts.into_iter().filter(|(there, _)| *there).try_for_each(|(_, what)| write!(f, ", {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Dtype;

    #[test]
    fn chunks_have_keys() {
        assert_eq!(Features { chunk: Some(0), ..Features::NONE }.check(), Err(Error::EmptyChunk));
        assert_eq!(Features { chunk: Some(1), ..Features::NONE }.check(), Ok(()));
    }

    #[test]
    fn prefixes_go_with_one_range_of_keys() {
        let prefix = Features { prefix: true, ..Features::causal(true) };
        assert_eq!(prefix.check(), Ok(()));
        assert_eq!(Features { left: Some(7), ..prefix }.check(), Err(Error::PrefixUnderWindow));
        assert_eq!(Features { chunk: Some(7), ..prefix }.check(), Err(Error::PrefixUnderWindow));
    }

    #[test]
    fn a_bias_has_sequences_of_one_length() {
        let bias = Features { bias: Some(BiasLayout::packed(Dtype::F16, [1; 4])), ..Features::NONE };
        assert_eq!((bias.check(), bias.score()), (Ok(()), Score::Biased));
        assert_eq!(Features { used_kv: true, ..bias }.check(), Ok(()));
        for (packed, operand) in [
            (Features { packed_q: Some(2), ..bias }, Operand::StartsQ),
            (Features { packed_kv: Some(2), ..bias }, Operand::StartsKv),
        ] {
            assert_eq!(packed.check(), Err(Error::BiasOfPacked { operand }));
        }
    }

    #[test]
    fn sparse_kernels_only_scale_scores() {
        for sizes in [
            SparseSizes { ranges: Some([1, 1]), ..SparseSizes::NONE },
            SparseSizes { blocks: Some([1, 1, 3, 3]), ..SparseSizes::NONE },
        ] {
            let sparse = Features { sparse: sizes, sinks: true, left: Some(4), ..Features::NONE };
            assert_eq!((sparse.check(), sparse.mask()), (Ok(()), Mask::Sparse));
            for scored in [
                Features { softcap: Some(4.0), ..sparse },
                Features { alibi: Some(Slopes::PerHead), ..sparse },
                Features { bias: Some(BiasLayout::packed(Dtype::F16, [1; 4])), ..sparse },
                Features { dropout: Some(Dropout::new(0.1, 1)), ..sparse },
            ] {
                assert_eq!(scored.check(), Err(Error::SparseScores));
            }
        }
    }

    #[test]
    fn softcaps_are_positive_and_ordinary() {
        let check = |softcap| Features { softcap: Some(softcap), ..Features::NONE }.check();
        for softcap in [f32::MIN_POSITIVE, 1e-30, 0.5, 30.0, MAX_SOFTCAP] {
            assert_eq!(check(softcap), Ok(()), "{softcap}");
        }
        for softcap in
            [0.0, -0.0, -30.0, 1e-40, MAX_SOFTCAP.next_up(), f32::MAX, f32::INFINITY, f32::NEG_INFINITY]
        {
            assert_eq!(check(softcap), Err(Error::Softcap { softcap }));
        }
        assert!(matches!(check(f32::NAN), Err(Error::Softcap { softcap }) if softcap.is_nan()));
    }

    #[test]
    fn only_what_plain_kernels_cannot_do_takes_a_general_one() {
        let causal = Features::causal(true);
        assert_eq!((Features::NONE.mask(), causal.mask()), (Mask::Full, Mask::Causal));
        assert_eq!(Features { right: Some(1), ..Features::NONE }.mask(), Mask::Band);
        for plain in [Features::NONE, causal] {
            for general in [
                Features { left: Some(0), ..plain },
                Features { align: Align::TopLeft, ..plain },
                Features { chunk: Some(8), ..plain },
                Features { prefix: true, ..plain },
                Features { softcap: Some(1.0), ..plain },
                Features { sinks: true, ..plain },
                Features { alibi: Some(Slopes::PerHead), ..plain },
                Features { bias: Some(BiasLayout::packed(Dtype::F16, [1; 4])), ..plain },
                Features { dropout: Some(Dropout::new(0.1, 1)), ..plain },
                Features { packed_q: Some(1), ..plain },
                Features { packed_kv: Some(1), ..plain },
                Features { used_q: true, ..plain },
                Features { used_kv: true, ..plain },
            ] {
                assert_eq!(general.mask(), Mask::Band, "{general}");
            }
        }
    }

    #[test]
    fn dropout_takes_kernels_that_can_add_to_scores() {
        let dropout = |p| Features { dropout: Some(Dropout::new(p, 1)), ..Features::NONE };
        assert_eq!((dropout(0.1).score(), dropout(0.1).check()), (Score::Biased, Ok(())));
        let nothing = dropout(0.0);
        assert_eq!((nothing.score(), nothing.mask(), nothing.check()), (Score::Plain, Mask::Full, Ok(())));
        assert_eq!(dropout(1.0).check(), Err(Error::DropoutRate { p: 1.0 }));
    }

    #[test]
    fn distances_that_no_query_has_are_none() {
        let far = Features {
            left: Some(usize::MAX),
            right: Some(1 << 29),
            chunk: Some(usize::MAX),
            ..Features::NONE
        };
        let expected = Band { chunk: Divisor::new(UNLIMITED as u32), ..Features::NONE.band() };
        assert_eq!((far.band(), Features::NONE.band()), (expected, Band::FULL));
        let near = Features { left: Some(5), right: Some(0), chunk: Some(9), align: Align::TopLeft, ..far };
        let expected = Band { left: 5, right: 0, chunk: Divisor::new(9), top_left: 1, ..Band::FULL };
        assert_eq!(near.band(), expected);
    }

    #[test]
    fn they_print_as_people_would_say_them() {
        let all = Features {
            left: Some(127),
            right: None,
            align: Align::TopLeft,
            chunk: Some(64),
            prefix: true,
            sparse: SparseSizes { ranges: Some([1, 1]), blocks: Some([1, 1, 1, 1]) },
            softcap: Some(30.5),
            approximate_tanh: true,
            sinks: true,
            alibi: Some(Slopes::PerHead),
            bias: Some(BiasLayout::packed(Dtype::F16, [1; 4])),
            bias_is_aligned: true,
            function: None,
            dropout: Some(Dropout::new(0.1, 1)),
            packed_q: Some(3),
            packed_kv: Some(3),
            used_q: true,
            used_kv: true,
        };
        for (features, expected) in [
            (Features::NONE, "full"),
            (Features::causal(true), "causal"),
            (Features { left: Some(100), right: Some(0), ..Features::NONE }, "window 100 to 0"),
            (
                all,
                "window 127 to all from top-left, chunks of 64, softcap about 30.5, dropout 0.1, 3 sequences of queries, \
                 3 sequences of keys, prefixes, ranges of keys, a block mask, sinks, ALiBi, bias, used queries, used keys",
            ),
        ] {
            assert_eq!(features.to_string(), expected);
        }
    }
}
