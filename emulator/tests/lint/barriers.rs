//! S09

use crate::found;

#[test]
fn numbers_and_counts_are_in_range() {
    assert_eq!(found("bar.sync 15, 256;\nbar.arrive 1, 64;\nbar.sync 1, 64;\nbar.sync 0;"), [""; 0]);
    assert_eq!(found("bar.sync 16;"), ["S09 1"]);
    assert_eq!(found("bar.sync 1, 48;"), ["S09 1"]);
    assert_eq!(found("bar.sync 1, 0;"), ["S09 1"]);
    assert_eq!(found("bar.sync 1, 288;"), ["S09 1"], "a CTA has at most 256 threads");
    assert_eq!(found("mov.b32 r0, 64;\nbar.sync 1, r0;"), ["S09 2"]);
}

#[test]
fn all_users_of_a_barrier_agree() {
    assert_eq!(found("bar.arrive 1, 64;\nbar.sync 1, 96;"), ["S09 2<1"]);
    assert_eq!(found("bar.arrive 1, 64;\nbar.sync 2, 96;"), [""; 0]);
}

#[test]
fn a_warp_agrees_about_the_number() {
    assert_eq!(found("mov.u32 r0, %tid.x;\nshr.u32 r0, r0, 7;\nbar.sync r0, 128;"), [""; 0]);
    assert_eq!(found("mov.u32 r0, %tid.x;\nshr.u32 r0, r0, 4;\nbar.sync r0, 128;"), ["S09 3"]);
}
