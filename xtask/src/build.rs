//! `build`: compiles, assembles and checks the kernels, and shows what was made.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use flashcore_ptx_builder::{
    Artifact, BuildReport, Builder, PROBES, Ptxas, Step, entries, shared_target_dir,
};
use indicatif::ProgressBar;

use crate::baseline::{self, Baseline};
use crate::progress::{Spinner, bar};
use crate::workspace::Workspace;
use crate::{sass, setup};

/// Compile, assemble and check all kernels, and show what was made
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask build\n  cargo xtask build --emit sass-stats --line-tables\n  cargo xtask build --report"
)]
pub(crate) struct Build {
    /// What to make
    #[arg(long, value_enum, default_value = "cubin")]
    emit: Emit,
    /// Let profilers see Rust source lines
    #[arg(long)]
    line_tables: bool,
    /// Build the micro-kernels that test one primitive each, instead of the product's kernels
    #[arg(long)]
    probes: bool,
    /// Show what changed since docs/results/baseline.json: registers, shared memory, spills, instructions
    #[arg(long, conflicts_with = "probes")]
    report: bool,
    /// Write what is so now to docs/results/baseline.json
    #[arg(long, conflicts_with_all = ["probes", "line_tables"])]
    bless: bool,
    /// Put the files here instead of target/flashcore/kernels (or probes)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// PTX only
    Ptx,
    /// PTX and machine code
    Cubin,
    /// PTX and machine code, and a count of its instructions
    SassStats,
}

/// Which kernels.
#[derive(Clone, Copy)]
pub(crate) enum Kernels {
    Product,
    Probes,
}

impl Kernels {
    /// Where they are built.
    pub(crate) fn folder(self, workspace: &Workspace) -> PathBuf {
        workspace.path(match self {
            Kernels::Product => "target/flashcore/kernels",
            Kernels::Probes => "target/flashcore/probes",
        })
    }
}

impl Build {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        let ptxas = setup::ensure(workspace)?.ptxas.filter(|_| self.emit != Emit::Ptx);
        let assembler = ptxas.as_ref().map(|ptxas| ptxas.version().to_owned());
        let kernels = if self.probes { Kernels::Probes } else { Kernels::Product };
        let out_dir = self.out.unwrap_or_else(|| kernels.folder(workspace));
        let report = examine(workspace, kernels, &out_dir, ptxas, self.line_tables)?;
        report.pass(&out_dir)?;
        if self.report || self.bless {
            let file = workspace.path(baseline::FILE);
            let (before, now) =
                (Baseline::read(&file)?, Baseline::of(&report, &assembler.context("this needs ptxas")?)?);
            println!("{}\n{}", now.table(&before), now.summary(&before));
            if self.bless {
                now.write(&file)?;
                println!("{} says so now", file.display());
            }
            return Ok(());
        }
        println!("{}", table(&report)?);
        println!("{}\n{}", summary(&report), out_dir.display());
        if self.emit == Emit::SassStats {
            println!("\n{}", sass::histogram(&setup::nvdisasm(workspace)?, &report.artifacts)?);
        }
        Ok(())
    }
}

/// Builds all of `kernels` into `out_dir` and checks them, with a progress bar, whatever the verdicts are. Warnings are
/// shown.
pub(crate) fn examine(
    workspace: &Workspace,
    kernels: Kernels,
    out_dir: &Path,
    ptxas: Option<Ptxas>,
    line_tables: bool,
) -> Result<BuildReport> {
    let (entries, features): (Vec<_>, &[&str]) = match kernels {
        Kernels::Product => (entries().collect(), &["f16", "bf16"]),
        Kernels::Probes => (PROBES.to_vec(), &["probes"]),
    };
    let spinner = Spinner::start("compiling the device crate");
    let bar = bar("assembling", entries.len());
    let report = Builder::new(workspace.path("kernels-device"), out_dir)
        .target_dir(shared_target_dir())
        .features(features)
        .line_tables(line_tables)
        .ptxas(ptxas)
        .observe(|step| show(step, &bar))
        .examine(&entries);
    bar.finish_and_clear();
    drop(spinner);
    let report = report?;
    if report.compiler_log.contains("warning:") {
        eprintln!("{}", report.compiler_log);
    }
    report.warnings().for_each(|finding| eprintln!("{finding}"));
    Ok(report)
}

fn show(step: Step, bar: &ProgressBar) {
    if let Step::Assembling { done, .. } = step {
        bar.set_position(done as u64);
    }
}

/// One row a kernel.
pub(crate) fn table(report: &BuildReport) -> Result<Table> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "kernel",
        "PTX",
        "cubin",
        "regs",
        "spills",
        "smem",
        "wgmma",
        "TMA ld/st",
        "ptxas",
    ]);
    for artifact in &report.artifacts {
        table.add_row(row(artifact)?);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    Ok(table)
}

fn row(artifact: &Artifact) -> Result<[String; 9]> {
    let kib = |bytes: u64| format!("{:.1} KiB", bytes as f64 / 1024.0);
    let size = |path: &Path| {
        let metadata = path.metadata().with_context(|| format!("{} was just written", path.display()))?;
        anyhow::Ok(kib(metadata.len()))
    };
    let resources = artifact.resources;
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let static_smem = resources.map_or(0, |resources| resources.static_smem_bytes);
    let count = |opcode| artifact.verdict.count(opcode);
    Ok([
        artifact.entry.symbol.to_owned(),
        size(&artifact.ptx)?,
        or_dash(artifact.cubin.as_deref().map(size).transpose()?),
        or_dash(resources.map(|resources| resources.registers.to_string())),
        or_dash(resources.map(|resources| format!("{} B", resources.spill_bytes))),
        kib(u64::from(artifact.entry.smem_bytes) + u64::from(static_smem)),
        count("wgmma.mma_async").to_string(),
        format!(
            "{}/{}",
            count("cp.async.bulk.tensor.shared.global"),
            count("cp.async.bulk.tensor.global.shared")
        ),
        match (artifact.ptxas_seconds, &artifact.cubin) {
            (Some(seconds), _) => format!("{seconds:.2} s"),
            (None, Some(_)) => "fresh".to_owned(),
            (None, None) => "-".to_owned(),
        },
    ])
}

/// One line on time: what was made anew and what was still fresh.
pub(crate) fn summary(report: &BuildReport) -> String {
    let total = report.artifacts.len();
    let assembled = report.artifacts.iter().filter(|artifact| artifact.ptxas_seconds.is_some()).count();
    format!(
        "{total} kernels, every gate passed: rustc {:.1} s, ptxas {:.1} s ({assembled} of {total} assembled anew)",
        report.rustc_seconds, report.ptxas_seconds
    )
}
