//! The PTX finishing step: what rustc cannot say.
