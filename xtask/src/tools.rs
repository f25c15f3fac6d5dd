//! Finding programs, and running them without noise.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::Cmd;

/// `program` in `PATH`, or in a CUDA toolkit that is not in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    std::env::split_paths(&path)
        .chain(toolkits.map(|home| Path::new(&home).join("bin")))
        .chain([PathBuf::from("/usr/local/cuda/bin")])
        .map(|bin| bin.join(program))
        .find(|candidate| candidate.is_file())
}

/// Runs `command` and shows what it says only if it fails; the result is its standard output.
pub(crate) fn run_quietly(command: Cmd<'_>) -> Result<String> {
    let shown = command.to_string();
    let output =
        command.quiet().ignore_status().output().with_context(|| format!("could not run `{shown}`"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("`{shown}` failed ({}):\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(stdout.into_owned())
}
