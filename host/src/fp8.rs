//! Attention over q, k and v of 8 bits.

use std::ops::Range;

use flashcore_kernels::fp8::{VALUE_GAP, VALUE_GROUP, first_value_group, value_position};

use crate::array::{Array, ArrayView};
use crate::attention::pointers_of;
use crate::check::{addresses_of_arrays, apart, apart_from_arrays, extent, lengths_of_arrays, of_device};
use crate::error::{Dim, Error, Operand, Result};
use crate::kernels::{Dtype, Fp8};
use crate::lse::LseView;
use crate::memory::Memory;
use crate::plan::{Plan, Pointers};
use crate::problem::{FP8_STEP, Fp8Layouts, Problem};
use crate::tensor::{AsTensorView, Order, Shape, Strides, Tensor, TensorLayout, TensorView};
use crate::tensor_map::ALIGNMENT;
use crate::{Attention, Device, Stream};

/// Types of elements of 8 bits.
pub trait Fp8Element: bytemuck::Pod {
    /// The same type as a value.
    const KIND: Fp8;
}

impl Fp8Element for float8::F8E4M3 {
    const KIND: Fp8 = Fp8::E4m3;
}

impl Fp8Element for float8::F8E5M2 {
    const KIND: Fp8 = Fp8::E5m2;
}

/// q or k of 8 bits in device memory that somebody else owns: (batch, seqlen, heads, head_dim), of which each element
/// stands for itself times its head's descale. Packed sequences lie in a batch of 1, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fp8View<'a> {
    ptr: u64,
    bytes: usize,
    kind: Fp8,
    shape: Shape,
    strides: Strides,
    descales: ArrayView<'a, f32>,
}

impl<'a> Fp8View<'a> {
    /// A tensor at device address `ptr`, behind which `bytes` bytes are allocated. Strides are in elements, multiples of
    /// [`FP8_STEP`]. `descales` are (sequences, heads), contiguous, or a single one for all; finite and positive, which
    /// nobody checks.
    ///
    /// # Safety
    /// As of [`TensorView::from_raw_parts`].
    pub const unsafe fn from_raw_parts(
        ptr: u64,
        bytes: usize,
        kind: Fp8,
        shape: Shape,
        strides: Strides,
        descales: ArrayView<'a, f32>,
    ) -> Self {
        Fp8View { ptr, bytes, kind, shape, strides, descales }
    }

    /// Device address of the first element.
    pub const fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Element type.
    pub const fn kind(&self) -> Fp8 {
        self.kind
    }

    /// Sizes.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// What elements are multiplied with.
    pub const fn descales(&self) -> ArrayView<'a, f32> {
        self.descales
    }
}

/// v of 8 bits in device memory that somebody else owns, transposed: (batch, heads, head_dim, keys), of which each
/// element stands for itself times its head's descale.
///
/// Rows have as many keys as the sequence, rounded up to whole groups of 16; what is beyond the sequence is zeros.
/// Within each group, key `8 u + 2 t + c` is at position `4 t + 2 u + c` (u, c: 0 or 1; t: 0 to 3). That is the order in
/// which tensor cores take probabilities from the threads that computed them. [`Fp8Values::from_slice`] makes it on the
/// host.
///
/// Packed sequences each begin a group: number b, whose keys begin with key s, with position `(s + 15 b) / 16 * 16` of
/// the row, which has room for all of them and for 15 positions more of each, rounded up to whole groups. What is beyond
/// the keys of a sequence in its last group must be numbers that are finite, as what is beyond those that count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fp8ValuesView<'a> {
    ptr: u64,
    bytes: usize,
    kind: Fp8,
    shape: Shape,
    sequences: Option<usize>,
    descales: ArrayView<'a, f32>,
}

impl<'a> Fp8ValuesView<'a> {
    /// Values at device address `ptr`, without gaps, behind which `bytes` bytes are allocated. `shape` is (batch,
    /// seqlen, heads, head_dim), as if they were not transposed; `descales` are as those of [`Fp8View`]. Sequences are of
    /// one length: see [`Self::packed`].
    ///
    /// # Safety
    /// As of [`TensorView::from_raw_parts`].
    pub const unsafe fn from_raw_parts(
        ptr: u64,
        bytes: usize,
        kind: Fp8,
        shape: Shape,
        descales: ArrayView<'a, f32>,
    ) -> Self {
        Fp8ValuesView { ptr, bytes, kind, shape, sequences: None, descales }
    }

