//! The compiled kernels that this crate carries.

pub use flashcore_kernels::config::{Dtype, Tile, Variant};
pub use flashcore_kernels::entry::FWD;

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

/// Every kernel of this build.
pub static IMAGES: &[KernelImage] = &[];

/// The compiled kernel of this name.
pub fn image(symbol: &str) -> Option<&'static KernelImage> {
    IMAGES.iter().find(|image| image.symbol == symbol)
}
