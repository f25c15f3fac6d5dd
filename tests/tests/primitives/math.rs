//! Arithmetic: exact where PTX promises it, within the documented bound where it does not.

use half::{bf16, f16};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::call::{Bytes, Call, Outcome};
use crate::case::{Case, Labelled};

/// Results for each triple: see `probe_math`.
const RESULTS: usize = 9;
const NAMES: [&str; RESULTS] =
    ["exp2", "log2", "reciprocal", "max", "fma", "mul", "add", "pack f16", "pack bf16"];
/// Triples of one call.
const TRIPLES: usize = 256;

/// Subnormal numbers become zeros of the same sign.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// The larger number; NaN loses, and +0 is larger than -0.
fn max(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a.total_cmp(&b).is_ge() => a,
        _ => b,
    }
}

/// Two elements in one word, the first in the low half; all NaNs are one.
fn pack(low: f32, high: f32, encode: impl Fn(f32) -> u16) -> u32 {
    let half = |x: f32| if x.is_nan() { 0x7FFF } else { u32::from(encode(x)) };
    half(low) | half(high) << 16
}

/// Results for a triple, the approximate ones rounded correctly.
fn results(a: f32, b: f32, c: f32) -> [u32; RESULTS] {
    let [x, y, z] = [a, b, c].map(flush);
    let wide = f64::from(x);
    let rounded = |exact: f64| exact as f32;
    let floats = [
        rounded(wide.exp2()),
        rounded(wide.log2()),
        rounded(wide.recip()),
        max(x, y),
        x.mul_add(y, z),
        x * y,
        x + y,
    ];
    let mut results = [0; RESULTS];
    for (result, float) in results.iter_mut().zip(floats) {
        *result = if float.is_nan() { 0x7FFF_FFFF } else { flush(float).to_bits() };
    }
    results[7] = pack(a, b, |x| f16::from_f32(x).to_bits());
    results[8] = pack(a, b, |x| bf16::from_f32(x).to_bits());
    results
}

/// Distance of neighbouring numbers around `exact`.
fn ulp(exact: f64) -> f64 {
    let exponent = exact.abs().log2().floor().clamp(-126.0, 127.0);
    (exponent - 23.0).exp2()
}

/// How far the result `index` of `x` may be from the exact one: PTX ISA, `ex2.approx`, `lg2.approx`, `rcp.approx`.
fn bound(index: usize, x: f32, exact: f64) -> f64 {
    let near_one = (0.5..=2.0).contains(&x);
    match index {
        0 => 2.0 * ulp(exact),
        1 if near_one => 2f64.powi(-22),
        1 => exact.abs() * 2f64.powi(-22),
        _ => ulp(exact),
    }
}

/// Whether `seen` will do for the approximate result `index` of `x`.
fn is_close(index: usize, x: f32, seen: f32) -> bool {
    let wide = f64::from(x);
    let exact = [wide.exp2(), wide.log2(), wide.recip()][index];
    let flushed = exact.abs() < f64::from(f32::MIN_POSITIVE) && seen == 0.0;
    if !(exact as f32).is_finite() || !seen.is_finite() {
        return exact as f32 == seen;
    }
    let same_sign = seen.is_sign_negative() == exact.is_sign_negative() || index == 1;
    same_sign
        && !seen.is_subnormal()
        && (flushed || (f64::from(seen) - exact).abs() <= bound(index, x, exact))
}

/// Whether one word of the output will do.
fn is_right(index: usize, x: f32, expected: u32, seen: u32) -> bool {
    let (expected_float, seen_float) = (f32::from_bits(expected), f32::from_bits(seen));
    match index {
        _ if expected == seen => true,
        7 | 8 => (0..2).all(|half| {
            let [expected, seen] = [expected, seen].map(|word| (word >> (16 * half)) as u16);
            let is_nan = |bits| {
                if index == 7 { f16::from_bits(bits).is_nan() } else { bf16::from_bits(bits).is_nan() }
            };
            expected == seen || is_nan(expected) && is_nan(seen)
        }),
        _ if expected_float.is_nan() => seen_float.is_nan(),
        0..3 => is_close(index, flush(x), seen_float),
        _ => false,
    }
}

fn triples(call: &Call) -> Vec<[f32; 3]> {
    call.input.words().as_chunks().0.iter().map(|triple: &[u32; 3]| triple.map(f32::from_bits)).collect()
}

/// What a call must give.
pub(crate) fn predict(call: &Call) -> Outcome {
    let output = triples(call).into_iter().flat_map(|[a, b, c]| results(a, b, c));
    Outcome { output: Bytes::from_words(output), memory: None }
}

/// As the model, but within the bounds, and any NaN as good as another.
pub(crate) fn judge(call: &Call, seen: &Outcome) -> Result<(), String> {
    let (expected, words) = (predict(call).output.words(), seen.output.words());
    if words.len() != expected.len() || seen.memory.is_some() {
        return Err("not the outcome of this call".into());
    }
    let triples = triples(call);
    for (i, (expected, seen)) in expected.into_iter().zip(words).enumerate() {
        let (triple @ [x, ..], index) = (triples[i / RESULTS], i % RESULTS);
        if !is_right(index, x, expected, seen) {
            return Err(format!(
                "{} of {triple:?} is {seen:#010x} instead of {expected:#010x}",
                NAMES[index]
            ));
        }
    }
    Ok(())
}

/// Results that are approximate: the first ones.
const APPROXIMATE: usize = 3;

