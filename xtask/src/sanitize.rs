//! `sanitize`: every variant under NVIDIA's compute-sanitizer.

use anyhow::Result;
use clap::Args;
use xshell::cmd;

use crate::workspace::Workspace;
use crate::{cargo, setup};

/// The script does the work, so that it works in a bundle, too.
pub(crate) const SCRIPT: &str = include_str!("../scripts/sanitize.sh");

/// Run small shapes of every kernel under compute-sanitizer
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask sanitize\n  cargo xtask sanitize racecheck synccheck")]
pub(crate) struct Sanitize {
    /// memcheck, racecheck, synccheck, initcheck (default: all of them)
    tools: Vec<String>,
}

impl Sanitize {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        setup::ensure(workspace)?;
        let shell = &workspace.shell;
        shell.set_var("FLASHCORE_LAB", cargo::lab(workspace)?);
        let tools = self.tools;
        Ok(cmd!(shell, "bash -c {SCRIPT} sanitize {tools...}").quiet().run()?)
    }
}
