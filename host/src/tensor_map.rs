//! What a tensor map says, checked before a driver sees it.

use flashcore_kernels::layout::Swizzle;

/// Element type of a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapElement {
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary32.
    F32,
}

impl MapElement {
    /// Bytes of one element.
    pub const fn bytes(self) -> u32 {
        match self {
            MapElement::U8 => 1,
            MapElement::U16 | MapElement::F16 | MapElement::Bf16 => 2,
            MapElement::U32 | MapElement::F32 => 4,
        }
    }

    const fn is_float(self) -> bool {
        matches!(self, MapElement::F16 | MapElement::Bf16 | MapElement::F32)
    }
}

impl From<crate::Dtype> for MapElement {
    fn from(dtype: crate::Dtype) -> Self {
        match dtype {
            crate::Dtype::F16 => MapElement::F16,
            crate::Dtype::Bf16 => MapElement::Bf16,
        }
    }
}

/// What a load puts where the box reaches beyond the tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OobFill {
    /// Zero.
    #[default]
    Zero,
    /// A NaN (floating-point elements only).
    Nan,
}

/// Most dimensions that a tensor map can have.
pub const MAX_RANK: usize = 5;
/// Addresses and strides are multiples of this many bytes.
pub const ALIGNMENT: u64 = 16;
/// Strides are less than this many bytes.
pub const STRIDE_LIMIT: u64 = 1 << 40;
/// A dimension has at most this many elements.
pub const DIM_LIMIT: u64 = 1 << 32;
/// A box has at most this many elements along each dimension.
pub const BOX_LIMIT: u32 = 256;

/// A tiled tensor map, before a backend encodes it: dimensions innermost first, the innermost one contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMapDesc {
    ptr: u64,
    element: MapElement,
    rank: usize,
    dims: [u64; MAX_RANK],
    strides_bytes: [u64; MAX_RANK - 1],
    box_dims: [u32; MAX_RANK],
    swizzle: Swizzle,
    oob_fill: OobFill,
}

/// A rule of `cuTensorMapEncodeTiled` that a description breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorMapError {
    /// Number of dimensions.
    #[error("it has {rank} dimensions; 1 to {MAX_RANK} are possible")]
    Rank {
        /// Given.
        rank: usize,
    },
    /// Lengths of the lists disagree.
    #[error("{rank} dimensions need {} strides and {rank} box sizes, but there are {strides} and {boxes}", rank - 1)]
    Lengths {
        /// Dimensions.
        rank: usize,
        /// Strides given.
        strides: usize,
        /// Box sizes given.
        boxes: usize,
    },
    /// Base address.
    #[error("its address {ptr:#x} is null or not a multiple of {ALIGNMENT}")]
    Address {
        /// Given.
        ptr: u64,
    },
    /// Size of a dimension.
    #[error("dimension {dim} has {size} elements; 1 to {DIM_LIMIT} are possible")]
    DimSize {
        /// Index of the dimension, innermost 0.
        dim: usize,
        /// Given.
        size: u64,
    },
    /// Stride of a dimension.
    #[error(
        "dimension {dim} has a stride of {bytes} bytes; multiples of {ALIGNMENT} below {STRIDE_LIMIT} are possible"
    )]
    Stride {
        /// Index of the dimension, innermost 0.
        dim: usize,
        /// Given.
        bytes: u64,
    },
    /// Size of the box.
    #[error("dimension {dim} of the box has {size} elements; 1 to {BOX_LIMIT} are possible")]
    BoxSize {
        /// Index of the dimension, innermost 0.
        dim: usize,
        /// Given.
        size: u32,
    },
    /// A row of the box is not a multiple of 16 bytes.
    #[error("a row of the box has {bytes} bytes; multiples of {ALIGNMENT} are possible")]
    BoxRow {
        /// Given.
        bytes: u32,
    },
    /// A row of the box is wider than the swizzle.
    #[error("a row of the box has {bytes} bytes, but the swizzle is {limit} wide")]
    SwizzleWidth {
        /// Given.
        bytes: u32,
        /// Bytes of a swizzled row.
        limit: u32,
    },
    /// NaN fill of integers.
    #[error("elements of type {element:?} have no NaN to fill with")]
    NanFill {
        /// Given.
        element: MapElement,
    },
}

impl TensorMapDesc {
    /// Describes the tensor at `ptr`: `dims` in elements, `strides_bytes` of all dimensions but the innermost,
    /// `box_dims` in elements. No swizzle, zero fill.
    ///
    /// # Errors
    /// The lists disagree in length or there are too many dimensions. All other rules are checked by
    /// [`Self::check`].
    pub fn new(
        ptr: u64,
        element: MapElement,
        dims: &[u64],
        strides_bytes: &[u64],
        box_dims: &[u32],
    ) -> Result<Self, TensorMapError> {
        let rank = dims.len();
        if !(1..=MAX_RANK).contains(&rank) {
            return Err(TensorMapError::Rank { rank });
        }
        if strides_bytes.len() != rank - 1 || box_dims.len() != rank {
            return Err(TensorMapError::Lengths {
                rank,
                strides: strides_bytes.len(),
                boxes: box_dims.len(),
            });
        }
        let mut desc = TensorMapDesc {
            ptr,
            element,
            rank,
            dims: [0; MAX_RANK],
            strides_bytes: [0; MAX_RANK - 1],
            box_dims: [0; MAX_RANK],
            swizzle: Swizzle::None,
            oob_fill: OobFill::Zero,
        };
        desc.dims[..rank].copy_from_slice(dims);
        desc.strides_bytes[..rank - 1].copy_from_slice(strides_bytes);
        desc.box_dims[..rank].copy_from_slice(box_dims);
        Ok(desc)
    }

