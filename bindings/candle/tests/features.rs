//! Masks, scores and packed sequences on candle's tensors, on the CPU (emulated) and on a GPU where there is one,
//! against candle's own operations in f32.

mod common;

use std::ops::Range;
use std::process::ExitCode;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use flashcore::{Dim, Dtype, Operand, Shape};
use flashcore_candle::{
    Align, Attention, Error, block_lists, flash_attn_alibi, flash_attn_alibi_windowed,
    flash_attn_alibi_windowed_softcap, flash_attn_varlen, flash_attn_varlen_alibi,
    flash_attn_varlen_alibi_windowed, flash_attn_varlen_alibi_windowed_softcap, flash_attn_varlen_windowed,
    flash_attn_windowed,
};
use flashcore_tests::extras::{Dropout, PerHead, block_numbers, range_numbers};
use flashcore_tests::inputs::Fill;
use flashcore_tests::oracle::{self, Broadcast};
use flashcore_tests::side_inputs::{bitmap, key_ranges};
use flashcore_tests::suite::Suite;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use crate::common::{Failure, Test, candle_dtype, devices, gpus, normal};

/// What a call asks for.
#[derive(Clone, Debug)]
struct Features {
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
    align: Align,
    chunk: Option<usize>,
    /// A length for each sequence.
    prefix: Option<Vec<usize>>,
    /// Whose queries have ranges of keys, and whose blocks have lists.
    ranges: Option<PerHead>,
    blocks: Option<PerHead>,
    softcap: Option<f32>,
    approximate: bool,
    /// A logit for each query head.
    sinks: Option<Vec<f32>>,
    /// A slope for each query head, or one for each of each sequence.
    slopes: Option<Vec<f32>>,
    /// Which sizes of the problem the bias has: those of sequences, query heads, queries.
    bias: Option<[bool; 3]>,
    dropout: Option<Dropout>,
}

const NONE: Features = Features {
    causal: false,
    left: None,
    right: None,
    align: Align::BottomRight,
    chunk: None,
    prefix: None,
    ranges: None,
    blocks: None,
    softcap: None,
    approximate: false,
    sinks: None,
    slopes: None,
    bias: None,
    dropout: None,
};

impl Features {
    /// Whether query i of sequence b sees key j, by the definition.
    fn sees(&self, b: usize, (i, queries): (usize, usize), (j, keys): (usize, usize)) -> bool {
        let [i, j, queries, keys] = [i, j, queries, keys].map(|n| n as i64);
        let d = if self.align == Align::TopLeft { i } else { i + keys - queries };
        let right = if self.causal { Some(0) } else { self.right };
        let in_band = self.left.is_none_or(|left| d - left as i64 <= j)
            && right.is_none_or(|right| j <= d + right as i64)
            && self.chunk.is_none_or(|n| j.div_euclid(n as i64) == d.div_euclid(n as i64));
        in_band || self.prefix.as_ref().is_some_and(|lengths| j < lengths[b] as i64)
    }
}

/// Queries, or keys: the room that each sequence has, and how much of it counts.
#[derive(Clone, Debug)]
struct Rows {
    /// One behind the other, in a tensor with [`MARGIN`] rows before and behind; otherwise all have the same room.
    packed: bool,
    room: Vec<usize>,
    used: Option<Vec<usize>>,
}

/// Queries, and keys, of a block.
const BLOCK: usize = flashcore::MASK_BLOCK;

/// Rows of no sequence, before the first one and behind the last.
const MARGIN: usize = 3;

impl Rows {
    fn batched(sequences: usize, room: usize) -> Self {
        Rows { packed: false, room: vec![room; sequences], used: None }
    }

    fn packed(room: &[usize]) -> Self {
        Rows { packed: true, room: room.to_vec(), used: None }
    }

    fn used(self, used: &[usize]) -> Self {
        Rows { used: Some(used.to_vec()), ..self }
    }

    /// Those that count of sequence b.
    fn count(&self, b: usize) -> usize {
        self.used.as_ref().unwrap_or(&self.room)[b]
    }

    /// Where sequences begin, among the rows of all, and where the last one ends.
    fn starts(&self) -> Vec<usize> {
        let ends = self.room.iter().scan(0, |end, room| {
            *end += room;
            Some(*end)
        });
        let margin = if self.packed { MARGIN } else { 0 };
        [0].into_iter().chain(ends).map(|start| margin + start).collect()
    }

