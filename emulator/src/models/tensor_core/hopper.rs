//! Products as Hopper's tensor cores seem to round them, after the model of MMA-Sim (arXiv 2511.10909), which its
//! authors compared with hardware bit for bit.
//!
//! For each element of D, the accumulator and all products of an instruction are summed at once. Each is a significand,
//! which is not normalised, and a power of two: that of an element is its exponent, of a subnormal number the least of
//! its format, of zero -126; that of a product is the sum of its factors'. All are cut to [`FRACTION`] fraction bits of
//! the largest power (FP8: [`FP8_FRACTION`]), towards zero, and summed without error. The sum is cut to 23 fraction
//! bits (FP8: 13), or rounded to nearest for f16. Zero sums are +0.
//!
//! The work is done in f64, of which every product and every sum of cut terms is exact, over all columns of a row at
//! once, so that it becomes vector code.

use super::{Product, format, unpack};
use crate::ir::{MmaAccumulator, MmaType};
use crate::models::convert::{Format, Round};
use crate::models::descriptor::Matrix;

/// Fraction bits of the aligned terms.
const FRACTION: i32 = 25;
/// The same of FP8, and of its f32 results.
const FP8_FRACTION: i32 = 13;
/// Power of two of zero.
const OF_ZERO: i16 = -126;
/// Sums that start with this are integers: an f64 of this size has no fraction bits left.
const WHOLE: f64 = 1.5 * (1u64 << 52) as f64;
/// The least power of two that is no f32.
const TOO_LARGE: f64 = 2.0 * (1u128 << 127) as f64;

/// Values with their powers of two.
#[derive(Debug)]
pub(super) struct Operand {
    values: Vec<f64>,
    powers: Vec<i16>,
    /// Whether all are finite.
    finite: bool,
}

impl Operand {
    pub(super) fn new(matrix: &Matrix, ty: MmaType, negate: bool, by_columns: bool) -> Option<Self> {
        let (format, bytes) = (format(ty)?, ty.bytes() as usize);
        let sign = if negate { -1.0 } else { 1.0 };
        let values = unpack(matrix, bytes, by_columns, |bits| sign * format.to_f64(bits.into()));
        let powers = values.iter().map(|&value| power(value, format)).collect();
        let finite = values.iter().all(|value| value.is_finite());
        Some(Operand { values, powers, finite })
    }
}

/// The exponent of a number in its format.
#[inline(always)]
fn power(value: f64, format: Format) -> i16 {
    let exponent = (value.to_bits() >> 52 & 0x7FF) as i16 - 1023;
    if value == 0.0 { OF_ZERO } else { exponent.max(format.least_exponent() as i16) }
}

/// Multiplies rows of A with columns of B, with the widest vectors that the machine has.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn multiply(product: Product, a: &Operand, b: &Operand, d: &mut [u32]) {
    let output = Output::of(product);
    let k = product.k();
    let n = b.values.len() / k;
    let mut row = Row::new(n);
    let rows = a.values.chunks_exact(k).zip(a.powers.chunks_exact(k));
    for ((values, powers), d) in rows.zip(d.chunks_exact_mut(n)) {
        let finite = row.start(d, output.accumulator);
        row.align(powers, &b.powers, output.fraction);
        row.sum(values, &b.values);
        row.finish(d, output);
        if !(finite && a.finite && b.finite) {
            row.infinities(values, &b.values, d, output.accumulator);
        }
    }
}

/// The type of D, and how its values are made.
#[derive(Clone, Copy)]
struct Output {
    accumulator: Format,
    /// Fraction bits of the terms.
    fraction: i32,
    /// Bits that are cut from f32 results.
    cut: u32,
}

impl Output {
    fn of(product: Product) -> Self {
        let fp8 = matches!(product.a, MmaType::E4m3 | MmaType::E5m2);
        Output {
            accumulator: if product.d == MmaAccumulator::F16 { Format::F16 } else { Format::F32 },
            fraction: if fp8 { FP8_FRACTION } else { FRACTION },
            cut: if fp8 { 23 - FP8_FRACTION.unsigned_abs() } else { 0 },
        }
    }

    /// The bits of D of a sum.
    fn round(self, value: f64) -> u32 {
        if self.accumulator == Format::F16 {
            let bits = Format::F16.from_f64(value, Round::NearestEven, false) as u32;
            return if bits == 0x8000 { 0 } else { bits };
        }
        let magnitude = value.abs();
        if magnitude >= TOO_LARGE {
            return f32::INFINITY.copysign(value as f32).to_bits();
        }
        if magnitude >= f32::MIN_POSITIVE.into() {
            return self.round_normal(value);
        }
        let bits = Format::F32.from_f64(value, Round::Zero, false) as u32 >> self.cut << self.cut;
        if bits == 0x8000_0000 { 0 } else { bits }
    }

