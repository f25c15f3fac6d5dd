//! `gate`: the rules that every kernel must keep, and, where there is a GPU, every other claim of the product.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore_ptx_builder::{BuildReport, GateError, Verdict};
use serde::Deserialize;

use crate::build::Kernels;
use crate::workspace::Workspace;
use crate::{build, lab, setup};

/// Check that every kernel keeps the rules, and, where there is a GPU, measure and judge every claim of the product
///
/// The rules: the lints S01 to S10 of the emulator, instructions that must stand a known number of times, registers,
/// shared memory, and no slow paths in machine code; docs/architecture.md lists them. Every build checks the same and
/// stops at a broken rule, but shows no table. Fails where there is no assembler, because some of the rules are about
/// machine code.
///
/// The claims: the gates of lab/gates.toml, which `flashcore-lab gate` measures (docs/gates.md). Where there is no GPU,
/// those that need one are listed as skipped.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask gate\n  cargo xtask gate --probes --line-tables\n  cargo xtask gate -- --only bench --baseline docs/results/2026-11-21-h200"
)]
pub(crate) struct Gate {
    /// Check the micro-kernels that test one primitive each, instead of the product's kernels
    #[arg(long)]
    probes: bool,
    /// Let findings name Rust source lines
    #[arg(long)]
    line_tables: bool,
    /// Passed on to `flashcore-lab gate`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What a machine with an NVIDIA GPU has.
const GPU: &str = "/dev/nvidia0";
/// Figures of gates that are about the code of kernels: the rules above check them, too.
const OF_CODE: &str = "proof_";

/// The gates of the lab, as far as they matter here.
#[derive(Deserialize)]
struct Gates {
    #[serde(rename = "gate")]
    gates: Vec<Claim>,
}

#[derive(Deserialize)]
struct Claim {
    id: String,
    /// A name, or a table with one.
    figure: toml::Value,
}

/// Opcodes that are shown: a heading, and what is summed up under it.
const COUNTED: [(&str, &[&str]); 12] = [
    ("wgmma", &["wgmma.mma_async"]),
    ("TMA ld", &["cp.async.bulk.tensor.shared.global"]),
    ("TMA st", &["cp.async.bulk.tensor.global.shared"]),
    ("bar sync", &["bar.sync"]),
    ("arrive", &["bar.arrive"]),
    ("cluster", &["barrier.cluster.arrive", "barrier.cluster.wait"]),
    ("mbar arrive", &["mbarrier.arrive", "mbarrier.arrive.expect_tx"]),
    ("wait", &["mbarrier.try_wait"]),
    ("elect", &["elect.sync"]),
    ("shfl", &["shfl.sync"]),
    ("stmatrix", &["stmatrix"]),
    ("setmaxnreg", &["setmaxnreg.inc", "setmaxnreg.dec"]),
];

impl Gate {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        let ptxas = setup::ensure(workspace)?.ptxas.context("the rules about machine code need ptxas")?;
        let kernels = if self.probes { Kernels::Probes } else { Kernels::Product };
        let out_dir = kernels.folder(workspace);
        let report = build::examine(workspace, kernels, &out_dir, Some(ptxas), self.line_tables)?;
        println!("{}", table(&report));
        report.pass(&out_dir)?;
        println!("{}", build::summary(&report));
        if self.probes {
            return Ok(());
        }
        if Path::new(GPU).exists() {
            return lab::run(workspace, &[vec!["gate".to_owned()], self.arguments].concat());
        }
        let skipped = need_gpu(&workspace.shell.read_file(workspace.path("lab/gates.toml"))?)?;
        println!("No GPU: {} gates of lab/gates.toml are skipped: {}", skipped.len(), skipped.join(", "));
        Ok(())
    }
}

/// The gates that only a GPU can tell, by id.
fn need_gpu(table: &str) -> Result<Vec<String>> {
    let Gates { gates } = toml::from_str(table).context("lab/gates.toml")?;
    let of_code = |gate: &Claim| gate.figure.as_str().is_some_and(|figure| figure.starts_with(OF_CODE));
    Ok(gates.into_iter().filter(|gate| !of_code(gate)).map(|gate| gate.id).collect())
}

/// One row a kernel.
fn table(report: &BuildReport) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["kernel", "S01-S10", "budgets"].into_iter().chain(COUNTED.map(|(heading, _)| heading)));
    for artifact in &report.artifacts {
        let verdict = &artifact.verdict;
        let counts = COUNTED.map(|(_, opcodes)| {
            opcodes.iter().map(|opcode| verdict.count(opcode)).sum::<usize>().to_string()
        });
        let checks = [artifact.entry.symbol.to_owned(), lints(verdict), budgets(verdict)];
        table.add_row(checks.into_iter().chain(counts));
    }
    table.column_iter_mut().skip(3).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// What the lints found: codes, each once.
fn lints(verdict: &Verdict) -> String {
    let mut codes: Vec<_> = verdict.warnings.iter().map(|finding| finding.code).collect();
    for error in &verdict.broken {
        match error {
            GateError::NotUnderstood { .. } => return "not checked".to_owned(),
            GateError::Lint(finding) => codes.push(finding.code),
            _ => {}
        }
    }
    codes.sort();
    codes.dedup();
    let names: Vec<_> = codes.iter().map(|code| format!("{code:?}")).collect();
    if names.is_empty() { "clean".to_owned() } else { names.join(" ") }
}

/// Whether the other rules are kept: counts, registers, shared memory.
fn budgets(verdict: &Verdict) -> String {
    let broken = verdict.broken.iter().filter(|error| !matches!(error, GateError::Lint(_))).count();
    if broken == 0 { "kept".to_owned() } else { format!("{broken} broken") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_about_code_need_no_gpu() {
        let skipped = need_gpu(include_str!("../../lab/gates.toml")).unwrap();
        assert!(
            skipped.iter().any(|id| id == "7.1a") && skipped.iter().any(|id| id == "7.5e"),
            "{skipped:?}"
        );
        assert!(!skipped.iter().any(|id| id == "T1" || id == "T2"), "{skipped:?}");
        assert!(need_gpu("[[gate]]\nid = 1").is_err());
    }
}
