//! The emulated device as the library uses it, with kernels of a few lines.

use super::*;
use crate::driver::{Code, Completion, Event, Graph};
use crate::{Device, Stream};

/// Adds 1 to the word at its argument.
const INCREMENT: KernelImage = KernelImage {
    symbol: "increment",
    ptx: "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry increment(
	.param .u64 increment_param_0
)
.maxntid 32, 1, 1
{
	.reg .pred %p<2>;
	.reg .b32 %r<4>;
	.reg .b64 %rd<2>;
	ld.param.b64 %rd1, [increment_param_0];
	mov.u32 %r1, %tid.x;
	setp.ne.s32 %p1, %r1, 0;
	@%p1 bra $L__DONE;
	ld.global.b32 %r2, [%rd1];
	add.s32 %r3, %r2, 1;
	st.global.b32 [%rd1], %r3;
$L__DONE:
	ret;
}
",
    cubin: None,
};

/// All threads write their number to one word.
const RACE: KernelImage = KernelImage {
    symbol: "race",
    ptx: "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry race(
	.param .u64 race_param_0
)
.maxntid 64, 1, 1
{
	.reg .b32 %r<2>;
	.reg .b64 %rd<2>;
	ld.param.b64 %rd1, [race_param_0];
	mov.u32 %r1, %tid.x;
	st.global.b32 [%rd1], %r1;
	ret;
}
",
    cubin: None,
};

/// A word of device memory.
struct Word(Device, u64);

impl Word {
    fn zero(device: &Device) -> Self {
        let word = Word(device.clone(), device.backend().alloc(4).unwrap());
        // SAFETY: just allocated.
        unsafe { device.backend().fill(word.1, 0, 4).unwrap() };
        word
    }

    fn value(&self) -> u32 {
        let mut bytes = [0; 4];
        // SAFETY: four bytes were allocated.
        unsafe { self.0.backend().download(self.1, &mut bytes).unwrap() };
        u32::from_le_bytes(bytes)
    }

    fn launch(&self, kernel: &KernelImage, threads: u32, stream: &Stream) -> Result<()> {
        self.launch_overlapping(false, kernel, threads, stream)
    }

    fn launch_overlapping(
        &self,
        overlaps_previous: bool,
        kernel: &KernelImage,
        threads: u32,
        stream: &Stream,
    ) -> Result<()> {
        let launch = Launch {
            kernel,
            grid: [1; 3],
            block: threads,
            cluster: 1,
            smem_bytes: 0,
            overlaps_previous,
            params: &[&self.1.to_le_bytes()],
        };
        // SAFETY: the word lives on, and all kernels take its address.
        unsafe { stream.launch(&launch) }
    }
}

#[test]
fn launches_are_done_when_they_return() {
    let device = Device::emulated();
    let (stream, word) = (device.stream().unwrap(), Word::zero(&device));
    for count in 1..4 {
        word.launch(&INCREMENT, 32, &stream).unwrap();
        assert_eq!(word.value(), count);
    }
}

#[test]
fn graphs_replay_what_was_recorded() {
    let device = Device::emulated();
    let (stream, word) = (device.stream().unwrap(), Word::zero(&device));
    let graph =
        Graph::capture(&stream, |stream| (0..2).try_for_each(|_| word.launch(&INCREMENT, 32, stream)));
    let graph = graph.unwrap();
    assert_eq!(word.value(), 0);
    for count in [2, 4] {
        // SAFETY: the word lives on.
        unsafe { graph.launch(&stream).unwrap() };
        assert_eq!(word.value(), count);
    }
    // A graph of graphs.
    // SAFETY: as above.
    let twice = Graph::capture(&stream, |stream| (0..2).try_for_each(|_| unsafe { graph.launch(stream) }));
    // SAFETY: as above.
    unsafe { twice.unwrap().launch(&stream).unwrap() };
    assert_eq!(word.value(), 8);
}

#[test]
fn kernels_that_overlap_must_wait_for_each_other() {
    let device = Device::emulated();
    let (stream, word) = (device.stream().unwrap(), Word::zero(&device));
    let ptx = INCREMENT.ptx.replace("ld.global", "griddepcontrol.wait;\n\tld.global");
    let waits = KernelImage { ptx: ptx.leak(), ..INCREMENT };
    let twice = |kernel: &KernelImage, stream: &Stream| {
        word.launch(&INCREMENT, 32, stream)?;
        word.launch_overlapping(true, kernel, 32, stream)
    };
    twice(&waits, &stream).unwrap();
    assert_eq!(word.value(), 2);
    let too_early = |result: Result<()>| match result {
        Err(Error::Hazards { report, .. }) => assert!(report.has(Code::E50), "{report}"),
        other => panic!("{other:?}"),
    };
    too_early(twice(&INCREMENT, &stream));
    let graph = Graph::capture(&stream, |stream| twice(&INCREMENT, stream)).unwrap();
    // SAFETY: the word lives on.
    too_early(unsafe { graph.launch(&stream) });
}

