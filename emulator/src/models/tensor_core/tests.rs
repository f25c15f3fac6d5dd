//! The models against their rules, written with integers and one element at a time.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::models::convert::Round;
use crate::models::number::Number;

const FLOATS: [(MmaType, MmaType, MmaAccumulator); 8] = [
    (MmaType::F16, MmaType::F16, MmaAccumulator::F32),
    (MmaType::F16, MmaType::F16, MmaAccumulator::F16),
    (MmaType::Bf16, MmaType::Bf16, MmaAccumulator::F32),
    (MmaType::Tf32, MmaType::Tf32, MmaAccumulator::F32),
    (MmaType::E4m3, MmaType::E4m3, MmaAccumulator::F32),
    (MmaType::E4m3, MmaType::E5m2, MmaAccumulator::F32),
    (MmaType::E5m2, MmaType::E4m3, MmaAccumulator::F16),
    (MmaType::E5m2, MmaType::E5m2, MmaAccumulator::F32),
];

fn multiply(
    product: Product,
    a: &Matrix,
    b: &Matrix,
    d: &mut [u32],
    numerics: Numerics,
) -> Result<(), ProductError> {
    TensorCore::default().multiply(product, a, b, d, numerics)
}

fn product(a: MmaType, b: MmaType, d: MmaAccumulator) -> Product {
    Product { a, b, d, negate_a: false, negate_b: false, accumulate: true, saturate: false }
}

/// Exponent and fraction bits, and unused bits below them.
fn fields(ty: MmaType) -> (u32, u32, u32) {
    match ty {
        MmaType::F16 => (5, 10, 0),
        MmaType::Bf16 => (8, 7, 0),
        MmaType::Tf32 => (8, 10, 13),
        MmaType::E4m3 => (4, 3, 0),
        _ => (5, 2, 0),
    }
}

/// A finite value: a signed significand with this many fraction bits, and a power of two.
fn split(bits: u32, (exponent_bits, fraction_bits, padding): (u32, u32, u32)) -> (i128, i32) {
    let bits = bits >> padding;
    let fraction = bits % (1 << fraction_bits);
    let exponent = (bits >> fraction_bits) % (1 << exponent_bits);
    let negative = bits >> (fraction_bits + exponent_bits) & 1 == 1;
    let significand = i128::from(fraction + if exponent > 0 { 1 << fraction_bits } else { 0 });
    let power = if significand == 0 { -126 } else { exponent.max(1) as i32 - (1 << (exponent_bits - 1)) + 1 };
    (if negative { -significand } else { significand }, power)
}

/// One element of D by the rule of `hopper.rs`, for finite values.
fn hopper(product: Product, a: &[u32], b: &[u32], c: u32) -> u32 {
    let (fa, fb) = (fields(product.a), fields(product.b));
    let fc = if product.d == MmaAccumulator::F16 { (5, 10, 0) } else { (8, 23, 0) };
    let fp8 = product.a.bytes() == 1;
    let fraction = if fp8 { 13 } else { 25 };
    let negative = product.negate_a != product.negate_b;
    // Significand, its fraction bits, power.
    let mut terms = Vec::new();
    if product.accumulate {
        let (significand, power) = split(c, fc);
        terms.push((significand, fc.1, power));
    } else {
        terms.push((0, fc.1, -126));
    }
    for (&a, &b) in a.iter().zip(b) {
        let ((sa, ea), (sb, eb)) = (split(a, fa), split(b, fb));
        terms.push((if negative { -sa * sb } else { sa * sb }, fa.1 + fb.1, ea + eb));
    }
    let most = terms.iter().map(|term| term.2).max().unwrap();
    let sum: i128 = terms
        .iter()
        .map(|&(significand, bits, power)| {
            let shift = fraction - bits as i32 + power - most;
            let magnitude = significand.abs();
            let cut = if shift >= 0 {
                magnitude << shift
            } else {
                magnitude.checked_shr(-shift as u32).unwrap_or(0)
            };
            cut * significand.signum()
        })
        .sum();
    if sum == 0 {
        return 0;
    }
    let number =
        Number::Finite { negative: sum < 0, mantissa: sum.unsigned_abs(), exponent: most - fraction };
    let bits = if product.d == MmaAccumulator::F16 {
        Format::F16.encode(number, Round::NearestEven, false) as u32
    } else {
        let bits = Format::F32.encode(number, Round::Zero, false) as u32;
        let overflows =
            bits & 0x7FFF_FFFF == 0x7F7F_FFFF && sum.unsigned_abs().ilog2() as i32 + most - fraction > 127;
        let bits = if overflows { bits & 0x8000_0000 | 0x7F80_0000 } else { bits };
        if fp8 { bits & !0x3FF } else { bits }
    };
    let magnitude = bits & if product.d == MmaAccumulator::F16 { 0x7FFF } else { 0x7FFF_FFFF };
    if magnitude == 0 { 0 } else { bits }
}

