//! Matrix descriptors: where the operands of a warpgroup product lie in shared memory.
//!
//! An operand is `extent` rows (of A, or columns of B) of 32 bytes along K. It lies in shared memory in chunks of 16
//! bytes: pieces of rows if it is K-major, pieces of columns if it is MN-major.
//!
//! Accepted are descriptors with base offset 0 whose pattern starts at a multiple of its period (1024, 512 or 256
//! bytes) and repeats at multiples of it. The start may lie further on within the first row of the pattern, as long as
//! the operand does not leave that row: so kernels step along K. Everything else is an error, since nobody documents
//! it.

use crate::tensor_map::Swizzle;

/// Bytes of a row of an operand.
pub const ROW: usize = 32;
const CHUNK: u32 = 16;
/// Bits that no field has; 46 to 48 and 52 to 61 among them.
const RESERVED: u64 = 0x3FF1_C000_C000_C000;

/// What a descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Address of the first byte, in shared memory.
    pub start: u32,
    /// "Leading dimension byte offset".
    pub leading: u32,
    /// "Stride dimension byte offset".
    pub stride: u32,
    /// The permutation of chunks.
    pub swizzle: Swizzle,
}

/// A descriptor, or a use of one, that is not allowed or not documented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// Bits that must be zero.
    #[error("descriptor {descriptor:#018x} has the reserved bits {bits:#018x} set")]
    Reserved {
        /// All bits.
        descriptor: u64,
        /// The wrong ones.
        bits: u64,
    },
    /// A base offset.
    #[error("descriptor {descriptor:#018x} has base offset {offset}; only 0 is known")]
    BaseOffset {
        /// All bits.
        descriptor: u64,
        /// Bits 49 to 51.
        offset: u32,
    },
    /// A pattern, or a step between patterns, that is not aligned.
    #[error("{what} {bytes:#x} of a swizzled operand is not a multiple of the pattern's {period} bytes")]
    Unaligned {
        /// The start address or an offset.
        what: &'static str,
        /// Its value, for the start address without the place in the row.
        bytes: u32,
        /// What it must be a multiple of.
        period: u32,
    },
    /// An operand that starts inside of a row and does not end there.
    #[error("the operand starts {start} bytes into a row of {width} and reaches {bytes} bytes on")]
    LeavesRow {
        /// Place in the row.
        start: u32,
        /// Bytes that lie in one row.
        bytes: u32,
        /// Bytes of a row.
        width: u32,
    },
    /// An MN-major operand of another than 16-bit type.
    #[error("only 16-bit types may be MN-major, this one has {bytes} bytes")]
    MnMajor {
        /// Bytes of an element.
        bytes: u32,
    },
    /// A size that no operand has.
    #[error(
        "an operand has 8 to 256 rows, in eights, and elements of 1, 2 or 4 bytes: not {extent} of {bytes}"
    )]
    Shape {
        /// Rows.
        extent: u32,
        /// Bytes of an element.
        bytes: u32,
    },
}

impl Descriptor {
    /// Takes a descriptor apart.
    ///
    /// # Errors
    /// If a reserved bit or the base offset is not zero.
    pub const fn decode(descriptor: u64) -> Result<Self, DescriptorError> {
        let bits = descriptor & RESERVED;
        if bits != 0 {
            return Err(DescriptorError::Reserved { descriptor, bits });
        }
        let offset = (descriptor >> 49 & 7) as u32;
        if offset != 0 {
            return Err(DescriptorError::BaseOffset { descriptor, offset });
        }
        let swizzle = match descriptor >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        let [start, leading, stride] = [
            (descriptor & 0x3FFF) as u32 * CHUNK,
            (descriptor >> 16 & 0x3FFF) as u32 * CHUNK,
            (descriptor >> 32 & 0x3FFF) as u32 * CHUNK,
        ];
        Ok(Descriptor { start, leading, stride, swizzle })
    }
}

/// 16 bytes of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where they lie in shared memory.
    pub address: u32,
    /// Row of the first element.
    pub outer: u32,
    /// K index of the first element. The others follow along K, or along the rows if the operand is MN-major.
    pub k: u32,
}

/// Where an operand lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperandLayout {
    chunks: Vec<Chunk>,
    extent: u32,
    element_bytes: u32,
    mn_major: bool,
}

/// Rows of 32 bytes, K elements each: A, or the transpose of B.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The raw bytes of its rows.
    pub rows: Vec<[u8; ROW]>,
}

