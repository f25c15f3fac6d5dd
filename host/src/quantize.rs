//! q, k and v of 16 bits, rounded to 8: checks, plan, call.

use flashcore_kernels::divisor::Divisor;
use flashcore_kernels::entry::{
    FP8_LARGEST_OF_TENSORS, QUANTIZE, QuantizeVariant, TENSOR_CTAS, TENSOR_MAXIMA,
};
use flashcore_kernels::fp8::rotation_block;
use flashcore_kernels::params::{QuantizeParams, QuantizeTensor, Turns};
use flashcore_kernels::rounding::Rounding;

use crate::array::Array;
use crate::check::{addresses_of_arrays, extent, lengths_of_arrays, of_device};
use crate::error::{Dim, Error, Operand, Result};
use crate::fp8::{Fp8Tensor, Fp8Values};
use crate::kernels::{Dtype, Fp8};
use crate::problem::{FP8_STEP, HEAD_DIM_STEP, MAX_FP8_HEAD_DIM, check_layout};
use crate::tensor::{AsTensorView, Order, Shape, Tensor, TensorLayout};
use crate::tensor_map::ALIGNMENT;
use crate::{Attention, Device, Sequences, Stream};

/// Parts of a head, at most: each has a largest number, and one warp gathers those of all.
const MOST_PARTS: usize = 2048;
/// How many times a warp looks whether its factor is known before it puts its unit off: some 50 µs.
const PATIENCE: u32 = 64;
/// Lanes of a warp.
const LANES: u32 = 32;
/// Heads and parts of heads are counted in i32; warps take a ticket more than there is work for.
const MAX_UNITS: usize = i32::MAX as usize;

/// How q, k and v are rounded to 8 bits: see [`Fp8Qkv::round_with`].
#[derive(Clone, Copy, Debug)]
pub struct Fp8Rounding<'a> {
    rounding: Rounding,
    sequences: Sequences<'a>,
}

impl<'a> Fp8Rounding<'a> {
    /// To the nearest, all rows of all sequences.
    pub const fn new() -> Self {
        Fp8Rounding { rounding: Rounding::NEAREST, sequences: Sequences::new() }
    }

    /// Each number becomes one of its two neighbours in the format, by chance: the upper one with the probability that its
    /// distance from the lower one is of that between both. So the expectation is the number itself, where to nearest it
    /// is off, always by as much. Probabilities are multiples of 2⁻¹⁶. What the format holds stays as it is. Numbers are
    /// rotated before, if they are.
    ///
    /// What becomes of a number follows from seed, offset (say, that of a step or of a layer), tensor, number of sequence,
    /// of heads, head, row of the sequence and column, and from nothing else: it is the same in every call and in all versions of this
    /// library; docs/fp8.md has the formula. A CUDA graph repeats the offset that was recorded.
    pub const fn stochastic(self, seed: u64, offset: u32) -> Self {
        Fp8Rounding { rounding: Rounding::stochastic(seed, offset), ..self }
    }

    /// Where sequences begin, and how many of their rows count, as the call of attention has it. Others are not rounded,
    /// and are of no weight for descales.
    pub const fn sequences(self, sequences: Sequences<'a>) -> Self {
        Fp8Rounding { sequences, ..self }
    }
}

impl Default for Fp8Rounding<'_> {
    fn default() -> Self {
        Fp8Rounding::new()
    }
}

/// q, k and v of 8 bits, and what it takes to round to them: device memory of its own, for as many calls as one likes.
///
/// Calls come one behind the other: on one stream, or each on a stream that waits for what was submitted before. Kernels of two
/// that ran at the same time would take each other's work, and might wait for ever.
///
/// Each head of each sequence has a descale, or [each tensor](Self::per_tensor): the least power of 2 with which its
/// largest number is no more than the format holds. [`Self::round`] is to nearest, ties to even;
/// [`Fp8Rounding::stochastic`] is right on average. Infinities become the largest number, NaN stays.
///
/// Where a few columns of q or k are much larger than others, as in many language models, they take the precision of
/// those. [`Self::rotated`] spreads them.
#[derive(Debug)]
pub struct Fp8Qkv {
    /// Queries.
    pub q: Fp8Tensor,
    /// Keys.
    pub k: Fp8Tensor,
    /// Values.
    pub v: Fp8Values,
    /// What warps tell each other: magnitudes of parts, heads and tensors, chains, turns. Zeros at first: no launch's tag.
    told: Array<u32>,
    /// How many packed sequences of q, and of k and v.
    packed: [Option<usize>; 2],
    rotates: bool,
    per_tensor: bool,
}