    /// Dimensions of a tensor of these rows.
    fn dims(&self, heads: usize, head_dim: usize) -> Vec<usize> {
        match self.packed {
            true => vec![2 * MARGIN + self.room.iter().sum::<usize>(), heads, head_dim],
            false => vec![self.room.len(), self.room[0], heads, head_dim],
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    dtype: Dtype,
    /// Of lengths and starts.
    integers: DType,
    heads_q: usize,
    heads_kv: usize,
    head_dim: usize,
    queries: Rows,
    keys: Rows,
    features: Features,
    seed: u64,
}

/// Numbers in the middle of a larger tensor, so that they do not begin where their storage does.
fn numbers(numbers: &Tensor, device: &Device) -> Result<Tensor> {
    let margin = numbers.ones_like()?.narrow(0, 0, 1)?;
    Tensor::cat(&[&margin, numbers, &margin], 0)?.to_device(device)?.narrow(0, 1, numbers.dim(0)?)
}

impl Case {
    fn integers(&self, values: &[usize], device: &Device) -> Result<Tensor> {
        let values: Vec<u32> = values.iter().map(|&value| value as u32).collect();
        numbers(&Tensor::new(values, &Device::Cpu)?.to_dtype(self.integers)?, device)
    }

    /// Numbers that may be negative: as u32 they have the same bits.
    fn signed(&self, values: Vec<i32>, dims: &[usize], device: &Device) -> Result<Tensor> {
        let tensor = match self.integers {
            DType::U32 => {
                let bits: Vec<u32> = values.into_iter().map(i32::cast_unsigned).collect();
                Tensor::from_vec(bits, dims, &Device::Cpu)?
            }
            _ => Tensor::from_vec(values, dims, &Device::Cpu)?,
        };
        numbers(&tensor, device)
    }

    /// Ranges of keys of (sequences, query heads), the first of which is one for all packed queries.
    fn ranges(&self) -> Option<Vec<Vec<Vec<Range<usize>>>>> {
        let PerHead { batch, heads } = self.features.ranges?;
        let Rows { packed, room, .. } = &self.queries;
        let rows = if *packed { self.queries.dims(1, 1)[0] } else { room[0] };
        let sequences = if batch && !packed { room.len() } else { 1 };
        let heads = if heads { self.heads_q } else { 1 };
        let longest = self.keys.room.iter().copied().max().unwrap_or(0);
        let draw =
            |b: usize, h: usize| key_ranges(rows, longest, self.seed.wrapping_add((16 * b + h) as u64));
        Some((0..sequences).map(|b| (0..heads).map(|h| draw(b, h)).collect()).collect())
    }

    /// Which blocks are visible.
    fn blocks(&self) -> Option<Broadcast<bool>> {
        let PerHead { batch, heads } = self.features.blocks?;
        let count = |rows: &Rows| rows.room.iter().copied().max().unwrap_or(0).div_ceil(BLOCK);
        let sequences = if batch { self.queries.room.len() } else { 1 };
        let heads = if heads { self.heads_q } else { 1 };
        Some(bitmap([sequences, heads, count(&self.queries), count(&self.keys)], 0.6, self.seed))
    }

    fn attention(&self, scale: f32, device: &Device) -> Result<Attention> {
        let Features { causal, left, right, align, chunk, prefix, softcap, sinks, slopes, dropout, .. } =
            &self.features;
        let mut attention = Attention::new().scale(scale).causal(*causal).window(*left, *right).align(*align);
        if let Some(keys) = chunk {
            attention = attention.chunk(*keys);
        }
        if let Some(lengths) = prefix {
            attention = attention.prefix(&self.integers(lengths, device)?);
        }
        if let Some(ranges) = self.ranges() {
            let (values, [sequences, heads]) =
                range_numbers(&ranges, self.keys.room.iter().copied().max().unwrap_or(0));
            let dims = [sequences, heads, ranges[0][0].len(), 2];
            let dims = if self.queries.packed { &dims[1..] } else { &dims };
            attention = attention.key_ranges(&self.signed(values, dims, device)?);
        }
        if let Some(blocks) = self.blocks() {
            let (counts, indices, sizes) = block_numbers(&blocks);
            let counts = self.signed(counts, &sizes[..3], device)?;
            attention = attention.block_mask(&counts, &self.signed(indices, &sizes, device)?);
        }
        if let Some(cap) = softcap {
            attention = match self.features.approximate {
                false => attention.softcap(*cap),
                true => attention.approximate_softcap(*cap),
            };
        }
        if let Some(dropout) = dropout {
            attention = attention.dropout(dropout.asked());
        }
        if let Some(logits) = sinks {
            attention = attention.sinks(&numbers(&Tensor::new(&logits[..], &Device::Cpu)?, device)?);
        }
        if let Some(slopes) = slopes {
            attention = attention.alibi(&numbers(&Tensor::new(&slopes[..], &Device::Cpu)?, device)?);
        }
        if let Some(bias) = self.bias()? {
            // Rows in the middle of longer ones, an even number of elements from one to the next.
            let keys = bias.dims()[3];
            let bias = (bias.pad_with_zeros(3, 2, 2 + keys % 2)?.to_dtype(candle_dtype(self.dtype))?)
                .to_device(device)?;
            attention = attention.bias(&bias.narrow(3, 2, keys)?);
        }
        if self.queries.packed {
            attention = attention.starts_q(&self.integers(&self.queries.starts(), device)?);
        }
        if self.keys.packed {
            attention = attention.starts_kv(&self.integers(&self.keys.starts(), device)?);
        }
        if let Some(used) = &self.queries.used {
            attention = attention.used_q(&self.integers(used, device)?);
        }
        if let Some(used) = &self.keys.used {
            attention = attention.used_kv(&self.integers(used, device)?);
        }
        Ok(attention)
    }

    /// The bias on the CPU, f32, of values that the element type has.
    fn bias(&self) -> Result<Option<Tensor>> {
        let Some(own) = self.features.bias else { return Ok(None) };
        let (sequences, queries, keys) = (self.queries.room.len(), self.queries.room[0], self.keys.room[0]);
        let size = |i: usize, size: usize| if own[i] { size } else { 1 };
        let shape = Shape::new(size(0, sequences), size(1, self.heads_q), size(2, queries), keys);
        let [values, ..] = Fill::Normal.values(shape, shape, self.seed.wrapping_add(1));
        let dims = (shape.batch, shape.seqlen, shape.heads, shape.head_dim);
        let bias = Tensor::from_vec(values.data, dims, &Device::Cpu)?;
        Ok(Some(bias.to_dtype(candle_dtype(self.dtype))?.to_dtype(DType::F32)?))
    }

    /// What is added to the scores of sequence b, (heads, queries, keys), by the definition: -inf where ranges or blocks
    /// hide a key.
    fn addends(&self, b: usize) -> Result<Tensor> {
        let (queries, keys) = (self.queries.count(b), self.keys.count(b));
        let slopes = self.features.slopes.clone().unwrap_or(vec![0.0; self.heads_q]);
        let slope = |head| slopes[if slopes.len() > self.heads_q { b * self.heads_q + head } else { head }];
        let distance = |i: usize, j: usize| (i as f32 + keys as f32 - queries as f32 - j as f32).abs();
        let (ranges, blocks) = (self.ranges(), self.blocks());
        let of = |own: usize, index: usize| if own == 1 { 0 } else { index };
        let first_row = if self.queries.packed { self.queries.starts()[b] } else { 0 };
        let shown = |head: usize, i: usize, j: usize| {
            let in_range = ranges.as_ref().is_none_or(|ranges| {
                let heads = &ranges[of(ranges.len(), b)];
                heads[of(heads.len(), head)][first_row + i].contains(&j)
            });
            in_range && blocks.as_ref().is_none_or(|blocks| blocks.get([b, head, i / BLOCK, j / BLOCK]))
        };
        let indices = (0..self.heads_q)
            .flat_map(|head| (0..queries).flat_map(move |i| (0..keys).map(move |j| (head, i, j))));
        let alibi: Vec<f32> = indices
            .map(|(head, i, j)| match shown(head, i, j) {
                true => -slope(head) * distance(i, j),
                false => f32::NEG_INFINITY,
            })
            .collect();
        let alibi = Tensor::from_vec(alibi, (self.heads_q, queries, keys), &Device::Cpu)?;
        let Some(bias) = self.bias()? else { return Ok(alibi) };
        let (sequences, _, rows, _) = bias.dims4()?;
        let bias = bias.get(if sequences == 1 { 0 } else { b })?;
        let bias = bias.narrow(1, 0, queries.min(rows))?.narrow(2, 0, keys)?;
        alibi.broadcast_add(&bias)
    }

    /// How many times the weights of sequence b count, (heads, queries, keys), by the promise.
    fn factors(&self, b: usize) -> Result<Tensor> {
        let (queries, keys) = (self.queries.count(b), self.keys.count(b));
        let dropout = self.features.dropout.map(|Dropout { threshold, seed, offset }| {
            oracle::Dropout::promised(threshold, seed, offset, self.heads_q)
        });
        let factor = |index| match &dropout {
            Some(dropout) if dropout.keeps(index) => dropout.gain() as f32,
            Some(_) => 0.0,
            None => 1.0,
        };
        let indices = (0..self.heads_q)
            .flat_map(|h| (0..queries).flat_map(move |i| (0..keys).map(move |j| [b, h, i, j])));
        let factors: Vec<f32> = indices.map(factor).collect();
        Tensor::from_vec(factors, (self.heads_q, queries, keys), &Device::Cpu)
    }

    /// q, k and v as (rows of all, heads, head_dim), of values that the element type has. Rows that do not count are
    /// NaN.
    fn inputs(&self) -> Result<[Tensor; 3]> {
        let shape = |rows: &Rows, heads| {
            let seqlen = rows.dims(heads, self.head_dim).iter().product::<usize>() / (heads * self.head_dim);
            Shape::new(1, seqlen, heads, self.head_dim)
        };
        let (q, kv) = (shape(&self.queries, self.heads_q), shape(&self.keys, self.heads_kv));
        let values = Fill::Normal.values(q, kv, self.seed);
        let tensor = |i: usize, rows: &Rows| {
            let Shape { seqlen, heads, head_dim, .. } = values[i].shape;
            let mut data = vec![f32::NAN; values[i].data.len()];
            for (b, &start) in rows.starts()[..rows.room.len()].iter().enumerate() {
                let counted = start * heads * head_dim..(start + rows.count(b)) * heads * head_dim;
                data[counted.clone()].copy_from_slice(&values[i].data[counted]);
            }
            let tensor = Tensor::from_vec(data, (seqlen, heads, head_dim), &Device::Cpu)?;
            tensor.to_dtype(candle_dtype(self.dtype))?.to_dtype(DType::F32)
        };
        Ok([tensor(0, &self.queries)?, tensor(1, &self.keys)?, tensor(2, &self.keys)?])
    }

    /// The attention of sequence b by candle's operations.
    fn reference(&self, b: usize, scale: f32, [q, k, v]: &[Tensor; 3]) -> Result<Reference> {
        let (queries, keys) = (self.queries.count(b), self.keys.count(b));
        let rows = |x: &Tensor, rows: &Rows, count| x.narrow(0, rows.starts()[b], count)?.transpose(0, 1);
        let q = rows(q, &self.queries, queries)?.contiguous()?;
        // A key of zeros behind the others, which nobody sees: no row is without keys then.
        let kv = |x: &Tensor| {
            let x = rows(x, &self.keys, keys)?.pad_with_zeros(1, 0, 1)?;
            let (heads, keys, head_dim) = x.dims3()?;
            let shared = (heads, self.heads_q / self.heads_kv, keys, head_dim);
            x.unsqueeze(1)?.broadcast_as(shared)?.reshape((self.heads_q, keys, head_dim))
        };
        let (k, v) = (kv(k)?, kv(v)?);
        let mut scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(scale))?;
        if let Some(cap) = self.features.softcap.map(f64::from) {
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        scores = (scores + self.addends(b)?.pad_with_zeros(2, 0, 1)?)?;
        let sees = |i, j| j < keys && self.features.sees(b, (i, queries), (j, keys));
        let mask = (0..queries).flat_map(|i| (0..=keys).map(move |j| (i, j)));
        let mask: Vec<f32> = mask.map(|(i, j)| if sees(i, j) { 0.0 } else { f32::NEG_INFINITY }).collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(mask, (queries, keys + 1), &Device::Cpu)?)?;
        let logits = self.features.sinks.clone().unwrap_or(vec![f32::NEG_INFINITY; self.heads_q]);
        let logits = Tensor::from_vec(logits, (self.heads_q, 1, 1), &Device::Cpu)?;
        // Finite, so that differences are no NaN.
        let max = scores.max_keepdim(D::Minus1)?.broadcast_maximum(&logits)?.maximum(-1e30)?;
        let weights = scores.broadcast_sub(&max)?.exp()?;
        let sum = (weights.sum_keepdim(D::Minus1)? + logits.broadcast_sub(&max)?.exp()?)?;
        let kept = (weights * self.factors(b)?.pad_with_zeros(2, 0, 1)?)?;
        let average = |v: &Tensor| kept.matmul(v)?.broadcast_div(&sum.maximum(f32::MIN_POSITIVE)?);
        let lse = (sum.log()? + max)?.squeeze(D::Minus1)?;
        Ok(Reference { out: average(&v)?, size: average(&v.abs()?)?, lse })
    }
}

/// Right answers, (heads, queries, head_dim).
struct Reference {
    out: Tensor,
    /// What errors are in proportion to: sums of weights times magnitudes.
    size: Tensor,
    /// (heads, queries).
    lse: Tensor,
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// Weights and results are rounded to the element type, by half a unit in the last place each.
fn compare_out(dtype: Dtype, got: &Tensor, want: &Reference) -> std::result::Result<(), Failure> {
    let half_unit = match dtype {
        Dtype::F16 => 2f32.powi(-11),
        Dtype::Bf16 => 2f32.powi(-8),
    };
    let (got, right, sizes) = (flat(got)?, flat(&want.out)?, flat(&want.size)?);
    assert_eq!(got.len(), right.len());
    for (i, ((got, right), size)) in got.into_iter().zip(right).zip(sizes).enumerate() {
        let allowed = half_unit * (size + right.abs()) + 1e-5;
        let error = (got - right).abs();
        if error.is_nan() || error > allowed {
            return Err(format!(
                "element {i} is {got}, should be {right}: error {error:e}, allowed {allowed:e}"
            )
            .into());
        }
    }
    Ok(())
}

fn compare_lse(got: &Tensor, want: &Tensor) -> std::result::Result<(), Failure> {
    for (i, (got, right)) in flat(got)?.into_iter().zip(flat(want)?).enumerate() {
        if !(got == right || (got - right).abs() <= 2e-5 * right.abs().max(1.0)) {
            return Err(format!("log-sum-exp {i} is {got}, should be {right}").into());
        }
    }
    Ok(())
}

fn check(case: &Case, device: &Device) -> std::result::Result<(), Failure> {
    let &Case { dtype, heads_q, heads_kv, head_dim, ref queries, ref keys, .. } = case;
    let scale = 1.5 / (head_dim as f32).sqrt();
    let inputs = case.inputs()?;
    let on_device = |x: &Tensor, rows: &Rows, heads| {
        x.reshape(rows.dims(heads, head_dim))?.to_dtype(candle_dtype(dtype))?.to_device(device)
    };
    let (q, k, v) = (
        on_device(&inputs[0], queries, heads_q)?,
        on_device(&inputs[1], keys, heads_kv)?,
        on_device(&inputs[2], keys, heads_kv)?,
    );
    let attention = case.attention(scale, device)?;
    let (out, lse) = attention.forward_with_lse(&q, &k, &v)?;
    assert_eq!((out.dims(), out.dtype(), out.is_contiguous()), (q.dims(), q.dtype(), true));
    assert_eq!(lse.dtype(), DType::F32);
    if case.seed.is_multiple_of(2) {
        // Without a log-sum-exp to store.
        assert_eq!(flat(&attention.forward(&q, &k, &v)?)?, flat(&out)?);
    }

    // (rows of all, heads, head_dim), and (rows of all, heads).
    let out = out.to_device(&Device::Cpu)?.reshape(inputs[0].dims())?;
    let lse = if queries.packed {
        assert_eq!(lse.dims(), [heads_q, q.dims()[0]]);
        lse.t()?
    } else {
        assert_eq!(lse.dims(), [queries.room.len(), heads_q, queries.room[0]]);
        lse.transpose(1, 2)?.reshape((inputs[0].dims()[0], heads_q))?
    };
    let lse = lse.to_device(&Device::Cpu)?;
    let mut no_query = vec![true; inputs[0].dims()[0]];
    for (b, &start) in queries.starts()[..queries.room.len()].iter().enumerate() {
        let count = queries.count(b);
        no_query[start..start + count].fill(false);
        if count > 0 {
            let want = case.reference(b, scale, &inputs)?;
            compare_out(dtype, &out.narrow(0, start, count)?.transpose(0, 1)?, &want)?;
            compare_lse(&lse.narrow(0, start, count)?.t()?, &want.lse)?;
        }
    }
    for row in (0..no_query.len()).filter(|&row| no_query[row]) {
        assert!(flat(&out.get(row)?)?.iter().chain(&flat(&lse.get(row)?)?).all(|&x| x == 0.0), "row {row}");
    }
    Ok(())
}

/// Each feature by itself and some together, for both element types and both types of integers.
fn each_feature(device: &Device) -> std::result::Result<(), Failure> {
    let batched = (Rows::batched(2, 40), Rows::batched(2, 70));
    let packed = (Rows::packed(&[30, 0, 1, 45]), Rows::packed(&[50, 20, 33, 0]));
    let sinks = Some(vec![0.5, -1.0, 2.0, f32::NEG_INFINITY]);
    let slopes = Some(vec![0.5, 0.25, 0.0, 0.125]);
    let many: Vec<f32> = (0..16).map(|i| i as f32 / 20.0).collect();
    let bias = |of| Features { bias: Some(of), ..NONE };
    let dropout = Some(Dropout { threshold: 180, seed: u64::MAX / 3, offset: 4 });
    let features = [
        ("window", Features { left: Some(9), right: Some(4), ..NONE }),
        ("left alone", Features { left: Some(9), ..NONE }),
        ("right alone", Features { right: Some(3), ..NONE }),
        ("causal window", Features { causal: true, left: Some(9), ..NONE }),
        ("top-left", Features { causal: true, align: Align::TopLeft, ..NONE }),
        ("chunk", Features { causal: true, chunk: Some(16), ..NONE }),
        ("softcap", Features { softcap: Some(1.5), ..NONE }),
        ("approximate softcap", Features { softcap: Some(1.5), approximate: true, ..NONE }),
        ("sinks", Features { sinks: sinks.clone(), ..NONE }),
        ("slopes", Features { slopes: slopes.clone(), ..NONE }),
        ("dropout", Features { causal: true, dropout, sinks: sinks.clone(), ..NONE }),
        ("slopes and cap", Features { causal: true, slopes, softcap: Some(1.5), ..NONE }),
        (
            "all but prefix",
            Features {
                left: Some(20),
                right: Some(5),
                align: Align::TopLeft,
                chunk: Some(24),
                softcap: Some(2.0),
                sinks: sinks.clone(),
                ..NONE
            },
        ),
    ];
    let prefix = |lengths: &[usize]| Features {
        causal: true,
        prefix: Some(lengths.to_vec()),
        softcap: Some(3.0),
        sinks: sinks.clone(),
        ..NONE
    };
    let mut cases = Vec::new();
    for (name, features) in features {
        cases.push((name, batched.clone(), features.clone()));
        cases.push((name, packed.clone(), features));
    }
    let each = Some(PerHead::EACH);
    let sparse = [
        ("ranges", Features { ranges: each, sinks: sinks.clone(), ..NONE }),
        ("ranges of all", Features { causal: true, ranges: Some(PerHead::ONE), ..NONE }),
        ("blocks", Features { blocks: each, left: Some(100), ..NONE }),
        ("blocks of all", Features { causal: true, blocks: Some(PerHead::ONE), ..NONE }),
        ("ranges and blocks", Features { ranges: each, blocks: each, ..NONE }),
    ];
    let long = (Rows::batched(2, 150), Rows::batched(2, 300));
    let long_packed = (Rows::packed(&[140, 0, 30]), Rows::packed(&[270, 50, 60]));
    for (name, features) in sparse {
        cases.push((name, long.clone(), features.clone()));
        cases.push((name, long_packed.clone(), features));
    }
    let (q, kv) = packed.clone();
    let odd = (Rows::batched(2, 33), Rows::batched(2, 71));
    cases.extend([
        ("slopes of sequences", batched.clone(), Features { slopes: Some(many[..8].to_vec()), ..NONE }),
        ("packed slopes of sequences", packed.clone(), Features { slopes: Some(many), ..NONE }),
        ("bias", batched.clone(), bias([true; 3])),
        ("causal bias of heads", batched.clone(), Features { causal: true, ..bias([false, true, false]) }),
        ("bias of queries, odd", odd.clone(), bias([false, false, true])),
        ("bias of keys, odd", odd.clone(), Features { sinks: sinks.clone(), ..bias([false; 3]) }),
        ("bias of used", (odd.0.used(&[33, 4]), odd.1.used(&[20, 71])), bias([true; 3])),
        ("prefix", batched.clone(), prefix(&[35, 0])),
        ("packed prefix", packed, prefix(&[10, 20, 100, 1])),
        ("packed queries", (q.clone(), Rows::batched(4, 35)), Features { causal: true, ..NONE }),
        ("packed keys", (Rows::batched(4, 25), kv.clone()), Features { causal: true, ..NONE }),
        ("used", (batched.0.used(&[40, 7]), batched.1.used(&[0, 33])), Features { causal: true, ..NONE }),
        (
            "used of packed",
            (q.used(&[3, 0, 1, 20]), kv.used(&[50, 1, 0, 0])),
            Features { left: Some(5), sinks, ..NONE },
        ),
    ]);
    for (i, (name, (queries, keys), features)) in cases.into_iter().enumerate() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let case = Case {
                dtype,
                integers: if i % 2 == 0 { DType::U32 } else { DType::I32 },
                heads_q: 4,
                heads_kv: 2,
                head_dim: 64,
                queries: queries.clone(),
                keys: keys.clone(),
                features: features.clone(),
                seed: i as u64,
            };
            check(&case, device).map_err(|failure| format!("{name}, {dtype:?}: {failure}"))?;
        }
    }
    Ok(())
}

