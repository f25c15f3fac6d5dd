//! Holding the clock of a GPU, which belongs to whoever owns the machine: only on request, only as root, and never for
//! longer than the work takes. Whatever ends it, an error, a panic or a signal, the clock is let go. (Nothing can be done
//! after SIGKILL; `nvidia-smi --reset-gpu-clocks` lets it go then.)

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::GpuLockedClocksSetting;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::sensors::nvml_index;

/// What holds the clock of the SMs, and lets it go.
pub(crate) trait Clocks: Send + Sync {
    /// Clocks that it can be held to, MHz.
    fn supported(&self) -> Result<Vec<u32>>;
    /// Holds it.
    fn hold(&self, mhz: u32) -> Result<()>;
    /// Lets it go.
    fn release(&self) -> Result<()>;
}

/// A GPU.
pub(crate) struct OfGpu {
    nvml: Nvml,
    index: u32,
}

impl OfGpu {
    /// The GPU of this number.
    ///
    /// # Errors
    /// NVML is missing or does not know it.
    pub(crate) fn new(ordinal: usize) -> Result<Self> {
        let nvml = Nvml::init().context("NVML cannot be loaded")?;
        let index =
            nvml_index(&nvml, ordinal).with_context(|| format!("NVML does not know GPU {ordinal}"))?;
        Ok(OfGpu { nvml, index })
    }
}

impl Clocks for OfGpu {
    fn supported(&self) -> Result<Vec<u32>> {
        let device = self.nvml.device_by_index(self.index)?;
        Ok(device.supported_graphics_clocks(device.max_clock_info(Clock::Memory)?)?)
    }

    fn hold(&self, mhz: u32) -> Result<()> {
        let setting = GpuLockedClocksSetting::Numeric { min_clock_mhz: mhz, max_clock_mhz: mhz };
        Ok(self.nvml.device_by_index(self.index)?.set_gpu_locked_clocks(setting)?)
    }

    fn release(&self) -> Result<()> {
        Ok(self.nvml.device_by_index(self.index)?.reset_gpu_locked_clocks()?)
    }
}

/// Whether this program may change clocks.
pub(crate) fn is_root() -> bool {
    // The owner of /proc/self is the user that this process runs as.
    std::fs::metadata("/proc/self").is_ok_and(|owner| owner.uid() == 0)
}

/// Lets the clock go when it is dropped, as it is at the end of a panic, too.
struct Held<'a>(&'a dyn Clocks);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.release() {
            eprintln!("the clock could not be let go (nvidia-smi --reset-gpu-clocks does it): {error:#}");
        }
    }
}

/// Up to `count` of the clocks, evenly spaced from the highest to half of it.
pub(crate) fn points(supported: &[u32], count: usize) -> Vec<u32> {
    let highest = supported.iter().copied().max().unwrap_or(0);
    let step = |i: usize| highest - highest / 2 * i as u32 / (count.max(2) - 1) as u32;
    let nearest = |i| supported.iter().copied().min_by_key(|mhz| mhz.abs_diff(step(i)));
    let mut points: Vec<u32> = (0..count).filter_map(nearest).collect();
    points.dedup();
    points
}

/// Does `work` at each of `count` clocks, and lets the clock go.
///
/// # Errors
/// `root` is false, the GPU refuses, or the work fails.
pub(crate) fn sweep(
    clocks: &Arc<dyn Clocks>,
    count: usize,
    root: bool,
    mut work: impl FnMut(u32) -> Result<()>,
) -> Result<()> {
    ensure!(root, "only root may hold the clock of a GPU");
    let points = points(&clocks.supported()?, count);
    ensure!(!points.is_empty(), "the GPU names no clocks that it could be held to");
    const BY_SIGNAL: i32 = 128;
    let of_signal = clocks.clone();
    let ended = on_signal(&[SIGHUP, SIGINT, SIGTERM], move |signal| {
        drop(Held(&*of_signal));
        std::process::exit(BY_SIGNAL + signal);
    })?;
    let held = Held(&**clocks);
    let done = points.into_iter().try_for_each(|mhz| {
        clocks.hold(mhz).with_context(|| format!("the clock cannot be held to {mhz} MHz"))?;
        work(mhz)
    });
    drop(held);
    ended.close();
    done
}

