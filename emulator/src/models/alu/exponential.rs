//! Powers of two, the function of attention: branch-free, so that compilers make vector code of it, and without a
//! library, so that every machine computes the same bits.

/// Terms of the series: the remainder is below 2^-57.
const TERMS: usize = 14;

/// `ln(2)^i / i!`
const COEFFICIENTS: [f64; TERMS] = {
    let mut coefficients = [1.0; TERMS];
    let mut i = 1;
    while i < TERMS {
        coefficients[i] = coefficients[i - 1] * std::f64::consts::LN_2 / i as f64;
        i += 1;
    }
    coefficients
};

/// Adding it leaves no fraction bits to numbers of up to 2^50.
const WHOLE: f64 = 1.5 * (1u64 << 52) as f64;

/// `2^x` within a few units of the last place of an f64, before it is rounded to an f32.
pub(super) fn exp2(x: f32) -> f32 {
    // Beyond these every result is zero or infinite. NaN passes.
    let x = f64::from(x).clamp(-160.0, 130.0);
    let shifted = x + WHOLE;
    let fraction = x - (shifted - WHOLE);
    let mut series = COEFFICIENTS[TERMS - 1];
    let mut i = TERMS - 1;
    while i > 0 {
        i -= 1;
        series = series * fraction + COEFFICIENTS[i];
    }
    // The low bits of `shifted` are the whole part.
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    (series * power) as f32
}
