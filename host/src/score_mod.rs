//! Functions of scores that the user wrote, and the kernels that were compiled with them.

use std::fmt;
use std::marker::PhantomData;

use flashcore_kernels::config::{Dtype, Variant};
use flashcore_kernels::score_mod::{ARGS_WORDS, Kernels};

use crate::error::{Error, Result};
use crate::kernels::KernelImage;

/// The kernels of the function `M`: what [`flashcore_kernels::attention_kernels!`] says they are, as a build script
/// embedded them (`flashcore_ptx_builder::embed_crate`).
#[derive(Clone, Copy, Debug)]
pub struct ScoreKernels<M> {
    images: &'static [KernelImage],
    function: PhantomData<M>,
}

impl<M: Kernels> ScoreKernels<M> {
    /// The kernels of `M` among these `images`.
    pub const fn new(images: &'static [KernelImage]) -> Self {
        ScoreKernels { images, function: PhantomData }
    }

    pub(crate) const fn function(&self) -> Function {
        Function { variants: M::KERNELS, images: self.images }
    }
}

/// The kernels of a function of scores, whatever its type.
#[derive(Clone, Copy)]
pub struct Function {
    variants: &'static [Variant],
    images: &'static [KernelImage],
}

impl Function {
    /// What its kernels are.
    pub fn variants(&self) -> &'static [Variant] {
        self.variants
    }

    /// The kernel of this name.
    pub(crate) fn image(&self, symbol: &'static str) -> Result<&'static KernelImage> {
        self.images.iter().find(|image| image.symbol == symbol).ok_or(Error::KernelMissing { symbol })
    }

    /// Whether a kernel computes such heads.
    pub(crate) fn check(&self, head_dim: usize, dtype: Dtype) -> Result<()> {
        let widest = self.variants.iter().filter(|variant| variant.dtype == dtype);
        let limit = widest.map(|variant| variant.head_dim as usize).max().unwrap_or(0);
        if head_dim > limit { Err(Error::NoScoreKernel { head_dim, dtype, limit }) } else { Ok(()) }
    }
}

/// By their names: images are long.
impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.variants.iter().map(|variant| variant.symbol)).finish()
    }
}

/// The same kernels.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.variants == other.variants && std::ptr::eq(self.images, other.images)
    }
}

/// The arguments as a launch passes them.
pub(crate) fn words<M: Kernels>(args: M::Args) -> [u64; ARGS_WORDS] {
    const { flashcore_kernels::score_mod::assert_args::<M>() };
    let mut words = [0; ARGS_WORDS];
    // SAFETY: the arguments fit, and are no more aligned than words; whatever lies between them does not matter.
    unsafe { (&raw mut words).cast::<M::Args>().write(args) };
    words
}