impl Fp8Qkv {
    /// Room for q, k and v of these shapes.
    ///
    /// # Errors
    /// [`Error::HeadDim`], [`Error::DimensionTooLarge`], [`Error::TooManyTiles`], [`Error::ShapeOverflow`],
    /// [`Error::OutOfMemory`].
    pub fn new(device: &Device, kind: Fp8, shapes: [Shape; 3]) -> Result<Self> {
        Fp8Qkv::for_sequences(device, kind, shapes, [None; 2])
    }

    /// The same for so many packed sequences of q, and of k and v, of which the batch is 1: see [`Sequences::packed`].
    ///
    /// # Errors
    /// As [`Self::new`], and [`Error::ShapeMismatch`].
    pub fn for_sequences(
        device: &Device,
        kind: Fp8,
        [q, k, v]: [Shape; 3],
        packed: [Option<usize>; 2],
    ) -> Result<Self> {
        let parts = Parts::of([q, k, v], packed)?;
        let [of_q, of_k, _] = parts.sequences;
        Ok(Fp8Qkv {
            q: Fp8Tensor::room(device, kind, q, Order::Bhsd, of_q)?,
            k: Fp8Tensor::room(device, kind, k, Order::Bhsd, of_k)?,
            v: Fp8Values::room(device, kind, v, packed[1])?,
            told: Array::zeros(device, parts.told())?,
            packed,
            rotates: false,
            per_tensor: false,
        })
    }

    /// Rotates q and k before they are rounded: some of their columns with the other sign, then sums and differences of
    /// all of a block (a Hadamard matrix), the block being as many columns as the largest power of 2 that divides head_dim.
    /// Scores are what they were, since q and k are rotated alike; a number is now spread over all columns of its block,
    /// so that no one is much larger than the others. v stays as it is.
    ///
    /// Infinities among q and k become NaN.
    pub fn rotated(mut self) -> Self {
        self.rotates = true;
        self
    }

    /// Gives all heads of all sequences of q the same descale, that of its largest number, and so k and v: for those who
    /// compare with, or continue in, software that has one number for a tensor. All that [`Fp8Tensor::descales`] has is
    /// that number. Memory is read twice for it, by three kernels instead of one.
    pub fn per_tensor(mut self) -> Self {
        self.per_tensor = true;
        self
    }

    /// Rounds q, k and v, all f16 or all bf16, of the shapes that there is room for. Returns before it is done, allocates
    /// nothing, waits for nothing, and may be recorded in a CUDA graph.
    ///
    /// # Errors
    /// What is wrong with the arguments (see [`enum@Error`]); nothing is launched then.
    pub fn round(
        &self,
        stream: &Stream,
        q: &impl AsTensorView,
        k: &impl AsTensorView,
        v: &impl AsTensorView,
    ) -> Result<()> {
        self.round_with(stream, Fp8Rounding::new(), q, k, v)
    }

