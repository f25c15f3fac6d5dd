//! `sanitize`: every variant under NVIDIA's compute-sanitizer.

use anyhow::Result;
use clap::Args;

use crate::lab;
use crate::workspace::Workspace;

/// Run small shapes of every kernel under compute-sanitizer, and planted mistakes, which must be seen
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask sanitize\n  cargo xtask sanitize racecheck synccheck")]
pub(crate) struct Sanitize {
    /// Passed on to `flashcore-lab sanitize`: memcheck, racecheck, synccheck, initcheck (default: all of them)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Sanitize {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        lab::run(workspace, &[vec!["sanitize".to_owned()], self.arguments].concat())
    }
}
