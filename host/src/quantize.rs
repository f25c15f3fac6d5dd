//! q, k and v of 16 bits, rounded to 8: checks, plan, call.

use flashcore_kernels::divisor::Divisor;
use flashcore_kernels::entry::{
    FP8_LARGEST_OF_TENSORS, QUANTIZE, QuantizeVariant, TENSOR_CTAS, TENSOR_MAXIMA,
};
use flashcore_kernels::fp8::{VALUE_GROUP, rotation_block};
use flashcore_kernels::params::{QuantizeParams, QuantizeTensor};
use flashcore_kernels::rounding::Rounding;

use crate::array::Array;
use crate::check::{extent, of_device};
use crate::driver::Properties;
use crate::error::{Dim, Error, Operand, Result};
use crate::fp8::{Fp8Tensor, Fp8Values};
use crate::kernels::{Dtype, Fp8};
use crate::problem::{FP8_STEP, HEAD_DIM_STEP, MAX_FP8_HEAD_DIM, check_layout};
use crate::tensor::{AsTensorView, Order, Shape, Tensor, TensorLayout, TensorView};
use crate::tensor_map::ALIGNMENT;
use crate::{Attention, Device, Stream};

/// Parts of a head, at most: each has a largest number, and all parts read those of all.
const MOST_PARTS: usize = 32;
/// Rows of a part, at least.
const LEAST_ROWS: usize = 128;
/// Heads, and parts of heads, are counted in i32.
const MAX_UNITS: usize = i32::MAX as usize;

/// By which random numbers q, k and v are rounded: see [`Fp8Qkv::round_stochastic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StochasticRounding {
    seed: u64,
    offset: u32,
}

impl StochasticRounding {
    /// By the random numbers of `seed`.
    pub const fn new(seed: u64) -> Self {
        StochasticRounding { seed, offset: 0 }
    }

    /// Other random numbers of the same seed: say, those of a step or of a layer.
    pub const fn offset(self, offset: u32) -> Self {
        StochasticRounding { offset, ..self }
    }
}

/// q, k and v of 8 bits, and what it takes to round to them: device memory of its own, for as many calls as one likes.
///
/// Each head of each sequence has a descale, or [each tensor](Self::per_tensor): the least power of 2 with which its
/// largest number is no more than the format holds. [`Self::round`] is to nearest, ties to even;
/// [`Self::round_stochastic`] is right on average. Infinities become the largest number, NaN stays.
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
    maxima: Array<f32>,
    rotates: bool,
    per_tensor: bool,
}

