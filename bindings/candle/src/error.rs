//! Everything that can go wrong, as one type, and the way through candle's error and back.

use candle_core::{DType, DeviceLocation};
use flashcore::Operand;

/// What a call refused, or what the driver refused.
///
/// candle's functions return [`candle_core::Error`]; this type travels inside, with its text unchanged, and
/// [`Error::of`] finds it again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tensor has more or fewer dimensions than it should.
    #[error("{operand} has {found} dimensions, but needs {expected}: {}", dims(*.operand, *.expected))]
    Rank {
        /// The tensor.
        operand: Operand,
        /// Four, three for packed sequences, one for most numbers.
        expected: usize,
        /// Number of its dimensions.
        found: usize,
    },
    /// The elements of a head are not neighbours.
    #[error("{operand} has stride {stride} along head_dim (elements), but needs 1: call contiguous() on it")]
    HeadDimStride {
        /// The tensor.
        operand: Operand,
        /// Given, in elements.
        stride: usize,
    },
    /// The numbers are not neighbours.
    #[error("{operand} has stride {stride} (elements), but needs 1: call contiguous() on it")]
    NumbersStride {
        /// The tensor.
        operand: Operand,
        /// Given, in elements.
        stride: usize,
    },
    /// The numbers are not one behind the other.
    #[error("{operand} is not contiguous: call contiguous() on it")]
    Gaps {
        /// The tensor.
        operand: Operand,
    },
    /// A range of keys has a first key, and one behind the last.
    #[error(
        "key_ranges has size {found} in its last dimension, but needs 2: the first key, and the one behind the last"
    )]
    RangeEnds {
        /// Given.
        found: usize,
    },
    /// There is one list of blocks for each number of blocks.
    #[error(
        "kv_indices has shape {found:?}, but needs that of kv_num_blocks, {expected:?}, and one size more"
    )]
    ListsShape {
        /// What the numbers of blocks have.
        expected: Vec<usize>,
        /// Given.
        found: Vec<usize>,
    },
    /// The tensor is not where the first one of the call is.
    #[error("{operand} is on {found:?}, but {expected:?} is needed to agree with the other tensors")]
    Device {
        /// The tensor.
        operand: Operand,
        /// Where the first one is.
        expected: DeviceLocation,
        /// Where it is.
        found: DeviceLocation,
    },
    /// There are no kernels for such a device, or not without the feature `cuda`.
    #[error(
        "{operand} is on {found:?}, but there are kernels only for CUDA devices (feature `cuda`) and the CPU"
    )]
    NoKernels {
        /// The tensor.
        operand: Operand,
        /// Where it is.
        found: DeviceLocation,
    },
    /// There are no kernels for this element type.
    #[error("{operand} has element type {}, but {} is needed", .found.as_str(), names(dtypes(*.operand)))]
    Dtype {
        /// The tensor.
        operand: Operand,
        /// Given.
        found: DType,
    },
    /// Log-sum-exps are f32.
    #[error("lse1 and lse2 have element type {}, but f32 is needed", .found.as_str())]
    LseDtype {
        /// Given.
        found: DType,
    },
    /// There is one log-sum-exp for each row of o1.
    #[error("lse1 and lse2 have shape {found:?}, but {expected:?} is needed: (batch, heads, seqlen)")]
    LseShape {
        /// What o1 has.
        expected: Vec<usize>,
        /// Given.
        found: Vec<usize>,
    },
    /// What flashcore refused.
    #[error(transparent)]
    Flashcore(#[from] flashcore::Error),
}

/// [`std::result::Result`] with this crate's [`enum@Error`].
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The element types that a tensor may have.
pub(crate) fn dtypes(operand: Operand) -> &'static [DType] {
    match operand {
        Operand::StartsQ
        | Operand::StartsKv
        | Operand::UsedQ
        | Operand::UsedKv
        | Operand::Prefix
        | Operand::KeyRanges
        | Operand::BlockCounts
        | Operand::BlockIndices => &[DType::I32, DType::U32],
        Operand::Sinks | Operand::Slopes => &[DType::F32],
        _ => &[DType::F16, DType::BF16],
    }
}

fn names(dtypes: &[DType]) -> String {
    dtypes.iter().map(DType::as_str).collect::<Vec<_>>().join(" or ")
}

/// The dimensions of a tensor that has so many.
fn dims(operand: Operand, rank: usize) -> &'static str {
    match rank {
        _ if operand == Operand::Bias => "(batch, heads_q, seqlen_q, seqlen_kv)",
        3 if operand == Operand::KeyRanges => "(heads_q, rows of all sequences, 2)",
        _ if operand == Operand::KeyRanges => "(batch, heads_q, seqlen_q, 2)",
        _ if operand == Operand::BlockCounts => "(batch, heads_q, blocks of queries)",
        _ if operand == Operand::BlockIndices => "(batch, heads_q, blocks of queries, room)",
        1 => "the numbers",
        3 => "(rows of all sequences, heads, head_dim)",
        _ => "(batch, seqlen, heads, head_dim)",
    }
}

impl Error {
    /// The error of this crate inside an error of candle's, if one is there.
    pub fn of(error: &candle_core::Error) -> Option<&Error> {
        match error {
            candle_core::Error::Cuda(inner) => inner.downcast_ref(),
            candle_core::Error::WithBacktrace { inner, .. }
            | candle_core::Error::Context { inner, .. }
            | candle_core::Error::WithPath { inner, .. } => Error::of(inner),
            _ => None,
        }
    }
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        // The only variant that keeps both the text and the type of an error.
        candle_core::Error::Cuda(Box::new(error)).bt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_found_behind_what_candle_adds() {
        let error = Error::Rank { operand: Operand::K, expected: 4, found: 3 };
        let of_candle = || candle_core::Error::from(error.clone());
        assert_eq!(Error::of(&of_candle()), Some(&error));
        assert_eq!(Error::of(&of_candle().context("layer 3").with_path("model")), Some(&error));
        assert_eq!(Error::of(&candle_core::Error::msg("other")), None);
        assert!(of_candle().to_string().starts_with("k has 3 dimensions, but needs 4"));
    }
}
