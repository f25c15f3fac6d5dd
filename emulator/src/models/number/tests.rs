//! Exact arithmetic against that of the machine, which rounds to nearest.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::models::convert::Format;

fn number(value: f64) -> Number {
    Format::F64.decode(value.to_bits())
}

fn rounded(number: Number, round: Round) -> f64 {
    f64::from_bits(Format::F64.encode(number, round, false))
}

/// Numbers of all sizes, and such as meet: neighbours, opposites, subnormal ones.
fn operands(rng: &mut StdRng) -> [f64; 3] {
    let a = f64::from_bits(rng.random());
    let b = match rng.random_range(0..4) {
        0 => f64::from_bits(rng.random()),
        1 => f64::from_bits(rng.random::<u64>() & 0x801F_FFFF_FFFF_FFFF),
        2 => f64::from_bits(a.to_bits() ^ rng.random_range(0..1 << 56)),
        _ => -f64::from_bits(a.to_bits() ^ rng.random_range(0..16)),
    };
    let c = match rng.random_range(0..3) {
        0 => f64::from_bits(rng.random()),
        1 => -(a * b),
        _ => f64::from_bits((a * b).to_bits() ^ rng.random_range(0..1 << 60)),
    };
    [a, b, c]
}

fn same(ours: f64, theirs: f64, what: &str, operands: [f64; 3]) {
    let equal = ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan();
    assert!(equal, "{what} of {operands:?}: {ours:e}, not {theirs:e}");
}

#[test]
fn rounds_to_nearest_as_the_machine_does() {
    let mut rng = StdRng::seed_from_u64(3);
    let nearest = Round::NearestEven;
    for _ in 0..200_000 {
        let all @ [a, b, c] = operands(&mut rng);
        let [x, y, z] = all.map(number);
        same(rounded(x.plus(y, nearest), nearest), a + b, "sum", all);
        same(rounded(x.times(y), nearest), a * b, "product", all);
        same(rounded(x.over(y), nearest), a / b, "quotient", all);
        same(rounded(x.root(), nearest), a.sqrt(), "root", all);
        same(rounded(x.times(y).plus(z, nearest), nearest), a.mul_add(b, c), "fused sum", all);
    }
}

/// The directed results enclose the nearest one, which is one of them; toward zero is the smaller one.
#[test]
fn directions_enclose_the_nearest() {
    let mut rng = StdRng::seed_from_u64(4);
    for _ in 0..100_000 {
        let all = operands(&mut rng);
        let [x, y, z] = all.map(number);
        let fused = |round| rounded(x.times(y).plus(z, round), round);
        for results in [
            [Round::Down, Round::NearestEven, Round::Up, Round::Zero].map(fused),
            [Round::Down, Round::NearestEven, Round::Up, Round::Zero].map(|round| rounded(x.over(y), round)),
            [Round::Down, Round::NearestEven, Round::Up, Round::Zero].map(|round| rounded(x.root(), round)),
        ] {
            let [down, nearest, up, zero] = results;
            if nearest.is_nan() {
                assert!(results.iter().all(|value| value.is_nan()));
                continue;
            }
            assert!(down == up || down.next_up() == up, "{all:?}: {results:?}");
            assert!(nearest == down || nearest == up, "{all:?}: {results:?}");
            assert_eq!(zero, if nearest.is_sign_negative() { up } else { down }, "{all:?}: {results:?}");
        }
    }
    let (third, tiny) = (number(1.0).over(number(3.0)), number(1.0).plus(number(1e-300), Round::Up));
    assert_eq!((rounded(third, Round::Down), rounded(third, Round::Up)), (1.0 / 3.0, (1f64 / 3.0).next_up()));
    assert_eq!((rounded(tiny, Round::Zero), rounded(tiny, Round::Up)), (1.0, 1f64.next_up()));
}

#[test]
fn zeros_have_signs() {
    let (one, minus) = (number(1.0), number(-1.0));
    assert_eq!(one.plus(minus, Round::NearestEven), Number::zero(false));
    assert_eq!(one.plus(minus, Round::Down), Number::zero(true));
    assert_eq!(Number::zero(true).plus(Number::zero(true), Round::Up), Number::zero(true));
    assert_eq!(Number::zero(true).plus(Number::zero(false), Round::Up), Number::zero(false));
    assert!(minus.times(Number::zero(false)).is_negative());
}

#[test]
fn integers_are_clamped() {
    let integer = |value: f64, round| number(value).to_integer(round, -128, 127);
    assert_eq!(integer(2.5, Round::NearestEven), Some(2));
    assert_eq!(integer(-2.5, Round::Down), Some(-3));
    assert_eq!(integer(-2.5, Round::Zero), Some(-2));
    assert_eq!(integer(2.5, Round::Up), Some(3));
    assert_eq!(integer(1e300, Round::Zero), Some(127));
    assert_eq!(integer(-1e300, Round::Zero), Some(-128));
    assert_eq!(integer(f64::NEG_INFINITY, Round::Zero), Some(-128));
    assert_eq!(integer(f64::NAN, Round::Zero), None);
    assert_eq!(number(2f64.powi(63)).to_integer(Round::Zero, 0, u64::MAX.into()), Some(1 << 63));
}
