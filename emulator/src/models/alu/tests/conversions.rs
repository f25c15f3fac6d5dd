//! Conversions between types.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::models::convert::{Format, Round};

fn cvt(from: Type, to: Type, float: Float, src: &[u64]) -> u64 {
    run(&instruction(AluOp::Cvt { from }, to, float, src.len() as u8), src)
}

fn f32s(value: f32) -> u64 {
    value.to_bits().into()
}

#[test]
fn integers_to_integers() {
    let wide = |from, to, a| cvt(from, to, plain(), &[a]);
    assert_eq!(wide(Type::U32, Type::U64, 0xF_FFFF_FFFF), 0xFFFF_FFFF);
    assert_eq!(wide(Type::S32, Type::S64, 0xFFFF_FFFE), u64::MAX - 1);
    assert_eq!(wide(Type::S32, Type::U64, 0xFFFF_FFFE), u64::MAX - 1);
    assert_eq!(wide(Type::U64, Type::U32, 0x1_2345_6789), 0x2345_6789);
    assert_eq!(wide(Type::S64, Type::U16, u64::MAX), 0xFFFF);
    // The sign of a narrow result fills its register.
    assert_eq!(wide(Type::U32, Type::S8, 0x1F0), 0xFFFF_FFF0);
    assert_eq!(wide(Type::S8, Type::S32, 0x80), 0xFFFF_FF80);
    assert_eq!(wide(Type::S8, Type::U32, 0x80), 0xFFFF_FF80);
    let clamped = |from, to, a| cvt(from, to, Float { saturate: true, ..plain() }, &[a]);
    assert_eq!(clamped(Type::S32, Type::U8, 0xFFFF_FFFF), 0);
    assert_eq!(clamped(Type::S32, Type::U8, 300), 255);
    assert_eq!(clamped(Type::U64, Type::S32, u64::MAX), 0x7FFF_FFFF);
    assert_eq!(clamped(Type::S32, Type::S8, 0x8000_0000), 0xFFFF_FF80);
}

#[test]
fn floats_to_integers() {
    let to = |ty, rounding, a: f32| cvt(Type::F32, ty, rounded(rounding), &[f32s(a)]);
    for (a, rn, rz, rm, rp) in
        [(2.5, 2, 2, 2, 3), (3.5, 4, 3, 3, 4), (-2.5, -2, -2, -3, -2), (-0.7, -1, 0, -1, 0)]
    {
        let seen =
            [Rounding::Rni, Rounding::Rzi, Rounding::Rmi, Rounding::Rpi].map(|r| to(Type::S32, r, a) as i32);
        assert_eq!(seen, [rn, rz, rm, rp], "{a}");
    }
    let zero = Rounding::Rzi;
    assert_eq!((to(Type::U32, zero, -5.0), to(Type::U32, zero, 1e20)), (0, 0xFFFF_FFFF));
    assert_eq!((to(Type::S32, zero, -1e20), to(Type::S8, zero, 1000.0)), (0x8000_0000, 127));
    assert_eq!((to(Type::U32, zero, f32::NAN), to(Type::S32, zero, f32::NEG_INFINITY)), (0, 0x8000_0000));
    assert_eq!(to(Type::U64, zero, f32::NAN), 1 << 63);
    assert_eq!(to(Type::S64, zero, 2f32.powi(62)), 1 << 62);
    assert_eq!(cvt(Type::F64, Type::S32, rounded(zero), &[f64::NAN.to_bits()]), 0x8000_0000);
    assert_eq!(cvt(Type::F16, Type::S32, rounded(zero), &[0xC500]), 0xFFFF_FFFB);
    let mut rng = StdRng::seed_from_u64(17);
    for _ in 0..5000 {
        let a = f32::from_bits(rng.random());
        assert_eq!(to(Type::S32, zero, a), u64::from((a as i32).cast_unsigned()), "{a:e}");
        assert_eq!(to(Type::U32, zero, a), u64::from(a as u32), "{a:e}");
    }
}

#[test]
fn integers_to_floats() {
    let mut rng = StdRng::seed_from_u64(18);
    for _ in 0..5000 {
        let a = rng.random::<u64>() >> rng.random_range(0..64);
        let to = |from, ty| cvt(from, ty, rounded(Rounding::Rn), &[a]);
        assert_eq!(to(Type::U32, Type::F32), f32s(a as u32 as f32));
        assert_eq!(to(Type::S32, Type::F32), f32s(a as i32 as f32));
        assert_eq!(to(Type::U64, Type::F32), f32s(a as f32));
        assert_eq!(to(Type::S64, Type::F64), (a as i64 as f64).to_bits());
        assert_eq!(
            to(Type::U16, Type::F16),
            Format::F16.from_f64(f64::from(a as u16), Round::NearestEven, false)
        );
        assert_eq!(
            to(Type::S8, Type::Bf16),
            Format::BF16.from_f64(f64::from(a as i8), Round::NearestEven, false)
        );
    }
    let up = |rounding| cvt(Type::U32, Type::F32, rounded(rounding), &[0x0100_0001]);
    assert_eq!((up(Rounding::Rz), up(Rounding::Rp)), (0x4B80_0000, 0x4B80_0001));
}

