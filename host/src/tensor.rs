//! Tensors: what they look like ([`TensorLayout`]), where they lie ([`TensorView`]), and who owns them ([`Tensor`]).

use std::fmt;
use std::marker::PhantomData;

use crate::Device;
use crate::error::{Dim, Error, Result};
use crate::kernels::Dtype;
use crate::memory::Memory;

/// Sizes of a tensor. This order is that of the names; strides say how the tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Positions in a sequence.
    pub seqlen: usize,
    /// Attention heads.
    pub heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
}

impl Shape {
    /// A shape from its sizes.
    pub const fn new(batch: usize, seqlen: usize, heads: usize, head_dim: usize) -> Self {
        Shape { batch, seqlen, heads, head_dim }
    }

    /// Number of elements, if it fits.
    pub fn elements(&self) -> Option<usize> {
        if self.is_empty() {
            return Some(0);
        }
        self.batch.checked_mul(self.seqlen)?.checked_mul(self.heads)?.checked_mul(self.head_dim)
    }

    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.batch == 0 || self.seqlen == 0 || self.heads == 0 || self.head_dim == 0
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { batch, seqlen, heads, head_dim } = self;
        write!(f, "(batch {batch}, seqlen {seqlen}, heads {heads}, head_dim {head_dim})")
    }
}

/// Distances between neighbours, in elements. Along head_dim it is always 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    /// From one sequence to the next.
    pub batch: usize,
    /// From one position to the next.
    pub seqlen: usize,
    /// From one head to the next.
    pub heads: usize,
}

/// Usual orders of a tensor in memory, outermost dimension first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// (batch, seqlen, heads, head_dim), as FlashAttention has it.
    Bshd,
    /// (batch, heads, seqlen, head_dim), as PyTorch's attention has it.
    Bhsd,
}

impl Order {
    /// Strides of a tensor without gaps.
    pub const fn strides(self, shape: Shape) -> Strides {
        // Saturation only matters for shapes that no memory holds, which are refused wherever they are used.
        let Shape { seqlen, heads, head_dim, .. } = shape;
        let row = heads.saturating_mul(head_dim);
        let head = seqlen.saturating_mul(head_dim);
        let batch = row.saturating_mul(seqlen);
        match self {
            Order::Bshd => Strides { batch, seqlen: row, heads: head_dim },
            Order::Bhsd => Strides { batch, seqlen: head_dim, heads: head },
        }
    }
}

/// What a tensor looks like, without saying where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorLayout {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes.
    pub shape: Shape,
    /// Distances.
    pub strides: Strides,
}

impl TensorLayout {
    /// A tensor without gaps.
    pub const fn packed(dtype: Dtype, shape: Shape, order: Order) -> Self {
        TensorLayout { dtype, shape, strides: order.strides(shape) }
    }

    /// Elements from the first to the last, gaps included, if that fits.
    pub(crate) fn span(&self) -> Option<usize> {
        if self.shape.is_empty() {
            return Some(0);
        }
        let mut span = self.shape.head_dim;
        for (_, size, stride) in self.outer_dims() {
            span = span.checked_add((size - 1).checked_mul(stride)?)?;
        }
        Some(span)
    }

    /// Bytes from the first element to the last, gaps included.
    ///
    /// # Errors
    /// [`Error::ShapeOverflow`] if that does not fit.
    pub fn span_bytes(&self) -> Result<usize> {
        self.span()
            .and_then(|span| span.checked_mul(Dtype::SIZE as usize))
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or(Error::ShapeOverflow { shape: self.shape })
    }

    /// Size and stride of all dimensions but head_dim.
    pub(crate) fn outer_dims(&self) -> [(Dim, usize, usize); 3] {
        [
            (Dim::Batch, self.shape.batch, self.strides.batch),
            (Dim::Seqlen, self.shape.seqlen, self.strides.seqlen),
            (Dim::Heads, self.shape.heads, self.strides.heads),
        ]
    }

    /// The same tensor, with strides that nobody steps by, and that therefore may be anything, set to one that TMA
    /// accepts: those of dimensions of size 1, and all of an empty tensor.
    pub(crate) fn normalized(&self) -> Self {
        self.normalized_by(1)
    }

    /// The same, where they are set to a multiple of so many elements.
    pub(crate) fn normalized_by(&self, step: usize) -> Self {
        let Shape { batch, seqlen, heads, head_dim } = self.shape;
        let any = head_dim.next_multiple_of(step);
        let stride = |size, stride| if size <= 1 || self.shape.is_empty() { any } else { stride };
        let strides = Strides {
            batch: stride(batch, self.strides.batch),
            seqlen: stride(seqlen, self.strides.seqlen),
            heads: stride(heads, self.strides.heads),
        };
        TensorLayout { strides, ..*self }
    }

    /// The order without gaps that resembles this layout.
    pub(crate) fn order(&self) -> Order {
        let Strides { seqlen, heads, .. } = self.normalized().strides;
        if seqlen < heads { Order::Bhsd } else { Order::Bshd }
    }
}

