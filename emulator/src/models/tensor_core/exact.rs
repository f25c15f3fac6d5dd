//! Exact products, summed in f64 and rounded once, to nearest even.

use super::{Product, format, unpack};
use crate::ir::MmaAccumulator;
use crate::models::convert::{Format, Round};
use crate::models::descriptor::Matrix;

pub(super) fn multiply(product: Product, a: &Matrix, b: &Matrix, d: &mut [u32]) {
    let (Some(a_format), Some(b_format)) = (format(product.a), format(product.b)) else { return };
    let (n, k, bytes) = (b.rows.len(), product.k(), product.a.bytes() as usize);
    let sign = if product.negate_a != product.negate_b { -1.0 } else { 1.0 };
    let a = unpack(a, bytes, false, |bits| sign * a_format.to_f64(bits.into()));
    let b = unpack(b, bytes, true, |bits| b_format.to_f64(bits.into()));
    let mut sums = vec![0.0; n];
    for (row, d) in a.chunks_exact(k).zip(d.chunks_exact_mut(n)) {
        for (sum, &d) in sums.iter_mut().zip(&*d) {
            *sum = match product.d {
                MmaAccumulator::F16 => Format::F16.to_f64(d.into()),
                _ => f32::from_bits(d).into(),
            };
        }
        for (&x, column) in row.iter().zip(b.chunks_exact(n)) {
            for (sum, &y) in sums.iter_mut().zip(column) {
                *sum += x * y;
            }
        }
        for (d, &sum) in d.iter_mut().zip(&sums) {
            *d = match product.d {
                MmaAccumulator::F16 => Format::F16.from_f64(sum, Round::NearestEven, false) as u32,
                _ if sum.is_nan() => 0x7FFF_FFFF,
                _ => (sum as f32).to_bits(),
            };
        }
    }
}
