//! Work tiles of sequences of different lengths, in bundles of about equal cost. Pure.
//!
//! Lengths are known on the device only. All work tiles stand in one order: sequence by sequence, head by head, and in
//! a head from the last rows to the first. *Teams* of CTAs cut that order into pieces, so that each finds its own without
//! a table, a counter, or a word with the others. There are two ways:
//!
//! - Teams of as many CTAs as there are SMs take the tiles of their piece in turn. The hardware starts a CTA of the next
//!   team wherever one has ended; what it starts last is the smallest, so that all SMs end at about the same time.
//! - Each CTA is a team of its own: where sequences are short, with equal pieces, of which one starts on each SM; and in
//!   kernels that have no registers for more.
//!
//! Whoever computes a tile, its result is the same.

use crate::band::Lengths;
use crate::float::{add, mul};
use crate::params::FwdParams;
use crate::schedule::{Span, WorkTile};

/// What a work tile costs beside its keys, in keys of a whole tile of rows.
const TILE_KEYS: f32 = 224.0;

/// A place in the order of work tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Head, counted over all sequences.
    pub head: u32,
    /// Tiles of the head that come before, from its last rows.
    pub tile: u32,
}

impl Place {
    /// Before all work.
    pub const START: Place = Place { head: 0, tile: 0 };
}

/// A sequence, as far as the order of its tiles and their cost go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its queries.
    pub q: Span,
    /// Its keys.
    pub kv: Span,
    /// Keys that all queries see.
    pub prefix: u32,
}

impl Sequence {
    /// The lengths that a query's keys depend on.
    #[inline(always)]
    pub const fn lengths(&self) -> Lengths {
        Lengths { q: self.q.len, kv: self.kv.len, prefix: self.prefix }
    }

    /// Tiles of `block_m` rows of a head.
    #[inline(always)]
    pub const fn tiles(&self, params: &FwdParams, block_m: u32) -> u32 {
        (self.q.len << params.general.pack).div_ceil(block_m)
    }

    /// About what a head's last `tiles` tiles cost, in keys of a whole tile.
    #[inline(always)]
    pub fn cost_of_last(&self, params: &FwdParams, block_m: u32, tiles: u32) -> f32 {
        let before = ((self.tiles(params, block_m) - tiles) * block_m) >> params.general.pack;
        let visible = params.general.band.visible(before, self.lengths());
        let tiles_per_query = mul((1 << params.general.pack) as f32, 1.0 / block_m as f32);
        add(mul(visible, tiles_per_query), mul(tiles as f32, TILE_KEYS))
    }

    /// About what one of its heads costs.
    #[inline(always)]
    pub fn cost_of_head(&self, params: &FwdParams, block_m: u32) -> f32 {
        self.cost_of_last(params, block_m, self.tiles(params, block_m))
    }

    /// About what all its heads cost.
    #[inline(always)]
    pub fn cost(&self, params: &FwdParams, block_m: u32) -> f32 {
        mul(self.cost_of_head(params, block_m), params.heads_q.value as f32)
    }
}

/// Which part of all cost comes before team `team`, where `part` is that of a team on average: in equal steps, or, if
/// `falling`, in steps that fall to nothing.
#[inline(always)]
pub fn part_before(team: u32, part: f32, falling: bool) -> f32 {
    let before = mul(team as f32, part);
    // 1 - (1 - x)²
    if falling { mul(before, add(2.0, -before)) } else { before }
}

/// Which tiles of a bundle a CTA takes: one in each *round*, in which every CTA of its team takes one. Neighbours so work
/// on the same heads at the same time, and share their K and V in L2. Since tiles of a head are in the order of their
/// cost under a causal mask, every second round runs backwards. Only the first one may have fewer tiles than there are
/// CTAs, those that would be last.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// CTAs of the team.
    pub team: u32,
    /// Which of them this is.
    pub number: u32,
}

impl Member {
    /// Of a team of one.
    pub const ALONE: Member = Member { team: 1, number: 0 };

    /// Its place in the round after which there are `left` less one.
    #[inline(always)]
    const fn place(self, left: u32) -> u32 {
        if left % 2 == 1 { self.number } else { self.team - 1 - self.number }
    }
}

/// The work tiles of a CTA that are left.
#[derive(Clone, Copy, Debug)]
pub struct Bundle {
    /// The next one; its number may count on into heads that follow.
    at: Place,
    /// How many there are.
    left: u32,
}

impl Bundle {
    /// Of `tiles` work tiles from `first` on, which take the team `rounds` rounds, those of a member.
    #[inline(always)]
    pub const fn new(first: Place, tiles: u32, rounds: u32, member: Member) -> Self {
        let team = member.team;
        let missing = rounds * team - tiles;
        let place = member.place(rounds);
        let (left, ahead) =
            if place < missing { (rounds - 1, team + member.place(rounds - 1)) } else { (rounds, place) };
        Bundle { at: Place { head: first.head, tile: first.tile + ahead - missing }, left }
    }

    /// The next one; `load` tells of a sequence.
    #[inline(always)]
    pub fn next(
        &mut self,
        params: &FwdParams,
        block_m: u32,
        member: Member,
        load: impl Fn(u32) -> Sequence,
    ) -> Option<WorkTile> {
        // Every sequence has as many heads. Where lengths are no one's, and so many that their tiles are miscounted, some
        // are left behind the last.
        let heads = params.heads_q.value;
        while self.left > 0 && self.at.head < params.general.sequences.count * heads {
            let (batch, mut head) = params.heads_q.split(self.at.head);
            let sequence = load(batch);
            let tiles = sequence.tiles(params, block_m);
            while self.at.tile >= tiles && head < heads {
                self.at = Place { head: self.at.head + 1, tile: self.at.tile - tiles };
                head += 1;
            }
            if head == heads {
                continue;
            }
            let m_block = tiles - 1 - self.at.tile;
            self.at.tile += 2 * (member.team - member.place(self.left)) - 1;
            self.left -= 1;
            let head_kv = params.gqa_ratio.quotient(head);
            return Some(WorkTile { m_block, head, head_kv, batch, q: sequence.q, kv: sequence.kv });
        }
        None
    }
}
