//! Clock, power and energy of the GPU, as its management library tells them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use serde::{Deserialize, Serialize};

/// Mean readings over a stretch of work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Readings {
    /// Clock of the SMs, MHz.
    pub(crate) clock_mhz: f64,
    /// Power of the board, W, as the gauge tells it: on Hopper the mean of the last second.
    pub(crate) watts: f64,
    /// Power of the board, W, by its energy counter; None if it has none, or after less than [`COUNTER_SECONDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) counter_watts: Option<f64>,
    /// Temperature of the GPU, degrees Celsius.
    pub(crate) celsius: f64,
}

/// What the sensors read at one moment, as it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds since the work began.
    pub(crate) seconds: f64,
    /// Clock of the SMs, MHz.
    pub(crate) clock_mhz: f64,
    /// Power of the board, W, as the gauge tells it.
    pub(crate) watts: f64,
    /// Temperature of the GPU, degrees Celsius.
    pub(crate) celsius: f64,
    /// Why the clock is not higher: bits of NVML's `nvmlClocksThrottleReasons`; None if it does not say.
    pub(crate) throttle_reasons: Option<u64>,
}

/// The energy counter moves in steps of up to 0.1 s. Over this time that, and when we happen to look, come to 2 %.
pub(crate) const COUNTER_SECONDS: f64 = 0.5;
/// Time between two looks at the sensors.
const EVERY: Duration = Duration::from_millis(10);
/// Of so many looks one is kept as a [`Sample`]: 20 a second.
const KEPT: usize = 5;

impl Readings {
    fn at(&self, seconds: f64, throttle_reasons: Option<u64>) -> Sample {
        let &Readings { clock_mhz, watts, celsius, .. } = self;
        Sample { seconds, clock_mhz, watts, celsius, throttle_reasons }
    }
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

    fn read(&self) -> Option<Readings> {
        let device = self.nvml.device_by_index(self.index).ok()?;
        Some(Readings {
            clock_mhz: f64::from(device.clock_info(Clock::SM).ok()?),
            watts: f64::from(device.power_usage().ok()?) / 1e3,
            counter_watts: None,
            celsius: f64::from(device.temperature(TemperatureSensor::Gpu).ok()?),
        })
    }

    /// Energy since the driver was loaded, J; None where the GPU does not count it.
    fn joules(&self) -> Option<f64> {
        let device = self.nvml.device_by_index(self.index).ok()?;
        Some(device.total_energy_consumption().ok()? as f64 / 1e3)
    }

    /// Bits of NVML's `nvmlClocksThrottleReasons`.
    fn throttle_reasons(&self) -> Option<u64> {
        let device = self.nvml.device_by_index(self.index).ok()?;
        Some(device.current_throttle_reasons().ok()?.bits())
    }

    /// Does `work`; the mean of what the sensors read meanwhile.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Option<Readings>) {
        let (result, readings, _) = self.watch(work);
        (result, readings)
    }

    /// The same, and what they read over time.
    pub(crate) fn watch<T>(&self, work: impl FnOnce() -> T) -> (T, Option<Readings>, Vec<Sample>) {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let start = Instant::now();
                let (mut readings, mut counter, mut trace) = (Vec::new(), Vec::new(), Vec::new());
                while !done.load(Ordering::Relaxed) {
                    let seconds = start.elapsed().as_secs_f64();
                    counter.extend(self.joules().map(|joules| (seconds, joules)));
                    if let Some(reading) = self.read() {
                        if readings.len() % KEPT == 0 {
                            let throttle_reasons = self.throttle_reasons();
                            trace.push(reading.at(seconds, throttle_reasons));
                        }
                        readings.push(reading);
                    }
                    std::thread::sleep(EVERY);
                }
                let mean = mean(&readings);
                (mean.map(|mean| Readings { counter_watts: slope(&counter), ..mean }), trace)
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            let (readings, trace) = watcher.join().unwrap_or_default();
            (result, readings, trace)
        })
    }
}

/// Watts of a counter, of which seconds and joules were noted: from its first step to its last, because in between it
/// stands still. None if that is less than [`COUNTER_SECONDS`].
fn slope(counter: &[(f64, f64)]) -> Option<f64> {
    let mut steps = counter.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| pair[1]);
    let (start, before) = steps.next()?;
    let (end, after) = steps.next_back()?;
    (end - start >= COUNTER_SECONDS).then(|| (after - before) / (end - start))
}

/// The mean of readings, if there are any.
pub(crate) fn mean(readings: &[Readings]) -> Option<Readings> {
    let of = |f: fn(&Readings) -> f64| readings.iter().map(f).sum::<f64>() / readings.len() as f64;
    let counted: Option<f64> = readings.iter().map(|r| r.counter_watts).sum();
    (!readings.is_empty()).then(|| Readings {
        clock_mhz: of(|r| r.clock_mhz),
        watts: of(|r| r.watts),
        counter_watts: counted.map(|sum| sum / readings.len() as f64),
        celsius: of(|r| r.celsius),
    })
}

/// NVML counts all GPUs of the machine, CUDA those that `CUDA_VISIBLE_DEVICES` names.
pub(crate) fn nvml_index(nvml: &Nvml, ordinal: usize) -> Option<u32> {
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
        let reading =
            |x| Readings { clock_mhz: x, watts: 2.0 * x, counter_watts: Some(3.0 * x), celsius: 1.0 };
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[reading(1.0), reading(3.0)]), Some(reading(2.0)));
    }

    #[test]
    fn a_counter_that_one_reading_lacks_has_no_mean() {
        let reading = |counter_watts| Readings { clock_mhz: 1.0, watts: 2.0, counter_watts, celsius: 3.0 };
        assert_eq!(mean(&[reading(Some(500.0)), reading(None)]), Some(reading(None)));
    }

    #[test]
    fn the_counter_is_read_where_it_steps() {
        // 600 W in steps of 0.1 s, of which the first is 0.05 s away; looked at every 0.01 s.
        let counter = |seconds: f64| {
            let looks = (0..(100.0 * seconds) as u32).map(|look| f64::from(look) / 100.0);
            looks.map(|at| (at, 60.0 * (10.0 * at + 0.5).floor())).collect::<Vec<_>>()
        };
        let watts = slope(&counter(2.0)).unwrap();
        assert!((watts - 600.0).abs() < 12.0, "{watts}");
        assert_eq!(slope(&counter(0.5)), None);
        assert_eq!(slope(&counter(0.1)), None);
        assert_eq!(slope(&[]), None);
        assert_eq!(slope(&[(0.0, 7.0), (5.0, 7.0)]), None);
    }
}