    /// The same as so many packed sequences.
    pub const fn packed(self, sequences: usize) -> Self {
        Fp8ValuesView { sequences: Some(sequences), ..self }
    }

    /// Device address of the first element.
    pub const fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Element type.
    pub const fn kind(&self) -> Fp8 {
        self.kind
    }

    /// Sizes, as if they were not transposed.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// What elements are multiplied with.
    pub const fn descales(&self) -> ArrayView<'a, f32> {
        self.descales
    }
}

/// Positions of a row of transposed values of `keys` keys, of so many packed sequences if they are packed.
pub(crate) const fn padded_keys(keys: usize, sequences: Option<usize>) -> usize {
    let gaps = match sequences {
        Some(sequences) => sequences.saturating_mul(VALUE_GAP as usize),
        None => 0,
    };
    // So that what follows does not overflow. `values_bytes` refuses it.
    let keys = keys.saturating_add(gaps);
    if keys > crate::MAX_DIM { usize::MAX } else { keys.next_multiple_of(VALUE_GROUP as usize) }
}

/// Transposed values as a tensor of which the columns are positions, and keys columns.
fn values_layout(shape: Shape, sequences: Option<usize>) -> TensorLayout {
    let Shape { batch, seqlen, heads, head_dim } = shape;
    let memory = Shape { batch, seqlen: head_dim, heads, head_dim: padded_keys(seqlen, sequences) };
    TensorLayout::packed(Dtype::F16, memory, Order::Bhsd)
}

/// q or k of 8 bits with device memory of its own: see [`Fp8View`].
#[derive(Debug)]
pub struct Fp8Tensor {
    memory: Memory,
    kind: Fp8,
    shape: Shape,
    strides: Strides,
    descales: Array<f32>,
}

impl Fp8Tensor {
    /// Room for a tensor and a descale of each head; rows are as long as the next multiple of [`FP8_STEP`].
    ///
    /// # Errors
    /// [`Error::ShapeOverflow`], [`Error::OutOfMemory`].
    pub fn uninit(device: &Device, kind: Fp8, shape: Shape, order: Order) -> Result<Self> {
        Fp8Tensor::room(device, kind, shape, order, shape.batch)
    }

    /// The same with a descale of each head of so many sequences.
    pub(crate) fn room(
        device: &Device,
        kind: Fp8,
        shape: Shape,
        order: Order,
        sequences: usize,
    ) -> Result<Self> {
        let wide = Shape { head_dim: shape.head_dim.next_multiple_of(FP8_STEP), ..shape };
        let bytes = wide.elements().filter(|&bytes| isize::try_from(bytes).is_ok());
        let memory = Memory::new(device, bytes.ok_or(Error::ShapeOverflow { shape })?)?;
        let descales = Array::uninit(device, sequences * shape.heads)?;
        Ok(Fp8Tensor { memory, kind, shape, strides: order.strides(wide), descales })
    }

    /// A tensor without gaps from host data in memory order, and its descales: one for each head of each sequence,
    /// (batch, heads), or of packed ones (sequences, heads), or one for all. head_dim must be a multiple of [`FP8_STEP`],
    /// or calls will refuse it.
    ///
    /// # Errors
    /// [`Error::DataLength`], [`Error::ArrayLength`], [`Error::Descale`], [`Error::ShapeOverflow`], [`Error::OutOfMemory`].
    pub fn from_slice<T: Fp8Element>(
        device: &Device,
        data: &[T],
        shape: Shape,
        order: Order,
        descales: &[f32],
    ) -> Result<Self> {
        check_data(data.len(), shape, descales, Operand::DescaleQ)?;
        Ok(Fp8Tensor {
            memory: Memory::from_bytes(device, bytemuck::cast_slice(data))?,
            kind: T::KIND,
            shape,
            strides: order.strides(shape),
            descales: Array::from_slice(device, descales)?,
        })
    }

    /// This tensor, borrowed.
    pub fn view(&self) -> Fp8View<'_> {
        Fp8View {
            ptr: self.memory.ptr(),
            bytes: self.memory.bytes(),
            kind: self.kind,
            shape: self.shape,
            strides: self.strides,
            descales: self.descales.view(),
        }
    }

    /// The bytes of the memory, gaps included. Waits for all work of the device.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.memory.to_vec()
    }

    /// The descales, (sequences, heads). Waits for all work of the device.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn descales(&self) -> Result<Vec<f32>> {
        self.descales.to_vec()
    }

    /// Sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Distances, in elements.
    pub fn strides(&self) -> Strides {
        self.strides
    }
}

