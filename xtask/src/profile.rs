//! `profile`: one kernel under Nsight Compute, with Rust source lines.

use anyhow::Result;
use clap::Args;
use xshell::cmd;

use crate::workspace::Workspace;
use crate::{cargo, setup};

/// The script does the work, so that it works in a bundle, too.
pub(crate) const SCRIPT: &str = include_str!("../scripts/profile.sh");

/// Profile one launch with Nsight Compute (ncu); the report shows Rust source lines
#[derive(Args)]
#[command(after_help = "Example:\n  cargo xtask profile 2,16,8192,128 --causal")]
pub(crate) struct Profile {
    /// B,H,S,D: sequences, heads, length, head_dim
    shape: String,
    /// Passed on to `flashcore-lab one`, e.g. --causal
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Profile {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        setup::ensure(workspace)?;
        let shell = &workspace.shell;
        shell.set_var("FLASHCORE_LINE_TABLES", "1");
        let lab = cargo::lab(workspace)?;
        shell.set_var("FLASHCORE_LAB", lab);
        let folder = workspace.path("target/flashcore/profile");
        shell.create_dir(&folder)?;
        shell.set_var("FLASHCORE_PROFILE_DIR", &folder);
        let Profile { shape, arguments } = self;
        Ok(cmd!(shell, "bash -c {SCRIPT} profile {shape} {arguments...}").quiet().run()?)
    }
}
