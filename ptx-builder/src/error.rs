//! What can go wrong in a build of the device code.

use std::path::PathBuf;
use std::process::ExitStatus;

use crate::gates::GateError;

/// Why the device code could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No toolchain of the pinned version with the sources of `core` was found.
    #[error(
        "no device toolchain (rustc {version} with the sources of core): run `cargo xtask setup`\n{looked}"
    )]
    NoToolchain {
        /// The version that the device crate pins.
        version: &'static str,
        /// Where it was looked for, and why each place did not do; one line each.
        looked: String,
    },
    /// The device crate does not compile.
    #[error("the device crate in {} does not compile ({status}):\n{log}", crate_dir.display())]
    Compile {
        /// The device crate.
        crate_dir: PathBuf,
        /// How cargo ended.
        status: ExitStatus,
        /// What cargo said.
        log: String,
    },
    /// The PTX lacks an entry point of the table.
    #[error("{kernel}: the PTX has no entry point of this name")]
    MissingEntry {
        /// The entry's symbol.
        kernel: String,
    },
    /// The PTX does not have the form that rustc gives it.
    #[error("line {line} of the PTX is not what rustc writes ({expected} expected): {text}")]
    MalformedPtx {
        /// One-based line.
        line: usize,
        /// What was expected.
        expected: &'static str,
        /// The line.
        text: String,
    },
    /// ptxas rejects the PTX of an entry.
    #[error("{kernel}: ptxas rejects {}:\n{log}", ptx.display())]
    Assemble {
        /// The entry's symbol.
        kernel: String,
        /// The PTX file.
        ptx: PathBuf,
        /// What ptxas said.
        log: String,
    },
    /// One or more kernels break a rule; all of them are listed.
    #[error("{}\nthe PTX is in {}", join(.failures), out_dir.display())]
    Gates {
        /// The broken rules.
        failures: Vec<GateError>,
        /// Where the PTX lies.
        out_dir: PathBuf,
    },
    /// A file could not be read or written, or a program not started.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file or program.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: an I/O error with its context.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { what, path: path.into(), source }
    }
}

fn join(errors: &[GateError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
