//! Who touched which bytes: shadow memory.
//!
//! Memory is seen in chunks of 16 bytes, which is what swizzles move and bulk copies count in; a record says which of
//! a chunk's bytes it concerns. A record is dropped as soon as a later one stands for it: whoever is ordered after the
//! later access is ordered after the earlier one too.

use super::View;
use crate::report::Code;

/// Who made an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    /// A thread, at a time of its warp.
    Thread { lane: u8, time: u32 },
    /// A warpgroup product, by its number in the warp.
    Product { number: u32 },
    /// A bulk copy, by its number in the warp.
    Copy { number: u32 },
}

impl Agent {
    /// Whether it goes through the async proxy.
    pub(crate) fn is_async(self) -> bool {
        !matches!(self, Agent::Thread { .. })
    }
}

/// An access to some bytes of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// Warp, counted through the grid.
    pub(crate) warp: u32,
    pub(crate) agent: Agent,
    /// Index of the instruction.
    pub(crate) pc: u32,
    /// Bytes of the chunk.
    pub(crate) bytes: u16,
    pub(crate) write: bool,
    /// Whether it is an atomic or otherwise strong access, which may meet another one.
    pub(crate) strong: bool,
}

impl Record {
    /// Whether `view` knows that this access has happened.
    pub(crate) fn is_before(&self, view: &View) -> bool {
        match self.agent {
            Agent::Thread { lane, time } => view.order.covers_lane(self.warp, u32::from(lane), time),
            Agent::Product { number } => view.order.covers_product(self.warp, number),
            Agent::Copy { number } => view.order.covers_copy(self.warp, number),
        }
    }

    /// Whether the async proxy may follow it.
    fn is_fenced(&self, view: &View, shared: bool) -> bool {
        match self.agent {
            Agent::Thread { lane, time } => {
                let clock = if shared { &view.fenced_shared } else { &view.fenced_global };
                clock.covers_lane(self.warp, u32::from(lane), time)
            }
            _ => true,
        }
    }

    /// Whether it is a warpgroup product's read.
    fn is_read_by_product(&self) -> bool {
        matches!(self.agent, Agent::Product { .. }) && !self.write
    }

    /// Whether it does the same to the same bytes.
    fn is_like(&self, other: &Record) -> bool {
        (self.bytes, self.write, self.strong) == (other.bytes, other.write, other.strong)
    }

    /// Whether it is by the same agent, at the same time or earlier, so that the order is that of the program.
    fn is_own_past(&self, now: &Record) -> bool {
        self.warp == now.warp
            && match (self.agent, now.agent) {
                (Agent::Thread { lane: a, .. }, Agent::Thread { lane: b, .. }) => a == b,
                // Products retire in order, and those of one warp are executed in order.
                (Agent::Product { .. }, Agent::Product { .. }) => true,
                // One copy may touch a chunk in several pieces.
                (Agent::Copy { number: a }, Agent::Copy { number: b }) => a == b,
                _ => false,
            }
    }
}

/// What is wrong between two accesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict {
    pub(crate) code: Code,
    /// The earlier access.
    pub(crate) earlier: Record,
}

/// Records of a chunk. Where more threads read the same bytes, or count in them, without knowing of each other, the
/// oldest are forgotten: whoever writes there unordered still meets the others.
const MOST_RECORDS: usize = 128;

/// Records that a chunk has room for, once it has any.
const USUAL_RECORDS: usize = 8;

#[derive(Clone, Debug, Default)]
struct Chunk {
    written: u16,
    /// Bytes that the launch before wrote, if it may still run.
    before: u16,
    records: Vec<Record>,
}

/// The shadow of a piece of memory, by chunk number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shadow {
    chunks: Vec<Chunk>,
    shared: bool,
}

impl Shadow {
    /// Of `bytes` bytes of shared memory that nobody has written.
    pub(crate) fn of_shared(bytes: usize) -> Self {
        Shadow { chunks: vec![Chunk::default(); bytes.div_ceil(16)], shared: true }
    }

    /// Of `bytes` bytes of global memory, if the host has memory for it.
    pub(crate) fn of_global(bytes: usize) -> Option<Self> {
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(bytes.div_ceil(16)).ok()?;
        chunks.resize(bytes.div_ceil(16), Chunk::default());
        Some(Shadow { chunks, shared: false })
    }

    /// Bytes of a chunk that were ever written.
    pub(crate) fn written(&self, chunk: usize) -> u16 {
        self.chunks[chunk].written
    }

    /// Marks bytes as written from outside.
    pub(crate) fn mark_written(&mut self, chunk: usize, bytes: u16) {
        self.chunks[chunk].written |= bytes;
    }

    /// Forgets who did what, between launches; if they overlap, the bytes that were written are remembered.
    pub(crate) fn forget(&mut self, overlap: bool) {
        for chunk in &mut self.chunks {
            let writes = chunk.records.iter().filter(|record| record.write && overlap);
            chunk.before = writes.fold(0, |bytes, record| bytes | record.bytes);
            chunk.records.clear();
        }
    }

    /// Bytes of a chunk that the launch before wrote and may still be writing.
    pub(crate) fn before(&self, chunk: usize) -> u16 {
        self.chunks[chunk].before
    }

    /// Notes an access by somebody who knows `view`, and says what it conflicts with.
    pub(crate) fn access(
        &mut self,
        chunk: usize,
        now: Record,
        view: &View,
        mut conflict: impl FnMut(Conflict),
    ) {
        let shared = self.shared;
        let chunk = &mut self.chunks[chunk];
        if now.write {
            chunk.written |= now.bytes;
        }
        let mut noted = false;
        chunk.records.retain_mut(|earlier| {
            if earlier.bytes & now.bytes == 0 {
                return true;
            }
            let own = earlier.is_own_past(&now);
            if own && earlier.is_like(&now) && !noted {
                (*earlier, noted) = (now, true);
                return true;
            }
            // Most accesses are these. One record for each warp is little to keep.
            if !own && earlier.is_read_by_product() && now.is_read_by_product() {
                return true;
            }
            let ordered = own || earlier.is_before(view);
            let fenced = !now.agent.is_async() || earlier.is_fenced(view, shared);
            if (earlier.write || now.write) && !(earlier.strong && now.strong) {
                let code = if !ordered {
                    match (earlier.agent.is_async(), now.write) {
                        (true, true) => Some(Code::E05),
                        _ if shared => Some(Code::E01),
                        _ => Some(Code::E02),
                    }
                } else if !fenced {
                    Some(if now.write { Code::E04 } else { Code::E03 })
                } else {
                    None
                };
                if let Some(code) = code {
                    conflict(Conflict { code, earlier: *earlier });
                }
            }
            // The new record stands for the old one where it is ordered after it and at least as strict.
            let replaces =
                ordered && fenced && (now.write || !earlier.write) && !(earlier.strong ^ now.strong);
            if replaces {
                earlier.bytes &= !now.bytes;
            }
            earlier.bytes != 0
        });
        if noted {
            return;
        }
        if chunk.records.capacity() == 0 {
            chunk.records.reserve(USUAL_RECORDS);
        }
        chunk.records.push(now);
        if chunk.records.len() > MOST_RECORDS
            && let Some(oldest) = chunk.records.iter().position(|record| !record.write || record.strong)
        {
            chunk.records.remove(oldest);
        }
    }
}
