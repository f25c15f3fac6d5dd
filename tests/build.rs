//! Embeds the micro-kernels, compiled, and the goldens: what the hardware once made of them.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use flashcore_ptx_builder::{PROBES, embed};

fn main() {
    embed(&["probes"], PROBES);
    embed_goldens("goldens", "goldens.rs")
        .and_then(|()| embed_goldens("goldens/outputs", "outputs.rs"))
        .expect("the folder of goldens can be read, and OUT_DIR written");
}

/// Writes a table of the names and texts of the JSON files of a folder.
fn embed_goldens(folder: &str, table: &str) -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join(folder);
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();

    let mut source = String::from("static GOLDENS: &[(&str, &str)] = &[\n");
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        writeln!(source, "({name:?}, include_str!({path:?})),")?;
    }
    source.push_str("];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join(table), source)?;
    Ok(())
}
