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

#[test]
fn lanes_of_the_same_number_agree() {
    let told = "shfl.sync.idx.b32 r1, r1, 31, 31, -1; setp.eq.s32 p0, r1, 0;";
    let ballot = "setp.lt.u32 p1, r1, 9; vote.sync.ballot.b32 r2, p1, -1; setp.eq.s32 p0, r2, 5;";
    let least = "redux.sync.min.s32 r2, r1, -1; setp.eq.s32 p0, r2, 5;";
    for alike in [
        "mov.u32 r1, %laneid;",
        "mov.u32 r0, %laneid; ld.param.b32 r2, [n]; add.s32 r1, r0, r2;",
        "mov.u32 r0, %laneid; shfl.sync.up.b32 r1, r0, 1, 0, -1;",
        "mov.u32 r0, %laneid; mov.u32 r2, %tid.x; shr.u32 r2, r2, 7; add.s32 r1, r0, r2;",
    ] {
        for to_warp in [told, ballot, least] {
            let condition = format!("{alike} {to_warp}");
            assert_eq!(
                under(&condition, FENCE),
                [""; 0],
                "{condition}: every warp of a warpgroup learns the same"
            );
        }
        let itself = format!("{alike} setp.lt.u32 p0, r1, 9;");
        assert_eq!(under(&itself, SHUFFLE), ["S04 3<2"], "{itself}: lanes differ");
        assert_eq!(under(&itself, FENCE), ["S04 3<2"], "{itself}: lanes differ");
    }
    for differs in [
        "mov.u32 r1, %tid.x;",
        "mov.u32 r0, %laneid; mov.u32 r2, %warpid; add.s32 r1, r0, r2;",
        "mov.u32 r0, %laneid; ld.shared.b32 r2, [smem]; add.s32 r1, r0, r2;",
    ] {
        for to_warp in [told, ballot, least] {
            let condition = format!("{differs} {to_warp}");
            assert_eq!(under(&condition, SHUFFLE), [""; 0], "{condition}: a warp agrees");
            assert_eq!(under(&condition, FENCE), ["S04 3<2"], "{condition}: warps may not");
        }
    }
    let narrow = "mov.u32 r1, %laneid; shfl.sync.idx.b32 r1, r1, 0, 0x181f, -1; setp.eq.s32 p0, r1, 0;";
    assert_eq!(under(narrow, SHUFFLE), ["S04 3<2"], "each eight lanes learn from one of their own");
}

#[test]
fn what_nobody_writes_is_the_same_for_all_warps() {
    let load = |modifier: &str, address: &str| {
        format!(
            "ld.param.u64 d0, [lengths]; {address} ld.global{modifier}.b32 r1, [d0]; \
             shfl.sync.idx.b32 r1, r1, 0, 31, -1; setp.eq.s32 p0, r1, 0;"
        )
    };
    let of_lane = "mov.u32 r0, %laneid; mul.wide.u32 d1, r0, 4; add.s64 d0, d0, d1;";
    let of_warp = "mov.u32 r0, %warpid; mul.wide.u32 d1, r0, 4; add.s64 d0, d0, d1;";
    for address in ["", of_lane] {
        assert_eq!(under(&load(".nc", address), FENCE), [""; 0], "{address}");
        assert_eq!(
            under(&load("", address), FENCE),
            ["S04 3<2"],
            "{address}: warps may see different moments"
        );
    }
    assert_eq!(under(&load(".nc", of_warp), FENCE), ["S04 3<2"], "each warp loads another number");
    assert_eq!(under(&load(".nc", of_warp), SHUFFLE), [""; 0]);
}