/// v of 8 bits with device memory of its own: see [`Fp8ValuesView`].
#[derive(Debug)]
pub struct Fp8Values {
    memory: Memory,
    kind: Fp8,
    shape: Shape,
    sequences: Option<usize>,
    descales: Array<f32>,
}

impl Fp8Values {
    /// Room for values of `shape`, (batch, seqlen, heads, head_dim), and a descale of each head.
    ///
    /// # Errors
    /// [`Error::ShapeOverflow`], [`Error::OutOfMemory`].
    pub fn uninit(device: &Device, kind: Fp8, shape: Shape) -> Result<Self> {
        Fp8Values::room(device, kind, shape, None)
    }

    /// The same for so many packed sequences, if they are packed.
    pub(crate) fn room(device: &Device, kind: Fp8, shape: Shape, sequences: Option<usize>) -> Result<Self> {
        let memory = Memory::new(device, values_bytes(shape, sequences)?)?;
        let descales = Array::uninit(device, sequences.unwrap_or(shape.batch) * shape.heads)?;
        Ok(Fp8Values { memory, kind, shape, sequences, descales })
    }

    /// Values from host data in memory order, which are transposed here, and their descales: one for each head of each
    /// sequence, (batch, heads), or one for all.
    ///
    /// # Errors
    /// As [`Fp8Tensor::from_slice`].
    pub fn from_slice<T: Fp8Element>(
        device: &Device,
        data: &[T],
        shape: Shape,
        order: Order,
        descales: &[f32],
    ) -> Result<Self> {
        let places = (0..shape.batch).map(|batch| (batch, 0..shape.seqlen, 0));
        Fp8Values::transposed(device, data, shape, order, None, places, descales)
    }

    /// The same of packed sequences, in a batch of 1: number b has the keys from `starts[b]` to before `starts[b + 1]`,
    /// as far as there are such, and descales are (sequences, heads), or one for all.
    ///
    /// # Errors
    /// As [`Self::from_slice`], and [`Error::NoStarts`], [`Error::ShapeMismatch`].
    pub fn from_slice_packed<T: Fp8Element>(
        device: &Device,
        data: &[T],
        shape: Shape,
        order: Order,
        starts: &[u32],
        descales: &[f32],
    ) -> Result<Self> {
        let operand = Operand::StartsKv;
        let sequences = starts.len().checked_sub(1).ok_or(Error::NoStarts { operand })?;
        if shape.batch != 1 {
            let (operand, dim) = (Operand::V, Dim::Batch);
            return Err(Error::ShapeMismatch { operand, dim, expected: 1, found: shape.batch });
        }
        let places = starts.windows(2).enumerate().map(|(batch, ends)| {
            let [start, end] = [ends[0], ends[1]].map(|end| shape.seqlen.min(end as usize));
            let first = first_value_group(start as u32, batch as u32, VALUE_GAP) * VALUE_GROUP;
            (0, start..end, first as usize)
        });
        Fp8Values::transposed(device, data, shape, order, Some(sequences), places, descales)
    }

    /// Keys of sequences of the batch, and the position of the first.
    fn transposed<T: Fp8Element>(
        device: &Device,
        data: &[T],
        shape: Shape,
        order: Order,
        sequences: Option<usize>,
        places: impl Iterator<Item = (usize, Range<usize>, usize)>,
        descales: &[f32],
    ) -> Result<Self> {
        check_data(data.len(), shape, descales, Operand::DescaleV)?;
        check_count(Operand::DescaleV, descales.len(), sequences.unwrap_or(shape.batch), shape.heads)?;
        let (from, row) = (order.strides(shape), padded_keys(shape.seqlen, sequences));
        let mut transposed = vec![0u8; values_bytes(shape, sequences)?];
        let data: &[u8] = bytemuck::cast_slice(data);
        for (batch, keys, first) in places {
            for line in 0..shape.heads * shape.head_dim {
                let (head, column) = (line / shape.head_dim, line % shape.head_dim);
                let at = batch * from.batch + head * from.heads + column;
                let to = (batch * shape.heads * shape.head_dim + line) * row + first;
                for (i, key) in keys.clone().enumerate() {
                    transposed[to + value_position(i as u32) as usize] = data[at + key * from.seqlen];
                }
            }
        }
        let memory = Memory::from_bytes(device, &transposed)?;
        let descales = Array::from_slice(device, descales)?;
        Ok(Fp8Values { memory, kind: T::KIND, shape, sequences, descales })
    }

