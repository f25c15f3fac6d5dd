//! For build scripts: compiles kernels and writes the Rust source that embeds them.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::{Artifact, Builder, Entry, Ptxas, ptxas, toolchain};

/// Set to 1 for profilers to see the kernels' Rust lines.
const LINE_TABLES_VARIABLE: &str = "FLASHCORE_LINE_TABLES";
/// Names the folder in which device code is compiled, for all builds to share.
const TARGET_DIR_VARIABLE: &str = "FLASHCORE_DEVICE_TARGET_DIR";

/// The folder in which this repository's builds compile and assemble device code, each for all: what
/// `FLASHCORE_DEVICE_TARGET_DIR` names (.cargo/config.toml sets it).
pub fn shared_target_dir() -> Option<PathBuf> {
    env::var_os(TARGET_DIR_VARIABLE).map(PathBuf::from)
}

/// Compiles `entries` of this repository's device crate, side by side under each of its cargo `features`, from the build script of a crate
/// whose folder is a member of the workspace, and writes `images.rs` to its `OUT_DIR`: `IMAGES`, a table of values of a
/// type `KernelImage` that must be in scope, and `PTXAS_VERSION`.
///
/// What goes wrong is reported to cargo, and ends the build script.
pub fn embed(features: &[&str], entries: &[Entry]) {
    report(try_embed_own(features, entries));
}

/// As [`embed`], of the crate in `folder`, by its path from the crate that is built: for kernels with
/// [functions of scores](flashcore_kernels::score_mod).
///
/// ```no_run
/// // build.rs
/// use flashcore_kernels::score_mod::Kernels;
/// # struct Alibi;
/// # impl flashcore_kernels::score_mod::ScoreMod for Alibi {
/// #     type Args = ();
/// #     type Row = ();
/// #     fn row(_: &(), _: &flashcore_kernels::score_mod::Query) {}
/// # }
/// # impl Kernels for Alibi {
/// #     const KERNELS: &'static [flashcore_kernels::config::Variant] = &[];
/// # }
///
/// let entries = Alibi::KERNELS.iter().map(|kernel| kernel.entry()).collect::<Vec<_>>();
/// flashcore_ptx_builder::embed_crate("kernels", &entries);
/// ```
pub fn embed_crate(folder: &str, entries: &[Entry]) {
    report(try_embed_crate(folder, entries));
}

fn report(result: Result<(), Box<dyn std::error::Error>>) {
    if let Err(error) = result {
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

fn try_embed_own(features: &[&str], entries: &[Entry]) -> Result<(), Box<dyn std::error::Error>> {
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    let target = workspace.join("target");
    try_embed(&workspace.join("kernels-device"), &target, shared_target_dir(), features, entries)
}

fn try_embed_crate(folder: &str, entries: &[Entry]) -> Result<(), Box<dyn std::error::Error>> {
    let kernels_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join(folder);
    // target/<profile>/build/<package>/out
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let target = out_dir.ancestors().nth(4).unwrap_or(&out_dir);
    try_embed(&kernels_dir, target, None, &[], entries)
}

/// Compiles the crate in `kernels_dir` in `target_dir`, with the assembler that lies under `target`.
fn try_embed(
    kernels_dir: &Path,
    target: &Path,
    target_dir: Option<PathBuf>,
    features: &[&str],
    entries: &[Entry],
) -> Result<(), Box<dyn std::error::Error>> {
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    for input in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", kernels_dir.join(input).display());
    }
    for variable in [toolchain::TOOLCHAIN_VARIABLE, ptxas::PTXAS_VARIABLE, LINE_TABLES_VARIABLE] {
        println!("cargo::rerun-if-env-changed={variable}");
    }

    let assembler = find_assembler(target);
    let version = assembler.as_ref().map(|ptxas| ptxas.version().to_owned());
    let report = Builder::new(kernels_dir, out_dir.join("kernels"))
        .target_dir(target_dir)
        .features(features)
        .line_tables(env::var(LINE_TABLES_VARIABLE).is_ok_and(|value| value == "1"))
        .ptxas(assembler)
        .build(entries)?;
    for finding in report.warnings() {
        finding.to_string().lines().for_each(|line| println!("cargo::warning={line}"));
    }
    fs::write(out_dir.join("images.rs"), images(&report.artifacts, version.as_deref())?)?;
    Ok(())
}

fn find_assembler(target: &Path) -> Option<Ptxas> {
    let found = Ptxas::find(target);
    if found.is_none() {
        println!(
            "cargo::warning=no ptxas: the kernels are embedded as PTX only, and the driver compiles them at first use \
             (`cargo xtask setup` gets one)"
        );
        // Look again once it is there.
        println!("cargo::rerun-if-changed={}", ptxas::package_dir(target).display());
    }
    found
}

/// The Rust source of the table of images.
fn images(artifacts: &[Artifact], ptxas_version: Option<&str>) -> Result<String, std::fmt::Error> {
    let mut source = String::new();
    writeln!(source, "/// Version of the ptxas that made the machine code, if one did.")?;
    writeln!(source, "pub const PTXAS_VERSION: Option<&str> = {ptxas_version:?};")?;
    writeln!(source, "/// Every kernel of this build.")?;
    writeln!(source, "pub static IMAGES: &[KernelImage] = &[")?;
    for Artifact { entry, ptx, cubin, .. } in artifacts {
        let cubin = cubin.as_ref().map(|cubin| format!("Some(include_bytes!({cubin:?}))"));
        writeln!(
            source,
            "KernelImage {{ symbol: {:?}, ptx: include_str!({ptx:?}), cubin: {} }},",
            entry.symbol,
            cubin.as_deref().unwrap_or("None"),
        )?;
    }
    writeln!(source, "];")?;
    Ok(source)
}
