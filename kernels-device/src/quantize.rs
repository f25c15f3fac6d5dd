//! Rounds Q, K and V of 16 bits to 8, under factors of each head that are powers of 2, and transposes V. Q and K are
//! [rotated](crate::fp8) before if the launch says so.
//!
//! There are two kernels, one after the other, since a factor follows from all numbers of a head, or three where it
//! follows from all of a tensor:
//!
//! ```text
//! largest               the largest magnitude of each part of a head, of each warp's share of it
//! largest_of_tensors    the largest of those of a tensor, of each warp's share of them
//! round                 the largest of a head's, or of a tensor's, and from it the factor; then every number of a part,
//!                       divided by it and rounded
//! ```
//!
//! Work comes in *units*: a part of the rows of a head of one of the tensors. CTAs take them in turn. How long packed
//! sequences are is known on the device only, so the parts of a head are as many for all; where that is too few, each
//! takes another part of the rows, until none is left.
//!
//! Factors are powers of 2: the numbers that are rounded are exact, and so is what the result stands for. Formats of 8
//! bits are floating-point numbers, so nothing is lost by it but, at most, one power of 2 of their range.
//!
//! [Rounding](crate::rounding) is to the nearest, or by chance: then numbers become such that the format holds, and the
//! conversion has nothing left to round.
//!
//! A thread reads 8 columns. Rotated ones are summed first among these, and then with those of other lanes: a block is at
//! most a warp's.

use crate::config::{Dtype, Fp8};
use crate::entry::{QuantizeVariant, TENSOR_CTAS, TENSOR_MAXIMA};
use crate::fp8::{VALUE_GAP, VALUE_GROUP, descale_exponent, first_value_group, power_of_2, signs};
use crate::params::{QuantizeParams, QuantizeTensor};
use crate::ptx::math::{
    abs, add, add_towards_zero, anew, fma, max, mul, pack_x4, select_equal, select_less, unpack,
};
use crate::ptx::{global, grid, thread, warp};
use crate::rounding::{RANDOM_GROUP, Rounding};
use crate::schedule::Span;
use crate::search;

const THREADS: u32 = QuantizeVariant::THREADS;
const WARPS: u32 = QuantizeVariant::WARPS;
/// Elements that a thread reads at once.
const GROUP: u32 = 8;
/// Groups that a thread has asked for before it uses the first: memory is far away, and the more is on its way, the faster.
const ON_THE_WAY: u32 = 4;
const SIGN: u32 = 1 << 31;

/// What a unit is of.
struct Unit {
    tensor: QuantizeTensor,
    /// Which one of the three.
    index: u32,
    /// Columns that are rotated together, or 0.
    rotation_block: u32,
    /// Of all sequences.
    head: u32,
    part: u32,
    /// The rows of its sequence.
    span: Span,
    /// Address of the first one of the head.
    source: u64,
    /// Address of what it is rounded to.
    to: u64,
}

/// 32-bit words of the parameters of a tensor.
const WORDS: usize = size_of::<QuantizeTensor>() / 4;

/// The parameters of a tensor as words.
#[inline(always)]
fn words(tensor: &QuantizeTensor) -> [u32; WORDS] {
    // SAFETY: plain numbers, and no padding, as is asserted where it is declared.
    unsafe { core::mem::transmute(*tensor) }
}

