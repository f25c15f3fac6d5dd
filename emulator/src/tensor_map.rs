//! Tensor maps: boxes of tensors, as the TMA unit copies them.
//!
//! Dimensions count from the innermost. A box is copied in pieces of at most 16 bytes, each inside of the tensor or
//! outside of it. Three things that the ISA does not say were found on an H200:
//!
//! * The innermost coordinate must be a multiple of 16 bytes; anything else is an illegal instruction.
//! * Stores write whole chunks of 16 bytes: where a row of the tensor ends inside of one, the rest is written too.
//! * With a swizzle the rows of a box lie one swizzle width apart, however narrow they are; the bytes between are left
//!   alone and are not counted.

/// Types of elements. Those that the hardware converts on the way are left out: how is not documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Element {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    /// Bytes of an element.
    pub const fn bytes(self) -> u32 {
        match self {
            Element::U8 => 1,
            Element::U16 | Element::F16 | Element::Bf16 => 2,
            Element::U32 | Element::S32 | Element::F32 => 4,
            Element::U64 | Element::S64 | Element::F64 => 8,
        }
    }

    /// Whether there is a NaN to fill with.
    pub const fn is_float(self) -> bool {
        matches!(self, Element::F16 | Element::Bf16 | Element::F32 | Element::F64)
    }
}

/// How 16-byte chunks of shared memory are permuted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// Within 32 bytes.
    B32,
    /// Within 64 bytes.
    B64,
    /// Within 128 bytes.
    B128,
}

impl Swizzle {
    /// Bytes of a row of the pattern; 16 without one.
    pub const fn width(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Bytes after which the pattern repeats, which is what it must be aligned to; 16 without one.
    pub const fn period(self) -> u32 {
        match self {
            Swizzle::None => 16,
            swizzle => 8 * swizzle.width(),
        }
    }

    /// Where a byte of shared memory really lies: bits 4 to 6 of its address XOR bits 7 to 9, as far as the width goes.
    pub const fn apply(self, address: u32) -> u32 {
        let chunks = self.width() / 16 - 1;
        address ^ ((address >> 7 & chunks) << 4)
    }
}

/// What loads put where a box is outside of the tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OobFill {
    /// Zeros.
    #[default]
    Zero,
    /// NaN.
    Nan,
}

/// A tensor in global memory, and the boxes that it is copied in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorMap {
    /// Address of its first element.
    pub address: u64,
    /// Type of its elements.
    pub element: Element,
    /// Elements along each dimension, innermost first: 1 to 5 dimensions.
    pub dims: Vec<u64>,
    /// Bytes from element to element along each dimension but the innermost. Any order is fine, as the driver has it.
    pub strides: Vec<u64>,
    /// Elements that a box spans along each dimension.
    pub box_dims: Vec<u32>,
    /// Every how many elements one is copied, along each dimension; that of the innermost has no effect.
    pub element_strides: Vec<u32>,
    /// How the box lies in shared memory.
    pub swizzle: Swizzle,
    /// What is outside.
    pub oob_fill: OobFill,
}

/// Something that the driver refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorMapError {
    /// Too many dimensions, or none.
    #[error("a tensor map has 1 to 5 dimensions, not {rank}")]
    Rank {
        /// Dimensions.
        rank: usize,
    },
    /// A list of another length than the dimensions need.
    #[error("{given} {what} given, {needed} needed")]
    Lengths {
        /// Which list.
        what: &'static str,
        /// Its length.
        given: usize,
        /// What it must be.
        needed: usize,
    },
    /// An address or a number of bytes that must be a multiple of 16.
    #[error("{what} is {value:#x}, not a multiple of 16")]
    Multiple {
        /// What.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A value outside of its range.
    #[error("{what} of dimension {dimension} is {value}, not {least} to {most}")]
    Range {
        /// What.
        what: &'static str,
        /// Dimension, from the innermost.
        dimension: usize,
        /// Its value.
        value: u64,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
    },
    /// A box with rows wider than the swizzle.
    #[error("rows of the box have {bytes} bytes, more than the {width} of the swizzle")]
    Width {
        /// Bytes of a row.
        bytes: u32,
        /// Bytes of the swizzle.
        width: u32,
    },
    /// A NaN fill for integers.
    #[error("elements of type {element:?} have no NaN to fill with")]
    Fill {
        /// Their type.
        element: Element,
    },
}

