//! Where `shfl.sync` takes its values from.

use crate::ir::ShuffleMode;

/// The lane that `lane` reads, and whether it is in range; out of range it is `lane` itself. `by` is the second operand
/// (a lane, a distance or bits), `clamp` the third: bits 0 to 4 the clamp, bits 8 to 12 the mask of segments.
pub const fn source(mode: ShuffleMode, lane: u32, by: u32, clamp: u32) -> (u32, bool) {
    let (by, segment) = (by & 31, clamp >> 8 & 31);
    let clamp = clamp & 31;
    let least = lane & segment;
    let most = least | (clamp & !segment);
    let (from, in_range) = match mode {
        // Of `up` the clamp is the least lane.
        ShuffleMode::Up => (lane.wrapping_sub(by), lane as i32 - by as i32 >= most as i32),
        ShuffleMode::Down => (lane + by, lane + by <= most),
        ShuffleMode::Bfly => (lane ^ by, lane ^ by <= most),
        ShuffleMode::Idx => {
            let from = least | (by & !segment);
            (from, from <= most)
        }
    };
    if in_range { (from, true) } else { (lane, false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(mode: ShuffleMode, by: u32, clamp: u32) -> Vec<(u32, bool)> {
        (0..32).map(|lane| source(mode, lane, by, clamp)).collect()
    }

    #[test]
    fn whole_warps() {
        let bfly = lanes(ShuffleMode::Bfly, 2, 31);
        assert!(bfly.iter().zip(0..).all(|(&(from, ok), lane)| from == lane ^ 2 && ok));
        assert_eq!(lanes(ShuffleMode::Idx, 5, 31), [(5, true); 32]);
        let up = lanes(ShuffleMode::Up, 3, 0);
        assert_eq!((up[2], up[3], up[31]), ((2, false), (0, true), (28, true)));
        let down = lanes(ShuffleMode::Down, 3, 31);
        assert_eq!((down[28], down[29]), ((31, true), (29, false)));
    }

    /// `__shfl_*_sync` of width 8 gives the clamp 0x181f, or for `up` 0x1800.
    #[test]
    fn segments() {
        assert_eq!(source(ShuffleMode::Idx, 13, 9, 0x181F), (9, true));
        assert_eq!(source(ShuffleMode::Idx, 21, 1, 0x181F), (17, true));
        assert_eq!(source(ShuffleMode::Up, 9, 2, 0x1800), (9, false));
        assert_eq!(source(ShuffleMode::Up, 10, 2, 0x1800), (8, true));
        assert_eq!(source(ShuffleMode::Down, 14, 2, 0x181F), (14, false));
        assert_eq!(source(ShuffleMode::Down, 13, 2, 0x181F), (15, true));
        assert_eq!(source(ShuffleMode::Bfly, 8, 8, 0x181F), (0, true));
        assert_eq!(source(ShuffleMode::Bfly, 0, 8, 0x181F), (0, false));
    }
}
