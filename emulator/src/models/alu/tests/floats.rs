//! Floating point, against exact numbers.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::models::convert::{Format, Round};

/// Bits of all sizes, near 1, subnormal, special.
fn bits(rng: &mut StdRng) -> u32 {
    let special =
        [0, 0x8000_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 1, 0x007F_FFFF, 0x0080_0000, 0x7F7F_FFFF];
    match rng.random_range(0..5) {
        0 => special[rng.random_range(0..special.len())],
        1 => rng.random::<u32>() & 0x80FF_FFFF,
        2 | 3 => rng.random::<u32>() & 0x83FF_FFFF | 0x3C00_0000,
        _ => rng.random(),
    }
}

fn canonical(value: f32) -> u32 {
    if value.is_nan() { NAN } else { value.to_bits() }
}

fn flushed(value: f32) -> f32 {
    if value.is_subnormal() { 0f32.copysign(value) } else { value }
}

/// An f32 instruction against a function, with and without `.ftz`.
fn check(op: AluOp, rounding: Rounding, sources: u8, expected: impl Fn([f32; 3]) -> f32) {
    let mut rng = StdRng::seed_from_u64(12);
    let [keep, flush] =
        [rounded(rounding), ftz(rounded(rounding))].map(|float| instruction(op, Type::F32, float, sources));
    for _ in 0..20_000 {
        let bits: [u32; 3] = std::array::from_fn(|_| bits(&mut rng));
        let src = bits.map(u64::from);
        let values = bits.map(f32::from_bits);
        let sources = usize::from(sources);
        assert_eq!(run(&keep, &src[..sources]) as u32, canonical(expected(values)), "{op:?} {values:?}");
        let result = flushed(expected(values.map(flushed)));
        assert_eq!(run(&flush, &src[..sources]) as u32, canonical(result), "{op:?}.ftz {values:?}");
    }
}

#[test]
fn arithmetic_rounds_to_nearest() {
    check(AluOp::Add, Rounding::Rn, 2, |[a, b, _]| a + b);
    check(AluOp::Sub, Rounding::Default, 2, |[a, b, _]| a - b);
    check(AluOp::Mul, Rounding::Rn, 2, |[a, b, _]| a * b);
    check(AluOp::Fma, Rounding::Rn, 3, |[a, b, c]| a.mul_add(b, c));
    check(AluOp::Div, Rounding::Rn, 2, |[a, b, _]| a / b);
    check(AluOp::Rcp, Rounding::Rn, 1, |[a, ..]| 1.0 / a);
    check(AluOp::Sqrt, Rounding::Rn, 1, |[a, ..]| a.sqrt());
}

/// Sums that an f64 rounds to the middle of two f32, from above and from below.
#[test]
fn fused_sums_are_rounded_once() {
    let mut rng = StdRng::seed_from_u64(13);
    let alu = instruction(AluOp::Fma, Type::F32, rounded(Rounding::Rn), 3);
    for _ in 0..20_000 {
        let c = f32::from_bits(rng.random::<u32>() & 0x80FF_FFFF | 0x3F80_0000);
        let half = f32::EPSILON / 2.0 * if c.abs() >= 2.0 { 2.0 } else { 1.0 };
        let (a, b) = (half.sqrt(), half.sqrt() * (1.0 + f32::EPSILON * rng.random_range(-2..=2) as f32));
        let exact = (1.0 + f32::EPSILON * 2f32.powi(rng.random_range(-20..0)), half);
        for (a, b) in [(a, b), exact, (half, 1.0), (half, 1.0f32.next_up()), (half, 1.0f32.next_down())] {
            let src = [a, b, c].map(|value| u64::from(value.to_bits()));
            assert_eq!(run(&alu, &src) as u32, a.mul_add(b, c).to_bits(), "{a:e} {b:e} {c:e}");
        }
    }
    let tiny = [f32::MIN_POSITIVE, 0.5 + f32::EPSILON, f32::from_bits(1)];
    let src = tiny.map(|value| u64::from(value.to_bits()));
    assert_eq!(run(&alu, &src) as u32, tiny[0].mul_add(tiny[1], tiny[2]).to_bits());
}

