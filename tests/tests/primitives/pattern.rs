//! The swizzles, on byte addresses of shared memory: CUTLASS's `Swizzle<B, 4, 3>`.

use flashcore_kernels::layout::Swizzle;
use serde::{Deserialize, Serialize};

/// How 16-byte chunks are permuted; the name is the width of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pattern {
    None,
    B32,
    B64,
    B128,
}

impl Pattern {
    pub(crate) const ALL: [Pattern; 4] = [Pattern::None, Pattern::B32, Pattern::B64, Pattern::B128];

    /// Bytes of a row; without a swizzle, of a chunk.
    pub(crate) fn width(self) -> u32 {
        match self {
            Pattern::None => 16,
            Pattern::B32 => 32,
            Pattern::B64 => 64,
            Pattern::B128 => 128,
        }
    }

    /// Where the byte of logical address `address` lies: chunk number XOR the number of the 128-byte line, as far as
    /// a row has chunks.
    pub(crate) fn apply(self, address: u32) -> u32 {
        let chunks = self.width() / 16;
        address ^ ((address / 128 % chunks) * 16)
    }

    /// Bits 62 and 63 of a wgmma descriptor.
    pub(crate) fn descriptor_code(self) -> u64 {
        match self {
            Pattern::None => 0,
            Pattern::B128 => 1,
            Pattern::B64 => 2,
            Pattern::B32 => 3,
        }
    }

    /// The same in the words of the library.
    pub(crate) fn library(self) -> Swizzle {
        match self {
            Pattern::None => Swizzle::None,
            Pattern::B32 => Swizzle::B32,
            Pattern::B64 => Swizzle::B64,
            Pattern::B128 => Swizzle::B128,
        }
    }
}

/// The model against `layout.rs`.
pub(crate) fn is_the_librarys() -> Result<(), String> {
    for pattern in Pattern::ALL {
        let library = pattern.library();
        for address in 0..8192 {
            let (model, theirs) = (pattern.apply(address), library.apply(address));
            if model != theirs {
                return Err(format!(
                    "{pattern:?}: byte {address} lies at {model}, the library says {theirs}"
                ));
            }
        }
        if pattern.descriptor_code() != library.descriptor_code() {
            return Err(format!("{pattern:?}: the codes in a descriptor differ"));
        }
    }
    Ok(())
}
