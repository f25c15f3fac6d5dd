//! Which CTA computes what: the order of work tiles, and the keys that a tile of queries sees. Pure.

use core::num::NonZeroU32;

use crate::params::FwdParams;

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

/// Which work tile each CTA of a persistent grid takes in each of its rounds. It is fixed in advance: no counter in
/// memory, so launches need no workspace and are bitwise repeatable.
///
/// Full attention goes through the tiles head by head; neighbouring CTAs share K and V in L2. Where CTAs form
/// clusters, the grid and the tiles of a head are whole clusters (the last tile of a head may lie beyond its end), so
/// that in every round the CTAs of a cluster have tiles of the same head.
///
/// Causal tiles differ in cost: the last rows of a head see the most keys. Heads are taken in *sections*, few enough
/// that their K and V stay in L2. In a section the costliest tiles of all its heads come first, and every second
/// round runs backwards over the CTAs, so that who got more gets less. CTAs that went without in the last round of a
/// section come first in the next one. That is within 1 to 3 % of handing each tile to the first free CTA.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    m_blocks: NonZeroU32,
    heads_q: NonZeroU32,
    gqa_ratio: NonZeroU32,
    /// CTAs of the grid.
    ctas: NonZeroU32,
    /// Heads of a section.
    section: NonZeroU32,
    /// Heads over all sequences.
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
    /// The schedule of a launch of `ctas` CTAs.
    #[inline(always)]
    pub const fn new(params: &FwdParams, causal: bool, ctas: u32) -> Self {
        let total_heads = params.heads_q * params.batch;
        Schedule {
            m_blocks: divisor(params.m_blocks),
            heads_q: divisor(params.heads_q),
            gqa_ratio: divisor(params.gqa_ratio),
            ctas: divisor(ctas),
            section: divisor(if causal { params.section } else { total_heads }),
            total_heads,
            causal,
        }
    }

    /// Work tiles in all.
    #[inline(always)]
    pub const fn tiles(&self) -> u32 {
        self.m_blocks.get() * self.total_heads
    }

    /// Rounds that every CTA goes through.
    #[inline(always)]
    pub const fn rounds(&self) -> u32 {
        self.total_heads.div_ceil(self.section.get()) * self.section_rounds().get()
    }

    /// The work tile that CTA `cta` takes in round `round`, if it takes one.
    #[inline(always)]
    pub fn tile(&self, round: u32, cta: u32) -> Option<WorkTile> {
        let ctas = self.ctas.get();
        let (section, round) = (round / self.section_rounds(), round % self.section_rounds());
        let first_head = section * self.section.get();
        let heads = divisor(self.section.get().min(self.total_heads - first_head));
        // This CTA's place in the order of the round.
        let start = section * (self.section_tiles() % self.ctas) % self.ctas;
        let place = if cta >= start { cta - start } else { cta + ctas - start };
        let place = if self.causal && round % 2 == 1 { ctas - 1 - place } else { place };
        let index = round * ctas + place;
        if index >= heads.get() * self.m_blocks.get() {
            return None;
        }
        let (m_block, head) = if self.causal {
            (self.m_blocks.get() - 1 - index / heads, first_head + index % heads)
        } else {
            (index % self.m_blocks, index / self.m_blocks)
        };
        let (batch, head) = (head / self.heads_q, head % self.heads_q);
        Some(WorkTile { m_block, head, head_kv: head / self.gqa_ratio, batch })
    }

    const fn section_tiles(&self) -> u32 {
        self.section.get() * self.m_blocks.get()
    }

    const fn section_rounds(&self) -> NonZeroU32 {
        divisor(self.section_tiles().div_ceil(self.ctas.get()))
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
    pub const fn new(
        m_block: u32,
        block_m: u32,
        block_n: u32,
        seqlen_q: u32,
        seqlen_kv: u32,
        causal: bool,
    ) -> Self {
        if !causal {
            return KeyBlocks { end: seqlen_kv.div_ceil(block_n), full: seqlen_kv / block_n };
        }
        // Row i sees keys 0..=i + diagonal. Nothing overflows: the host keeps lengths a tile below i32::MAX.
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
