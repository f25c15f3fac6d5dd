//! A unit of the work of the kernel that rounds: a part of the rows of a head, or of V, of some of its columns too. Its rows
//! come in *pieces*, as many as a warp can hold in registers: one, but of packed sequences that are longer than most.
//!
//! A lane holds an *octet*, 8 columns, of 16 rows. Of Q and K lanes that are neighbours have neighbouring octets, and rows
//! are apart by as many as a warp reads at once. Of V rows are neighbours, so that a lane has whole groups of
//! keys of its columns, and lanes that are neighbours have neighbouring groups, so that they write neighbouring bytes.

use super::{HELD, OCTET, SIGN, SIGNS, VALUE_OCTETS};
use crate::config::{Dtype, Fp8};
use crate::fp8::{VALUE_GAP, VALUE_GROUP, first_value_group, power_of_2, signs};
use crate::params::{QuantizeParams, QuantizeTensor};
use crate::ptx::global;
use crate::ptx::math::{
    abs, add, add_towards_zero, anew, fma, max, max_x2, mul, pack_x4, select_equal, select_less, unpack,
};
use crate::ptx::warp::{self, LANES};
use crate::rounding::{RANDOM_GROUP, Rounding};
use crate::schedule::Span;
use crate::search;

/// What a unit is of. `ROTATES`: Q and K are rotated; `BY_CHANCE`: numbers are rounded by chance. Either is more code than all
/// the rest.
pub(super) struct Unit<const ROTATES: bool, const BY_CHANCE: bool> {
    pub(super) tensor: QuantizeTensor,
    /// Which one of the three.
    pub(super) index: u32,
    /// Columns that are rotated together, or 0.
    pub(super) rotation_block: u32,
    /// Of all sequences.
    pub(super) head: u32,
    pub(super) part: u32,
    /// The octet that this lane holds.
    octet: u32,
    /// The first of its rows.
    pub(super) first: u32,
    /// The rows of its sequence.
    span: Span,
    /// Address of the first one of the head.
    source: u64,
    /// Address of what it is rounded to.
    to: u64,
}

/// What a lane holds of a piece.
pub(super) type Held = [[u32; 4]; HELD as usize];

/// 32-bit words of the parameters of a tensor.
const WORDS: usize = size_of::<QuantizeTensor>() / 4;

/// The parameters of a tensor as words.
#[inline(always)]
fn words(tensor: &QuantizeTensor) -> [u32; WORDS] {
    // SAFETY: plain numbers, and no padding, as is asserted where it is declared.
    unsafe { core::mem::transmute(*tensor) }
}

/// One of the three tensors. By arithmetic: an index into parameters would make the compiler copy them to local memory.
#[inline(always)]
pub(super) fn one_of(p: &QuantizeParams, index: u32) -> QuantizeTensor {
    let [q, k, v] = p.tensors.each_ref().map(words);
    let [of_q, of_k, of_v] = [0, 1, 2].map(|i| ((index == i) as u32).wrapping_neg());
    let mut words = [0; WORDS];
    let mut i = 0;
    while i < WORDS {
        words[i] = q[i] & of_q | k[i] & of_k | v[i] & of_v;
        i += 1;
    }
    // SAFETY: as above.
    unsafe { core::mem::transmute(words) }
}

