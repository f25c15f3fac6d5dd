//! Products of a warpgroup: `D = A B + D`, for one `wgmma.mma_async`.
//!
//! A is 64 x K and B is N x K (its columns are rows here), K is 32 bytes of elements. Nobody documents how tensor cores
//! round; there are two models, see [`Numerics`]. Integers are exact in both. NaN results have all bits set but the
//! sign. Subnormal numbers count.

mod exact;
mod hopper;
mod integer;

use super::convert::Format;
use super::descriptor::{Matrix, ROW};
use super::fragment::M;
use crate::Numerics;
use crate::ir::{MmaAccumulator, MmaType};

/// What a product is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Type of A's elements.
    pub a: MmaType,
    /// Type of B's elements.
    pub b: MmaType,
    /// Type of D's elements.
    pub d: MmaAccumulator,
    /// Whether A is taken with the other sign.
    pub negate_a: bool,
    /// Whether B is taken with the other sign.
    pub negate_b: bool,
    /// Whether D is added to; otherwise what it held is not looked at.
    pub accumulate: bool,
    /// Whether integers are clamped instead of wrapping.
    pub saturate: bool,
}

/// A product that there is none of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProductError {
    /// Types or modifiers that do not go together.
    #[error("there is no such product: {product:?}")]
    Types {
        /// What was asked for.
        product: Product,
    },
    /// A width that there is not for these types.
    #[error("a product of {a:?} cannot be {n} columns wide")]
    Columns {
        /// Columns of D.
        n: usize,
        /// Type of A's elements.
        a: MmaType,
    },
    /// Matrices that do not fit each other.
    #[error("A has {a} rows, B has {b}, D has {d} elements; up to 64, n, and n for each row of A are needed")]
    Shapes {
        /// Rows of A.
        a: usize,
        /// Rows of B.
        b: usize,
        /// Elements of D.
        d: usize,
    },
}

impl Product {
    /// Whether the ISA has this product for `n` columns.
    ///
    /// # Errors
    /// If not.
    pub fn check(self, n: usize) -> Result<(), ProductError> {
        use MmaAccumulator::{F16 as DF16, F32 as DF32, S32 as DS32};
        use MmaType::{Bf16, E4m3, E5m2, F16, S8, Tf32, U8};
        let integers = self.d == DS32;
        let types = match (self.a, self.b) {
            (F16, F16) => matches!(self.d, DF16 | DF32),
            (Bf16, Bf16) | (Tf32, Tf32) => self.d == DF32,
            (E4m3 | E5m2, E4m3 | E5m2) => matches!(self.d, DF16 | DF32),
            (S8 | U8, S8 | U8) => integers,
            _ => false,
        };
        if !types || self.saturate && !integers || integers && (self.negate_a || self.negate_b) {
            return Err(ProductError::Types { product: self });
        }
        let step = if integers && n > 32 { 16 } else { 8 };
        if !(8..=256).contains(&n) || !n.is_multiple_of(step) {
            return Err(ProductError::Columns { n, a: self.a });
        }
        Ok(())
    }

    /// K: elements of a row.
    const fn k(self) -> usize {
        self.a.k() as usize
    }
}

/// A tensor core. It remembers the last B: the warps of a warpgroup multiply with the same one after another.
#[derive(Debug, Default)]
pub struct TensorCore {
    b: Option<(Matrix, MmaType, bool, hopper::Operand)>,
}

impl TensorCore {
    /// Computes `product` into `d`: rows of N elements, as their bits (f16 in the lower half), one for each row of A:
    /// all 64, or those that a warp holds.
    ///
    /// # Errors
    /// If there is no such product, or the matrices do not fit each other.
    pub fn multiply(
        &mut self,
        product: Product,
        a: &Matrix,
        b: &Matrix,
        d: &mut [u32],
        numerics: Numerics,
    ) -> Result<(), ProductError> {
        let n = b.rows.len();
        product.check(n)?;
        if a.rows.is_empty() || a.rows.len() > M || d.len() != a.rows.len() * n {
            return Err(ProductError::Shapes { a: a.rows.len(), b: n, d: d.len() });
        }
        if !product.accumulate {
            d.fill(0);
        }
        match numerics {
            _ if product.d == MmaAccumulator::S32 => integer::multiply(product, a, b, d),
            Numerics::Exact => exact::multiply(product, a, b, d),
            Numerics::Hopper => {
                let a = hopper::Operand::new(a, product.a, product.negate_a, false);
                if let (Some(a), Some(b)) = (a, self.unpacked(b, product)) {
                    hopper::multiply(product, &a, b, d);
                }
            }
        }
        Ok(())
    }

    /// B with its numbers.
    fn unpacked(&mut self, b: &Matrix, product: Product) -> Option<&hopper::Operand> {
        let (ty, negate) = (product.b, product.negate_b);
        let is_known = self
            .b
            .as_ref()
            .is_some_and(|(matrix, of, negated, _)| (*of, *negated) == (ty, negate) && matrix.rows == b.rows);
        if !is_known {
            self.b = Some((b.clone(), ty, negate, hopper::Operand::new(b, ty, negate, true)?));
        }
        self.b.as_ref().map(|(.., operand)| operand)
    }
}

const fn format(ty: MmaType) -> Option<Format> {
    match ty {
        MmaType::F16 => Some(Format::F16),
        MmaType::Bf16 => Some(Format::BF16),
        MmaType::Tf32 => Some(Format::TF32),
        MmaType::E4m3 => Some(Format::E4M3),
        MmaType::E5m2 => Some(Format::E5M2),
        MmaType::S8 | MmaType::U8 => None,
    }
}

/// The bits of element `k` of a row.
fn element(row: &[u8; ROW], bytes: usize, k: usize) -> u32 {
    match bytes {
        1 => row[k].into(),
        2 => u16::from_le_bytes([row[2 * k], row[2 * k + 1]]).into(),
        _ => u32::from_le_bytes([row[4 * k], row[4 * k + 1], row[4 * k + 2], row[4 * k + 3]]),
    }
}

/// Element `k` of row `r` at `r * stride_r + k * stride_k`, as what `read` makes of its bits.
fn unpack<T: Copy + Default>(
    matrix: &Matrix,
    bytes: usize,
    by_columns: bool,
    read: impl Fn(u32) -> T,
) -> Vec<T> {
    let (rows, k) = (matrix.rows.len(), ROW / bytes);
    let mut values = vec![T::default(); rows * k];
    for (r, row) in matrix.rows.iter().enumerate() {
        for k_index in 0..k {
            let at = if by_columns { k_index * rows + r } else { r * k + k_index };
            values[at] = read(element(row, bytes, k_index));
        }
    }
    values
}

#[cfg(test)]
mod tests;