#[test]
fn streams_that_record_wait_for_nothing() {
    let device = Device::emulated();
    let (stream, event) = (device.stream().unwrap(), Event::new(&device).unwrap());
    let is_refused = |result: Result<()>| matches!(result, Err(Error::EmulatorRefused { .. }));
    let graph = Graph::capture(&stream, |stream| {
        assert!(is_refused(stream.synchronize()));
        assert!(is_refused(event.record(stream)));
        assert!(is_refused(Graph::capture(stream, |_| Ok(())).map(|_| ())));
        Ok(())
    });
    assert!(graph.is_ok());
    assert_eq!(stream.synchronize(), Ok(()));
    // SAFETY: the default stream always lives.
    let default = unsafe { Stream::from_raw(&device, 0) }.unwrap();
    assert!(is_refused(Graph::capture(&default, |_| Ok(())).map(|_| ())));
}

#[test]
fn streams_of_another_device_are_noticed() {
    let (here, there) = (Device::emulated(), Device::emulated());
    let theirs = there.stream().unwrap();
    // SAFETY: the stream lives.
    let borrowed = unsafe { Stream::from_raw(&here, theirs.raw()) };
    assert_eq!(borrowed.map(|_| ()), Err(Error::WrongStream { raw: theirs.raw(), ordinal: 0 }));
}

#[test]
fn there_is_no_clock() {
    let device = Device::emulated();
    let (stream, [start, end]) = (device.stream().unwrap(), [(); 2].map(|()| Event::new(&device).unwrap()));
    start.record(&stream).unwrap();
    end.record(&stream).unwrap();
    end.block(&stream).unwrap();
    assert_eq!(start.elapsed_ms(&end), Err(Error::NoClock));
}

#[test]
fn hazards_are_errors_and_reported() {
    let device = Device::emulated();
    let (stream, word) = (device.stream().unwrap(), Word::zero(&device));
    let Err(Error::Hazards { symbol: "race", report }) = word.launch(&RACE, 64, &stream) else {
        panic!("a race was not found");
    };
    assert!(report.has(Code::E02), "{report}");
    let error = Error::Hazards { symbol: "race", report };
    let message = error.to_string();
    assert!(message.starts_with("kernel race is wrong; findings: 1\nerror[E02 race-gmem]: "), "{message}");

    word.launch(&INCREMENT, 32, &stream).unwrap();
    word.launch(&INCREMENT, 32, &stream).unwrap();
    let reports = device.emulator().unwrap().take_reports();
    let kernels: Vec<_> = reports.iter().map(|kernel| (kernel.symbol, kernel.launches)).collect();
    assert_eq!(kernels, [("increment", 2), ("race", 1)]);
    assert!(reports[0].report.is_clean() && !reports[1].report.is_clean());
    // Two launches, of one warp: a load and a store of one thread.
    let counters = &reports[0].report.counters;
    assert_eq!((counters.global_load_bytes, counters.global_store_bytes), (8, 8));
    assert!(device.emulator().unwrap().take_reports().is_empty());
}

#[test]
fn without_checks_a_race_is_run() {
    for completion in [Completion::Eager, Completion::Lazy, Completion::Random] {
        let options = EmulatorOptions { checks: false, completion, seed: 3, ..EmulatorOptions::default() };
        let device = Device::emulated_with(&options);
        let word = Word::zero(&device);
        word.launch(&RACE, 64, &device.stream().unwrap()).unwrap();
        assert!(word.value() < 64);
    }
}

#[test]
fn what_cannot_be_loaded_or_launched_is_an_error() {
    let device = Device::emulated();
    let (stream, word) = (device.stream().unwrap(), Word::zero(&device));
    let refused = |ptx, symbol| match device.load(&KernelImage { symbol, ptx, cubin: None }) {
        Err(Error::KernelRefused { symbol: found, reason }) if found == symbol => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(INCREMENT.ptx, "decrement"), "its PTX has no entry of this name");
    assert!(!refused("no PTX", "nothing").is_empty());
    // More threads than the kernel allows.
    let launched = word.launch(&INCREMENT, 64, &stream);
    assert!(matches!(launched, Err(Error::EmulatorRefused { .. })), "{launched:?}");
}

#[test]
fn memory_has_bounds() {
    let device = Device::emulated();
    let ptr = device.backend().alloc(100).unwrap();
    assert_eq!(ptr % 256, 0);
    let locate = |ptr| device.backend().locate(ptr).unwrap();
    assert_eq!([ptr, ptr + 99].map(locate), [Location::ThisDevice; 2]);
    assert_eq!([0, ptr + 100].map(locate), [Location::NotDevice; 2]);
    // SAFETY: the emulator checks all addresses.
    let upload = unsafe { device.backend().upload(ptr + 96, &[0; 5]) };
    assert!(matches!(upload, Err(Error::EmulatorRefused { .. })), "{upload:?}");
    // SAFETY: as above.
    unsafe { device.backend().free(ptr) };
    assert_eq!(locate(ptr), Location::NotDevice);
    let bytes = device.properties().total_memory_bytes as usize + 1;
    assert_eq!(device.backend().alloc(bytes), Err(Error::OutOfMemory { bytes }));
}
