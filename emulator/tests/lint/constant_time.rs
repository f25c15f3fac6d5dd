//! S06

use std::collections::BTreeSet;

use flashcore_emulator::lint::Config;

use crate::{found, lines};

fn config() -> Config {
    Config { constant_time: true, ..Config::default() }
}

fn leaks(text: &str) -> Vec<String> {
    lines(text, &config())
}

/// Loads data to r0 in line 2.
const LOAD: &str = "ld.param.u64 d0, [in];\nld.global.b32 r0, [d0];\n";

#[test]
fn it_is_off_unless_asked_for() {
    let text = format!("{LOAD}setp.eq.s32 p0, r0, 0;\n@p0 trap;");
    assert_eq!(found(&text), [""; 0]);
    assert_eq!(leaks(&text), ["S06 4<2"]);
}

#[test]
fn data_may_not_decide_what_is_done() {
    for (what, expected) in [
        ("setp.eq.s32 p0, r0, 0;\n@p0 bra L;\nL: ret;", "S06 4<2"),
        ("setp.eq.s32 p0, r0, 0;\n@!p0 st.global.b32 [d0], r1;", "S06 4<2"),
        ("setp.eq.s32 p0, r0, 0;\n@!p0 ret;", "S06 4<2"),
        ("cvt.u64.u32 d1, r0;\nld.global.b32 r1, [d1];", "S06 4<2"),
        ("cvt.u64.u32 d1, r0;\nst.global.b32 [d1], 1;", "S06 4<2"),
        ("shl.b32 r1, r0, 2;\nld.shared.b32 r2, [r1];", "S06 4<2"),
        ("shfl.sync.bfly.b32 r1, r0, 1, 31, -1;\nshfl.sync.idx.b32 r2, r3, r1, 31, -1;", "S06 4<2"),
        ("mov.b32 r1, r0;\nbar.sync r1, 32;", "S06 4<2"),
        ("mov.b32 r1, r0;\nmbarrier.try_wait.parity.shared::cta.b64 p0, [smem], r1;", "S06 4<2"),
        ("mov.b32 r1, r0;\ncp.async.bulk.prefetch.tensor.1d.L2.global [d0, {r1}];", "S06 4<2"),
        ("mov.b32 r1, r0;\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [smem], r1;", "S06 4<2"),
        ("vote.sync.ballot.b32 r1, p1, -1;\nprefetch.global.L2 [d0];", ""),
    ] {
        let expected: Vec<_> = Some(expected).filter(|e| !e.is_empty()).into_iter().collect();
        assert_eq!(leaks(&format!("{LOAD}{what}")), expected, "{what}");
    }
}

#[test]
fn data_may_be_chosen_between_and_computed_with() {
    let text = format!(
        "{LOAD}setp.lt.s32 p0, r0, 9;\nselp.b32 r1, r0, 7, p0;\n@p0 mov.b32 r1, 3;\nmin.s32 r2, r1, r0;\n\
         shfl.sync.bfly.b32 r3, r2, 1, 31, -1;\nst.global.b32 [d0], r3;\nst.shared.b32 [smem], r2;"
    );
    assert_eq!(leaks(&text), [""; 0]);
    let chosen =
        format!("{LOAD}setp.lt.s32 p0, r0, 9;\nmov.b32 r1, 3;\n@p0 mov.b32 r1, 4;\nst.shared.b32 [r1], r2;");
    assert_eq!(leaks(&chosen), ["S06 6<2"], "which constant is left depends on data");
}

