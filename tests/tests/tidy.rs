//! Rules of the house that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flashcore_tests::suite::{Resource, Suite};

/// A file of the source tree: its path from the root, and its text.
type File = (String, String);

/// Every text file that people wrote.
fn sources(root: &Path) -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "bundle", ".git"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                let relative =
                    path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                files.push((relative, text));
            }
        }
    }
    files
}

fn ends_with(path: &str, extensions: &[&str]) -> bool {
    Path::new(path).extension().is_some_and(|e| extensions.iter().any(|x| e == *x))
}

/// Lines of Rust code that contain one of `words`, outside of `rooms`; this file, which must name them, is exempt.
fn lines_outside(root: &Path, words: &[&str], rooms: &[&str]) -> Result<(), String> {
    let mut found = Vec::new();
    for (path, text) in sources(root) {
        if !ends_with(&path, &["rs"]) || path == file!() || rooms.iter().any(|room| path.starts_with(room)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

fn assembly_stays_in_its_room(root: &Path) -> Result<(), String> {
    lines_outside(root, &["asm!("], &["kernels-device/src/ptx/"])
}

fn cuda_is_called_by_the_driver_only(root: &Path) -> Result<(), String> {
    // A test plays a user of cudarc, and candle's users are some, both through cudarc's own safe layer.
    let users = ["tests/tests/raw_handles.rs", "bindings/candle/src/cuda.rs"];
    lines_outside(root, &["cudarc::"], &[&["host/src/driver/"], &users[..]].concat())?;
    lines_outside(root, &["driver::sys", "libcuda"], &["host/src/driver/"])
}

fn kernels_are_launched_in_one_place(root: &Path) -> Result<(), String> {
    let sites: Vec<String> = sources(root)
        .iter()
        .filter(|(path, _)| ends_with(path, &["rs"]) && path != file!())
        .flat_map(|(path, text)| vec![path.clone(); text.matches("sys::cuLaunch").count()])
        .collect();
    if sites.len() == 1 { Ok(()) } else { Err(format!("kernels are launched in {sites:?}")) }
}

fn nothing_is_left_for_later(root: &Path) -> Result<(), String> {
    let words = ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "PLACEHOLDER"];
    let found: Vec<String> = sources(root)
        .into_iter()
        // Recorded outputs are base64, which may spell anything.
        .filter(|(path, _)| path != file!() && !path.starts_with("tests/goldens/outputs/"))
        .flat_map(|(path, text)| {
            let hits =
                text.lines().enumerate().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
            hits.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim())).collect::<Vec<_>>()
        })
        .collect();
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

fn no_language_but_rust_on_the_gpu(root: &Path) -> Result<(), String> {
    let foreign: Vec<String> = sources(root)
        .into_iter()
        .map(|(path, _)| path)
        // C that calls the library is not on the GPU.
        .filter(|path| !path.starts_with("bindings/c/"))
        .filter(|path| ends_with(path, &["c", "cc", "cpp", "cu", "cuh", "h", "hpp"]))
        .collect();
    if foreign.is_empty() { Ok(()) } else { Err(format!("{foreign:?}")) }
}

/// Targets of Markdown's inline links, without anchors.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|link| link.split('#').next().unwrap_or(link))
}

fn links_lead_somewhere(root: &Path) -> Result<(), String> {
    let mut dead = Vec::new();
    for (path, text) in sources(root).iter().filter(|(path, _)| ends_with(path, &["md"])) {
        let folder = root.join(path).parent().map(Path::to_path_buf).unwrap_or_default();
        let local = links(text).filter(|link| !link.is_empty() && !link.contains("://"));
        dead.extend(local.filter(|link| !folder.join(link).exists()).map(|link| format!("{path}: {link}")));
    }
    if dead.is_empty() { Ok(()) } else { Err(dead.join("\n")) }
}

/// Every file says what it is before it does it.
fn modules_introduce_themselves(root: &Path) -> Result<(), String> {
    let silent: Vec<String> = sources(root)
        .into_iter()
        .filter(|(path, text)| {
            ends_with(path, &["rs"]) && !text.starts_with("//!") && !text.starts_with("#!")
        })
        .map(|(path, _)| path)
        .collect();
    if silent.is_empty() { Ok(()) } else { Err(silent.join("\n")) }
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf();
    let tree = if root.join("Cargo.toml").exists() {
        Ok(root)
    } else {
        Err("skipped: not in a source tree".to_string())
    };
    let mut suite = Suite::on(vec![Resource::new("tree", tree)]);
    type Rule = fn(&Path) -> Result<(), String>;
    let rules: [(&str, Rule); 7] = [
        ("assembly_stays_in_its_room", assembly_stays_in_its_room),
        ("cuda_is_called_by_the_driver_only", cuda_is_called_by_the_driver_only),
        ("kernels_are_launched_in_one_place", kernels_are_launched_in_one_place),
        ("nothing_is_left_for_later", nothing_is_left_for_later),
        ("no_language_but_rust_on_the_gpu", no_language_but_rust_on_the_gpu),
        ("links_lead_somewhere", links_lead_somewhere),
        ("modules_introduce_themselves", modules_introduce_themselves),
    ];
    for (name, rule) in rules {
        suite.test(name, move |root: &PathBuf| rule(root));
    }
    suite.run()
}
