//! Floating-point formats: what bits mean, and the bits of what numbers round to.

use half::{bf16, f16};

use super::number::{Number, shifted};
use crate::ir::Rounding;

/// Which of the two neighbours of a number is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// The nearer one, the even one of equally near ones (`.rn`, `.rni`).
    NearestEven,
    /// The nearer one, the larger magnitude of equally near ones (`.rna`).
    NearestAway,
    /// The smaller magnitude (`.rz`, `.rzi`).
    Zero,
    /// The lesser (`.rm`, `.rmi`).
    Down,
    /// The greater (`.rp`, `.rpi`).
    Up,
}

impl Round {
    /// The direction of a modifier; to nearest even without one, none for `.approx` and `.full`.
    pub const fn of(rounding: Rounding) -> Option<Self> {
        match rounding {
            Rounding::Default | Rounding::Rn | Rounding::Rni => Some(Round::NearestEven),
            Rounding::Rna => Some(Round::NearestAway),
            Rounding::Rz | Rounding::Rzi => Some(Round::Zero),
            Rounding::Rm | Rounding::Rmi => Some(Round::Down),
            Rounding::Rp | Rounding::Rpi => Some(Round::Up),
            Rounding::Approx | Rounding::Full => None,
        }
    }
}

/// A binary floating-point format: sign, exponent, fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    exponent_bits: u32,
    fraction_bits: u32,
    /// Unused bits below the fraction.
    padding: u32,
    /// Whether the highest exponent is for infinities and NaNs only; without, all but the last are numbers.
    infinities: bool,
}

impl Format {
    /// binary16.
    pub const F16: Format = Format::ieee(5, 10);
    /// bfloat16.
    pub const BF16: Format = Format::ieee(8, 7);
    /// TF32: the upper 19 bits of 32.
    pub const TF32: Format = Format { padding: 13, ..Format::ieee(8, 10) };
    /// binary32.
    pub const F32: Format = Format::ieee(8, 23);
    /// binary64.
    pub const F64: Format = Format::ieee(11, 52);
    /// FP8 with 4 exponent bits: no infinities, largest number 448.
    pub const E4M3: Format = Format { infinities: false, ..Format::ieee(4, 3) };
    /// FP8 with 5 exponent bits.
    pub const E5M2: Format = Format::ieee(5, 2);

    const fn ieee(exponent_bits: u32, fraction_bits: u32) -> Self {
        Format { exponent_bits, fraction_bits, padding: 0, infinities: true }
    }

    /// Bits of a value.
    pub const fn bits(self) -> u32 {
        1 + self.exponent_bits + self.fraction_bits + self.padding
    }

    /// Power of two of the smallest normal number.
    pub const fn least_exponent(self) -> i32 {
        2 - (1 << (self.exponent_bits - 1))
    }

    /// The NaN that instructions give: all ones but the sign.
    pub const fn nan(self) -> u64 {
        self.sign() - 1
    }

