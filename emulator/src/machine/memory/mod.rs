//! Ordinary loads and stores, atomics, matrices of 8 by 8.

mod access;
mod banks;
mod matrix;

use crate::hazard::{Agent, Record, View};
use crate::ir::{Order, Space, Type};
use crate::report::Code;

use crate::machine::{CTA_BITS, Engine, PARAM_WINDOW, SHARED_BASE, SHARED_WINDOW, Step, WINDOW_BYTES};

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Shared { cta: usize, at: u32 },
    Global { address: u64 },
    Param { at: usize },
}

/// Space, type and ordering of an access.
pub(crate) type Kind = (Space, Type, Order);

impl Engine<'_, '_> {
    /// CTA and address of a shared-memory address of the instruction at `pc`, in whatever window.
    pub(crate) fn shared_place(
        &mut self,
        w: usize,
        pc: u32,
        space: Space,
        address: u64,
        bytes: u32,
    ) -> Step<(usize, u32)> {
        let wrong = |why: &str| format!("{address:#x} {why}");
        let (space, address) = match space {
            Space::Generic => {
                match address.checked_sub(SHARED_WINDOW).filter(|&inside| inside < super::WINDOW_BYTES) {
                    Some(inside) => (Space::SharedCluster, inside),
                    None => return self.stop(w, pc, Code::E33, wrong("is not an address of shared memory")),
                }
            }
            _ => (space, address),
        };
        let Ok(address) = u32::try_from(address) else {
            return self.stop(w, pc, Code::E33, wrong("is not an address of shared memory"));
        };
        let (rank, offset) = (address >> CTA_BITS, address & ((1 << CTA_BITS) - 1));
        let own = self.cluster.warps[w].cta;
        let cta = match rank {
            0 => own,
            _ if space == Space::SharedCta && rank as usize - 1 != own => {
                return self.stop(
                    w,
                    pc,
                    Code::E33,
                    wrong("is in another CTA, but .shared::cta means this one"),
                );
            }
            rank if rank as usize <= self.cluster.ctas.len() => rank as usize - 1,
            _ => return self.stop(w, pc, Code::E31, wrong("is in a CTA that the cluster does not have")),
        };
        let end = self.cluster.ctas[cta].smem.len() as u64;
        if offset < SHARED_BASE || u64::from(offset) + u64::from(bytes) > end {
            let message = format!(
                "{bytes} bytes at {offset:#x} are outside of the shared memory of the CTA, which is from {SHARED_BASE:#x} to {:#x}",
                end - 1
            );
            return self.stop(w, pc, Code::E31, message);
        }
        Ok((cta, offset))
    }

    /// Where `bytes` bytes at an address are. Stops if they are nowhere, or not aligned to their size.
    fn place(&mut self, w: usize, pc: u32, space: Space, address: u64, bytes: u32) -> Step<Place> {
        if !address.is_multiple_of(u64::from(bytes)) {
            return self.stop(
                w,
                pc,
                Code::E32,
                format!("{bytes} bytes at {address:#x}, which is not a multiple of {bytes}"),
            );
        }
        let in_window = |window: u64| address.wrapping_sub(window) < WINDOW_BYTES;
        match space {
            Space::SharedCta | Space::SharedCluster => {
                self.shared_place(w, pc, space, address, bytes).map(|(cta, at)| Place::Shared { cta, at })
            }
            Space::Generic if in_window(SHARED_WINDOW) => {
                self.shared_place(w, pc, space, address, bytes).map(|(cta, at)| Place::Shared { cta, at })
            }
            Space::Param | Space::Generic if space == Space::Param || in_window(PARAM_WINDOW) => {
                let at = (if space == Space::Param { address } else { address - PARAM_WINDOW }) as usize;
                if at.checked_add(bytes as usize).is_none_or(|end| end > self.grid.params.len()) {
                    let message = format!(
                        "{bytes} bytes at {at:#x} of the {} bytes of parameters",
                        self.grid.params.len()
                    );
                    return self.stop(w, pc, Code::E31, message);
                }
                Ok(Place::Param { at })
            }
            Space::Generic | Space::Global => match self.grid.memory.find(address, u64::from(bytes)) {
                Some(_) => Ok(Place::Global { address }),
                None => self.stop(
                    w,
                    pc,
                    Code::E31,
                    format!("{bytes} bytes at {address:#x} are outside of every allocation"),
                ),
            },
            Space::Local | Space::Const | Space::Param => self.stop(
                w,
                pc,
                Code::E33,
                format!("an access to {space:?} memory, which the emulator does not have"),
            ),
        }
    }

    fn bytes_at(&self, place: Place, bytes: u32) -> u64 {
        let bytes = bytes as usize;
        let slice = match place {
            Place::Shared { cta, at } => &self.cluster.ctas[cta].smem[at as usize..][..bytes],
            Place::Param { at } => &self.grid.params[at..][..bytes],
            Place::Global { address } => {
                let (allocation, at) = self.grid.memory.find(address, bytes as u64).expect("placed before");
                &allocation.data[at..][..bytes]
            }
        };
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(slice);
        u64::from_le_bytes(value)
    }

