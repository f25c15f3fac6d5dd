//! Clock, power and energy of the GPU, as its management library tells them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use serde::{Deserialize, Serialize};

/// Mean readings over a stretch of work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Readings {
    /// Clock of the SMs, MHz.
    pub(crate) clock_mhz: f64,
    /// Power of the board, W.
    pub(crate) watts: f64,
    /// Temperature of the GPU, degrees Celsius.
    pub(crate) celsius: f64,
}

/// The sensors of the GPU that CUDA sees first.
pub(crate) struct Sensors {
    nvml: Nvml,
    index: u32,
}

impl Sensors {
    /// `None` where the library is missing or does not know the device.
    pub(crate) fn new(ordinal: usize) -> Option<Self> {
        let nvml = Nvml::init().ok()?;
        let index = nvml_index(&nvml, ordinal)?;
        nvml.device_by_index(index).ok()?;
        Some(Sensors { nvml, index })
    }

    /// Version of the kernel driver.
    pub(crate) fn driver(&self) -> Option<String> {
        self.nvml.sys_driver_version().ok()
    }

    /// Energy since the driver was loaded, J.
    pub(crate) fn joules(&self) -> Option<f64> {
        let device = self.nvml.device_by_index(self.index).ok()?;
        Some(device.total_energy_consumption().ok()? as f64 / 1e3)
    }

    fn read(&self) -> Option<Readings> {
        let device = self.nvml.device_by_index(self.index).ok()?;
        Some(Readings {
            clock_mhz: f64::from(device.clock_info(Clock::SM).ok()?),
            watts: f64::from(device.power_usage().ok()?) / 1e3,
            celsius: f64::from(device.temperature(TemperatureSensor::Gpu).ok()?),
        })
    }

    /// Does `work`; the mean of what the sensors read meanwhile.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Option<Readings>) {
        const EVERY: Duration = Duration::from_millis(10);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut readings = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    readings.extend(self.read());
                    std::thread::sleep(EVERY);
                }
                readings
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            (result, watcher.join().ok().and_then(|readings| mean(&readings)))
        })
    }
}

/// The mean of readings, if there are any.
pub(crate) fn mean(readings: &[Readings]) -> Option<Readings> {
    let of = |f: fn(&Readings) -> f64| readings.iter().map(f).sum::<f64>() / readings.len() as f64;
    (!readings.is_empty()).then(|| Readings {
        clock_mhz: of(|r| r.clock_mhz),
        watts: of(|r| r.watts),
        celsius: of(|r| r.celsius),
    })
}

/// NVML counts all GPUs of the machine, CUDA those that `CUDA_VISIBLE_DEVICES` names.
fn nvml_index(nvml: &Nvml, ordinal: usize) -> Option<u32> {
    let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") else {
        return u32::try_from(ordinal).ok();
    };
    let entry = visible.split(',').nth(ordinal)?.trim();
    entry.parse().ok().or_else(|| nvml.device_by_uuid(entry).ok()?.index().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_nothing_is_nothing() {
        let reading = |x| Readings { clock_mhz: x, watts: 2.0 * x, celsius: 1.0 };
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[reading(1.0), reading(3.0)]), Some(reading(2.0)));
    }
}
