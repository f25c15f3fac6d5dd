//! Whether the memory of a call is what the problem needs: large enough, aligned, apart, on the right device.

use std::ops::Range;

use crate::Device;
use crate::bias::{self, BiasView};
use crate::driver::Location;
use crate::error::{Error, Operand, Result};
use crate::lse::LseView;
use crate::problem::Problem;
use crate::tensor::TensorView;
use crate::tensor_map;

const OPERANDS: [Operand; 4] = [Operand::Q, Operand::K, Operand::V, Operand::Out];

/// An array of a call: numbers of 4 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) operand: Operand,
    pub(crate) ptr: u64,
    /// How many there are.
    pub(crate) found: usize,
    /// How many the problem needs.
    pub(crate) expected: usize,
}

/// Checks address and size of q, k, v, out, lse and arrays, and that outputs overlap nothing. Asks no device.
pub(crate) fn extents(
    problem: &Problem,
    views: [&TensorView<'_>; 4],
    lse: Option<&LseView<'_>>,
    arrays: &[Option<Numbers>],
    bias: Option<&BiasView<'_>>,
) -> Result<()> {
    let layouts = [&problem.q, &problem.k, &problem.v, &problem.out];
    let mut used = [const { 0..0 }; 4];
    for (i, operand) in OPERANDS.into_iter().enumerate() {
        let (needed, view) = (layouts[i].span_bytes()?, views[i]);
        used[i] = extent(operand, view.ptr(), view.bytes(), needed, tensor_map::ALIGNMENT)?;
    }
    let [q, k, v, out] = &used;
    let inputs = [(Operand::Q, q), (Operand::K, k), (Operand::V, v)];
    apart((Operand::Out, out), &inputs)?;
    lengths_of_arrays(arrays)?;
    let bias = match (bias, problem.features.bias) {
        (Some(view), Some(layout)) => {
            extent(Operand::Bias, view.ptr(), view.bytes(), layout.span_bytes()?, bias::ALIGNMENT)?
        }
        _ => 0..0,
    };
    let bias = [(Operand::Bias, &bias)];
    apart((Operand::Out, out), &bias)?;
    if let Some(lse) = lse {
        let alignment = align_of::<f32>() as u64;
        let lse = extent(Operand::Lse, lse.ptr(), lse.bytes(), problem.lse_bytes()?, alignment)?;
        apart((Operand::Lse, &lse), &inputs)?;
        apart((Operand::Lse, &lse), &[(Operand::Out, out)])?;
        apart((Operand::Lse, &lse), &bias)?;
        apart_from_arrays((Operand::Lse, &lse), arrays)?;
    }
    apart_from_arrays((Operand::Out, out), arrays)
}

/// Checks that arrays have as many numbers as are needed, where numbers may be.
pub(crate) fn lengths_of_arrays(arrays: &[Option<Numbers>]) -> Result<()> {
    for &Numbers { operand, ptr, found, expected } in arrays.iter().flatten() {
        if found != expected {
            return Err(Error::ArrayLength { operand, expected, found });
        }
        extent(operand, ptr, 4 * found, 4 * expected, 4)?;
    }
    Ok(())
}

/// Checks that an output overlaps no array.
pub(crate) fn apart_from_arrays(output: (Operand, &Range<u64>), arrays: &[Option<Numbers>]) -> Result<()> {
    let overlaps = |array: &&Numbers| {
        let end = array.ptr.saturating_add(4 * array.found as u64);
        array.ptr < output.1.end && output.1.start < end
    };
    match arrays.iter().flatten().find(overlaps) {
        Some(array) => Err(Error::Aliasing { output: output.0, other: array.operand }),
        None => Ok(()),
    }
}

/// Checks that all memory is of `device`. It asks the driver, which is quick and allowed while recording a graph.
pub(crate) fn residence(
    device: &Device,
    views: [&TensorView<'_>; 4],
    lse: Option<&LseView<'_>>,
    arrays: &[Option<Numbers>],
    bias: Option<&BiasView<'_>>,
) -> Result<()> {
    let tensors = OPERANDS.into_iter().zip(views).filter(|(_, view)| !view.shape().is_empty());
    let addresses = tensors.map(|(operand, view)| (operand, view.ptr()));
    let arrays = addresses_of_arrays(arrays);
    let bias = bias.filter(|bias| !bias.layout().sizes.contains(&0)).map(|bias| (Operand::Bias, bias.ptr()));
    of_device(device, addresses.chain(lse.map(|lse| (Operand::Lse, lse.ptr()))).chain(arrays).chain(bias))
}

/// The arrays that have numbers, and where those are.
pub(crate) fn addresses_of_arrays(arrays: &[Option<Numbers>]) -> impl Iterator<Item = (Operand, u64)> {
    arrays.iter().flatten().filter(|array| array.found > 0).map(|array| (array.operand, array.ptr))
}

/// Checks that these addresses are of `device`, as [`residence`] does.
pub(crate) fn of_device(device: &Device, addresses: impl Iterator<Item = (Operand, u64)>) -> Result<()> {
    for (operand, ptr) in addresses {
        match device.backend().locate(ptr)? {
            Location::ThisDevice => {}
            Location::OtherDevice(found) => {
                let expected = device.properties().ordinal;
                return Err(Error::WrongDevice { operand, ptr, found, expected });
            }
            Location::NotDevice => return Err(Error::NotDevicePointer { operand, ptr }),
        }
    }
    Ok(())
}

/// The addresses that an operand uses; those of an empty one do not matter.
pub(crate) fn extent(
    operand: Operand,
    ptr: u64,
    given: usize,
    needed: usize,
    required: u64,
) -> Result<Range<u64>> {
    if needed == 0 {
        return Ok(0..0);
    }
    if ptr == 0 {
        return Err(Error::NullPointer { operand });
    }
    if !ptr.is_multiple_of(required) {
        return Err(Error::Misaligned { operand, ptr, required });
    }
    if needed > given {
        return Err(Error::TooSmall { operand, needed, given });
    }
    // A range that wraps around the address space is no memory.
    let end = ptr.checked_add(needed as u64).ok_or(Error::NotDevicePointer { operand, ptr })?;
    Ok(ptr..end)
}

/// Checks that an output overlaps none of the others.
pub(crate) fn apart(output: (Operand, &Range<u64>), others: &[(Operand, &Range<u64>)]) -> Result<()> {
    match others.iter().find(|(_, other)| other.start < output.1.end && output.1.start < other.end) {
        Some(&(other, _)) => Err(Error::Aliasing { output: output.0, other }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::{Mock, OTHER_DEVICE};
    use crate::{Dtype, Order, Shape, Tensor, TensorLayout};

    const SHAPE: Shape = Shape::new(1, 64, 2, 64);
    const BYTES: usize = 2 * 64 * 2 * 64;
    const LSE_BYTES: usize = 4 * 64 * 2;

    fn problem() -> Problem {
        let layout = TensorLayout::packed(Dtype::F16, SHAPE, Order::Bshd);
        Problem::new(layout, layout, layout, layout, false, None).unwrap()
    }

    fn view(ptr: u64, bytes: usize) -> TensorView<'static> {
        let strides = Order::Bshd.strides(SHAPE);
        // SAFETY: nothing is launched with it.
        unsafe { TensorView::from_raw_parts(ptr, bytes, Dtype::F16, SHAPE, strides) }
    }

    /// Checks q, k, v, out at these addresses, and the log-sum-exp if given.
    fn check(addresses: [u64; 4], lse: Option<(u64, usize)>) -> Result<()> {
        let [q, k, v, out] = addresses.map(|ptr| view(ptr, BYTES));
        // SAFETY: nothing is launched with it.
        let lse = lse.map(|(ptr, bytes)| unsafe { LseView::from_raw_parts(ptr, bytes) });
        extents(&problem(), [&q, &k, &v, &out], lse.as_ref(), &[], None)
    }

    const Q: u64 = 0x10_0000;
    const K: u64 = 0x20_0000;
    const V: u64 = 0x30_0000;
    const OUT: u64 = 0x40_0000;
    const LSE: u64 = 0x50_0000;

    #[test]
    fn separate_memory_passes_and_inputs_may_be_one() {
        assert_eq!(check([Q, K, V, OUT], Some((LSE, LSE_BYTES))), Ok(()));
        assert_eq!(check([Q, Q, Q, OUT], None), Ok(()));
        assert_eq!(check([Q, K, V, Q + BYTES as u64], Some((Q - LSE_BYTES as u64, LSE_BYTES))), Ok(()));
    }

    #[test]
    fn null_pointers_are_refused() {
        assert_eq!(check([0, K, V, OUT], None), Err(Error::NullPointer { operand: Operand::Q }));
        assert_eq!(
            check([Q, K, V, OUT], Some((0, LSE_BYTES))),
            Err(Error::NullPointer { operand: Operand::Lse })
        );
    }

    #[test]
    fn addresses_are_aligned() {
        let misaligned = |operand, ptr, required| Err(Error::Misaligned { operand, ptr, required });
        assert_eq!(check([Q, K + 8, V, OUT], None), misaligned(Operand::K, K + 8, 16));
        assert_eq!(check([Q, K, V, OUT], Some((LSE + 2, LSE_BYTES))), misaligned(Operand::Lse, LSE + 2, 4));
        assert_eq!(check([Q, K, V, OUT], Some((LSE + 4, LSE_BYTES))), Ok(()));
    }

    #[test]
    fn memory_is_large_enough() {
        let small = view(V, BYTES - 1);
        let expected = Error::TooSmall { operand: Operand::V, needed: BYTES, given: BYTES - 1 };
        let views = [&view(Q, BYTES), &view(K, BYTES), &small, &view(OUT, BYTES)];
        let result = extents(&problem(), views, None, &[], None);
        assert_eq!(result, Err(expected));
        let expected = Error::TooSmall { operand: Operand::Lse, needed: LSE_BYTES, given: LSE_BYTES - 4 };
        assert_eq!(check([Q, K, V, OUT], Some((LSE, LSE_BYTES - 4))), Err(expected));
    }

    #[test]
    fn memory_does_not_wrap_around() {
        let ptr = u64::MAX - 15;
        assert_eq!(check([Q, ptr, V, OUT], None), Err(Error::NotDevicePointer { operand: Operand::K, ptr }));
    }

    #[test]
    fn outputs_overlap_nothing() {
        let aliasing = |output, other| Err(Error::Aliasing { output, other });
        assert_eq!(check([Q, K, V, Q], None), aliasing(Operand::Out, Operand::Q));
        assert_eq!(check([Q, K, V, K + BYTES as u64 - 16], None), aliasing(Operand::Out, Operand::K));
        assert_eq!(check([Q, K, V, V - BYTES as u64 + 16], None), aliasing(Operand::Out, Operand::V));
        assert_eq!(check([Q, K, V, OUT], Some((V + 16, LSE_BYTES))), aliasing(Operand::Lse, Operand::V));
        assert_eq!(check([Q, K, V, OUT], Some((OUT, LSE_BYTES))), aliasing(Operand::Lse, Operand::Out));
    }

    const USED: u64 = 0x60_0000;

    /// Checks a good call with an array of 5 numbers, of which it is given `found`.
    fn check_array(ptr: u64, found: usize, lse: bool) -> Result<()> {
        let views = [Q, K, V, OUT].map(|ptr| view(ptr, BYTES));
        // SAFETY: nothing is launched with it.
        let lse = lse.then(|| unsafe { LseView::from_raw_parts(LSE, LSE_BYTES) });
        let array = Numbers { operand: Operand::UsedKv, ptr, found, expected: 5 };
        extents(&problem(), views.each_ref(), lse.as_ref(), &[None, Some(array)], None)
    }

    #[test]
    fn arrays_have_as_many_numbers_as_are_needed() {
        for lse in [false, true] {
            assert_eq!(check_array(USED, 5, lse), Ok(()));
            for found in [0, 4, 6, usize::MAX] {
                let expected = Error::ArrayLength { operand: Operand::UsedKv, expected: 5, found };
                assert_eq!(check_array(USED, found, lse), Err(expected));
            }
        }
    }

    #[test]
    fn arrays_are_aligned_memory_apart_from_outputs() {
        let operand = Operand::UsedKv;
        assert_eq!(check_array(0, 5, false), Err(Error::NullPointer { operand }));
        let ptr = USED + 2;
        assert_eq!(check_array(ptr, 5, false), Err(Error::Misaligned { operand, ptr, required: 4 }));
        let ptr = u64::MAX - 15;
        assert_eq!(check_array(ptr, 5, true), Err(Error::NotDevicePointer { operand, ptr }));
        // Two arrays, or an array and an input, may share memory.
        assert_eq!(check_array(Q, 5, true), Ok(()));
        let aliasing = |output| Err(Error::Aliasing { output, other: operand });
        for (at, bytes, output) in [(OUT, BYTES, Operand::Out), (LSE, LSE_BYTES, Operand::Lse)] {
            let end = at + bytes as u64;
            assert_eq!(check_array(at - 16, 5, true), aliasing(output));
            assert_eq!(check_array(end - 4, 5, true), aliasing(output));
            assert_eq!(check_array(at - 20, 5, true), Ok(()));
            assert_eq!(check_array(end, 5, true), Ok(()));
        }
    }

    #[test]
    fn arrays_are_of_the_stream_s_device() {
        let (_mock, device) = Mock::device();
        let tensor = Tensor::zeros(&device, Dtype::F16, SHAPE, Order::Bshd).unwrap();
        let here = tensor.view();
        let check = |ptr, found| {
            let array = Numbers { operand: Operand::Sinks, ptr, found, expected: found };
            residence(&device, [&here; 4], None, &[Some(array)], None)
        };
        assert_eq!(check(tensor.ptr(), 4), Ok(()));
        let (operand, ptr) = (Operand::Sinks, OTHER_DEVICE);
        assert_eq!(check(ptr, 4), Err(Error::WrongDevice { operand, ptr, found: 1, expected: 0 }));
        let ptr = 0x7fff_0000_0000;
        assert_eq!(check(ptr, 4), Err(Error::NotDevicePointer { operand, ptr }));
        assert_eq!(check(ptr, 0), Ok(()), "an empty array lies nowhere");
    }

    #[test]
    fn memory_is_of_the_stream_s_device() {
        let (_mock, device) = Mock::device();
        let tensor = Tensor::zeros(&device, Dtype::F16, SHAPE, Order::Bshd).unwrap();
        let here = tensor.view();
        let check =
            |other: &TensorView<'_>| residence(&device, [&here, other, &here, &here], None, &[], None);
        assert_eq!(check(&here), Ok(()));
        let ptr = OTHER_DEVICE;
        let expected = Error::WrongDevice { operand: Operand::K, ptr, found: 1, expected: 0 };
        assert_eq!(check(&view(ptr, BYTES)), Err(expected));
        let ptr = 0x7fff_0000_0000;
        assert_eq!(check(&view(ptr, BYTES)), Err(Error::NotDevicePointer { operand: Operand::K, ptr }));
        // SAFETY: nothing is launched with it.
        let lse = unsafe { LseView::from_raw_parts(ptr, LSE_BYTES) };
        let expected = Error::NotDevicePointer { operand: Operand::Lse, ptr };
        assert_eq!(residence(&device, [&here; 4], Some(&lse), &[], None), Err(expected));
    }
}
