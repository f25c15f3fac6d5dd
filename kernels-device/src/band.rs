//! Which keys a query sees, where the launch says so: a range of keys that moves with the query. Pure.

use crate::divisor::Divisor;
use crate::float::{add, mul};

/// Longest sequence of a general kernel, and a distance that no query has from a key: sums of three stay within i32.
pub const UNLIMITED: i32 = 1 << 29;

/// Query i stands at key `d = i + seqlen_kv - seqlen_q`, or at key `i` if aligned top-left, and sees the keys from `d -
/// left` to `d + right` that lie in the same chunk as `d`, and all keys before the prefix of its sequence.
///
/// Full, causal, sliding-window, chunked and prefix attention are all bands.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// Device address of the prefix of each sequence: i32. 0 if there is none. With it, `left` is unlimited and there
    /// are no chunks: what a query sees is always one range.
    pub prefix: u64,
    /// Keys that a query sees before its own; [`UNLIMITED`] for all.
    pub left: i32,
    /// Keys that a query sees after its own; [`UNLIMITED`] for all.
    pub right: i32,
    /// Keys of a chunk; 0 if there are none.
    pub chunk: Divisor,
    /// Not 0: query i stands at key i.
    pub top_left: u32,
    /// Makes the size a multiple of 8.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Band>() == 40);

/// The lengths that a query's keys depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Queries.
    pub q: u32,
    /// Keys.
    pub kv: u32,
    /// Keys that every query sees.
    pub prefix: u32,
}

impl Band {
    /// Every query sees every key.
    pub const FULL: Band = Band {
        prefix: 0,
        left: UNLIMITED,
        right: UNLIMITED,
        chunk: Divisor::new(0),
        top_left: 0,
        reserved: 0,
    };

    /// The key that query 0 stands at.
    #[inline(always)]
    pub const fn diagonal(&self, lengths: Lengths) -> i32 {
        if self.top_left != 0 { 0 } else { lengths.kv as i32 - lengths.q as i32 }
    }

    /// The keys that a query sees, from the first to before the second; none if that is not above the first. Both rise
    /// with the query.
    #[inline(always)]
    pub const fn keys(&self, query: u32, lengths: Lengths) -> [i32; 2] {
        let kv = lengths.kv as i32;
        let at = query as i32 + self.diagonal(lengths);
        let (mut first, mut end) = (at - self.left, at + self.right + 1);
        if self.chunk.value != 0 {
            // Rounded down, for a place before the first key too.
            let chunk = self.chunk.value as i32;
            let below = if at < 0 { self.chunk.quotient((chunk - 1 - at) as u32) as i32 } else { 0 };
            let chunk_first = (self.chunk.quotient((at + below * chunk) as u32) as i32 - below) * chunk;
            first = max(first, chunk_first);
            end = min(end, chunk_first + chunk);
        }
        [min(max(first, 0), kv), min(max(max(end, lengths.prefix as i32), 0), kv)]
    }

    /// About how many keys the queries `from..` see, in all. For deciding who computes what: chunks count as half their
    /// length, prefixes not at all.
    #[inline(always)]
    pub fn visible(&self, from: u32, lengths: Lengths) -> f32 {
        let diagonal = self.diagonal(lengths);
        let left =
            if self.chunk.value == 0 { self.left } else { min(self.left, self.chunk.value as i32 / 2) };
        let hidden = keys_before(from, lengths, diagonal - left);
        add(keys_before(from, lengths, diagonal + self.right + 1), -hidden)
    }
}

/// The sum of `i + offset`, but at least 0 and at most all keys, over the queries i from `from` on.
#[inline(always)]
fn keys_before(from: u32, lengths: Lengths, offset: i32) -> f32 {
    let (q, kv) = (lengths.q as i32, lengths.kv as i32);
    let first = max(from as i32, -offset);
    let last = min(max(kv - offset, first), max(q, first));
    let ends = add((first + offset) as f32, (last - 1 + offset) as f32);
    let rising = mul(mul((last - first) as f32, ends), 0.5);
    add(rising, mul((q - min(last, q)) as f32, kv as f32))
}

const fn min(a: i32, b: i32) -> i32 {
    if a < b { a } else { b }
}

const fn max(a: i32, b: i32) -> i32 {
    if a > b { a } else { b }
}
