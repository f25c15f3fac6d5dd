//! Attention over elements of 8 bits: what they stand for, and where they lie. Pure.
//!
//! An element stands for itself times a factor in f32, its *descale*. In a product of tensor cores all elements of a row
//! must have the same, so there is one for each head of each sequence of Q, K and V; those of Q and K are part of the
//! scale of the scores, that of V is part of the last division.
//!
//! Probabilities, between 0 and 1, are multiplied with 2 to the [`P_SHIFT`] before they are rounded, or all those below
//! 2⁻⁹ would be lost; so are their sums, and the factor cancels.
//!
//! # V lies transposed
//!
//! Tensor cores want the keys of 8-bit V to be neighbours: so V is (batch, heads, columns, keys) in memory. And they
//! want the probabilities of a thread in another order than that in which they leave the scores to it:
//!
//! ```text
//! accumulator: thread t of four has the keys     2t + c, 8 + 2t + c             (c = 0, 1)        of every 16
//! A fragment:  it gives the positions            4t + c, 4t + 2 + c
//! ```
//!
//! Which key is at which position does not matter to a sum, if P and V agree. So no probability is moved: the keys of V
//! are, within each 16 of them, when V is transposed. [`value_position`] says where to.

/// log2 of what probabilities are multiplied with: the largest, 1, becomes 256, the last power of 2 below both formats'
/// ends.
pub const P_SHIFT: f32 = 8.0;

/// Keys of V are permuted within groups of as many, and rows of transposed V are whole groups.
pub const VALUE_GROUP: u32 = 16;

/// The position of key `key` in a row of transposed V.
pub const fn value_position(key: u32) -> u32 {
    let (within, rest) = (key % VALUE_GROUP, key / VALUE_GROUP * VALUE_GROUP);
    let (upper, thread, low) = (within / 8, within / 2 % 4, within % 2);
    rest + 4 * thread + 2 * upper + low
}

/// Where the descales of a tensor are: f32, one for each head of each sequence.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescaleArray {
    /// Device address of the first.
    pub ptr: u64,
    /// From one sequence to the next, in numbers.
    pub batch: u32,
    /// From one head to the next; 0 where all have the same.
    pub head: u32,
}

impl DescaleArray {
    /// Nowhere.
    pub const NONE: DescaleArray = DescaleArray { ptr: 0, batch: 0, head: 0 };

    /// Address of that of a head.
    #[inline(always)]
    pub const fn address(&self, batch: u32, head: u32) -> u64 {
        self.ptr + 4 * (batch as u64 * self.batch as u64 + head as u64 * self.head as u64)
    }
}

/// The descales of Q, K and V. Heads are those of the tensor: query heads, or K/V heads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descales {
    /// Of Q.
    pub q: DescaleArray,
    /// Of K.
    pub k: DescaleArray,
    /// Of V.
    pub v: DescaleArray,
}

const _: () = assert!(size_of::<Descales>() == 3 * 16);

impl Descales {
    /// None: of tensors of 16 bits.
    pub const NONE: Descales =
        Descales { q: DescaleArray::NONE, k: DescaleArray::NONE, v: DescaleArray::NONE };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{a_element_8bit, accumulator_element};

    /// What a thread has as accumulator register `i` it gives as element `j` of the A fragment: packed in order, pairs of
    /// registers that are one row's.
    #[test]
    fn positions_are_where_the_fragment_takes_the_keys_of_the_accumulator() {
        for thread in 0..128 {
            for element in 0..16 {
                let (half, of_row, pair, low) =
                    (element >> 3, element >> 2 & 1, element >> 1 & 1, element & 1);
                let register = 8 * half + 4 * pair + 2 * of_row + low;
                let (row, key) = accumulator_element(thread, register);
                assert_eq!(
                    a_element_8bit(thread, element),
                    (row, value_position(key)),
                    "{thread}, {element}"
                );
            }
        }
    }

    #[test]
    fn positions_are_a_permutation_of_each_group() {
        for group in 0..4 {
            let mut seen = [false; 16];
            for key in 0..16 {
                let position = value_position(16 * group + key);
                assert_eq!(position / 16, group);
                assert!(!core::mem::replace(&mut seen[position as usize % 16], true));
            }
        }
    }
}
