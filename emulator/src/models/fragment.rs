//! Which thread of a warpgroup holds which element of a product: PTX ISA, "Register fragments" of `wgmma`.
//!
//! Warp `w` of the four holds rows `16 w` to `16 w + 15`; a lane two of them, 8 apart. All types of A look the same in
//! bytes, since K is always 32 bytes.

use super::descriptor::{Matrix, ROW};

/// Rows of A and D.
pub const M: usize = 64;
/// Warps of a warpgroup.
pub const WARPS: usize = 4;
const LANES: usize = 32;

/// Row and column of accumulator `index` (f32 or s32) of a lane. With two f16 a register, register `j` holds
/// accumulators `2 j` in its lower half and `2 j + 1`.
pub const fn accumulator(warp: usize, index: usize, lane: usize) -> (usize, usize) {
    (16 * warp + lane / 4 + 8 * (index >> 1 & 1), 8 * (index >> 2) + 2 * (lane % 4) + (index & 1))
}

/// Row, and first byte in the row, of register `index` (0 to 3) of a lane of A.
pub const fn operand(warp: usize, index: usize, lane: usize) -> (usize, usize) {
    (16 * warp + lane / 4 + 8 * (index & 1), 4 * (lane % 4) + 16 * (index >> 1))
}

/// A of what `read` finds in register `index` of a warp.
pub fn gather_operand<'a>(read: impl Fn(usize, usize) -> &'a [u32; 32]) -> Matrix {
    let mut rows = vec![[0; ROW]; M];
    for (warp, index) in (0..WARPS).flat_map(|warp| (0..4).map(move |index| (warp, index))) {
        for (lane, word) in read(warp, index).iter().enumerate() {
            let (row, byte) = operand(warp, index, lane);
            rows[row][byte..byte + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
    Matrix { rows }
}

/// D as 64 rows of `n` elements of 32 bits, of what `read` finds in register `index` of a warp.
pub fn gather<'a>(n: usize, read: impl Fn(usize, usize) -> &'a [u32; 32]) -> Vec<u32> {
    let mut d = vec![0; M * n];
    for (warp, index) in registers(n / 2) {
        let words = read(warp, index);
        for (lane, &word) in words.iter().enumerate() {
            let (row, column) = accumulator(warp, index, lane);
            d[row * n + column] = word;
        }
    }
    d
}

/// The reverse of [`gather`].
pub fn scatter(n: usize, d: &[u32], mut write: impl FnMut(usize, usize, &[u32; 32])) {
    for (warp, index) in registers(n / 2) {
        let words: [u32; LANES] = std::array::from_fn(|lane| {
            let (row, column) = accumulator(warp, index, lane);
            d[row * n + column]
        });
        write(warp, index, &words);
    }
}

/// As [`gather`], of registers with two f16 each; an element of the result is an f16 in the lower half.
pub fn gather_f16<'a>(n: usize, read: impl Fn(usize, usize) -> &'a [u32; 32]) -> Vec<u32> {
    let mut d = vec![0; M * n];
    for (warp, index) in registers(n / 4) {
        for (lane, &word) in read(warp, index).iter().enumerate() {
            let (row, column) = accumulator(warp, 2 * index, lane);
            d[row * n + column] = word & 0xFFFF;
            d[row * n + column + 1] = word >> 16;
        }
    }
    d
}

/// The reverse of [`gather_f16`].
pub fn scatter_f16(n: usize, d: &[u32], mut write: impl FnMut(usize, usize, &[u32; 32])) {
    for (warp, index) in registers(n / 4) {
        let words: [u32; LANES] = std::array::from_fn(|lane| {
            let (row, column) = accumulator(warp, 2 * index, lane);
            d[row * n + column] & 0xFFFF | d[row * n + column + 1] << 16
        });
        write(warp, index, &words);
    }
}

/// Each of `count` registers of each warp.
fn registers(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..WARPS).flat_map(move |warp| (0..count).map(move |index| (warp, index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CUTLASS's `CLayout_64xN`: ((4,8,4),(2,2,N/8)):((128,1,16),(64,8,512)), offsets are `row + 64 * column`.
    #[test]
    fn accumulators_are_cutes() {
        for (warp, index) in registers(128) {
            for lane in 0..LANES {
                let thread = lane % 4 * 128 + lane / 4 + warp * 16;
                let value = index % 2 * 64 + index / 2 % 2 * 8 + index / 4 * 512;
                let (row, column) = accumulator(warp, index, lane);
                assert_eq!(
                    row + 64 * column,
                    thread + value,
                    "register {index} of lane {lane} of warp {warp}"
                );
            }
        }
    }

    /// CUTLASS's `ALayout_64x16`: ((4,8,4),(2,2,2)):((128,1,16),(64,8,512)), and `ALayout_64x32` of bytes:
    /// ((4,8,4),(4,2,2)):((256,1,16),(64,8,1024)).
    #[test]
    fn operands_are_cutes() {
        for (warp, lane) in (0..WARPS).flat_map(|warp| (0..LANES).map(move |lane| (warp, lane))) {
            for element in 0..8 {
                let cute = lane % 4 * 128
                    + lane / 4
                    + warp * 16
                    + element % 2 * 64
                    + element / 2 % 2 * 8
                    + element / 4 * 512;
                let (row, byte) = operand(warp, element / 2, lane);
                assert_eq!(row + 64 * (byte / 2 + element % 2), cute);
            }
            for element in 0..16 {
                let cute = lane % 4 * 256
                    + lane / 4
                    + warp * 16
                    + element % 4 * 64
                    + element / 4 % 2 * 8
                    + element / 8 * 1024;
                let (row, byte) = operand(warp, element / 4, lane);
                assert_eq!(row + 64 * (byte + element % 4), cute);
            }
        }
    }

    /// Every element has one place: what is scattered is gathered again.
    #[test]
    fn gathers_what_it_scattered() {
        for n in [8, 80, 256] {
            let d: Vec<u32> = (0..(M * n) as u32).collect();
            let mut registers = vec![[0; LANES]; WARPS * 128];
            scatter(n, &d, |warp, index, words| registers[warp * 128 + index] = *words);
            assert_eq!(gather(n, |warp, index| &registers[warp * 128 + index]), d);
            scatter_f16(n, &d, |warp, index, words| registers[warp * 128 + index] = *words);
            let halves: Vec<u32> = d.iter().map(|word| word & 0xFFFF).collect();
            assert_eq!(gather_f16(n, |warp, index| &registers[warp * 128 + index]), halves);
        }
        let words: Vec<[u32; LANES]> =
            (0..16).map(|i| std::array::from_fn(|lane| (i * 32 + lane) as u32)).collect();
        let a = gather_operand(|warp, index| &words[warp * 4 + index]);
        for (i, lanes) in words.iter().enumerate() {
            for (lane, word) in lanes.iter().enumerate() {
                let (row, byte) = operand(i / 4, i % 4, lane);
                assert_eq!(a.rows[row][byte..byte + 4], word.to_le_bytes());
            }
        }
    }
}
