//! `lab`: the program of GPU nodes, built and run here.

use anyhow::Result;
use clap::Args;
use xshell::cmd;

use crate::workspace::Workspace;
use crate::{cargo, setup};

/// Build flashcore-lab, and run one of its verbs: gate, compare, ct, determinism, power and others
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask lab --help\n  cargo xtask lab ct --static-only\n  cargo xtask lab compare docs/results/2026-11-21-h200 target/flashcore/gate"
)]
pub(crate) struct Lab {
    /// Passed on to `flashcore-lab`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    arguments: Vec<String>,
}

impl Lab {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        run(workspace, &self.arguments)
    }
}

/// Builds the program and runs it.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    setup::ensure(workspace)?;
    let lab = cargo::lab(workspace)?;
    Ok(cmd!(workspace.shell, "{lab} {arguments...}").quiet().run()?)
}
