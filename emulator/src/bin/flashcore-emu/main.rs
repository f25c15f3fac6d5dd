//! `flashcore-emu`: runs and lints PTX files.

mod lint;
mod run;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use flashcore_emulator::ir::Module;

/// Runs and checks sm_90a PTX without a GPU
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Lint(lint::Lint),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(run) => run.execute(),
        Command::Lint(lint) => lint.execute(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("flashcore-emu: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Reads and decodes a PTX file.
fn read(path: &Path) -> Result<(String, Module)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let module = Module::parse(&text).with_context(|| path.display().to_string())?;
    Ok((text, module))
}