/// Where the operand of a descriptor lies: `extent` rows of `32 / element_bytes` elements.
///
/// # Errors
/// If the layout is not one that the module accepts.
pub fn operand(
    descriptor: &Descriptor,
    mn_major: bool,
    element_bytes: u32,
    extent: u32,
) -> Result<OperandLayout, DescriptorError> {
    let shape = matches!(element_bytes, 1 | 2 | 4) && extent.is_multiple_of(8) && (8..=256).contains(&extent);
    if !shape {
        return Err(DescriptorError::Shape { extent, bytes: element_bytes });
    }
    if mn_major && element_bytes != 2 {
        return Err(DescriptorError::MnMajor { bytes: element_bytes });
    }
    aligned(descriptor, mn_major, element_bytes, extent)?;
    let per_chunk = CHUNK / element_bytes;
    let at = |outer, k| {
        let offset = if mn_major {
            mn_major_offset(descriptor, outer / per_chunk, k)
        } else {
            k_major_offset(descriptor, outer, k / per_chunk)
        };
        // Addresses have 18 bits: what lies beyond shared memory is for the machine to find.
        Chunk { address: descriptor.swizzle.apply(descriptor.start + offset), outer, k }
    };
    let chunks = if mn_major {
        let columns = (0..extent).step_by(per_chunk as usize);
        columns.flat_map(|outer| (0..2 * per_chunk).map(move |k| at(outer, k))).collect()
    } else {
        (0..extent).flat_map(|outer| [at(outer, 0), at(outer, per_chunk)]).collect()
    };
    Ok(OperandLayout { chunks, extent, element_bytes, mn_major })
}

/// Offset of a chunk of a row: groups of 8 rows, `stride` apart.
fn k_major_offset(descriptor: &Descriptor, row: u32, chunk: u32) -> u32 {
    let step = if descriptor.swizzle == Swizzle::None { descriptor.leading } else { CHUNK };
    row / 8 * descriptor.stride + row % 8 * descriptor.swizzle.width() + chunk * step
}

/// Offset of chunk `chunk` of column `k`. Groups of 8 columns; a row of the pattern holds as many chunks as it is wide.
fn mn_major_offset(descriptor: &Descriptor, chunk: u32, k: u32) -> u32 {
    let width = descriptor.swizzle.width();
    let (along_mn, along_k) = match descriptor.swizzle {
        // Without a swizzle the two offsets change roles.
        Swizzle::None => (descriptor.stride, descriptor.leading),
        _ => (descriptor.leading, descriptor.stride),
    };
    let chunks = width / CHUNK;
    CHUNK * (chunk % chunks) + chunk / chunks * along_mn + k % 8 * width + k / 8 * along_k
}

/// Whether the pattern lies at multiples of its period.
fn aligned(
    descriptor: &Descriptor,
    mn_major: bool,
    element_bytes: u32,
    extent: u32,
) -> Result<(), DescriptorError> {
    let Descriptor { start, leading, stride, swizzle } = *descriptor;
    if swizzle == Swizzle::None {
        return Ok(());
    }
    let (width, period) = (swizzle.width(), swizzle.period());
    let in_row = start % width;
    let column = element_bytes * extent;
    let bytes = if mn_major { column.min(width) } else { ROW as u32 };
    // Offsets that are not used may be anything.
    let leading = if mn_major && column > width { leading } else { 0 };
    let stride = if mn_major || extent > 8 { stride } else { 0 };
    for (what, bytes) in
        [("start address", start - in_row), ("leading offset", leading), ("stride offset", stride)]
    {
        if !bytes.is_multiple_of(period) {
            return Err(DescriptorError::Unaligned { what, bytes, period });
        }
    }
    if in_row + bytes > width {
        return Err(DescriptorError::LeavesRow { start: in_row, bytes, width });
    }
    Ok(())
}

impl OperandLayout {
    /// The chunks of the operand, two for each row.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The operand, of what `read` finds in the 16 bytes at an address.
    pub fn gather(&self, read: impl Fn(u32) -> [u8; 16]) -> Matrix {
        let mut rows = vec![[0; ROW]; self.extent as usize];
        for chunk in &self.chunks {
            let bytes = read(chunk.address);
            let (outer, at) = (chunk.outer as usize, (chunk.k * self.element_bytes) as usize);
            if self.mn_major {
                for (row, element) in rows[outer..].iter_mut().zip(bytes.as_chunks::<2>().0) {
                    row[at..at + 2].copy_from_slice(element);
                }
            } else {
                rows[outer][at..at + 16].copy_from_slice(&bytes);
            }
        }
        Matrix { rows }
    }
}

#[cfg(test)]
mod tests;