    /// As [`Self::round`], in other ways.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn round_with(
        &self,
        stream: &Stream,
        how: Fp8Rounding<'_>,
        q: &impl AsTensorView,
        k: &impl AsTensorView,
        v: &impl AsTensorView,
    ) -> Result<()> {
        let views = [q.as_view(), k.as_view(), v.as_view()];
        let packed = how.sequences.packed()?;
        for (operand, expected, found) in
            [(Operand::Q, packed[0], self.packed[0]), (Operand::V, packed[1], self.packed[1])]
        {
            // No sequences at all have nothing to round.
            if found != expected && expected != Some(0) {
                return Err(Error::Fp8Packing { operand, expected, found });
            }
        }
        let shapes = [self.q.shape(), self.k.shape(), self.v.shape()];
        let dtype = views[0].dtype();
        let operands = [Operand::Q, Operand::K, Operand::V];
        let mut layouts = [*views[0].layout(); 3];
        for (i, (view, operand)) in views.iter().zip(operands).enumerate() {
            if view.dtype() != dtype {
                return Err(Error::DtypeMismatch { operand, expected: dtype, found: view.dtype() });
            }
            for (dim, expected, found) in sizes(shapes[i], view.shape()) {
                if found != expected {
                    return Err(Error::ShapeMismatch { operand, dim, expected, found });
                }
            }
            layouts[i] = check_layout(operand, view.layout().normalized())?;
            extent(operand, view.ptr(), view.bytes(), layouts[i].span_bytes()?, ALIGNMENT)?;
        }
        if packed.contains(&Some(0)) {
            return Ok(());
        }
        let parts = Parts::of(shapes, packed)?;
        let arrays = how.sequences.arrays(parts.sequences[0], parts.sequences[1]);
        lengths_of_arrays(&arrays)?;
        let params = self.params(&how, &parts, layouts, views.each_ref().map(|view| view.ptr()));
        if params.units == 0 {
            return Ok(());
        }
        let _entered = stream.device().backend().enter()?;
        let read = operands.into_iter().zip(&views).filter(|(_, view)| !view.shape().is_empty());
        let written = [
            (Operand::Q, self.q.view().ptr()),
            (Operand::K, self.k.view().ptr()),
            (Operand::V, self.v.view().ptr()),
        ];
        let written = written.into_iter().filter(|&(_, ptr)| ptr != 0);
        let read = read.map(|(operand, view)| (operand, view.ptr()));
        of_device(stream.device(), read.chain(written).chain(addresses_of_arrays(&arrays)))?;
        let asked = (dtype, self.q.view().kind(), self.rotates, how.rounding != Rounding::NEAREST);
        let wanted = |x: &&QuantizeVariant| (x.dtype, x.fp8, x.rotates, x.by_chance) == asked;
        let variant = QUANTIZE.iter().find(wanted).expect("all types have kernels");
        let resident = stream.device().properties().sm_count * variant.ctas_per_sm();
        let (symbol, grid) = (variant.symbol, params.units.div_ceil(QuantizeVariant::WARPS).min(resident));
        let with = |seeks, rounds, patience| QuantizeParams { seeks, rounds, patience, ..params };
        let launch = |symbol, grid, params: QuantizeParams| {
            // SAFETY: the parameters say where the memory of the views and of `self` is, which was checked.
            unsafe { stream.launch_quantize(symbol, grid, &params) }
        };
        if self.per_tensor {
            launch(symbol, grid, with(1, 0, 0))?;
            launch(FP8_LARGEST_OF_TENSORS.symbol, 3 * TENSOR_CTAS, params)?;
            launch(symbol, grid, with(0, 1, 0))
        } else {
            // A head of which not all is held at once is not worth waiting for; nor is one that takes most warps, if they
            // have much to compute, which all of them would do at the same time.
            let warps =
                grid * QuantizeVariant::WARPS / if variant.rotates || variant.by_chance { 2 } else { 1 };
            launch(symbol, grid, with(1, 1, if params.most_parts <= warps { PATIENCE } else { 0 }))
        }
    }

    /// Columns of q and k that are rotated together.
    fn rotation_block(&self) -> u32 {
        let [q, k] = [self.q.shape(), self.k.shape()].map(|shape| rotation_block(shape.head_dim as u32));
        q.min(k)
    }

    /// What the kernels are told.
    fn params(
        &self,
        how: &Fp8Rounding<'_>,
        parts: &Parts,
        layouts: [TensorLayout; 3],
        from: [u64; 3],
    ) -> QuantizeParams {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let row = |shape: Shape| shape.head_dim.next_multiple_of(FP8_STEP);
        let keys = crate::fp8::padded_keys(v.shape().seqlen, self.packed[1]);
        let [starts_q, starts_kv, used_q, used_kv] = how.sequences.addresses();
        let packed = [self.packed[0], self.packed[1], self.packed[1]];
        // Rows of q, k and transposed v, and how far apart heads are.
        let places = [
            (q.ptr(), row(q.shape()), q.shape().seqlen * row(q.shape()), q.descales()),
            (k.ptr(), row(k.shape()), k.shape().seqlen * row(k.shape()), k.descales()),
            (v.ptr(), keys, keys * v.shape().head_dim, v.descales()),
        ];
        let (mut heads, mut units) = (0, 0);
        let mut tensors = [EMPTY; 3];
        for (i, (to, to_row, to_head, descales)) in places.into_iter().enumerate() {
            let (shape, strides) = (layouts[i].shape, layouts[i].strides);
            let to_batch = shape.heads * to_head;
            let (batch, to_batch) = if packed[i].is_some() { (0, 0) } else { (strides.batch, to_batch) };
            tensors[i] = QuantizeTensor {
                from: from[i],
                strides_bytes: [batch, strides.seqlen, strides.heads]
                    .map(|stride| stride as u64 * u64::from(Dtype::SIZE)),
                to,
                to_batch: to_batch as u64,
                to_head: to_head as u64,
                to_row: to_row as u64,
                descales: descales.ptr(),
                rows: shape.seqlen as u32,
                units: parts.units[i] as u32,
                octets: (shape.head_dim / HEAD_DIM_STEP) as u32,
                row_shift: parts.row_shift[i],
                parts: Divisor::new(parts.of_head[i] as u32),
                column_parts: Divisor::new(parts.of_columns[i] as u32),
                heads: Divisor::new(shape.heads as u32),
                first_head: heads as u32,
            };
            heads += parts.sequences[i] * shape.heads;
            units += parts.units[i];
        }
        let maxima = self.told.view().ptr();
        let head_maxima = maxima + 4 * parts.maxima() as u64;
        let tensor_maxima = head_maxima + 4 * parts.heads as u64;
        let chain = tensor_maxima + 4 * 3 * u64::from(TENSOR_MAXIMA);
        QuantizeParams {
            tensors,
            starts: [starts_q, starts_kv],
            used: [used_q, used_kv],
            maxima,
            head_maxima,
            tensor_maxima: if self.per_tensor { tensor_maxima } else { 0 },
            chain,
            turns: chain + 4 * units as u64,
            most_parts: parts.most() as u32,
            units: units as u32,
            seeks: 0,
            rounds: 0,
            patience: 0,
            rotation_block: if self.rotates { self.rotation_block() } else { 0 },
            rounding: how.rounding,
        }
    }
}

