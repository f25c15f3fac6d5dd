//! The build as a whole.

use std::path::{Path, PathBuf};

use flashcore_kernels::entry::{Entry, Opcodes};

use crate::{DeviceToolchain, Ptxas, Resources, Result};

/// Builds entry points of the device crate into a folder: `<symbol>.ptx` and, with an assembler, `<symbol>.cubin`.
pub struct Builder<'a> {
    kernels_dir: PathBuf,
    out_dir: PathBuf,
    features: Vec<String>,
    line_tables: bool,
    ptxas: Option<Ptxas>,
    observer: Box<dyn Fn(Step) + Sync + 'a>,
}

/// What the build is at, for progress bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// rustc compiles the device crate.
    Compiling,
    /// ptxas works on the entries; this many of `total` are done.
    Assembling {
        /// Entries done.
        done: usize,
        /// Entries in all.
        total: usize,
    },
}

/// What a build made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BuildReport {
    /// One for each entry, in the order asked for.
    pub artifacts: Vec<Artifact>,
    /// Wall-clock seconds of cargo and rustc.
    pub rustc_seconds: f64,
    /// Wall-clock seconds of the assembler, all entries in parallel.
    pub ptxas_seconds: f64,
    /// Entries whose machine code was still fresh.
    pub reused: usize,
}

/// One built entry point.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Artifact {
    /// What was asked for.
    pub entry: Entry,
    /// The finished PTX.
    pub ptx: PathBuf,
    /// The machine code; `None` without an assembler.
    pub cubin: Option<PathBuf>,
    /// What the machine code uses; `None` without an assembler.
    pub resources: Option<Resources>,
    /// Instructions counted in the PTX.
    pub counts: Opcodes,
    /// Seconds that ptxas took; 0 if its result was still fresh.
    pub ptxas_seconds: f64,
}

impl<'a> Builder<'a> {
    /// A build of the device crate in `kernels_dir` into `out_dir`, which is made if it is not there.
    pub fn new(kernels_dir: impl Into<PathBuf>, out_dir: impl Into<PathBuf>) -> Self {
        Builder {
            kernels_dir: kernels_dir.into(),
            out_dir: out_dir.into(),
            features: Vec::new(),
            line_tables: false,
            ptxas: None,
            observer: Box::new(|_| ()),
        }
    }

    /// Cargo features of the device crate.
    pub fn features(mut self, features: &[&str]) -> Self {
        self.features = features.iter().map(|&feature| feature.to_owned()).collect();
        self
    }

    /// Whether profilers shall see Rust source lines.
    pub fn line_tables(mut self, line_tables: bool) -> Self {
        self.line_tables = line_tables;
        self
    }

    /// The assembler; without one only PTX is made and only its gates run.
    pub fn ptxas(mut self, ptxas: Option<Ptxas>) -> Self {
        self.ptxas = ptxas;
        self
    }

    /// Calls `observer` at each step, from any thread.
    pub fn observe(mut self, observer: impl Fn(Step) + Sync + 'a) -> Self {
        self.observer = Box::new(observer);
        self
    }
}

impl Builder<'_> {
    /// Compiles, finishes, assembles and checks `entries`.
    ///
    /// # Errors
    /// See [`crate::Error`]; broken rules of all kernels are reported together.
    pub fn build(&self, entries: &[Entry]) -> Result<BuildReport> {
        let _ = (DeviceToolchain::find()?, &self.kernels_dir, &self.out_dir as &Path, &self.observer);
        let _ = (&self.features, self.line_tables, &self.ptxas, entries);
        unimplemented!()
    }
}
