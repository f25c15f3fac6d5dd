//! Philox4x32-10: random numbers as a function of a counter and a key (Salmon et al. 2011, "Parallel random numbers: as
//! easy as 1, 2, 3"). Pure.

#[cfg(target_arch = "nvptx64")]
use crate::ptx::math::wide_product;

const ROUNDS: u32 = 10;
/// Multipliers of words 0 and 2 of the counter.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the words of the key are raised by from round to round.
const STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Low and high half of a product.
#[cfg(not(target_arch = "nvptx64"))]
fn wide_product(a: u32, b: u32) -> [u32; 2] {
    let product = u64::from(a) * u64::from(b);
    [product as u32, (product >> 32) as u32]
}

/// 128 random bits.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut k, mut l]) = (counter, key);
    let mut round = 0;
    while round < ROUNDS {
        let [low_a, high_a] = wide_product(a, MULTIPLIERS[0]);
        let [low_c, high_c] = wide_product(c, MULTIPLIERS[1]);
        [a, b, c, d] = [high_c ^ b ^ k, low_c, high_a ^ d ^ l, low_a];
        [k, l] = [k.wrapping_add(STEPS[0]), l.wrapping_add(STEPS[1])];
        round += 1;
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// Those of Random123, the authors' implementation.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = u32::MAX;
        assert_eq!(philox([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), answer);
    }
}