/// Rows of `sequences` sequences, of up to `longest` each.
fn rows(sequences: usize, longest: usize) -> impl Strategy<Value = Rows> {
    let room = proptest::collection::vec(0..longest, sequences);
    (any::<bool>(), room, proptest::option::of(proptest::collection::vec(0.0..1.0, sequences))).prop_map(
        |(packed, mut room, used)| {
            if !packed {
                let longest = room.iter().copied().max().unwrap_or(0).max(1);
                room.fill(longest);
            }
            let used: Option<Vec<f64>> = used;
            let part = |(share, &room): (f64, &usize)| (share * (room + 1) as f64) as usize;
            let used = used.map(|shares| shares.into_iter().zip(&room).map(part).collect());
            Rows { packed, room, used }
        },
    )
}

fn features(sequences: usize, longest: usize) -> impl Strategy<Value = Features> {
    let keys = move || proptest::option::of(1..longest);
    let prefix = proptest::option::of(proptest::collection::vec(0..longest, sequences));
    let masks = (any::<bool>(), keys(), keys(), any::<bool>(), keys(), prefix);
    // As many logits and slopes as there may be heads.
    let scores = (
        proptest::option::of(0.5f32..20.0),
        proptest::option::of(proptest::collection::vec(-2f32..4.0, 9)),
        proptest::option::of(proptest::collection::vec(0f32..0.5, 9)),
        proptest::option::of(any::<[bool; 3]>()),
        proptest::option::of((1..256u32, any::<u64>(), any::<u32>())),
    );
    let of = || {
        let of = any::<[bool; 2]>().prop_map(|[batch, heads]| PerHead { batch, heads });
        proptest::option::weighted(0.3, of)
    };
    (masks, scores, of(), of()).prop_map(
        |(masks, (softcap, sinks, slopes, bias, dropout), ranges, blocks)| {
            let (causal, left, right, top_left, chunk, prefix) = masks;
            let dropout = dropout.map(|(threshold, seed, offset)| Dropout { threshold, seed, offset });
            let align = if top_left { Align::TopLeft } else { Align::BottomRight };
            let (left, chunk) = if prefix.is_some() { (None, None) } else { (left, chunk) };
            let masks = Features { causal, left, right, align, chunk, prefix, ranges, blocks, sinks, ..NONE };
            // Kernels with ranges and blocks only scale scores.
            match ranges.is_some() || blocks.is_some() {
                true => masks,
                false => Features { softcap, slopes, bias, dropout, ..masks },
            }
        },
    )
}