    /// The same tensor, its boxes swizzled in shared memory.
    pub fn swizzle(self, swizzle: Swizzle) -> Self {
        TensorMapDesc { swizzle, ..self }
    }

    /// The same tensor with another fill beyond its bounds.
    pub fn oob_fill(self, oob_fill: OobFill) -> Self {
        TensorMapDesc { oob_fill, ..self }
    }

    /// Device address of the first element.
    pub fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Element type.
    pub fn element(&self) -> MapElement {
        self.element
    }

    /// Sizes in elements, innermost first.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.rank]
    }

    /// Strides in bytes of all dimensions but the innermost.
    pub fn strides_bytes(&self) -> &[u64] {
        &self.strides_bytes[..self.rank - 1]
    }

    /// Sizes of the box in elements, innermost first.
    pub fn box_dims(&self) -> &[u32] {
        &self.box_dims[..self.rank]
    }

    /// Swizzle of the box in shared memory.
    pub fn swizzle_mode(&self) -> Swizzle {
        self.swizzle
    }

    /// Fill beyond the bounds.
    pub fn oob_fill_mode(&self) -> OobFill {
        self.oob_fill
    }

    /// Checks every rule of `cuTensorMapEncodeTiled`.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), TensorMapError> {
        if self.ptr == 0 || !self.ptr.is_multiple_of(ALIGNMENT) {
            return Err(TensorMapError::Address { ptr: self.ptr });
        }
        for (dim, &size) in self.dims().iter().enumerate() {
            if !(1..=DIM_LIMIT).contains(&size) {
                return Err(TensorMapError::DimSize { dim, size });
            }
        }
        for (outer, &bytes) in self.strides_bytes().iter().enumerate() {
            if !bytes.is_multiple_of(ALIGNMENT) || bytes >= STRIDE_LIMIT {
                return Err(TensorMapError::Stride { dim: outer + 1, bytes });
            }
        }
        for (dim, &size) in self.box_dims().iter().enumerate() {
            if !(1..=BOX_LIMIT).contains(&size) {
                return Err(TensorMapError::BoxSize { dim, size });
            }
        }
        let bytes = self.box_dims[0] * self.element.bytes();
        if !u64::from(bytes).is_multiple_of(ALIGNMENT) {
            return Err(TensorMapError::BoxRow { bytes });
        }
        let limit = match self.swizzle {
            Swizzle::None => u32::MAX,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        };
        if bytes > limit {
            return Err(TensorMapError::SwizzleWidth { bytes, limit });
        }
        if self.oob_fill == OobFill::Nan && !self.element.is_float() {
            return Err(TensorMapError::NanFill { element: self.element });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legal() -> TensorMapDesc {
        TensorMapDesc::new(0x1000, MapElement::F16, &[64, 100], &[128], &[64, 16]).unwrap()
    }

    fn error(change: impl FnOnce(&mut TensorMapDesc)) -> TensorMapError {
        let mut desc = legal();
        change(&mut desc);
        desc.check().unwrap_err()
    }

    #[test]
    fn legal_maps_pass() {
        assert_eq!(legal().check(), Ok(()));
        assert_eq!(legal().swizzle(Swizzle::B128).oob_fill(OobFill::Nan).check(), Ok(()));
        let broadcast = TensorMapDesc::new(0x1000, MapElement::U32, &[4, 1 << 32], &[0], &[4, 256]).unwrap();
        assert_eq!(broadcast.check(), Ok(()));
    }

    #[test]
    fn each_rule_has_its_error() {
        use TensorMapError::*;
        let new = |dims: &[u64], strides: &[u64], boxes: &[u32]| {
            TensorMapDesc::new(0x1000, MapElement::F16, dims, strides, boxes).unwrap_err()
        };
        assert_eq!(new(&[], &[], &[]), Rank { rank: 0 });
        assert_eq!(new(&[1; 6], &[16; 5], &[8; 6]), Rank { rank: 6 });
        assert_eq!(new(&[8, 8], &[16, 16], &[8, 8]), Lengths { rank: 2, strides: 2, boxes: 2 });
        assert_eq!(error(|d| d.ptr = 0), Address { ptr: 0 });
        assert_eq!(error(|d| d.ptr = 0x1008), Address { ptr: 0x1008 });
        assert_eq!(error(|d| d.dims[1] = 0), DimSize { dim: 1, size: 0 });
        assert_eq!(error(|d| d.dims[0] = (1 << 32) + 1), DimSize { dim: 0, size: (1 << 32) + 1 });
        assert_eq!(error(|d| d.strides_bytes[0] = 136), Stride { dim: 1, bytes: 136 });
        assert_eq!(error(|d| d.strides_bytes[0] = 1 << 40), Stride { dim: 1, bytes: 1 << 40 });
        assert_eq!(error(|d| d.box_dims[1] = 0), BoxSize { dim: 1, size: 0 });
        assert_eq!(error(|d| d.box_dims[1] = 257), BoxSize { dim: 1, size: 257 });
        assert_eq!(error(|d| d.box_dims[0] = 4), BoxRow { bytes: 8 });
        assert_eq!(error(|d| d.swizzle = Swizzle::B64), SwizzleWidth { bytes: 128, limit: 64 });
        let nan = |d: &mut TensorMapDesc| (d.element, d.oob_fill) = (MapElement::U16, OobFill::Nan);
        assert_eq!(error(nan), NanFill { element: MapElement::U16 });
    }
}