    /// These values, borrowed.
    pub fn view(&self) -> Fp8ValuesView<'_> {
        Fp8ValuesView {
            ptr: self.memory.ptr(),
            bytes: self.memory.bytes(),
            kind: self.kind,
            shape: self.shape,
            sequences: self.sequences,
            descales: self.descales.view(),
        }
    }

    /// The bytes of the memory: (batch, heads, head_dim, keys). Waits for all work of the device.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.memory.to_vec()
    }

    /// The descales, (sequences, heads). Waits for all work of the device.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn descales(&self) -> Result<Vec<f32>> {
        self.descales.to_vec()
    }

    /// Sizes, as if they were not transposed.
    pub fn shape(&self) -> Shape {
        self.shape
    }
}

/// Elements from the first to the last, which are as many bytes.
fn elements(layout: &TensorLayout) -> Result<usize> {
    layout.span().ok_or(Error::ShapeOverflow { shape: layout.shape })
}

fn values_bytes(shape: Shape, sequences: Option<usize>) -> Result<usize> {
    let padded = Shape { seqlen: padded_keys(shape.seqlen, sequences), ..shape };
    let bytes = padded.elements().filter(|&bytes| isize::try_from(bytes).is_ok());
    bytes.ok_or(Error::ShapeOverflow { shape })
}

/// Host data and descales are as many as the shape says, and descales are usable. A batch of 1 may have packed sequences.
fn check_data(found: usize, shape: Shape, descales: &[f32], operand: Operand) -> Result<()> {
    let expected = shape.elements().ok_or(Error::ShapeOverflow { shape })?;
    if found != expected {
        return Err(Error::DataLength { expected, found });
    }
    if shape.batch != 1 || !descales.len().is_multiple_of(shape.heads) {
        check_count(operand, descales.len(), shape.batch, shape.heads)?;
    }
    match descales.iter().find(|descale| !(descale.is_normal() && **descale > 0.0)) {
        Some(&descale) => Err(Error::Descale { operand, descale }),
        None => Ok(()),
    }
}

/// There is a descale of each head, or one.
fn check_count(operand: Operand, found: usize, sequences: usize, heads: usize) -> Result<bool> {
    let expected = sequences.saturating_mul(heads);
    match found {
        _ if found == expected => Ok(true),
        1 => Ok(false),
        _ => Err(Error::ArrayLength { operand, expected, found }),
    }
}