/// Types of tensor elements.
pub trait Element: bytemuck::Pod {
    /// The same type as a value.
    const DTYPE: Dtype;
}

impl Element for half::f16 {
    const DTYPE: Dtype = Dtype::F16;
}

impl Element for half::bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}

/// A tensor in device memory that somebody else owns.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    ptr: u64,
    bytes: usize,
    layout: TensorLayout,
    memory: PhantomData<&'a ()>,
}

impl TensorView<'_> {
    /// A tensor at device address `ptr` (a `CUdeviceptr`), behind which `bytes` bytes are allocated.
    ///
    /// Shape, strides, alignment and size are checked by the call that uses the view.
    ///
    /// # Safety
    /// The bytes must stay allocated for the lifetime of the result and until all work submitted with it has
    /// completed; while that work runs, nothing else may write them, or use them if the work writes them.
    pub const unsafe fn from_raw_parts(
        ptr: u64,
        bytes: usize,
        dtype: Dtype,
        shape: Shape,
        strides: Strides,
    ) -> Self {
        TensorView { ptr, bytes, layout: TensorLayout { dtype, shape, strides }, memory: PhantomData }
    }

    /// Device address of the first element.
    pub const fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Bytes allocated behind [`Self::ptr`].
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Element type.
    pub const fn dtype(&self) -> Dtype {
        self.layout.dtype
    }

    /// Sizes.
    pub const fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// Distances, in elements.
    pub const fn strides(&self) -> Strides {
        self.layout.strides
    }

    /// Element type, sizes and distances.
    pub const fn layout(&self) -> &TensorLayout {
        &self.layout
    }
}

/// What can be seen as a tensor.
pub trait AsTensorView {
    /// The tensor.
    fn as_view(&self) -> TensorView<'_>;
}

impl AsTensorView for TensorView<'_> {
    fn as_view(&self) -> TensorView<'_> {
        *self
    }
}

impl AsTensorView for Tensor {
    fn as_view(&self) -> TensorView<'_> {
        self.view()
    }
}

impl<T: AsTensorView> AsTensorView for &T {
    fn as_view(&self) -> TensorView<'_> {
        T::as_view(self)
    }
}

/// A tensor with device memory of its own.
///
/// Writes through [`Tensor::fill_bytes`] and the outputs of kernels need only a shared reference, as is usual for
/// device memory: order them by streams.
#[derive(Debug)]
pub struct Tensor {
    memory: Memory,
    layout: TensorLayout,
}

impl Tensor {
    /// A tensor of zeros, without gaps.
    ///
    /// # Errors
    /// [`Error::ShapeOverflow`], [`Error::OutOfMemory`].
    pub fn zeros(device: &Device, dtype: Dtype, shape: Shape, order: Order) -> Result<Self> {
        let tensor = Tensor::uninit(device, dtype, shape, order)?;
        tensor.fill_bytes(0)?;
        Ok(tensor)
    }

    /// A tensor without gaps whose elements are whatever the memory held.
    pub(crate) fn uninit(device: &Device, dtype: Dtype, shape: Shape, order: Order) -> Result<Self> {
        let layout = TensorLayout::packed(dtype, shape, order);
        let memory = Memory::new(device, layout.span_bytes()?)?;
        Ok(Tensor { memory, layout })
    }

    /// A tensor without gaps from host data in memory order.
    ///
    /// # Errors
    /// [`Error::DataLength`] if the data are not as many as the shape says, [`Error::ShapeOverflow`],
    /// [`Error::OutOfMemory`].
    pub fn from_slice<T: Element>(device: &Device, data: &[T], shape: Shape, order: Order) -> Result<Self> {
        Tensor::with_strides(device, data, shape, order.strides(shape))
    }

    /// A tensor from host data in memory order, from the first element to the last, gaps included.
    ///
    /// # Errors
    /// [`Error::DataLength`] if the data are not as many as shape and strides reach over, [`Error::ShapeOverflow`],
    /// [`Error::OutOfMemory`].
    pub fn with_strides<T: Element>(
        device: &Device,
        data: &[T],
        shape: Shape,
        strides: Strides,
    ) -> Result<Self> {
        let layout = TensorLayout { dtype: T::DTYPE, shape, strides };
        let expected = layout.span_bytes()? / size_of::<T>();
        if data.len() != expected {
            return Err(Error::DataLength { expected, found: data.len() });
        }
        Ok(Tensor { memory: Memory::from_bytes(device, bytemuck::cast_slice(data))?, layout })
    }

