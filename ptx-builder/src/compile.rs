//! Running the device toolchain's cargo on the device crate.
