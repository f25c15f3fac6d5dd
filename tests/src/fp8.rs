//! Attention over elements of 8 bits: how they are made, the right answer to what they stand for, and how far from it a
//! kernel may be.
//!
//! The right answer is that in f64 to the values as they were rounded, so that only what the kernel does counts. It
//! rounds weights to 4 significant bits: errors of up to 1/16 of each, which are independent, and in the mean square
//! about 1/38. What tensor cores cut off, sums of 13 fraction bits, comes on top.

use std::sync::LazyLock;

use flashcore::{
    Device, Dtype, Fp8Element, Fp8Tensor, Fp8Values, Lse, Order, Plan, Pointers, Sequences, Shape, Stream,
    Tensor,
};
use flashcore_kernels::fp8::{rotation_block, signs};
use float8::{F8E4M3, F8E5M2};
use rayon::prelude::*;

use crate::device::{Outputs, download};
use crate::extras::{Extras, ExtrasOnDevice, Numbers};
use crate::oracle::{Attention, Position, Tokens, philox};
use crate::values::{Values, round};

/// A type of 8 bits, and what its elements stand for.
pub trait Format: Fp8Element + Send + Sync {
    /// The code of its largest number.
    const LARGEST: u8;
    /// A code of none.
    const NAN: u8 = 0x7F;
    /// The nearest element.
    fn of(x: f32) -> Self;
    /// What it stands for.
    fn value(self) -> f32;
    /// The element of a code.
    fn from_code(code: u8) -> Self;
    /// Its code.
    fn code(self) -> u8;
    /// All numbers that are not negative, in order: those of the codes from 0 on.
    fn numbers() -> &'static [f64];
}

macro_rules! formats {
    ($($format:ident: $largest:literal;)*) => {$(
        impl Format for $format {
            const LARGEST: u8 = $largest;

            fn of(x: f32) -> Self {
                Self::from_f32(x)
            }

            fn value(self) -> f32 {
                self.to_f32()
            }

            fn from_code(code: u8) -> Self {
                Self::from_bits(code)
            }

            fn code(self) -> u8 {
                self.to_bits()
            }

            fn numbers() -> &'static [f64] {
                static NUMBERS: LazyLock<Vec<f64>> =
                    LazyLock::new(|| (0..=$largest).map(|code| $format::from_bits(code).to_f32().into()).collect());
                &NUMBERS
            }
        }
    )*};
}

formats! {
    F8E4M3: 0x7E;
    F8E5M2: 0x7B;
}

/// A tensor of 8 bits.
#[derive(Clone, Debug)]
pub struct Narrow<T = F8E4M3> {
    /// Contiguous (batch, seqlen, heads, head_dim). Rows that are no token's are NaN.
    pub elements: Vec<T>,
    /// (sequences, heads)
    pub descales: Vec<f32>,
    /// What the elements stand for.
    pub values: Values,
}

/// The least power of 2 by which numbers up to `largest` come within what the format holds.
fn descale<T: Format>(largest: f32) -> f32 {
    let holds = T::from_code(T::LARGEST).value();
    let mut exponent = -60;
    while exponent < 120 && largest > holds * 2f32.powi(exponent) {
        exponent += 1;
    }
    2f32.powi(exponent)
}

/// The 16 random bits by which the library promises to round the number at \[b, s, h, d\] of tensor `tensor` (0: q, 1: k,
/// 2: v), which has `heads` heads.
pub fn random_bits((seed, offset): (u64, u32), tensor: usize, [b, s, h, d]: [usize; 4], heads: usize) -> u32 {
    let (along, across) = if tensor == 2 { (s, d) } else { (d, s) };
    let counter = [(1 << 31) + along / 8 * 4 + tensor, across, b * heads + h, offset as usize];
    let word = philox(counter.map(|word| word as u64), seed)[along % 8 / 2];
    word >> (along % 2 * 16) & 0xFFFF
}

