//! The shapes that are timed: 16384 tokens and 2048 columns in all, and a few small ones.

use crate::cases::Case;

const TOKENS: usize = 16_384;
const COLUMNS: usize = 2_048;

/// Sequence lengths of the grid.
pub const LENGTHS: [usize; 6] = [512, 1024, 2048, 4096, 8192, 16_384];
/// Those of a quick run.
pub const QUICK_LENGTHS: [usize; 2] = [1024, 8192];
/// Head dims of the grid.
pub const HEAD_DIMS: [usize; 3] = [64, 128, 256];
/// (batch, heads, seqlen, head_dim) of the small shapes.
pub const SMALL: [(usize, usize, usize, usize); 5] =
    [(1, 8, 512, 64), (2, 8, 512, 64), (2, 8, 512, 128), (4, 16, 1024, 64), (2, 16, 2048, 64)];

/// Self-attention of `heads` heads over `batch` sequences of `seqlen` tokens.
pub fn cell(batch: usize, heads: usize, seqlen: usize, head_dim: usize, causal: bool) -> Case {
    Case {
        batch,
        seqlen_q: seqlen,
        seqlen_kv: seqlen,
        heads_q: heads,
        heads_kv: heads,
        head_dim,
        causal,
        ..Case::default()
    }
}

/// The grid over `lengths` under each of `masks` (causal or not).
pub fn large(lengths: &[usize], masks: &[bool]) -> Vec<Case> {
    let mut cells = Vec::new();
    for &causal in masks {
        for head_dim in HEAD_DIMS {
            for &seqlen in lengths {
                cells.push(cell(TOKENS / seqlen, COLUMNS / head_dim, seqlen, head_dim, causal));
            }
        }
    }
    cells
}

/// The small shapes under each of `masks`.
pub fn small(masks: &[bool]) -> Vec<Case> {
    let mut cells = Vec::new();
    for &causal in masks {
        cells.extend(
            SMALL.map(|(batch, heads, seqlen, head_dim)| cell(batch, heads, seqlen, head_dim, causal)),
        );
    }
    cells
}

/// Everything that a full run times.
pub fn full(masks: &[bool]) -> Vec<Case> {
    [large(&LENGTHS, masks), small(masks)].concat()
}

/// Floating-point operations of the forward pass: two products of 2 each; half under a causal mask on a square.
pub fn flops(case: &Case) -> f64 {
    let pairs = case.seqlen_q as f64 * case.seqlen_kv as f64;
    let visible = if case.causal && case.seqlen_q == case.seqlen_kv { pairs / 2.0 } else { pairs };
    4.0 * case.batch as f64 * case.heads_q as f64 * visible * case.head_dim as f64
}
