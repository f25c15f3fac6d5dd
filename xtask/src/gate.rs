//! `gate`: nothing but the rules that every kernel must keep.

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore_ptx_builder::{BuildReport, GateError, Verdict};

use crate::build::Kernels;
use crate::workspace::Workspace;
use crate::{build, setup};

/// Check that every kernel keeps the rules, and show what was checked
///
/// The lints S01 to S10 of the emulator, instructions that must stand a known number of times, registers and shared
/// memory; docs/architecture.md lists them. Every build checks the same and stops at a broken rule, but shows no table.
/// Fails where there is no assembler, because some of the rules are about machine code.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask gate\n  cargo xtask gate --probes --line-tables")]
pub(crate) struct Gate {
    /// Check the micro-kernels that test one primitive each, instead of the product's kernels
    #[arg(long)]
    probes: bool,
    /// Let findings name Rust source lines
    #[arg(long)]
    line_tables: bool,
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
        Ok(())
    }
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