fn store(matrix: &mut Matrix, bytes: usize, row: usize, k: usize, bits: u32) {
    matrix.rows[row][k * bytes..(k + 1) * bytes].copy_from_slice(&bits.to_le_bytes()[..bytes]);
}

/// Random finite bits: of all sizes, around 1, mostly zeros, or subnormal.
fn bits(rng: &mut StdRng, (exponent_bits, fraction_bits, padding): (u32, u32, u32), kind: u32) -> u32 {
    let most = (1 << exponent_bits) - 2;
    let exponent = match kind {
        0 => rng.random_range(0..=most),
        1 => rng.random_range(most / 2 - 1..=most / 2 + 1),
        2 if rng.random_ratio(2, 3) => {
            return rng.random_range(0..=1) << (exponent_bits + fraction_bits + padding);
        }
        2 => rng.random_range(0..=most),
        _ => rng.random_range(0..=1),
    };
    let (sign, fraction) = (rng.random_range(0..=1), rng.random_range(0..1 << fraction_bits));
    (((sign << exponent_bits | exponent) << fraction_bits) | fraction) << padding
}

struct Case {
    product: Product,
    a: Matrix,
    b: Matrix,
    c: Vec<u32>,
}

impl Case {
    fn random(rng: &mut StdRng, product: Product, n: usize) -> Self {
        let bytes = product.a.bytes() as usize;
        let mut case = Case {
            product,
            a: Matrix { rows: vec![[0; ROW]; M] },
            b: Matrix { rows: vec![[0; ROW]; n] },
            c: Vec::new(),
        };
        let kinds: [u32; 3] = rng.random::<[u32; 3]>().map(|kind| kind % 4);
        for (row, k) in (0..M.max(n)).flat_map(|row| (0..ROW / bytes).map(move |k| (row, k))) {
            if row < M {
                store(&mut case.a, bytes, row, k, bits(rng, fields(product.a), kinds[0]));
            }
            if row < n {
                store(&mut case.b, bytes, row, k, bits(rng, fields(product.b), kinds[1]));
            }
        }
        let fc = if product.d == MmaAccumulator::F16 { (5, 10, 0) } else { (8, 23, 0) };
        case.c = (0..M * n).map(|_| bits(rng, fc, kinds[2])).collect();
        case
    }

    fn row(&self, matrix: &Matrix, row: usize) -> Vec<u32> {
        (0..self.product.k())
            .map(|k| element(&matrix.rows[row], self.product.a.bytes() as usize, k))
            .collect()
    }

    fn run(&self, numerics: Numerics) -> Vec<u32> {
        let mut d = self.c.clone();
        multiply(self.product, &self.a, &self.b, &mut d, numerics).unwrap();
        d
    }

    fn elements(&self, mut check: impl FnMut(usize, Vec<u32>, Vec<u32>)) {
        let n = self.b.rows.len();
        for at in 0..M * n {
            check(at, self.row(&self.a, at / n), self.row(&self.b, at % n));
        }
    }
}

#[test]
fn hopper_is_its_rule() {
    let mut rng = StdRng::seed_from_u64(5);
    for round in 0..40 {
        for (a, b, d) in FLOATS {
            let [negate_a, negate_b, accumulate] = [rng.random(), rng.random(), rng.random_ratio(3, 4)];
            let case =
                Case::random(&mut rng, Product { negate_a, negate_b, accumulate, ..product(a, b, d) }, 16);
            let seen = case.run(Numerics::Hopper);
            case.elements(|at, a, b| {
                let expected = hopper(case.product, &a, &b, case.c[at]);
                assert_eq!(
                    seen[at], expected,
                    "{round}: {:?} {a:x?} {b:x?} {:x}: {:x} {expected:x}",
                    case.product, case.c[at], seen[at]
                );
            });
        }
    }
}

