//! Building with cargo and learning where the executables lie.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use xshell::cmd;

use crate::workspace::Workspace;

/// An executable that cargo built.
pub(crate) struct Executable {
    /// Folder of the package in the workspace, e.g. `host`.
    pub(crate) folder: String,
    /// Name of the target, e.g. of the integration test.
    pub(crate) target: String,
    /// Whether it runs tests; `cargo test` builds examples and programs as well.
    pub(crate) is_test: bool,
    pub(crate) path: PathBuf,
}

/// The executables that `cargo <arguments>` builds.
pub(crate) fn executables(workspace: &Workspace, arguments: &[&str]) -> Result<Vec<Executable>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let format = "--message-format=json-render-diagnostics";
    let messages = cmd!(workspace.shell, "{cargo} {arguments...} {format}").quiet().read()?;
    messages.lines().filter_map(|line| executable(line).transpose()).collect()
}

/// The program that runs on GPU nodes, as a release build.
pub(crate) fn lab(workspace: &Workspace) -> Result<PathBuf> {
    let built = executables(workspace, &["build", "--release", "--package", "flashcore-lab"])?;
    Ok(built.into_iter().next().context("the package flashcore-lab has a binary")?.path)
}

/// The shared library of a package, as a release build without symbols.
pub(crate) fn shared_library(workspace: &Workspace, package: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--release", "--config", "profile.release.strip=true", "--package", package];
    let format = "--message-format=json-render-diagnostics";
    let messages = cmd!(workspace.shell, "{cargo} {arguments...} {format}").quiet().read()?;
    let mut found = None;
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo writes JSON")?;
        let mut files = message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        // Dependencies come first, so the last one is the package's own.
        found = files.rfind(|file| file.ends_with(".so")).map(PathBuf::from).or(found);
    }
    found.with_context(|| format!("the package {package} has a shared library"))
}

/// The executable that a message of cargo announces, if it announces one.
fn executable(message: &str) -> Result<Option<Executable>> {
    let message: Value = serde_json::from_str(message).context("cargo writes JSON")?;
    let Some(path) = message["executable"].as_str() else { return Ok(None) };
    let manifest = message["manifest_path"].as_str().map(Path::new).context("a package has a manifest")?;
    let folder = manifest.parent().and_then(Path::file_name).context("a manifest lies in a folder")?;
    let target = message["target"]["name"].as_str().context("a target has a name")?;
    Ok(Some(Executable {
        folder: folder.to_string_lossy().into_owned(),
        target: target.to_owned(),
        is_test: message["profile"]["test"] == true,
        path: path.into(),
    }))
}