/// One of three tensors. By arithmetic: an index into parameters would make the compiler copy them to local memory.
#[inline(always)]
fn one_of(index: u32, [q, k, v]: [[u32; WORDS]; 3]) -> QuantizeTensor {
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

impl Unit {
    /// The unit of number `unit`.
    ///
    /// # Safety
    /// The host has checked the parameters, and nobody writes the numbers of rows.
    #[inline(always)]
    unsafe fn new(p: &QuantizeParams, unit: u32) -> Self {
        let [q, k] = [p.tensors[0].units, p.tensors[1].units];
        let (index, at) = match unit {
            _ if unit < q => (0, unit),
            _ if unit < q + k => (1, unit - q),
            _ => (2, unit - q - k),
        };
        let tensor = one_of(index, p.tensors.each_ref().map(words));
        let (head, part) = tensor.parts.split(at);
        let rotation_block = if index == 2 { 0 } else { p.rotation_block };
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
        Unit { tensor, index, rotation_block, head, part, span, source, to }
    }

    /// The rows from `first` to before the end of the part that they begin.
    #[inline(always)]
    fn rows(&self, p: &QuantizeParams, first: u32) -> [u32; 2] {
        [first, (first + p.part_rows).min(self.span.len)]
    }

    /// Groups of 8 columns of the rows from the first to before the end.
    #[inline(always)]
    fn groups(&self, [first, end]: [u32; 2]) -> u32 {
        (end - first) * self.tensor.groups.value
    }

    /// Row and number of group `i` of those of the rows from `first` on.
    #[inline(always)]
    fn place(&self, first: u32, i: u32) -> [u32; 2] {
        let (row, group) = self.tensor.groups.split(i);
        [first + row, group]
    }

    /// Groups `i`, `i + THREADS` and so on of those of the rows from `first` on, or the last one instead of what is beyond.
    ///
    /// # Safety
    /// There are `groups` groups, at least one, and they are readable.
    #[inline(always)]
    unsafe fn load(&self, first: u32, i: u32, groups: u32) -> [[u32; 4]; ON_THE_WAY as usize] {
        let mut words = [[0; 4]; ON_THE_WAY as usize];
        let mut ahead = 0;
        while ahead < ON_THE_WAY {
            let [row, group] = self.place(first, (i + ahead * THREADS).min(groups - 1));
            let row = self.source + row as u64 * self.tensor.strides_bytes[1];
            // SAFETY: the caller's.
            words[ahead as usize] = unsafe { global::load_x4(row + (group * GROUP * Dtype::SIZE) as u64) };
            ahead += 1;
        }
        words
    }

    /// The numbers of group `group` of a row, which is in these words, rotated if they are to be.
    ///
    /// # Safety
    /// All lanes of the warp execute it together, with groups one behind the other.
    #[inline(always)]
    unsafe fn numbers(&self, dtype: Dtype, group: u32, words: [u32; 4]) -> [f32; GROUP as usize] {
        let mut numbers = [0.0; GROUP as usize];
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
            unsafe { rotated(numbers, group, self.rotation_block) }
        }
    }

    /// Address of the maxima of the head.
    #[inline(always)]
    fn maxima(&self, p: &QuantizeParams) -> u64 {
        maxima(p, &self.tensor, self.head)
    }

    /// Address and number of the maxima from which the factor follows.
    #[inline(always)]
    fn all_maxima(&self, p: &QuantizeParams) -> (u64, u32) {
        if p.tensor_maxima == 0 {
            (self.maxima(p), self.tensor.parts.value * WARPS)
        } else {
            (p.tensor_maxima + 4 * (self.index * TENSOR_MAXIMA) as u64, TENSOR_MAXIMA)
        }
    }
}

/// Address of the maxima of a head.
#[inline(always)]
fn maxima(p: &QuantizeParams, tensor: &QuantizeTensor, head: u32) -> u64 {
    p.maxima + 4 * ((tensor.first_head + head) * p.most_parts * WARPS) as u64
}

/// The first kernel: magnitudes of the parts.
///
/// # Safety
/// See the entry points in [`entry`](crate::entry).
#[inline(always)]
pub unsafe fn largest(dtype: Dtype, p: &QuantizeParams) {
    // SAFETY: the host checked that tensors and room for the maxima lie where the parameters say; warps are together.
    unsafe {
        grid::launch_dependents();
        grid::wait_for_previous_grid();
        let mut at = thread::block_idx_x();
        while at < p.units {
            let unit = Unit::new(p, at);
            let lane = thread::thread_idx_x() % 32;
            let mut largest = 0.0;
            let mut first = unit.part * p.part_rows;
            while first < unit.span.len {
                let groups = unit.groups(unit.rows(p, first));
                let mut of_warp = warp::broadcast(thread::thread_idx_x() / 32) * 32;
                while of_warp < groups {
                    // Lanes beyond the last group read that once more. No block ends among them.
                    let words = unit.load(first, of_warp + lane, groups);
                    let mut ahead = 0;
                    while ahead < ON_THE_WAY as usize {
                        let i = of_warp + lane + ahead as u32 * THREADS;
                        let [_, group] = unit.place(first, i.min(groups - 1));
                        let numbers = unit.numbers(dtype, group, words[ahead]);
                        let mut element = 0;
                        while element < GROUP as usize {
                            let magnitude = if i < groups { abs(numbers[element]) } else { 0.0 };
                            largest = max(largest, magnitude);
                            element += 1;
                        }
                        ahead += 1;
                    }
                    of_warp += ON_THE_WAY * THREADS;
                }
                first += unit.tensor.parts.value * p.part_rows;
            }
            let warp = warp::broadcast(thread::thread_idx_x() / 32);
            warp::sync_warp();
            let largest = warp_max(largest);
            if warp::elect_one() {
                global::store_f32(unit.maxima(p) + 4 * (unit.part * WARPS + warp) as u64, largest);
            }
            warp::sync_warp();
            at += thread::grid_dim_x();
        }
    }
}

