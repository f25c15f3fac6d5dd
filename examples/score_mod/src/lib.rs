//! Kernels with functions of scores, ready to be called.

use flashcore::ScoreKernels;
use flashcore::kernels::KernelImage;
use flashcore_example_score_mod_kernels::{Alibi, Documents, TanhSoftcap};

// Written by the build script: `IMAGES` and `PTXAS_VERSION`.
include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Scores fall with the distance.
pub const ALIBI: ScoreKernels<Alibi> = ScoreKernels::new(IMAGES);
/// Scores are bounded.
pub const TANH_SOFTCAP: ScoreKernels<TanhSoftcap> = ScoreKernels::new(IMAGES);
/// Documents do not see each other.
pub const DOCUMENTS: ScoreKernels<Documents> = ScoreKernels::new(IMAGES);
