//! Work that is recorded once and submitted many times, at the cost of one launch.

use crate::{Device, Result, Stream};

/// The recorded work of a stream, ready to submit (a CUDA graph).
#[derive(Debug)]
pub struct Graph {
    device: Device,
    raw: u64,
}

impl Graph {
    /// Records what `work` submits to `stream`, without doing it.
    ///
    /// `work` must not wait for the device, and what it allocates is allocated at once, not at each launch. Neither may
    /// another thread meanwhile wait for the device (copy a tensor, free one): the driver refuses that, and the
    /// recording fails.
    ///
    /// # Errors
    /// What `work` returns, or what the driver refuses.
    pub fn capture(stream: &Stream, work: impl FnOnce(&Stream) -> Result<()>) -> Result<Self> {
        let backend = stream.device().backend();
        stream.device().preload()?;
        // SAFETY: the stream is live.
        unsafe { backend.begin_capture(stream.raw())? };
        let done = work(stream);
        // Ended even when `work` failed: otherwise the stream would record for ever.
        // SAFETY: the stream is live and records since `begin_capture`.
        let raw = unsafe { backend.end_capture(stream.raw()) };
        let graph = raw.map(|raw| Graph { device: stream.device().clone(), raw });
        done.and(graph)
    }

    /// Submits the recorded work to `stream`.
    ///
    /// # Errors
    /// [`crate::Error::MixedDevices`], or what the driver refuses.
    ///
    /// # Safety
    /// The work holds device addresses: every tensor it reads or writes must still exist, until it has completed.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<()> {
        self.device.require_same(stream.device())?;
        // SAFETY: graph and stream are live, and of one backend; the caller vouches for the memory.
        unsafe { self.device.backend().launch_graph(self.raw, stream.raw()) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by this backend, destroyed once.
        unsafe { self.device.backend().destroy_graph(self.raw) }
    }
}
