//! A sample of mutants: kernels with one mistake of synchronisation each, which the emulator must report.
//! `cargo xtask mutate` runs them all.

use std::process::ExitCode;

use flashcore::Dtype;
use flashcore::kernels::Variant;
use flashcore_kernels::config::Score;
use flashcore_tests::kernel::different_kernels;
use flashcore_tests::mutation::{Fate, Subject, explanations};
use flashcore_tests::suite::{Resource, Suite};

/// One mutant of so many is run. Kernels of bf16 have the mutants of those of f16.
const fn every(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F16 => EVERY,
        Dtype::Bf16 => 4 * EVERY,
    }
}

const EVERY: usize = 100;

/// Runs a sample of the mutants of a kernel, from the `first` on. None may survive that nobody has explained.
fn report(variant: &'static Variant, first: usize) -> Result<(), String> {
    let subject = Subject::new(variant).map_err(|error| error.to_string())?;
    let mutants = subject.mutants();
    let sample: Vec<_> = mutants.iter().skip(first).step_by(every(variant.dtype)).collect();
    assert!(!sample.is_empty(), "{} mutants", mutants.len());
    let known = explanations();
    for mutant in sample {
        let outcome = subject.fate(mutant).map_err(|error| format!("{}: {error}", mutant.name))?;
        let reported = matches!(outcome.fate, Fate::Reported(_));
        if !reported && !known.iter().any(|known| known.covers(&outcome)) {
            return Err(format!("PTX line {}: {} ({:?})", outcome.line, outcome.mutant, outcome.fate));
        }
    }
    Ok(())
}

/// Kernels of one shape have the same mutants in the same order: each of them is asked for others, which do not change when
/// there are more kernels.
fn first(symbol: &str) -> usize {
    // FNV-1a
    let mixed = symbol
        .bytes()
        .fold(0x811C_9DC5_u32, |mixed, byte| (mixed ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    mixed as usize % EVERY
}

/// Kernels of which nobody has run all mutants, and looked at what survives.
fn is_unexplained(variant: &Variant) -> bool {
    variant.fp8.is_some() && variant.is_general() || matches!(variant.score, Score::Alibi | Score::BiasTiles)
}

fn main() -> ExitCode {
    let mut suite = Suite::on(vec![Resource::new("emulated", Ok(()))]);
    let reason =
        "skipped: all of its mutants are yet to be run, and what survives to be explained".to_owned();
    let mut unexplained = Suite::on(vec![Resource::new("emulated", Err(reason))]);
    for variant in different_kernels() {
        let first = first(variant.symbol);
        let suite = if is_unexplained(variant) { &mut unexplained } else { &mut suite };
        suite.test(variant.symbol, move |()| report(variant, first));
    }
    suite.and(unexplained).run()
}
