//! Which keys a query sees.
//!
//! Query i of a sequence has a position p among its keys: where the diagonal passes. It sees key j if
//!
//! - j is in the band p - left ..= p + right, or below the sequence's prefix,
//! - and j is in p's chunk,
//! - and j is in the query's own range,
//! - and the tile of (i, j) is one of the visible ones.
//!
//! What a mask leaves out does not restrict. Keys and queries count from the start of their sequence, and lengths are
//! those in use.

use std::ops::Range;

use super::Position;
use super::broadcast::Broadcast;

/// Which key the diagonal passes at query i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    /// Key i + seqlen_kv - seqlen_q: the last query is at the last key.
    #[default]
    BottomRight,
    /// Key i: the first query is at the first key.
    TopLeft,
}

/// Which tiles of (query, key) pairs are visible at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// Queries of a tile.
    pub block_q: usize,
    /// Keys of a tile.
    pub block_kv: usize,
    /// (batch, query heads, tiles of queries, tiles of keys): whether the tile is visible.
    pub visible: Broadcast<bool>,
}

/// Which keys each query sees. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mask {
    /// How far back from its position a query sees.
    pub left: Option<usize>,
    /// How far ahead of its position a query sees: 0 is causal.
    pub right: Option<usize>,
    /// Where positions are.
    pub align: Align,
    /// Keys of a chunk, at least 1: key j is in chunk j / n, as is position p, rounded down, so that p < 0 is in a
    /// chunk without keys.
    pub chunk: Option<usize>,
    /// For each sequence, how many of its first keys the band does not hide.
    pub prefix: Option<Vec<usize>>,
    /// For each query head, or one for all: for each row of Q's tensor, (batch, seqlen_q) as it lies in memory, the keys
    /// that the query may see. Those beyond the sequence do not exist.
    pub ranges: Option<Vec<Vec<Range<usize>>>>,
    /// The tiles that are visible.
    pub blocks: Option<Blocks>,
}

/// A query, as far as a mask is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    /// Which one.
    pub(super) at: Position,
    /// Its row in Q's tensor, (batch, seqlen_q) as one index.
    pub(super) row: usize,
    /// Queries of the sequence.
    pub(super) seqlen_q: usize,
    /// Keys of the sequence.
    pub(super) seqlen_kv: usize,
}

impl Mask {
    /// Every query sees every key.
    pub fn full() -> Self {
        Mask::default()
    }

    /// A query sees the keys up to its position.
    pub fn causal() -> Self {
        Mask::window(None, Some(0))
    }

    /// A query sees `left` keys before its position and `right` after it, and the one there.
    pub fn window(left: Option<usize>, right: Option<usize>) -> Self {
        Mask { left, right, ..Mask::default() }
    }

    /// The keys that a query sees, in order.
    pub(super) fn keys(&self, query: Query) -> impl Iterator<Item = usize> + '_ {
        let Query { at: Position { b, s, h }, row, .. } = query;
        let [i, seqlen_q, seqlen_kv] = [s, query.seqlen_q, query.seqlen_kv].map(signed);
        let position = match self.align {
            Align::BottomRight => i + seqlen_kv - seqlen_q,
            Align::TopLeft => i,
        };
        let mut allowed = 0..seqlen_kv;
        if let Some(chunk) = self.chunk {
            let first = position - position.rem_euclid(signed(chunk));
            allowed = intersection(&allowed, &(first..first.saturating_add(signed(chunk))));
        }
        if let Some(ranges) = &self.ranges {
            let range = &ranges[if ranges.len() == 1 { 0 } else { h }][row];
            allowed = intersection(&allowed, &(signed(range.start)..signed(range.end)));
        }
        let prefix = 0..self.prefix.as_ref().map_or(0, |prefix| signed(prefix[b]));
        let band = Range {
            start: self.left.map_or(0, |left| position.saturating_sub(signed(left))),
            end: self
                .right
                .map_or(seqlen_kv, |right| position.saturating_add(signed(right)).saturating_add(1)),
        };
        let band_alone = band.start.max(prefix.end)..band.end;
        let tile_is_visible = move |&key: &usize| match &self.blocks {
            Some(Blocks { block_q, block_kv, visible }) => visible.get([b, h, s / block_q, key / block_kv]),
            None => true,
        };
        let [prefix, band] = [prefix, band_alone].map(|part| intersection(&allowed, &part));
        prefix.chain(band).map(|key| key as usize).filter(tile_is_visible)
    }
}

/// A number of keys, or as many as there can be.
fn signed(keys: usize) -> i64 {
    i64::try_from(keys).unwrap_or(i64::MAX)
}

fn intersection(a: &Range<i64>, b: &Range<i64>) -> Range<i64> {
    a.start.max(b.start)..a.end.min(b.end)
}
