//! How many cycles of the SMs work takes: by kernels before and behind it which leave the SMs' clocks.
//!
//! Cycles are what code takes. Time is cycles by a clock that the GPU stretches, within microseconds, as its supply
//! sags under what the data make it switch.

use anyhow::{Context, Result};
use flashcore::driver::Launch;
use flashcore::kernels::KernelImage;
use flashcore::{Device, Stream};

const KERNEL: KernelImage = KernelImage { symbol: "clocks", ptx: include_str!("clocks.ptx"), cubin: None };
const THREADS: u32 = 1;

/// When the work is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Before,
    Behind,
}

/// The clock of every SM before work and behind it, in device memory.
pub(super) struct Clocks<'a> {
    device: &'a Device,
    words: u64,
    sms: u32,
}

impl<'a> Clocks<'a> {
    pub(super) fn new(device: &'a Device) -> Result<Self> {
        device.load(&KERNEL)?;
        let sms = device.properties().sm_count;
        let words = device.backend().alloc(Self::bytes(sms))?;
        Ok(Clocks { device, words, sms })
    }

    /// Of two clocks of each SM.
    const fn bytes(sms: u32) -> usize {
        2 * 8 * sms as usize
    }

    /// Has the clocks left between the work that `stream` has and that which it gets.
    pub(super) fn leave(&self, stream: &Stream, moment: Moment) -> flashcore::Result<()> {
        let words = self.words + if moment == Moment::Before { 0 } else { 8 * u64::from(self.sms) };
        let launch = Launch {
            kernel: &KERNEL,
            grid: [self.sms, 1, 1],
            block: THREADS,
            cluster: 1,
            smem_bytes: 0,
            overlaps_previous: false,
            params: &[&words.to_ne_bytes(), &self.sms.to_ne_bytes()],
        };
        // SAFETY: the kernel writes words of numbers below `sms`, which are allocated; freed after all work.
        unsafe { stream.launch(&launch) }
    }

    /// Cycles between the two moments, when both are over. The median over the SMs: one that had no CTA at one of them
    /// has an old clock.
    pub(super) fn between(&self) -> Result<f64> {
        let mut bytes = vec![0; Self::bytes(self.sms)];
        // SAFETY: so much was allocated.
        unsafe { self.device.backend().download(self.words, &mut bytes)? };
        let clocks: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
            .collect();
        let (before, behind) = clocks.split_at(self.sms as usize);
        let mut cycles: Vec<u64> =
            before.iter().zip(behind).map(|(before, behind)| behind.wrapping_sub(*before)).collect();
        cycles.sort_unstable();
        cycles.get(cycles.len() / 2).map(|&cycles| cycles as f64).context("a device without SMs")
    }
}

impl Drop for Clocks<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, and used no more once all work is done, for which this waits.
        unsafe { self.device.backend().free(self.words) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sm_leaves_its_clock_at_both_moments() {
        let device = Device::emulated();
        let stream = device.stream().unwrap();
        let clocks = Clocks::new(&device).unwrap();
        let backend = device.backend();
        let bytes = Clocks::bytes(clocks.sms);
        let half = bytes / 2;
        // SAFETY: so much was allocated.
        unsafe { backend.fill(clocks.words, u8::MAX, bytes).unwrap() };
        let untouched = || {
            stream.synchronize().unwrap();
            let mut bytes = vec![0; bytes];
            // SAFETY: so much was allocated.
            unsafe { backend.download(clocks.words, &mut bytes).unwrap() };
            [&bytes[..half], &bytes[half..]]
                .map(|half| half.chunks(8).filter(|word| **word == [u8::MAX; 8]).count())
        };
        clocks.leave(&stream, Moment::Before).unwrap();
        assert_eq!(untouched(), [0, clocks.sms as usize]);
        clocks.leave(&stream, Moment::Behind).unwrap();
        assert_eq!(untouched(), [0, 0]);
    }

    #[test]
    fn an_old_clock_does_not_count() {
        let device = Device::emulated();
        let clocks = Clocks::new(&device).unwrap();
        let sms = clocks.sms as usize;
        let mut words: Vec<u64> = (0..sms).map(|sm| 1000 * sm as u64).collect();
        words.extend_from_within(..);
        words[sms..].iter_mut().for_each(|behind| *behind += 77);
        words[7] = 0;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        // SAFETY: so much was allocated.
        unsafe { device.backend().upload(clocks.words, &bytes).unwrap() };
        assert_eq!(clocks.between().unwrap(), 77.0);
    }
}
