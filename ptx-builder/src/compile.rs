//! Running the device toolchain's cargo on the device crate.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{DeviceToolchain, Error, Result};

/// What the compiler must be told, and why.
const RUSTFLAGS: [&str; 3] = [
    "-Ctarget-cpu=sm_90a",
    // It duplicates inline assembly, `bar.sync` and `setmaxnreg` among it, which must run convergently.
    "-Zmir-enable-passes=-JumpThreading",
    // Fragments are arrays: only in unrolled loops are they registers.
    "-Cllvm-args=-unroll-threshold=100000",
];

/// Variables of the outer cargo that the inner one still needs: where things are and how to reach them.
const KEPT_VARIABLES: [&str; 3] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_"];

/// What a compilation is asked for.
pub(crate) struct Compilation<'a> {
    pub(crate) kernels_dir: &'a Path,
    /// Cargo's target directory, and the place of the result. Absolute.
    pub(crate) target_dir: &'a Path,
    /// The only feature of the crate, if one.
    pub(crate) feature: Option<&'a str>,
    pub(crate) line_tables: bool,
}

/// The PTX module that rustc wrote.
pub(crate) struct Compiled {
    pub(crate) ptx: String,
    /// What cargo said; warnings are in it.
    pub(crate) log: String,
}

impl Compilation<'_> {
    pub(crate) fn run(&self, toolchain: &DeviceToolchain) -> Result<Compiled> {
        let assembly = self.assembly_path();
        let output = self
            .command(toolchain, &assembly)
            .output()
            .map_err(Error::io("could not run", &toolchain.cargo))?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(Error::Compile {
                crate_dir: self.kernels_dir.to_owned(),
                status: output.status,
                log,
            });
        }
        let ptx = std::fs::read_to_string(&assembly).map_err(Error::io("could not read", &assembly))?;
        Ok(Compiled { ptx, log })
    }

    /// One file for each configuration: cargo keeps them apart, and does not write what is still fresh.
    fn assembly_path(&self) -> PathBuf {
        let feature = self.feature.map(|feature| format!("-{feature}")).unwrap_or_default();
        let lines = if self.line_tables { "-lines" } else { "" };
        self.target_dir.join(format!("module{feature}{lines}.ptx"))
    }

    fn command(&self, toolchain: &DeviceToolchain, assembly: &Path) -> Command {
        let mut command = Command::new(&toolchain.cargo);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let kept = KEPT_VARIABLES.iter().any(|kept| name.starts_with(kept));
            if (name.starts_with("CARGO") || name.starts_with("RUST")) && !kept {
                command.env_remove(&*name);
            }
        }
        let debug = if self.line_tables { "line-tables-only" } else { "none" };
        command
            .env("RUSTC", &toolchain.rustc)
            // The NVPTX back end and a `core` built from source are unstable features of this pinned release.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", RUSTFLAGS.join(" "))
            .current_dir(self.kernels_dir)
            .args([
                "rustc",
                "--lib",
                "--release",
                "--target",
                "nvptx64-nvidia-cuda",
                "--crate-type",
                "staticlib",
            ])
            .args(["-Zbuild-std=core", "-Zpanic-immediate-abort"])
            .args(["--config", "profile.release.panic=\"immediate-abort\""])
            .args(["--config", "profile.release.lto=\"fat\""])
            .args(["--config", "profile.release.codegen-units=1"])
            .args(["--config", &format!("profile.release.debug={debug:?}")])
            .arg("--target-dir")
            .arg(self.target_dir)
            .args(["--no-default-features", "--features", self.feature.unwrap_or_default()])
            .arg("--")
            .arg(format!("--emit=asm={}", assembly.display()));
        command
    }
}