#[test]
fn exact_is_a_sum_in_f64() {
    let mut rng = StdRng::seed_from_u64(6);
    for (ta, tb, td) in FLOATS.repeat(4) {
        let case = Case::random(&mut rng, product(ta, tb, td), 24);
        let seen = case.run(Numerics::Exact);
        let output = if td == MmaAccumulator::F16 { Format::F16 } else { Format::F32 };
        let value = |ty, bits: u32| format(ty).unwrap().to_f64(bits.into());
        case.elements(|at, a, b| {
            let c = output.to_f64(case.c[at].into());
            let sum = a.iter().zip(&b).fold(c, |sum, (&a, &b)| sum + value(ta, a) * value(tb, b));
            assert_eq!(u64::from(seen[at]), output.from_f64(sum, Round::NearestEven, false));
        });
    }
}

/// One product in the first element of D.
fn dot(product: Product, a: &[f64], b: &[f64], c: f64, numerics: Numerics) -> u32 {
    let bytes = product.a.bytes() as usize;
    let mut matrices = [Matrix { rows: vec![[0; ROW]; M] }, Matrix { rows: vec![[0; ROW]; 8] }];
    for (matrix, (values, ty)) in matrices.iter_mut().zip([(a, product.a), (b, product.b)]) {
        for (k, &value) in values.iter().enumerate() {
            let bits = format(ty).unwrap().from_f64(value, Round::NearestEven, false);
            store(matrix, bytes, 0, k, bits as u32);
        }
    }
    let output = if product.d == MmaAccumulator::F16 { Format::F16 } else { Format::F32 };
    let mut d = vec![output.from_f64(c, Round::NearestEven, false) as u32; M * 8];
    multiply(product, &matrices[0], &matrices[1], &mut d, numerics).unwrap();
    d[0]
}

#[test]
fn hopper_cuts_small_terms() {
    let f16 = product(MmaType::F16, MmaType::F16, MmaAccumulator::F32);
    let run = |a: &[f64], b: &[f64], c| f32::from_bits(dot(f16, a, b, c, Numerics::Hopper));
    // 25 fraction bits of the largest term: four times a quarter of the last one is nothing.
    let tiny = 2f64.powi(-14);
    assert_eq!(run(&[1.0, tiny, tiny, tiny, tiny], &[1.0, tiny, tiny, tiny, tiny], 0.0), 1.0);
    let small = 2f64.powi(-12);
    assert_eq!(run(&[1.0, small, small], &[1.0, small, small], 0.0), 1.0 + 2f32.powi(-23));
    assert_eq!(run(&[1.0, small], &[1.0, small], 0.0), 1.0);
    // Results are cut, not rounded.
    assert_eq!(run(&[-1.0, -small], &[1.0, small], 0.0), -1.0);
    assert_eq!(run(&[1.0], &[1.0], -2f64.powi(-30)), 1.0);
    let fp8 = product(MmaType::E4m3, MmaType::E4m3, MmaAccumulator::F32);
    let run = |a: &[f64], b: &[f64], c| f32::from_bits(dot(fp8, a, b, c, Numerics::Hopper));
    assert_eq!(run(&[1.0], &[1.0], 2f64.powi(-13)), 1.0 + 2f32.powi(-13));
    assert_eq!(run(&[1.0], &[1.0], 2f64.powi(-14)), 1.0);
    assert_eq!(run(&[0.0], &[1.0], 1.0 + 2f64.powi(-14)), 1.0);
}