/// The neighbour of `x`, a number, that it is rounded to by chance, away from zero if these 16 random bits say so.
pub fn one_neighbour<T: Format>(x: f32, random: u32) -> T {
    let (numbers, magnitude) = (T::numbers(), f64::from(x.abs()));
    let lower = numbers.partition_point(|&number| number <= magnitude) - 1;
    let up = numbers.get(lower + 1).is_some_and(|next| {
        let fraction = (magnitude - numbers[lower]) / (next - numbers[lower]);
        fraction + (f64::from(random) + 0.5) / 65536.0 >= 1.0
    });
    T::from_code((lower + usize::from(up)) as u8 | u8::from(x.is_sign_negative()) << 7)
}

impl<T: Format> Narrow<T> {
    /// These values, of sequences that fill the tensor, under descales of each head that are powers of 2, rounded to the
    /// nearest.
    pub fn new(values: &Values) -> Self {
        Self::of_sequences(values, &Tokens::dense(values.shape))
    }

    /// The same of these sequences.
    pub fn of_sequences(values: &Values, sequences: &[Tokens]) -> Self {
        Self::rounded(values, sequences, |_, x| T::of(x))
    }

    /// These values, of tensor `tensor`, rounded by chance: by the random numbers of a seed and an offset.
    pub fn by_chance(values: &Values, sequences: &[Tokens], tensor: usize, seed: (u64, u32)) -> Self {
        let heads = values.shape.heads;
        let random = |place| random_bits(seed, tensor, place, heads);
        Self::rounded(values, sequences, |place, x| one_neighbour(x, random(place)))
    }

    /// These values under one descale, rounded to the nearest.
    pub fn per_tensor(values: &Values, sequences: &[Tokens]) -> Self {
        let mut descales = Self::of_sequences(values, sequences).descales;
        let largest = descales.iter().copied().fold(0.0, f32::max);
        descales.fill(largest);
        Self::under(values, sequences, descales, |_, x| T::of(x))
    }

    /// The same, where `round` rounds the number at \[sequence, s, h, d\].
    fn rounded(values: &Values, sequences: &[Tokens], round: impl Fn([usize; 4], f32) -> T) -> Self {
        let largest = |tokens: &Tokens, h: usize| {
            let rows = (tokens.start..tokens.start + tokens.len).flat_map(|s| values.row(tokens.batch, s, h));
            rows.fold(0f32, |largest, x| largest.max(x.abs()))
        };
        let heads = |tokens| (0..values.shape.heads).map(move |h| descale::<T>(largest(tokens, h)));
        let descales = sequences.iter().flat_map(heads).collect();
        Self::under(values, sequences, descales, round)
    }

    /// The same under these descales.
    fn under(
        values: &Values,
        sequences: &[Tokens],
        descales: Vec<f32>,
        round: impl Fn([usize; 4], f32) -> T,
    ) -> Self {
        let Shape { seqlen, heads, head_dim, .. } = values.shape;
        let mut elements = vec![T::from_code(T::NAN); values.data.len()];
        let mut data = vec![f32::NAN; values.data.len()];
        for (b, &Tokens { batch, start, len }) in sequences.iter().enumerate() {
            for (s, h, d) in places(len, heads, head_dim) {
                let i = ((batch * seqlen + start + s) * heads + h) * head_dim + d;
                let descale = descales[b * heads + h];
                elements[i] = round([b, s, h, d], values.data[i] / descale);
                data[i] = elements[i].value() * descale;
            }
        }
        Narrow { values: Values { shape: values.shape, data }, elements, descales }
    }
}

fn places(len: usize, heads: usize, head_dim: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..len).flat_map(move |s| (0..heads).flat_map(move |h| (0..head_dim).map(move |d| (s, h, d))))
}