fn case(longest: usize) -> impl Strategy<Value = Case> {
    let sizes = (1..4usize, 1..4usize, 1..4usize, 1..=32usize);
    let rest = (select(vec![Dtype::F16, Dtype::Bf16]), select(vec![DType::U32, DType::I32]), any::<u64>());
    (sizes, rest).prop_flat_map(move |((sequences, heads_kv, ratio, eighths), (dtype, integers, seed))| {
        let parts = (rows(sequences, longest), rows(sequences, longest), features(sequences, longest));
        parts.prop_map(move |(queries, keys, mut features)| {
            let heads_q = heads_kv * ratio;
            if let Some(logits) = &mut features.sinks {
                logits.truncate(heads_q);
            }
            if let Some(slopes) = &mut features.slopes {
                slopes.truncate(heads_q);
            }
            if queries.packed || keys.packed {
                features.bias = None;
            }
            let head_dim = 8 * eighths;
            Case { dtype, integers, heads_q, heads_kv, head_dim, queries, keys, features, seed }
        })
    })
}

fn random_cases(device: &Device) -> std::result::Result<(), Failure> {
    let (longest, cases) = if device.is_cpu() { (60, 40) } else { (500, 300) };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&case(longest), |case| {
        check(&case, device).map_err(|failure| TestCaseError::fail(format!("{case:?}: {failure}")))
    })?;
    Ok(())
}

