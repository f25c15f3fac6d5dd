//! `test`: the whole test suite, on this machine.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup;
use crate::workspace::Workspace;

/// Run all tests; those that need a GPU are skipped where there is none, and counted
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --package flashcore-tests --test forward"
)]
pub(crate) struct Test {
    /// Passed on to `cargo test` (default: --workspace)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Test {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        setup::ensure(workspace)?;
        let arguments =
            if self.arguments.is_empty() { vec!["--workspace".to_owned()] } else { self.arguments };
        let mut child = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["test", "--no-fail-fast"])
            .args(arguments)
            .current_dir(workspace.path(""))
            .stdout(Stdio::piped())
            .spawn()
            .context("could not run cargo")?;
        let mut total = Totals::default();
        let output = BufReader::new(child.stdout.take().context("the output is piped")?);
        for line in output.lines() {
            let line = line?;
            writeln!(std::io::stdout(), "{line}")?;
            total.add(&line);
        }
        let status = child.wait()?;
        if total == Totals::default() {
            bail!("no test ran ({status})");
        }
        let Totals { passed, failed, skipped } = total;
        println!("\nAll in all: {passed} passed, {failed} failed, {skipped} skipped.");
        if !status.success() {
            bail!("cargo test failed ({status})");
        }
        Ok(())
    }
}

/// Sums over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Totals {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out`.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for part in counts.split([';', '.']) {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed() {
        let mut totals = Totals::default();
        totals.add("running 4 tests");
        totals.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        totals.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s");
        assert_eq!(totals, Totals { passed: 4, failed: 2, skipped: 1 });
    }
}