#[test]
fn floats_to_floats() {
    let mut rng = StdRng::seed_from_u64(19);
    for _ in 0..5000 {
        let (a, wide) = (f32::from_bits(rng.random()), f64::from_bits(rng.random()));
        let nan = |value: f64| value.is_nan();
        if a.is_nan() || nan(wide) {
            continue;
        }
        assert_eq!(cvt(Type::F32, Type::F64, plain(), &[f32s(a)]), f64::from(a).to_bits());
        assert_eq!(cvt(Type::F64, Type::F32, rounded(Rounding::Rn), &[wide.to_bits()]), f32s(wide as f32));
        assert_eq!(cvt(Type::F32, Type::F32, rounded(Rounding::Rzi), &[f32s(a)]), f32s(a.trunc()));
        assert_eq!(cvt(Type::F32, Type::F32, rounded(Rounding::Rni), &[f32s(a)]), f32s(a.round_ties_even()));
    }
    for bits in 0..=0xFFFF {
        for (from, format) in [(Type::F16, Format::F16), (Type::Bf16, Format::BF16)] {
            let value = format.to_f64(bits);
            let expected = if value.is_nan() { NAN.into() } else { f32s(value as f32) };
            assert_eq!(cvt(from, Type::F32, plain(), &[bits]), expected, "{from:?} {bits:#x}");
        }
    }
    assert_eq!(cvt(Type::F32, Type::F32, ftz(plain()), &[0x8000_0001]), 0x8000_0000);
    assert_eq!(cvt(Type::F32, Type::F32, Float { saturate: true, ..plain() }, &[f32s(-2.0)]), 0);
    assert_eq!(cvt(Type::F16, Type::F32, ftz(plain()), &[1]), f32s(2f32.powi(-24)));
    // Half-way in TF32, towards and away from zero.
    let tf32 = |rounding| cvt(Type::F32, Type::Tf32, rounded(rounding), &[0x3F80_1000]);
    assert_eq!(
        (tf32(Rounding::Rna), tf32(Rounding::Rn), tf32(Rounding::Rz)),
        (0x3F80_2000, 0x3F80_0000, 0x3F80_0000)
    );
}

#[test]
fn pairs_have_the_first_source_above() {
    let nearest = rounded(Rounding::Rn);
    assert_eq!(cvt(Type::F32, Type::F16x2, nearest, &[f32s(1.0), f32s(-2.0)]), 0x3C00_C000);
    assert_eq!(cvt(Type::F32, Type::Bf16x2, nearest, &[f32s(1.0), f32s(-2.0)]), 0x3F80_C000);
    assert_eq!(cvt(Type::F32, Type::F16x2, nearest, &[f32s(1e9), f32s(f32::NAN)]), 0x7C00_7FFF);
    let float = Float { satfinite: true, ..nearest };
    assert_eq!(cvt(Type::F32, Type::F16x2, float, &[f32s(1e9), f32s(-1e9)]), 0x7BFF_FBFF);
    let float = Float { relu: true, ..nearest };
    assert_eq!(cvt(Type::F32, Type::Bf16x2, float, &[f32s(-1.0), f32s(f32::NAN)]), 0x0000_7FFF);
    assert_eq!(
        cvt(Type::F32, Type::F16x2, rounded(Rounding::Rz), &[f32s(1e9), f32s(-0.999_999)]),
        0x7BFF_BBFF
    );
    let fp8 = Float { satfinite: true, ..nearest };
    assert_eq!(cvt(Type::F32, Type::E4m3x2, fp8, &[f32s(1.0), f32s(-1000.0)]), 0x38FE);
    assert_eq!(cvt(Type::F32, Type::E4m3x2, fp8, &[f32s(f32::NAN), f32s(2f32.powi(-10))]), 0x7F00);
    assert_eq!(cvt(Type::F32, Type::E5m2x2, fp8, &[f32s(1.0), f32s(f32::NEG_INFINITY)]), 0x3CFB);
    assert_eq!(cvt(Type::F16x2, Type::E4m3x2, fp8, &[0x3C00_C000]), 0x38C0);
    assert_eq!(cvt(Type::E4m3x2, Type::F16x2, nearest, &[0x387F]), 0x3C00_7FFF);
    assert_eq!(cvt(Type::E5m2x2, Type::F16x2, nearest, &[0x7CFB]), 0x7C00_FB00);
    let mut rng = StdRng::seed_from_u64(20);
    for _ in 0..5000 {
        let [a, b] = [0; 2].map(|_| rng.random::<u32>());
        let half = |bits: u32| Format::F16.encode(Format::F32.decode(bits.into()), Round::NearestEven, false);
        let seen = cvt(Type::F32, Type::F16x2, nearest, &[a.into(), b.into()]);
        assert_eq!(seen, half(a) << 16 | half(b));
    }
}