/// Calls `act` at the first of `signals`, unless what is returned was closed before.
fn on_signal(
    signals: &[i32],
    act: impl FnOnce(i32) + Send + 'static,
) -> Result<signal_hook::iterator::Handle> {
    let mut signals = Signals::new(signals)?;
    let handle = signals.handle();
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            act(signal);
        }
    });
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Mutex, mpsc};

    use signal_hook::consts::SIGUSR1;

    use super::*;

    /// Notes what it is asked, and refuses clocks above `highest`.
    #[derive(Default)]
    struct Fake {
        highest: u32,
        asked: Mutex<Vec<String>>,
    }

    impl Fake {
        fn new(highest: u32) -> Arc<Self> {
            Arc::new(Fake { highest, ..Fake::default() })
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }

        fn note(&self, what: String) {
            self.asked.lock().unwrap().push(what);
        }
    }

    impl Clocks for Fake {
        fn supported(&self) -> Result<Vec<u32>> {
            Ok((200..=1980).step_by(15).collect())
        }

        fn hold(&self, mhz: u32) -> Result<()> {
            ensure!(mhz <= self.highest, "no such clock");
            self.note(format!("hold {mhz}"));
            Ok(())
        }

        fn release(&self) -> Result<()> {
            self.note("release".to_owned());
            Ok(())
        }
    }

    fn swept(fake: &Arc<Fake>, root: bool, work: impl FnMut(u32) -> Result<()>) -> Result<()> {
        let clocks: Arc<dyn Clocks> = fake.clone();
        sweep(&clocks, 3, root, work)
    }

    #[test]
    fn each_clock_is_held_and_the_last_let_go() {
        let fake = Fake::new(2000);
        swept(&fake, true, |mhz| {
            fake.note(format!("work at {mhz}"));
            Ok(())
        })
        .unwrap();
        let wanted =
            ["hold 1970", "work at 1970", "hold 1475", "work at 1475", "hold 980", "work at 980", "release"];
        assert_eq!(fake.asked(), wanted);
    }

    #[test]
    fn the_clock_is_let_go_after_errors_and_panics() {
        let fake = Fake::new(2000);
        assert!(swept(&fake, true, |_| anyhow::bail!("the work failed")).is_err());
        assert_eq!(fake.asked(), ["hold 1970", "release"]);
        let fake = Fake::new(2000);
        let work = |_: u32| -> Result<()> { panic!("a panic that this test expects") };
        assert!(catch_unwind(AssertUnwindSafe(|| swept(&fake, true, work))).is_err());
        assert_eq!(fake.asked(), ["hold 1970", "release"]);
        let fake = Fake::new(100);
        assert!(swept(&fake, true, |_| Ok(())).is_err());
        assert_eq!(fake.asked(), ["release"]);
    }

    #[test]
    fn the_clock_is_let_go_after_a_signal() {
        let fake = Fake::new(2000);
        let (of_signal, (sender, receiver)) = (fake.clone(), mpsc::channel());
        on_signal(&[SIGUSR1], move |signal| {
            drop(Held(&*of_signal));
            sender.send(signal).unwrap();
        })
        .unwrap();
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        assert_eq!(receiver.recv().unwrap(), SIGUSR1);
        assert_eq!(fake.asked(), ["release"]);
    }

    #[test]
    fn only_root_may() {
        let fake = Fake::new(2000);
        let error = swept(&fake, false, |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "only root may hold the clock of a GPU");
        assert!(fake.asked().is_empty());
    }

    #[test]
    fn points_are_clocks_that_there_are() {
        assert_eq!(points(&[1980, 1500, 990], 3), [1980, 1500, 990]);
        assert_eq!(points(&[1980], 4), [1980]);
        assert!(points(&[], 4).is_empty());
    }
}
