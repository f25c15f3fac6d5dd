//! Divergence: the parts of a warp that are at different instructions.
//!
//! A branch that lanes disagree about splits a warp in two. The parts meet again where all paths from the branch must
//! pass (its immediate post-dominator): each part that gets there parks, and the last one takes the others along. Parts
//! run in any order, so a part may wait for what another one does.

/// A point where parts of a warp meet.
#[derive(Clone, Debug)]
struct Meeting {
    at: u32,
    /// Lanes that will come.
    expected: u32,
    /// Lanes that have.
    parked: u32,
    parent: Option<usize>,
}

/// What a part of a warp waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A phase of an mbarrier: its CTA in the cluster, its address, and the parity that must have completed.
    Mbarrier { cta: usize, address: u32, parity: u32 },
    /// A named barrier, at this generation.
    Barrier { id: u32, generation: u64 },
    /// The cluster barrier, at this generation.
    Cluster { generation: u64 },
    /// Registers of the CTA's pool.
    Registers { wanted: u32 },
    /// Other lanes, for an instruction that they execute together.
    Lanes { mask: u32 },
}

/// Lanes that are at the same instruction.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) wait: Option<Wait>,
    /// Whether its wait took too long: it returns without success.
    pub(crate) timed_out: bool,
    meeting: Option<usize>,
}

/// The parts of a warp.
#[derive(Debug)]
pub(crate) struct Splits {
    pub(crate) list: Vec<Split>,
    meetings: Vec<Meeting>,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    /// Whether lanes have gone on from a meeting without the others.
    pub(crate) parted: bool,
}

impl Splits {
    /// All lanes of `live` at the first instruction.
    pub(crate) fn new(live: u32) -> Self {
        Splits {
            list: vec![Split { pc: 0, mask: live, wait: None, timed_out: false, meeting: None }],
            meetings: Vec::new(),
            live,
            parted: false,
        }
    }

    /// Moves a part on. It parks with the next [`Self::settle`].
    pub(crate) fn go(&mut self, split: usize, pc: u32) {
        self.list[split].pc = pc;
    }

    /// Parks the parts that are where they meet others, and goes on from meetings that are complete.
    pub(crate) fn settle(&mut self) {
        while let Some(split) = self.list.iter().position(|split| self.is_at_meeting(split)) {
            self.park(split);
        }
    }

    fn is_at_meeting(&self, split: &Split) -> bool {
        split.meeting.is_some_and(|index| self.meetings[index].at == split.pc)
    }

    /// Sends the lanes of `taken` to `target`, the others to the next instruction; they meet at `meet`.
    pub(crate) fn branch(&mut self, split: usize, taken: u32, target: u32, meet: Option<u32>) {
        let Split { pc, mask, meeting: parent, .. } = self.list[split];
        match mask & taken {
            0 => self.go(split, pc + 1),
            all if all == mask => self.go(split, target),
            part => {
                let meeting = match meet {
                    Some(at) => {
                        self.meetings.push(Meeting { at, expected: mask, parked: 0, parent });
                        Some(self.meetings.len() - 1)
                    }
                    None => parent,
                };
                self.list[split] =
                    Split { pc: pc + 1, mask: mask & !part, wait: None, timed_out: false, meeting };
                self.list.push(Split { pc: target, mask: part, wait: None, timed_out: false, meeting });
            }
        }
    }

    /// Ends lanes of a part.
    pub(crate) fn exit(&mut self, split: usize, lanes: u32) {
        self.live &= !lanes;
        let meeting = self.list[split].meeting;
        self.list[split].mask &= !lanes;
        if self.list[split].mask == 0 {
            self.list.remove(split);
        }
        let mut at = meeting;
        while let Some(index) = at {
            self.meetings[index].expected &= !lanes;
            at = self.meetings[index].parent;
            self.release(index);
        }
    }

