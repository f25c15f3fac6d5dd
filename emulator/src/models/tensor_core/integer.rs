//! Integers: exact, then wrapped or clamped.

use super::{Product, unpack};
use crate::ir::MmaType;
use crate::models::descriptor::Matrix;

pub(super) fn multiply(product: Product, a: &Matrix, b: &Matrix, d: &mut [u32]) {
    let read = |ty| {
        move |bits: u32| {
            if ty == MmaType::S8 { i32::from((bits as u8).cast_signed()) } else { bits.cast_signed() }
        }
    };
    let (n, k) = (b.rows.len(), product.k());
    let (a, b) = (unpack(a, 1, false, read(product.a)), unpack(b, 1, true, read(product.b)));
    let mut sums = vec![0; n];
    for (row, d) in a.chunks_exact(k).zip(d.chunks_exact_mut(n)) {
        // 32 products of at most 2^16 fit easily.
        sums.fill(0);
        for (&x, column) in row.iter().zip(b.chunks_exact(n)) {
            for (sum, &y) in sums.iter_mut().zip(column) {
                *sum += x * y;
            }
        }
        for (d, &sum) in d.iter_mut().zip(&sums) {
            let old = d.cast_signed();
            let new: i32 = if product.saturate { old.saturating_add(sum) } else { old.wrapping_add(sum) };
            *d = new.cast_unsigned();
        }
    }
}
