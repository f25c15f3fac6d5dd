//! Fused attention for NVIDIA Hopper (H100, H200), with kernels written in Rust.
//!
//! A call goes one way: [`Attention`] → [`Problem`] (checked) → [`Plan`] (pure, printable) → tensor maps → one launch.

mod attention;
mod check;
mod device;
pub mod driver;
mod error;
pub mod kernels;
mod launch;
mod lse;
mod memory;
mod plan;
mod problem;
mod tensor;
pub mod tensor_map;

pub use attention::Attention;
pub use device::{Device, Stream};
pub use error::{Dim, Error, Operand, Result};
pub use flashcore_kernels::config::Dtype;
pub use lse::{Lse, LseView};
pub use plan::{Plan, Pointers};
pub use problem::{HEAD_DIM_STEP, MAX_DIM, MAX_HEAD_DIM, MAX_STRIDE, Problem};
pub use tensor::{AsTensorView, Element, Order, Shape, Strides, Tensor, TensorLayout, TensorView};