/// Whether `emulated` is what `hardware` gave: equal bits, or, of approximate functions, both within their bounds.
/// Prints how many of these are equal.
pub(crate) fn agree(call: &Call, hardware: &Outcome, emulated: &Outcome) -> Result<(), String> {
    judge(call, emulated)?;
    let (expected, seen) = (hardware.output.words(), emulated.output.words());
    let mut equal = [0; APPROXIMATE];
    for (i, (expected, seen)) in expected.iter().zip(&seen).enumerate() {
        let (triple, index) = (triples(call)[i / RESULTS], i % RESULTS);
        if index < APPROXIMATE {
            equal[index] += usize::from(expected == seen);
        } else if expected != seen {
            let name = NAMES[index];
            return Err(format!("{name} of {triple:?} is {seen:#010x} instead of {expected:#010x}"));
        }
    }
    let counts: Vec<String> =
        equal.iter().zip(NAMES).map(|(equal, name)| format!("{equal} {name}")).collect();
    println!("equal to the last bit, of {} each: {}", seen.len() / RESULTS, counts.join(", "));
    Ok(())
}

/// Where something changes: zeros, subnormals, the ends of the ranges, ties of both 16-bit types.
const EDGES: [f32; 40] = [
    0.0,
    -0.0,
    f32::from_bits(1),
    -1e-40,
    f32::from_bits(0x007F_FFFF),
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1.0,
    -1.0,
    0.5,
    2.0,
    1.5,
    -3.0,
    // exp2: its first and last normal results, and beyond.
    -126.0,
    -126.5,
    -127.0,
    -150.0,
    127.5,
    128.0,
    // reciprocal: its last normal result, and beyond.
    f32::from_bits(0x7E80_0000),
    f32::from_bits(0x7E80_0001),
    f32::from_bits(0x7F00_0000),
    // f16: the largest, the last to round to it, the first to overflow, the least normal, subnormal, and its half.
    65504.0,
    65519.996,
    65520.0,
    6.103_515_6e-5,
    5.960_464_5e-8,
    2.980_232_2e-8,
    2.980_232_6e-8,
    // f16: ties to even, down and up.
    1.0 + 1.0 / 2048.0,
    1.0 + 3.0 / 2048.0,
    // bf16: ties to even, the last to round to the largest, the first to overflow.
    1.0 + 1.0 / 256.0,
    1.0 + 3.0 / 256.0,
    f32::from_bits(0x7F7F_7FFF),
    f32::from_bits(0x7F7F_8000),
];

/// Calls of [`TRIPLES`] triples each, padded with the last one; the first call is kept.
fn calls(triples: Vec<[f32; 3]>) -> Vec<(Labelled, Call)> {
    let call = |triples: &[[f32; 3]]| Call {
        symbol: "probe_math".into(),
        words: [triples.len() as i32, 0, 0, 0, 0],
        input: Bytes::from_words(triples.iter().flatten().map(|x| x.to_bits())),
        output_bytes: 4 * RESULTS * triples.len(),
        ..Call::default()
    };
    let labelled = |i: usize| Labelled { label: i.to_string(), record: i == 0 };
    triples.chunks(TRIPLES).enumerate().map(|(i, chunk)| (labelled(i), call(chunk))).collect()
}

/// Every pair of edges, with a third that goes round; each as first operand early, so that it is kept.
fn edges() -> Vec<[f32; 3]> {
    let n = EDGES.len();
    (0..n * n).map(|i| [EDGES[i % n], EDGES[(i + i / n) % n], EDGES[(7 * i + i / n) % n]]).collect()
}

/// Every exponent and sign, with random fractions.
fn any_bits() -> Vec<[f32; 3]> {
    let mut rng = StdRng::seed_from_u64(3);
    (0..64 * TRIPLES).map(|_| std::array::from_fn(|_| f32::from_bits(rng.random()))).collect()
}

/// The range of a softmax: differences of scores, sums of probabilities.
fn moderate() -> Vec<[f32; 3]> {
    let mut rng = StdRng::seed_from_u64(4);
    (0..64 * TRIPLES).map(|_| std::array::from_fn(|_| rng.random_range(-130.0..130.0))).collect()
}

/// Around 1, where a logarithm is small.
fn near_one() -> Vec<[f32; 3]> {
    let mut rng = StdRng::seed_from_u64(5);
    (0..16 * TRIPLES).map(|_| std::array::from_fn(|_| rng.random_range(0.5..2.0))).collect()
}

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("math_edges", || calls(edges())),
        Case::new("math_any_bits", || calls(any_bits())),
        Case::new("math_moderate", || calls(moderate())),
        Case::new("math_near_one", || calls(near_one())),
    ]
}

/// Two units in the last place pass, three do not; nor do a wrong sign of zero, a subnormal, a lost infinity.
pub(crate) fn bounds_are_tight() -> Result<(), String> {
    let two = 2f32.to_bits();
    let verdicts = [
        (0, 1.0, two + 2, true),
        (0, 1.0, two + 3, false),
        (0, -200.0, (-0f32).to_bits(), false),
        (0, -127.0, 1 << 22, false),
        (0, 128.0, f32::MAX.to_bits(), false),
        (1, 0.0, f32::MIN.to_bits(), false),
        (1, 1.0, 2f32.powi(-22).to_bits(), true),
        (1, 1.0, 2f32.powi(-21).to_bits(), false),
        (1, 4.0, two + 2, true),
        (1, 4.0, two + 3, false),
        (2, 0.5, two + 1, true),
        (2, 0.5, two + 2, false),
        (2, -0.0, f32::INFINITY.to_bits(), false),
        (5, 1.0, 1, false),
    ];
    for (index, x, seen, verdict) in verdicts {
        if is_right(index, x, results(x, 1.0, 1.0)[index], seen) != verdict {
            return Err(format!("{} of {x}: {seen:#010x} should be {verdict}", NAMES[index]));
        }
    }
    Ok(())
}
