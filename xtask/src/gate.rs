//! `gate`: nothing but the rules that every kernel must keep.

use anyhow::{Context, Result};
use clap::Args;

use crate::build::Kernels;
use crate::workspace::Workspace;
use crate::{build, setup};

/// Check that every kernel keeps the rules: no spills, no local memory, expected instructions, budgets
///
/// Fails where there is no assembler, because half of the rules are about machine code.
#[derive(Args)]
#[command(after_help = "Example:\n  cargo xtask gate")]
pub(crate) struct Gate {}

impl Gate {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        let ptxas = setup::ensure(workspace)?.ptxas.context("the rules about machine code need ptxas")?;
        let kernels = Kernels::Product;
        let report = build::build(workspace, kernels, &kernels.folder(workspace), Some(ptxas), false)?;
        println!("{}", build::summary(&report));
        Ok(())
    }
}
