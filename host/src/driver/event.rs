//! Points in a stream's work, to measure time between them and to order streams.

use crate::{Device, Result, Stream};

/// A point in the work of a stream.
#[derive(Debug)]
pub struct Event {
    device: Device,
    raw: u64,
}

impl Event {
    /// A new event, not recorded yet.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Event { raw: device.backend().create_event()?, device: device.clone() })
    }

    /// Marks the end of the work that `stream` has so far.
    ///
    /// # Errors
    /// [`crate::Error::MixedDevices`], or what the driver refuses.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.device.require_same(stream.device())?;
        // SAFETY: event and stream are live, and of one backend.
        unsafe { self.device.backend().record_event(self.raw, stream.raw()) }
    }

    /// Makes the work that `stream` gets from now on wait for this event.
    ///
    /// # Errors
    /// [`crate::Error::MixedDevices`], or what the driver refuses.
    pub fn block(&self, stream: &Stream) -> Result<()> {
        self.device.require_same(stream.device())?;
        // SAFETY: event and stream are live, and of one backend.
        unsafe { self.device.backend().wait_event(self.raw, stream.raw()) }
    }

    /// Waits until both events have happened; milliseconds from `self` to `end`.
    ///
    /// # Errors
    /// [`crate::Error::MixedDevices`]; one of them was not recorded, or the work before it failed.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f32> {
        self.device.require_same(&end.device)?;
        // SAFETY: both events are live, and of one backend.
        unsafe { self.device.backend().elapsed_ms(self.raw, end.raw) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by this backend, destroyed once.
        unsafe { self.device.backend().destroy_event(self.raw) }
    }
}