/// Values of q or k as they are rotated before they are rounded: in each block of columns, a Hadamard matrix over columns
/// of which some have the other sign, divided by their number; in f32, and in the order in which the kernels sum.
pub fn rotated(values: &Values) -> Values {
    let head_dim = values.shape.head_dim;
    let block = rotation_block(head_dim as u32) as usize;
    let mut rotated = values.clone();
    for row in rotated.data.chunks_exact_mut(head_dim) {
        for (column, x) in row.iter_mut().enumerate() {
            let minus = signs(column as u32 / 8) >> (column % 8) & 1 == 1;
            *x *= if minus { -1.0 } else { 1.0 } / block as f32;
        }
        for block in row.chunks_exact_mut(block) {
            let mut distance = 1;
            while distance < block.len() {
                for i in (0..block.len()).filter(|i| i & distance == 0) {
                    let (a, b) = (block[i], block[i + distance]);
                    (block[i], block[i + distance]) = (a + b, a - b);
                }
                distance *= 2;
            }
        }
    }
    rotated
}

/// v as it lies on a device, of sequences that are packed if they have starts. Tensor cores multiply what is no key's with
/// 0 if it shares a group with keys, so that it must not be NaN.
pub fn values<T: Format>(
    device: &Device,
    v: &Narrow<T>,
    starts: Option<&[i32]>,
) -> flashcore::Result<Fp8Values> {
    let finite = |&x: &T| if x.value().is_nan() { T::from_code(T::LARGEST) } else { x };
    let elements: Vec<T> = v.elements.iter().map(finite).collect();
    let (shape, order) = (v.values.shape, Order::Bshd);
    match starts {
        Some(starts) => {
            let starts: Vec<u32> = starts.iter().map(|&start| start as u32).collect();
            Fp8Values::from_slice_packed(device, &elements, shape, order, &starts, &v.descales)
        }
        None => Fp8Values::from_slice(device, &elements, shape, order, &v.descales),
    }
}

/// The tensors of a call, outputs poisoned.
#[derive(Debug)]
pub struct OnDevice {
    q: Fp8Tensor,
    k: Fp8Tensor,
    v: Fp8Values,
    /// Output.
    pub out: Tensor,
    /// Log-sum-exp.
    pub lse: Lse,
    causal: bool,
    extras: ExtrasOnDevice,
}

impl OnDevice {
    /// Copies q, k and v, and the numbers that go along, to `device`, and makes room for an output of type `dtype`.
    pub fn new<T: Format>(
        device: &Device,
        [q, k, v]: &[Narrow<T>; 3],
        causal: bool,
        (extras, numbers): (Extras, &Numbers),
        dtype: Dtype,
    ) -> flashcore::Result<Self> {
        let rows = |x: &Narrow<T>| {
            Fp8Tensor::from_slice(device, &x.elements, x.values.shape, Order::Bshd, &x.descales)
        };
        let (q, k) = (rows(q)?, rows(k)?);
        let v = values(device, v, numbers.starts_kv.as_deref())?;
        let shape = Shape { head_dim: v.shape().head_dim, ..q.shape() };
        let out = Tensor::zeros(device, dtype, shape, Order::Bshd)?;
        let lse = Lse::new(device, shape.batch, shape.heads, shape.seqlen)?;
        let extras = ExtrasOnDevice::new(device, extras, numbers, dtype)?;
        let tensors = OnDevice { q, k, v, out, lse, causal, extras };
        tensors.poison()?;
        Ok(tensors)
    }

    /// Fills the outputs with NaN.
    pub fn poison(&self) -> flashcore::Result<()> {
        self.out.fill_bytes(0xFF)?;
        self.lse.fill_bytes(0xFF)
    }