    const fn sign(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// Sign-free bits of infinity; where there is none, of NaN.
    pub const fn infinity(self) -> u64 {
        let exponent = ((1 << self.exponent_bits) - 1) << self.fraction_bits;
        (if self.infinities { exponent } else { exponent | ((1 << self.fraction_bits) - 1) }) << self.padding
    }

    /// Sign-free bits of the largest number.
    pub const fn largest(self) -> u64 {
        self.infinity() - (1 << self.padding)
    }

    /// Whether these are the bits of a subnormal number, or zero.
    pub const fn is_subnormal(self, bits: u64) -> bool {
        bits >> (self.padding + self.fraction_bits) & ((1 << self.exponent_bits) - 1) == 0
    }

    /// A subnormal number is taken for the zero of its sign.
    pub const fn flush(self, bits: u64) -> u64 {
        if self.is_subnormal(bits) { bits & self.sign() } else { bits }
    }

    /// The number that the low bits stand for; padding and higher bits are ignored.
    pub fn decode(self, bits: u64) -> Number {
        let negative = bits & self.sign() != 0;
        let magnitude = bits & (self.sign() - 1) & !((1 << self.padding) - 1);
        if magnitude > self.infinity() || (!self.infinities && magnitude == self.infinity()) {
            Number::Nan
        } else if magnitude == self.infinity() {
            Number::Infinite { negative }
        } else {
            let magnitude = magnitude >> self.padding;
            let (power, fraction) =
                (magnitude >> self.fraction_bits, magnitude & ((1 << self.fraction_bits) - 1));
            let hidden = u64::from(power != 0) << self.fraction_bits;
            let exponent = power.max(1).cast_signed() as i32 - 1 + self.least_exponent()
                - self.fraction_bits.cast_signed();
            Number::Finite { negative, mantissa: (fraction | hidden).into(), exponent }
        }
    }

    /// The bits of what a number rounds to. Too large a number is an infinity or the largest number, as IEEE 754 says
    /// for the direction; with `satfinite` always the largest. NaN is [`Format::nan`].
    pub fn encode(self, number: Number, round: Round, satfinite: bool) -> u64 {
        let sign = if number.is_negative() { self.sign() } else { 0 };
        let magnitude = match number {
            Number::Nan => self.nan(),
            Number::Infinite { .. } if satfinite => self.largest(),
            Number::Infinite { .. } => self.infinity(),
            Number::Finite { mantissa: 0, .. } => 0,
            Number::Finite { negative, mantissa, exponent } => {
                let power = exponent + 127 - mantissa.leading_zeros().cast_signed();
                let power = power.max(self.least_exponent());
                let shift = power - self.fraction_bits.cast_signed() - exponent;
                let kept = if shift > 0 {
                    shifted(mantissa, shift.unsigned_abs(), negative, round)
                } else {
                    mantissa << shift.unsigned_abs()
                };
                // The hidden bit adds one to the exponent, and so does a carry.
                let steps = u128::from((power - self.least_exponent()).unsigned_abs());
                let magnitude = ((steps << self.fraction_bits) + kept) << self.padding;
                let inward = match round {
                    Round::NearestEven | Round::NearestAway => false,
                    Round::Zero => true,
                    Round::Down => !negative,
                    Round::Up => negative,
                };
                match u64::try_from(magnitude) {
                    Ok(magnitude) if magnitude <= self.largest() => magnitude,
                    _ if satfinite || inward => self.largest(),
                    _ => self.infinity(),
                }
            }
        };
        sign | magnitude
    }

    /// The value of the low bits as an f64, which every format's numbers are.
    pub fn to_f64(self, bits: u64) -> f64 {
        match self {
            Format::F64 => f64::from_bits(bits),
            Format::F32 => f32::from_bits(bits as u32).into(),
            Format::TF32 => f32::from_bits(bits as u32 & !0x1FFF).into(),
            Format::F16 => f16::from_bits(bits as u16).into(),
            Format::BF16 => bf16::from_bits(bits as u16).into(),
            _ => f64::from_bits(Format::F64.encode(self.decode(bits), Round::NearestEven, false)),
        }
    }

    /// The bits of what an f64 rounds to, see [`Format::encode`].
    pub fn from_f64(self, value: f64, round: Round, satfinite: bool) -> u64 {
        self.encode(Format::F64.decode(value.to_bits()), round, satfinite)
    }
}

/// The bits of the binary16 nearest to `value`; NaN is 0x7fff.
pub fn f16_bits(value: f32) -> u16 {
    if value.is_nan() { 0x7FFF } else { f16::from_f32(value).to_bits() }
}

/// The bits of the bfloat16 nearest to `value`; NaN is 0x7fff.
pub fn bf16_bits(value: f32) -> u16 {
    if value.is_nan() { 0x7FFF } else { bf16::from_f32(value).to_bits() }
}

#[cfg(test)]
mod tests;
