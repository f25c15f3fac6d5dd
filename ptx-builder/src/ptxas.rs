//! Finding and running NVIDIA's assembler.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result};

/// The version that `cargo xtask setup` installs.
pub const VERSION: &str = "13.0.88";
/// Names the assembler that comes before all others.
pub const PTXAS_VARIABLE: &str = "FLASHCORE_PTXAS";

/// NVIDIA's PTX assembler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ptxas {
    path: PathBuf,
    version: String,
}

/// What ptxas says a kernel uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread at launch.
    pub registers: u32,
    /// Bytes of spill stores and loads.
    pub spill_bytes: u32,
    /// Bytes of the stack frame.
    pub stack_bytes: u32,
    /// Bytes of static shared memory.
    pub static_smem_bytes: u32,
}

impl Resources {
    /// What the output of `ptxas -v` for one entry says; functions that it calls add their spills and stack. `None` if
    /// it speaks of no registers or of no stack.
    pub fn parse(log: &str) -> Option<Resources> {
        // Where a kernel spills, a warning says so once more.
        let lines = || log.lines().filter(|line| !line.contains("warning"));
        let numbers = |unit: &'static str| lines().filter_map(move |line| before(line, unit));
        let sum = |unit| numbers(unit).sum::<u32>();
        Some(Resources {
            registers: numbers(" registers").next()?,
            spill_bytes: sum(" bytes spill stores") + sum(" bytes spill loads"),
            stack_bytes: numbers(" bytes stack frame").reduce(|a, b| a + b)?,
            static_smem_bytes: sum(" bytes smem"),
        })
    }
}

/// The number that stands before `unit` in `line`.
fn before(line: &str, unit: &str) -> Option<u32> {
    let (before, _) = line.split_once(unit)?;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl Ptxas {
    /// Looks at `FLASHCORE_PTXAS` (and then nowhere else), in the virtual environment that `cargo xtask setup`
    /// makes under `workspace_target` (the workspace's `target` folder), in `CUDA_HOME` and in `PATH`.
    pub fn find(workspace_target: &Path) -> Option<Ptxas> {
        candidates(workspace_target).into_iter().find_map(Self::at)
    }

    /// The assembler at `path`, if one runs there.
    pub fn at(path: PathBuf) -> Option<Ptxas> {
        let output =
            Command::new(&path).arg("--version").output().ok().filter(|output| output.status.success())?;
        let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Ptxas { path, version })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, e.g. `13.0.88`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Everything but the PTX that the machine code depends on.
    pub(crate) fn identity(&self, line_tables: bool) -> String {
        format!("ptxas {} {}", self.version, arguments(line_tables).join(" "))
    }

    /// Assembles `ptx` into `cubin`; the result is what ptxas printed.
    pub(crate) fn assemble(
        &self,
        kernel: &str,
        ptx: &Path,
        cubin: &Path,
        line_tables: bool,
    ) -> Result<String> {
        let output = Command::new(&self.path)
            .args(arguments(line_tables))
            .arg(ptx)
            .arg("-o")
            .arg(cubin)
            .output()
            .map_err(Error::io("could not run", &self.path))?;
        let log = [output.stdout, output.stderr].concat();
        let log = String::from_utf8_lossy(&log).into_owned();
        if !output.status.success() {
            return Err(Error::Assemble { kernel: kernel.to_owned(), ptx: ptx.to_owned(), log });
        }
        Ok(log)
    }
}

fn arguments(line_tables: bool) -> Vec<&'static str> {
    let mut arguments = vec!["-arch=sm_90a", "-O3", "--warn-on-spills", "-v"];
    if line_tables {
        arguments.push("-lineinfo");
    }
    arguments
}

fn candidates(workspace_target: &Path) -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os(PTXAS_VARIABLE) {
        return vec![path.into()];
    }
    let mut found = Vec::new();
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    found.extend(installed(workspace_target, "ptxas"));
    found.extend(toolkits.map(|home| Path::new(&home).join("bin/ptxas")));
    found
        .extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths).map(|bin| bin.join("ptxas")));
    found
}

/// Where `cargo xtask setup` puts NVIDIA's packages from PyPI.
pub fn package_dir(workspace_target: &Path) -> PathBuf {
    workspace_target.join("flashcore/ptxas-venv")
}

/// `program` (such as `ptxas` or `nvdisasm`) in [`package_dir`], if it is there.
pub fn installed(workspace_target: &Path, program: &str) -> Option<PathBuf> {
    // A virtual environment has site-packages below lib/pythonX.Y; `pip install --target` has them at the top.
    let root = package_dir(workspace_target);
    let pythons = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let sites = pythons.map(|python| python.path().join("site-packages")).chain([root]);
    sites.map(|site| site.join("nvidia/cu13/bin").join(program)).find(|path| path.is_file())
}

/// `Cuda compilation tools, release 13.0, V13.0.88` -> `13.0.88`.
fn parse_version(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(", V")?;
    rest.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_from_the_output() {
        let log = "\
            ptxas warning : Registers are spilled to local memory in function 'k', 8 bytes spill stores, 4 bytes spill \
            loads\n\
            ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\
            ptxas info    : Function properties for k\n    \
                16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n\
            ptxas info    : Used 168 registers, used 16 barriers, 1104 bytes smem, 464 bytes cmem[0]\n";
        let expected =
            Resources { registers: 168, spill_bytes: 12, stack_bytes: 16, static_smem_bytes: 1104 };
        assert_eq!(Resources::parse(log), Some(expected));
        assert_eq!(Resources::parse("ptxas info    : Used 168 registers"), None);
    }

    #[test]
    fn the_version_is_read() {
        let text =
            "ptxas: NVIDIA (R) Ptx optimizing assembler\nCuda compilation tools, release 13.0, V13.0.88\n";
        assert_eq!(parse_version(text).as_deref(), Some("13.0.88"));
        assert_eq!(parse_version("GNU as 2.40"), None);
    }

    #[test]
    fn what_is_no_assembler_is_not_taken() {
        assert_eq!(Ptxas::at("/bin/true".into()), None);
    }
}
