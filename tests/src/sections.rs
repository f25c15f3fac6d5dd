//! Launches whose sections are as short as they get, a head each, so that few CTAs take many work tiles of all kinds in
//! turn: rows that see several key tiles, few keys or none, rows beyond the sequence; and tiles without keys before
//! others, as they come on a GPU where K and V of all heads are more than its L2 holds.

use flashcore::kernels::{Tile, Variant};
use flashcore::{MASK_BLOCK, Plan, Result};
use flashcore_kernels::params::Work;

use crate::cases::Case;
use crate::extras::{Blocks, Extras, PerHead};
use crate::kernel::OnDevice;

/// Cases, each with the number of clusters that share its tiles.
pub fn cases(variant: &Variant) -> Vec<(Case, u32)> {
    let Tile { block_m, block_n, cluster, splits, .. } = variant.tile;
    // Where CTAs share the keys, each visits as many as otherwise, if there are enough.
    let [block_m, block_n, rows] = [block_m, splits * block_n, cluster * block_m].map(|rows| rows as usize);
    let mut lengths = if variant.is_causal() {
        vec![
            (2 * rows, 40, 1), // of two tiles one sees no key, of the other the last rows see some
            (3 * rows - 8, rows - 20, 1), // of three tiles two see none
            (3 * rows - 70, rows + 30, 1), // of three tiles one sees none
            (2 * rows, rows, 3), // some clusters begin with a tile that sees none
            (rows + 9, 3 * block_n + 5, 1),
            (rows, 4 * block_n + 30, 1), // key tiles without a mask, one after another
            (rows, 2 * block_n + 30, 1), // the first rows skip key tiles, in each slot of the ring in turn
        ]
    } else {
        vec![
            (rows + 9, 3 * block_n + 5, 1), // the last rows of the second tile lie beyond the sequence
            (2 * rows - block_m, 20, 1),    // so does all of the last tile, if it is part of a cluster
            (2 * rows + 9, 20, 1),          // the last rows skip a key tile, in each slot of the ring in turn
            (rows + 70, 0, 1),
        ]
    };
    // Where steps may be short and key tiles hold less than the rows of two consumers, others meet at the ends of rows: a
    // second consumer's first step is short, and the first one's whole; and whole where the second sees nothing.
    if variant.has_short_step() && block_n < 2 * 64 {
        lengths.push((rows + 9, 2 * block_n + variant.short_n() as usize + 6, 1));
    }
    let case = |(seqlen_q, seqlen_kv, clusters)| {
        (Case { seqlen_q, seqlen_kv, heads_q: 3, ..Case::of_kernel(variant) }, clusters)
    };
    // A bias of no keys has no tiles: it is another kernel's.
    let has_tiles = |&(_, keys, _): &(usize, usize, u32)| keys > 0 || !variant.has_bias_tiles();
    let mut cases: Vec<_> = lengths.into_iter().filter(has_tiles).map(case).collect();
    if variant.is_general() {
        cases.extend(bands(variant).map(|case| (case, 1)));
    }
    if variant.is_sparse() {
        cases.extend(blocks(variant).map(|case| (case, 1)));
    }
    cases
}

/// Lists of key tiles such that work tiles without any are the first, the last, and among others.
fn blocks(variant: &Variant) -> [Case; 2] {
    let of = PerHead { batch: false, heads: false };
    let blocks = Some(Blocks { of, checkerboard: true });
    // One column of the board: every second tile of queries sees nothing.
    [1, 3].map(|tiles| Case {
        seqlen_q: tiles * MASK_BLOCK + 9,
        seqlen_kv: MASK_BLOCK - 20,
        heads_q: 2,
        extras: Extras { blocks, ranges: None, ..Extras::of_kernel(variant) },
        ..Case::of_kernel(variant)
    })
}

/// Masks under which the consumers of a CTA part: each lets key tiles pass that only another one's rows see.
fn bands(variant: &Variant) -> [Case; 7] {
    let (block_m, block_n) = (variant.tile.block_m.max(128) as usize, variant.tile.block_n as usize);
    let base = Case { seqlen_q: block_m + 72, heads_q: 2, heads_kv: 2, ..Case::of_kernel(variant) };
    // The row, most often a second consumer's first, stands at the first key of a chunk, behind so many others.
    let chunks = |case: Case, row: usize, keys: usize, others: usize| {
        let extras = Extras { chunk: Some(keys), ..case.extras };
        Case { seqlen_kv: case.seqlen_q - row + others * keys, extras, ..case }
    };
    let rows_part = Case { seqlen_q: 96 + 3 * block_n, heads_q: 1, heads_kv: 1, ..base };
    let window = Extras { left: Some(block_n + 30), right: Some(20), ..base.extras };
    [
        chunks(base, 64, block_n, 1),     // they end the work tile before beside this one
        chunks(base, 64, 3 * block_n, 1), // they end it on its own, before so many keys pass
        chunks(base, 64, 3 * block_n, 0), // the first one sees none
        chunks(base, block_m - 64, 3 * block_n, 2), // the last one sees what lies behind all others' keys
        chunks(base, block_m + 64, 3 * block_n, 1), // keys pass after the last work tile
        chunks(rows_part, 96, 3 * block_n, 1), // rows of one consumer: it masks several tiles
        Case { seqlen_kv: 3 * block_n + 136, extras: window, ..base }, // masks at both ends, and tiles without one
    ]
}

/// The plan by which `variant` runs its case, with a section for each head.
///
/// # Errors
/// What the library refuses.
///
/// # Panics
/// If the case is another variant's.
pub fn plan(variant: &Variant, tensors: &OnDevice) -> Result<Plan> {
    let mut plan = tensors.plan_of(variant)?;
    let Work { heads, head_units, .. } = plan.params.work;
    plan.params.work = Work::new(heads, head_units.value, 1, plan.grid / variant.cluster_ctas());
    Ok(plan)
}
