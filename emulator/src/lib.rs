//! Runs sm_90a PTX on the CPU, byte for byte, and reports what neither ptxas nor compute-sanitizer does.
//!
//! Two features cut the crate down: without `cli` it has no command, and without `run` it only reads kernels and lints
//! them, which is what build scripts need.

pub mod ir;
pub mod lint;
#[cfg(feature = "run")]
pub mod models;
#[cfg(feature = "run")]
pub mod mutate;
pub mod ptx;
#[cfg(feature = "cli")]
pub mod workload;

#[cfg(feature = "run")]
mod device;
#[cfg(feature = "run")]
mod hazard;
#[cfg(feature = "run")]
mod machine;
#[cfg(feature = "run")]
mod memory;
mod report;
#[cfg(feature = "run")]
mod tensor_map;

#[cfg(feature = "run")]
pub use device::{Completion, Device, DeviceError, Launch, Limits, Numerics, Options};
pub use ptx::ParseError;
pub use report::{Code, Counters, Finding, Level, Report, Site};
#[cfg(feature = "run")]
pub use tensor_map::{CoordinateError, Element, OobFill, Piece, Swizzle, TensorMap, TensorMapError};