/// The functions of candle-flash-attn-v3 are the calls that they say.
fn named_functions(device: &Device) -> std::result::Result<(), Failure> {
    let equal = |named: Tensor, built: Tensor| -> std::result::Result<(), Failure> {
        assert_eq!(flat(&named)?, flat(&built)?);
        Ok(())
    };
    let scaled = Attention::new().scale(0.2);
    let (q, kv) = (normal((2, 30, 4, 64), device)?, normal((2, 40, 2, 64), device)?);
    let windowed = flash_attn_windowed(&q, &kv, &kv, 0.2, Some(7), Some(2), false)?;
    equal(windowed, scaled.clone().window(Some(7), Some(2)).forward(&q, &kv, &kv)?)?;
    let slopes = Tensor::new(&[0.5f32, 0.25, 0.125, 0.0], device)?;
    let (left, right) = (Some(7), Some(2));
    for causal in [false, true] {
        let named = flash_attn_alibi(&q, &kv, &kv, &slopes, 0.2, causal, false)?;
        equal(named, scaled.clone().causal(causal).alibi(&slopes).forward(&q, &kv, &kv)?)?;
    }
    let sloping = scaled.clone().alibi(&slopes).window(left, right);
    let named = flash_attn_alibi_windowed(&q, &kv, &kv, &slopes, 0.2, left, right, false)?;
    equal(named, sloping.forward(&q, &kv, &kv)?)?;
    let named = |slopes, cap| flash_attn_alibi_windowed_softcap(&q, &kv, &kv, slopes, 0.2, left, right, cap);
    equal(named(Some(&slopes), 3.0)?, sloping.clone().softcap(3.0).forward(&q, &kv, &kv)?)?;
    equal(named(Some(&slopes), 0.0)?, sloping.forward(&q, &kv, &kv)?)?;
    let capped = scaled.clone().window(left, right).softcap(3.0);
    equal(named(None, 3.0)?, capped.forward(&q, &kv, &kv)?)?;

    let (q, kv) = (normal((30, 4, 64), device)?, normal((40, 2, 64), device)?);
    let (in_q, in_kv) = (Tensor::new(&[0u32, 11, 30], device)?, Tensor::new(&[0u32, 25, 40], device)?);
    let packed = scaled.starts_q(&in_q).starts_kv(&in_kv);
    for causal in [false, true] {
        let named = flash_attn_varlen(&q, &kv, &kv, &in_q, &in_kv, 19, 25, 0.2, causal, false)?;
        equal(named, packed.clone().causal(causal).forward(&q, &kv, &kv)?)?;
        let named =
            flash_attn_varlen_alibi(&q, &kv, &kv, &slopes, &in_q, &in_kv, 19, 25, 0.2, causal, false)?;
        equal(named, packed.clone().causal(causal).alibi(&slopes).forward(&q, &kv, &kv)?)?;
    }
    let sloping = packed.clone().alibi(&slopes).window(left, right);
    let named = flash_attn_varlen_alibi_windowed(
        &q, &kv, &kv, &slopes, &in_q, &in_kv, 19, 25, 0.2, left, right, false,
    )?;
    equal(named, sloping.forward(&q, &kv, &kv)?)?;
    let named = flash_attn_varlen_alibi_windowed_softcap(
        &q,
        &kv,
        &kv,
        Some(&slopes),
        &in_q,
        &in_kv,
        19,
        25,
        0.2,
        left,
        right,
        3.0,
    )?;
    equal(named, sloping.softcap(3.0).forward(&q, &kv, &kv)?)?;
    let named = flash_attn_varlen_windowed(&q, &kv, &kv, &in_q, &in_kv, 19, 25, 0.2, left, right, false)?;
    equal(named, packed.window(left, right).forward(&q, &kv, &kv)?)
}

