//! Every kernel against the oracle, of 16 bits and of 8, and the public call, which picks one; and merges of what such
//! calls leave.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore::Device;
use flashcore_tests::compare::Verdict;
use flashcore_tests::device::Failure;
use flashcore_tests::kernel::{self, Elements};
use flashcore_tests::{cases, grid, merge};
use indicatif::{ProgressBar, ProgressStyle};

use crate::shape::{Dtypes, Shapes};

/// Options of `check`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab check --small\n  flashcore-lab check --shape 2,4/2,100/300,128 --dtype bf16"
)]
pub(crate) struct Options {
    /// A few tiny shapes of every kernel: for race and memory checkers
    #[arg(long, conflicts_with = "shapes")]
    small: bool,
    #[command(flatten)]
    shapes: Shapes,
    /// Element type
    #[arg(long, value_enum, default_value_t = Dtypes::Both)]
    dtype: Dtypes,
}

/// Cases of 8 bits are no larger: the oracle answers all of their rows.
const NARROW_FLOPS: f64 = 4e9;

/// What the cases of one kernel came to.
#[derive(Default)]
struct Tally {
    cases: usize,
    failures: usize,
    /// Largest share of the allowed error that a case used.
    share: f64,
    error: f64,
    lse_error: f64,
}

impl Tally {
    /// Counts a case; the failure, if it is one.
    fn add(&mut self, result: Result<Verdict, Failure>) -> Result<(), Failure> {
        self.cases += 1;
        match result {
            Ok(verdict) => {
                self.share = self.share.max(verdict.error / verdict.bound.max(f64::MIN_POSITIVE));
                self.error = self.error.max(verdict.error);
                self.lse_error = self.lse_error.max(verdict.lse_error);
                Ok(())
            }
            Err(failure) => {
                self.failures += 1;
                Err(failure)
            }
        }
    }
}

/// Runs the cases; false if one failed.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    let mut cases = options.shapes.cases();
    let mut merges = Vec::new();
    if cases.is_empty() {
        cases = if options.small { cases::small() } else { cases::forward() };
        cases.extend(cases::banded());
        cases.retain(|case| options.shapes.masks().contains(&case.causal));
        merges = if options.small { merge::small() } else { merge::cases() };
        merges.retain(|merge| options.dtype.list().contains(&merge.dtype));
    }
    let dtypes = options.dtype.list();
    let elements = |case| dtypes.iter().flat_map(move |&dtype| Elements::of_case(case, dtype));
    let runs: Vec<_> = cases
        .iter()
        .enumerate()
        .flat_map(|(seed, case)| elements(case).map(move |elements| (seed as u64, case, elements)))
        .filter(|(_, case, elements)| elements.fp8.is_none() || grid::flops(case) <= NARROW_FLOPS)
        .collect();
    let bar = ProgressBar::new((runs.len() + merges.len()) as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    for (seed, case, elements) in runs {
        let name = kernel::name(case, elements);
        bar.set_message(name.clone());
        for (kernel, result) in kernel::check_each(&device, case, elements, seed).context(name.clone())? {
            if let Err(failure) = tallies.entry(kernel).or_default().add(result) {
                bar.suspend(|| println!("FAILED {name}, {kernel}: {failure}"));
            }
        }
        bar.inc(1);
    }
    for (seed, merge) in merges.iter().enumerate() {
        let name = merge::name(merge);
        bar.set_message(name.clone());
        let result = merge::check(&device, merge, seed as u64);
        if let Err(failure) = tallies.entry(merge::kernel(merge.dtype)).or_default().add(result) {
            bar.suspend(|| println!("FAILED {name}: {failure}"));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!("{}", table(&tallies));
    Ok(tallies.values().all(|tally| tally.failures == 0))
}

fn table(tallies: &BTreeMap<&str, Tally>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["kernel", "cases", "failed", "max error", "of allowed", "max LSE error"]);
    for (kernel, tally) in tallies {
        table.add_row([
            (*kernel).to_owned(),
            tally.cases.to_string(),
            tally.failures.to_string(),
            format!("{:.2e}", tally.error),
            format!("{:.0} %", 100.0 * tally.share),
            format!("{:.1e}", tally.lse_error),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn shapes_are_checked_in_16_bits_and_in_8() {
        let line = ["check", "--shape", "1,2/1,40/70,64", "--full", "--dtype", "f16"];
        let Cli { options } = Cli::parse_from(line);
        assert!(run(Ok(Device::emulated()), &options).unwrap());
    }

    #[test]
    fn windows_and_capped_scores_are_those_of_8_bits_too() {
        let mut kernels = Vec::new();
        for case in cases::banded().into_iter().filter(|case| case.head_dim == 64) {
            let elements = Elements::of_case(&case, flashcore::Dtype::F16)[1];
            for (kernel, result) in kernel::check_each(&Device::emulated(), &case, elements, 1).unwrap() {
                result.unwrap();
                kernels.push(kernel);
            }
        }
        for kernel in ["fwd_hd64_m128n128_e4m3_f16_band", "fwd_hd64_m128n128_e4m3_f16_band_softcap"] {
            assert!(kernels.contains(&kernel), "{kernels:?}");
        }
    }
}
