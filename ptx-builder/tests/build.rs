//! The builder from Rust source to machine code, on a tiny device crate. Needs what `cargo xtask setup` installs.

use std::path::{Path, PathBuf};
use std::{fs, io};

use flashcore_emulator::lint::Code;
use flashcore_ptx_builder::{Artifact, BuildReport, Builder, Entry, Error, GateError, Opcodes, Ptxas};

const SCALE: Entry = entry("scale", 0);
const SHIFT: Entry = entry("shift", 1);
const GATHER: Entry = entry("gather", 0);

const fn entry(symbol: &'static str, bar_sync: u32) -> Entry {
    let opcodes = Opcodes {
        wgmma: 0,
        tma_load: 0,
        tma_store: 0,
        bar_sync,
        bar_arrive: 0,
        setmaxnreg_inc: 0,
        setmaxnreg_dec: 0,
        cluster_arrive: 0,
        cluster_wait: 0,
        stmatrix: 0,
        elect: 0,
    };
    Entry {
        symbol,
        threads: 128,
        cluster: 1,
        min_ctas: 1,
        smem_bytes: 0,
        max_registers: 32,
        spill_limit: 0,
        public_pointers: &[],
        takes_tickets: false,
        opcodes: Some(opcodes),
    }
}

/// A copy of the tiny crate that a test may edit, and a folder for what is built from it. The compiled `core` stays
/// there between runs of the tests.
struct Tiny {
    source: PathBuf,
    out: PathBuf,
}

impl Tiny {
    fn new() -> io::Result<Tiny> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tiny");
        let there = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny");
        fs::create_dir_all(there.join("src"))?;
        for file in ["Cargo.toml", "src/lib.rs"] {
            fs::copy(here.join(file), there.join(file))?;
        }
        let out = there.join("out");
        let tiny = Tiny { source: there, out };
        for stale in ["out", "other", "cargo/assembled"] {
            let _ = fs::remove_dir_all(tiny.source.join(stale));
        }
        Ok(tiny)
    }

    fn build(&self, entries: &[Entry], line_tables: bool) -> Result<BuildReport, Error> {
        self.build_into(&self.out, entries, line_tables)
    }

    fn build_into(&self, out: &Path, entries: &[Entry], line_tables: bool) -> Result<BuildReport, Error> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let ptxas = Ptxas::find(&target).expect("ptxas: run `cargo xtask setup`");
        Builder::new(&self.source, out)
            .target_dir(Some(self.source.join("cargo")))
            .line_tables(line_tables)
            .ptxas(Some(ptxas))
            .build(entries)
    }

    fn edit(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.source.join("src/lib.rs");
        let text = fs::read_to_string(&file)?;
        assert!(text.contains(from));
        fs::write(&file, text.replace(from, to))
    }
}

/// Names of the kernels that ptxas had to assemble.
fn assembled(report: &BuildReport) -> Vec<&str> {
    let anew = report.artifacts.iter().filter(|artifact| artifact.ptxas_seconds.is_some());
    anew.map(|artifact| artifact.entry.symbol).collect()
}

/// One test, because all steps share a folder.
#[test]
fn from_source_to_checked_machine_code() {
    let tiny = Tiny::new().unwrap();

    let first = tiny.build(&[SCALE, SHIFT], false).unwrap();
    assert_eq!(assembled(&first), ["scale", "shift"]);
    for Artifact { entry, ptx, cubin, resources, .. } in &first.artifacts {
        assert!(fs::read_to_string(ptx).unwrap().contains(".maxntid 128, 1, 1"), "{}", entry.symbol);
        assert!(fs::read(cubin.as_ref().unwrap()).unwrap().starts_with(b"\x7fELF"), "{}", entry.symbol);
        assert!((1..=32).contains(&resources.unwrap().registers), "{}", entry.symbol);
    }

    let again = tiny.build(&[SCALE, SHIFT], false).unwrap();
    assert_eq!(assembled(&again), [""; 0]);
    assert_eq!(
        again.artifacts[1].resources, first.artifacts[1].resources,
        "facts of a fresh kernel are kept"
    );

    let elsewhere = tiny.build_into(&tiny.source.join("other"), &[SCALE, SHIFT], false).unwrap();
    assert_eq!(assembled(&elsewhere), [""; 0], "builds share what was assembled");
    let code = |report: &BuildReport| fs::read(report.artifacts[0].cubin.as_ref().unwrap()).unwrap();
    let before = code(&first);
    assert_eq!(code(&elsewhere), before);

    tiny.edit("FACTOR: u32 = 3", "FACTOR: u32 = 5").unwrap();
    let edited = tiny.build(&[SCALE, SHIFT], false).unwrap();
    assert_eq!(assembled(&edited), ["scale"], "the other kernel did not change");
    assert_ne!(code(&edited), before);

    let lines = tiny.build(&[SCALE, SHIFT], true).unwrap();
    let ptx = fs::read_to_string(&lines.artifacts[0].ptx).unwrap();
    assert!(ptx.contains("tiny/src/lib.rs") && ptx.contains(".loc"), "profilers see source lines");

    let error = tiny.build(&[SCALE, GATHER], true).unwrap_err();
    let Error::Gates { failures, .. } = &error else { panic!("a rule is broken: {error}") };
    let GateError::Lint(finding) = &failures[0] else { panic!("a lint is broken: {error}") };
    assert_eq!((finding.code, finding.kernel.as_deref()), (Code::S01, Some("gather")));
    let message = finding.to_string();
    assert!(message.contains("gather, PTX line ") && message.contains("tiny/src/lib.rs:"), "{message}");

    let shift = &lines.artifacts[1];
    assert!(!shift.ptx.exists() && !shift.cubin.as_ref().unwrap().exists(), "nobody asked for it any more");

    tiny.edit("FACTOR: u32 = 5", "FACTOR: u32 = 5.0").unwrap();
    let error = tiny.build(&[SCALE], false).unwrap_err();
    assert!(
        matches!(error, Error::Compile { .. }) && error.to_string().contains("mismatched types"),
        "{error}"
    );
}
