//! Vector clocks: which accesses a thread knows to have happened.
//!
//! A clock has three streams for each warp: what its threads did themselves ([`Stream::Threads`], counted by the
//! warp's time), its warpgroup products ([`Stream::Products`], which retire in order) and its bulk copies
//! ([`Stream::Copies`], which do not). A stream is known up to some number, and beyond that in places: single lanes of
//! a warp that have not met the others yet, single copies that completed early. So clocks have the precision of
//! threads and the size of warps.

use std::collections::BTreeMap;

/// What is known of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// Everything up to here.
    upto: u32,
    /// Beyond: for threads (lane, time), for copies (number, 0). Sorted.
    beyond: Vec<(u32, u32)>,
}

impl Known {
    fn covers_lane(&self, lane: u32, time: u32) -> bool {
        time <= self.upto || self.beyond.iter().any(|&(known, upto)| known == lane && time <= upto)
    }

    fn covers_number(&self, number: u32) -> bool {
        number <= self.upto || self.beyond.binary_search_by_key(&number, |&(known, _)| known).is_ok()
    }

    fn raise(&mut self, upto: u32) {
        if upto > self.upto {
            self.upto = upto;
        }
    }

    fn insert(&mut self, key: u32, time: u32) {
        match self.beyond.binary_search_by_key(&key, |&(known, _)| known) {
            Ok(at) => self.beyond[at].1 = self.beyond[at].1.max(time),
            Err(at) => self.beyond.insert(at, (key, time)),
        }
    }

    /// Forgets lanes that are covered; once all lanes are known beyond `upto`, raises it.
    fn settle_lanes(&mut self) {
        let upto = self.upto;
        self.beyond.retain(|&(_, time)| time > upto);
        if self.beyond.len() == 32 {
            self.upto = self.beyond.iter().map(|&(_, time)| time).min().unwrap_or(upto);
            self.settle_lanes();
        }
    }

    fn settle_numbers(&mut self) {
        let mut upto = self.upto;
        self.beyond.retain(|&(number, _)| {
            if number == upto + 1 {
                upto = number;
            }
            number > upto
        });
        self.upto = upto;
    }
}

/// The streams of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    Threads = 0,
    Products = 1,
    Copies = 2,
}

const STREAMS: usize = 3;

/// What is known of all warps. Warps of the own cluster are dense, others (known through global memory only) are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    first: u32,
    own: Vec<Known>,
    others: BTreeMap<u32, Known>,
}

impl Clock {
    /// Knows nothing. `first` and `warps` say which warps are of the own cluster.
    pub(crate) fn new(first: u32, warps: u32) -> Self {
        Clock { first, own: vec![Known::default(); warps as usize * STREAMS], others: BTreeMap::new() }
    }

    fn key(warp: u32, stream: Stream) -> u32 {
        warp * STREAMS as u32 + stream as u32
    }

    fn get(&self, warp: u32, stream: Stream) -> Option<&Known> {
        let key = Self::key(warp, stream);
        match key.checked_sub(self.first * STREAMS as u32).and_then(|at| self.own.get(at as usize)) {
            Some(known) => Some(known),
            None => self.others.get(&key),
        }
    }

    fn get_mut(&mut self, key: u32) -> &mut Known {
        let at = key.checked_sub(self.first * STREAMS as u32).filter(|&at| (at as usize) < self.own.len());
        match at {
            Some(at) => &mut self.own[at as usize],
            None => self.others.entry(key).or_default(),
        }
    }

    /// Whether what `lane` of `warp` did at `time` is known.
    pub(crate) fn covers_lane(&self, warp: u32, lane: u32, time: u32) -> bool {
        self.get(warp, Stream::Threads).is_some_and(|known| known.covers_lane(lane, time))
    }

    /// Whether this product of `warp` has retired.
    pub(crate) fn covers_product(&self, warp: u32, number: u32) -> bool {
        self.get(warp, Stream::Products).is_some_and(|known| number <= known.upto)
    }

    /// Whether this copy of `warp` has completed.
    pub(crate) fn covers_copy(&self, warp: u32, number: u32) -> bool {
        self.get(warp, Stream::Copies).is_some_and(|known| known.covers_number(number))
    }

    /// Learns what all lanes of `warp` did up to `time`.
    pub(crate) fn learn_warp(&mut self, warp: u32, time: u32) {
        let known = self.get_mut(Self::key(warp, Stream::Threads));
        known.raise(time);
        known.settle_lanes();
    }

