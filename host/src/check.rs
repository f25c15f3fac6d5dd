//! Whether the memory of a call is what the problem needs: large enough, aligned, apart, on the right device.

use std::ops::Range;

use crate::Device;
use crate::driver::Location;
use crate::error::{Error, Operand, Result};
use crate::lse::LseView;
use crate::problem::Problem;
use crate::tensor::TensorView;
use crate::tensor_map;

const OPERANDS: [Operand; 4] = [Operand::Q, Operand::K, Operand::V, Operand::Out];

/// Checks address and size of q, k, v, out and lse, and that outputs overlap nothing. Asks no device.
pub(crate) fn extents(problem: &Problem, views: [&TensorView<'_>; 4], lse: Option<&LseView<'_>>) -> Result<()> {
    let layouts = [&problem.q, &problem.k, &problem.v, &problem.out];
    let mut used = [const { 0..0 }; 4];
    for (i, operand) in OPERANDS.into_iter().enumerate() {
        let (needed, view) = (layouts[i].span_bytes()?, views[i]);
        used[i] = extent(operand, view.ptr(), view.bytes(), needed, tensor_map::ALIGNMENT)?;
    }
    let [q, k, v, out] = &used;
    let inputs = [(Operand::Q, q), (Operand::K, k), (Operand::V, v)];
    apart((Operand::Out, out), &inputs)?;
    if let Some(lse) = lse {
        let alignment = align_of::<f32>() as u64;
        let lse = extent(Operand::Lse, lse.ptr(), lse.bytes(), problem.lse_bytes()?, alignment)?;
        apart((Operand::Lse, &lse), &inputs)?;
        apart((Operand::Lse, &lse), &[(Operand::Out, out)])?;
    }
    Ok(())
}

/// Checks that all memory is of `device`. It asks the driver, which is quick and allowed while recording a graph.
pub(crate) fn residence(device: &Device, views: [&TensorView<'_>; 4], lse: Option<&LseView<'_>>) -> Result<()> {
    let tensors = OPERANDS.into_iter().zip(views).filter(|(_, view)| !view.shape().is_empty());
    let addresses = tensors.map(|(operand, view)| (operand, view.ptr()));
    for (operand, ptr) in addresses.chain(lse.map(|lse| (Operand::Lse, lse.ptr()))) {
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
fn extent(operand: Operand, ptr: u64, given: usize, needed: usize, required: u64) -> Result<Range<u64>> {
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

fn apart(output: (Operand, &Range<u64>), others: &[(Operand, &Range<u64>)]) -> Result<()> {
    match others.iter().find(|(_, other)| other.start < output.1.end && output.1.start < other.end) {
        Some(&(other, _)) => Err(Error::Aliasing { output: output.0, other }),
        None => Ok(()),
    }
}
