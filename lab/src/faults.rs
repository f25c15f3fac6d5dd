//! Kernels with one known mistake each: whoever looks for such mistakes must find them there. They are negative controls,
//! and no part of the product.

use anyhow::Result;
use clap::{Args, ValueEnum};
use flashcore::driver::Launch;
use flashcore::kernels::KernelImage;
use flashcore::{Device, Stream};

/// Threads of a launch: two warps.
const THREADS: u32 = 64;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// A write behind the end of an allocation
    Memcheck,
    /// Memory that is never freed
    Leak,
    /// Shared memory that another warp reads without a barrier
    Racecheck,
    /// A barrier that two warps reach at different instructions
    Synccheck,
    /// A read of memory that nobody wrote
    Initcheck,
    /// Work that is skipped where data are 0
    Skip,
}

impl Fault {
    /// The kernel; a leak has none.
    pub(crate) fn kernel(self) -> Option<KernelImage> {
        let (symbol, ptx) = match self {
            Fault::Memcheck => ("fault_memcheck", include_str!("faults/memcheck.ptx")),
            Fault::Racecheck => ("fault_racecheck", include_str!("faults/racecheck.ptx")),
            Fault::Synccheck => ("fault_synccheck", include_str!("faults/synccheck.ptx")),
            Fault::Initcheck => ("fault_initcheck", include_str!("faults/initcheck.ptx")),
            Fault::Skip => ("fault_skip", include_str!("faults/skip.ptx")),
            Fault::Leak => return None,
        };
        Some(KernelImage { symbol, ptx, cubin: None })
    }

    /// Words of memory that a launch needs.
    const fn words(self) -> u32 {
        match self {
            Fault::Initcheck => 2 * THREADS,
            _ => THREADS,
        }
    }
}

/// Launches one CTA of `kernel` on `words` words at `data`.
///
/// # Safety
/// The memory must hold what the kernel touches, but for the mistake that it is there for.
pub(crate) unsafe fn launch(
    kernel: &KernelImage,
    stream: &Stream,
    data: u64,
    words: u32,
) -> flashcore::Result<()> {
    let launch = Launch {
        kernel,
        grid: [1, 1, 1],
        block: THREADS,
        cluster: 1,
        smem_bytes: 0,
        overlaps_previous: false,
        params: &[&data.to_ne_bytes(), &words.to_ne_bytes()],
    };
    // SAFETY: parameters and threads are those of every kernel here; the caller vouches for the memory.
    unsafe { stream.launch(&launch) }
}

/// Options of `fault`.
#[derive(Args)]
#[command(after_help = "Example:\n  compute-sanitizer --tool racecheck flashcore-lab fault racecheck")]
pub(crate) struct Options {
    /// Which mistake
    fault: Fault,
}

/// Makes the mistake.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    make(&device?, options.fault)?;
    Ok(true)
}

/// Makes a mistake on a device.
fn make(device: &Device, fault: Fault) -> flashcore::Result<()> {
    let words = fault.words();
    let data = device.backend().alloc(4 * words as usize)?;
    let Some(kernel) = fault.kernel() else {
        return Ok(()); // and nobody frees it
    };
    let stream = device.stream()?;
    // SAFETY: the memory is as large as the kernel needs, but for its mistake; freed after the work.
    unsafe {
        let launched = launch(&kernel, &stream, data, words).and_then(|()| stream.synchronize());
        device.backend().free(data);
        launched
    }
}

#[cfg(test)]
mod tests {
    use flashcore::driver::Code;

    use super::*;

    /// What the emulator finds wrong with a fault.
    fn found(fault: Fault) -> Vec<Code> {
        match make(&Device::emulated(), fault) {
            Ok(()) => Vec::new(),
            Err(flashcore::Error::Hazards { report, .. }) => {
                report.findings.iter().map(|finding| finding.code).collect()
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_emulator_sees_the_mistakes_as_well() {
        assert!(found(Fault::Memcheck).contains(&Code::E31), "{:?}", found(Fault::Memcheck));
        assert!(found(Fault::Racecheck).contains(&Code::E01), "{:?}", found(Fault::Racecheck));
        assert!(found(Fault::Synccheck).contains(&Code::E34), "{:?}", found(Fault::Synccheck));
        assert!(found(Fault::Initcheck).contains(&Code::E30), "{:?}", found(Fault::Initcheck));
    }
}
