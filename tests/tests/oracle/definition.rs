//! Attention once more, as it is defined and not as it is computed: element by element, over whole matrices, with plain
//! exponentials. For small scores only.

use flashcore_tests::oracle::{Align, Attention, Broadcast, Position, Row};
use flashcore_tests::values::Values;

/// The element of a broadcast tensor: an index is taken modulo the size, which is 1 where it does not matter.
fn element<T: Copy>(tensor: &Broadcast<T>, index: [usize; 4]) -> T {
    let [b, h, i, j] = [0, 1, 2, 3].map(|axis| index[axis] % tensor.sizes[axis]);
    let [_, heads, rows, columns] = tensor.sizes;
    tensor.data[b * heads * rows * columns + h * rows * columns + i * columns + j]
}

/// Whether query i of head h of sequence b sees key j.
pub(crate) fn sees(a: &Attention, [b, h, i, j]: [usize; 4]) -> bool {
    let mask = &a.mask;
    let shift = match mask.align {
        Align::BottomRight => a.keys[b].len as f64 - a.queries[b].len as f64,
        Align::TopLeft => 0.0,
    };
    let (position, key) = (i as f64 + shift, j as f64);
    let too_early = mask.left.is_some_and(|left| key < position - left as f64);
    let too_late = mask.right.is_some_and(|right| key > position + right as f64);
    let in_prefix = mask.prefix.as_ref().is_some_and(|prefix| j < prefix[b]);
    let other_chunk = mask.chunk.is_some_and(|n| (key / n as f64).floor() != (position / n as f64).floor());
    let row = a.queries[b].batch * a.q.shape.seqlen + a.queries[b].start + i;
    let range = mask.ranges.as_ref().map(|ranges| &ranges[h.min(ranges.len() - 1)][row]);
    let out_of_range = range.is_some_and(|r| j < r.start || j >= r.end);
    let hidden_tile = mask
        .blocks
        .as_ref()
        .is_some_and(|tiles| !element(&tiles.visible, [b, h, i / tiles.block_q, j / tiles.block_kv]));
    (in_prefix || !(too_early || too_late)) && !other_chunk && !out_of_range && !hidden_tile
}

fn score(a: &Attention, [b, h, i, j]: [usize; 4]) -> f64 {
    let kv_head = h / (a.q.shape.heads / a.k.shape.heads);
    let q = a.q.row(a.queries[b].batch, a.queries[b].start + i, h);
    let k = a.k.row(a.keys[b].batch, a.keys[b].start + j, kv_head);
    let mut score: f64 = (0..q.len()).map(|d| f64::from(q[d]) * f64::from(k[d]) * a.scale).sum();
    if let Some(cap) = a.scoring.softcap {
        let e = (2.0 * score / cap).exp();
        score = cap * (e - 1.0) / (e + 1.0);
    }
    if let Some(slopes) = &a.scoring.alibi {
        let distance = (i + a.keys[b].len).abs_diff(a.queries[b].len + j);
        score -= f64::from(element(slopes, [b, h, i, j])) * distance as f64;
    }
    if let Some(bias) = &a.scoring.bias {
        score += f64::from(element(bias, [b, h, i, j]));
    }
    a.scoring.modify.as_ref().map_or(score, |modify| modify.call(score, [b, h, i, j]))
}

/// The answer for one row.
pub(crate) fn row(a: &Attention, Position { b, s, h }: Position) -> Row {
    let exponential = |j| if sees(a, [b, h, s, j]) { score(a, [b, h, s, j]).exp() } else { 0.0 };
    let exponentials: Vec<f64> = (0..a.keys[b].len).map(exponential).collect();
    let sink = a.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[h]).exp());
    let sum = exponentials.iter().sum::<f64>() + sink;
    let kv_head = h / (a.q.shape.heads / a.v.shape.heads);
    let column = |d| {
        let term = |(j, exponential): (usize, &f64)| {
            let factor = match &a.dropout {
                Some(dropout) if dropout.keeps([b, h, s, j]) => dropout.gain(),
                Some(_) => 0.0,
                None => 1.0,
            };
            let v = a.v.row(a.keys[b].batch, a.keys[b].start + j, kv_head)[d];
            if sum > 0.0 { exponential / sum * factor * f64::from(v) } else { 0.0 }
        };
        exponentials.iter().enumerate().map(term).sum()
    };
    Row { o: (0..a.v.shape.head_dim).map(column).collect(), lse: sum.ln() }
}

/// How far apart two answers are, relative to what they are; 0 where both are the same infinity.
pub(crate) fn distance(a: &Row, b: &Row) -> f64 {
    assert_eq!(a.o.len(), b.o.len());
    let numbers = a.o.iter().chain([&a.lse]).zip(b.o.iter().chain([&b.lse]));
    let distances = numbers.map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() / (1.0 + b.abs()) });
    // A NaN, which `max` passes over, is as far from everything as can be.
    distances.map(|x| if x.is_nan() { f64::INFINITY } else { x }).fold(0.0, f64::max)
}

/// Every row's right answer.
pub(crate) fn answers(a: &Attention) -> Vec<Row> {
    a.rows(usize::MAX, 0).into_iter().map(|at| a.exact(at)).collect()
}

/// How far apart two problems' answers are, row by row.
pub(crate) fn difference(a: &Attention, b: &Attention) -> f64 {
    let (a, b) = (answers(a), answers(b));
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).map(|(a, b)| distance(a, b)).fold(0.0, f64::max)
}

/// `values` with every head `times` times, copies side by side.
pub(crate) fn repeated_heads(values: &Values, times: usize) -> Values {
    let mut shape = values.shape;
    shape.heads *= times;
    Values::from_fn(shape, |b, s, h, d| values.row(b, s, h / times)[d])
}