#[test]
fn directions_are_kept() {
    let mut rng = StdRng::seed_from_u64(14);
    for (rounding, round) in
        [(Rounding::Rz, Round::Zero), (Rounding::Rm, Round::Down), (Rounding::Rp, Round::Up)]
    {
        for _ in 0..5000 {
            let [a, b] = [0; 2].map(|_| bits(&mut rng));
            let exact = f64::from(f32::from_bits(a)) * f64::from(f32::from_bits(b));
            let seen = run(&instruction(AluOp::Mul, Type::F32, rounded(rounding), 2), &[a.into(), b.into()]);
            assert_eq!(seen, Format::F32.from_f64(exact, round, false));
        }
    }
    let third = |rounding| {
        run(&instruction(AluOp::Div, Type::F32, rounded(rounding), 2), &[0x3F80_0000, 0x4040_0000])
    };
    assert_eq!((third(Rounding::Rm), third(Rounding::Rp)), (0x3EAA_AAAA, 0x3EAA_AAAB));
    let zero = |rounding| run(&instruction(AluOp::Sub, Type::F32, rounded(rounding), 2), &[0x3F80_0000; 2]);
    assert_eq!((zero(Rounding::Rn), zero(Rounding::Rm)), (0, 0x8000_0000));
}

#[test]
fn doubles_and_halves() {
    let mut rng = StdRng::seed_from_u64(15);
    for _ in 0..5000 {
        let [a, b, c] = [0; 3].map(|_| rng.random::<u64>());
        let [x, y, z] = [a, b, c].map(f64::from_bits);
        let canonical = |value: f64| if value.is_nan() { u64::MAX >> 1 } else { value.to_bits() };
        let run64 = |op, sources| {
            run(&instruction(op, Type::F64, rounded(Rounding::Rn), sources), &[a, b, c][..sources.into()])
        };
        assert_eq!(run64(AluOp::Add, 2), canonical(x + y));
        assert_eq!(run64(AluOp::Fma, 3), canonical(x.mul_add(y, z)));
        assert_eq!(run64(AluOp::Div, 2), canonical(x / y));
        // Products and sums of 11-bit significands are exact in f64.
        let half = |bits: u64| Format::F16.to_f64(bits);
        let f16 = |op, ty| run(&instruction(op, ty, rounded(Rounding::Rn), 2), &[a, b]);
        let expected = |value| Format::F16.from_f64(value, Round::NearestEven, false);
        assert_eq!(f16(AluOp::Add, Type::F16), expected(half(a) + half(b)));
        let pair = expected(half(a) * half(b)) | expected(half(a >> 16) * half(b >> 16)) << 16;
        assert_eq!(f16(AluOp::Mul, Type::F16x2), pair);
        let brain =
            Format::BF16.from_f64(Format::BF16.to_f64(a) * Format::BF16.to_f64(b), Round::NearestEven, false);
        assert_eq!(f16(AluOp::Mul, Type::Bf16), brain);
    }
    // 1 + 2^-11 is half-way in f16; what is far below decides.
    let fused = |c| run(&instruction(AluOp::Fma, Type::F16, rounded(Rounding::Rn), 3), &[0x1000, 0x3C00, c]);
    assert_eq!((fused(0x3C00), fused(0x3C01)), (0x3C00, 0x3C02));
    let relu = Float { relu: true, ..rounded(Rounding::Rn) };
    let fused = |a| run(&instruction(AluOp::Fma, Type::F16x2, relu, 3), &[a, 0x3C00_3C00, 0]);
    assert_eq!((fused(0xBC00_3C00), fused(0x7E00_8000)), (0x3C00, 0x7FFF_0000));
}

#[test]
fn results_saturate() {
    let saturated = |a: f32| {
        let float = Float { saturate: true, ..rounded(Rounding::Rn) };
        f32::from_bits(run(&instruction(AluOp::Add, Type::F32, float, 2), &[a.to_bits().into(), 0]) as u32)
    };
    assert_eq!(
        [0.25, 7.0, -3.0, f32::INFINITY, f32::NEG_INFINITY].map(saturated),
        [0.25, 1.0, 0.0, 1.0, 0.0]
    );
    assert_eq!(saturated(f32::NAN).to_bits(), 0);
    assert_eq!(saturated(-0.0).to_bits(), 0);
}

