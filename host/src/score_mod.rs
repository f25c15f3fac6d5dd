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

    /// Whether a kernel computes such heads, sparse or not.
    pub(crate) fn check(&self, head_dim: usize, dtype: Dtype, sparse: bool) -> Result<()> {
        let fits = |variant: &&Variant| variant.dtype == dtype && variant.is_sparse() == sparse;
        let widest = self.variants.iter().filter(fits);
        let limit = widest.map(|variant| variant.head_dim as usize).max().unwrap_or(0);
        if head_dim > limit { Err(Error::NoScoreKernel { head_dim, dtype, limit, sparse }) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use flashcore_kernels::score_mod::{Query, ScoreMod};

    use super::*;
    use crate::features::Features;
    use crate::problem::Problem;
    use crate::sparse::SparseSizes;
    use crate::tensor::{Order, Shape, TensorLayout};

    struct Nothing;

    impl ScoreMod for Nothing {
        type Args = (f32, u64);
        type Row = ();

        fn row(_: &(f32, u64), _: &Query) {}
    }

    impl Kernels for Nothing {
        const KERNELS: &'static [Variant] =
            &[Variant { symbol: "nothing", ..Variant::general(96, Dtype::F16) }];
    }

    const FUNCTION: Function = ScoreKernels::<Nothing>::new(&[]).function();

    fn problem(head_dim: usize, dtype: Dtype, features: Features) -> Result<Problem> {
        let layout = TensorLayout::packed(dtype, Shape::new(1, 20, 2, head_dim), Order::Bshd);
        let features = Features { function: Some(FUNCTION), ..features };
        Problem::with_features([layout; 4], features, None)
    }

    #[test]
    fn kernels_are_as_wide_as_they_say() {
        for head_dim in [8, 64, 96] {
            assert!(problem(head_dim, Dtype::F16, Features::NONE).is_ok());
        }
        for (head_dim, dtype, limit) in [(104, Dtype::F16, 96), (64, Dtype::Bf16, 0)] {
            let sparse = false;
            let expected = Error::NoScoreKernel { head_dim, dtype, limit, sparse };
            assert_eq!(problem(head_dim, dtype, Features::NONE), Err(expected));
        }
        let ranges = SparseSizes { ranges: Some([1, 1]), ..SparseSizes::NONE };
        let expected = Error::NoScoreKernel { head_dim: 64, dtype: Dtype::F16, limit: 0, sparse: true };
        assert_eq!(problem(64, Dtype::F16, Features { sparse: ranges, ..Features::NONE }), Err(expected));
    }

    #[test]
    fn a_function_does_all_that_happens_to_scores() {
        for other in [
            Features { softcap: Some(5.0), ..Features::NONE },
            Features { alibi: Some(crate::Slopes::PerHead), ..Features::NONE },
            Features { bias: Some(crate::BiasLayout::packed(Dtype::F16, [1, 1, 1, 20])), ..Features::NONE },
        ] {
            assert_eq!(problem(64, Dtype::F16, other), Err(Error::ScoreModAlone));
        }
        let window = Features { left: Some(3), sinks: true, packed_q: Some(1), ..Features::NONE };
        assert!(problem(64, Dtype::F16, window).is_ok());
    }

    #[test]
    fn an_image_of_another_build_is_missing() {
        assert_eq!(FUNCTION.image("nothing"), Err(Error::KernelMissing { symbol: "nothing" }));
    }

    #[test]
    fn arguments_are_passed_as_they_lie() {
        let words = words::<Nothing>((1.5, 77));
        // SAFETY: written as this type.
        let args = unsafe { words.as_ptr().cast::<(f32, u64)>().read() };
        assert_eq!(args, (1.5, 77));
    }

    #[test]
    fn functions_print_their_kernels() {
        assert_eq!(format!("{FUNCTION:?}"), "[\"nothing\"]");
    }
}