/// The kernel between both, for factors of whole tensors: the largest of the magnitudes that the first one left. Each
/// tensor has as many CTAs.
///
/// # Safety
/// See the entry points in [`entry`](crate::entry).
#[inline(always)]
pub unsafe fn largest_of_tensors(p: &QuantizeParams) {
    // SAFETY: as above.
    unsafe {
        grid::launch_dependents();
        grid::wait_for_previous_grid();
        let (index, share) = (thread::block_idx_x() / TENSOR_CTAS, thread::block_idx_x() % TENSOR_CTAS);
        let tensor = one_of(index, p.tensors.each_ref().map(words));
        let mut largest = 0.0;
        let mut i = share * THREADS + thread::thread_idx_x();
        while i < tensor.units * WARPS {
            let (head, part) = tensor.parts.split(i / WARPS);
            let at = maxima(p, &tensor, head) + 4 * (part * WARPS + i % WARPS) as u64;
            largest = max(largest, global::load_f32(at));
            i += TENSOR_CTAS * THREADS;
        }
        let warp = warp::broadcast(thread::thread_idx_x() / 32);
        warp::sync_warp();
        let largest = warp_max(largest);
        if warp::elect_one() {
            let at = index * TENSOR_MAXIMA + share * WARPS + warp;
            global::store_f32(p.tensor_maxima + 4 * at as u64, largest);
        }
    }
}

/// The last kernel: factors, and rounded numbers.
///
/// # Safety
/// See the entry points in [`entry`](crate::entry).
#[inline(always)]
pub unsafe fn round(dtype: Dtype, fp8: Fp8, p: &QuantizeParams) {
    // SAFETY: as above; every number of the results is written by one thread.
    unsafe {
        grid::launch_dependents();
        grid::wait_for_previous_grid();
        let mut at = thread::block_idx_x();
        while at < p.units {
            let unit = Unit::new(p, at);
            let mut largest = 0.0;
            let (maxima, count) = unit.all_maxima(p);
            let mut i = thread::thread_idx_x() % 32;
            while i < count {
                largest = max(largest, global::load_f32(maxima + 4 * i as u64));
                i += 32;
            }
            warp::sync_warp();
            let mut exponent = descale_exponent(fp8, warp_max(largest));
            // Sums were divided by as much, once for Q and once for K.
            let mut restored = 0;
            if unit.rotation_block != 0 && unit.index == 0 {
                restored = unit.rotation_block.trailing_zeros() as i32;
                exponent = exponent.min(127 - restored);
            }
            if unit.part == 0 && thread::thread_idx_x() == 0 {
                let descale = power_of_2(exponent + restored);
                global::store_f32(unit.tensor.descales + 4 * unit.head as u64, descale);
            }
            let factor = power_of_2(-exponent);
            let mut first = unit.part * p.part_rows;
            while first < unit.span.len {
                if unit.index == 2 {
                    transpose(dtype, fp8, &unit, unit.rows(p, first), factor, &p.rounding);
                } else {
                    copy(dtype, fp8, &unit, unit.rows(p, first), factor, &p.rounding);
                }
                first += unit.tensor.parts.value * p.part_rows;
            }
            at += thread::grid_dim_x();
        }
    }
}

/// Rounds rows of Q or K.
#[inline(always)]
unsafe fn copy(dtype: Dtype, fp8: Fp8, unit: &Unit, rows: [u32; 2], factor: f32, rounding: &Rounding) {
    let (groups, lane) = (unit.groups(rows), thread::thread_idx_x() % 32);
    // SAFETY: the caller's; warps are together.
    unsafe {
        let mut of_warp = warp::broadcast(thread::thread_idx_x() / 32) * 32;
        while of_warp < groups {
            // As where the largest is sought.
            let words = unit.load(rows[0], of_warp + lane, groups);
            let mut ahead = 0;
            while ahead < ON_THE_WAY as usize {
                let i = of_warp + lane + ahead as u32 * THREADS;
                let [row, group] = unit.place(rows[0], i.min(groups - 1));
                let mut numbers = unit.numbers(dtype, group, words[ahead]);
                let mut element = 0;
                while element < GROUP as usize {
                    numbers[element] = mul(numbers[element], factor);
                    element += 1;
                }
                let [a, b, c, d, e, f, g, h] = settled(rounding, fp8, unit, row, group, numbers);
                if i < groups {
                    let at = unit.to + row as u64 * unit.tensor.to_row + (group * GROUP) as u64;
                    global::store_x2(at, [pack_x4(fp8, [a, b, c, d]), pack_x4(fp8, [e, f, g, h])]);
                }
                ahead += 1;
            }
            of_warp += ON_THE_WAY * THREADS;
        }
    }
}