const EMPTY: QuantizeTensor = QuantizeTensor {
    from: 0,
    strides_bytes: [0; 3],
    to: 0,
    to_batch: 0,
    to_head: 0,
    to_row: 0,
    descales: 0,
    rows: 0,
    units: 0,
    octets: 0,
    row_shift: 0,
    parts: Divisor::new(0),
    column_parts: Divisor::new(0),
    heads: Divisor::new(0),
    first_head: 0,
};

fn sizes(expected: Shape, found: Shape) -> [(Dim, usize, usize); 4] {
    [
        (Dim::Batch, expected.batch, found.batch),
        (Dim::Seqlen, expected.seqlen, found.seqlen),
        (Dim::Heads, expected.heads, found.heads),
        (Dim::HeadDim, expected.head_dim, found.head_dim),
    ]
}

/// How the rows of heads are cut into parts.
struct Parts {
    /// Sequences of q, k and v.
    sequences: [usize; 3],
    /// log2 of the rows that a warp reads at once.
    row_shift: [u32; 3],
    /// Parts of the same rows: of v, each has some of the columns.
    of_columns: [usize; 3],
    /// Parts of a head of q, k and v: of packed sequences, of one that is as long as they are on average.
    of_head: [usize; 3],
    /// Parts of all heads.
    units: [usize; 3],
    /// Heads of all sequences of all tensors.
    heads: usize,
}