/// Coordinates that a copy must not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinateError {
    /// The tensor map itself is wrong.
    #[error(transparent)]
    Map(#[from] TensorMapError),
    /// Not as many as the tensor has dimensions.
    #[error("{given} coordinates for a tensor of {rank} dimensions")]
    Count {
        /// Coordinates.
        given: usize,
        /// Dimensions.
        rank: usize,
    },
    /// The innermost one is not a multiple of 16 bytes: an illegal instruction.
    #[error(
        "the innermost coordinate {coordinate} is not a multiple of 16 bytes, which is {elements} elements"
    )]
    Unaligned {
        /// The coordinate.
        coordinate: i32,
        /// Elements of 16 bytes.
        elements: u32,
    },
    /// A store to a negative coordinate.
    #[error("coordinate {coordinate} of dimension {dimension} of a store is negative")]
    Negative {
        /// Dimension, from the innermost.
        dimension: usize,
        /// The coordinate.
        coordinate: i32,
    },
}

/// Up to 16 bytes of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is from the start of the box in shared memory, before the swizzle.
    pub offset: u32,
    /// Bytes.
    pub bytes: u32,
    /// Its address in global memory; outside of the tensor there is none.
    pub global: Option<u64>,
}

/// Which way a box goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Load,
    Store,
}

const CHUNK: u32 = 16;

impl TensorMap {
    /// Whether the driver would take it.
    ///
    /// # Errors
    /// The first constraint that does not hold.
    pub fn check(&self) -> Result<(), TensorMapError> {
        let rank = self.dims.len();
        if !(1..=5).contains(&rank) {
            return Err(TensorMapError::Rank { rank });
        }
        for (what, given, needed) in [
            ("strides", self.strides.len(), rank - 1),
            ("box dimensions", self.box_dims.len(), rank),
            ("element strides", self.element_strides.len(), rank),
        ] {
            if given != needed {
                return Err(TensorMapError::Lengths { what, given, needed });
            }
        }
        multiple("the address", self.address)?;
        for (dimension, &value) in self.dims.iter().enumerate() {
            range("the size", dimension, value, 1, 1 << 32)?;
        }
        for (dimension, &value) in self.strides.iter().enumerate() {
            multiple("a stride", value)?;
            range("the stride", dimension + 1, value, 0, (1 << 40) - 1)?;
        }
        for (dimension, &value) in self.box_dims.iter().enumerate() {
            range("the box", dimension, value.into(), 1, 256)?;
        }
        for (dimension, &value) in self.element_strides.iter().enumerate() {
            range("the element stride", dimension, value.into(), 1, 8)?;
        }
        multiple("a row of the box in bytes", self.row_bytes().into())?;
        let width = self.swizzle.width();
        if self.swizzle != Swizzle::None && self.row_bytes() > width {
            return Err(TensorMapError::Width { bytes: self.row_bytes(), width });
        }
        if self.oob_fill == OobFill::Nan && !self.element.is_float() {
            return Err(TensorMapError::Fill { element: self.element });
        }
        Ok(())
    }

    /// The box at `coordinates` (in elements, innermost first) as a load sees it.
    ///
    /// # Errors
    /// If the map or the coordinates are not allowed.
    pub fn boxed(&self, coordinates: &[i32]) -> Result<Vec<Piece>, CoordinateError> {
        self.pieces(coordinates, Way::Load)
    }

    /// The box at `coordinates` as a store sees it: only pieces that are written, in whole chunks of 16 bytes.
    ///
    /// # Errors
    /// If the map or the coordinates are not allowed, or one is negative.
    pub fn boxed_for_store(&self, coordinates: &[i32]) -> Result<Vec<Piece>, CoordinateError> {
        self.pieces(coordinates, Way::Store)
    }

    /// Bytes that a load counts: those of the box, inside of the tensor or not, without what lies between rows.
    pub fn dense_bytes(&self) -> u32 {
        self.rows() * self.row_bytes()
    }

    /// Bytes of shared memory from the first of a box to its last, with what lies between rows.
    pub fn shared_bytes(&self) -> u32 {
        (self.rows() - 1) * self.pitch() + self.row_bytes()
    }

    /// What the address of a box in shared memory must be a multiple of: 128 bytes, or the swizzle's pattern.
    pub const fn alignment(&self) -> u32 {
        match self.swizzle {
            Swizzle::None => 128,
            swizzle => swizzle.period(),
        }
    }