/// The numbers of group `group` after the rotation of their block. The other groups of the block are those of the lanes
/// whose numbers differ in the lowest bits only.
///
/// # Safety
/// All lanes of the warp execute it together.
#[inline(always)]
unsafe fn rotated(numbers: [f32; GROUP as usize], group: u32, block: u32) -> [f32; GROUP as usize] {
    let (mut x, signs) = (numbers, signs(group));
    let share = power_of_2(-(block.trailing_zeros() as i32));
    let mut i = 0;
    while i < GROUP as usize {
        let sign = signs << (31 - i as u32) & SIGN;
        x[i] = mul(f32::from_bits(x[i].to_bits() ^ sign), share);
        i += 1;
    }
    // Sums and differences of two that are `distance` apart, for each distance: in this thread ...
    let mut distance = 1;
    while distance < GROUP as usize {
        let mut i = 0;
        while i < GROUP as usize {
            if i & distance == 0 {
                let [a, b] = [x[i], x[i + distance]];
                [x[i], x[i + distance]] = [add(a, b), fma(b, -1.0, a)];
            }
            i += 1;
        }
        distance *= 2;
    }
    // ... and between lanes.
    let lane = thread::thread_idx_x() % 32;
    let mut distance = 1;
    while distance < block / GROUP {
        let sign = if lane & distance == 0 { 1.0 } else { -1.0 };
        let mut i = 0;
        while i < GROUP as usize {
            // SAFETY: the caller's.
            x[i] = fma(x[i], sign, unsafe { warp::shuffle_xor(x[i], distance) });
            i += 1;
        }
        distance *= 2;
    }
    x
}

/// Rounds and transposes rows of V: a thread takes a group of keys of two neighbouring columns. Keys beyond the last
/// are zeros.
#[inline(always)]
unsafe fn transpose(
    dtype: Dtype,
    fp8: Fp8,
    unit: &Unit,
    [first, end]: [u32; 2],
    factor: f32,
    rounding: &Rounding,
) {
    let QuantizeTensor { to_row, groups, strides_bytes, .. } = unit.tensor;
    let pairs = groups.value * GROUP / 2;
    let mut group = first / VALUE_GROUP;
    let mut pair = thread::thread_idx_x();
    while pair >= pairs {
        pair -= pairs;
        group += 1;
    }
    while group * VALUE_GROUP < end {
        let from = unit.source + (4 * pair) as u64;
        let mut words = [0; VALUE_GROUP as usize];
        let mut key = 0;
        while key < VALUE_GROUP {
            let row = group * VALUE_GROUP + key;
            // SAFETY: the caller's; nobody writes V while the kernel runs.
            words[key as usize] =
                unsafe { global::load_below(from + row as u64 * strides_bytes[1], row, end) };
            key += 1;
        }
        let mut column = 0;
        while column < 2 {
            let line = 2 * pair + column;
            let of_8 = group * VALUE_GROUP / RANDOM_GROUP as u32;
            let mut keys = [0.0; VALUE_GROUP as usize];
            let mut key = 0;
            while key < VALUE_GROUP as usize {
                // Both columns at once would be as many registers more.
                keys[key] = mul(unpack(dtype, anew(words[key]))[column as usize], factor);
                key += 1;
            }
            let keys = settled(rounding, fp8, unit, line, of_8, keys);
            let at = unit.to + line as u64 * to_row + (group * VALUE_GROUP) as u64;
            // SAFETY: the caller's.
            unsafe { global::store_x4(at, permuted(fp8, keys)) };
            column += 1;
        }
        pair += THREADS;
        while pair >= pairs {
            pair -= pairs;
            group += 1;
        }
    }
}

/// Numbers of line `line` of the unit's head, from its group `group` of 8 on: as they are, or such that the format holds.
#[inline(always)]
fn settled<const N: usize>(
    rounding: &Rounding,
    fp8: Fp8,
    unit: &Unit,
    line: u32,
    group: u32,
    mut numbers: [f32; N],
) -> [f32; N] {
    if rounding.stochastic != 0 {
        // The keys of all rounds would be held all the time otherwise.
        let rounding = Rounding { seed: rounding.seed.map(anew), ..*rounding };
        let mut at = 0;
        while at < N {
            let words = rounding.random(unit.index, unit.head, line, group + (at / RANDOM_GROUP) as u32);
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

/// The largest of the numbers of a warp's lanes.
#[inline(always)]
unsafe fn warp_max(x: f32) -> f32 {
    let mut x = x;
    let mut distance = 16;
    while distance > 0 {
        // SAFETY: the caller's: the whole warp is here.
        x = max(x, unsafe { warp::shuffle_xor(x, distance) });
        distance /= 2;
    }
    x
}
