//! Which thread of a warpgroup holds which element of a product: PTX ISA, "Register fragments" of `wgmma`.
//!
//! Warp `w` of the four holds rows `16 w` to `16 w + 15`; a lane two of them, 8 apart. All types of A look the same in
//! bytes, since K is always 32 bytes.

/// Rows of A and D.
pub const M: usize = 64;

/// Row and column of accumulator `index` (f32 or s32) of a lane. With two f16 a register, register `j` holds
/// accumulators `2 j` in its lower half and `2 j + 1`.
pub const fn accumulator(warp: usize, index: usize, lane: usize) -> (usize, usize) {
    (16 * warp + lane / 4 + 8 * (index >> 1 & 1), 8 * (index >> 2) + 2 * (lane % 4) + (index & 1))
}

/// Row, and first byte in the row, of register `index` (0 to 3) of a lane of A.
pub const fn operand(warp: usize, index: usize, lane: usize) -> (usize, usize) {
    (16 * warp + lane / 4 + 8 * (index & 1), 4 * (lane % 4) + 16 * (index >> 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CUTLASS's `CLayout_64xN`: ((4,8,4),(2,2,N/8)):((128,1,16),(64,8,512)), offsets are `row + 64 * column`.
    #[test]
    fn accumulators_are_cutes() {
        for (warp, index) in (0..4).flat_map(|warp| (0..128).map(move |index| (warp, index))) {
            for lane in 0..32 {
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
        for (warp, lane) in (0..4).flat_map(|warp| (0..32).map(move |lane| (warp, lane))) {
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

    #[test]
    fn every_element_has_one_place() {
        let places = |registers: usize| {
            let of_warp = move |warp| {
                (0..registers).flat_map(move |index| (0..32).map(move |lane| (warp, index, lane)))
            };
            (0..4).flat_map(of_warp)
        };
        let mut d: Vec<_> = places(128).map(|(warp, index, lane)| accumulator(warp, index, lane)).collect();
        d.sort_unstable();
        assert!(d.into_iter().eq((0..M).flat_map(|row| (0..256).map(move |column| (row, column)))));
        let mut a: Vec<_> = places(4).map(|(warp, index, lane)| operand(warp, index, lane)).collect();
        a.sort_unstable();
        assert!(a.into_iter().eq((0..M).flat_map(|row| (0..8).map(move |word| (row, 4 * word)))));
    }
}
