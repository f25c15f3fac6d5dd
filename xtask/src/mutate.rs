//! `mutate`: kernels with one mistake, which the emulator must notice.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use xshell::cmd;

use crate::workspace::Workspace;
use crate::{cargo, setup};

/// Make one mistake of synchronisation at a time in every kernel, and see whether the emulator notices
///
/// Needs no GPU. Fails if a mutant survives that tests/survivors.json does not explain, or if of all mutants fewer than
/// 98 of 100 are reported. All of them take more than an hour on two cores; --every takes a sample.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask mutate --every 40\n  cargo xtask mutate --kernel hd128_m128n128_f16"
)]
pub(crate) struct Mutate {
    /// Only kernels whose name contains this, or the one that has just this name
    #[arg(long, default_value = "", hide_default_value = true)]
    kernel: String,
    /// Only mutants whose name contains this, such as `wgmma.fence 2`
    #[arg(long, default_value = "", hide_default_value = true)]
    mutant: String,
    /// Only every Nth mutant
    #[arg(long, default_value_t = 1, value_name = "N")]
    every: usize,
    /// Put mutants.json and mutants.md here instead of target/flashcore/mutants
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Mutate {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        setup::ensure(workspace)?;
        let lab = cargo::lab(workspace)?;
        let Mutate { kernel, mutant, every, out } = self;
        let (every, out) =
            (every.to_string(), out.unwrap_or_else(|| workspace.path("target/flashcore/mutants")));
        let options = ["--kernel", &kernel, "--mutant", &mutant, "--every", &every];
        Ok(cmd!(workspace.shell, "{lab} mutate {options...} --out {out}").quiet().run()?)
    }
}