impl<const ROTATES: bool, const BY_CHANCE: bool> Unit<ROTATES, BY_CHANCE> {
    /// The unit of number `unit`.
    ///
    /// # Safety
    /// The host has checked the parameters, and nobody writes the numbers of rows.
    #[inline(always)]
    pub(super) unsafe fn new(p: &QuantizeParams, unit: u32) -> Self {
        let [q, k] = [p.tensors[0].units, p.tensors[1].units];
        let (index, at) = match unit {
            _ if unit < q => (0, unit),
            _ if unit < q + k => (1, unit - q),
            _ => (2, unit - q - k),
        };
        let tensor = one_of(p, index);
        let (head, part) = tensor.parts.split(at);
        let (of_rows, of_columns) = tensor.column_parts.split(part);
        let rotation_block = if ROTATES && index != 2 { p.rotation_block } else { 0 };
        let (batch, of_sequence) = tensor.heads.split(head);
        let QuantizeTensor { rows, strides_bytes, .. } = tensor;
        let (starts, used) = if index == 0 { (p.starts[0], p.used[0]) } else { (p.starts[1], p.used[1]) };
        // SAFETY: the caller's.
        let span = unsafe { search::rows([starts, used], rows, batch) };
        let at = |place: u64, [of_batch, of_row, of_head]: [u64; 3], row: u32| {
            place + batch as u64 * of_batch + row as u64 * of_row + of_sequence as u64 * of_head
        };
        let source = at(tensor.from, strides_bytes, span.start);
        let (first, to_row) = if index == 2 {
            let gap = if starts == 0 { 0 } else { VALUE_GAP };
            (VALUE_GROUP * first_value_group(span.start, batch, gap), 1)
        } else {
            (span.start, tensor.to_row)
        };
        let to = at(tensor.to, [tensor.to_batch, to_row, tensor.to_head], first);
        let (lane, shift) = (warp::lane_index(), tensor.row_shift);
        let octet = if index == 2 {
            of_columns * VALUE_OCTETS + (lane >> shift)
        } else {
            lane & ((LANES >> shift) - 1)
        };
        let first = of_rows * (HELD << shift);
        Unit { tensor, index, rotation_block, head, part, octet, first, span, source, to }
    }

    /// The rows of its head.
    #[inline(always)]
    pub(super) fn rows(&self) -> u32 {
        self.span.len
    }

    /// From the first row of a piece to that of the next one.
    #[inline(always)]
    pub(super) fn step(&self) -> u32 {
        self.tensor.column_parts.quotient(self.tensor.parts.value) * (HELD << self.tensor.row_shift)
    }

    /// Whether it is the last one of its head.
    #[inline(always)]
    pub(super) fn is_last(&self) -> bool {
        self.part + 1 == self.tensor.parts.value
    }

    /// The first row of which this lane holds something in the piece that begins with row `first`, how far apart its rows are,
    /// and the end of those that there are.
    #[inline(always)]
    fn rows_of_lane(&self, first: u32) -> [u32; 3] {
        let (lane, shift) = (warp::lane_index(), self.tensor.row_shift);
        let [row, apart] = if self.index == 2 {
            [lane & ((1 << shift) - 1), 1]
        } else {
            [lane >> (LANES.trailing_zeros() - shift), 1 << shift]
        };
        let row = first + if self.index == 2 { row * VALUE_GROUP } else { row };
        let end = (first + (HELD << shift)).min(self.span.len);
        [row, apart, if self.octet < self.tensor.octets { end } else { 0 }]
    }

    /// What this lane holds of the piece that begins with row `first`; zeros where there is nothing.
    ///
    /// # Safety
    /// The rows are readable, and nobody writes them while the kernel runs.
    #[inline(always)]
    pub(super) unsafe fn load(&self, first: u32) -> Held {
        let of_row = self.tensor.strides_bytes[1];
        let [mut row, apart, end] = self.rows_of_lane(first);
        let mut at = self.source + row as u64 * of_row + (self.octet * OCTET * Dtype::SIZE) as u64;
        let mut held = Held::default();
        let mut i = 0;
        while i < HELD as usize {
            // SAFETY: the caller's.
            held[i] = unsafe { global::load_x4_below(at, row, end) };
            at += of_row * apart as u64;
            row += apart;
            i += 1;
        }
        held
    }

    /// The largest magnitude that this lane holds.
    ///
    /// # Safety
    /// All lanes of the warp execute it together.
    #[inline(always)]
    pub(super) unsafe fn largest(&self, dtype: Dtype, held: &Held) -> f32 {
        let mut i = 0;
        if self.rotation_block == 0 {
            let mut of_both = 0;
            while i < HELD as usize {
                let mut word = 0;
                while word < 4 {
                    of_both = max_x2(dtype, of_both, held[i][word] & !SIGNS);
                    word += 1;
                }
                i += 1;
            }
            let [low, high] = unpack(dtype, of_both);
            max(low, high)
        } else {
            let mut largest = 0.0;
            while i < HELD as usize {
                // SAFETY: the caller's.
                let numbers = unsafe { self.numbers(dtype, held[i]) };
                let mut element = 0;
                while element < OCTET as usize {
                    largest = max(largest, abs(numbers[element]));
                    element += 1;
                }
                i += 1;
            }
            largest
        }
    }

