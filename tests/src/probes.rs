//! The micro-kernels of `flashcore_kernels::probe`, compiled for these tests.

use flashcore::kernels::KernelImage;

// Written by the build script: `IMAGES`, every micro-kernel, and `PTXAS_VERSION`.
include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The micro-kernel of this name.
pub fn image(symbol: &str) -> Option<&'static KernelImage> {
    IMAGES.iter().find(|image| image.symbol == symbol)
}