    /// The same of zero, and of what is a normal number in f32.
    #[inline(always)]
    fn round_normal(self, value: f64) -> u32 {
        // Without the bits that an f32 has not, its conversion does not round.
        let bits = (f64::from_bits(value.to_bits() & !0x1FFF_FFFF) as f32).to_bits() >> self.cut << self.cut;
        if bits == 0x8000_0000 { 0 } else { bits }
    }
}

/// What belongs to a row of D, by column.
struct Row {
    accumulators: Vec<f64>,
    /// Largest power of two.
    powers: Vec<i16>,
    /// What makes integers of terms, but for what is cut.
    scales: Vec<f64>,
    /// Sums of scaled and cut terms, and [`WHOLE`]; in the end what they stand for.
    sums: Vec<f64>,
}

impl Row {
    fn new(n: usize) -> Self {
        Row { accumulators: vec![0.0; n], powers: vec![0; n], scales: vec![0.0; n], sums: vec![0.0; n] }
    }

    /// Takes the accumulators; whether all are finite.
    #[inline(always)]
    fn start(&mut self, d: &[u32], format: Format) -> bool {
        for ((value, power_of), &d) in self.accumulators.iter_mut().zip(&mut self.powers).zip(d) {
            *value = if format == Format::F32 { f32::from_bits(d).into() } else { format.to_f64(d.into()) };
            *power_of = power(*value, format);
        }
        self.accumulators.iter().all(|value| value.is_finite())
    }

    /// Finds the largest power of each column. Nothing overflows; checks would keep vectors out.
    #[inline(always)]
    fn align(&mut self, a: &[i16], b: &[i16], fraction: i32) {
        let n = self.powers.len();
        for (&a, column) in a.iter().zip(b.chunks_exact(n)) {
            for (power, &b) in self.powers.iter_mut().zip(column) {
                *power = (*power).max(a.wrapping_add(b));
            }
        }
        for (scale, &power) in self.scales.iter_mut().zip(&self.powers) {
            let exponent = (1023 + fraction).wrapping_sub(power.into());
            *scale = f64::from_bits(u64::from(exponent.cast_unsigned()) << 52);
        }
    }

    /// Cuts and sums.
    #[inline(always)]
    fn sum(&mut self, a: &[f64], b: &[f64]) {
        let n = self.sums.len();
        for ((sum, &value), &scale) in self.sums.iter_mut().zip(&self.accumulators).zip(&self.scales) {
            *sum = WHOLE + cut(value * scale);
        }
        for (&a, column) in a.iter().zip(b.chunks_exact(n)) {
            for ((sum, &b), &scale) in self.sums.iter_mut().zip(column).zip(&self.scales) {
                *sum += cut(a * b * scale);
            }
        }
    }

    /// Rounds the sums into `d`. Nearly always all are zero or normal numbers, which takes no branches.
    #[inline(always)]
    fn finish(&mut self, d: &mut [u32], output: Output) {
        let mut normal = output.accumulator == Format::F32;
        for (sum, &scale) in self.sums.iter_mut().zip(&self.scales) {
            // Powers of two, and a sum of few bits: exact.
            *sum = (*sum - WHOLE) / scale;
            let magnitude = sum.abs();
            normal &= (magnitude == 0.0) | (magnitude >= f32::MIN_POSITIVE.into()) & (magnitude < TOO_LARGE);
        }
        if normal {
            d.iter_mut().zip(&self.sums).for_each(|(d, &sum)| *d = output.round_normal(sum));
        } else {
            d.iter_mut().zip(&self.sums).for_each(|(d, &sum)| *d = output.round(sum));
        }
    }

    /// Infinities and NaN, by the rules of IEEE 754.
    fn infinities(&self, a: &[f64], b: &[f64], d: &mut [u32], format: Format) {
        let n = d.len();
        for (column, d) in d.iter_mut().enumerate() {
            let sum = a
                .iter()
                .enumerate()
                .fold(self.accumulators[column], |sum, (k, a)| sum + a * b[k * n + column]);
            if !sum.is_finite() {
                *d = format.from_f64(sum, Round::Zero, false) as u32;
            }
        }
    }
}

/// What, added to [`WHOLE`] and integers, counts as the whole part of `value`, towards zero: nearly a half less, of
/// which the addition then takes the nearest integer. Right for significands of up to 24 bits, which terms have: their
/// fractions are at most 1 - 2^-24.
#[inline(always)]
fn cut(value: f64) -> f64 {
    const NEARLY_HALF: f64 = 0.5 - 1.0 / (1u64 << 26) as f64;
    value - NEARLY_HALF.copysign(value)
}
