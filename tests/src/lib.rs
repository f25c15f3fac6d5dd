//! How flashcore is tested: what the right answer is, how far from it a kernel may be, and on which inputs.
//!
//! - [`oracle`]: the exact answer in f64, and that of an ideal kernel of the same element type;
//! - [`compare`]: whether a result is close enough, and if not, where it first fails;
//! - [`values`]: tensors on the host, as they lie in memory; [`inputs`]: what stands in them; [`side_inputs`]: lengths,
//!   slopes, biases and the like;
//! - [`cases`]: the shapes that the tests visit; [`grid`]: the shapes that are timed;
//! - [`probes`]: the micro-kernels, one for each Hopper primitive;
//! - [`agreement`]: what the emulator computes, against what a GPU did; [`bytes`]: how that is kept;
//! - [`fp8`]: elements of 8 bits and their oracle; [`narrow`]: cases over them, and how far from it a kernel may be;
//! - [`kernel`]: a case in the elements of a kernel, of 8 bits or of 16;
//! - [`merge`]: merging attention states, its oracle and its cases;
//! - [`sections`]: launches whose CTAs take work tiles of all kinds in turn;
//! - [`mutation`]: kernels with one mistake, which the emulator must notice;
//! - [`device`]: one case, run on one device; [`suite`]: tests that say why they were skipped.
pub mod agreement;
pub mod bytes;
pub mod cases;
pub mod compare;
pub mod device;
pub mod extras;
pub mod fp8;
pub mod grid;
pub mod inputs;
pub mod kernel;
pub mod merge;
pub mod mutation;
pub mod narrow;
pub mod oracle;
pub mod probes;
pub mod sections;
pub mod side_inputs;
pub mod suite;
pub mod values;