    /// The memory's elements in memory order, gaps included. Waits for all work of the device.
    ///
    /// # Errors
    /// [`Error::ElementType`] if `T` is not the tensor's type; what the driver refuses.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.layout.dtype {
            return Err(Error::ElementType { expected: self.layout.dtype, found: T::DTYPE });
        }
        self.memory.to_vec()
    }

    /// Sets every byte of the memory, gaps included. Waits for all work of the device.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn fill_bytes(&self, byte: u8) -> Result<()> {
        self.memory.fill(byte)
    }

    /// This tensor, borrowed.
    pub fn view(&self) -> TensorView<'_> {
        TensorView {
            ptr: self.memory.ptr(),
            bytes: self.memory.bytes(),
            layout: self.layout,
            memory: PhantomData,
        }
    }

    /// The device whose memory it is.
    pub fn device(&self) -> &Device {
        self.memory.device()
    }

    /// Device address of the first element; 0 if there are none.
    pub fn ptr(&self) -> u64 {
        self.memory.ptr()
    }

    /// Bytes of the memory, gaps included.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.layout.dtype
    }

    /// Sizes.
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// Distances, in elements.
    pub fn strides(&self) -> Strides {
        self.layout.strides
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::Lse;
    use crate::mock::{CAPACITY, Mock};

    const SHAPE: Shape = Shape::new(2, 3, 4, 8);

    #[test]
    fn orders_have_the_strides_of_their_names() {
        assert_eq!(Order::Bshd.strides(SHAPE), Strides { batch: 96, seqlen: 32, heads: 8 });
        assert_eq!(Order::Bhsd.strides(SHAPE), Strides { batch: 96, seqlen: 8, heads: 24 });
        for order in [Order::Bshd, Order::Bhsd] {
            let layout = TensorLayout::packed(Dtype::F16, SHAPE, order);
            assert_eq!((layout.span_bytes(), layout.order()), (Ok(2 * 2 * 3 * 4 * 8), order));
        }
    }

    #[test]
    fn spans_count_gaps_but_not_behind_the_last_element() {
        let strides = Strides { batch: 1000, seqlen: 100, heads: 10 };
        let layout = TensorLayout { dtype: Dtype::Bf16, shape: SHAPE, strides };
        assert_eq!(layout.span_bytes(), Ok(2 * (1000 + 200 + 30 + 8)));
        let empty = TensorLayout { shape: Shape { heads: 0, ..SHAPE }, ..layout };
        assert_eq!(empty.span_bytes(), Ok(0));
    }

    #[test]
    fn data_come_back_and_memory_is_freed() {
        let (mock, device) = Mock::device();
        let data: Vec<f16> = (0..192).map(|i| f16::from_f32(i as f32)).collect();
        let tensor = Tensor::from_slice(&device, &data, SHAPE, Order::Bhsd).unwrap();
        assert_eq!(tensor.to_vec::<f16>().unwrap(), data);
        tensor.fill_bytes(0xff).unwrap();
        assert!(tensor.to_vec::<f16>().unwrap().iter().all(|x| x.is_nan()));
        let lse = Lse::new(&device, 2, 4, 3).unwrap();
        lse.fill_bytes(0).unwrap();
        assert_eq!(lse.to_vec().unwrap(), [0.0; 24]);
        let rising: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let risen = Lse::from_slice(&device, &rising, 2, 4, 3).unwrap();
        assert_eq!(risen.to_vec().unwrap(), rising);
        drop((tensor, lse, risen));
        assert!(mock.state().allocations.is_empty());
    }

    #[test]
    fn data_must_have_length_and_type_of_the_tensor() {
        let (_mock, device) = Mock::device();
        for found in [0, 191, 193] {
            let data = vec![bf16::ONE; found];
            let error = Tensor::from_slice(&device, &data, SHAPE, Order::Bshd).unwrap_err();
            assert_eq!(error, Error::DataLength { expected: 192, found });
        }
        let error = Lse::from_slice(&device, &[0.0; 23], 2, 4, 3).unwrap_err();
        assert_eq!(error, Error::DataLength { expected: 24, found: 23 });
        let tensor = Tensor::zeros(&device, Dtype::Bf16, SHAPE, Order::Bshd).unwrap();
        let error = Error::ElementType { expected: Dtype::Bf16, found: Dtype::F16 };
        assert_eq!(tensor.to_vec::<f16>(), Err(error));
    }

    #[test]
    fn memory_and_addresses_are_limited() {
        let (_mock, device) = Mock::device();
        let zeros = |shape| Tensor::zeros(&device, Dtype::F16, shape, Order::Bshd).map(|_| ()).unwrap_err();
        let shape = Shape::new(CAPACITY, 1, 1, 8);
        assert_eq!(zeros(shape), Error::OutOfMemory { bytes: 16 * CAPACITY });
        for shape in [Shape::new(1 << 60, 1, 1, 8), Shape::new(usize::MAX, usize::MAX, 2, 8)] {
            assert_eq!(zeros(shape), Error::ShapeOverflow { shape });
        }
        let shape = Shape::new(1 << 30, 1 << 30, 1 << 30, 1);
        let lse = Lse::new(&device, shape.batch, shape.heads, shape.seqlen);
        assert_eq!(lse.map(|_| ()).unwrap_err(), Error::ShapeOverflow { shape });
    }
}
