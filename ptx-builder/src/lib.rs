//! Turns the device crate into checked machine code: finds the device toolchain, compiles Rust to PTX, finishes the
//! PTX (what rustc cannot say), assembles it and refuses whatever breaks a rule.
//!
//! ```text
//! toolchain -> compile -> finish (split, launch bounds) -> gates on PTX -> ptxas -> gates on machine code
//! ```
//!
//! `xtask` calls [`Builder`]; build scripts call [`embed`].

mod assembled;
mod build;
mod compile;
mod embed;
mod error;
pub mod finish;
pub mod gates;
pub mod ptxas;
mod rules;
pub mod toolchain;

pub use build::{Artifact, BuildReport, Builder, Step};
pub use embed::{embed, embed_crate, shared_target_dir};
pub use error::Error;
pub use flashcore_emulator::lint::Finding;
pub use flashcore_kernels::entry::{Entry, Opcodes, entries};
pub use flashcore_kernels::probe::PROBES;
pub use gates::{GateError, Verdict};
pub use ptxas::{Ptxas, Resources};
pub use toolchain::DeviceToolchain;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
