//! Finding the Rust toolchain that compiles device code.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result};

/// The version that device code is compiled with; `kernels-device/rust-toolchain.toml` pins the same.
pub const VERSION: &str = "1.96.0";
/// Names a toolchain directory (with `bin/rustc` and `bin/cargo`) that comes before all others.
pub const TOOLCHAIN_VARIABLE: &str = "FLASHCORE_DEVICE_TOOLCHAIN";

/// A Rust toolchain of exactly the pinned version, with the sources of `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceToolchain {
    /// Its `rustc`, not a rustup proxy.
    pub rustc: PathBuf,
    /// Its `cargo`, not a rustup proxy.
    pub cargo: PathBuf,
}

impl DeviceToolchain {
    /// Looks in the directory that `FLASHCORE_DEVICE_TOOLCHAIN` names (and then nowhere else), among rustup's
    /// toolchains, and in the system's directories. Installs nothing.
    ///
    /// # Errors
    /// [`Error::NoToolchain`], which says what is wrong with each place.
    pub fn find() -> Result<Self> {
        let mut looked = Vec::new();
        for (origin, bin) in candidates() {
            match Self::probe(&bin) {
                Ok(toolchain) => return Ok(toolchain),
                Err(reason) => looked.push(format!("  {origin} ({}): {reason}", bin.display())),
            }
        }
        Err(Error::NoToolchain { version: VERSION, looked: looked.join("\n") })
    }

    /// The toolchain whose programs lie in `bin`, or why it does not do.
    fn probe(bin: &Path) -> Result<Self, String> {
        let toolchain = DeviceToolchain { rustc: bin.join("rustc"), cargo: bin.join("cargo") };
        for program in [&toolchain.rustc, &toolchain.cargo] {
            let version = version_of(program)?;
            if version != VERSION {
                return Err(format!("{} is {version}", program.display()));
            }
        }
        let sysroot = PathBuf::from(output(&toolchain.rustc, &["--print", "sysroot"])?.trim());
        let core = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !core.is_file() {
            return Err(format!("the sources of core are not at {}", core.display()));
        }
        Ok(toolchain)
    }
}

/// Where to look, in order: (a name for the reader, the folder with the programs).
fn candidates() -> Vec<(&'static str, PathBuf)> {
    if let Some(directory) = std::env::var_os(TOOLCHAIN_VARIABLE) {
        return vec![(TOOLCHAIN_VARIABLE, Path::new(&directory).join("bin"))];
    }
    let rustup_home = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".rustup")));
    let rustup = rustup_home.into_iter().flat_map(|home| {
        let toolchains = std::fs::read_dir(home.join("toolchains")).into_iter().flatten().flatten();
        let pinned = toolchains.filter(|entry| is_pinned(&entry.file_name().to_string_lossy()));
        pinned.map(|entry| ("rustup", entry.path().join("bin"))).collect::<Vec<_>>()
    });
    let system = ["/usr/bin", "/usr/local/bin"].map(|bin| ("system", PathBuf::from(bin)));
    rustup.chain(system).collect()
}

/// Whether rustup's name of a toolchain is that of the pinned version: `1.96.0-<host>`.
fn is_pinned(name: &str) -> bool {
    name.strip_prefix(VERSION).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// The second word of `program --version`.
fn version_of(program: &Path) -> Result<String, String> {
    let text = output(program, &["--version"])?;
    text.split_whitespace()
        .nth(1)
        .map(str::to_owned)
        .ok_or_else(|| format!("{} told no version", program.display()))
}

fn output(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if !output.status.success() {
        return Err(format!("{} {}: {}", program.display(), arguments.join(" "), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustup_names_are_matched_whole() {
        assert!(is_pinned("1.96.0"));
        assert!(is_pinned("1.96.0-x86_64-unknown-linux-gnu"));
        assert!(!is_pinned("1.96.01-x86_64-unknown-linux-gnu"));
        assert!(!is_pinned("1.96-x86_64-unknown-linux-gnu"));
    }

    #[test]
    fn the_device_crate_pins_the_same_version() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernels-device/rust-toolchain.toml");
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains(&format!("channel = \"{VERSION}\"")), "{text}");
    }

    #[test]
    fn a_folder_without_programs_is_explained() {
        let reason = DeviceToolchain::probe(Path::new("/nonexistent/bin")).unwrap_err();
        assert!(reason.contains("/nonexistent/bin/rustc"), "{reason}");
    }
}
