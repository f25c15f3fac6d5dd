//! What instructions compute and where their data lies: pure functions, without the state of a machine.

pub mod alu;
pub mod convert;
pub mod descriptor;
pub mod fragment;
pub mod matrix;
pub mod number;
pub mod shuffle;
pub mod tensor_core;
