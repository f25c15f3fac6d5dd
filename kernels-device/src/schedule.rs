//! Which CTA computes what: the order of work tiles, and the keys that a tile of queries sees. Pure.

use crate::band::{Band, Lengths};
use crate::params::{FwdParams, Work};

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
    /// Its queries.
    pub q: Span,
    /// Its keys.
    pub kv: Span,
}

impl WorkTile {
    /// Tile `m_block` of head `head` over all sequences, which are all equally long.
    #[inline(always)]
    pub const fn of_unit(params: &FwdParams, m_block: u32, head: u32) -> Self {
        let (batch, head) = params.heads_q.split(head);
        let head_kv = params.gqa_ratio.quotient(head);
        let (q, kv) = (Span { start: 0, len: params.seqlen_q }, Span { start: 0, len: params.seqlen_kv });
        WorkTile { m_block, head, head_kv, batch, q, kv }
    }
}

/// Rows of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of other sequences before it, where sequences are packed.
    pub start: u32,
    /// How many there are.
    pub len: u32,
}

/// The work tiles that one CTA of a persistent grid takes, in its order. It is fixed in advance: no counter in memory,
/// so launches need no workspace and are bitwise repeatable.
///
/// Work is dealt out to clusters, in [units](Work): the CTA of rank r takes the r-th tile of each unit of its cluster,
/// so that all of the cluster have tiles of the same head at the same time. In each *round* every cluster takes a unit.
///
/// Full attention goes through the units head by head; neighbours share K and V in L2. From round to round clusters
/// move on by some places ([`Work::turn`]): the last tile of a head is often smaller, and would else be the same
/// cluster's for all heads wherever the units of a head divide the clusters.
///
/// Causal tiles differ in cost: the last rows of a head see the most keys. Heads are taken in *sections*, few enough
/// that their K and V stay in L2. In a section the costliest units of all its heads come first, and every second
/// round runs backwards over the clusters, so that who got more gets less. Clusters that went without in the last round
/// of a section come first in the next one. On average that is within 1 % of handing each unit to the first free
/// cluster.
#[derive(Clone, Debug)]
pub struct Tiles<'a> {
    params: &'a FwdParams,
    causal: bool,
    /// CTAs of a cluster, and which of them this is.
    cluster: u32,
    rank: u32,
    /// Clusters of the grid.
    clusters: u32,
    at: Turn,
}

/// Where a cluster stands in the order of [`Tiles`].
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// First head of the section.
    first_head: u32,
    /// First unit of the round, in the section.
    first_unit: u32,
    /// This cluster's place in the round; if negative, counted from the end: -1 is the last one.
    place: i32,
}

impl<'a> Tiles<'a> {
    /// The work tiles of CTA `cta` of `ctas`, which form clusters of `cluster`.
    #[inline(always)]
    pub const fn new(params: &'a FwdParams, causal: bool, cluster: u32, cta: u32, ctas: u32) -> Self {
        Tiles {
            params,
            causal,
            cluster,
            rank: cta % cluster,
            clusters: ctas / cluster,
            at: Turn::new(cta / cluster),
        }
    }
}

impl Turn {
    /// The first turn of cluster `cluster`.
    #[inline(always)]
    pub const fn new(cluster: u32) -> Self {
        Turn { first_head: 0, first_unit: 0, place: cluster as i32 }
    }

    /// The next unit, as (number in its head, head over all sequences); `uneven` as under a causal mask.
    #[inline(always)]
    pub fn next(&mut self, work: &Work, clusters: u32, uneven: bool) -> Option<(u32, u32)> {
        if uneven { self.next_causal(work, clusters) } else { self.next_full(work, clusters) }
    }

    /// The next unit, as (number in its head, head over all sequences).
    #[inline(always)]
    fn next_full(&mut self, work: &Work, clusters: u32) -> Option<(u32, u32)> {
        let unit = self.first_unit + self.place as u32;
        if unit >= work.units() {
            return None;
        }
        self.first_unit += clusters;
        self.place += work.turn as i32;
        if self.place >= clusters as i32 {
            self.place -= clusters as i32;
        }
        let (head, unit) = work.head_units.split(unit);
        Some((unit, head))
    }

    /// As [`Self::next_full`], in the order for causal tiles.
    #[inline(always)]
    fn next_causal(&mut self, work: &Work, clusters: u32) -> Option<(u32, u32)> {
        let Work { heads, head_units, section, last_section, .. } = work;
        while self.first_head < *heads {
            let first_head = self.first_head;
            let section_heads = if *heads - first_head <= section.value { last_section } else { section };
            let from_end = if self.place < 0 { clusters } else { 0 };
            let unit = self.first_unit + from_end.wrapping_add_signed(self.place);
            self.next_round(section.value * head_units.value, section.value, clusters);
            if unit < section_heads.value * head_units.value {
                let (longer, head) = section_heads.split(unit);
                return Some((head_units.value - 1 - longer, first_head + head));
            }
        }
        None
    }