#[test]
fn extremes() {
    let (one, two, zero, minus_zero, nan) = (0x3F80_0000, 0x4000_0000, 0, 0x8000_0000, 0x7FC0_0001);
    for (a, b, least, most, least_nan) in [
        (one, two, one, two, one),
        (zero, minus_zero, minus_zero, zero, minus_zero),
        (nan, one, one, one, NAN.into()),
        (nan, nan, NAN.into(), NAN.into(), NAN.into()),
        (0xFF80_0000, minus_zero, 0xFF80_0000, minus_zero, 0xFF80_0000),
    ] {
        for src in [[a, b], [b, a]] {
            let run = |op, float| run(&instruction(op, Type::F32, float, 2), &src);
            assert_eq!(run(AluOp::Min, plain()), least, "{src:x?}");
            assert_eq!(run(AluOp::Max, plain()), most, "{src:x?}");
            assert_eq!(run(AluOp::Min, Float { nan: true, ..plain() }), least_nan, "{src:x?}");
        }
    }
    let halves = run(&instruction(AluOp::Max, Type::F16x2, plain(), 2), &[0x7E00_BC00, 0x3C00_8000]);
    assert_eq!(halves, 0x3C00_8000);
    let flushed = run(&instruction(AluOp::Max, Type::F32, ftz(plain()), 2), &[0x0000_0001, 0x8000_0001]);
    assert_eq!(flushed, 0);
}

#[test]
fn signs_and_classes() {
    let one = |op, ty, float, a| run(&instruction(op, ty, float, 1), &[a]);
    assert_eq!(one(AluOp::Neg, Type::F32, plain(), 0x3F80_0000), 0xBF80_0000);
    assert_eq!(one(AluOp::Abs, Type::F32, ftz(plain()), 0x8000_0001), 0);
    assert_eq!(one(AluOp::Neg, Type::F16x2, plain(), 0x3C00_BC00), 0xBC00_3C00);
    assert_eq!(one(AluOp::Abs, Type::F64, plain(), 1 << 63), 0);
    assert_eq!(one(AluOp::IsFinite, Type::F32, plain(), 0xFF7F_FFFF), 1);
    assert_eq!(one(AluOp::IsFinite, Type::F32, plain(), 0xFF80_0000), 0);
    let copied = run(&instruction(AluOp::Copysign, Type::F32, plain(), 2), &[0x8000_0000, 0x3F80_0000]);
    assert_eq!(copied, 0xBF80_0000);
}

#[test]
fn comparisons_know_nan() {
    use Compare::*;
    let holds = |compare, a: f32, b: f32| {
        let alu = instruction(AluOp::Setp(compare), Type::F32, plain(), 2);
        run(&alu, &[a.to_bits().into(), b.to_bits().into()]) == 1
    };
    for (a, b, expected) in [
        (1.0, 2.0, vec![Ne, Lt, Le, Neu, Ltu, Leu, Num]),
        (2.0, 1.0, vec![Ne, Gt, Ge, Neu, Gtu, Geu, Num]),
        (0.0, -0.0, vec![Eq, Le, Ge, Equ, Leu, Geu, Num]),
        (f32::NAN, 1.0, vec![Equ, Neu, Ltu, Leu, Gtu, Geu, Nan]),
        (1.0, f32::NAN, vec![Equ, Neu, Ltu, Leu, Gtu, Geu, Nan]),
    ] {
        for compare in [Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan] {
            assert_eq!(holds(compare, a, b), expected.contains(&compare), "{a} {compare:?} {b}");
        }
    }
    let equal = |float, a, b| run(&instruction(AluOp::Setp(Eq), Type::F32, float, 2), &[a, b]);
    assert_eq!((equal(plain(), 1, 2), equal(ftz(plain()), 1, 2)), (0, 1));
    let less = instruction(AluOp::Setp(Lt), Type::F16, plain(), 2);
    assert_eq!(run(&less, &[0xFBC00, 0x13C00]), 1);
    let set = instruction(AluOp::Set { compare: Gtu, from: Type::F32 }, Type::F32, plain(), 2);
    assert_eq!(run(&set, &[NAN.into(), 0]), 0x3F80_0000);
}