    /// Parks a part, which is where it meets others.
    fn park(&mut self, split: usize) {
        let Split { mask, meeting: Some(index), .. } = self.list[split] else { return };
        self.meetings[index].parked |= mask;
        self.list.remove(split);
        self.release(index);
    }

    /// Goes on from a meeting that everybody has come to.
    fn release(&mut self, index: usize) {
        let Meeting { at, expected, parked, parent } = self.meetings[index];
        if parked != 0 && parked == expected {
            self.meetings[index].parked = 0;
            self.list.push(Split { pc: at, mask: parked, wait: None, timed_out: false, meeting: parent });
            while self
                .meetings
                .last()
                .is_some_and(|last| last.parked == 0 && !self.is_awaited(self.meetings.len() - 1))
            {
                self.meetings.pop();
            }
        }
    }

    /// Gives other parts their turn.
    pub(crate) fn turn(&mut self) {
        if self.list.len() > 1 {
            self.list.rotate_left(1);
        }
    }

    /// Lets lanes that wait at meetings go on without the others, who may wait for just that: threads of a warp are
    /// independent. Returns whether there were any.
    pub(crate) fn part(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.meetings.len() {
            let Meeting { at, parked: mask, .. } = self.meetings[index];
            if mask == 0 {
                continue;
            }
            self.meetings[index].parked = 0;
            // Loops nest meetings at one place: these lanes have passed it for all of them.
            let mut meeting = Some(index);
            while let Some(here) = meeting.filter(|&here| self.meetings[here].at == at) {
                self.meetings[here].expected &= !mask;
                meeting = self.meetings[here].parent;
            }
            self.list.push(Split { pc: at, mask, wait: None, timed_out: false, meeting });
            any = true;
        }
        self.parted |= any;
        any
    }

    /// Whether a part or another meeting leads to the meeting.
    fn is_awaited(&self, index: usize) -> bool {
        self.list.iter().any(|split| split.meeting == Some(index))
            || self.meetings.iter().any(|meeting| meeting.parent == Some(index))
    }

    /// Lanes that wait at a meeting for others, with its place.
    pub(crate) fn parked(&self) -> impl Iterator<Item = (u32, u32)> {
        self.meetings.iter().filter(|meeting| meeting.parked != 0).map(|meeting| (meeting.at, meeting.parked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(splits: &Splits) -> Vec<(u32, u32)> {
        splits.list.iter().map(|split| (split.pc, split.mask)).collect()
    }

    #[test]
    fn parts_meet() {
        let mut splits = Splits::new(u32::MAX);
        splits.branch(0, 1, 10, Some(20));
        assert_eq!(parts(&splits), [(1, !1), (10, 1)]);
        splits.go(0, 20);
        splits.settle();
        assert_eq!(parts(&splits), [(10, 1)]);
        splits.go(0, 20);
        splits.settle();
        assert_eq!(parts(&splits), [(20, u32::MAX)]);
        assert!(splits.meetings.is_empty());
    }

    #[test]
    fn a_loop_that_lanes_leave_in_turn() {
        let mut splits = Splits::new(0xF);
        for left in [0xE, 0xC, 0x8] {
            splits.go(0, 5);
            // Lane by lane goes on to 6, where all meet; the others start again at 2.
            splits.branch(0, left, 2, Some(6));
            splits.settle();
            assert_eq!(parts(&splits), [(2, left)]);
        }
        splits.go(0, 5);
        splits.branch(0, 0, 2, Some(6));
        splits.settle();
        assert_eq!(parts(&splits), [(6, 0xF)]);
        assert!(splits.meetings.is_empty());
    }

    #[test]
    fn exits_are_not_waited_for() {
        let mut splits = Splits::new(0xFF);
        splits.branch(0, 0xF0, 9, Some(20));
        splits.go(1, 20);
        splits.settle();
        splits.exit(0, 0x0F);
        assert_eq!((parts(&splits), splits.live), (vec![(20, 0xF0)], 0xF0));
        splits.exit(0, 0xF0);
        assert!(splits.list.is_empty());
    }
}