    /// Goes on to the next round of the section, backwards if this one was not, or to the next section.
    #[inline(always)]
    fn next_round(&mut self, section_units: u32, section: u32, clusters: u32) {
        let left = section_units - self.first_unit;
        if left > clusters {
            self.first_unit += clusters;
            self.place = !self.place; // 0 becomes -1, the last, and back again
        } else {
            self.first_head += section;
            self.first_unit = 0;
            // The section begins with whoever would be next if all rounds had run forwards.
            let forwards = if self.place < 0 { !self.place } else { self.place };
            let place = forwards - left as i32;
            self.place = if place < 0 { place + clusters as i32 } else { place };
        }
    }
}

impl Iterator for Tiles<'_> {
    type Item = WorkTile;

    #[inline(always)]
    fn next(&mut self) -> Option<WorkTile> {
        let (unit, head) = self.at.next(&self.params.work, self.clusters, self.causal)?;
        Some(WorkTile::of_unit(self.params, unit * self.cluster + self.rank, head))
    }
}

/// The key blocks that query rows visit, from `end - 1` down to `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyBlocks {
    /// First block: 0, unless CTAs share the keys.
    pub first: u32,
    /// Number of key blocks with a visible key; 0 if no row sees any. Of a share of them, the end, or `first` if it is
    /// empty.
    pub end: u32,
    /// Blocks `clear..full` need no mask: every row sees all their keys.
    pub full: u32,
    /// First block that needs no mask.
    pub clear: u32,
}

impl KeyBlocks {
    /// No key blocks.
    pub const NONE: KeyBlocks = KeyBlocks { first: 0, end: 0, full: 0, clear: 0 };

    /// The blocks of `block_n` keys that the query rows `first_row..first_row + rows` visit, under a causal mask or
    /// none. Rows beyond `seqlen_q` do not count.
    #[inline(always)]
    pub const fn new(
        first_row: u32,
        rows: u32,
        block_n: u32,
        seqlen_q: u32,
        seqlen_kv: u32,
        causal: bool,
    ) -> Self {
        if first_row >= seqlen_q {
            return KeyBlocks::NONE;
        }
        if !causal {
            let (end, full) = (seqlen_kv.div_ceil(block_n), seqlen_kv / block_n);
            return KeyBlocks { first: 0, end, full, clear: 0 };
        }
        // Row i sees the keys before i + 1 + diagonal. Nothing overflows: the host keeps lengths a tile below i32::MAX.
        let diagonal = seqlen_kv as i32 - seqlen_q as i32;
        let end_row = if rows < seqlen_q - first_row { first_row + rows } else { seqlen_q };
        let first_sees = first_row as i32 + 1 + diagonal;
        let last_sees = end_row as i32 + diagonal;
        KeyBlocks {
            first: 0,
            end: if last_sees > 0 { (last_sees as u32).div_ceil(block_n) } else { 0 },
            full: if first_sees > 0 { first_sees as u32 / block_n } else { 0 },
            clear: 0,
        }
    }

    /// The blocks of `block_n` keys that the rows `first_row..first_row + rows` visit under a band, where a query has
    /// `1 << pack` rows. Rows beyond the last query do not count.
    #[inline(always)]
    pub const fn of_band(
        band: &Band,
        first_row: u32,
        rows: u32,
        block_n: u32,
        lengths: Lengths,
        pack: u32,
    ) -> Self {
        let (first, last) = (first_row >> pack, (first_row + rows - 1) >> pack);
        if first >= lengths.q {
            return KeyBlocks::NONE;
        }
        let last = if last < lengths.q { last } else { lengths.q - 1 };
        // Ranges rise with the query: the first one has the first key and the first end.
        let [from, end] = band.keys(first, lengths);
        let [last_from, last_end] = band.keys(last, lengths);
        if last_end <= from {
            return KeyBlocks::NONE;
        }
        KeyBlocks {
            first: from as u32 / block_n,
            end: (last_end as u32).div_ceil(block_n),
            full: end as u32 / block_n,
            clear: (last_from as u32).div_ceil(block_n),
        }
    }

    /// The part of them that CTA `rank` visits if `splits` CTAs share them.
    #[inline(always)]
    pub const fn share(self, rank: u32, splits: u32) -> Self {
        KeyBlocks { first: self.end * rank / splits, end: self.end * (rank + 1) / splits, ..self }
    }

    /// Those of them that are among `others`.
    #[inline(always)]
    pub const fn among(self, others: KeyBlocks) -> Self {
        let end = if self.end < others.end { self.end } else { others.end };
        let first = if self.first > others.first { self.first } else { others.first };
        KeyBlocks { first, end: if end < first { first } else { end }, ..self }
    }

    /// How many they are.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        self.end - self.first
    }
}