#[test]
fn data_passes_through_shared_memory_and_products() {
    let through = "st.shared.b32 [smem], r0;\nld.shared.b32 r1, [smem+4];\nbar.sync r1, 32;";
    assert_eq!(leaks(&format!("{LOAD}{through}")), ["S06 5<2"]);
    assert_eq!(leaks("st.shared.b32 [smem], 1;\nld.shared.b32 r1, [smem];\nbar.sync r1, 32;"), [""; 0]);
    let copied = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [r1], [d0], 64, [r2];\n\
        ld.shared.b32 r3, [smem];\nprefetch.global.L2 [d1];\nld.shared.b32 r4, [r3];";
    assert_eq!(leaks(copied), ["S06 4<1"]);
    let product = "wgmma.fence.sync.aligned;\n\
        wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {r0, r1, r2, r3}, d0, d1, p0, 1, 1, 0, 0;\n\
        wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n\
        setp.eq.s32 p1, r0, 0;\n@p1 bra L;\nL: ret;";
    assert_eq!(leaks(product), ["S06 6<2"]);
    let descriptor = "ld.global.b64 d1, [d0];\nwgmma.fence.sync.aligned;\n\
        wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {r0, r1, r2, r3}, d1, d2, p0, 1, 1, 0, 0;\n\
        wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;";
    assert_eq!(leaks(descriptor), ["S06 3<1"]);
}

#[test]
fn shapes_are_public_and_waits_depend_on_time() {
    let shapes = "ld.param.b32 r0, [n];\nmov.u32 r1, %ctaid.x;\nsetp.lt.u32 p0, r1, r0;\n@!p0 bra L;\n\
        SPIN: mbarrier.try_wait.parity.shared::cta.b64 p1, [smem], 0;\n@!p1 bra SPIN;\nL: ret;";
    assert_eq!(leaks(shapes), [""; 0]);
}

#[test]
fn named_pointers_point_to_public_data() {
    let text = "ld.param.u64 d0, [lengths];\ncvta.to.global.u64 d1, d0;\nmov.u32 r0, %ctaid.x;\n\
        mul.wide.u32 d2, r0, 4;\nadd.s64 d3, d1, d2;\nld.global.b32 r1, [d3];\nsetp.eq.s32 p0, r1, 0;\n@p0 bra L;\nL: ret;";
    assert_eq!(leaks(text), ["S06 8<6"]);
    let public = Config { public_pointers: BTreeSet::from([8]), ..config() };
    assert_eq!(lines(text, &public), [""; 0], "`lengths` is the parameter at offset 8");
    let other = Config { public_pointers: BTreeSet::from([0]), ..config() };
    assert_eq!(lines(text, &other), ["S06 8<6"]);
    let either = text.replace("add.s64 d3, d1, d2;", "ld.param.u64 d4, [in]; selp.b64 d3, d1, d4, p7;");
    assert_eq!(lines(&either, &public), ["S06 8<6"], "it may be the other pointer");
    let both = Config { public_pointers: BTreeSet::from([0, 8]), ..config() };
    assert_eq!(lines(&either, &both), [""; 0], "whichever it is");
    let chosen_by_data = either
        .replace("mov.u32 r0", "mov.u64 d5, 64; ld.global.b32 r2, [d5]; setp.eq.s32 p7, r2, 0; mov.u32 r0");
    assert!(!lines(&chosen_by_data, &both).is_empty(), "which it is tells of data");
}

#[test]
fn public_data_may_be_loaded_as_what_nobody_writes() {
    let text = "ld.param.u64 d0, [lengths];\nmov.u32 r0, %laneid;\nmul.wide.u32 d1, r0, 4;\nadd.s64 d2, d0, d1;\n\
        ld.global.nc.b32 r1, [d2];\nsetp.eq.s32 p0, r1, 0;\n@p0 bra L;\nL: ret;";
    assert_eq!(leaks(text), ["S06 7<5"]);
    let public = Config { public_pointers: BTreeSet::from([8]), ..config() };
    assert_eq!(lines(text, &public), [""; 0]);
    // What lies there is public, but not what it points to.
    let pointed = "ld.param.u64 d0, [lengths];\nld.global.nc.b64 d1, [d0];\nld.global.nc.b32 r1, [d1];\n\
        setp.eq.s32 p0, r1, 0;\n@p0 bra L;\nL: ret;";
    assert_eq!(lines(pointed, &public), ["S06 5<3"]);
}