impl Parts {
    fn of(shapes: [Shape; 3], [of_q, of_kv]: [Option<usize>; 2]) -> Result<Self> {
        let packed = [of_q, of_kv, of_kv];
        let (mut sequences, mut lengths) = ([0; 3], [0; 3]);
        let mut heads = 0usize;
        for (i, (shape, operand)) in shapes.into_iter().zip([Operand::Q, Operand::K, Operand::V]).enumerate()
        {
            let (head_dim, limit) = (shape.head_dim, MAX_FP8_HEAD_DIM);
            if !(HEAD_DIM_STEP..=limit).contains(&head_dim) || !head_dim.is_multiple_of(HEAD_DIM_STEP) {
                return Err(Error::HeadDim { head_dim, limit });
            }
            let limit = crate::MAX_DIM;
            for (dim, value) in
                [(Dim::Batch, shape.batch), (Dim::Seqlen, shape.seqlen), (Dim::Heads, shape.heads)]
            {
                if value > limit {
                    return Err(Error::DimensionTooLarge { operand, dim, value, limit });
                }
            }
            if packed[i].is_some() && shape.batch != 1 {
                let dim = Dim::Batch;
                return Err(Error::ShapeMismatch { operand, dim, expected: 1, found: shape.batch });
            }
            sequences[i] = packed[i].unwrap_or(shape.batch);
            lengths[i] = packed[i].map_or(shape.seqlen, |count| shape.seqlen.div_ceil(count.max(1)));
            heads = heads.saturating_add(sequences[i].saturating_mul(shape.heads));
        }
        let (mut row_shift, mut of_columns, mut of_head) = ([0; 3], [1; 3], [0; 3]);
        for (i, shape) in shapes.iter().enumerate() {
            // Lanes for whole octets of a row, a power of 2; the rest of the warp is for other rows.
            let octets = shape.head_dim / HEAD_DIM_STEP;
            let most = if i == 2 { QuantizeVariant::VALUE_OCTETS } else { LANES } as usize;
            of_columns[i] = octets.div_ceil(most);
            row_shift[i] = (LANES as usize / octets.next_power_of_two().min(most)).trailing_zeros();
            let rows = (QuantizeVariant::LANE_ROWS as usize) << row_shift[i];
            of_head[i] = lengths[i].div_ceil(rows).min(MOST_PARTS / of_columns[i]) * of_columns[i];
        }
        let mut units = [0; 3];
        for i in 0..3 {
            units[i] = sequences[i].saturating_mul(shapes[i].heads).saturating_mul(of_head[i]);
        }
        let all = units.iter().fold(heads, |all, &units| all.saturating_add(units));
        // So that there is room for the maxima, too, and their places are counted in u32.
        let most = of_head.into_iter().max().unwrap_or(0).max(1);
        let limit = MAX_UNITS / most.max(2);
        if all > limit {
            return Err(Error::TooManyTiles { tiles: all as u64, limit: limit as u64 });
        }
        Ok(Parts { sequences, row_shift, of_columns, of_head, units, heads })
    }

    /// How many numbers warps tell each other.
    fn told(&self) -> usize {
        let units: usize = self.units.iter().sum();
        self.maxima() + self.heads + 3 * TENSOR_MAXIMA as usize + units + Turns::COUNT
    }

    fn most(&self) -> usize {
        self.of_head.into_iter().max().unwrap_or(0)
    }

    /// How many maxima there are.
    fn maxima(&self) -> usize {
        self.heads * self.most()
    }
}

