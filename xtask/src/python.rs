//! Tests of the Python package, in fresh environments.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use xshell::cmd;

use crate::setup::PIP_OPTIONS;
use crate::test::Totals;
use crate::tools::run_quietly;
use crate::wheel;
use crate::workspace::Workspace;

/// Versions that the package supports. The first that is there also runs the package's own tests.
const VERSIONS: [&str; 4] = ["3.13", "3.12", "3.11", "3.10"];
/// What those tests need. Tests of other frameworks are skipped where these are not installed.
const TEST_PACKAGES: [&str; 4] = ["numpy", "ml_dtypes", "pytest", "hypothesis"];

/// Installs the wheel for every Python that is there, and adds what its tests say.
pub(crate) fn test(workspace: &Workspace, totals: &mut Totals) -> Result<()> {
    let wheel = wheel::build(workspace, &workspace.path("target/flashcore/wheel"))?;
    println!("\nPython package {}", wheel.display());
    let mut tested = false;
    for version in VERSIONS {
        let Some(python) = interpreter(workspace, version) else {
            println!("self-test with Python {version} ... skipped: no python{version}");
            totals.skipped += 1;
            continue;
        };
        let python = environment(workspace, &python, version, &wheel)?;
        // Outside of the repository, so that what is imported is what was installed.
        let _folder = workspace.shell.push_dir(workspace.path("target/flashcore"));
        match run_quietly(cmd!(workspace.shell, "{python} -m flashcore")) {
            Ok(_) => {
                println!("self-test with Python {version} ... ok");
                totals.passed += 1;
            }
            Err(error) => {
                println!("self-test with Python {version} ... FAILED\n{error:#}");
                totals.failed += 1;
            }
        }
        if !tested {
            run_pytest(workspace, &python, totals)?;
            tested = true;
        }
    }
    if !tested {
        println!("tests of the Python package ... skipped: no Python");
        totals.skipped += 1;
    }
    Ok(())
}

/// A Python of this version that can make environments: in `PATH`, or one of pyenv's.
fn interpreter(workspace: &Workspace, version: &str) -> Option<PathBuf> {
    let name = format!("python{version}");
    let home = std::env::var_os("HOME").unwrap_or_default();
    let pyenv = std::env::var_os("PYENV_ROOT").map_or_else(|| Path::new(&home).join(".pyenv"), PathBuf::from);
    let installed = workspace.shell.read_dir(pyenv.join("versions")).unwrap_or_default();
    let of_pyenv = installed.into_iter().map(|folder| folder.join("bin").join(&name));
    std::iter::once(PathBuf::from(&name)).chain(of_pyenv).find(|python| {
        let check = cmd!(workspace.shell, "{python} -c 'import ensurepip, venv'");
        check.quiet().ignore_stderr().ignore_stdout().run().is_ok()
    })
}

/// A fresh environment with the wheel and nothing else; the result is its Python.
fn environment(workspace: &Workspace, python: &Path, version: &str, wheel: &Path) -> Result<PathBuf> {
    let shell = &workspace.shell;
    let folder = workspace.path("target/flashcore/python").join(version);
    run_quietly(cmd!(shell, "{python} -m venv --clear {folder}"))?;
    let python = folder.join("bin/python");
    run_quietly(cmd!(shell, "{python} -m pip install {PIP_OPTIONS...} --no-index {wheel}"))?;
    Ok(python)
}

/// Runs the package's own tests, and adds what pytest's last line counts.
fn run_pytest(workspace: &Workspace, python: &Path, totals: &mut Totals) -> Result<()> {
    run_quietly(cmd!(workspace.shell, "{python} -m pip install {PIP_OPTIONS...} {TEST_PACKAGES...}"))?;
    let mut child = Command::new(python)
        .args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider"])
        .arg(workspace.path("bindings/python/tests"))
        .current_dir(workspace.path("target/flashcore"))
        .stdout(Stdio::piped())
        .spawn()
        .context("could not run pytest")?;
    let before = totals.failed;
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().context("the output is piped")?).lines() {
        last = line?;
        writeln!(std::io::stdout(), "{last}")?;
    }
    totals.add_pytest(&last);
    if !child.wait()?.success() && totals.failed == before {
        totals.failed += 1; // pytest itself, say
    }
    Ok(())
}
