//! Exact numbers: arithmetic without rounding, which [`Format::encode`](super::convert::Format::encode) then rounds.
//!
//! A finite number is a sign, an integer of 128 bits and a power of two. Sums, quotients and roots that do not fit keep
//! at least 60 leading bits and set the lowest bit if anything below is not zero: enough to round to any format, in any
//! direction, as if the number were exact.

use super::convert::Round;

/// A number, an infinity or NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Not a number.
    Nan,
    /// An infinity.
    Infinite {
        /// Whether it is the negative one.
        negative: bool,
    },
    /// A number: `mantissa * 2^exponent`.
    Finite {
        /// Sign, of zeros too.
        negative: bool,
        /// Magnitude, in units of `2^exponent`; the lowest bit also stands for what is lost below it.
        mantissa: u128,
        /// Power of two.
        exponent: i32,
    },
}

use Number::{Finite, Infinite, Nan};

/// Where sums have their highest bit: two bits of room for the carry.
const TOP: u32 = 124;

impl Number {
    /// Zero of a sign.
    pub const fn zero(negative: bool) -> Self {
        Finite { negative, mantissa: 0, exponent: 0 }
    }

    /// An integer.
    pub const fn integer(value: i128) -> Self {
        Finite { negative: value < 0, mantissa: value.unsigned_abs(), exponent: 0 }
    }

    /// Whether its sign is minus; NaN has none.
    pub const fn is_negative(self) -> bool {
        matches!(self, Infinite { negative: true } | Finite { negative: true, .. })
    }

    /// The same with the other sign.
    pub const fn negated(self) -> Self {
        match self {
            Nan => Nan,
            Infinite { negative } => Infinite { negative: !negative },
            Finite { negative, mantissa, exponent } => Finite { negative: !negative, mantissa, exponent },
        }
    }

