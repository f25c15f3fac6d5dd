//! The build as a whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use flashcore_kernels::entry::Entry;
use rayon::prelude::*;

use crate::assembled::Assembled;
use crate::compile::{Compilation, Compiled};
use crate::{DeviceToolchain, Error, Finding, Ptxas, Resources, Result, Verdict, finish};

/// Builds entry points of the device crate into a folder: `<symbol>.ptx` and, with an assembler, `<symbol>.cubin`.
///
/// ```no_run
/// use flashcore_ptx_builder::{Builder, Ptxas};
///
/// let entries: Vec<_> = flashcore_kernels::entry::entries().collect();
/// let report = Builder::new("kernels-device", "target/flashcore/kernels")
///     .features(&["f16", "bf16"])
///     .ptxas(Ptxas::find("target".as_ref()))
///     .build(&entries)?;
/// println!("{} kernels in {:.1} s", report.artifacts.len(), report.rustc_seconds + report.ptxas_seconds);
/// # Ok::<(), flashcore_ptx_builder::Error>(())
/// ```
pub struct Builder<'a> {
    kernels_dir: PathBuf,
    out_dir: PathBuf,
    target_dir: Option<PathBuf>,
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
    /// Entries are finished, assembled and checked; this many of `total` are done.
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
    /// Wall-clock seconds of finishing, assembling and checking; entries are worked on in parallel.
    pub ptxas_seconds: f64,
    /// What cargo said while it compiled, warnings included.
    pub compiler_log: String,
}

impl BuildReport {
    /// Whether every kernel, whose PTX lies in `out_dir`, keeps every rule.
    ///
    /// # Errors
    /// [`Error::Gates`] with all broken rules.
    pub fn pass(&self, out_dir: &Path) -> Result<()> {
        let broken = self.artifacts.iter().flat_map(|artifact| &artifact.verdict.broken);
        let failures: Vec<_> = broken.cloned().collect();
        if failures.is_empty() { Ok(()) } else { Err(Error::Gates { failures, out_dir: out_dir.to_owned() }) }
    }

    /// Findings that are no errors, of all kernels.
    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.artifacts.iter().flat_map(|artifact| &artifact.verdict.warnings)
    }
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
    /// What the gates make of it.
    pub verdict: Verdict,
    /// Seconds that ptxas took; `None` if it did not run, because there is none or it had assembled this before.
    pub ptxas_seconds: Option<f64>,
}

impl<'a> Builder<'a> {
    /// A build of the device crate in `kernels_dir` into `out_dir`, which is made if it is not there.
    pub fn new(kernels_dir: impl Into<PathBuf>, out_dir: impl Into<PathBuf>) -> Self {
        Builder {
            kernels_dir: kernels_dir.into(),
            out_dir: out_dir.into(),
            target_dir: None,
            features: Vec::new(),
            line_tables: false,
            ptxas: None,
            observer: Box::new(|_| ()),
        }
    }

    /// Where the device crate is compiled and assembled: a folder that other builds of the same device crate may share,
    /// so that only the first one does it. Without it, one in the output folder.
    pub fn target_dir(mut self, target_dir: Option<PathBuf>) -> Self {
        self.target_dir = target_dir;
        self
    }

    /// Cargo features of the device crate that add the entry points, each compiled apart from the others and beside
    /// them. Without any the crate is compiled as it is without features, once.
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

    /// Compiles, finishes, assembles and checks `entries`. What did not change since the last build into the same
    /// folder is not made again, but it is checked again.
    ///
    /// # Errors
    /// See [`Error`]; broken rules of all kernels are reported together.
    pub fn build(&self, entries: &[Entry]) -> Result<BuildReport> {
        let report = self.examine(entries)?;
        report.pass(&self.out_dir)?;
        Ok(report)
    }

    /// Like [`build`](Self::build), but broken rules are no errors: they are in the verdicts of the report.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn examine(&self, entries: &[Entry]) -> Result<BuildReport> {
        let toolchain = DeviceToolchain::find()?;
        let out_dir = make_folder(&self.out_dir)?;
        let target_dir = make_folder(self.target_dir.as_ref().unwrap_or(&out_dir.join("cargo")))?;

        (self.observer)(Step::Compiling);
        let started = Instant::now();
        let compiled = self.compile(&toolchain, &target_dir)?;
        let rustc_seconds = started.elapsed().as_secs_f64();

