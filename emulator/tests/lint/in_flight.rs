//! S02

use flashcore_emulator::Level;
use flashcore_emulator::lint::Config;

use crate::{body, found};

const FENCE: &str = "wgmma.fence.sync.aligned;\n";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;\n";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;\n";
/// Accumulates in r0 to r3.
const PRODUCT: &str =
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {r0, r1, r2, r3}, d0, d1, p0, 1, 1, 0, 0;\n";
/// Accumulates in r4 to r7.
const OTHER: &str =
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {r4, r5, r6, r7}, d0, d1, p0, 1, 1, 0, 0;\n";
/// Accumulates in r4 to r7, A in r8 to r11.
const FROM_REGISTERS: &str = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {r4, r5, r6, r7}, {r8, r9, r10, r11}, d1, p0, 1, 1, 0;\n";

fn of(parts: &[&str]) -> Vec<String> {
    found(&parts.concat())
}

#[test]
fn an_accumulator_belongs_to_the_product_until_the_wait() {
    assert_eq!(of(&[FENCE, PRODUCT, COMMIT, WAIT, "add.s32 r20, r1, r2;"]), [""; 0]);
    assert_eq!(of(&[FENCE, PRODUCT, COMMIT, "add.s32 r20, r1, r2;\n", WAIT]), ["S02 4<2"]);
    assert_eq!(of(&[FENCE, PRODUCT, "mov.b32 r2, 0;\n", COMMIT, WAIT]), ["S02 3<2"]);
    assert_eq!(of(&[FENCE, PRODUCT, COMMIT, "@p1 mov.b32 r20, r3;\n", WAIT]), ["S02 4<2"]);
    assert_eq!(of(&[FENCE, PRODUCT, COMMIT, "add.s32 r20, r4, r5;\n", WAIT]), [""; 0], "other registers");
}

#[test]
fn a_wait_covers_all_but_the_youngest_groups() {
    let wait = "wgmma.wait_group.sync.aligned 1;\n";
    assert_eq!(of(&[FENCE, PRODUCT, COMMIT, OTHER, COMMIT, wait, "mov.b32 r20, r0;\n", WAIT]), [""; 0]);
    assert_eq!(of(&[FENCE, OTHER, COMMIT, PRODUCT, COMMIT, wait, "mov.b32 r20, r0;\n", WAIT]), ["S02 7<4"]);
    assert_eq!(
        of(&[FENCE, PRODUCT, COMMIT, COMMIT, wait, "mov.b32 r20, r0;\n", WAIT]),
        [""; 0],
        "an empty group counts"
    );
}

#[test]
fn registers_of_a_may_be_read_but_not_written() {
    let read = [FENCE, FROM_REGISTERS, COMMIT, "mov.b32 r20, r8;\n", WAIT].concat();
    let findings = body(&read, &Config::default());
    assert_eq!(findings.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Warn]);
    assert!(
        findings[0].message.contains("reads a register that a product in flight reads as A"),
        "{findings:?}"
    );
    assert_eq!(of(&[FENCE, FROM_REGISTERS, COMMIT, "mov.b32 r8, 0;\n", WAIT]), ["S02 4<2"]);
    let into_a = PRODUCT.replace("r0, r1, r2, r3", "r8, r9, r10, r11");
    assert_eq!(of(&[FENCE, FROM_REGISTERS, &into_a, COMMIT, WAIT]), ["S02 3<2"], "another product writes A");
}

#[test]
fn products_of_one_shape_may_follow_each_other() {
    assert_eq!(of(&[FENCE, PRODUCT, PRODUCT, COMMIT, PRODUCT, COMMIT, WAIT, PRODUCT, COMMIT, WAIT]), [""; 0]);
    let wider =
        PRODUCT.replace("n8k16", "n16k16").replace("r0, r1, r2, r3", "r0, r1, r2, r3, r12, r13, r14, r15");
    assert_eq!(of(&[FENCE, PRODUCT, &wider, COMMIT, WAIT]), ["S02 3<2"]);
    assert_eq!(
        of(&[FENCE, PRODUCT, COMMIT, WAIT, &wider, COMMIT, WAIT]),
        ["S02 5<2"],
        "a fence between is missing"
    );
    assert_eq!(of(&[FENCE, PRODUCT, COMMIT, WAIT, FENCE, &wider, COMMIT, WAIT]), [""; 0]);
    let reads = FROM_REGISTERS.replace("r8, r9, r10, r11", "r0, r1, r2, r3");
    assert_eq!(
        of(&[FENCE, PRODUCT, &reads, COMMIT, WAIT]),
        ["S02 3<2"],
        "a product reads the accumulator as A"
    );
}