    /// `self + other`; `round` decides the sign of a zero that two numbers of different signs make.
    pub fn plus(self, other: Self, round: Round) -> Self {
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinite { negative: a }, Infinite { negative: b }) if a != b => Nan,
            (Infinite { .. }, _) => self,
            (_, Infinite { .. }) => other,
            (Finite { negative: a, mantissa: 0, .. }, Finite { negative: b, mantissa: 0, .. }) => {
                Number::zero(if a == b { a } else { round == Round::Down })
            }
            (_, Finite { mantissa: 0, .. }) => self,
            (Finite { mantissa: 0, .. }, _) => other,
            (
                Finite { negative: a, mantissa: am, exponent: ae },
                Finite { negative: b, mantissa: bm, exponent: be },
            ) => sum(normalised(a, am, ae), normalised(b, bm, be), round),
        }
    }

    /// `self * other`. Both mantissas must fit in 64 bits, as those of all formats do.
    pub fn times(self, other: Self) -> Self {
        let negative = self.is_negative() != other.is_negative();
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinite { .. }, Finite { mantissa: 0, .. }) | (Finite { mantissa: 0, .. }, Infinite { .. }) => {
                Nan
            }
            (Infinite { .. }, _) | (_, Infinite { .. }) => Infinite { negative },
            (Finite { mantissa: a, exponent: ae, .. }, Finite { mantissa: b, exponent: be, .. }) => {
                Finite { negative, mantissa: a * b, exponent: ae + be }
            }
        }
    }

    /// `self / other`. Both mantissas must fit in 64 bits.
    pub fn over(self, other: Self) -> Self {
        let negative = self.is_negative() != other.is_negative();
        match (self, other) {
            (Nan, _) | (_, Nan) | (Infinite { .. }, Infinite { .. }) => Nan,
            (Finite { mantissa: 0, .. }, Finite { mantissa: 0, .. }) => Nan,
            (Infinite { .. }, _) | (_, Finite { mantissa: 0, .. }) => Infinite { negative },
            (_, Infinite { .. }) | (Finite { mantissa: 0, .. }, _) => Number::zero(negative),
            (Finite { mantissa: a, exponent: ae, .. }, Finite { mantissa: b, exponent: be, .. }) => {
                let shift = a.leading_zeros();
                let (quotient, rest) = ((a << shift) / b, (a << shift) % b);
                let mantissa = quotient | u128::from(rest != 0);
                Finite { negative, mantissa, exponent: ae - be - shift.cast_signed() }
            }
        }
    }

    /// Its square root. The mantissa must fit in 64 bits.
    pub fn root(self) -> Self {
        match self {
            Infinite { negative: false } | Finite { mantissa: 0, .. } => self,
            Finite { negative: false, mantissa, exponent } => {
                let shift = mantissa.leading_zeros();
                // An even power of two.
                let shift = shift - u32::from((exponent - shift.cast_signed()) % 2 != 0);
                let square = mantissa << shift;
                let root = square.isqrt();
                let mantissa = root | u128::from(root * root != square);
                Finite { negative: false, mantissa, exponent: (exponent - shift.cast_signed()) / 2 }
            }
            _ => Nan,
        }
    }

    /// The nearest integer in the direction of `round`, as a number: the sign of zeros stays.
    pub fn rounded(self, round: Round) -> Self {
        match self {
            Finite { negative, mantissa, exponent } if exponent < 0 => {
                let mantissa = shifted(mantissa, exponent.unsigned_abs(), negative, round);
                Finite { negative, mantissa, exponent: 0 }
            }
            _ => self,
        }
    }

    /// The nearest integer in the direction of `round`, clamped to `least..=most`; none for NaN.
    pub fn to_integer(self, round: Round, least: i128, most: i128) -> Option<i128> {
        match self.rounded(round) {
            Nan => None,
            Infinite { negative } => Some(if negative { least } else { most }),
            Finite { negative, mantissa, exponent } => {
                let fits = mantissa == 0 || mantissa.leading_zeros().cast_signed() > exponent;
                let magnitude =
                    if fits { mantissa.unbounded_shl(exponent.unsigned_abs()) } else { u128::MAX };
                let magnitude = i128::try_from(magnitude).unwrap_or(i128::MAX);
                Some(if negative { -magnitude } else { magnitude }.clamp(least, most))
            }
        }
    }
}

type Parts = (bool, u128, i32);

/// With the highest bit at [`TOP`]; for mantissas below that.
fn normalised(negative: bool, mantissa: u128, exponent: i32) -> Parts {
    let shift = mantissa.leading_zeros() - (127 - TOP);
    (negative, mantissa << shift, exponent - shift.cast_signed())
}

fn sum(a: Parts, b: Parts, round: Round) -> Number {
    let ((negative, large, exponent), (other, small, lower)) =
        if (a.2, a.1) >= (b.2, b.1) { (a, b) } else { (b, a) };
    let shift = exponent.abs_diff(lower);
    let aligned = small.unbounded_shr(shift);
    let aligned = aligned | u128::from(aligned.unbounded_shl(shift) != small);
    if negative == other {
        Finite { negative, mantissa: large + aligned, exponent }
    } else if large == aligned {
        Number::zero(round == Round::Down)
    } else {
        Finite { negative, mantissa: large - aligned, exponent }
    }
}

/// `mantissa / 2^shift`, rounded to an integer.
pub(super) fn shifted(mantissa: u128, shift: u32, negative: bool, round: Round) -> u128 {
    let kept = mantissa.unbounded_shr(shift);
    let rest = mantissa ^ kept.unbounded_shl(shift);
    if rest == 0 {
        return kept;
    }
    // Beyond 128 bits what is left is less than half.
    let half = if shift <= 128 { 1 << (shift - 1) } else { u128::MAX };
    let up = match round {
        Round::NearestEven => rest > half || (rest == half && kept & 1 == 1),
        Round::NearestAway => rest >= half,
        Round::Zero => false,
        Round::Down => negative,
        Round::Up => !negative,
    };
    kept + u128::from(up)
}

#[cfg(test)]
mod tests;
