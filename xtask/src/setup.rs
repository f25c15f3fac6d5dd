//! `setup`: gets what a build of the device code needs and this machine lacks.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use flashcore_ptx_builder::{DeviceToolchain, Ptxas, ptxas, toolchain};
use xshell::cmd;

use crate::progress::Spinner;
use crate::tools::{find, run_quietly};
use crate::workspace::Workspace;

/// NVIDIA's disassembler as PyPI has it; versions that pair with the assembler were never published there.
const NVDISASM_VERSION: &str = "13.2.51";

/// Install the device toolchain and the PTX assembler, if they are missing
///
/// The toolchain (Rust 1.96.0 with the sources of core) comes from rustup, or, where rustup may not download, from
/// Debian's packages. The assembler comes from PyPI, unless there is a CUDA toolkit. Doing it twice does nothing.
#[derive(Args)]
#[command(after_help = "Example:\n  cargo xtask setup")]
pub(crate) struct Setup {}

impl Setup {
    pub(crate) fn run(self, workspace: &Workspace) -> Result<()> {
        let tools = ensure(workspace)?;
        println!("device toolchain  rustc {}  {}", toolchain::VERSION, tools.toolchain.rustc.display());
        if let Some(ptxas) = &tools.ptxas {
            println!("assembler         ptxas {}  {}", ptxas.version(), ptxas.path().display());
        }
        Ok(())
    }
}

/// What device builds need.
pub(crate) struct Tools {
    pub(crate) toolchain: DeviceToolchain,
    /// Without one, kernels are built as PTX only, and nothing is known of their registers.
    pub(crate) ptxas: Option<Ptxas>,
}

/// Finds or installs the tools. A missing assembler is said, but it is no failure.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Tools> {
    let toolchain = DeviceToolchain::find().or_else(|missing| install_toolchain(workspace, missing))?;
    let ptxas = Ptxas::find(&workspace.target()).map_or_else(|| install_ptxas(workspace), Ok);
    let ptxas = ptxas
        .inspect_err(|error| eprintln!("warning: no ptxas, so PTX is built but not assembled: {error:#}"));
    Ok(Tools { toolchain, ptxas: ptxas.ok() })
}

/// NVIDIA's disassembler: a toolkit's, or PyPI's.
pub(crate) fn nvdisasm(workspace: &Workspace) -> Result<PathBuf> {
    let present = || ptxas::installed(&workspace.target(), "nvdisasm").or_else(|| find("nvdisasm"));
    if present().is_none() {
        let _spinner = Spinner::start("installing nvdisasm from PyPI");
        pip_install(workspace, &format!("nvidia-cuda-nvdisasm=={NVDISASM_VERSION}"))?;
    }
    present().context("the package has no nvdisasm for this machine; a CUDA toolkit brings one")
}

fn install_toolchain(
    workspace: &Workspace,
    missing: flashcore_ptx_builder::Error,
) -> Result<DeviceToolchain> {
    if std::env::var_os(toolchain::TOOLCHAIN_VARIABLE).is_some() {
        return Err(missing.into());
    }
    let mut attempts = Vec::new();
    for attempt in [toolchain_from_rustup, toolchain_from_debian] {
        match attempt(workspace).and_then(|()| Ok(DeviceToolchain::find()?)) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => attempts.push(format!("- {error:#}")),
        }
    }
    let version = toolchain::VERSION;
    bail!(
        "no device toolchain, and none could be installed:\n{}\n\
         Install one of these, then try again:\n\
         - with rustup: rustup toolchain install {version} --profile minimal --component rust-src\n\
         - on Debian, as root: apt-get install rustc-web cargo-web rust-web-src (if they are {version})\n\
         - by hand: unpack Rust {version} and its rust-src, and let {} name the folder",
        attempts.join("\n"),
        toolchain::TOOLCHAIN_VARIABLE,
    )
}

fn toolchain_from_rustup(workspace: &Workspace) -> Result<()> {
    if std::env::var("RUSTUP_AUTO_INSTALL").is_ok_and(|value| value == "0") {
        bail!("rustup is not asked to download anything, because RUSTUP_AUTO_INSTALL is 0");
    }
    find("rustup").context("there is no rustup")?;
    let version = toolchain::VERSION;
    let _spinner = Spinner::start(&format!("installing Rust {version} with rustup"));
    let command = cmd!(
        workspace.shell,
        "rustup toolchain install {version} --profile minimal --component rust-src --no-self-update"
    );
    run_quietly(command).map(drop)
}