        remove_others(&out_dir, entries)?;
        let started = Instant::now();
        let assembled = Assembled::new(&target_dir)?;
        let modules: Vec<_> = compiled.iter().map(|compiled| &compiled.ptx).collect();
        let artifacts = self.finish_all(&modules, entries, &out_dir, &assembled)?;
        let ptxas_seconds = started.elapsed().as_secs_f64();
        let compiler_log = compiled.iter().map(|compiled| compiled.log.as_str()).collect();
        Ok(BuildReport { artifacts, rustc_seconds, ptxas_seconds, compiler_log })
    }

    /// The module of each feature. Those behind the first have folders of their own, since cargo compiles one thing at a
    /// time in each.
    fn compile(&self, toolchain: &DeviceToolchain, target_dir: &Path) -> Result<Vec<Compiled>> {
        let compile = |feature: Option<&str>, target_dir: &Path| {
            let kernels_dir = &self.kernels_dir;
            Compilation { kernels_dir, target_dir, feature, line_tables: self.line_tables }.run(toolchain)
        };
        if self.features.is_empty() {
            return Ok(vec![compile(None, target_dir)?]);
        }
        let beside = |(index, feature): (usize, &String)| match index {
            0 => compile(Some(feature), target_dir),
            _ => compile(Some(feature), &make_folder(&target_dir.join(feature))?),
        };
        self.features.par_iter().enumerate().map(beside).collect()
    }

    fn finish_all(
        &self,
        modules: &[&String],
        entries: &[Entry],
        out_dir: &Path,
        assembled: &Assembled,
    ) -> Result<Vec<Artifact>> {
        let finished = finish::finish(modules, entries)?;
        let (done, total) = (AtomicUsize::new(0), entries.len());
        (self.observer)(Step::Assembling { done: 0, total });
        entries
            .par_iter()
            .zip(&finished)
            .map(|(entry, ptx)| {
                let result = self.finish_entry(entry, ptx, out_dir, assembled);
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                (self.observer)(Step::Assembling { done, total });
                result
            })
            .collect()
    }

    /// Writes, assembles and checks one entry.
    fn finish_entry(
        &self,
        entry: &Entry,
        text: &str,
        out_dir: &Path,
        assembled: &Assembled,
    ) -> Result<Artifact> {
        let path = |extension: &str| out_dir.join(format!("{}.{extension}", entry.symbol));
        let (ptx, cubin) = (path("ptx"), path("cubin"));
        if write_changed(&ptx, text.as_bytes())? {
            // What was made from the former text must not outlive it.
            fs::remove_file(&cubin).or_else(ignore_missing).map_err(Error::io("could not remove", &cubin))?;
        }
        let verdict = Verdict::on_ptx(entry, text);
        let mut artifact =
            Artifact { entry: *entry, ptx, cubin: None, resources: None, verdict, ptxas_seconds: None };
        if let Some(ptxas) = &self.ptxas {
            let made = assembled.code(ptxas, self.line_tables, entry.symbol, &artifact.ptx, text)?;
            let code = fs::read(&made.cubin).map_err(Error::io("could not read", &made.cubin))?;
            write_changed(&cubin, &code)?;
            artifact.verdict.on_machine_code(entry, &made.said);
            artifact.verdict.on_cubin(entry, &code);
            artifact.resources = Resources::parse(&made.said);
            artifact.cubin = Some(cubin);
            artifact.ptxas_seconds = made.seconds;
        }
        Ok(artifact)
    }
}

/// Writes a file, unless it holds just that; whether it was written.
fn write_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    let changed = fs::read(path).ok().as_deref() != Some(bytes);
    if changed {
        fs::write(path, bytes).map_err(Error::io("could not write", path))?;
    }
    Ok(changed)
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The folder by its absolute path, made if it is not there.
fn make_folder(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path).map_err(Error::io("could not create", path))?;
    path.canonicalize().map_err(Error::io("could not find", path))
}

/// Removes what former builds made of entry points that are no more.
fn remove_others(out_dir: &Path, entries: &[Entry]) -> Result<()> {
    let unreadable = || Error::io("could not read", out_dir);
    for file in fs::read_dir(out_dir).map_err(unreadable())? {
        let path = file.map_err(unreadable())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((symbol, "ptx" | "cubin")) = name.split_once('.') else { continue };
        if !entries.iter().any(|entry| entry.symbol == symbol) {
            fs::remove_file(&path).map_err(Error::io("could not remove", &path))?;
        }
    }
    Ok(())
}
