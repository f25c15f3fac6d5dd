//! Weights that are left out at random.

use flashcore_kernels::divisor::Divisor;
use flashcore_kernels::dropout::{self, ALL_KEPT};
use flashcore_kernels::entry::DROPOUT_MASK_CTAS_PER_SM;
use flashcore_kernels::params::DropoutMaskParams;

use crate::Stream;
use crate::array::{Array, ArrayView};
use crate::check::{extent, of_device};
use crate::error::{Dim, Error, Operand, Result};
use crate::problem::MAX_DIM;

/// Queries of all heads are counted in i32.
const MAX_ROWS: u64 = i32::MAX as u64;

/// Which weights are left out: with which probability, and by which random numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    p: f32,
    seed: u64,
    offset: u32,
}

impl Dropout {
    /// Each weight is left out with probability `p`, at least 0 and below 1, by the random numbers of `seed`. `1 - p` is
    /// rounded to a multiple of 1/256, of which it is at least one; where that is 1, nothing is left out.
    pub const fn new(p: f32, seed: u64) -> Self {
        Dropout { p, seed, offset: 0 }
    }

    /// Other random numbers of the same seed: say, those of a step or of a layer.
    pub const fn offset(self, offset: u32) -> Self {
        Dropout { offset, ..self }
    }

    /// The probability that was asked for.
    pub const fn p(&self) -> f32 {
        self.p
    }

    /// How many of 256 weights are kept on average.
    fn threshold(&self) -> u32 {
        let all = ALL_KEPT as f32;
        ((1.0 - self.p) * all).round().clamp(1.0, all) as u32
    }

    /// Whether it leaves anything out.
    pub(crate) fn drops(&self) -> bool {
        self.threshold() < ALL_KEPT
    }

    pub(crate) fn check(&self) -> Result<()> {
        if (0.0..1.0).contains(&self.p) { Ok(()) } else { Err(Error::DropoutRate { p: self.p }) }
    }

    /// What a kernel is told.
    pub(crate) fn params(&self) -> dropout::Dropout {
        dropout::Dropout::new(self.seed, self.offset, self.threshold())
    }
}

/// Which weights a call with this dropout keeps (1) and which it leaves out (0), in new memory: contiguous (batch,
/// heads_q, seqlen_q, seqlen_kv), of these sizes. For checks, and for who computes attention, or its gradients, in other
/// ways. Of packed sequences, `batch` are all sequences, and the sizes those of the longest.
///
/// ```
/// use flashcore::{Device, Dropout, dropout_mask};
///
/// # fn main() -> flashcore::Result<()> {
/// let stream = Device::emulated().stream()?;
/// let mask = dropout_mask(&stream, Dropout::new(0.25, 42), [1, 2, 30, 50])?.to_vec()?;
/// let kept = mask.iter().filter(|&&kept| kept == 1).count() as f32;
/// assert!((kept / 3000.0 - 0.75).abs() < 0.05);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`dropout_mask_into`], and [`Error::OutOfMemory`].
pub fn dropout_mask(stream: &Stream, dropout: Dropout, sizes: [usize; 4]) -> Result<Array<u8>> {
    let mask = Array::uninit(stream.device(), checked_rows(sizes)? as usize * sizes[3])?;
    dropout_mask_into(stream, dropout, sizes, mask.view())?;
    Ok(mask)
}

/// As [`dropout_mask`], into memory of the caller's. Allocates nothing, waits for nothing, and may be recorded in a CUDA
/// graph.
///
/// # Errors
/// What is wrong with the arguments (see [`enum@Error`]); nothing is launched then.
pub fn dropout_mask_into(
    stream: &Stream,
    dropout: Dropout,
    sizes: [usize; 4],
    mask: ArrayView<'_, u8>,
) -> Result<()> {
    dropout.check()?;
    let [_, _, queries, keys] = sizes;
    let (rows, operand) = (checked_rows(sizes)?, Operand::DropoutMask);
    let (expected, found) = (rows as usize * keys, mask.len());
    if found != expected {
        return Err(Error::ArrayLength { operand, expected, found });
    }
    extent(operand, mask.ptr(), found, expected, 1)?;
    if expected == 0 {
        return Ok(());
    }
    let _entered = stream.device().backend().enter()?;
    of_device(stream.device(), [(operand, mask.ptr())].into_iter())?;
    let grid = rows.min(stream.device().properties().sm_count * DROPOUT_MASK_CTAS_PER_SM);
    let params = DropoutMaskParams {
        mask: mask.ptr(),
        rows,
        keys: keys as u32,
        queries: Divisor::new(queries as u32),
        dropout: dropout.params(),
    };
    // SAFETY: there is a byte for each query and key, and the view's maker vouches for the memory.
    unsafe { stream.launch_dropout_mask(grid, &params) }
}

