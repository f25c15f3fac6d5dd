//! Which CTA computes what: the order of work tiles, and the keys that a tile of queries sees. Pure.

use core::num::NonZeroU32;

use crate::params::FwdParams;

/// Longest sequence: positions and their differences, and a tile beyond them, stay within 32 bits.
pub const MAX_SEQLEN: u32 = 1 << 30;

/// `block_m` query rows of one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkTile {
    /// Index of the tile along the queries.
    pub m_block: u32,
    /// Query head.
    pub head: u32,
    /// The K/V head that it shares.
    pub head_kv: u32,
    /// Sequence.
    pub batch: u32,
}

/// The order in which a persistent grid takes the work tiles.
///
/// Heads are taken in sections, small enough that K and V of a section stay in L2. Full attention goes through a
/// section head by head. Causal tiles differ in cost, the last rows of a head being the longest: all heads of a
/// section start with those, and every second round runs backwards over the CTAs, so that who got more gets less.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    m_blocks: NonZeroU32,
    heads_q: NonZeroU32,
    gqa_ratio: NonZeroU32,
    section: u32,
    total_heads: u32,
    causal: bool,
}

/// A divisor: a launch has no zeros here, and the kernel has no code for them.
const fn divisor(x: u32) -> NonZeroU32 {
    match NonZeroU32::new(x) {
        Some(x) => x,
        None => NonZeroU32::MIN,
    }
}

impl Schedule {
    /// The schedule of a launch.
    #[inline(always)]
    pub const fn new(params: &FwdParams, causal: bool) -> Self {
        Schedule {
            m_blocks: divisor(params.m_blocks),
            heads_q: divisor(params.heads_q),
            gqa_ratio: divisor(params.gqa_ratio),
            section: params.section,
            total_heads: params.heads_q * params.batch,
            causal,
        }
    }

    /// Work tiles in all.
    #[inline(always)]
    pub const fn tiles(&self) -> u32 {
        self.m_blocks.get() * self.total_heads
    }

    /// Index of the work tile that CTA `cta` of `ctas` takes in round `round`; beyond [`Self::tiles`] it has none
    /// in this round, and none later.
    #[inline(always)]
    pub const fn index(&self, round: u32, cta: u32, ctas: u32) -> u32 {
        let place = if self.causal && round % 2 == 1 { ctas - 1 - cta } else { cta };
        round * ctas + place
    }

    /// The work tile at `index`.
    #[inline(always)]
    pub fn tile(&self, index: u32) -> WorkTile {
        let (m_block, flat_head) = if self.causal {
            let section_tiles = divisor(self.section * self.m_blocks.get());
            let first_head = index / section_tiles * self.section;
            let heads = divisor(self.section.min(self.total_heads - first_head));
            let within = index % section_tiles;
            (self.m_blocks.get() - 1 - within / heads, first_head + within % heads)
        } else {
            (index % self.m_blocks, index / self.m_blocks)
        };
        let head = flat_head % self.heads_q;
        WorkTile { m_block, head, head_kv: head / self.gqa_ratio, batch: flat_head / self.heads_q }
    }
}

/// The key blocks that a tile of queries visits, from `end - 1` down to 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyBlocks {
    /// Number of key blocks with a visible key; 0 if no row of the tile sees any.
    pub end: u32,
    /// Blocks `0..full` need no mask: every row of the tile sees all their keys.
    pub full: u32,
}

impl KeyBlocks {
    /// The key blocks of the query rows `m_block * block_m ..` under a causal mask or none.
    #[inline(always)]
    pub const fn new(m_block: u32, block_m: u32, block_n: u32, seqlen_q: u32, seqlen_kv: u32, causal: bool) -> Self {
        if !causal {
            return KeyBlocks { end: seqlen_kv.div_ceil(block_n), full: seqlen_kv / block_n };
        }
        // Row i sees keys 0..=i + diagonal. Nothing overflows: see MAX_SEQLEN.
        let diagonal = seqlen_kv as i32 - seqlen_q as i32;
        let first_row = (m_block * block_m) as i32;
        let last_row_sees = min(seqlen_kv as i32, first_row + block_m as i32 + diagonal);
        let first_row_sees = min(seqlen_kv as i32, first_row + 1 + diagonal);
        KeyBlocks {
            end: if last_row_sees > 0 { (last_row_sees as u32).div_ceil(block_n) } else { 0 },
            full: if first_row_sees > 0 { first_row_sees as u32 / block_n } else { 0 },
        }
    }
}

const fn min(a: i32, b: i32) -> i32 {
    if a < b { a } else { b }
}