/// `attention` over q, k and v of 16 bits, all of one type, by way of e4m3: rounds them, and attends. The output is new,
/// of their type, in the order of `q`. Returns before it is computed.
///
/// It allocates memory, which takes longer than short sequences do. Who calls it again and again keeps an [`Fp8Qkv`] and
/// an output, and calls [`Fp8Qkv::round`] and [`Attention::forward_fp8_into`].
///
/// ```
/// use flashcore::{Attention, Device, Order, Shape, Tensor, attention_fp8};
/// use half::bf16;
///
/// # fn main() -> flashcore::Result<()> {
/// let device = Device::emulated(); // or Device::cuda(0)?
/// let ones = vec![bf16::ONE; 100 * 64];
/// let ones = Tensor::from_slice(&device, &ones, Shape::new(1, 100, 1, 64), Order::Bshd)?;
/// let out = attention_fp8(&Attention::new(), &device.stream()?, &ones, &ones, &ones)?;
/// assert_eq!(out.to_vec::<bf16>()?[0], bf16::ONE);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`Fp8Qkv::new`], [`Fp8Qkv::round`] and [`Attention::forward_fp8`].
pub fn attention_fp8(
    attention: &Attention<'_>,
    stream: &Stream,
    q: &impl AsTensorView,
    k: &impl AsTensorView,
    v: &impl AsTensorView,
) -> Result<Tensor> {
    let (q, k, v) = (q.as_view(), k.as_view(), v.as_view());
    let (sequences, shapes) = (attention.get_sequences(), [q.shape(), k.shape(), v.shape()]);
    let narrow = Fp8Qkv::for_sequences(stream.device(), Fp8::E4m3, shapes, sequences.packed()?)?;
    narrow.round_with(stream, Fp8Rounding::new().sequences(sequences), &q, &k, &v)?;
    let shape = Shape { head_dim: v.shape().head_dim, ..q.shape() };
    let out = Tensor::uninit(stream.device(), q.dtype(), shape, q.layout().order())?;
    attention.forward_fp8_into(stream, narrow.q.view(), narrow.k.view(), narrow.v.view(), &out, None)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;

    const Q: Shape = Shape::new(2, 30, 4, 64);
    const KV: Shape = Shape::new(2, 50, 2, 64);

    fn tensors(device: &Device) -> (Fp8Qkv, [Tensor; 3]) {
        let shapes = [Q, KV, KV];
        let wide = shapes.map(|shape| Tensor::zeros(device, Dtype::Bf16, shape, Order::Bshd).unwrap());
        (Fp8Qkv::new(device, Fp8::E4m3, shapes).unwrap(), wide)
    }

    #[test]
    fn kernels_are_told_how_to_round() {
        let (mock, device) = Mock::device();
        let (narrow, [q, k, v]) = tensors(&device);
        let stream = device.stream().unwrap();
        narrow.round(&stream, &q, &k, &v).unwrap();
        let rounding = Fp8Rounding::new().stochastic(0x0123_4567_89AB_CDEF, 7);
        narrow.round_with(&stream, rounding, &q, &k, &v).unwrap();
        let launches = &mock.state().launches;
        let symbols: Vec<_> = launches.iter().map(|launch| launch.symbol).collect();
        assert_eq!(symbols, ["fp8_round_bf16_e4m3", "fp8_round_bf16_e4m3_by_chance"]);
        let told = launches.iter().map(|launch| {
            let bytes = launch.params[0].last_chunk::<16>().unwrap();
            [0, 4, 8, 12].map(|at| u32::from_ne_bytes(bytes[at..][..4].try_into().unwrap()))
        });
        let by_chance = [0x89AB_CDEF, 0x0123_4567, 7, 1];
        assert_eq!(told.collect::<Vec<_>>(), [[0; 4], by_chance]);
    }

    #[test]
    fn descales_of_tensors_take_two_kernels_more() {
        let (mock, device) = Mock::device();
        let (narrow, [q, k, v]) = tensors(&device);
        narrow.per_tensor().round(&device.stream().unwrap(), &q, &k, &v).unwrap();
        let launches = &mock.state().launches;
        let told: Vec<_> = launches.iter().map(|launch| (launch.symbol, launch.grid[0])).collect();
        // Heads have one part each, for a warp: 8 of q, 4 of k and of v.
        let expected =
            [("fp8_round_bf16_e4m3", 4), ("fp8_largest_of_tensors", 96), ("fp8_round_bf16_e4m3", 4)];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_there_is_no_room_for_is_refused() {
        let (mock, device) = Mock::device();
        let (narrow, [q, k, v]) = tensors(&device);
        let stream = device.stream().unwrap();
        let both = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let by_chance = narrow.round_with(&stream, Fp8Rounding::new().stochastic(1, 0), q, k, v);
            assert_eq!(by_chance, narrow.round(&stream, q, k, v));
            by_chance.unwrap_err()
        };
        let (expected, found) = (Dtype::Bf16, Dtype::F16);
        let other = Tensor::zeros(&device, found, KV, Order::Bshd).unwrap();
        let error = Error::DtypeMismatch { operand: Operand::V, expected, found };
        assert_eq!(both(&q, &k, &other), error);
        let error = Error::ShapeMismatch { operand: Operand::K, dim: Dim::Seqlen, expected: 50, found: 30 };
        assert_eq!(both(&q, &q, &v), error);
        assert!(mock.state().launches.is_empty());
    }

    #[test]
    fn there_is_no_room_for_what_kernels_cannot_round() {
        let (_mock, device) = Mock::device();
        let new = |shapes| Fp8Qkv::new(&device, Fp8::E4m3, shapes).unwrap_err();
        for head_dim in [0, 4, 257, 264] {
            let error = Error::HeadDim { head_dim, limit: MAX_FP8_HEAD_DIM };
            assert_eq!(new([Q, KV, Shape { head_dim, ..KV }]), error);
        }
        let (dim, value, limit) = (Dim::Seqlen, crate::MAX_DIM + 1, crate::MAX_DIM);
        let error = Error::DimensionTooLarge { operand: Operand::K, dim, value, limit };
        assert_eq!(new([Q, Shape { seqlen: value, ..KV }, KV]), error);
        let many = Shape { batch: 1 << 16, heads: 1 << 16, ..Q };
        assert!(matches!(new([many, KV, KV]), Error::TooManyTiles { .. }));
    }
}