/// Queries of all heads of all sequences.
fn checked_rows(sizes: [usize; 4]) -> Result<u32> {
    let dims = [Dim::Batch, Dim::Heads, Dim::Queries, Dim::Keys];
    for (dim, value) in dims.into_iter().zip(sizes) {
        if value > MAX_DIM {
            let operand = Operand::DropoutMask;
            return Err(Error::DimensionTooLarge { operand, dim, value, limit: MAX_DIM });
        }
    }
    let [batch, heads, queries, _] = sizes.map(|size| size as u64);
    let rows = (batch * heads).saturating_mul(queries);
    if rows > MAX_ROWS {
        return Err(Error::TooManyTiles { tiles: rows, limit: MAX_ROWS });
    }
    Ok(rows as u32)
}

#[cfg(test)]
mod tests {
    use flashcore_kernels::entry::DROPOUT_MASK;

    use super::*;
    use crate::mock::{Mock, OTHER_DEVICE};

    #[test]
    fn rates_are_probabilities_below_1() {
        for p in [0.0, f32::MIN_POSITIVE, 0.1, 0.999, 1f32.next_down()] {
            assert_eq!(Dropout::new(p, 1).check(), Ok(()));
        }
        for p in [-0.1, 1.0, 2.0, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(Dropout::new(p, 1).check(), Err(Error::DropoutRate { p }));
        }
        let error = Dropout::new(f32::NAN, 1).check();
        assert!(matches!(error, Err(Error::DropoutRate { p }) if p.is_nan()));
    }

    #[test]
    fn rates_are_rounded_and_expectations_kept() {
        for (p, threshold) in [(0.0, 256), (0.001, 256), (0.1, 230), (0.5, 128), (0.995, 1), (0.9999, 1)] {
            let dropout = Dropout::new(p, 1);
            assert_eq!((dropout.threshold(), dropout.drops()), (threshold, threshold < 256), "{p}");
            let expectation = dropout.params().factor * threshold as f32 / 256.0;
            assert!((expectation - 1.0).abs() <= f32::EPSILON, "{p}");
        }
    }

    #[test]
    fn seeds_have_64_bits() {
        let params = Dropout::new(0.5, 0x0123_4567_89AB_CDEF).offset(7).params();
        assert_eq!((params.seed, params.offset), ([0x89AB_CDEF, 0x0123_4567], 7));
    }

    #[test]
    fn masks_are_launched_once_they_are_checked() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        let (dropout, operand) = (Dropout::new(0.5, 1), Operand::DropoutMask);
        let sizes = [2, 3, 5, 7];
        dropout_mask(&stream, dropout, sizes).unwrap();
        let launch = mock.state().launches.pop().expect("a launch");
        assert_eq!((launch.symbol, launch.grid, launch.block), (DROPOUT_MASK.symbol, [30, 1, 1], 128));
        assert_eq!(launch.params[0].len(), size_of::<DropoutMaskParams>());
        assert_eq!(dropout_mask(&stream, dropout, [0, 3, 5, 7]).unwrap().to_vec(), Ok(vec![]));

        let mask = Array::<u8>::from_slice(&device, &[0; 209]).unwrap();
        let short = Error::ArrayLength { operand, expected: 210, found: 209 };
        assert_eq!(dropout_mask_into(&stream, dropout, sizes, mask.view()), Err(short));
        // SAFETY: nothing is launched with them.
        let [null, foreign] = unsafe { [0, OTHER_DEVICE].map(|ptr| ArrayView::from_raw_parts(ptr, 210)) };
        let error = |mask| dropout_mask_into(&stream, dropout, sizes, mask).unwrap_err();
        assert_eq!(error(null), Error::NullPointer { operand });
        let expected = Error::WrongDevice { operand, ptr: OTHER_DEVICE, found: 1, expected: 0 };
        assert_eq!(error(foreign), expected);
        let (dim, value, limit) = (Dim::Keys, MAX_DIM + 1, MAX_DIM);
        let error = dropout_mask(&stream, dropout, [1, 1, 1, value]).unwrap_err();
        assert_eq!(error, Error::DimensionTooLarge { operand, dim, value, limit });
        let error = dropout_mask(&stream, dropout, [1 << 20, 1 << 20, 1 << 30, 1]).unwrap_err();
        assert!(matches!(error, Error::TooManyTiles { limit: MAX_ROWS, .. }), "{error}");
        let rate = Error::DropoutRate { p: 1.0 };
        assert_eq!(dropout_mask(&stream, Dropout::new(1.0, 1), sizes).unwrap_err(), rate);
        assert!(mock.state().launches.is_empty());
    }
}