impl Fp8Qkv {
    /// Room for q, k and v of these shapes.
    ///
    /// # Errors
    /// [`Error::HeadDim`], [`Error::DimensionTooLarge`], [`Error::TooManyTiles`], [`Error::ShapeOverflow`],
    /// [`Error::OutOfMemory`].
    pub fn new(device: &Device, kind: Fp8, [q, k, v]: [Shape; 3]) -> Result<Self> {
        let parts = Parts::of([q, k, v])?;
        Ok(Fp8Qkv {
            q: Fp8Tensor::uninit(device, kind, q, Order::Bhsd)?,
            k: Fp8Tensor::uninit(device, kind, k, Order::Bhsd)?,
            v: Fp8Values::uninit(device, kind, v)?,
            maxima: Array::uninit(device, parts.maxima() + 3 * TENSOR_MAXIMA as usize)?,
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
    /// that number. It takes another kernel between the two others.
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
        self.round_by(Rounding::NEAREST, stream, [q.as_view(), k.as_view(), v.as_view()])
    }

    /// As [`Self::round`], but each number becomes one of its two neighbours in the format, by chance: the upper one with the
    /// probability that its distance from the lower one is of that between both. So the expectation is the number itself,
    /// where to nearest it is off, always by as much. Probabilities are multiples of 2⁻¹⁶. What the format holds stays as
    /// it is. Numbers are rotated before, if they are.
    ///
    /// What becomes of a number follows from seed, offset, tensor, sequence, number of heads, head, row and column, and from
    /// nothing else: it is the same in every call and in all versions of this library; docs/fp8.md has the formula. A CUDA
    /// graph repeats the offset that was recorded.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn round_stochastic(
        &self,
        stream: &Stream,
        rounding: StochasticRounding,
        q: &impl AsTensorView,
        k: &impl AsTensorView,
        v: &impl AsTensorView,
    ) -> Result<()> {
        let StochasticRounding { seed, offset } = rounding;
        self.round_by(Rounding::stochastic(seed, offset), stream, [q.as_view(), k.as_view(), v.as_view()])
    }

    fn round_by(&self, rounding: Rounding, stream: &Stream, views: [TensorView<'_>; 3]) -> Result<()> {
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
        let params = self.params(rounding, layouts, views.each_ref().map(|view| view.ptr()))?;
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
        of_device(stream.device(), read.map(|(operand, view)| (operand, view.ptr())).chain(written))?;
        let grid = grid(&params, stream.device().properties());
        let symbol = |fp8| {
            let variant = QUANTIZE.iter().find(|variant| variant.dtype == dtype && variant.fp8 == fp8);
            variant.expect("all types have kernels").symbol
        };
        let of_tensors = self.per_tensor.then_some((FP8_LARGEST_OF_TENSORS.symbol, 3 * TENSOR_CTAS));
        let (first, last) = ((symbol(None), grid), (symbol(Some(self.q.view().kind())), grid));
        for (symbol, grid) in [Some(first), of_tensors, Some(last)].into_iter().flatten() {
            // SAFETY: the parameters say where the memory of the views and of `self` is, which was checked.
            unsafe { stream.launch_quantize(symbol, grid, &params)? };
        }
        Ok(())
    }

    /// Columns of q and k that are rotated together.
    fn rotation_block(&self) -> u32 {
        let [q, k] = [self.q.shape(), self.k.shape()].map(|shape| rotation_block(shape.head_dim as u32));
        q.min(k)
    }

    /// What the kernels are told.
    fn params(
        &self,
        rounding: Rounding,
        layouts: [TensorLayout; 3],
        from: [u64; 3],
    ) -> Result<QuantizeParams> {
        let parts = Parts::of(layouts.map(|layout| layout.shape))?;
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let row = |shape: Shape| shape.head_dim.next_multiple_of(FP8_STEP);
        let keys = crate::fp8::padded_keys(v.shape().seqlen);
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
            tensors[i] = QuantizeTensor {
                from: from[i],
                strides_bytes: [strides.batch, strides.seqlen, strides.heads]
                    .map(|stride| stride as u64 * u64::from(Dtype::SIZE)),
                to,
                to_row: to_row as u64,
                to_head: to_head as u64,
                descales: descales.ptr(),
                rows: shape.seqlen as u32,
                units: parts.units[i] as u32,
                parts: Divisor::new(parts.of_head[i] as u32),
                heads: Divisor::new(shape.heads as u32),
                groups: Divisor::new((shape.head_dim / HEAD_DIM_STEP) as u32),
                first_head: heads as u32,
            };
            heads += shape.batch * shape.heads;
            units += parts.units[i];
        }
        let maxima = self.maxima.view().ptr();
        Ok(QuantizeParams {
            tensors,
            maxima,
            tensor_maxima: if self.per_tensor { maxima + 4 * parts.maxima() as u64 } else { 0 },
            most_parts: parts.most() as u32,
            part_rows: parts.rows as u32,
            units: units as u32,
            rotation_block: if self.rotates { self.rotation_block() } else { 0 },
            rounding,
        })
    }
}

const EMPTY: QuantizeTensor = QuantizeTensor {
    from: 0,
    strides_bytes: [0; 3],
    to: 0,
    to_row: 0,
    to_head: 0,
    descales: 0,
    rows: 0,
    units: 0,
    parts: Divisor::new(0),
    heads: Divisor::new(0),
    groups: Divisor::new(0),
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

fn grid(params: &QuantizeParams, device: &Properties) -> u32 {
    params.units.min(device.sm_count * QuantizeVariant::CTAS_PER_SM)
}

/// How the rows of heads are cut into parts.
struct Parts {
    /// Rows of a part.
    rows: usize,
    /// Parts of a head of q, k and v.
    of_head: [usize; 3],
    /// Parts of all heads.
    units: [usize; 3],
    /// Heads of all sequences of all tensors.
    heads: usize,
}

impl Parts {
    fn of(shapes: [Shape; 3]) -> Result<Self> {
        let mut heads = 0usize;
        for (shape, operand) in shapes.into_iter().zip([Operand::Q, Operand::K, Operand::V]) {
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
            heads = heads.saturating_add(shape.batch * shape.heads);
        }
        let longest = shapes.map(|shape| shape.seqlen).into_iter().max().unwrap_or(0);
        let rows = longest.div_ceil(MOST_PARTS).next_multiple_of(VALUE_GROUP as usize).max(LEAST_ROWS);
        let of_head = shapes.map(|shape| shape.seqlen.div_ceil(rows));
        let mut units = [0; 3];
        for (units, (shape, parts)) in units.iter_mut().zip(shapes.into_iter().zip(of_head)) {
            *units = (shape.batch * shape.heads).saturating_mul(parts);
        }
        let all = units.iter().fold(heads, |all, &units| all.saturating_add(units));
        // So that there is room for the maxima, too, and their places are counted in u32.
        let limit = MAX_UNITS / (MOST_PARTS * QuantizeVariant::WARPS as usize);
        if all > limit {
            return Err(Error::TooManyTiles { tiles: all as u64, limit: limit as u64 });
        }
        Ok(Parts { rows, of_head, units, heads })
    }

    fn most(&self) -> usize {
        self.of_head.into_iter().max().unwrap_or(0)
    }

    /// How many maxima there are.
    fn maxima(&self) -> usize {
        self.heads * self.most() * QuantizeVariant::WARPS as usize
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
    let narrow = Fp8Qkv::new(stream.device(), Fp8::E4m3, [q.shape(), k.shape(), v.shape()])?;
    narrow.round(stream, &q, &k, &v)?;
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
        let rounding = StochasticRounding::new(0x0123_4567_89AB_CDEF).offset(7);
        narrow.round_stochastic(&stream, rounding, &q, &k, &v).unwrap();
        let launches = &mock.state().launches;
        let symbols: Vec<_> = launches.iter().map(|launch| launch.symbol).collect();
        assert_eq!(symbols, ["fp8_largest_bf16", "fp8_round_bf16_e4m3"].repeat(2));
        let told = launches.iter().map(|launch| {
            let bytes = launch.params[0].last_chunk::<16>().unwrap();
            [0, 4, 8, 12].map(|at| u32::from_ne_bytes(bytes[at..][..4].try_into().unwrap()))
        });
        let by_chance = [0x89AB_CDEF, 0x0123_4567, 7, 1];
        assert_eq!(told.collect::<Vec<_>>(), [[0; 4], [0; 4], by_chance, by_chance]);
    }

    #[test]
    fn descales_of_tensors_take_a_kernel_more() {
        let (mock, device) = Mock::device();
        let (narrow, [q, k, v]) = tensors(&device);
        narrow.per_tensor().round(&device.stream().unwrap(), &q, &k, &v).unwrap();
        let launches = &mock.state().launches;
        let told: Vec<_> = launches.iter().map(|launch| (launch.symbol, launch.grid[0])).collect();
        // A part has 128 rows: 8 heads of q, 4 of k and of v.
        let expected =
            [("fp8_largest_bf16", 16), ("fp8_largest_of_tensors", 96), ("fp8_round_bf16_e4m3", 16)];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_there_is_no_room_for_is_refused() {
        let (mock, device) = Mock::device();
        let (narrow, [q, k, v]) = tensors(&device);
        let stream = device.stream().unwrap();
        let both = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let by_chance = narrow.round_stochastic(&stream, StochasticRounding::new(1), q, k, v);
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
