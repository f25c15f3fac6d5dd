//! `stmatrix` and `ldmatrix`: four 8x8 matrices of 16-bit elements, and their transposes.

use rand::{RngCore, SeedableRng, rngs::StdRng};

use crate::call::{Bytes, Call, Outcome};
use crate::case::Case;

const LANES: usize = 32;
/// Bytes of four matrices.
const BYTES: usize = 512;

/// (row, column) of half `half` of the register that `lane` holds of a matrix.
fn position(lane: usize, half: usize, transposed: bool) -> (usize, usize) {
    let (major, minor) = (lane / 4, 2 * (lane % 4) + half);
    if transposed { (minor, major) } else { (major, minor) }
}

/// Byte of an element: each row of a matrix takes 16 bytes.
fn address(matrix: usize, (row, column): (usize, usize)) -> usize {
    128 * matrix + 16 * row + 2 * column
}

/// (byte in registers, byte in shared memory) of every element; register r of lane l is word `32 * r + l`.
fn pairs(transposed: bool) -> impl Iterator<Item = (usize, usize)> {
    (0..4 * LANES * 2).map(move |i| {
        let (matrix, lane, half) = (i / 2 / LANES, i / 2 % LANES, i % 2);
        (2 * i, address(matrix, position(lane, half, transposed)))
    })
}

/// What `call`, of a symbol of this file, must give: straight, then transposed.
pub(crate) fn predict(call: &Call) -> Outcome {
    let stores = call.symbol == "probe_matrix_store";
    let mut output = vec![0; 2 * BYTES];
    for (half, transposed) in output.chunks_mut(BYTES).zip([false, true]) {
        for (register, shared) in pairs(transposed) {
            let (from, to) = if stores { (register, shared) } else { (shared, register) };
            half[to..to + 2].copy_from_slice(&call.input.0[from..from + 2]);
        }
    }
    Outcome { output: Bytes(output), memory: None }
}

fn call(symbol: &str, bytes: usize) -> Call {
    let mut input = vec![0; BYTES];
    StdRng::seed_from_u64(1).fill_bytes(&mut input);
    Call {
        symbol: symbol.into(),
        bytes: bytes as u32,
        input: Bytes(input),
        output_bytes: 2 * BYTES,
        ..Call::default()
    }
}

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::single("matrix_store", || call("probe_matrix_store", 2 * BYTES)),
        Case::single("matrix_load", || call("probe_matrix_load", BYTES)),
    ]
}

/// What is stored and loaded again is what it was, and loaded the other way it is its transpose.
pub(crate) fn loads_undo_stores() -> Result<(), String> {
    let store = call("probe_matrix_store", 2 * BYTES);
    let [straight, transposed] =
        [0, BYTES].map(|at| Bytes(predict(&store).output.0[at..at + BYTES].to_vec()));
    let load = |input| predict(&Call { input, ..call("probe_matrix_load", BYTES) }).output.0;
    let (straight, transposed) = (load(straight), load(transposed));
    let whole = straight[..BYTES] == store.input.0 && transposed[BYTES..] == store.input.0;
    let crossed = straight[BYTES..] == transposed[..BYTES];
    match (whole, crossed, straight[..BYTES] == transposed[..BYTES]) {
        (true, true, false) => Ok(()),
        other => Err(format!("(whole, crossed, equal) is {other:?}")),
    }
}
