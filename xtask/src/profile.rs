//! `profile`: one kernel under Nsight Compute, with Rust source lines.

use anyhow::Result;
use clap::Args;

use crate::lab;
use crate::workspace::Workspace;

/// Profile one launch with Nsight Compute (ncu), and the peers' on the same shape; names the hottest Rust source lines
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask profile 2,16,8192,128 --causal\n  cargo xtask profile 2,16,8192,128 --vs cudnn --vs flash3"
)]
pub(crate) struct Profile {
    /// B,H,S,D: sequences, heads, length, head_dim
    shape: String,
    /// Passed on to `flashcore-lab profile`, e.g. --causal
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Profile {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        workspace.shell.set_var("FLASHCORE_LINE_TABLES", "1");
        let words = ["profile", "--shape", &self.shape].map(str::to_owned);
        lab::run(workspace, &[words.to_vec(), self.arguments].concat())
    }
}
