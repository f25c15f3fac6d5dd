//! What the emulator computes, against what a GPU did with the same kernel and the same inputs.
//!
//! They are not equal to the last bit: nobody knows how the hardware rounds `ex2`, `lg2` and `rcp`, see
//! `docs/goldens.md`. A probability that lies on the edge between two f16 may so become the other one.

use std::fmt;

use flashcore::kernels::{Tile, Variant};
use flashcore::{Device, Dtype};
use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::cases::Case;
use crate::device::Outputs;
use crate::kernel::Elements;

// Written by the build script: `GOLDENS`, names and texts.
include!(concat!(env!("OUT_DIR"), "/outputs.rs"));

/// Units in the last place (of a row's largest element) that elements of O may differ by and still be close.
pub const UNITS: f64 = 1.0;

/// The outputs of a kernel on a GPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// The GPU.
    pub device: String,
    /// CUDA version of its driver.
    pub driver: u32,
    /// Bits of O.
    pub out: Bytes,
    /// Bits of the log-sum-exp.
    pub lse: Bytes,
}

impl Recorded {
    /// What a device made of it.
    pub fn new(device: &Device, outputs: &Outputs) -> Self {
        let (out, lse) = outputs.bits();
        let properties = device.properties();
        Recorded {
            device: properties.name.clone(),
            driver: properties.driver_version,
            out: Bytes(out.iter().flat_map(|bits| bits.to_le_bytes()).collect()),
            lse: Bytes::from_words(lse.iter().copied()),
        }
    }

    /// The recorded outputs of a kernel for its [`recorded_case`].
    ///
    /// # Panics
    /// If the file is malformed.
    pub fn of(variant: &Variant) -> Option<Self> {
        let (_, text) = GOLDENS.iter().find(|(name, _)| *name == variant.symbol)?;
        Some(serde_json::from_str(text).expect("recorded outputs are JSON"))
    }
}

/// Few rows, so that files are small, and three key tiles.
pub fn recorded_case(variant: &Variant) -> Case {
    Case { seqlen_q: 24, seqlen_kv: 2 * variant.tile.block_n as usize + 24, ..Case::of_kernel(variant) }
}

/// Several work tiles, and more key tiles than stages.
pub fn larger_case(variant: &Variant) -> Case {
    let Tile { block_m, block_n, cluster, .. } = variant.tile;
    let (seqlen_q, seqlen_kv) = ((2 * cluster * block_m) as usize - 8, 4 * block_n as usize + 24);
    Case { seqlen_q, seqlen_kv, heads_q: 2, ..recorded_case(variant) }
}

/// What `variant` makes of `case` on `device`. Inputs are always the same.
///
/// # Errors
/// What the library refuses, or what is wrong with the kernel.
pub fn run(device: &Device, variant: &Variant, case: &Case) -> flashcore::Result<Outputs> {
    let tensors = Elements::of(variant).inputs(case, 11).upload(device)?;
    tensors.run_plan(&tensors.plan_of(variant)?, &device.stream()?)?;
    tensors.outputs()
}

/// How two results compare.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// Share of the elements of O that are equal to the last bit.
    pub equal: f64,
    /// Largest difference of O, in units of the last place of the largest element of its row.
    pub worst: f64,
    /// Share of the elements of O that differ by more than [`UNITS`].
    pub apart: f64,
    /// Largest difference of O, relative to the largest element of its row; infinite where one is NaN.
    pub far: f64,
    /// Share of the log-sum-exps that are equal to the last bit.
    pub lse_equal: f64,
    /// Largest difference of the log-sum-exp, absolute; infinite where one is NaN.
    pub lse_worst: f64,
}

impl Agreement {
    /// Compares bits of O, in rows of `head_dim` elements, and of the log-sum-exp.
    ///
    /// # Panics
    /// If they are not of one shape.
    pub fn new(dtype: Dtype, head_dim: usize, a: (&[u16], &[u32]), b: (&[u16], &[u32])) -> Self {
        assert_eq!((a.0.len(), a.1.len()), (b.0.len(), b.1.len()), "results of one shape");
        // Of the significand's last bit, relative to a number's power of two.
        let ulp = match dtype {
            Dtype::F16 => 2f64.powi(-10),
            Dtype::Bf16 => 2f64.powi(-7),
        };
        let value = |bits: u16| match dtype {
            Dtype::F16 => half::f16::from_bits(bits).to_f64(),
            Dtype::Bf16 => half::bf16::from_bits(bits).to_f64(),
        };
        let (mut worst, mut apart, mut far) = (0f64, 0, 0f64);
        for (a, b) in a.0.chunks(head_dim).zip(b.0.chunks(head_dim)) {
            let largest = a.iter().chain(b).map(|&bits| value(bits).abs()).fold(f64::MIN_POSITIVE, f64::max);
            let unit = ulp * 2f64.powf(largest.log2().floor());
            for units in a.iter().zip(b).map(|(&a, &b)| (value(a) - value(b)).abs() / unit) {
                worst = worst.max(units);
                apart += usize::from(units > UNITS || units.is_nan());
                far = if units.is_nan() { f64::INFINITY } else { far.max(units * unit / largest) };
            }
        }
        let share = |equal: usize, of: usize| equal as f64 / of.max(1) as f64;
        let lse = |bits: u32| f64::from(f32::from_bits(bits));
        let differences = a.1.iter().zip(b.1).map(|(&a, &b)| match (lse(a) - lse(b)).abs() {
            _ if a == b => 0.0,
            difference if difference.is_nan() => f64::INFINITY,
            difference => difference,
        });
        Agreement {
            equal: share(a.0.iter().zip(b.0).filter(|(a, b)| a == b).count(), a.0.len()),
            worst,
            apart: share(apart, a.0.len()),
            far,
            lse_equal: share(a.1.iter().zip(b.1).filter(|(a, b)| a == b).count(), a.1.len()),
            lse_worst: differences.fold(0.0, f64::max),
        }
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "O: {:.2} % equal, at most {:.2} units apart, {:.2} % more than {UNITS}; LSE: {:.1} % equal, at most {:.1e} apart",
            100.0 * self.equal,
            self.worst,
            100.0 * self.apart,
            100.0 * self.lse_equal,
            self.lse_worst
        )
    }
}