impl Attention<'_> {
    /// Attention over q, k and v of 8 bits, into a new tensor of type `dtype`, in the order of `q`. Returns before it is
    /// computed.
    ///
    /// Scores, softmax and sums are f32. Weights are rounded to e4m3, whatever q, k and v are: relative to the largest of
    /// their row, those between 2⁻¹⁴ and 1 keep 4 bits, and smaller ones fewer.
    ///
    /// head_dim is a multiple of 8 up to [`crate::MAX_FP8_HEAD_DIM`]; what goes with it is [`Self::causal`],
    /// [`Self::scale`] and, if elements are e4m3, [`Self::window`], [`Self::align`], [`Self::chunk`], [`Self::prefix`],
    /// [`Self::softcap`], [`Self::sinks`] and [`Self::sequences`].
    ///
    /// # Errors
    /// As [`Self::forward_fp8_into`], and [`Error::OutOfMemory`].
    pub fn forward_fp8(
        &self,
        stream: &Stream,
        q: Fp8View<'_>,
        k: Fp8View<'_>,
        v: Fp8ValuesView<'_>,
        dtype: Dtype,
    ) -> Result<Tensor> {
        let shape = Shape { head_dim: v.shape.head_dim, ..q.shape };
        let order = TensorLayout { dtype, shape, strides: q.strides }.order();
        let out = Tensor::uninit(stream.device(), dtype, shape, order)?;
        self.forward_fp8_into(stream, q, k, v, &out, None)?;
        Ok(out)
    }

    /// As [`Self::forward_fp8`], and the log-sum-exp if asked for, into memory of the caller's. Allocates nothing, waits
    /// for nothing, and may be recorded in a CUDA graph.
    ///
    /// # Errors
    /// What is wrong with the arguments (see [`enum@Error`]); nothing is launched then.
    pub fn forward_fp8_into(
        &self,
        stream: &Stream,
        q: Fp8View<'_>,
        k: Fp8View<'_>,
        v: Fp8ValuesView<'_>,
        out: &impl AsTensorView,
        lse: Option<LseView<'_>>,
    ) -> Result<()> {
        let out = out.as_view();
        let problem = self.fp8_problem(q, k, v, &out, lse)?;
        let plan = Plan::new(&problem, stream.device().properties())?;
        if plan.grid == 0 {
            return Ok(());
        }
        let _entered = stream.device().backend().enter()?;
        let arrays = self.arrays(&problem);
        let pointers = Pointers {
            q: q.ptr,
            k: k.ptr,
            v: v.ptr,
            out: out.ptr(),
            lse: lse.map_or(0, |lse| lse.ptr()),
            descales: [q.descales, k.descales, v.descales].map(|array| array.ptr()),
            ..pointers_of(&arrays)
        };
        let addresses = named(&pointers, !k.shape.is_empty()).chain(addresses_of_arrays(&arrays));
        of_device(stream.device(), addresses)?;
        // SAFETY: the problem was checked against the views, whose makers vouch for the memory.
        unsafe { stream.launch_plan(&plan, &pointers) }
    }

    /// Checks the arguments of [`Self::forward_fp8_into`], except which device their memory is of.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn fp8_problem(
        &self,
        q: Fp8View<'_>,
        k: Fp8View<'_>,
        v: Fp8ValuesView<'_>,
        out: &TensorView<'_>,
        lse: Option<LseView<'_>>,
    ) -> Result<Problem> {
        for (operand, found) in [(Operand::K, k.kind), (Operand::V, v.kind)] {
            if found != q.kind {
                return Err(Error::Fp8Mismatch { operand, expected: q.kind, found });
            }
        }
        let dtype = out.dtype();
        let rows = |view: &Fp8View<'_>| TensorLayout { dtype, shape: view.shape, strides: view.strides };
        let layouts = [rows(&q), rows(&k), TensorLayout::packed(dtype, v.shape, Order::Bshd), *out.layout()];
        let descales = [
            (Operand::DescaleQ, q.descales, q.shape),
            (Operand::DescaleK, k.descales, k.shape),
            (Operand::DescaleV, v.descales, v.shape),
        ];
        let features = self.features(q.shape.heads)?;
        let packed = [features.packed_q, features.packed_kv, features.packed_kv];
        let mut per_head = [false; 3];
        for (i, (operand, array, shape)) in descales.into_iter().enumerate() {
            // Those of the tensor itself: who has other sequences than q is told so.
            let sequences = packed[i].unwrap_or(shape.batch);
            per_head[i] = sequences == 0 || check_count(operand, array.len(), sequences, shape.heads)?;
        }
        let values = values_bytes(v.shape, v.sequences)?;
        let fp8 = Fp8Layouts {
            kind: q.kind,
            values: values_layout(v.shape, v.sequences),
            packed: v.sequences,
            per_head,
        };
        let problem = Problem::with_fp8(layouts, fp8, features, self.scale)?;
        let inputs = [
            (Operand::Q, &extent(Operand::Q, q.ptr, q.bytes, elements(&problem.q)?, ALIGNMENT)?),
            (Operand::K, &extent(Operand::K, k.ptr, k.bytes, elements(&problem.k)?, ALIGNMENT)?),
            (Operand::V, &extent(Operand::V, v.ptr, v.bytes, values, ALIGNMENT)?),
        ];
        let mut outputs = vec![(
            Operand::Out,
            extent(Operand::Out, out.ptr(), out.bytes(), problem.out.span_bytes()?, ALIGNMENT)?,
        )];
        if let Some(lse) = lse {
            let lse = extent(Operand::Lse, lse.ptr(), lse.bytes(), problem.lse_bytes()?, 4)?;
            apart((Operand::Lse, &lse), &[(Operand::Out, &outputs[0].1)])?;
            outputs.push((Operand::Lse, lse));
        }
        let arrays = self.arrays(&problem);
        lengths_of_arrays(&arrays)?;
        for (operand, output) in &outputs {
            apart((*operand, output), &inputs)?;
            apart_from_arrays((*operand, output), &arrays)?;
            for (other, array, _) in descales {
                let used = extent(other, array.ptr(), 4 * array.len(), 4 * array.len(), 4)?;
                apart((*operand, output), &[(other, &used)])?;
            }
        }
        Ok(problem)
    }
}

