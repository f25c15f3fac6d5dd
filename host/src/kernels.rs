//! The compiled kernels that this crate carries.

pub use flashcore_kernels::config::{Dtype, Fp8, Tile, Variant};
pub use flashcore_kernels::entry::{
    DROPOUT_MASK, FWD, FWD_FP8, MERGE, MergeVariant, QUANTIZE, QuantizeVariant,
};

use crate::error::{Error, Result};

/// A kernel as the driver takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Name of its entry point.
    pub symbol: &'static str,
    /// Its PTX.
    pub ptx: &'static str,
    /// Its machine code for sm_90a, preferred where the driver takes it.
    pub cubin: Option<&'static [u8]>,
}

// Written by the build script: `IMAGES`, every kernel of this build, and `PTXAS_VERSION`.
include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The compiled kernel of this name.
///
/// # Errors
/// [`Error::KernelMissing`] if this build has none.
pub fn image(symbol: &'static str) -> Result<&'static KernelImage> {
    IMAGES.iter().find(|image| image.symbol == symbol).ok_or(Error::KernelMissing { symbol })
}

#[cfg(test)]
mod tests {
    use flashcore_kernels::entry::entries;

    use super::*;

    #[test]
    fn every_entry_has_an_image() {
        for symbol in entries().map(|entry| entry.symbol) {
            assert!(image(symbol).unwrap().ptx.contains(&format!(".entry {symbol}(")), "{symbol}");
        }
        assert_eq!(IMAGES.len(), entries().count());
    }

    #[test]
    fn a_kernel_of_another_name_is_missing() {
        assert_eq!(image("fwd_hd7_f64"), Err(Error::KernelMissing { symbol: "fwd_hd7_f64" }));
    }
}