/// A stale list of packages installs too, but an older Rust: so it is updated first.
fn toolchain_from_debian(workspace: &Workspace) -> Result<()> {
    let _spinner = Spinner::start("installing Debian's packages of Rust for browsers (rustc-web)");
    let updated = apt_get_update(workspace);
    apt_get_install(workspace, &["rustc-web", "cargo-web", "rust-web-src"])?;
    // Without a network there may still be the right one.
    if DeviceToolchain::find().is_err() { updated } else { Ok(()) }
}

fn install_ptxas(workspace: &Workspace) -> Result<Ptxas> {
    let chosen = std::env::var_os(ptxas::PTXAS_VARIABLE);
    if let Some(path) = chosen {
        bail!("{} names {}, which is no ptxas", ptxas::PTXAS_VARIABLE, path.display());
    }
    {
        let version = ptxas::VERSION;
        let _spinner = Spinner::start(&format!("installing ptxas {version} from PyPI"));
        pip_install(workspace, &format!("nvidia-cuda-nvcc=={version}"))?;
    }
    Ptxas::find(&workspace.target())
        .context("the package has no ptxas for this machine; install a CUDA toolkit")
}

/// Makes pip say only what goes wrong.
pub(crate) const PIP_OPTIONS: [&str; 2] = ["--quiet", "--disable-pip-version-check"];

/// The Python of a virtual environment, which is made if it is missing, and given `packages` from PyPI.
pub(crate) fn venv(workspace: &Workspace, folder: &Path, packages: &[&str]) -> Result<PathBuf> {
    let shell = &workspace.shell;
    let python = folder.join("bin/python");
    let install = || -> Result<()> {
        if !python.is_file() {
            run_quietly(cmd!(shell, "python3 -m venv {folder}"))?;
        }
        run_quietly(cmd!(shell, "{python} -m pip install {PIP_OPTIONS...} {packages...}")).map(drop)
    };
    install().or_else(|error| {
        // Debian's Python comes without what a new environment needs.
        apt_get_install(workspace, &["python3-venv"]).with_context(|| format!("{error:#}"))?;
        shell.remove_path(folder)?;
        install()
    })?;
    Ok(python)
}

/// Installs a package from PyPI below `target`, with whatever this machine's Python has for that.
fn pip_install(workspace: &Workspace, package: &str) -> Result<()> {
    let shell = &workspace.shell;
    let folder = ptxas::package_dir(&workspace.target());
    let python = folder.join("bin/python");
    // A folder without its own Python was filled by `pip install --target`.
    let with_venv = || -> Result<()> {
        if !python.is_file() {
            run_quietly(cmd!(shell, "python3 -m venv {folder}"))?;
        }
        run_quietly(cmd!(shell, "{python} -m pip install {PIP_OPTIONS...} {package}")).map(drop)
    };
    let with_pip = || -> Result<()> {
        let _ = std::fs::remove_dir_all(&folder); // what a venv without pip left behind
        run_quietly(cmd!(shell, "python3 -m pip install {PIP_OPTIONS...} --target {folder} {package}"))
            .map(drop)
    };
    let with_debian = || -> Result<()> {
        apt_get_install(workspace, &["python3-venv"])?;
        let _ = std::fs::remove_dir_all(&folder);
        with_venv()
    };
    find("python3").ok_or_else(|| anyhow!("there is no python3, and no CUDA toolkit either")).and_then(|_| {
        with_venv().or_else(|venv| {
            with_pip().or_else(|pip| with_debian().with_context(|| format!("{venv:#}\n{pip:#}")))
        })
    })
}

fn apt_get_install(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    find("apt-get").context("there is no apt-get")?;
    // The owner of /proc/self is the user that this process runs as.
    let root = std::fs::metadata("/proc/self").is_ok_and(|owner| owner.uid() == 0);
    if !root {
        bail!("apt-get needs root to install {}", packages.join(" "));
    }
    let install = || {
        let command = cmd!(workspace.shell, "apt-get install --yes --no-install-recommends {packages...}");
        run_quietly(command.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // Only a stale or empty list of packages needs the slow update.
    install().or_else(|_| {
        apt_get_update(workspace)?;
        install()
    })?;
    Ok(())
}

fn apt_get_update(workspace: &Workspace) -> Result<()> {
    run_quietly(cmd!(workspace.shell, "apt-get update")).map(drop)
}
