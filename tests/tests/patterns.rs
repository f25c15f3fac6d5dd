//! Mistakes that public kernels have made, written in Rust on this library's primitives: the emulator names each, and
//! has nothing to say about the corrections.
//!
//! These kernels are built here and not embedded: one of them breaks a rule of the build.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use flashcore::driver::{Completion, EmulatorOptions, Launch};
use flashcore::kernels::KernelImage;
use flashcore::tensor_map::{MapElement, TensorMapDesc};
use flashcore::{Device, Error};
use flashcore_emulator::{Code, Report};
use flashcore_kernels::patterns::{PATTERNS, ROW_WORDS, ROWS};
use flashcore_kernels::probe::{PROBE_SMEM, ProbeArgs};
use flashcore_ptx_builder::{Artifact, Builder};

/// Words of the tensor that a pattern copies, and of the tensor it copies to.
const WORDS: usize = (ROWS * ROW_WORDS) as usize;
/// Accumulators of a warpgroup.
const ACCUMULATORS: usize = 128 * 32;

/// Every pattern as the builder makes it, rules broken or not.
fn artifacts() -> &'static BTreeMap<&'static str, Artifact> {
    static BUILT: OnceLock<BTreeMap<&'static str, Artifact>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels-device");
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("patterns");
        let built = Builder::new(kernels, out).features(&["patterns"]).examine(PATTERNS);
        let artifacts = built.expect("the patterns compile").artifacts;
        artifacts.into_iter().map(|artifact| (artifact.entry.symbol, artifact)).collect()
    })
}

/// What a run made of the tensor (first `WORDS` words copied to the second) and of the output.
struct Outcome {
    tensor: Vec<u32>,
    output: Vec<u32>,
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
}

/// Numbers that are harmless as halves too: 0 to 1/1024 twice.
fn input(words: usize) -> Vec<u8> {
    (0..words as u32).flat_map(|i| ((i % 0x400) | ((i * 7 % 0x400) << 16)).to_le_bytes()).collect()
}

fn run(symbol: &str, options: &EmulatorOptions) -> flashcore::Result<Outcome> {
    let artifact = &artifacts()[symbol];
    let text = std::fs::read_to_string(&artifact.ptx).expect("the builder wrote it");
    // The library keeps kernels for ever; so does this.
    let image =
        Box::leak(Box::new(KernelImage { symbol: artifact.entry.symbol, ptx: text.leak(), cubin: None }));
    let device = Device::emulated_with(options);
    let backend = device.backend();
    let upload = |data: &[u8]| {
        let address = backend.alloc(data.len())?;
        // SAFETY: as many bytes were just allocated.
        unsafe { backend.upload(address, data)? };
        Ok::<u64, Error>(address)
    };
    // Store patterns write the tensor's first rows; the ring copies them to its last ones.
    let tensor = upload(&[input(WORDS), vec![0; 4 * WORDS]].concat())?;
    let output = upload(&vec![0; 4 * ACCUMULATORS])?;
    let source = upload(&input(512))?;
    let whole = symbol.contains("_store_");
    let boxed = [ROW_WORDS, if whole { ROWS } else { 1 }];
    let dims = [u64::from(ROW_WORDS), 2 * u64::from(ROWS)];
    let desc = TensorMapDesc::new(tensor, MapElement::F32, &dims, &[4 * u64::from(ROW_WORDS)], &boxed)?;
    let map = device.encode_tensor_map(&desc)?;
    let args = ProbeArgs { input: source, output, ..ProbeArgs::default() };
    // SAFETY: `repr(C)` without padding, as its declaration asserts.
    let args = unsafe { std::slice::from_raw_parts((&raw const args).cast::<u8>(), size_of::<ProbeArgs>()) };
    let launch = Launch {
        kernel: image,
        grid: [1, 1, 1],
        block: artifact.entry.threads,
        cluster: 1,
        smem_bytes: PROBE_SMEM,
        overlaps_previous: false,
        params: &[bytemuck::bytes_of(&map.0), args],
    };
    let stream = device.stream()?;
    // SAFETY: the buffers are as large as the patterns need, and live as long as the device.
    unsafe { stream.launch(&launch)? };
    stream.synchronize()?;
    let download = |address: u64, count: usize| {
        let mut bytes = vec![0; 4 * count];
        // SAFETY: allocated above with at least this size.
        unsafe { backend.download(address, &mut bytes)? };
        Ok::<_, Error>(words(&bytes))
    };
    Ok(Outcome { tensor: download(tensor, 2 * WORDS)?, output: download(output, ACCUMULATORS)? })
}

/// Some orders of events, with each completion policy.
fn schedules() -> impl Iterator<Item = EmulatorOptions> {
    [Completion::Lazy, Completion::Eager, Completion::Random].into_iter().flat_map(|completion| {
        (0..8).map(move |seed| EmulatorOptions { seed, completion, ..EmulatorOptions::default() })
    })
}

/// The wrong form of a pattern is reported with this code under every schedule.
fn reported(pattern: &str, code: Code) {
    for options in schedules() {
        match run(&format!("pattern_{pattern}_wrong"), &options) {
            Err(Error::Hazards { report, .. }) => {
                let Report { findings, .. } = &*report;
                assert!(
                    findings.iter().any(|finding| finding.code == code),
                    "{pattern}, {options:?}: {report}"
                );
            }
            Err(error) => panic!("{pattern}, {options:?}: {error}"),
            Ok(_) => panic!("{pattern}, {options:?}: nothing was found"),
        }
    }
}

/// The right form runs under every schedule; what came of it.
fn clean(pattern: &str) -> Outcome {
    let outcomes = schedules().map(|options| match run(&format!("pattern_{pattern}_right"), &options) {
        Ok(outcome) => outcome,
        Err(error) => panic!("{pattern}, {options:?}: {error}"),
    });
    outcomes.last().expect("there are schedules")
}

#[test]
fn a_tile_is_stored_without_a_proxy_fence() {
    for pattern in ["store_words", "store_matrices"] {
        reported(pattern, Code::E03);
        assert_eq!(clean(pattern).tensor[..WORDS], words(&input(WORDS)));
    }
}

#[test]
fn a_load_overwrites_what_was_just_read() {
    reported("load_over_reads", Code::E04);
    assert_eq!(clean("load_over_reads").output[..WORDS], words(&input(WORDS)));
}

#[test]
fn a_stage_is_loaded_while_a_store_reads_it() {
    reported("two_stages", Code::E05);
    assert_eq!(clean("two_stages").tensor[WORDS..], words(&input(WORDS)));
}

#[test]
fn accumulators_are_read_in_flight() {
    reported("accumulators", Code::E06);
    clean("accumulators");
}

/// What needs no run to be seen, the build refuses; the other mistakes only show when a kernel runs.
#[test]
fn the_build_refuses_registers_in_flight() {
    for (symbol, artifact) in artifacts() {
        let refused = !artifact.verdict.broken.is_empty();
        assert_eq!(
            refused,
            *symbol == "pattern_accumulators_wrong",
            "{symbol}: {:?}",
            artifact.verdict.broken
        );
    }
}