    /// Where the byte at an address of shared memory, which is [`Piece::offset`] behind the box's, really lies.
    pub const fn swizzle(&self, address: u32) -> u32 {
        self.swizzle.apply(address)
    }

    /// What fills 16 bytes outside of the tensor. An H200 fills with the same 16 bits, whatever the type.
    pub fn fill(&self) -> [u8; 16] {
        match self.oob_fill {
            OobFill::Zero => [0; 16],
            OobFill::Nan => std::array::from_fn(|i| if i % 2 == 0 { 0xF7 } else { 0x7F }),
        }
    }

    /// Elements that a box has along a dimension.
    fn count(&self, dimension: usize) -> u32 {
        let stride = if dimension == 0 { 1 } else { self.element_strides[dimension] };
        self.box_dims[dimension].div_ceil(stride)
    }

    fn rows(&self) -> u32 {
        (1..self.box_dims.len()).map(|dimension| self.count(dimension)).product()
    }

    fn row_bytes(&self) -> u32 {
        self.box_dims[0] * self.element.bytes()
    }

    /// Bytes from row to row of the box.
    fn pitch(&self) -> u32 {
        if self.swizzle == Swizzle::None { self.row_bytes() } else { self.swizzle.width() }
    }

    fn pieces(&self, coordinates: &[i32], way: Way) -> Result<Vec<Piece>, CoordinateError> {
        self.check()?;
        let (rank, size) = (self.dims.len(), self.element.bytes());
        if coordinates.len() != rank {
            return Err(CoordinateError::Count { given: coordinates.len(), rank });
        }
        let elements = CHUNK / size;
        if coordinates[0].rem_euclid(elements.cast_signed()) != 0 {
            return Err(CoordinateError::Unaligned { coordinate: coordinates[0], elements });
        }
        if let Some(dimension) = coordinates.iter().position(|&c| c < 0 && way == Way::Store) {
            return Err(CoordinateError::Negative { dimension, coordinate: coordinates[dimension] });
        }
        // The bytes of a row of the tensor, as far as the copy sees them, and where the box starts in it.
        let row_end = self.dims[0] * u64::from(size);
        let row_end = if way == Way::Store { row_end.next_multiple_of(CHUNK.into()) } else { row_end };
        let row_end = row_end.cast_signed();
        let start = i64::from(coordinates[0]) * i64::from(size);
        let mut pieces = Vec::with_capacity((self.dense_bytes() / CHUNK) as usize);
        for row in 0..self.rows() {
            let address = self.row_address(row, coordinates);
            for chunk in (0..self.row_bytes()).step_by(CHUNK as usize) {
                let (offset, at) = (row * self.pitch() + chunk, start + i64::from(chunk));
                let inside = match address {
                    // A row is cut only at its end: it starts at a multiple of 16 bytes, and so do chunks.
                    Some(_) if at >= 0 => (row_end - at).clamp(0, CHUNK.into()) as u32,
                    _ => 0,
                };
                if let Some(address) = address.filter(|_| inside > 0) {
                    let global = address.wrapping_add(at.cast_unsigned());
                    pieces.push(Piece { offset, bytes: inside, global: Some(global) });
                }
                if inside < CHUNK && way == Way::Load {
                    pieces.push(Piece { offset: offset + inside, bytes: CHUNK - inside, global: None });
                }
            }
        }
        Ok(pieces)
    }

    /// Address of the tensor's row that row `row` of the box is on, if it has one.
    fn row_address(&self, mut row: u32, coordinates: &[i32]) -> Option<u64> {
        let mut address = self.address;
        for (dimension, &coordinate) in coordinates.iter().enumerate().skip(1) {
            let count = self.count(dimension);
            let step = i64::from(row % count * self.element_strides[dimension]);
            let at =
                u64::try_from(i64::from(coordinate) + step).ok().filter(|&at| at < self.dims[dimension])?;
            address = address.wrapping_add(at.wrapping_mul(self.strides[dimension - 1]));
            row /= count;
        }
        Some(address)
    }
}

fn multiple(what: &'static str, value: u64) -> Result<(), TensorMapError> {
    if value.is_multiple_of(16) { Ok(()) } else { Err(TensorMapError::Multiple { what, value }) }
}

fn range(
    what: &'static str,
    dimension: usize,
    value: u64,
    least: u64,
    most: u64,
) -> Result<(), TensorMapError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(TensorMapError::Range { what, dimension, value, least, most })
    }
}

#[cfg(test)]
mod tests;
