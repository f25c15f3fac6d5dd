//! Shapes on the command line.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use flashcore::Dtype;
use flashcore_tests::cases::Case;
use flashcore_tests::grid;

/// `B,H,S,D`: sequences, query heads, length and head_dim of self-attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bhsd([usize; 4]);

impl FromStr for Bhsd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Result<Vec<usize>, _> = text.split(',').map(|size| size.trim().parse()).collect();
        let sizes = sizes.ok().and_then(|sizes| <[usize; 4]>::try_from(sizes).ok());
        sizes.map(Bhsd).ok_or_else(|| format!("{text:?} is not of the form B,H,S,D, such as 4,16,4096,128"))
    }
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
pub(crate) struct Masks {
    /// Causal masks only
    #[arg(long, conflicts_with = "full")]
    causal: bool,
    /// No causal masks
    #[arg(long)]
    full: bool,
}

impl Masks {
    pub(crate) fn list(self) -> &'static [bool] {
        match (self.full, self.causal) {
            (true, _) => &[false],
            (_, true) => &[true],
            _ => &[false, true],
        }
    }
}

/// Shapes given one by one.
#[derive(Args, Clone, Debug)]
pub(crate) struct Shapes {
    /// A shape B,H,S,D (sequences, query heads, length, head_dim); may be repeated
    #[arg(long = "shape", value_name = "B,H,S,D")]
    shapes: Vec<Bhsd>,
    /// Key/value heads of these shapes, if fewer than query heads
    #[arg(long, requires = "shapes", value_name = "N")]
    hkv: Option<usize>,
}

impl Shapes {
    /// The shapes under each of `masks`; none if none was given.
    pub(crate) fn cases(&self, masks: &[bool]) -> Vec<Case> {
        let with_mask = |&causal: &bool| {
            self.shapes.iter().map(move |&Bhsd([batch, heads, seqlen, head_dim])| {
                let case = grid::cell(batch, heads, seqlen, head_dim, causal);
                Case { heads_kv: self.hkv.unwrap_or(heads), ..case }
            })
        };
        masks.iter().flat_map(with_mask).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_four_numbers() {
        assert_eq!("4,16, 4096,128".parse(), Ok(Bhsd([4, 16, 4096, 128])));
        for wrong in ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "-1,2,3,4"] {
            assert!(wrong.parse::<Bhsd>().is_err(), "{wrong}");
        }
    }
}