    /// Where sequences lie.
    pub fn sequences(&self) -> Sequences<'_> {
        self.extras.sequences()
    }

    /// The call.
    pub fn attention(&self) -> flashcore::Attention<'_> {
        let attention = self.extras.attention();
        if self.causal { attention.causal(true) } else { attention }
    }

    /// Submits the computation.
    pub fn run(&self, stream: &Stream) -> flashcore::Result<()> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        self.attention().forward_fp8_into(stream, q, k, v, &self.out, Some(self.lse.view()))
    }

    /// Every plan for this computation, one for each kernel that can do it.
    pub fn plans(&self) -> flashcore::Result<Vec<Plan>> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let problem = self.attention().fp8_problem(q, k, v, &self.out.view(), Some(self.lse.view()))?;
        Plan::all(&problem, self.out.device().properties())
    }

    /// Device addresses, as a launch takes them.
    pub fn pointers(&self) -> Pointers {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        Pointers {
            q: q.ptr(),
            k: k.ptr(),
            v: v.ptr(),
            out: self.out.ptr(),
            lse: self.lse.view().ptr(),
            descales: [q.descales(), k.descales(), v.descales()].map(|array| array.ptr()),
            ..self.extras.pointers()
        }
    }

    /// Submits the computation by the kernel of `plan`, which must be one of [`Self::plans`].
    pub fn run_plan(&self, plan: &Plan, stream: &Stream) -> flashcore::Result<()> {
        // SAFETY: the plan was made for these tensors, which live on after the work: freeing them waits for it.
        unsafe { stream.launch_plan(plan, &self.pointers()) }
    }

    /// The outputs: contiguous (batch, seqlen, heads, head_dim), and (batch, heads, seqlen). Waits for all work of the
    /// device.
    pub fn outputs(&self) -> flashcore::Result<(Vec<f32>, Vec<f32>)> {
        let Outputs { out, lse } = self.written()?;
        Ok((out.values().data, lse))
    }

    /// The same as they lie in memory.
    pub fn written(&self) -> flashcore::Result<Outputs> {
        Ok(Outputs { out: download(&self.out)?, lse: self.lse.to_vec()? })
    }
}

/// The right answer. Rows that are no query's, which a kernel leaves as they are, are NaN.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Contiguous (batch, seqlen, heads, head_dim).
    pub o: Vec<f64>,
    /// (batch, heads, seqlen)
    pub lse: Vec<f64>,
    /// For each element of `o`, the root of the sum of the squares of what it is the sum of.
    pub spread: Vec<f64>,
    /// The same of magnitudes.
    pub magnitude: Vec<f64>,
    /// What all weights that are too small for 8 bits may come to.
    pub floor: f64,
}

/// O, the log-sum-exp, the spread and the magnitude of a row.
type Row = (Vec<f64>, f64, Vec<f64>, Vec<f64>);

/// The right answer in f64, and what it is the sum of.
pub fn attend(attention: &Attention) -> Answer {
    let (shape, v) = (attention.q.shape, &attention.v);
    let columns = v.shape.head_dim;
    let position = |row: usize| {
        let (batch, token, h) =
            (row / shape.heads / shape.seqlen, row / shape.heads % shape.seqlen, row % shape.heads);
        let has = |of: &Tokens| of.batch == batch && (of.start..of.start + of.len).contains(&token);
        let b = attention.queries.iter().position(has)?;
        Some(Position { b, s: token - attention.queries[b].start, h })
    };
    let rows: Vec<_> = (0..shape.batch * shape.seqlen * shape.heads)
        .into_par_iter()
        .map(|row| {
            let Some(at) = position(row) else {
                let nothing = vec![f64::NAN; columns];
                return (nothing.clone(), f64::NAN, nothing.clone(), nothing);
            };
            let (mut o, mut spread, mut magnitude) =
                (vec![0.0; columns], vec![0.0; columns], vec![0.0; columns]);
            let (weights, lse) = attention.weights(at);
            for (key, weight) in weights {
                for (d, &x) in attention.key_row(v, at, key).iter().enumerate() {
                    let term = weight * f64::from(x);
                    o[d] += term;
                    spread[d] += term * term;
                    magnitude[d] += term.abs();
                }
            }
            (o, lse, spread.into_iter().map(f64::sqrt).collect::<Vec<_>>(), magnitude)
        })
        .collect();
    let mut lse = vec![0.0; rows.len()];
    for (row, answer) in rows.iter().enumerate() {
        let (b, s, h) =
            (row / shape.heads / shape.seqlen, row / shape.heads % shape.seqlen, row % shape.heads);
        lse[(b * shape.heads + h) * shape.seqlen + s] = answer.1;
    }
    // Weights below half of 2^-17 are rounded to 0, all others to no more than a few times that.
    let floor = 2f64.powi(-16) * v.data.iter().fold(0.0, |max, &x| f64::max(max, x.abs().into()));
    let gather = |of: fn(&Row) -> &Vec<f64>| rows.iter().flat_map(|row| of(row).iter().copied()).collect();
    Answer {
        o: gather(|row| &row.0),
        lse,
        spread: gather(|row| &row.2),
        magnitude: gather(|row| &row.3),
        floor,
    }
}

