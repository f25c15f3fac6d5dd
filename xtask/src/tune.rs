//! `tune`: whether the plan picks the fastest kernel.

use anyhow::Result;
use clap::Args;
use xshell::cmd;

use crate::workspace::Workspace;
use crate::{cargo, setup};

/// Time every kernel that can compute a shape, and see whether the right one is chosen
///
/// All arguments go to the tune of `flashcore-lab`: --shape B,H,S,D, --grid, --random N, --gate and others; `cargo
/// xtask tune -- --help` lists them. Needs a GPU.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask tune --grid\n  cargo xtask tune --random 200 --seed 1 --gate"
)]
pub(crate) struct Tune {
    /// Passed on to `flashcore-lab tune`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Tune {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        setup::ensure(workspace)?;
        let lab = cargo::lab(workspace)?;
        let arguments = self.arguments;
        Ok(cmd!(workspace.shell, "{lab} tune {arguments...}").quiet().run()?)
    }
}
