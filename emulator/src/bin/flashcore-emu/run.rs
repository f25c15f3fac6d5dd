//! `flashcore-emu run`

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use flashcore_emulator::ir::{Kernel, Module};
use flashcore_emulator::workload::Workload;
use flashcore_emulator::{Completion, Counters, Device, Limits, Numerics, Options, Report};
use serde::Serialize;

/// Run a kernel, and report every hazard
///
/// Exit status: 0 if nothing worse than a warning is found, 1 otherwise, 2 if the kernel cannot be launched.
#[derive(Args)]
#[command(after_help = "Arguments:
  u32:5 s32:-5 u64:7 f32:1.5     a value
  in:BYTES                       address of random bytes
  in-f16:COUNT in-u32:COUNT ...  address of small random numbers
  out:BYTES zeros:BYTES          address of memory to write, unwritten or zero
  map:f16:64x128:box=64x64:swizzle=128
                                 tensor map of a tensor of small random numbers
  map-out:... map-zeros:...      the same of a tensor to write

A file may say how it is launched in a comment, which options override:
  // launch: --block 64 --arg in-u32:64 --arg out:256

Examples:
  flashcore-emu run kernel.ptx --grid 2 --block 128 --arg u32:64 --arg in-f16:4096 --arg out:8192
  flashcore-emu run kernel.ptx --seeds 20 --completion all
  flashcore-emu run kernel.ptx --json")]
pub(crate) struct Run {
    /// The PTX file
    file: PathBuf,
    /// The kernel, if the file has several
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    #[command(flatten)]
    workload: Workload,
    /// First seed: 0 takes warps in turn, others draw their order; also decides about random arguments
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds, from the first on
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// When asynchronous copies and products happen
    #[arg(long, value_enum, default_value_t = When::Lazy)]
    completion: When,
    /// Arithmetic of tensor cores
    #[arg(long, value_enum, default_value_t = Arithmetic::Hopper)]
    numerics: Arithmetic,
    /// Instructions after which a run is given up
    #[arg(long, value_name = "N", default_value_t = Options::default().instruction_limit)]
    limit: u64,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    /// At once
    Eager,
    /// As late as possible
    Lazy,
    /// At random, by the seed
    Random,
    /// All of these, one after another
    All,
}

#[derive(Clone, Copy, ValueEnum)]
enum Arithmetic {
    /// Exact, rounded once an instruction
    Exact,
    /// As Hopper does
    Hopper,
}

/// What came of all runs.
#[derive(Serialize)]
struct Outcome<'a> {
    kernel: &'a str,
    runs: u64,
    #[serde(flatten)]
    report: Report,
    outputs: Vec<Output>,
}

#[derive(Serialize)]
struct Output {
    /// Which argument it is, from 0.
    argument: usize,
    bytes: usize,
    /// FNV-1a of its bytes after the first run.
    hash: String,
}

impl Run {
    /// Whether nothing worse than a warning was found.
    pub(crate) fn execute(self) -> Result<bool> {
        let (text, module) = crate::read(&self.file)?;
        let kernel = self.kernel(&module)?;
        let of_file = Workload::of_comment(&text)?.unwrap_or_default();
        let workload = self.workload.clone().or(of_file);
        let completions = match self.completion {
            When::Eager => vec![Completion::Eager],
            When::Lazy => vec![Completion::Lazy],
            When::Random => vec![Completion::Random],
            When::All => vec![Completion::Eager, Completion::Lazy, Completion::Random],
        };
        let mut outcome: Option<Outcome> = None;
        for &completion in &completions {
            for seed in self.seed..self.seed.saturating_add(self.seeds) {
                let mut device = Device::new(Limits::h200());
                // Every run gets the same arguments: only the order of events differs.
                let prepared = workload.prepare(&mut device, self.seed)?;
                let numerics = match self.numerics {
                    Arithmetic::Exact => Numerics::Exact,
                    Arithmetic::Hopper => Numerics::Hopper,
                };
                let options = Options {
                    seed,
                    completion,
                    numerics,
                    instruction_limit: self.limit,
                    ..Options::default()
                };
                let report = prepared.launch(&mut device, &module, kernel, &options)?;
                match &mut outcome {
                    Some(outcome) => {
                        outcome.report.absorb(report);
                        outcome.runs += 1;
                    }
                    None => {
                        let written = prepared.buffers.iter().filter(|buffer| buffer.output);
                        let outputs = written.zip(prepared.outputs(&device)?).map(|(buffer, bytes)| Output {
                            argument: buffer.argument,
                            bytes: bytes.len(),
                            hash: format!("{:016x}", fnv1a(&bytes)),
                        });
                        let outputs = outputs.collect();
                        outcome = Some(Outcome { kernel: &kernel.name, runs: 1, report, outputs });
                    }
                }
            }
        }
        let outcome = outcome.context("--seeds 0 runs nothing")?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        } else {
            print(&outcome);
        }
        Ok(outcome.report.is_clean())
    }

    fn kernel<'m>(&self, module: &'m Module) -> Result<&'m Kernel> {
        let names =
            || module.kernels.iter().map(|kernel| kernel.name.as_str()).collect::<Vec<_>>().join(", ");
        match (&self.entry, &module.kernels[..]) {
            (Some(name), _) => module
                .kernel(name)
                .with_context(|| format!("no kernel `{name}` in the file, only {}", names())),
            (None, [kernel]) => Ok(kernel),
            (None, []) => bail!("the file has no kernel"),
            (None, _) => bail!("the file has several kernels; say with --entry which: {}", names()),
        }
    }
}

fn print(outcome: &Outcome) {
    println!("{}", outcome.report);
    let runs = if outcome.runs == 1 {
        "in one run".to_owned()
    } else {
        format!("in all {} runs together", outcome.runs)
    };
    println!("\n{} {runs}:", outcome.kernel);
    for (name, value) in counters(&outcome.report.counters) {
        println!("  {name:<36} {value:>16}");
    }
    for output in &outcome.outputs {
        println!("argument {}: {} bytes, hash {}", output.argument, output.bytes, output.hash);
    }
}

fn counters(counters: &Counters) -> [(&'static str, u64); 15] {
    [
        ("instructions of warps", counters.warp_instructions),
        ("warpgroup products", counters.wgmma),
        ("their multiplications and additions", counters.wgmma_flops),
        ("exponentials", counters.exponentials),
        ("bytes of bulk loads", counters.bulk_load_bytes),
        ("bytes that they wrote to shared", counters.bulk_fill_bytes),
        ("bytes of bulk stores", counters.bulk_store_bytes),
        ("bytes of ordinary global loads", counters.global_load_bytes),
        ("bytes of ordinary global stores", counters.global_store_bytes),
        ("bytes of ordinary shared loads", counters.shared_load_bytes),
        ("bytes of ordinary shared stores", counters.shared_store_bytes),
        ("bytes of shared that products read", counters.wgmma_shared_bytes),
        ("passes over the banks of shared", counters.shared_passes),
        ("bank conflicts", counters.bank_conflicts),
        ("waits that were not satisfied at once", counters.blocked_waits),
    ]
}

/// A hash to compare outputs by, not to trust them by.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}