/// How a result compares with the right answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Errors {
    /// Root of the mean of the squares of the errors.
    pub rms: f64,
    /// The same, relative to that of the answer.
    pub relative: f64,
    /// The same, relative to that of the [spread](Answer::spread).
    pub of_spread: f64,
    /// The mean of the errors towards zero, relative to the mean magnitude of the answer.
    pub shrinkage: f64,
    /// The largest error.
    pub max: f64,
    /// The largest error beyond the [floor](Answer::floor), relative to the [magnitude](Answer::magnitude).
    pub of_magnitude: f64,
    /// The largest error of a log-sum-exp.
    pub lse: f64,
}

/// Of those that are numbers.
fn rms(numbers: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) =
        numbers.filter(|x| !x.is_nan()).fold((0.0, 0usize), |(sum, count), x| (sum + x * x, count + 1));
    (sum / count.max(1) as f64).sqrt()
}

impl Answer {
    /// What is wrong with `o`, contiguous (batch, seqlen, heads, head_dim), and `lse`.
    pub fn errors(&self, o: &[f32], lse: &[f32]) -> Errors {
        assert_eq!((o.len(), lse.len()), (self.o.len(), self.lse.len()));
        // What is to be left as it is does not count, unless it is not.
        let error = |got: f32, want: f64| {
            if want.is_nan() && got.is_nan() {
                f64::NAN
            } else if got.is_finite() && want.is_finite() {
                (f64::from(got) - want).abs()
            } else if f64::from(got) == want {
                0.0
            } else {
                f64::INFINITY
            }
        };
        let errors = || o.iter().zip(&self.o).map(|(&got, &want)| error(got, want));
        let rms_error = rms(errors());
        let beyond =
            |(error, magnitude): (f64, &f64)| (error - self.floor).max(0.0) / magnitude.max(self.floor);
        let towards_zero: f64 = o
            .iter()
            .zip(&self.o)
            .map(|(&got, &want)| (want - f64::from(got)) * want.signum())
            .filter(|x| !x.is_nan())
            .sum();
        Errors {
            rms: rms_error,
            relative: rms_error / rms(self.o.iter().copied()),
            of_spread: rms_error / rms(self.spread.iter().copied()),
            shrinkage: towards_zero / self.o.iter().map(|x| x.abs()).filter(|x| !x.is_nan()).sum::<f64>(),
            max: errors().fold(0.0, f64::max),
            of_magnitude: errors().zip(&self.magnitude).map(beyond).fold(0.0, f64::max),
            lse: lse.iter().zip(&self.lse).map(|(&got, &want)| error(got, want)).fold(0.0, f64::max),
        }
    }

    /// The root of the mean of the squares of the spread.
    pub fn mean_spread(&self) -> f64 {
        rms(self.spread.iter().copied())
    }

    /// The root of the mean of the squares of the errors that rounding the answer makes.
    pub fn granularity(&self, dtype: Dtype) -> f64 {
        rms(self.o.iter().map(|&x| round(dtype, x) - x))
    }
}