    /// Writes what is held of the piece that begins with row `first`, divided and rounded.
    ///
    /// # Safety
    /// All lanes of the warp execute it together; there is room for it that nobody else writes.
    #[inline(always)]
    pub(super) unsafe fn round(
        &self,
        dtype: Dtype,
        fp8: Fp8,
        first: u32,
        held: &Held,
        factor: f32,
        rounding: &Rounding,
    ) {
        // SAFETY: the caller's.
        unsafe {
            if self.index == 2 {
                self.transpose(dtype, fp8, first, held, factor, rounding);
            } else {
                self.copy(dtype, fp8, first, held, factor, rounding);
            }
        }
    }

    /// The same of Q or K.
    #[inline(always)]
    unsafe fn copy(&self, dtype: Dtype, fp8: Fp8, first: u32, held: &Held, factor: f32, rounding: &Rounding) {
        let to_row = self.tensor.to_row;
        let [mut row, apart, end] = self.rows_of_lane(first);
        let mut at = self.to + row as u64 * to_row + (self.octet * OCTET) as u64;
        let mut i = 0;
        while i < HELD as usize {
            // SAFETY: the caller's.
            let mut numbers = unsafe { self.numbers(dtype, held[i]) };
            let mut element = 0;
            while element < OCTET as usize {
                numbers[element] = mul(numbers[element], factor);
                element += 1;
            }
            let [a, b, c, d, e, f, g, h] = self.settled(rounding, fp8, row, self.octet, numbers);
            if row < end {
                // SAFETY: the caller's.
                unsafe { global::store_x2(at, [pack_x4(fp8, [a, b, c, d]), pack_x4(fp8, [e, f, g, h])]) };
            }
            at += to_row * apart as u64;
            row += apart;
            i += 1;
        }
    }

    /// The same of V, transposed. Keys beyond the last are zeros, as far as their group goes.
    #[inline(always)]
    unsafe fn transpose(
        &self,
        dtype: Dtype,
        fp8: Fp8,
        first: u32,
        held: &Held,
        factor: f32,
        rounding: &Rounding,
    ) {
        let to_row = self.tensor.to_row;
        let [first_key, _, end] = self.rows_of_lane(first);
        let mut line = self.octet * OCTET;
        let mut at = self.to + line as u64 * to_row + first_key as u64;
        let mut column = 0;
        while column < OCTET as usize {
            let mut keys = [0.0; VALUE_GROUP as usize];
            let mut i = 0;
            while i < VALUE_GROUP as usize {
                // All columns at once would be as many registers more.
                let word = anew(held[i][column / 2]);
                keys[i] = mul(unpack(dtype, word)[column % 2], factor);
                i += 1;
            }
            let keys = self.settled(rounding, fp8, line, first_key / RANDOM_GROUP as u32, keys);
            if first_key < end {
                // SAFETY: the caller's.
                unsafe { global::store_x4(at, permuted(fp8, keys)) };
            }
            at += to_row;
            line += 1;
            column += 1;
        }
    }

    /// The numbers of an octet, which is in these words, rotated if they are to be.
    ///
    /// # Safety
    /// All lanes of the warp execute it together.
    #[inline(always)]
    unsafe fn numbers(&self, dtype: Dtype, words: [u32; 4]) -> [f32; OCTET as usize] {
        let mut numbers = [0.0; OCTET as usize];
        let mut word = 0;
        while word < 4 {
            let [low, high] = unpack(dtype, words[word]);
            [numbers[2 * word], numbers[2 * word + 1]] = [low, high];
            word += 1;
        }
        // SAFETY: the caller's.
        if self.rotation_block == 0 {
            numbers
        } else {
            unsafe { rotated(numbers, self.octet, self.rotation_block) }
        }
    }