    fn set_bytes(&mut self, place: Place, bytes: u32, value: u64) {
        let bytes = bytes as usize;
        let slice = match place {
            Place::Shared { cta, at } => &mut self.cluster.ctas[cta].smem[at as usize..][..bytes],
            Place::Param { .. } => return,
            Place::Global { address } => {
                let (allocation, at) =
                    self.grid.memory.find_mut(address, bytes as u64).expect("placed before");
                &mut allocation.data[at..][..bytes]
            }
        };
        slice.copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    /// An ordinary access of a lane now.
    pub(crate) fn by_lane(&self, w: usize, pc: u32, lane: u32, write: bool, strong: bool) -> Record {
        let warp = &self.cluster.warps[w];
        let agent = Agent::Thread { lane: lane as u8, time: warp.time };
        Record { warp: warp.id, agent, pc, bytes: 0, write, strong }
    }

    /// Notes an ordinary access of `lane`, and what is wrong with it.
    fn note(&mut self, w: usize, lane: u32, place: Place, bytes: u32, record: Record) {
        if !self.grid.options.checks {
            return;
        }
        if let Place::Shared { cta, at } = place {
            self.check_barrier_storage(w, record.pc, cta, at, bytes);
        }
        if let Place::Global { address } = place {
            self.check_dependency(w, record.pc, lane, address, bytes);
        }
        if !record.write {
            self.require_initialised(w, record.pc, place, bytes);
        }
        let warp = &mut self.cluster.warps[w];
        // The view is lent out of the warp: cloning it for each lane would dominate.
        let private = warp.private.contains_key(&lane).then(|| warp.release(1 << lane));
        let common = std::mem::take(&mut warp.common);
        let view = private.as_ref().unwrap_or(&common);
        match place {
            Place::Shared { cta, at } => self.access_shared(cta, at, bytes, record, view),
            Place::Global { address } => self.access_global(address, bytes, record, view),
            Place::Param { .. } => {}
        }
        self.cluster.warps[w].common = common;
    }

    /// Reports a read of bytes that nobody has written.
    fn require_initialised(&mut self, w: usize, pc: u32, place: Place, bytes: u32) {
        let missing = match place {
            Place::Shared { cta, at } => {
                let shadow = &self.cluster.ctas[cta].shadow;
                crate::memory::chunks(at as usize, bytes as usize)
                    .any(|(chunk, mask)| shadow.written(chunk) & mask != mask)
            }
            Place::Global { address } => {
                let (allocation, at) =
                    self.grid.memory.find(address, u64::from(bytes)).expect("placed before");
                crate::memory::chunks(at, bytes as usize)
                    .any(|(chunk, mask)| allocation.shadow.written(chunk) & mask != mask)
            }
            Place::Param { .. } => false,
        };
        if missing {
            self.find(
                w,
                pc,
                Code::E30,
                format!("{bytes} bytes are read of which some were never written: {}", show(place)),
            );
        }
    }

    /// What was released at an address is learnt, or released there, as the ordering says.
    fn synchronise(&mut self, w: usize, lane: u32, place: Place, order: Order, write: bool, read: bool) {
        if order == Order::Weak || !self.grid.options.checks {
            return;
        }
        let cluster = &mut *self.cluster;
        let warp = &mut cluster.warps[w];
        let (released, address) = match place {
            Place::Global { address } => (&mut self.grid.released, address),
            Place::Shared { cta, at } => (&mut cluster.ctas[cta].released, u64::from(at)),
            Place::Param { .. } => return,
        };
        if read && let Some(view) = released.get(&address) {
            if matches!(order, Order::Acquire | Order::AcqRel) {
                warp.acquire(1 << lane, view);
            } else {
                warp.pending_acquire.get_or_insert_with(|| view.clone()).join(view);
            }
        }
        if write {
            let view = match order {
                Order::Release | Order::AcqRel => Some(warp.release(1 << lane)),
                _ => warp.release_relaxed(lane),
            };
            // A read-modify-write carries on what was released before it; a store ends that.
            match view {
                Some(view) if read => released.entry(address).or_insert_with(|| view.clone()).join(&view),
                Some(view) => drop(released.insert(address, view)),
                None if read => {}
                None => drop(released.remove(&address)),
            }
        }
    }

    /// Notes that a whole warp's product or a bulk copy touches shared memory, and that it reads nothing unwritten.
    pub(crate) fn note_async(
        &mut self,
        w: usize,
        cta: usize,
        at: u32,
        bytes: u32,
        record: Record,
        view: &View,
    ) {
        self.check_barrier_storage(w, record.pc, cta, at, bytes);
        if !record.write {
            self.require_initialised(w, record.pc, Place::Shared { cta, at }, bytes);
        }
        self.access_shared(cta, at, bytes, record, view);
    }
}

fn show(place: Place) -> String {
    match place {
        Place::Shared { at, .. } => format!("shared memory at {at:#x}"),
        Place::Global { address } => format!("global memory at {address:#x}"),
        Place::Param { at } => format!("parameters at {at:#x}"),
    }
}