/// Numbers that candle computes just before the call, and frees just after it.
fn numbers_are_ordered_with_candle_s_work(device: &Device) -> std::result::Result<(), Failure> {
    let (length, rounds) = if device.is_cpu() { (20, 2) } else { (2000, 50) };
    let first = normal((1, length, 4, 64), device)?;
    let step = |x: &Tensor| {
        let sinks = x.to_dtype(DType::F32)?.mean((0, 1, 3))?.affine(20.0, 1.0)?;
        let used = Tensor::full(length as u32, 1, device)?.sub(&Tensor::ones(1, DType::U32, device)?)?;
        Attention::new().causal(true).sinks(&sinks).used_kv(&used).forward(x, x, x)?.affine(1.5, 0.1)
    };
    let all = |wait: bool| {
        (0..rounds).try_fold(first.clone(), |x, _| {
            let x = step(&x)?;
            if wait {
                device.synchronize()?;
            }
            Ok::<_, candle_core::Error>(x)
        })
    };
    assert_eq!(flat(&all(false)?)?, flat(&all(true)?)?);
    Ok(())
}

/// What the call refuses, as the type that it is.
fn refused(attention: &Attention, [q, k, v]: [&Tensor; 3]) -> Error {
    let error = attention.forward(q, k, v).expect_err("it must be refused");
    let inner = Error::of(&error).unwrap_or_else(|| panic!("no error of ours: {error}")).clone();
    assert!(error.to_string().starts_with(&inner.to_string()), "{error}");
    inner
}

