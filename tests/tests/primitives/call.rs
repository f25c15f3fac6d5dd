//! One run of a micro-kernel: all that goes in, and all that comes out.

use std::fmt;
use std::io::{Read, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
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

/// Raw bytes; as text, base64 of a zlib stream.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    pub(crate) fn from_words(words: impl IntoIterator<Item = u32>) -> Self {
        Bytes(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    /// The bytes as little-endian words; there must be whole ones.
    pub(crate) fn words(&self) -> Vec<u32> {
        let (words, rest) = self.0.as_chunks();
        assert!(rest.is_empty(), "{} bytes are no whole words", self.0.len());
        words.iter().map(|&word| u32::from_le_bytes(word)).collect()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> String {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        let packed = encoder.write_all(&bytes.0).and_then(|()| encoder.finish());
        STANDARD.encode(packed.expect("a vector takes what it is given"))
    }
}

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let packed = STANDARD.decode(text).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        ZlibDecoder::new(&*packed).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(Bytes(bytes))
    }
}
