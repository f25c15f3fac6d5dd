//! Shapes on the command line.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use flashcore::Dtype;
use flashcore_tests::cases::Case;
use serde::{Deserialize, Serialize};

/// `B,H,S,D`: sequences, heads, length and head_dim; `H/Hkv` where query heads share keys, and `S/Skv` where there are
/// not as many keys as queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bhsd {
    pub(crate) batch: usize,
    pub(crate) heads_q: usize,
    pub(crate) heads_kv: usize,
    pub(crate) seqlen_q: usize,
    pub(crate) seqlen_kv: usize,
    pub(crate) head_dim: usize,
}

impl Bhsd {
    /// The shape under a mask.
    pub(crate) fn case(self, causal: bool) -> Case {
        let Bhsd { batch, heads_q, heads_kv, seqlen_q, seqlen_kv, head_dim } = self;
        Case { batch, heads_q, heads_kv, seqlen_q, seqlen_kv, head_dim, causal, ..Case::default() }
    }
}

impl From<&Case> for Bhsd {
    fn from(case: &Case) -> Self {
        let &Case { batch, heads_q, heads_kv, seqlen_q, seqlen_kv, head_dim, .. } = case;
        Bhsd { batch, heads_q, heads_kv, seqlen_q, seqlen_kv, head_dim }
    }
}

impl FromStr for Bhsd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!("{text:?} is not of the form B,H,S,D, such as 4,16,4096,128 or 4,16/2,1024/4096,128")
        })
    }
}

fn parse(text: &str) -> Option<Bhsd> {
    let [batch, heads, seqlen, head_dim] = text.split(',').collect::<Vec<_>>().try_into().ok()?;
    let size = |text: &str| text.trim().parse().ok();
    let pair = |text: &str| {
        let (q, kv) = text.split_once('/').unwrap_or((text, text));
        Some((size(q)?, size(kv)?))
    };
    let ((heads_q, heads_kv), (seqlen_q, seqlen_kv)) = (pair(heads)?, pair(seqlen)?);
    Some(Bhsd { batch: size(batch)?, heads_q, heads_kv, seqlen_q, seqlen_kv, head_dim: size(head_dim)? })
}

impl fmt::Display for Bhsd {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let pair = |q: usize, kv: usize| if q == kv { q.to_string() } else { format!("{q}/{kv}") };
        let (heads, seqlen) = (pair(self.heads_q, self.heads_kv), pair(self.seqlen_q, self.seqlen_kv));
        write!(f, "{},{heads},{seqlen},{}", self.batch, self.head_dim)
    }
}

/// The name of a mask.
pub(crate) const fn mask(causal: bool) -> &'static str {
    if causal { "causal" } else { "full" }
}

/// Element types on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtypes {
    #[default]
    F16,
    Bf16,
    Both,
}

impl Dtypes {
    pub(crate) fn list(self) -> &'static [Dtype] {
        match self {
            Dtypes::F16 => &[Dtype::F16],
            Dtypes::Bf16 => &[Dtype::Bf16],
            Dtypes::Both => &[Dtype::F16, Dtype::Bf16],
        }
    }
}

/// Which mask, if not both.
#[derive(Args, Clone, Copy, Debug)]
struct Masks {
    /// Causal masks only
    #[arg(long, conflicts_with = "full")]
    causal: bool,
    /// No causal masks
    #[arg(long)]
    full: bool,
}

impl Masks {
    fn list(self) -> &'static [bool] {
        match (self.full, self.causal) {
            (true, _) => &[false],
            (_, true) => &[true],
            _ => &[false, true],
        }
    }
}

/// Shapes given one by one, and the masks for these or others.
#[derive(Args, Clone, Debug)]
pub(crate) struct Shapes {
    /// A shape B,H,S,D (sequences, heads, length, head_dim); H/Hkv if query heads share keys, S/Skv if there are not as
    /// many keys as queries; may be repeated
    #[arg(long = "shape", value_name = "B,H,S,D")]
    shapes: Vec<Bhsd>,
    #[command(flatten)]
    masks: Masks,
}

impl Shapes {
    /// Whether masks are causal: those that were asked for.
    pub(crate) fn masks(&self) -> &'static [bool] {
        self.masks.list()
    }

    /// The shapes that were given.
    pub(crate) fn list(&self) -> &[Bhsd] {
        &self.shapes
    }

    /// The shapes under each of the masks; none if none was given.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let under = |&causal: &bool| self.shapes.iter().map(move |shape| shape.case(causal));
        self.masks().iter().flat_map(under).collect()
    }

    /// The same, but what `others` makes of the masks if no shape was given.
    pub(crate) fn cases_or(&self, others: impl FnOnce(&[bool]) -> Vec<Case>) -> Vec<Case> {
        if self.shapes.is_empty() { others(self.masks()) } else { self.cases() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_four_numbers_or_pairs() {
        let shape =
            Bhsd { batch: 4, heads_q: 16, heads_kv: 16, seqlen_q: 4096, seqlen_kv: 4096, head_dim: 128 };
        assert_eq!("4,16, 4096,128".parse(), Ok(shape));
        let shape = Bhsd { heads_kv: 2, seqlen_q: 1, ..shape };
        assert_eq!("4,16/2,1/4096,128".parse(), Ok(shape));
        for wrong in ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "-1,2,3,4", "1,2/,3,4", "1/1,2,3,4", "1,2,3/4/5,6"]
        {
            assert!(wrong.parse::<Bhsd>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_printed_can_be_given() {
        for text in ["4,16,4096,128", "1,8/2,512,64", "1,8,1/16384,64", "2,64/8,17/300,72"] {
            let shape: Bhsd = text.parse().unwrap();
            assert_eq!(shape.to_string(), text);
            assert_eq!(Bhsd::from(&shape.case(true)), shape);
        }
    }
}