fn mistakes_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let batched = normal((2, 20, 4, 64), device)?;
    let packed = normal((40, 4, 64), device)?;
    let refuse = |attention: Attention| refused(&attention, [&batched; 3]);
    let new = Attention::new;
    let starts = Tensor::new(&[0u32, 15, 40], device)?;
    let two = Tensor::new(&[20u32, 20], device)?;

    // Dimensions.
    let error = refuse(new().starts_q(&starts).starts_kv(&starts));
    assert_eq!(error, Error::Rank { operand: Operand::Q, expected: 3, found: 4 });
    let error = refused(&new().starts_q(&starts), [&packed; 3]);
    assert_eq!(error, Error::Rank { operand: Operand::K, expected: 4, found: 3 });
    let error = refused(&new(), [&packed; 3]);
    assert_eq!(error, Error::Rank { operand: Operand::Q, expected: 4, found: 3 });
    let error = refuse(new().used_q(&two.reshape((2, 1))?));
    assert_eq!(error, Error::Rank { operand: Operand::UsedQ, expected: 1, found: 2 });

    // Element types and gaps.
    for found in [DType::I64, DType::F32, DType::U8] {
        let error = refuse(new().prefix(&two.to_dtype(found)?));
        assert_eq!(error, Error::Dtype { operand: Operand::Prefix, found });
    }
    for found in [DType::F16, DType::F64, DType::U32] {
        let error = refuse(new().sinks(&Tensor::ones(4, found, device)?));
        assert_eq!(error, Error::Dtype { operand: Operand::Sinks, found });
    }
    let column = Tensor::ones((4, 3), DType::F32, device)?.narrow(1, 0, 1)?.squeeze(1)?;
    assert_eq!(refuse(new().sinks(&column)), Error::NumbersStride { operand: Operand::Sinks, stride: 3 });
    let same = Tensor::new(&[20u32], device)?.broadcast_as(2)?;
    let stride = Error::NumbersStride { operand: Operand::UsedKv, stride: 0 };
    assert_eq!(refuse(new().used_kv(&same)), stride);

    // How many, and what goes together.
    let length = |operand, expected, found| {
        Error::Flashcore(flashcore::Error::ArrayLength { operand, expected, found })
    };
    assert_eq!(refuse(new().used_kv(&starts)), length(Operand::UsedKv, 2, 3));
    let logits = Tensor::ones(2, DType::F32, device)?;
    assert_eq!(refuse(new().sinks(&logits)), length(Operand::Sinks, 4, 2));
    let error = refused(&new().starts_q(&starts).starts_kv(&two), [&packed; 3]);
    assert_eq!(error, length(Operand::StartsKv, 3, 2));
    let none = starts.narrow(0, 0, 0)?;
    let error = refused(&new().starts_q(&none).starts_kv(&starts), [&packed; 3]);
    assert_eq!(error, Error::Flashcore(flashcore::Error::NoStarts { operand: Operand::StartsQ }));
    let error = refused(&new().starts_q(&starts), [&packed, &batched.narrow(0, 0, 1)?, &batched]);
    let mismatch =
        flashcore::Error::ShapeMismatch { operand: Operand::K, dim: Dim::Batch, expected: 2, found: 1 };
    assert_eq!(error, Error::Flashcore(mismatch));
    assert_eq!(refuse(new().chunk(0)), Error::Flashcore(flashcore::Error::EmptyChunk));
    let error = refuse(new().prefix(&two).window(Some(1), None));
    assert_eq!(error, Error::Flashcore(flashcore::Error::PrefixUnderWindow));
    let slopes = Tensor::ones(3, DType::F32, device)?;
    assert_eq!(refuse(new().alibi(&slopes)), length(Operand::Slopes, 8, 3));
    let found = DType::F16;
    assert_eq!(
        refuse(new().alibi(&slopes.to_dtype(found)?)),
        Error::Dtype { operand: Operand::Slopes, found }
    );
    let error = refuse(new().softcap(-1.0));
    assert_eq!(error, Error::Flashcore(flashcore::Error::Softcap { softcap: -1.0 }));
    Ok(())
}

fn wrong_biases_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let (q, operand) = (normal((2, 20, 4, 64), device)?, Operand::Bias);
    let refuse = |bias: &Tensor| refused(&Attention::new().bias(bias), [&q; 3]);
    let refuse_as = |bias: &Tensor, error| assert_eq!(refuse(bias), Error::Flashcore(error));
    let bias = normal((2, 4, 20, 20), device)?;
    assert_eq!(refuse(&bias.get(0)?), Error::Rank { operand, expected: 4, found: 3 });
    let text = "bias has 3 dimensions, but needs 4: (batch, heads_q, seqlen_q, seqlen_kv)";
    assert_eq!(refuse(&bias.get(0)?).to_string(), text);
    let f32 = bias.to_dtype(DType::F32)?;
    assert_eq!(refuse(&f32), Error::Dtype { operand, found: DType::F32 });
    let (expected, found) = (Dtype::F16, Dtype::Bf16);
    refuse_as(&bias.to_dtype(DType::BF16)?, flashcore::Error::DtypeMismatch { operand, expected, found });
    let (dim, expected, found) = (Dim::Heads, 4, 3);
    refuse_as(&bias.narrow(1, 0, 3)?, flashcore::Error::ShapeMismatch { operand, dim, expected, found });
    let apart = normal((2, 4, 20, 40), device)?.reshape((2, 4, 20, 20, 2))?.narrow(4, 0, 1)?.squeeze(4)?;
    refuse_as(&apart, flashcore::Error::BiasKeysApart { stride: 2 });
    let odd = normal((2, 4, 20, 21), device)?.narrow(3, 0, 20)?;
    let dim = Dim::Queries;
    refuse_as(&odd, flashcore::Error::StrideMisaligned { operand, dim, stride: 21, multiple: 2 });
    let shifted = normal((2, 4, 20, 22), device)?.narrow(3, 1, 20)?;
    let error = refuse(&shifted);
    let misaligned = |error: &Error| {
        matches!(
            error,
            Error::Flashcore(flashcore::Error::Misaligned { operand: Operand::Bias, required: 4, .. })
        )
    };
    assert!(misaligned(&error), "{error}");
    // Where the memory ends with the last of an odd number of keys.
    let (q, kv) = (normal((1, 20, 4, 64), device)?, normal((1, 21, 4, 64), device)?);
    let error = refused(&Attention::new().bias(&normal((1, 1, 1, 21), device)?), [&q, &kv, &kv]);
    let (needed, given) = (44, 42);
    assert_eq!(error, Error::Flashcore(flashcore::Error::TooSmall { operand, needed, given }));
    let (q, starts) = (normal((20, 4, 64), device)?, Tensor::new(&[0u32, 20], device)?);
    let packed = Attention::new().starts_q(&starts).starts_kv(&starts).bias(&bias);
    let operand = Operand::StartsQ;
    assert_eq!(refused(&packed, [&q; 3]), Error::Flashcore(flashcore::Error::BiasOfPacked { operand }));
    Ok(())
}