/// Every address of a launch that is used, and whose it is.
fn named(pointers: &Pointers, keys: bool) -> impl Iterator<Item = (Operand, u64)> {
    let Pointers { q, k, v, out, lse, descales: [of_q, of_k, of_v], .. } = *pointers;
    let always = [(Operand::Q, q), (Operand::Out, out), (Operand::DescaleQ, of_q)];
    let of_keys = [(Operand::K, k), (Operand::V, v), (Operand::DescaleK, of_k), (Operand::DescaleV, of_v)];
    let lse = (lse != 0).then_some((Operand::Lse, lse));
    always.into_iter().chain(of_keys.into_iter().filter(move |_| keys)).chain(lse)
}

#[cfg(test)]
mod tests {
    use float8::F8E4M3;

    use super::*;
    use crate::mock::Mock;
    use crate::{Dropout, Lse, Sequences};

    const Q: Shape = Shape::new(2, 30, 4, 64);
    const KV: Shape = Shape::new(2, 50, 2, 64);

    fn tensors(device: &Device) -> (Fp8Tensor, Fp8Tensor, Fp8Values, Tensor) {
        (
            Fp8Tensor::uninit(device, Fp8::E4m3, Q, Order::Bshd).unwrap(),
            Fp8Tensor::uninit(device, Fp8::E4m3, KV, Order::Bhsd).unwrap(),
            Fp8Values::uninit(device, Fp8::E4m3, KV).unwrap(),
            Tensor::zeros(device, Dtype::Bf16, Q, Order::Bshd).unwrap(),
        )
    }

    #[test]
    fn a_call_launches_a_kernel_of_8_bits() {
        let (mock, device) = Mock::device();
        let (q, k, v, out) = tensors(&device);
        let lse = Lse::new(&device, 2, 4, 30).unwrap();
        let stream = device.stream().unwrap();
        let call = Attention::new().causal(true);
        call.forward_fp8_into(&stream, q.view(), k.view(), v.view(), &out, Some(lse.view())).unwrap();
        let symbol = mock.state().launches[0].symbol;
        assert!(symbol.starts_with("fwd_hd64") && symbol.ends_with("_e4m3_bf16_causal"), "{symbol}");
    }

