//! The command `flashcore-emu`.

use std::process::{Command, Output};

fn emu(args: &[&str]) -> Output {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels");
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashcore-emu"));
    command.current_dir(folder).args(args).output().expect("the command can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_correct_kernel_runs() {
    let output = emu(&["run", "clean/tma_ring.ptx", "--seeds", "3", "--completion", "all"]);
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}{}", text(&output.stderr));
    for line in
        ["0 errors, 0 warnings; ran to its end", "tma_ring in all 9 runs together:", "argument 1: 1536 bytes"]
    {
        assert!(told.contains(line), "`{line}` is missing:\n{told}");
    }
    let loads = told.lines().find(|line| line.contains("bytes of bulk loads")).expect("a line about loads");
    assert!(loads.ends_with(&(9 * 1536).to_string()), "{loads}");
}

#[test]
fn outputs_do_not_depend_on_the_order_of_events() {
    let hash = |args: &[&str]| {
        let told = text(&emu(&[&["run", "clean/wgmma_ss_pipeline.ptx"], args].concat()).stdout);
        told.lines().last().expect("a line about the output").to_owned()
    };
    let first = hash(&[]);
    assert!(first.starts_with("argument 2: 6144 bytes, hash "), "{first}");
    assert_eq!(first, hash(&["--completion", "eager", "--numerics", "exact"]));
    assert_ne!(first, hash(&["--seed", "1"]), "another seed gives other inputs");
}

#[test]
fn a_defect_is_told_and_fails() {
    let output = emu(&["run", "defects/E03_store_without_fence.ptx"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("error[E03 proxy-raw]"), "{}", text(&output.stdout));
}

#[test]
fn findings_are_json_too() {
    let output = emu(&["run", "defects/E03_store_without_fence.ptx", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["findings"][0]["code"], "E03");
    assert_eq!(told["completed"], true);
    assert_eq!(told["counters"]["bulk_store_bytes"], 256);
    assert_eq!(told["outputs"][0]["argument"], 1);
}

#[test]
fn options_override_the_comment_of_the_file() {
    let output = emu(&["run", "clean/tma_ring.ptx", "--block", "128"]);
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    assert!(told.contains("128 threads in a CTA, but the kernel is for at most [96, 1, 1]"), "{told}");
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    for (args, wanted) in [
        (&["run", "absent.ptx"][..], "cannot read absent.ptx"),
        (&["run", "clean/tma_ring.ptx", "--entry", "other"], "no kernel `other` in the file, only tma_ring"),
        (&["run", "clean/tma_ring.ptx", "--arg", "u33:5"], "`u33` is no kind of argument"),
        (&["run", "clean/tma_ring.ptx", "--arg", "u32:x"], "`x` is not a u32"),
        (&["run", "clean/tma_ring.ptx", "--arg", "out:0"], "`0` is not a number of at least one"),
        (&["run", "clean/tma_ring.ptx", "--arg", "map:f16:8x4:box=8x4"], "argument 0: "),
        (&["run", "clean/tma_ring.ptx", "--arg", "map:f16:8x8:cube=8"], "`cube=8` is not box="),
        (&["run", "clean/tma_ring.ptx", "--grid", "1,1,1,1"], "4 numbers, at most 3 are possible"),
        (&["run", "clean/tma_ring.ptx", "--seeds", "0"], "--seeds 0 runs nothing"),
        (&["run", "corpus.rs"], "corpus.rs: "),
    ] {
        let output = emu(args);
        let told = text(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(wanted), "{args:?}:\n{told}");
    }
}

#[test]
fn lints_are_told() {
    let clean = emu(&["lint", "clean/wgmma_rs_pipeline.ptx"]);
    assert!(clean.status.success(), "{}", text(&clean.stdout));
    assert_eq!(text(&clean.stdout), "0 errors, 0 warnings\n");

    let defect = emu(&["lint", "defects/E08_a_overwritten.ptx", "--json"]);
    assert_eq!(defect.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&defect.stdout).expect("JSON");
    assert_eq!(told[0]["code"], "S02");
}

#[test]
fn help_has_examples() {
    for command in ["run", "lint"] {
        assert!(text(&emu(&[command, "--help"]).stdout).contains("Examples:"));
    }
}