#[test]
fn registers_that_are_written_need_a_fence() {
    assert_eq!(of(&[PRODUCT, COMMIT, WAIT]), ["S02 1"], "the first product needs one anyway");
    assert_eq!(of(&[FENCE, "mov.b32 r0, 0;\n", PRODUCT, COMMIT, WAIT]), ["S02 3<2"]);
    assert_eq!(of(&["mov.b32 r0, 0;\n", FENCE, PRODUCT, COMMIT, WAIT]), [""; 0]);
    assert_eq!(of(&[FENCE, "mov.b32 r9, 0;\n", FROM_REGISTERS, COMMIT, WAIT]), ["S02 3<2"], "A, too");
    let read = [FENCE, PRODUCT, COMMIT, WAIT, "mov.b32 r20, r0;\n", PRODUCT, COMMIT, WAIT].concat();
    let findings = body(&read, &Config::default());
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].level, findings[0].message.contains("another instruction reads")),
        (Level::Warn, true)
    );
}

#[test]
fn products_must_be_committed() {
    assert_eq!(of(&[FENCE, PRODUCT, WAIT, COMMIT]), ["S02 3<2"]);
    assert_eq!(of(&[FENCE, PRODUCT, "ret;\n"]), ["S02 3<2"]);
    assert_eq!(of(&[FENCE, PRODUCT, COMMIT, "ret;\n"]), [""; 0], "nobody needs the result");
}

#[test]
fn any_path_counts() {
    let skipped = [FENCE, PRODUCT, COMMIT, "@p1 bra JOIN;\n", WAIT, "JOIN:\nmov.b32 r20, r0;\n"];
    assert_eq!(of(&skipped), ["S02 7<2"], "one path has not waited");
    let apart =
        [FENCE, PRODUCT, COMMIT, "bra END;\nOTHER: mov.b32 r20, r0;\n", WAIT, "END:", WAIT, "bra OTHER;\n"];
    assert_eq!(of(&apart), [""; 0]);
    let spin = "SPIN: mbarrier.try_wait.parity.shared::cta.b64 p1, [smem], r20;\n@!p1 bra SPIN;\n";
    assert_eq!(of(&[FENCE, PRODUCT, COMMIT, spin, "mov.b32 r21, r0;\n", WAIT]), ["S02 6<2"]);
    let fence_skipped = ["@p1 bra L;\n", FENCE, "L:", PRODUCT, COMMIT, WAIT];
    assert_eq!(of(&fence_skipped), ["S02 3"]);
}

#[test]
fn the_second_turn_of_a_loop_counts() {
    // In the first turn nothing is in flight where r0 is read; in the second the product of the first is.
    let late = [FENCE, "LOOP: mov.b32 r20, r0;\n", FENCE, PRODUCT, COMMIT, "@p1 bra LOOP;\n", WAIT];
    assert_eq!(of(&late), ["S02 2<4"]);
    let in_time = [FENCE, "LOOP: mov.b32 r20, r0;\n", FENCE, PRODUCT, COMMIT, WAIT, "@p1 bra LOOP;\n"];
    assert_eq!(of(&in_time), [""; 0]);
    // A pipeline of two groups: the accumulators of the turn before are waited for.
    let pipeline = [
        FENCE,
        PRODUCT,
        COMMIT,
        "LOOP:",
        OTHER,
        COMMIT,
        "wgmma.wait_group.sync.aligned 1;\n",
        "mov.b32 r20, r0;\n",
        FENCE,
        PRODUCT,
        COMMIT,
        "wgmma.wait_group.sync.aligned 1;\n",
        "mov.b32 r20, r4;\n",
        FENCE,
        "@p1 bra LOOP;\n",
        WAIT,
    ];
    assert_eq!(of(&pipeline), [""; 0]);
}
