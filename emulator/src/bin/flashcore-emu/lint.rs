//! `flashcore-emu lint`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use flashcore_emulator::Level;
use flashcore_emulator::lint::{self, Config, Finding};

/// Check a kernel without running it
///
/// Exit status: 0 if nothing worse than a warning is found, 1 otherwise, 2 if the file cannot be read.
#[derive(Args)]
#[command(after_help = "Examples:
  flashcore-emu lint kernel.ptx
  flashcore-emu lint kernel.ptx --constant-time --json
  ptxas -v -arch=sm_90a kernel.ptx -o /dev/null 2> log; flashcore-emu lint kernel.ptx --ptxas-log log")]
pub(crate) struct Lint {
    /// The PTX file
    file: PathBuf,
    /// What `ptxas -v` wrote about it: spills and weakened kernels are findings too
    #[arg(long, value_name = "FILE")]
    ptxas_log: Option<PathBuf>,
    /// Also look for control flow and addresses that depend on data
    #[arg(long)]
    constant_time: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Lint {
    /// Whether the kernels pass.
    pub(crate) fn execute(self) -> Result<bool> {
        let (_, module) = crate::read(&self.file)?;
        let config = Config { constant_time: self.constant_time, ..Config::default() };
        let mut findings = lint::check(&module, &config);
        if let Some(path) = &self.ptxas_log {
            let log =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            findings.extend(lint::ptxas_log(&log, 0));
        }
        let errors = findings.iter().filter(|finding: &&Finding| finding.level == Level::Deny).count();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&findings)?);
        } else {
            findings.iter().for_each(|finding| println!("{finding}"));
            println!("{errors} errors, {} warnings", findings.len() - errors);
        }
        Ok(errors == 0)
    }
}