fn approx(op: AluOp, a: f32) -> f32 {
    f32::from_bits(
        run(&instruction(op, Type::F32, rounded(Rounding::Approx), 1), &[a.to_bits().into()]) as u32
    )
}

/// Rounded to nearest of the true value, but for one in many millions: here of all upper halves, and others.
#[test]
fn powers_of_two_are_rounded() {
    let mut rng = StdRng::seed_from_u64(16);
    let upper = (0..=u16::MAX).map(|upper| u32::from(upper) << 16);
    let others = (0..100_000).map(|_| rng.random_range(-150f32..130.0).to_bits());
    for a in upper.chain(others).map(f32::from_bits) {
        let (seen, expected) = (approx(AluOp::Ex2, a), f64::from(a).exp2() as f32);
        assert_eq!(canonical(seen), canonical(expected), "2^{a:e}");
    }
    for power in -149..=127 {
        assert_eq!(approx(AluOp::Ex2, power as f32), 2f64.powi(power) as f32);
    }
}

#[test]
fn approximations_have_their_special_values() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for (op, a, expected) in [
        (AluOp::Ex2, -inf, 0.0),
        (AluOp::Ex2, inf, inf),
        (AluOp::Ex2, -0.0, 1.0),
        (AluOp::Lg2, 0.0, -inf),
        (AluOp::Lg2, -0.0, -inf),
        (AluOp::Lg2, -1.0, nan),
        (AluOp::Lg2, inf, inf),
        (AluOp::Lg2, 8.0, 3.0),
        (AluOp::Rcp, -0.0, -inf),
        (AluOp::Rcp, -inf, -0.0),
        (AluOp::Rcp, 4.0, 0.25),
        (AluOp::Rsqrt, -0.0, -inf),
        (AluOp::Rsqrt, 0.25, 2.0),
        (AluOp::Rsqrt, -1.0, nan),
        (AluOp::Sqrt, -0.0, -0.0),
        (AluOp::Sqrt, -1.0, nan),
        (AluOp::Sin, -0.0, -0.0),
        (AluOp::Sin, inf, nan),
        (AluOp::Cos, 0.0, 1.0),
        (AluOp::Tanh, -inf, -1.0),
        (AluOp::Tanh, nan, nan),
    ] {
        assert_eq!(canonical(approx(op, a)), canonical(expected), "{op:?} {a}");
    }
    let flush = |op, a| run(&instruction(op, Type::F32, ftz(rounded(Rounding::Approx)), 1), &[a]) as u32;
    assert_eq!(flush(AluOp::Rcp, 0x8000_0001), 0xFF80_0000);
    assert_eq!(flush(AluOp::Ex2, (-127f32).to_bits().into()), 0);
    assert_eq!(flush(AluOp::Lg2, 1), 0xFF80_0000);
    let divide = |rounding, a: f32, b: f32| {
        let alu = instruction(AluOp::Div, Type::F32, rounded(rounding), 2);
        f32::from_bits(run(&alu, &[a.to_bits().into(), b.to_bits().into()]) as u32)
    };
    assert_eq!(divide(Rounding::Approx, 1.0, 3.0), 1.0 / 3.0);
    assert_eq!(divide(Rounding::Approx, 2e38, -2e38).to_bits(), 0x8000_0000);
    assert!(divide(Rounding::Approx, inf, 2e38).is_nan());
    assert_eq!(divide(Rounding::Full, 2e38, 2e38), 1.0);
    let halves = run(&instruction(AluOp::Tanh, Type::F16x2, rounded(Rounding::Approx), 1), &[0x7C00_0000]);
    assert_eq!(halves, 0x3C00_0000);
}