    #[test]
    fn e5m2_has_plain_kernels() {
        let (mock, device) = Mock::device();
        let (q, k, v, out) = tensors(&device);
        let stream = device.stream().unwrap();
        let kind = Fp8::E5m2;
        let call = |attention: Attention<'_>| {
            let (q, k) = (Fp8View { kind, ..q.view() }, Fp8View { kind, ..k.view() });
            attention.forward_fp8_into(&stream, q, k, Fp8ValuesView { kind, ..v.view() }, &out, None)
        };
        let (plain, sinks) = (Attention::new(), Array::from_slice(&device, &[0.5f32; 4]).unwrap());
        for (attention, suffix) in [(plain, ""), (plain.causal(true), "_causal")] {
            call(attention).unwrap();
            let symbol = mock.state().launches.last().unwrap().symbol;
            let suffix = format!("_e5m2_bf16{suffix}");
            assert!(symbol.starts_with("fwd_hd64") && symbol.ends_with(&suffix), "{symbol}");
        }
        let sinks = sinks.view();
        for attention in
            [plain.window(Some(3), None), plain.softcap(5.0), plain.chunk(16), plain.sinks(sinks)]
        {
            assert_eq!(call(attention), Err(Error::Fp8Features));
        }
        assert_eq!(mock.state().launches.len(), 2);
    }

    #[test]
    fn features_launch_the_kernels_for_bands() {
        let (mock, device) = Mock::device();
        let (q, k, v, out) = tensors(&device);
        let stream = device.stream().unwrap();
        let sinks = Array::from_slice(&device, &[0.5f32; 4]).unwrap();
        let plain = Attention::new();
        for (call, suffix) in [
            (plain.window(Some(3), None), "_band"),
            (plain.causal(true).sinks(sinks.view()), "_band"),
            (plain.softcap(5.0).chunk(16), "_band_softcap"),
            (plain.approximate_softcap(5.0), "_band_softcap"),
        ] {
            call.forward_fp8_into(&stream, q.view(), k.view(), v.view(), &out, None).unwrap();
            let symbol = mock.state().launches.last().unwrap().symbol;
            assert!(
                symbol.starts_with("fwd_hd64") && symbol.ends_with(&format!("_e4m3_bf16{suffix}")),
                "{symbol}"
            );
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let (mock, device) = Mock::device();
        let (q, k, v, out) = tensors(&device);
        let (q, k, v) = (q.view(), k.view(), v.view());
        let stream = device.stream().unwrap();
        let call = |attention: Attention<'_>, q, k, v| {
            attention.forward_fp8_into(&stream, q, k, v, &out, None).unwrap_err()
        };
        let plain = Attention::new();
        let starts = Array::from_slice(&device, &[0i32, 10, 30]).unwrap();
        assert_eq!(call(plain.dropout(Dropout::new(0.5, 1)), q, k, v), Error::Fp8Features);
        // Of two packed sequences, k would lie in a batch of 1, and v otherwise.
        let packed = plain.sequences(Sequences::new().starts_kv(starts.view()));
        let operand = Operand::V;
        let error = Error::Fp8Packing { operand, expected: Some(2), found: None };
        assert_eq!(call(packed, q, k, v), error);
        let error = Error::Fp8Packing { operand, expected: None, found: Some(3) };
        assert_eq!(call(plain, q, k, v.packed(3)), error);
        let few = Array::from_slice(&device, &[1.0f32; 3]).unwrap();
        let error = Error::ArrayLength { operand: Operand::Sinks, expected: 4, found: 3 };
        assert_eq!(call(plain.sinks(few.view()), q, k, v), error);
        assert_eq!(call(plain.softcap(-1.0), q, k, v), Error::Softcap { softcap: -1.0 });
        let slopes = Array::from_slice(&device, &[1.0f32; 4]).unwrap();
        assert_eq!(call(plain.alibi(slopes.view()), q, k, v), Error::Fp8Features);
        let (expected, found) = (Fp8::E4m3, Fp8::E5m2);
        let other = Fp8View { kind: found, ..k };
        let error = Error::Fp8Mismatch { operand: Operand::K, expected, found };
        assert_eq!(call(plain, q, other, v), error);
        let few = Fp8View { descales: v.descales, ..q };
        let error = Error::ArrayLength { operand: Operand::DescaleQ, expected: 8, found: 4 };
        assert_eq!(call(plain, few, k, v), error);
        let (stride, multiple) = (64 * 4 + 8, FP8_STEP);
        let strides = Strides { seqlen: stride, ..q.strides };
        let error = Error::StrideMisaligned { operand: Operand::Q, dim: Dim::Seqlen, stride, multiple };
        assert_eq!(call(plain, Fp8View { strides, ..q }, k, v), error);
        let error = Error::NullPointer { operand: Operand::V };
        assert_eq!(call(plain, q, k, Fp8ValuesView { ptr: 0, ..v }), error);
        let error = call(plain, q, k, Fp8ValuesView { bytes: v.bytes - 1, ..v });
        assert_eq!(error, Error::TooSmall { operand: Operand::V, needed: v.bytes, given: v.bytes - 1 });
        let error = call(plain, Fp8View { ptr: out.ptr(), ..q }, k, v);
        assert_eq!(error, Error::Aliasing { output: Operand::Out, other: Operand::Q });
        assert!(mock.state().launches.is_empty());
    }

    #[test]
    fn descales_are_positive_and_normal() {
        let (_mock, device) = Mock::device();
        let data = vec![F8E4M3::from_f32(1.0); 16];
        let shape = Shape::new(1, 1, 1, 16);
        for descale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
            let found = Fp8Tensor::from_slice(&device, &data, shape, Order::Bshd, &[descale]).unwrap_err();
            assert!(matches!(found, Error::Descale { operand: Operand::DescaleQ, .. }), "{found}");
        }
        let error = Fp8Values::from_slice(&device, &data[1..], shape, Order::Bshd, &[1.0]).unwrap_err();
        assert_eq!(error, Error::DataLength { expected: 16, found: 15 });
    }
}
