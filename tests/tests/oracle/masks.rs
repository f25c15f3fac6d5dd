//! Masks, drawn: a line for each query, an `x` for each key that it sees.

use std::ops::Range;

use flashcore::Shape;
use flashcore_tests::oracle::{Align, Attention, Blocks, Broadcast, Mask, Position};
use flashcore_tests::values::Values;
use proptest::prelude::*;

/// Sequences of zeros.
fn zeros(batch: usize, heads: usize, seqlen_q: usize, seqlen_kv: usize) -> Attention {
    let values = |seqlen| Values::zeros(Shape { batch, seqlen, heads, head_dim: 1 });
    Attention::new(values(seqlen_q), values(seqlen_kv), values(seqlen_kv), 1.0)
}

fn drawn(a: &Attention, b: usize, h: usize) -> Vec<String> {
    let line = |s| {
        let mark = |key| if a.sees(Position { b, s, h }, key) { 'x' } else { '.' };
        (0..a.keys[b].len).map(mark).collect()
    };
    (0..a.queries[b].len).map(line).collect()
}

/// What `mask` shows of one sequence.
fn picture(mask: Mask, seqlen_q: usize, seqlen_kv: usize) -> Vec<String> {
    drawn(&Attention { mask, ..zeros(1, 1, seqlen_q, seqlen_kv) }, 0, 0)
}

#[test]
fn causal() {
    assert_eq!(picture(Mask::causal(), 3, 5), ["xxx..", "xxxx.", "xxxxx"]);
    assert_eq!(picture(Mask::causal(), 5, 3), ["...", "...", "x..", "xx.", "xxx"]);
    let top_left = Mask { align: Align::TopLeft, ..Mask::causal() };
    assert_eq!(picture(top_left.clone(), 3, 5), ["x....", "xx...", "xxx.."]);
    assert_eq!(picture(top_left, 5, 3), ["x..", "xx.", "xxx", "xxx", "xxx"]);
}

#[test]
fn windows() {
    assert_eq!(picture(Mask::window(Some(1), Some(0)), 4, 4), ["x...", "xx..", ".xx.", "..xx"]);
    assert_eq!(picture(Mask::window(Some(0), Some(0)), 3, 5), ["..x..", "...x.", "....x"]);
    assert_eq!(picture(Mask::window(Some(1), Some(2)), 3, 5), [".xxxx", "..xxx", "...xx"]);
    assert_eq!(picture(Mask::window(Some(1), None), 3, 4), ["xxxx", ".xxx", "..xx"]);
    assert_eq!(picture(Mask::window(None, Some(1)), 3, 2), ["x.", "xx", "xx"]);
    // Query 0 is two keys before the first one, and sees but one of them.
    assert_eq!(picture(Mask::window(Some(0), Some(2)), 4, 2), ["x.", "xx", "xx", ".x"]);
    let top_left = Mask { align: Align::TopLeft, ..Mask::window(Some(1), Some(1)) };
    assert_eq!(picture(top_left.clone(), 3, 5), ["xx...", "xxx..", ".xxx."]);
    assert_eq!(picture(top_left, 5, 2), ["xx", "xx", ".x", "..", ".."]);
}

#[test]
fn chunks() {
    let chunk = |n, mask| Mask { chunk: Some(n), ..mask };
    assert_eq!(picture(chunk(2, Mask::full()), 5, 5), ["xx...", "xx...", "..xx.", "..xx.", "....x"]);
    assert_eq!(picture(chunk(2, Mask::causal()), 5, 5), ["x....", "xx...", "..x..", "..xx.", "....x"]);
    // Query 0 is at key 2.
    assert_eq!(picture(chunk(3, Mask::full()), 3, 5), ["xxx..", "...xx", "...xx"]);
    // Queries 0 to 2 are at keys -3 to -1: in a chunk, but not in that of key 0.
    assert_eq!(picture(chunk(4, Mask::full()), 5, 2), ["..", "..", "..", "xx", "xx"]);
    let top_left = Mask { align: Align::TopLeft, ..chunk(2, Mask::causal()) };
    assert_eq!(picture(top_left, 3, 5), ["x....", "xx...", "..x.."]);
    assert_eq!(picture(chunk(3, Mask::window(Some(1), Some(1))), 4, 4), ["xx..", "xxx.", ".xx.", "...x"]);
}

#[test]
fn prefixes_widen_the_band_and_nothing_else() {
    let prefix = |keys, mask| Mask { prefix: Some(vec![keys]), ..mask };
    assert_eq!(picture(prefix(2, Mask::causal()), 4, 4), ["xx..", "xx..", "xxx.", "xxxx"]);
    assert_eq!(picture(prefix(1, Mask::window(Some(0), Some(0))), 4, 4), ["x...", "xx..", "x.x.", "x..x"]);
    // More than there are.
    assert_eq!(picture(prefix(9, Mask::causal()), 2, 2), ["xx", "xx"]);
    let chunked = Mask { chunk: Some(2), ..prefix(3, Mask::causal()) };
    assert_eq!(picture(chunked, 4, 4), ["xx..", "xx..", "..x.", "..xx"]);
    let a = Attention { mask: Mask { prefix: Some(vec![2, 0]), ..Mask::causal() }, ..zeros(2, 1, 2, 2) };
    assert_eq!([drawn(&a, 0, 0), drawn(&a, 1, 0)], [["xx", "xx"], ["x.", "xx"]]);
}

