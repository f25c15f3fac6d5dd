//! `report`: the last run of the bench once more, without running it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use xshell::cmd;

use crate::workspace::Workspace;
use crate::{cargo, setup};

/// Render table, Markdown and plots again from the metrics of a bench run
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask report\n  cargo xtask report docs/results/2026-11")]
pub(crate) struct Report {
    /// The folder with metrics.json (default: that of the last run)
    folder: Option<PathBuf>,
}

impl Report {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        let folder = self.folder.unwrap_or_else(|| workspace.path("target/flashcore/report"));
        let metrics = folder.join("metrics.json");
        if !workspace.path("").join(&metrics).is_file() {
            bail!("there is no {}: run `cargo xtask bench` first", metrics.display());
        }
        setup::ensure(workspace)?;
        let lab = cargo::lab(workspace)?;
        Ok(cmd!(workspace.shell, "{lab} report {folder}").quiet().run()?)
    }
}
