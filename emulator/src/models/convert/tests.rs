//! Formats against a slow and independent way: values by powers of two, rounding by search among all values.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

const ROUNDS: [Round; 5] = [Round::NearestEven, Round::NearestAway, Round::Zero, Round::Down, Round::Up];
/// Name, format, exponent bits, fraction bits.
const SMALL: [(Format, i32, i32); 4] =
    [(Format::F16, 5, 10), (Format::BF16, 8, 7), (Format::E4M3, 4, 3), (Format::E5M2, 5, 2)];

/// The value of bits without a sign; infinity and NaN as the highest exponent's.
fn magnitude(bits: u64, exponent_bits: i32, fraction_bits: i32) -> f64 {
    let (exponent, fraction) = (bits >> fraction_bits, bits % (1 << fraction_bits));
    let bias = (1 << (exponent_bits - 1)) - 1;
    let significand = fraction as f64 / f64::from(1 << fraction_bits);
    if exponent == 0 {
        significand * 2f64.powi(1 - bias)
    } else {
        (1.0 + significand) * 2f64.powi(exponent as i32 - bias)
    }
}

/// All numbers that are not negative, in order.
fn numbers(format: Format, exponent_bits: i32, fraction_bits: i32) -> Vec<f64> {
    (0..=format.largest()).map(|bits| magnitude(bits, exponent_bits, fraction_bits)).collect()
}

/// What a magnitude rounds to, of all numbers and the next one that there would be.
fn nearest(numbers: &[f64], value: f64, negative: bool, round: Round) -> usize {
    let above = numbers.partition_point(|&number| number < value);
    if numbers.get(above) == Some(&value) {
        return above;
    }
    let (low, high) = (numbers[above - 1], numbers.get(above).copied());
    let high = high.unwrap_or_else(|| 2.0 * low - numbers[above - 2]);
    let (down, up) = (value - low, high - value);
    let up = match round {
        Round::NearestEven => up < down || (up == down && above % 2 == 0),
        Round::NearestAway => up <= down,
        Round::Zero => false,
        Round::Down => negative,
        Round::Up => !negative,
    };
    above - usize::from(!up)
}

#[test]
fn decodes_every_value() {
    for (format, exponent_bits, fraction_bits) in SMALL {
        let sign = 1 << (format.bits() - 1);
        for (bits, &value) in numbers(format, exponent_bits, fraction_bits).iter().enumerate() {
            assert_eq!(format.to_f64(bits as u64).to_bits(), value.to_bits());
            assert_eq!(format.to_f64(bits as u64 | sign).to_bits(), (-value).to_bits());
        }
        for bits in format.largest() + 1..sign {
            let value = format.to_f64(bits);
            assert_eq!(value.is_infinite(), format != Format::E4M3 && bits == format.infinity());
            assert_eq!(value.is_nan(), !value.is_infinite());
        }
    }
    assert_eq!(Format::E4M3.to_f64(0x7E), 448.0);
    assert_eq!(Format::TF32.to_f64(0x3F80_1FFF), 1.0);
    assert_eq!(Format::TF32.decode(0x7F80_0001), Number::Infinite { negative: false });
}

#[test]
fn encodes_what_it_decodes() {
    for (format, ..) in SMALL {
        for bits in 0..1u64 << format.bits() {
            let number = format.decode(bits);
            let expected = if number == Number::Nan { format.nan() } else { bits };
            for round in ROUNDS {
                assert_eq!(format.encode(number, round, false), expected, "{format:?} {bits:#x}");
            }
        }
    }
}

/// Every number, every middle of two, and what lies next to them, beyond the largest too.
#[test]
fn rounds_to_neighbours() {
    for (format, exponent_bits, fraction_bits) in SMALL {
        let numbers = numbers(format, exponent_bits, fraction_bits);
        let sign = 1 << (format.bits() - 1);
        let largest = numbers[numbers.len() - 1];
        let step = largest - numbers[numbers.len() - 2];
        let ends = [largest + 0.5 * step, largest + 0.75 * step, largest + step, 2.0 * largest];
        let middles = numbers.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        for value in middles.chain(ends).flat_map(|value| [value.next_down(), value, value.next_up()]) {
            for (round, negative) in ROUNDS.into_iter().flat_map(|round| [(round, false), (round, true)]) {
                let index = nearest(&numbers, value, negative, round) as u64;
                let sign = if negative { sign } else { 0 };
                let value = if negative { -value } else { value };
                let saturated = index.min(format.largest());
                assert_eq!(
                    format.from_f64(value, round, true),
                    sign | saturated,
                    "{format:?} {value:e} {round:?}"
                );
                // Beyond the largest number, directions away from zero give infinity.
                let overflow = if index > format.largest() { format.infinity() } else { index };
                let inward = round == Round::Zero || round == if negative { Round::Up } else { Round::Down };
                let expected = if inward { saturated } else { overflow };
                assert_eq!(
                    format.from_f64(value, round, false),
                    sign | expected,
                    "{format:?} {value:e} {round:?}"
                );
            }
        }
    }
}

#[test]
fn f32_rounds_as_the_language_does() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..100_000 {
        let near = f32::from_bits(rng.random());
        let value =
            f64::from_bits(f64::from(near).to_bits().wrapping_add(rng.random_range(0..1 << 31)) - (1 << 30));
        if value.is_nan() {
            continue;
        }
        let nearest = value as f32;
        assert_eq!(
            Format::F32.from_f64(value, Round::NearestEven, false) as u32,
            nearest.to_bits(),
            "{value:e}"
        );
        let below = if f64::from(nearest) <= value { nearest } else { nearest.next_down() };
        assert_eq!(Format::F32.from_f64(value, Round::Down, false) as u32, below.to_bits(), "{value:e}");
        let above = if f64::from(nearest) >= value { nearest } else { nearest.next_up() };
        let above = if above == 0.0 && value < 0.0 { -0.0 } else { above };
        assert_eq!(Format::F32.from_f64(value, Round::Up, false) as u32, above.to_bits(), "{value:e}");
    }
}

#[test]
fn fast_conversions_are_the_slow_ones() {
    let mut rng = StdRng::seed_from_u64(2);
    let random = (0..200_000).map(|_| rng.random::<u32>());
    // Around the middles of neighbouring f16 and bf16.
    let middles = (0..1 << 16)
        .flat_map(|upper: u32| [0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001].map(|low| upper << 16 | low));
    for bits in random.chain(middles) {
        let (value, number) = (f32::from_bits(bits), Format::F32.decode(bits.into()));
        assert_eq!(
            u64::from(f16_bits(value)),
            Format::F16.encode(number, Round::NearestEven, false),
            "{value:e}"
        );
        assert_eq!(
            u64::from(bf16_bits(value)),
            Format::BF16.encode(number, Round::NearestEven, false),
            "{value:e}"
        );
    }
}

#[test]
fn nans_are_those_of_the_isa() {
    let nans =
        [Format::F16, Format::BF16, Format::F32, Format::TF32, Format::E4M3, Format::E5M2].map(Format::nan);
    assert_eq!(nans, [0x7FFF, 0x7FFF, 0x7FFF_FFFF, 0x7FFF_FFFF, 0x7F, 0x7F]);
}
