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
//!
//! Rows of packed sequences lie one behind the other; those of V, too, but each begins a group of 16: sequence b, whose
//! keys begin with key s, with position `(s + 15 b) / 16 * 16`. That leaves room for those before, however long each is,
//! and is known without their lengths.
//!
//! # Q and K may be rotated
//!
//! One large number in a head costs all others their precision. So Q and K can be multiplied with the same matrix before
//! they are rounded, one that spreads each number over many columns and leaves products of rows as they are: some
//! columns with the other [sign](signs), then, in each [block](rotation_block) of columns, a Hadamard matrix (sums of all of
//! them, under all patterns of signs; *incoherent processing*, QuIP, Chee et al. 2023, and FlashAttention-3). Sums are
//! divided by the number of columns of a block, so that they are no larger than what they are of, and products of rows
//! are smaller by that factor: it becomes part of the descales of Q.

use crate::config::Fp8;

/// log2 of what probabilities, which are e4m3, are multiplied with: the largest, 1, becomes 256, the last power of 2 that
/// the format has.
pub const P_SHIFT: f32 = 8.0;

/// Keys of V are permuted within groups of as many, and rows of transposed V are whole groups.
pub const VALUE_GROUP: u32 = 16;

/// The position of key `key` in a row of transposed V.
pub const fn value_position(key: u32) -> u32 {
    let (within, rest) = (key % VALUE_GROUP, key / VALUE_GROUP * VALUE_GROUP);
    let (upper, thread, low) = (within / 8, within / 2 % 4, within % 2);
    rest + 4 * thread + 2 * upper + low
}

/// The first group of keys of sequence `batch`, where keys begin with key `start`. Packed sequences are apart by so much
/// that each begins a group: `gap` is [`VALUE_GAP`] there, and 0 where sequences are not packed.
#[inline(always)]
pub const fn first_value_group(start: u32, batch: u32, gap: u32) -> u32 {
    (start + batch * gap) / VALUE_GROUP
}

/// Positions that packed sequences may leave free from one to the next.
pub const VALUE_GAP: u32 = VALUE_GROUP - 1;

/// log2 of the descale of numbers of which `largest` is the largest magnitude: the least with which that is no more than
/// the format holds; within bounds that keep its products, and its inverse, normal.
#[inline(always)]
pub const fn descale_exponent(fp8: Fp8, largest: f32) -> i32 {
    // Both formats end with 1.75 times a power of 2: what is above takes the next one.
    const ABOVE: u32 = 0x1F_FFFF;
    let last = match fp8 {
        Fp8::E4m3 => 8,
        Fp8::E5m2 => 15,
    };
    let exponent = ((largest.to_bits() + ABOVE) >> 23) as i32 - 127 - last;
    // Not `clamp`, which would leave a trap.
    let exponent = if exponent < -60 { -60 } else { exponent };
    if exponent > 120 { 120 } else { exponent }
}

/// 2 to the `exponent`, from -126 to 127.
#[inline(always)]
pub const fn power_of_2(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Columns that are rotated together: as many as the largest power of 2 that divides `head_dim`, a multiple of 8.
pub const fn rotation_block(head_dim: u32) -> u32 {
    1 << head_dim.trailing_zeros()
}

/// Which of the 8 columns `8 * group ..` get the other sign before they are rotated: bit i for the i-th. Any bits would
/// do that are no row of a Hadamard matrix, and the same for Q and K.
#[inline(always)]
pub const fn signs(group: u32) -> u32 {
    // Mixed as MurmurHash3 does.
    let mut x = (group + 1).wrapping_mul(0x9E37_79B9);
    x = (x ^ x >> 16).wrapping_mul(0x85EB_CA6B);
    x = (x ^ x >> 13).wrapping_mul(0xC2B2_AE35);
    x >> 24
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
    fn the_largest_number_just_fits() {
        for fp8 in [Fp8::E4m3, Fp8::E5m2] {
            for largest in [1e-10, 0.3, 1.0, 1.75, 1.751, 1.999, 447.0, 448.0, 449.0, 57344.0, 1e30, 3e38] {
                let descale = power_of_2(descale_exponent(fp8, largest));
                assert!(largest / descale <= fp8.max() && largest / descale > fp8.max() / 2.0, "{largest}");
            }
            for tiny in [0.0, 1e-40, 1e-30] {
                assert_eq!(descale_exponent(fp8, tiny), -60);
            }
            assert!(power_of_2(descale_exponent(fp8, f32::INFINITY)).is_normal());
        }
    }

    #[test]
    fn packed_sequences_have_groups_of_their_own() {
        for lens in
            [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [16, 16, 16, 0, 16], [17, 15, 31, 1, 33], [5, 300, 0, 7, 64]]
        {
            let (mut start, mut free) = (0, 0);
            for (batch, len) in lens.into_iter().enumerate() {
                let first = first_value_group(start, batch as u32, VALUE_GAP);
                assert!(first >= free, "{lens:?}: sequence {batch} begins before the end of the one before");
                (start, free) = (start + len, first + len.div_ceil(VALUE_GROUP));
            }
            assert!(free * VALUE_GROUP <= (start + 5 * VALUE_GAP).next_multiple_of(VALUE_GROUP), "{lens:?}");
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
