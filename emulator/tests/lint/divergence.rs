//! S04

use crate::found;

const SHUFFLE: &str = "shfl.sync.bfly.b32 r10, r11, 1, 31, -1;\n";
const FENCE: &str = "wgmma.fence.sync.aligned;\n";

/// `guarded` runs where `condition` sets p0; line 1 is the condition.
fn under(condition: &str, guarded: &str) -> Vec<String> {
    let condition = condition.replace('\n', " ");
    found(&format!("{condition}\n@!p0 bra OVER;\n{guarded}OVER: ret;"))
}

#[test]
fn lanes_may_not_part() {
    assert_eq!(under("mov.u32 r0, %tid.x; setp.eq.s32 p0, r0, 0;", SHUFFLE), ["S04 3<2"]);
    assert_eq!(under("mov.u32 r0, %laneid; setp.lt.u32 p0, r0, 32;", SHUFFLE), ["S04 3<2"]);
    assert_eq!(
        under("elect.sync _|p0, -1;", "stmatrix.sync.aligned.m8n8.x1.shared.b16 [r1], r2;\n"),
        ["S04 3<2"]
    );
    assert_eq!(
        under("mov.u32 r0, %tid.x; shr.u32 r0, r0, 4; setp.eq.s32 p0, r0, 0;", "bar.sync 0;\n"),
        ["S04 3<2"]
    );
    assert_eq!(
        under(
            "ld.global.b32 r0, [d0]; add.s32 r0, r0, r1; mov.u32 r1, %tid.y; setp.eq.s32 p0, r0, r1;",
            SHUFFLE
        ),
        [""; 0],
        "in one dimension all %tid.y are 0"
    );
    assert_eq!(
        found("mov.u32 r0, %tid.x;\nsetp.eq.s32 p0, r0, 0;\n@p0 bar.sync 0;"),
        ["S04 3<3"],
        "its own guard"
    );
}

#[test]
fn warps_may_part_where_warps_are_asked_for() {
    for condition in [
        "ld.param.b32 r0, [n]; setp.eq.s32 p0, r0, 0;",
        "mov.u32 r0, %ctaid.x; setp.eq.s32 p0, r0, 0;",
        "mov.u32 r0, %warpid; setp.eq.s32 p0, r0, 0;",
        "mov.u32 r0, %tid.x; shr.u32 r0, r0, 3; shr.u32 r0, r0, 2; setp.eq.s32 p0, r0, 0;",
        "mov.u32 r0, %tid.x; and.b32 r0, r0, -32; setp.eq.s32 p0, r0, 0;",
        "mov.u32 r0, %tid.x; bfe.u32 r0, r0, 5, 2; setp.eq.s32 p0, r0, 0;",
        "mov.u32 r0, %tid.x; setp.lt.u32 p0, r0, 96;",
        "mov.u32 r0, %tid.x; setp.gt.u32 p0, r0, 31;",
        "mov.u32 r0, %tid.x; shfl.sync.idx.b32 r0, r0, 0, 31, -1; setp.eq.s32 p0, r0, 0;",
        "vote.sync.any.pred p0, p1, -1;",
        "ld.shared.b32 r0, [smem]; setp.eq.s32 p0, r0, 0;",
    ] {
        assert_eq!(under(condition, SHUFFLE), [""; 0], "{condition}");
    }
}

#[test]
fn products_need_whole_warpgroups() {
    let warps = "mov.u32 r0, %tid.x; shr.u32 r0, r0, 5; setp.eq.s32 p0, r0, 0;";
    assert_eq!(under(warps, FENCE), ["S04 3<2"]);
    assert_eq!(under(warps, "setmaxnreg.dec.sync.aligned.u32 40;\n"), ["S04 3<2"]);
    for condition in [
        "mov.u32 r0, %tid.x; shr.u32 r0, r0, 7; shfl.sync.idx.b32 r0, r0, 0, 31, -1; setp.eq.s32 p0, r0, 0;",
        "mov.u32 r0, %tid.x; setp.ge.u32 p0, r0, 128;",
        "ld.param.b32 r0, [n]; setp.eq.s32 p0, r0, 0;",
    ] {
        assert_eq!(under(condition, FENCE), [""; 0], "{condition}");
    }
}

#[test]
fn lanes_meet_again_behind_a_branch_and_a_loop() {
    let odd = "mov.u32 r0, %tid.x;\nsetp.eq.s32 p0, r0, 0;\n";
    assert_eq!(found(&format!("{odd}@p0 bra MEET;\nmov.b32 r5, 1;\nMEET: {SHUFFLE}")), [""; 0]);
    assert_eq!(
        found(&format!("{odd}LOOP: add.s32 r0, r0, 1;\nsetp.lt.s32 p1, r0, 9;\n@p1 bra LOOP;\n{SHUFFLE}")),
        [""; 0]
    );
    assert_eq!(
        found(&format!("{odd}LOOP: {SHUFFLE}\nadd.s32 r0, r0, 1;\nsetp.lt.s32 p1, r0, 9;\n@p1 bra LOOP;")),
        ["S04 3<7"]
    );
    assert_eq!(found(&format!("{odd}@p0 ret;\n{SHUFFLE}")), ["S04 4<3"], "who has left does not come back");
}

#[test]
fn what_is_written_on_one_way_differs_behind_it() {
    let text = format!(
        "mov.u32 r0, %tid.x;\nsetp.eq.s32 p0, r0, 0;\nmov.b32 r5, 0;\n@p0 bra MEET;\nmov.b32 r5, 1;\nMEET:\n\
         setp.eq.s32 p1, r5, 0;\n@p1 bra OVER;\n{SHUFFLE}OVER: ret;"
    );
    assert_eq!(found(&text), ["S04 9<8"]);
    let count = format!(
        "mov.u32 r0, %tid.x;\nLOOP: add.s32 r5, r5, 1;\nadd.s32 r0, r0, 1;\nsetp.lt.s32 p1, r0, 9;\n@p1 bra LOOP;\n\
         setp.eq.s32 p0, r5, 3;\n@p0 bra OVER;\n{SHUFFLE}OVER: ret;"
    );
    assert_eq!(found(&count), ["S04 8<7"], "lanes leave a loop after different turns");
}

#[test]
fn masks_that_leave_lanes_out_say_who_takes_part() {
    let lane = "mov.u32 r0, %laneid; setp.lt.u32 p0, r0, 16;";
    assert_eq!(under(lane, "bar.warp.sync 0xFFFF;\n"), [""; 0]);
    assert_eq!(under(lane, "activemask.b32 r3;\nshfl.sync.bfly.b32 r10, r11, 1, 31, r3;\n"), [""; 0]);
    assert_eq!(under(lane, "barrier.sync 1, 64;\n"), [""; 0], "it is not .aligned");
    assert_eq!(under(lane, "barrier.sync.aligned 1, 64;\n"), ["S04 3<2"]);
    assert_eq!(under(lane, "bar.warp.sync -1;\n"), ["S04 3<2"]);
}

#[test]
fn code_that_no_path_leads_to_is_left_alone() {
    assert_eq!(
        found(&format!("mov.u32 r0, %tid.x;\nsetp.eq.s32 p0, r0, 0;\nret;\n@p0 bra L;\n{SHUFFLE}L: ret;")),
        [""; 0]
    );
}
