//! The laboratory: checks and times flashcore on a GPU.

mod bench;
mod charts;
mod check;
mod children;
mod clocks;
mod compare;
mod ct;
mod determinism;
mod emulated;
mod errors;
mod faults;
mod feature;
mod features;
mod fp8;
mod gate;
mod latency;
mod merge;
mod metrics;
mod mutate;
mod output;
mod overhead;
mod peers;
mod plot;
mod power;
mod profile;
mod report;
mod sanitize;
mod sensors;
mod shape;
mod stats;
mod timing;
mod tune;
mod turns;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use flashcore::Device;

/// Checks and times flashcore on a GPU, beside the attention kernels one would use instead.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// CUDA device
    #[arg(long, global = true, default_value_t = 0)]
    device: usize,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Every claim of the product as a gate: measure, judge, and leave reports and a page with plots
    Gate(gate::Options),
    /// What changed between two runs, and how surely; fails if something got slower
    Compare(compare::Options),
    /// Compare every kernel with the f64 oracle
    Check(check::Options),
    /// Check, then time, the grid of shapes, beside PyTorch and FlashAttention; without a GPU, emulate a small one
    Bench(bench::Options),
    /// Time varlen, windows, softcap, biases and the rest, ours and the peers': what each can do, and how fast
    Features(features::Options),
    /// Time every kernel that can compute a shape, and see whether the right one is chosen
    Tune(tune::Options),
    /// Time attention over 8 bits beside that over 16
    Fp8(fp8::Options),
    /// Check, then time, the merge of attention states, beside a copy of as many bytes
    Merge(merge::Options),
    /// Run every kernel again and again, under all conditions, and compare the bits
    Determinism(determinism::Options),
    /// Whether code or time depend on what is in the tensors
    Ct(ct::Options),
    /// Run compute-sanitizer over small shapes of every kernel, and over planted mistakes
    Sanitize(sanitize::Options),
    /// Profile a launch of ours, and the peers', with Nsight Compute
    Profile(profile::Options),
    /// Make one known mistake: a negative control for tools
    Fault(faults::Options),
    /// Measure the host time of a call, from Rust and from C
    Overhead(overhead::Options),
    /// Run shapes for seconds and measure clock, power and energy
    Power(power::Options),
    /// Launch one shape, and nothing else: for profilers
    One(timing::OneOptions),
    /// Make one mistake of synchronisation after another in every kernel: the emulator must see each
    Mutate(mutate::Options),
    /// Write report.md and the plots of a bench again, from DIR/metrics.json
    #[command(after_help = "Example:\n  flashcore-lab report target/flashcore/report")]
    Report {
        /// Folder with metrics.json
        dir: PathBuf,
    },
}

/// How to reach the implementations to compare with.
#[derive(Args, Clone)]
struct PeerOptions {
    /// Do not time other implementations
    #[arg(long)]
    no_peers: bool,
    /// Do not time this implementation, such as flash2; may be repeated
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// Python that has PyTorch, and FlashAttention-3 if it should be timed
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// A peers script other than the built-in one
    #[arg(long)]
    peers: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let device = || Device::cuda(cli.device);
    let done = match &cli.verb {
        Verb::Gate(options) => gate::run(device(), options),
        Verb::Compare(options) => compare::run(options),
        Verb::Check(options) => check::run(device(), options),
        Verb::Bench(options) => bench::run(device(), options),
        Verb::Features(options) => features::run(device(), options),
        Verb::Tune(options) => tune::run(device(), options),
        Verb::Fp8(options) => fp8::run(device(), options),
        Verb::Merge(options) => merge::run(device(), options),
        Verb::Determinism(options) => determinism::run(device(), options),
        Verb::Ct(options) => ct::run(device(), options),
        Verb::Sanitize(options) => sanitize::run(device(), options),
        Verb::Profile(options) => profile::run(device(), options),
        Verb::Fault(options) => faults::run(device(), options),
        Verb::Overhead(options) => overhead::run(device(), options),
        Verb::Power(options) => power::run(device(), options),
        Verb::One(options) => timing::one(device(), options),
        Verb::Mutate(options) => mutate::run(options),
        Verb::Report { dir } => report::rewrite(dir),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("flashcore-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_verb_shows_an_example() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for verb in cli.get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("flashcore-lab {}", verb.get_name());
            assert!(help.contains(&example), "{}: {help:?}", verb.get_name());
        }
    }
}