    /// Learns what `lane` of `warp` did up to `time`.
    pub(crate) fn learn_lane(&mut self, warp: u32, lane: u32, time: u32) {
        let known = self.get_mut(Self::key(warp, Stream::Threads));
        if time > known.upto {
            known.insert(lane, time);
            known.settle_lanes();
        }
    }

    /// Learns that products of `warp` up to this one have retired.
    pub(crate) fn learn_products(&mut self, warp: u32, number: u32) {
        self.get_mut(Self::key(warp, Stream::Products)).raise(number);
    }

    /// Learns that a copy of `warp` has completed.
    pub(crate) fn learn_copy(&mut self, warp: u32, number: u32) {
        let known = self.get_mut(Self::key(warp, Stream::Copies));
        if number > known.upto {
            known.insert(number, 0);
            known.settle_numbers();
        }
    }

    /// Learns everything that `other` knows.
    pub(crate) fn join(&mut self, other: &Clock) {
        let first = other.first * STREAMS as u32;
        let own = other.own.iter().enumerate().map(|(at, known)| (first + at as u32, known));
        for (key, known) in own.chain(other.others.iter().map(|(key, known)| (*key, known))) {
            if known.upto == 0 && known.beyond.is_empty() {
                continue;
            }
            let mine = self.get_mut(key);
            mine.raise(known.upto);
            if known.beyond.is_empty() && mine.beyond.is_empty() {
                continue;
            }
            known.beyond.iter().filter(|&&(_, time)| time == 0 || time > mine.upto).for_each(
                |&(at, time)| match mine.beyond.binary_search_by_key(&at, |&(known, _)| known) {
                    Ok(found) => mine.beyond[found].1 = mine.beyond[found].1.max(time),
                    Err(place) => mine.beyond.insert(place, (at, time)),
                },
            );
            if key % STREAMS as u32 == Stream::Threads as u32 {
                mine.settle_lanes()
            } else {
                mine.settle_numbers()
            }
        }
    }
}

/// What a thread knows: what happened before ([`View::order`]), and which ordinary accesses a proxy fence covers, so
/// that the async proxy sees them, in shared and in global memory, and which ones a memory fence covers.
///
/// A fence covers what its thread knows at that moment, and the knowledge that it was there travels on with every
/// release: a fence on the side of the writer and one on the side of the reader both count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) order: Clock,
    pub(crate) fenced_shared: Clock,
    pub(crate) fenced_global: Clock,
    /// What memory fences cover, so that relaxed writes release it; absent: nothing. Few kernels have any.
    pub(crate) released: Option<Box<Clock>>,
}

impl View {
    pub(crate) fn new(first: u32, warps: u32) -> Self {
        let clock = Clock::new(first, warps);
        View { order: clock.clone(), fenced_shared: clock.clone(), fenced_global: clock, released: None }
    }

    pub(crate) fn join(&mut self, other: &View) {
        self.order.join(&other.order);
        self.fenced_shared.join(&other.fenced_shared);
        self.fenced_global.join(&other.fenced_global);
        if let Some(released) = &other.released {
            self.released.get_or_insert_with(|| released.clone()).join(released);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_that_all_met_are_a_warp() {
        let mut clock = Clock::new(4, 2);
        for lane in 0..32 {
            assert!(!clock.covers_lane(5, 31, 7));
            clock.learn_lane(5, lane, 7 + lane);
        }
        assert!(clock.covers_lane(5, 0, 7) && !clock.covers_lane(5, 0, 8) && clock.covers_lane(5, 31, 38));
        assert_eq!(clock.get(5, Stream::Threads).unwrap().upto, 7);
        clock.learn_warp(5, 40);
        assert!(clock.get(5, Stream::Threads).unwrap().beyond.is_empty());
    }

    #[test]
    fn copies_complete_in_any_order() {
        let mut clock = Clock::new(0, 1);
        clock.learn_copy(0, 3);
        clock.learn_copy(0, 1);
        assert!(clock.covers_copy(0, 1) && !clock.covers_copy(0, 2) && clock.covers_copy(0, 3));
        let mut other = Clock::new(0, 1);
        other.learn_copy(0, 2);
        other.join(&clock);
        assert_eq!(*other.get(0, Stream::Copies).unwrap(), Known { upto: 3, beyond: vec![] });
    }

    #[test]
    fn other_clusters_are_kept_apart() {
        let mut far = Clock::new(8, 2);
        far.learn_warp(9, 5);
        let mut near = Clock::new(0, 2);
        near.learn_lane(9, 3, 9);
        near.join(&far);
        assert!(near.covers_lane(9, 0, 5) && near.covers_lane(9, 3, 9) && !near.covers_lane(9, 4, 6));
        assert!(!near.covers_lane(1, 0, 1));
    }
}