    /// Numbers of line `line` of the unit's head, from its group `group` of 8 on: as they are, or such that the format holds.
    #[inline(always)]
    fn settled<const N: usize>(
        &self,
        rounding: &Rounding,
        fp8: Fp8,
        line: u32,
        group: u32,
        mut numbers: [f32; N],
    ) -> [f32; N] {
        if BY_CHANCE {
            // The keys of all rounds would be held all the time otherwise.
            let rounding = Rounding { seed: rounding.seed.map(anew), ..*rounding };
            let mut at = 0;
            while at < N {
                let words = rounding.random(self.index, self.head, line, group + (at / RANDOM_GROUP) as u32);
                let mut i = 0;
                while i < RANDOM_GROUP {
                    let random = words[i / 2] >> (16 * (i % 2)) & 0xFFFF;
                    numbers[at + i] = one_neighbour(fp8, numbers[at + i], random);
                    i += 1;
                }
                at += RANDOM_GROUP;
            }
        }
        numbers
    }
}

/// The numbers of octet `group` after the rotation of their block. The other octets of the block are those of the lanes
/// whose numbers differ in the lowest bits only.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
unsafe fn rotated(numbers: [f32; OCTET as usize], group: u32, block: u32) -> [f32; OCTET as usize] {
    let (mut x, signs) = (numbers, signs(group));
    let share = power_of_2(-(block.trailing_zeros() as i32));
    let mut i = 0;
    while i < OCTET as usize {
        let sign = signs << (31 - i as u32) & SIGN;
        x[i] = mul(f32::from_bits(x[i].to_bits() ^ sign), share);
        i += 1;
    }
    // Sums and differences of two that are `distance` apart, for each distance: in this thread ...
    let mut distance = 1;
    while distance < OCTET as usize {
        let mut i = 0;
        while i < OCTET as usize {
            if i & distance == 0 {
                let [a, b] = [x[i], x[i + distance]];
                [x[i], x[i + distance]] = [add(a, b), fma(b, -1.0, a)];
            }
            i += 1;
        }
        distance *= 2;
    }
    // ... and between lanes.
    let lane = warp::lane_index();
    let mut distance = 1;
    while distance < block / OCTET {
        let sign = if lane & distance == 0 { 1.0 } else { -1.0 };
        let mut i = 0;
        while i < OCTET as usize {
            // SAFETY: the caller's.
            x[i] = fma(x[i], sign, unsafe { warp::shuffle_xor(x[i], distance) });
            i += 1;
        }
        distance *= 2;
    }
    x
}

/// One of the two numbers of the format that `x` is between, by 16 random bits; NaN as it is.
#[inline(always)]
fn one_neighbour(fp8: Fp8, x: f32, random: u32) -> f32 {
    // Bits of f32 that the format has not.
    let cut = f32::MANTISSA_DIGITS - 1 - fp8.mantissa_bits();
    // Below normal numbers the format's last bit is as much as in the least of them, so it is where that is added.
    let raise = select_less(abs(x), fp8.least_normal(), fp8.least_normal(), 0.0);
    let raised = add_towards_zero(abs(x), raise).to_bits();
    let dithered = raised.wrapping_add((2 * random + 1) << (cut - 17)) >> cut << cut;
    let magnitude = fma(raise, -1.0, f32::from_bits(dithered));
    let settled = f32::from_bits(magnitude.to_bits() | x.to_bits() & SIGN);
    select_equal(x, x, settled, x)
}

/// A group of keys as [`value_position`](crate::fp8::value_position) has it.
#[inline(always)]
fn permuted(fp8: Fp8, keys: [f32; VALUE_GROUP as usize]) -> [u32; 4] {
    let word = |t: usize| pack_x4(fp8, [keys[2 * t], keys[2 * t + 1], keys[2 * t + 8], keys[2 * t + 9]]);
    [word(0), word(1), word(2), word(3)]
}
