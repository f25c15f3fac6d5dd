//! `test`: the whole test suite, on this machine.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::workspace::Workspace;
use crate::{python, setup};

/// What tests the bindings that are workspaces of their own: folder, program and arguments.
const BINDINGS: [(&str, &[&str]); 2] = [
    ("bindings/candle", &["cargo", "test", "--no-fail-fast", "--locked"]),
    ("bindings/cust", &["./with-driver.sh", "cargo", "test", "--no-fail-fast", "--locked"]),
];

/// Run all tests; those that need a GPU are skipped where there is none, and counted
///
/// Without arguments, also those of the Python package: its wheel is installed into a fresh environment of each Python
/// that is there (3.10 to 3.13), tests itself, and runs its own tests with NumPy in one of them.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --package flashcore-tests --test forward\n  cargo xtask test --python"
)]
pub(crate) struct Test {
    /// Only those of the Python package
    #[arg(long, conflicts_with = "arguments")]
    python: bool,
    /// Passed on to `cargo test` (default: --workspace, and then the bindings that are workspaces of their own)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Test {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        setup::ensure(workspace)?;
        let everything = self.arguments.is_empty();
        let mut commands = Vec::new();
        if !self.python {
            let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command.args(["test", "--no-fail-fast"]).args(self.arguments).current_dir(workspace.path(""));
            if everything {
                command.arg("--workspace");
            }
            commands.push(command);
            if everything {
                commands.extend(BINDINGS.map(|(folder, words)| {
                    let mut command = Command::new(words[0]);
                    command.args(&words[1..]).current_dir(workspace.path(folder));
                    // What they have in common with the workspace is not compiled again.
                    command.env("CARGO_TARGET_DIR", workspace.path("target"));
                    command
                }));
            }
        }

        let mut total = Totals::default();
        let mut failures = Vec::new();
        for mut command in commands {
            let status = total.add_all(&mut command)?;
            if !status.success() {
                failures.push(format!("{} failed ({status})", shown(&command)));
            }
        }
        if everything {
            python::test(workspace, &mut total)?;
        }
        if total == Totals::default() {
            failures.push("no test ran".to_owned());
        }
        let Totals { passed, failed, skipped } = total;
        println!("\nTotal: {passed} passed, {failed} failed, {skipped} skipped");
        if failed > 0 {
            failures.push(format!("{failed} tests failed"));
        }
        if !failures.is_empty() {
            bail!("{}", failures.join("; "));
        }
        Ok(())
    }
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Sums over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Totals {
    /// Adds pytest's last line, like `3 passed, 1 skipped in 2.05s`.
    pub(crate) fn add_pytest(&mut self, line: &str) {
        let (counts, _) = line.rsplit_once(" in ").unwrap_or_default();
        for part in counts.split(", ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" | "error" | "errors" => self.failed += number,
                "skipped" => self.skipped += number,
                _ => {}
            }
        }
    }

    /// Runs `command`, shows its output, and adds what it says of its tests.
    fn add_all(&mut self, command: &mut Command) -> Result<ExitStatus> {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not run {}", shown(command)))?;
        let output = BufReader::new(child.stdout.take().context("the output is piped")?);
        for line in output.lines() {
            let line = line?;
            writeln!(std::io::stdout(), "{line}")?;
            self.add(&line);
        }
        Ok(child.wait()?)
    }

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
        totals.add_pytest("SKIPPED [2] tests/test_torch.py:9: could not import 'torch'");
        totals.add_pytest("2 failed, 10 passed, 3 skipped, 1 warning, 1 error in 61.20s (0:01:01)");
        assert_eq!(totals, Totals { passed: 14, failed: 5, skipped: 4 });
    }
}
