//! `bench`: the product's main job, timed.

use anyhow::Result;
use clap::Args;
use xshell::cmd;

use crate::workspace::Workspace;
use crate::{cargo, setup};

/// Check and time attention on this machine's GPU, beside its peers
///
/// All arguments go to the bench of `flashcore-lab`: --quick, --shape B,H,S,D, --dtype, --causal and others; `cargo
/// xtask bench -- --help` lists them. Where there is no GPU, the emulator runs a small grid: it checks results, counts
/// instructions and bytes, and looks for hazards, but measures no time.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench --quick\n  cargo xtask bench --shape 2,16,8192,128 --causal"
)]
pub(crate) struct Bench {
    /// Passed on to `flashcore-lab bench`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Bench {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        setup::ensure(workspace)?;
        let lab = cargo::lab(workspace)?;
        let arguments = self.arguments;
        Ok(cmd!(workspace.shell, "{lab} bench {arguments...}").quiet().run()?)
    }
}