fn wrong_ranges_and_blocks_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let q = normal((2, 200, 4, 64), device)?;
    let ranges = Tensor::zeros((2, 4, 200, 2), DType::U32, device)?;
    let (counts, lists) = block_lists(&[true, false, true, true], 2);
    let counts = Tensor::from_vec(counts, (1, 1, 2), device)?;
    let lists = Tensor::from_vec(lists, (1, 1, 2, 2), device)?;
    let right = Attention::new().key_ranges(&ranges).block_mask(&counts, &lists);
    right.forward(&q, &q, &q)?;
    let refuse = |attention: Attention| refused(&attention, [&q; 3]);
    let of_ranges = |ranges: &Tensor| refuse(Attention::new().key_ranges(ranges));
    let of_blocks = |counts: &Tensor, lists: &Tensor| refuse(Attention::new().block_mask(counts, lists));

    let operand = Operand::KeyRanges;
    assert_eq!(of_ranges(&ranges.get(0)?), Error::Rank { operand, expected: 4, found: 3 });
    let found = DType::I64;
    assert_eq!(of_ranges(&ranges.to_dtype(found)?), Error::Dtype { operand, found });
    assert_eq!(of_ranges(&ranges.narrow(3, 0, 1)?.contiguous()?), Error::RangeEnds { found: 1 });
    assert_eq!(of_ranges(&ranges.narrow(2, 0, 199)?), Error::Gaps { operand });
    let length = flashcore::Error::ArrayLength { operand, expected: 3200, found: 3184 };
    assert_eq!(of_ranges(&ranges.narrow(2, 0, 199)?.contiguous()?), Error::Flashcore(length));
    let mismatch = |operand, dim, expected, found| {
        Error::Flashcore(flashcore::Error::ShapeMismatch { operand, dim, expected, found })
    };
    let error = of_ranges(&ranges.narrow(1, 0, 3)?.contiguous()?);
    assert_eq!(error, mismatch(operand, Dim::Heads, 4, 3));
    let (packed, starts) = (normal((200, 4, 64), device)?, Tensor::new(&[0u32, 200], device)?);
    let attention = Attention::new().starts_q(&starts).starts_kv(&starts).key_ranges(&ranges);
    assert_eq!(refused(&attention, [&packed; 3]), Error::Rank { operand, expected: 3, found: 4 });

    let operand = Operand::BlockCounts;
    assert_eq!(of_blocks(&lists, &lists), Error::Rank { operand, expected: 3, found: 4 });
    let found = DType::F32;
    assert_eq!(of_blocks(&counts.to_dtype(found)?, &lists), Error::Dtype { operand, found });
    let operand = Operand::BlockIndices;
    assert_eq!(of_blocks(&counts, &counts), Error::Rank { operand, expected: 4, found: 3 });
    let error = Error::ListsShape { expected: vec![1, 1, 1], found: vec![1, 1, 2, 2] };
    assert_eq!(of_blocks(&counts.narrow(2, 0, 1)?, &lists), error);
    assert_eq!(of_blocks(&counts, &lists.transpose(2, 3)?), Error::Gaps { operand });
    let error = of_blocks(&counts.narrow(2, 0, 1)?, &lists.narrow(2, 0, 1)?);
    assert_eq!(error, mismatch(Operand::BlockCounts, Dim::Queries, 2, 1));

    for scored in [right.clone().softcap(2.0), right.alibi(&Tensor::ones(4, DType::F32, device)?)] {
        assert_eq!(refuse(scored), Error::Flashcore(flashcore::Error::SparseScores));
    }
    Ok(())
}

/// Numbers, k and v on the CPU do not go with a q that is not.
fn other_devices_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let q = normal((2, 20, 4, 64), device)?;
    let on_cpu = q.to_device(&Device::Cpu)?;
    let device_error =
        |operand| Error::Device { operand, expected: device.location(), found: Device::Cpu.location() };
    let sinks = Attention::new().sinks(&Tensor::ones(4, DType::F32, &Device::Cpu)?);
    assert_eq!(refused(&sinks, [&q; 3]), device_error(Operand::Sinks));
    let bias = Attention::new().bias(&normal((2, 4, 20, 20), &Device::Cpu)?);
    assert_eq!(refused(&bias, [&q; 3]), device_error(Operand::Bias));
    assert_eq!(refused(&Attention::new(), [&q, &on_cpu, &q]), device_error(Operand::K));
    assert_eq!(refused(&Attention::new(), [&q, &q, &on_cpu]), device_error(Operand::V));
    Ok(())
}

/// Nobody gets no gradient of sinks, slopes or a bias where one is wanted.
fn gradients_of_side_inputs_are_refused(device: &Device) -> std::result::Result<(), Failure> {
    let q = normal((1, 20, 2, 64), device)?;
    let numbers = Var::from_tensor(&Tensor::zeros(2, DType::F32, device)?)?;
    let bias = Var::from_tensor(&normal((1, 2, 20, 20), device)?)?;
    for attention in
        [Attention::new().sinks(&numbers), Attention::new().alibi(&numbers), Attention::new().bias(&bias)]
    {
        let (out, lse) = attention.forward_with_lse(&q, &q, &q)?;
        for (result, name) in [(out.to_dtype(DType::F32)?, "flash-attn"), (lse, "flash-attn-lse")] {
            let error = result.sum_all()?.backward().expect_err("there is no backward pass");
            assert!(error.to_string().contains(&format!("backward is not supported for {name}")), "{error}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(devices());
    let tests: [(&str, Test); 8] = [
        ("each_feature", each_feature),
        ("random_cases", random_cases),
        ("named_functions", named_functions),
        ("numbers_are_ordered_with_candle_s_work", numbers_are_ordered_with_candle_s_work),
        ("mistakes_are_refused", mistakes_are_refused),
        ("wrong_biases_are_refused", wrong_biases_are_refused),
        ("wrong_ranges_and_blocks_are_refused", wrong_ranges_and_blocks_are_refused),
        ("gradients_of_side_inputs_are_refused", gradients_of_side_inputs_are_refused),
    ];
    for (name, test) in tests {
        suite.test(name, test);
    }
    let mut on_gpus = Suite::on(gpus().into());
    on_gpus.test("other_devices_are_refused", other_devices_are_refused);
    suite.and(on_gpus).run()
}
