//! The 8x8 matrices of 16-bit elements of `ldmatrix` and `stmatrix`.
//!
//! Row `r` of matrix `i` lies at the address that lane `8 i + r` gives. Register `i` of a lane holds two neighbours of
//! a row of matrix `i`, or with `.trans` of a column, the first in its lower half.

/// Row and column of the lower and of the upper element of a lane's register.
pub const fn elements(lane: u32, transposed: bool) -> [(u32, u32); 2] {
    let (line, place) = (lane / 4, 2 * (lane % 4));
    if transposed { [(place, line), (place + 1, line)] } else { [(line, place), (line, place + 1)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_hold_pairs() {
        assert_eq!(elements(0, false), [(0, 0), (0, 1)]);
        assert_eq!(elements(1, false), [(0, 2), (0, 3)]);
        assert_eq!(elements(5, false), [(1, 2), (1, 3)]);
        assert_eq!(elements(31, false), [(7, 6), (7, 7)]);
        assert_eq!(elements(5, true), [(2, 1), (3, 1)]);
    }

    #[test]
    fn every_element_has_one_place() {
        for transposed in [false, true] {
            let mut places: Vec<_> = (0..32).flat_map(|lane| elements(lane, transposed)).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq((0..8).flat_map(|row| (0..8).map(move |column| (row, column)))));
        }
    }
}