#[test]
fn ranges_belong_to_rows_of_q() {
    let reversed = Range { start: 3, end: 1 };
    let ranges = vec![0..2, 1..1, 2..9, reversed, 0..3, 1..2];
    let of = |ranges| Attention { mask: Mask { ranges: Some(ranges), ..Mask::full() }, ..zeros(2, 2, 3, 3) };
    let a = of(vec![ranges.clone()]);
    for h in 0..2 {
        assert_eq!([drawn(&a, 0, h), drawn(&a, 1, h)], [["xx.", "...", "..x"], ["...", "xxx", ".x."]]);
    }
    let a = of(vec![ranges, vec![1..3; 6]]);
    assert_eq!([drawn(&a, 0, 0), drawn(&a, 0, 1)], [["xx.", "...", "..x"], [".xx"; 3]]);
    let causal = Mask { ranges: Some(vec![vec![0..9, 1..9, 1..2]]), ..Mask::causal() };
    assert_eq!(picture(causal, 3, 3), ["x..", ".x.", ".x."]);
}

#[test]
fn tiles_of_each_sequence_and_head() {
    // Tiles of 2 queries and 3 keys, two of each.
    let bits = [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]].concat();
    let visible = Broadcast::new([2, 2, 2, 2], bits.into_iter().map(|bit| bit == 1).collect());
    let blocks = Blocks { block_q: 2, block_kv: 3, visible };
    let a = Attention { mask: Mask { blocks: Some(blocks), ..Mask::full() }, ..zeros(2, 2, 3, 4) };
    assert_eq!(drawn(&a, 0, 0), ["xxx.", "xxx.", "...x"]);
    assert_eq!(drawn(&a, 0, 1), ["xxxx", "xxxx", "...."]);
    assert_eq!(drawn(&a, 1, 0), ["....", "....", "xxx."]);
    assert_eq!(drawn(&a, 1, 1), ["xxxx", "xxxx", "xxxx"]);
    let shared = Blocks { block_q: 1, block_kv: 2, visible: Broadcast::new([1, 1, 1, 2], vec![false, true]) };
    let mask = Mask { blocks: Some(shared), ..Mask::causal() };
    assert_eq!(picture(mask, 3, 4), ["....", "..x.", "..xx"]);
}

#[test]
#[should_panic(expected = "index [0, 0, 2, 0] of a tensor of sizes [1, 1, 2, 1]")]
fn a_bitmap_that_is_too_small_is_a_mistake() {
    let blocks = Blocks { block_q: 1, block_kv: 4, visible: Broadcast::new([1, 1, 2, 1], vec![true; 2]) };
    picture(Mask { blocks: Some(blocks), ..Mask::full() }, 3, 4);
}

proptest! {
    #[test]
    fn identities(q in 0..20usize, kv in 0..20usize, n in 1..40usize, top_left in any::<bool>()) {
        let align = if top_left { Align::TopLeft } else { Align::BottomRight };
        let of = |mask: Mask| picture(Mask { align, ..mask }, q, kv);
        let (full, causal) = (of(Mask::full()), of(Mask::causal()));
        let everything = vec!["x".repeat(kv); q];
        prop_assert_eq!(&full, &everything);
        prop_assert_eq!(&of(Mask::window(Some(q + kv), Some(q + kv))), &full);
        prop_assert_eq!(&of(Mask::window(Some(usize::MAX), Some(usize::MAX))), &full);
        prop_assert_eq!(&of(Mask::window(Some(usize::MAX), Some(0))), &causal);
        let whole = n + kv.max(q);
        // A chunk that holds all keys: causal is causal, and a query before the first key saw none anyway.
        prop_assert_eq!(&of(Mask { chunk: Some(whole), ..Mask::causal() }), &causal);
        prop_assert_eq!(&of(Mask { prefix: Some(vec![kv]), ..Mask::window(Some(0), Some(0)) }), &full);
        prop_assert_eq!(&of(Mask { prefix: Some(vec![0]), ..Mask::causal() }), &causal);
        prop_assert_eq!(&of(Mask { ranges: Some(vec![vec![0..kv; q]]), ..Mask::causal() }), &causal);
        let tiles = [1, 1, q.div_ceil(n).max(1), kv.div_ceil(n).max(1)];
        let all = Broadcast::new(tiles, vec![true; tiles.iter().product()]);
        let blocks = Some(Blocks { block_q: n, block_kv: n, visible: all });
        prop_assert_eq!(&of(Mask { blocks, ..Mask::causal() }), &causal);
        // Chunks of one key are the diagonal, and so is a window of nothing.
        let diagonal = of(Mask::window(Some(0), Some(0)));
        prop_assert_eq!(&of(Mask { chunk: Some(1), ..Mask::full() }), &diagonal);
    }
}
