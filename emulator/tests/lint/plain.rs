//! S01, S03, S05, S07, S08 and S10; and how findings look.

use std::collections::BTreeSet;

use flashcore_emulator::Level;
use flashcore_emulator::ir::Module;
use flashcore_emulator::lint::{self, Code, Config};

use crate::{body, check, found, lines};

#[test]
fn a_sound_kernel_has_no_finding() {
    let config = Config { constant_time: true, ..Config::default() };
    assert_eq!(check(include_str!("../ptx/pipeline.ptx"), &config), []);
}

#[test]
fn local_memory_is_found() {
    assert_eq!(
        found(
            ".local .align 8 .b8 depot[16];\nmov.b64 d0, depot;\nst.local.b32 [d0], 1;\nld.local.b32 r0, [d0];"
        ),
        ["S01 3"]
    );
    assert_eq!(found(".local .align 8 .b8 depot[16];"), ["S01 "], "declared, if not used");
    assert_eq!(found("cvta.local.u64 d0, d1;"), ["S01 1"]);
    assert_eq!(found("st.shared.b32 [smem], 1;"), [""; 0]);
}

#[test]
fn setmaxnreg_needs_a_known_number_of_registers() {
    let kernel = |directives: &str| {
        format!(
            ".version 8.0\n.target sm_90a\n.entry k() {directives}\n{{\nsetmaxnreg.inc.sync.aligned.u32 240;\n}}\n"
        )
    };
    let codes = |directives: &str| {
        check(&kernel(directives), &Config::default()).iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    assert_eq!(codes(""), [Code::S03]);
    assert_eq!(codes(".minnctapersm 1"), [Code::S03]);
    for directives in [".maxntid 384", ".reqntid 384, 1, 1", ".maxnreg 168"] {
        assert_eq!(codes(directives), [], "{directives}");
    }
}

#[test]
fn slow_arithmetic_is_found() {
    let levels =
        |text: &str| body(text, &Config::default()).iter().map(|f| (f.code, f.level)).collect::<Vec<_>>();
    for exact in
        ["rcp.rn.f32 r0, r1;", "sqrt.rz.ftz.f32 r0, r1;", "div.rn.f32 r0, r1, r2;", "rcp.rn.f64 d0, d1;"]
    {
        assert_eq!(levels(exact), [(Code::S05, Level::Deny)], "{exact}");
    }
    for subnormal in
        ["rcp.approx.f32 r0, r1;", "add.f32 r0, r1, r2;", "ex2.approx.f32 r0, r1;", "max.f32 r0, r1, r2;"]
    {
        assert_eq!(levels(subnormal), [(Code::S05, Level::Warn)], "{subnormal}");
    }
    for fine in [
        "rcp.approx.ftz.f32 r0, r1;",
        "fma.rn.ftz.f32 r0, r1, r2, r3;",
        "setp.lt.f32 p0, r0, r1;",
        "add.f64 d0, d1, d2;",
        "fma.rn.f16x2 r0, r1, r2, r3;",
        "div.u32 r0, r1, r2;",
    ] {
        assert_eq!(levels(fine), [], "{fine}");
    }
}

#[test]
fn version_and_target_are_those_asked_for() {
    let messages = |version: &str, target: &str| {
        let text = format!(".version {version}\n.target {target}\n.entry k() {{}}\n");
        check(&text, &Config::default()).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(messages("8.0", "sm_90a"), [""; 0]);
    assert_eq!(messages("9.1", "sm_90a"), [""; 0]);
    assert_eq!(messages("7.8", "sm_90a"), ["error[S07 version-or-target]: .version 7.8 is older than 8.0"]);
    assert_eq!(messages("8.0", "sm_90"), ["error[S07 version-or-target]: .target is sm_90, not sm_90a"]);
}

#[test]
fn opcodes_are_counted_and_may_be_restricted() {
    let text = "mov.u32 r0, smem;\nbar.sync 0;\nbar.sync 0;\nsetmaxnreg.dec.sync.aligned.u32 24;";
    let module = Module::parse(&format!("{}{text}\n}}\n", crate::HEAD)).expect("it parses");
    let counts: Vec<_> = lint::opcodes(&module.kernels[0]).into_iter().collect();
    assert_eq!(counts, [("bar.sync", 2), ("mov", 1), ("ret", 1), ("setmaxnreg.dec", 1)]);
    let allowed = ["mov", "bar.sync", "ret"].map(str::to_owned);
    let config = Config { opcodes: Some(BTreeSet::from(allowed)), ..Config::default() };
    assert_eq!(lines(text, &config), ["S08 4"]);
    assert_eq!(lines("mov.u32 r0, smem;", &config), [""; 0]);
}

#[test]
fn what_is_allowed_is_not_reported() {
    let config = Config { allow: BTreeSet::from([Code::S05]), ..Config::default() };
    assert_eq!(lines("rcp.rn.f32 r0, r1;\nbar.sync 16;", &config), ["S09 2"]);
}

#[test]
fn findings_look_like_those_of_a_compiler() {
    let text = ".version 8.0\n.target sm_90a\n.file 1 \"src/kernel.rs\"\n.entry k()\n{\n.reg .pred p; .reg .b32 r;\n\
        mov.u32 r, %tid.x; setp.eq.s32 p, r, 0;\n.loc 1 40 5\n@p bra OVER;\n.loc 1 42 9\nbar.sync 0;\nOVER: ret;\n}\n";
    let findings = check(text, &Config::default());
    let text: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "error[S04 aligned-divergent]: bar.sync is for all lanes of a warp together, but lanes of a warp may have \
          parted\n  --> k, PTX line 11 (src/kernel.rs:42)\n  because of PTX line 9 (src/kernel.rs:40)"
        ]
    );
    assert!(Code::ALL.windows(2).all(|pair| pair[0] < pair[1] && pair[0].name() != pair[1].name()));
}

const LOG: &str = "\
    ptxas info    : 0 bytes gmem\n\
    ptxas info    : Compiling entry function 'attention' for 'sm_90a'\n\
    ptxas info    : Function properties for attention\n    \
        0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
    ptxas info    : Used 168 registers, used 16 barriers\n";

#[test]
fn ptxas_may_not_spill_or_weaken() {
    assert_eq!(lint::ptxas_log(LOG, 0), []);
    let messages = |log: &str| lint::ptxas_log(log, 0).iter().map(ToString::to_string).collect::<Vec<_>>();
    let spills = LOG
        .replace("0 bytes stack frame, 0 bytes spill stores", "8 bytes stack frame, 16 bytes spill stores");
    assert_eq!(
        messages(&spills),
        ["error[S10 ptxas]: a stack frame of 8 bytes, 16 bytes of spill stores, 0 of loads\n  --> attention"]
    );
    let serialised =
        "ptxas info    : (C7519) Potential Performance Loss: wgmma.mma_async instructions are serialized\n";
    let found = messages(&format!("{LOG}{serialised}"));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("(C7519)"), "{found:?}");
}
