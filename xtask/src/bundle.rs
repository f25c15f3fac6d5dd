//! `bundle`: one folder that runs on a GPU node without Rust.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use xshell::{Shell, cmd};

use crate::build::Kernels;
use crate::progress::Spinner;
use crate::tools::run_quietly;
use crate::workspace::Workspace;
use crate::{build, cargo, setup, wheel};

/// A bundle is carried to other machines; it must stay small.
const LIMIT_MIB: f64 = 1024.0;
/// Packages whose tests are about this repository, the build or no GPU.
const TESTS_AT_HOME: [&str; 3] = ["xtask", "ptx-builder", "emulator"];
/// Test programs that need cargo, or the library that cargo built beside them.
const TESTS_OF_BUILDS: [&str; 1] = ["compilers"];
/// What tests of the Python package need beside the frameworks; later hypotheses are for one version of Python only.
const PYTHON_TEST_PACKAGES: [&str; 3] = ["pytest", "hypothesis<6.151", "einops"];
/// The last run whose figures are in the repository.
const LAST_RESULTS: &str = "docs/results/2026-11-21-h200";
const RUN_TESTS: &str = include_str!("../scripts/run_tests.sh");

/// Make one folder with everything that runs on a GPU node: lab, tests, kernels, scripts
#[derive(Args)]
#[command(
    after_help = "Example:\n  cargo xtask bundle --out bundle && scp -r bundle node: && ssh node bundle/run_tests.sh"
)]
pub(crate) struct Bundle {
    /// The folder, made anew
    #[arg(long, default_value = "bundle", value_name = "DIR")]
    out: PathBuf,
    /// A folder that Python can import flash_attn_interface (FlashAttention-3) from; it is copied
    #[arg(long, value_name = "DIR")]
    with_fa3: Option<PathBuf>,
    /// Let profilers see Rust source lines
    #[arg(long)]
    line_tables: bool,
}

impl Bundle {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        let ptxas = setup::ensure(workspace)?.ptxas;
        let shell = &workspace.shell;
        let out = workspace.path("").join(&self.out);
        let marker = out.join("run_tests.sh");
        if out.exists() && !marker.is_file() {
            bail!("{} exists and is no bundle; name another folder", out.display());
        }
        shell.remove_path(&out)?;
        shell.create_dir(out.join("tests"))?;
        shell.write_file(&marker, RUN_TESTS)?;
        cmd!(shell, "chmod +x {marker}").quiet().run()?;

        let kernels = Kernels::Product;
        let built = kernels.folder(workspace);
        let report = build::examine(workspace, kernels, &built, ptxas, self.line_tables)?;
        report.pass(&built)?;
        shell.create_dir(out.join("kernels"))?;
        for artifact in &report.artifacts {
            for file in std::iter::once(&artifact.ptx).chain(&artifact.cubin) {
                shell.copy_file(file, out.join("kernels"))?;
            }
        }

        if self.line_tables {
            shell.set_var("FLASHCORE_LINE_TABLES", "1");
        }
        copy_programs(workspace, &out)?;
        shell.copy_file(workspace.path("lab/peers.py"), &out)?;
        copy_sources(workspace, &out.join("source"))?;
        copy_wheels(workspace, &out.join("wheels"))?;
        copy_baseline(workspace, &out.join("baseline"))?;
        if let Some(fa3) = &self.with_fa3 {
            let target = out.join("fa3");
            cmd!(shell, "cp -rL {fa3} {target}").quiet().run()?;
        }

        let mib = size(shell, &out)? as f64 / (1024.0 * 1024.0);
        println!(
            "{}: {mib:.1} MiB; on the GPU node run run_tests.sh, flashcore-lab gate (or one of its other verbs), \
             flashcore-example-score-mod",
            out.display()
        );
        if mib > LIMIT_MIB {
            bail!("the bundle must not be larger than {LIMIT_MIB} MiB");
        }
        Ok(())
    }
}

/// Copies lab, the example of functions of scores, and the test programs: release builds without symbols.
fn copy_programs(workspace: &Workspace, out: &Path) -> Result<()> {
    let _spinner = Spinner::start("building lab and tests");
    let stripped = ["--release", "--config", "profile.release.strip=true"];
    let package = |name| [&["build", "--package", name][..], &stripped].concat();
    let tests = [&["test", "--workspace", "--no-run"][..], &stripped].concat();
    let shell = &workspace.shell;
    for name in ["flashcore-lab", "flashcore-example-score-mod"] {
        for program in cargo::executables(workspace, &package(name))? {
            shell.copy_file(program.path, out.join(name))?;
        }
    }
    for program in cargo::executables(workspace, &tests)? {
        let at_home = TESTS_AT_HOME.contains(&program.folder.as_str())
            || TESTS_OF_BUILDS.contains(&program.target.as_str());
        if !program.is_test || at_home {
            continue;
        }
        let name = if program.target.starts_with(&program.folder) {
            program.target
        } else {
            format!("{}-{}", program.folder, program.target)
        };
        shell.copy_file(program.path, out.join("tests").join(name))?;
    }
    Ok(())
}

/// Puts the Python package there, and what its tests need.
fn copy_wheels(workspace: &Workspace, out: &Path) -> Result<()> {
    wheel::build(workspace, out)?;
    let python = wheel::environment(workspace)?;
    let options = [&setup::PIP_OPTIONS[..], &["--only-binary=:all:"]].concat();
    let packages = PYTHON_TEST_PACKAGES;
    run_quietly(cmd!(workspace.shell, "{python} -m pip download {options...} --dest {out} {packages...}"))?;
    Ok(())
}

/// Copies what tests read at run time (snapshots, goldens, those in Python) and what profilers show (device code), by
/// its path in the repository.
fn copy_sources(workspace: &Workspace, out: &Path) -> Result<()> {
    let shell = &workspace.shell;
    let wanted = ["*.snap", "tests/goldens", "kernels-device/src", "bindings/c/include", "bindings/python"];
    let files =
        cmd!(shell, "git ls-files --cached --others --exclude-standard -- {wanted...}").quiet().read()?;
    for file in files.lines() {
        let target = out.join(file);
        shell.create_dir(target.parent().context("a file lies in a folder")?)?;
        shell.copy_file(workspace.path(file), target)?;
    }
    Ok(())
}

/// Copies the figures of the last recorded run, which the gates compare with.
fn copy_baseline(workspace: &Workspace, out: &Path) -> Result<()> {
    let shell = &workspace.shell;
    let recorded = workspace.path(LAST_RESULTS);
    for file in ["f16/metrics.json", "bf16/metrics.json", "power.json", "metrics.json"] {
        let (from, to) = (recorded.join(file), out.join(file));
        if from.is_file() {
            shell.create_dir(to.parent().context("a file lies in a folder")?)?;
            shell.copy_file(from, to)?;
        }
    }
    Ok(())
}

/// Bytes of all files below `folder`.
fn size(shell: &Shell, folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for path in shell.read_dir(folder)? {
        bytes += if path.is_dir() { size(shell, &path)? } else { path.metadata()?.len() };
    }
    Ok(bytes)
}
