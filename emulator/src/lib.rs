//! Runs sm_90a PTX on the CPU, byte for byte, and reports what neither ptxas nor compute-sanitizer does.

pub mod ir;
pub mod lint;
pub mod models;
pub mod mutate;
pub mod ptx;
#[cfg(feature = "cli")]
#[cfg(feature = "cli")]
pub mod workload;

mod device;
mod hazard;
mod machine;
mod memory;
mod report;
mod tensor_map;

pub use device::{Completion, Device, DeviceError, Launch, Limits, Numerics, Options};
pub use ptx::ParseError;
pub use report::{Code, Counters, Finding, Level, Report, Site};
pub use tensor_map::{CoordinateError, Element, OobFill, Piece, Swizzle, TensorMap, TensorMapError};
