//! Streams, events and graphs without a machine behind them: numbers, and what is being recorded.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::driver::Launch;
use crate::error::{Error, Result};
use crate::kernels::KernelImage;

/// The stream that nobody has to create.
const DEFAULT_STREAM: u64 = 0;

/// Work that was recorded.
#[derive(Clone, Debug)]
pub(super) enum Recorded {
    Launch(OwnedLaunch),
    Copy(MemoryCopy),
}

/// A copy from one place of the device's memory to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryCopy {
    pub(super) to: u64,
    pub(super) from: u64,
    pub(super) bytes: usize,
}

/// A [`Launch`] that owns its parameters.
#[derive(Clone, Debug)]
pub(super) struct OwnedLaunch {
    kernel: KernelImage,
    grid: [u32; 3],
    block: u32,
    cluster: u32,
    smem_bytes: u32,
    overlaps_previous: bool,
    params: Vec<Vec<u8>>,
}

impl OwnedLaunch {
    pub(super) fn new(launch: &Launch<'_>) -> Self {
        let Launch { kernel, grid, block, cluster, smem_bytes, overlaps_previous, params } = *launch;
        let params = params.iter().map(|bytes| bytes.to_vec()).collect();
        OwnedLaunch { kernel: *kernel, grid, block, cluster, smem_bytes, overlaps_previous, params }
    }

    /// Hands the launch to `run`.
    pub(super) fn replay<T>(&self, run: impl FnOnce(&Launch<'_>) -> T) -> T {
        let params: Vec<&[u8]> = self.params.iter().map(Vec::as_slice).collect();
        let OwnedLaunch { ref kernel, grid, block, cluster, smem_bytes, overlaps_previous, .. } = *self;
        run(&Launch { kernel, grid, block, cluster, smem_bytes, overlaps_previous, params: &params })
    }
}

/// The live handles of one backend.
#[derive(Debug, Default)]
pub(super) struct Handles {
    /// Each stream, with what it has recorded if it is recording.
    streams: HashMap<u64, Option<Vec<Recorded>>>,
    events: HashSet<u64>,
    graphs: HashMap<u64, Vec<Recorded>>,
}

/// A number that no other handle of this process has, so that a handle of another device is noticed.
fn fresh() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(DEFAULT_STREAM);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

fn unknown(what: &str, handle: u64) -> Error {
    Error::EmulatorRefused { reason: format!("{what} {handle:#x} is not of this device, or was destroyed") }
}

impl Handles {
    pub(super) fn create_stream(&mut self) -> u64 {
        let stream = fresh();
        self.streams.insert(stream, None);
        stream
    }

    pub(super) fn destroy_stream(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    pub(super) fn owns_stream(&self, stream: u64) -> bool {
        stream == DEFAULT_STREAM || self.streams.contains_key(&stream)
    }

    /// Where work on this stream is recorded, if it is recording.
    pub(super) fn recording(&mut self, stream: u64) -> Result<Option<&mut Vec<Recorded>>> {
        match self.streams.get_mut(&stream) {
            Some(recording) => Ok(recording.as_mut()),
            None if stream == DEFAULT_STREAM => Ok(None),
            None => Err(unknown("stream", stream)),
        }
    }

    /// An error if the stream is recording: there is nothing to wait for, and CUDA refuses it too.
    pub(super) fn require_not_recording(&mut self, stream: u64) -> Result<()> {
        match self.recording(stream)? {
            None => Ok(()),
            Some(_) => Err(Error::EmulatorRefused { reason: format!("stream {stream:#x} is recording") }),
        }
    }

    pub(super) fn begin_recording(&mut self, stream: u64) -> Result<()> {
        self.require_not_recording(stream)?;
        match self.streams.get_mut(&stream) {
            Some(recording) => *recording = Some(Vec::new()),
            None => {
                return Err(Error::EmulatorRefused { reason: "the default stream cannot record".into() });
            }
        }
        Ok(())
    }

    /// Ends the recording; the graph of it.
    pub(super) fn end_recording(&mut self, stream: u64) -> Result<u64> {
        let recording = self.streams.get_mut(&stream).ok_or_else(|| unknown("stream", stream))?;
        let not_recording =
            || Error::EmulatorRefused { reason: format!("stream {stream:#x} records nothing") };
        let work = recording.take().ok_or_else(not_recording)?;
        let graph = fresh();
        self.graphs.insert(graph, work);
        Ok(graph)
    }

    pub(super) fn graph(&self, graph: u64) -> Result<&[Recorded]> {
        self.graphs.get(&graph).map(Vec::as_slice).ok_or_else(|| unknown("graph", graph))
    }

    pub(super) fn destroy_graph(&mut self, graph: u64) {
        self.graphs.remove(&graph);
    }

    pub(super) fn create_event(&mut self) -> u64 {
        let event = fresh();
        self.events.insert(event);
        event
    }

    pub(super) fn destroy_event(&mut self, event: u64) {
        self.events.remove(&event);
    }

    pub(super) fn require_event(&self, event: u64) -> Result<()> {
        if self.events.contains(&event) { Ok(()) } else { Err(unknown("event", event)) }
    }
}
