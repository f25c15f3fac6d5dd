//! Which thread of a warpgroup holds which element: CUTLASS's `CLayout_64xN` and `ALayout_64x16`.

use flashcore_kernels::layout;

/// (row, column) of register `register` of thread `thread` in the f32 accumulator of m64nN.
pub(crate) fn accumulator(thread: u32, register: u32) -> (u32, u32) {
    let (row, column) = quad(thread);
    // Bit 0 of the register's number: the neighbouring column; bit 1: 8 rows down; the rest: 8 columns on.
    (row + (register & 2) * 4, column + (register & 1) + (register & !3) * 2)
}

/// (row, k) of 16-bit element `element` of thread `thread` in the A fragment of m64k16.
pub(crate) fn a(thread: u32, element: u32) -> (u32, u32) {
    let (row, k) = quad(thread);
    let [odd, down, right] = [0, 1, 2].map(|bit| element >> bit & 1);
    (row + 8 * down, k + odd + 8 * right)
}

/// (row, column) of a thread's first element: 16 rows a warp, four threads a row.
fn quad(thread: u32) -> (u32, u32) {
    (thread / 32 * 16 + thread % 32 / 4, thread % 4 * 2)
}

/// The model against `layout.rs`.
pub(crate) fn are_the_librarys() -> Result<(), String> {
    for thread in 0..128 {
        for register in 0..128 {
            if accumulator(thread, register) != layout::accumulator_element(thread, register) {
                return Err(format!("register {register} of thread {thread} of an accumulator"));
            }
        }
        for element in 0..8 {
            if a(thread, element) != layout::a_element(thread, element) {
                return Err(format!("element {element} of thread {thread} of A"));
            }
        }
    }
    Ok(())
}