#[test]
fn infinities_and_nans() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    for numerics in [Numerics::Exact, Numerics::Hopper] {
        let bf16 = product(MmaType::Bf16, MmaType::Bf16, MmaAccumulator::F32);
        let run = |a: &[f64], b: &[f64], c| dot(bf16, a, b, c, numerics);
        assert_eq!(run(&[inf, 1.0], &[1.0, 1.0], 0.0), 0x7F80_0000);
        assert_eq!(run(&[1.0], &[1.0], -inf), 0xFF80_0000);
        assert_eq!(run(&[inf, 1.0], &[0.0, 1.0], 0.0), 0x7FFF_FFFF);
        assert_eq!(run(&[inf], &[1.0], -inf), 0x7FFF_FFFF);
        assert_eq!(run(&[nan], &[1.0], 0.0), 0x7FFF_FFFF);
        assert_eq!(run(&[1e30], &[1e30], 0.0), 0x7F80_0000);
        let f16 = product(MmaType::F16, MmaType::F16, MmaAccumulator::F16);
        let run = |a: &[f64], b: &[f64], c| dot(f16, a, b, c, numerics);
        assert_eq!(run(&[nan], &[1.0], 0.0), 0x7FFF);
        assert_eq!(run(&[-300.0], &[300.0], 0.0), 0xFC00);
        let fp8 = product(MmaType::E4m3, MmaType::E5m2, MmaAccumulator::F32);
        assert_eq!(dot(fp8, &[nan], &[1.0], 0.0, numerics), 0x7FFF_FFFF);
        assert_eq!(dot(fp8, &[1.0], &[inf], 0.0, numerics), 0x7F80_0000);
    }
}

#[test]
fn integers_are_exact() {
    let mut rng = StdRng::seed_from_u64(7);
    for (ta, tb) in [MmaType::S8, MmaType::U8].map(|a| [(a, MmaType::S8), (a, MmaType::U8)]).concat() {
        for saturate in [false, true] {
            let mut random = |rows| Matrix { rows: (0..rows).map(|_| rng.random()).collect() };
            let (a, b) = (random(M), random(32));
            let c: Vec<u32> =
                (0..M * 32).map(|_| if rng.random() { rng.random() } else { 0x7FFF_F000 }).collect();
            let mut d = c.clone();
            let product = Product { saturate, ..product(ta, tb, MmaAccumulator::S32) };
            multiply(product, &a, &b, &mut d, Numerics::Hopper).unwrap();
            let value = |ty, byte: u8| {
                if ty == MmaType::S8 { i64::from(byte.cast_signed()) } else { i64::from(byte) }
            };
            for (at, (&seen, &c)) in d.iter().zip(&c).enumerate() {
                let products = a.rows[at / 32].iter().zip(&b.rows[at % 32]);
                let sum: i64 = products.map(|(&a, &b)| value(ta, a) * value(tb, b)).sum::<i64>()
                    + i64::from(c.cast_signed());
                let expected =
                    if saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32 } else { sum as i32 };
                assert_eq!(seen.cast_signed(), expected);
            }
        }
    }
}

#[test]
fn refuses_what_there_is_not() {
    let f16 = product(MmaType::F16, MmaType::F16, MmaAccumulator::F32);
    let s8 = product(MmaType::S8, MmaType::U8, MmaAccumulator::S32);
    assert_eq!((f16.check(8), f16.check(256), s8.check(24), s8.check(48)), (Ok(()), Ok(()), Ok(()), Ok(())));
    for n in [0, 4, 12, 264] {
        assert_eq!(f16.check(n), Err(ProductError::Columns { n, a: MmaType::F16 }));
    }
    assert_eq!(s8.check(40), Err(ProductError::Columns { n: 40, a: MmaType::S8 }));
    for wrong in [
        Product { b: MmaType::Bf16, ..f16 },
        Product { d: MmaAccumulator::S32, ..f16 },
        Product { saturate: true, ..f16 },
        Product { negate_a: true, ..s8 },
        Product { a: MmaType::Bf16, b: MmaType::Bf16, d: MmaAccumulator::F16, ..f16 },
    ] {
        assert_eq!(wrong.check(64), Err(ProductError::Types { product: wrong }));
    }
    let matrix = |rows| Matrix { rows: vec![[0; ROW]; rows] };
    let error = Err(ProductError::Shapes { a: 32, b: 8, d: 512 });
    assert_eq!(multiply(f16, &matrix(32), &matrix(8), &mut [0; 512], Numerics::Exact), error);
}
