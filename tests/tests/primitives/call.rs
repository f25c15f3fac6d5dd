//! One run of a micro-kernel: all that goes in, and all that comes out.

pub(crate) use flashcore_tests::bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;

/// All that goes in. What the numbers mean is said at each probe, in `flashcore_kernels::probe`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) symbol: String,
    pub(crate) desc_a: u64,
    pub(crate) desc_b: u64,
    pub(crate) bytes: u32,
    pub(crate) words: [i32; 5],
    pub(crate) input: Bytes,
    pub(crate) output_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tensor: Option<Tensor>,
}

/// All that comes out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) output: Bytes,
    /// The memory around the tensor, if it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Bytes>,
}

/// A tensor in global memory, and how its tensor map describes it: dimensions innermost first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tensor {
    pub(crate) element: Element,
    pub(crate) dims: Vec<u64>,
    /// Of all dimensions but the innermost.
    pub(crate) strides_bytes: Vec<u64>,
    pub(crate) box_dims: Vec<u32>,
    pub(crate) pattern: Pattern,
    /// Whether loads fill with NaN instead of 0.
    pub(crate) nan_fill: bool,
    /// The tensor, with [`MARGIN`] bytes before and after it.
    pub(crate) memory: Bytes,
}

/// Bytes before and after a tensor, which nothing may touch.
pub(crate) const MARGIN: usize = 256;

impl Tensor {
    pub(crate) fn box_bytes(&self) -> u32 {
        self.box_dims.iter().product::<u32>() * self.element.bytes()
    }
}

/// Element types of the tensor maps under test, one of each size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Element {
    U8,
    F16,
    F32,
}

impl Element {
    pub(crate) fn bytes(self) -> u32 {
        match self {
            Element::U8 => 1,
            Element::F16 => 2,
            Element::F32 => 4,
        }
    }
}
