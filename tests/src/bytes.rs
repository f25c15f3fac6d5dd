//! Bytes in goldens.

use std::fmt;
use std::io::{Read, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use serde::{Deserialize, Serialize};

/// Raw bytes; as text, base64 of a zlib stream.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// Of little-endian words.
    pub fn from_words(words: impl IntoIterator<Item = u32>) -> Self {
        Bytes(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    /// The bytes as little-endian words.
    ///
    /// # Panics
    /// If they are no whole words.
    pub fn words(&self) -> Vec<u32> {
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
