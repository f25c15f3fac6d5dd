//! What a case asks for beyond plain attention, and the numbers that go along.

use std::fmt;
use std::ops::Range;

use flashcore::{
    Align, Array, ArrayView, Attention, BiasLayout, BiasView, BlockMask, Device, Dtype, Features, KeyRanges,
    MASK_BLOCK, Sequences, Slopes, SparseSizes, block_lists,
};

use flashcore_kernels::config::{self, Score, Variant};

use crate::oracle::{self, Broadcast, Mask, Scoring, Tokens};
use crate::side_inputs::{
    Lengths, alibi_slopes, bias, bitmap, checkerboard, cu_seqlens, document_ranges, hiding_bias, key_ranges,
    prefixes, random_slopes, ranges_of_documents, seqused, sinks,
};
use crate::values::encode;

/// Seed of what makes shapes: they are the same for all inputs of a case.
const SHAPE_SEED: u64 = 17;

/// How far the GPU's own hyperbolic tangent may be off, relative to itself (PTX ISA, `tanh.approx.f32`).
const TANH_ERROR: f64 = 1.0 / 2048.0;

/// What a case asks for beyond plain attention. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Extras {
    /// Columns of V and O, if they are not those of Q and K.
    pub head_dim_v: Option<usize>,
    /// Keys that a query sees before the one it stands at.
    pub left: Option<usize>,
    /// Keys that it sees after that one.
    pub right: Option<usize>,
    /// Query i stands at key i.
    pub top_left: bool,
    /// Keys of a chunk.
    pub chunk: Option<usize>,
    /// All queries see a prefix.
    pub prefix: Option<Prefix>,
    /// Each query has a range of keys.
    pub ranges: Option<Ranges>,
    /// Blocks of queries see only some blocks of keys.
    pub blocks: Option<Blocks>,
    /// Bound of the scores.
    pub softcap: Option<f32>,
    /// Whether the GPU's own hyperbolic tangent will do for it.
    pub approximate_tanh: bool,
    /// A logit joins the denominators.
    pub sinks: bool,
    /// Scores fall with the distance.
    pub alibi: Option<Slopes>,
    /// What is added to scores.
    pub bias: Option<Bias>,
    /// Lengths of sequences that are packed in q.
    pub packed_q: Option<Lengths>,
    /// The same in k and v.
    pub packed_kv: Option<Lengths>,
    /// Only some of the rows of each sequence count.
    pub used: bool,
    /// Weights are left out.
    pub dropout: Option<Dropout>,
}

/// Which weights are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// How many of 256 are kept on average.
    pub threshold: u32,
    /// The seed.
    pub seed: u64,
    /// The offset.
    pub offset: u32,
}

impl Dropout {
    /// The same, as the host asks for it.
    pub fn asked(self) -> flashcore::Dropout {
        flashcore::Dropout::new(1.0 - self.threshold as f32 / 256.0, self.seed).offset(self.offset)
    }
}

/// How many of its first keys all queries of a sequence see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Any number, drawn.
    Drawn,
    /// So many.
    Keys(usize),
}

/// For whom something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerHead {
    /// One for each sequence, not for all.
    pub batch: bool,
    /// One for each query head, not for all.
    pub heads: bool,
}

/// Ranges of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// For whom they are.
    pub of: PerHead,
    /// Which they are.
    pub kind: RangeKind,
}

/// Which keys ranges hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Any, drawn.
    Drawn,
    /// Those of documents, drawn.
    Documents,
    /// Those of documents of these lengths, which fill the sequence.
    Given(&'static [usize]),
}

/// Visible blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// For whom they are.
    pub of: PerHead,
    /// Every second one, as on a checkerboard; else drawn.
    pub checkerboard: bool,
}

/// Sizes of a bias: which of those of the problem it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bias {
    /// One for each sequence.
    pub batch: bool,
    /// One for each query head.
    pub heads: bool,
    /// One for each query.
    pub queries: bool,
    /// A third of it is -inf.
    pub hides: bool,
    /// Its rows begin at multiples of 16 bytes, so that kernels may load it in tiles.
    pub padded: bool,
}

/// Numbers of a case, drawn.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// Sequences of q.
    pub queries: Vec<Tokens>,
    /// Sequences of k and v.
    pub keys: Vec<Tokens>,
    /// First rows of packed sequences of q, and the end of the last one.
    pub starts_q: Option<Vec<i32>>,
    /// The same of k and v.
    pub starts_kv: Option<Vec<i32>>,
    /// Queries that count.
    pub used_q: Option<Vec<i32>>,
    /// Keys that count.
    pub used_kv: Option<Vec<i32>>,
    /// Lengths of prefixes.
    pub prefix: Option<Vec<i32>>,
    /// Ranges of keys of (sequences in memory, query heads), and whether a block is seen.
    pub ranges: Option<Vec<Vec<Vec<Range<usize>>>>>,
    /// See [`Self::ranges`].
    pub blocks: Option<Broadcast<bool>>,
    /// Logits of query heads.
    pub sinks: Option<Vec<f32>>,
    /// Slopes of query heads, maybe of each sequence.
    pub slopes: Option<Broadcast<f32>>,
    /// What is added to scores.
    pub bias: Option<Broadcast<f32>>,
}

impl Numbers {
    /// The most keys that a sequence has.
    pub fn most_keys(&self) -> usize {
        self.keys.iter().map(|keys| keys.len).max().unwrap_or(0)
    }
}

impl Extras {
    /// What a kernel needs, so that it is among those that can compute a case.
    pub fn of_kernel(variant: &Variant) -> Self {
        let softcap = variant.caps_scores().then_some(20.0);
        let approximate_tanh = variant.score == Score::SoftcapApprox;
        let alibi = matches!(variant.score, Score::Alibi | Score::Biased).then_some(Slopes::PerHead);
        let ranges = (variant.mask == config::Mask::Sparse).then_some(Ranges::drawn(PerHead::EACH));
        let head_dim_v = (variant.head_dim_v != variant.head_dim).then_some(variant.head_dim_v as usize);
        let bias = variant.has_bias_tiles().then_some(Bias { padded: true, ..Bias::FULL });
        Extras { head_dim_v, softcap, approximate_tanh, alibi, bias, ranges, ..Extras::default() }
    }

    /// Tokens of all packed sequences.
    pub fn total(lengths: Lengths, batch: usize) -> usize {
        lengths.draw(batch, SHAPE_SEED).iter().sum()
    }

    /// The numbers of a case of `batch` sequences of these lengths, if they are not packed.
    pub fn numbers(
        &self,
        batch: usize,
        seqlen_q: usize,
        seqlen_kv: usize,
        heads_q: usize,
        seed: u64,
    ) -> Numbers {
        let starts =
            |packed: Option<Lengths>| packed.map(|lengths| cu_seqlens(&lengths.draw(batch, SHAPE_SEED)));
        let tokens = |starts: &Option<Vec<i32>>, seqlen: usize| match starts {
            Some(starts) => Tokens::packed(starts),
            None => (0..batch).map(|batch| Tokens { batch, start: 0, len: seqlen }).collect(),
        };
        let (starts_q, starts_kv) = (starts(self.packed_q), starts(self.packed_kv));
        let (mut queries, mut keys) = (tokens(&starts_q, seqlen_q), tokens(&starts_kv, seqlen_kv));
        let lens = |tokens: &[Tokens]| tokens.iter().map(|tokens| tokens.len).collect::<Vec<_>>();
        let (mut used_q, mut used_kv) = (None, None);
        if self.used {
            let (of_q, of_kv) = (seqused(&lens(&queries), seed), seqused(&lens(&keys), seed + 1));
            (queries, keys) = (Tokens::used(&queries, &of_q), Tokens::used(&keys, &of_kv));
            (used_q, used_kv) = (Some(of_q), Some(of_kv));
        }
        let prefix = self.prefix.map(|prefix| match prefix {
            Prefix::Drawn => prefixes(&lens(&keys), seed + 2),
            Prefix::Keys(keys) => vec![keys; batch],
        });
        let prefix = prefix.map(|prefix| prefix.into_iter().map(|keys| keys as i32).collect());
        let sinks = self.sinks.then(|| sinks(heads_q, seed + 3));
        let slopes = self.alibi.map(|slopes| match slopes {
            Slopes::PerHead => Broadcast::per_head(alibi_slopes(heads_q)),
            Slopes::PerSequenceAndHead => random_slopes(batch, heads_q, seed + 4),
        });
        let bias = self.bias.map(|of| {
            let sizes = of.sizes([batch, heads_q, seqlen_q, seqlen_kv]);
            if of.hides { hiding_bias(sizes, 0.3, seed + 5) } else { bias(sizes, seed + 5) }
        });
        let longest_kv = Extras::longest(self.packed_kv, batch, seqlen_kv);
        let [memory_batch, rows] = match self.packed_q {
            Some(lengths) => [1, Extras::total(lengths, batch)],
            None => [batch, seqlen_q],
        };
        let ranges = self.ranges.map(|Ranges { of, kind }| {
            let [batch, heads] = of.sizes(memory_batch, heads_q);
            let draw = |seed| match kind {
                RangeKind::Drawn => key_ranges(rows, longest_kv, seed),
                RangeKind::Documents => document_ranges(rows, longest_kv, seed),
                RangeKind::Given(lengths) => ranges_of_documents(lengths),
            };
            let of_sequence = |b| (0..heads).map(|h| draw(seed + (6 + b * heads + h) as u64)).collect();
            (0..batch).map(of_sequence).collect()
        });
        let sizes = self.sparse_sizes([batch, heads_q, seqlen_q, seqlen_kv]).blocks;
        let blocks = self.blocks.zip(sizes).map(|(blocks, sizes)| match blocks.checkerboard {
            true => checkerboard(sizes),
            false => bitmap(sizes, 0.6, seed + 5),
        });
        Numbers {
            queries,
            keys,
            starts_q,
            starts_kv,
            used_q,
            used_kv,
            prefix,
            ranges,
            blocks,
            sinks,
            slopes,
            bias,
        }
    }

    /// The same, without numbers, as the host asks for it.
    pub fn features(&self, causal: bool, sizes: [usize; 4], dtype: Dtype) -> Features {
        let [batch, ..] = sizes;
        Features {
            left: self.left,
            right: if causal { Some(0) } else { self.right },
            align: self.align(),
            chunk: self.chunk,
            prefix: self.prefix.is_some(),
            sparse: self.sparse_sizes(sizes),
            softcap: self.softcap,
            approximate_tanh: self.approximate_tanh,
            sinks: self.sinks,
            alibi: self.alibi,
            bias: self.bias.map(|bias| bias.layout(dtype, bias.sizes(sizes))),
            bias_is_aligned: true,
            function: None,
            dropout: self.dropout.map(Dropout::asked),
            packed_q: self.packed_q.map(|_| batch),
            packed_kv: self.packed_kv.map(|_| batch),
            used_q: self.used,
            used_kv: self.used,
        }
    }

    /// Sizes of ranges and blocks; lists have room for all blocks.
    fn sparse_sizes(&self, [batch, heads, seqlen_q, seqlen_kv]: [usize; 4]) -> SparseSizes {
        let memory_batch = if self.packed_q.is_some() { 1 } else { batch };
        let blocks = self.blocks.map(|Blocks { of, .. }| {
            let [of_batch, of_heads] = of.sizes(batch, heads);
            let [queries, keys] = [(self.packed_q, seqlen_q), (self.packed_kv, seqlen_kv)]
                .map(|(packed, seqlen)| Extras::longest(packed, batch, seqlen).div_ceil(MASK_BLOCK));
            [of_batch, of_heads, queries, keys]
        });
        SparseSizes { ranges: self.ranges.map(|ranges| ranges.of.sizes(memory_batch, heads)), blocks }
    }

    /// The longest of packed sequences, or the length of all.
    fn longest(packed: Option<Lengths>, batch: usize, seqlen: usize) -> usize {
        packed.map_or(seqlen, |lengths| lengths.draw(batch, SHAPE_SEED).into_iter().max().unwrap_or(0))
    }

    fn align(&self) -> Align {
        if self.top_left { Align::TopLeft } else { Align::BottomRight }
    }

    /// The same for the oracle.
    pub fn judged_by(&self, causal: bool, numbers: &Numbers, plain: oracle::Attention) -> oracle::Attention {
        let prefix = numbers.prefix.as_ref().map(|prefix| prefix.iter().map(|&keys| keys as usize).collect());
        let mask = Mask {
            left: self.left,
            right: if causal { Some(0) } else { self.right },
            align: if self.top_left { oracle::Align::TopLeft } else { oracle::Align::BottomRight },
            chunk: self.chunk,
            prefix,
            ranges: numbers.ranges.as_ref().map(|of| {
                // (sequences, heads, rows), each of the first two maybe one for all, becomes (heads, all rows).
                let heads = of.first().map_or(0, Vec::len);
                let sequences = plain.q.shape.batch;
                let of_head = |h: usize| (0..sequences).flat_map(move |b| of[b.min(of.len() - 1)][h].clone());
                (0..heads).map(|h| of_head(h).collect()).collect()
            }),
            blocks: numbers.blocks.clone().map(|visible| oracle::Blocks {
                block_q: MASK_BLOCK,
                block_kv: MASK_BLOCK,
                visible,
            }),
        };
        oracle::Attention {
            mask,
            scoring: Scoring {
                softcap: self.softcap.map(f64::from),
                tanh_error: if self.approximate_tanh { TANH_ERROR } else { 0.0 },
                alibi: numbers.slopes.clone(),
                bias: numbers.bias.clone(),
                modify: None,
            },
            sinks: numbers.sinks.clone(),
            dropout: self.dropout.map(|Dropout { threshold, seed, offset }| {
                oracle::Dropout::promised(threshold, seed, offset, plain.q.shape.heads)
            }),
            queries: numbers.queries.clone(),
            keys: numbers.keys.clone(),
            ..plain
        }
    }
}

fn ints(array: &Option<Array<i32>>) -> Option<ArrayView<'_, i32>> {
    array.as_ref().map(Array::view)
}

/// The numbers of a case on a device.
#[derive(Debug)]
pub struct ExtrasOnDevice {
    extras: Extras,
    starts_q: Option<Array<i32>>,
    starts_kv: Option<Array<i32>>,
    used_q: Option<Array<i32>>,
    used_kv: Option<Array<i32>>,
    prefix: Option<Array<i32>>,
    ranges: Option<(Array<i32>, [usize; 2])>,
    blocks: Option<(Array<i32>, Array<i32>, [usize; 4])>,
    sinks: Option<Array<f32>>,
    slopes: Option<Array<f32>>,
    bias: Option<(Array<u16>, BiasLayout)>,
}

impl ExtrasOnDevice {
    /// Copies them there.
    pub fn new(device: &Device, extras: Extras, numbers: &Numbers, dtype: Dtype) -> flashcore::Result<Self> {
        fn upload<T: bytemuck::Pod>(
            device: &Device,
            numbers: &Option<Vec<T>>,
        ) -> flashcore::Result<Option<Array<T>>> {
            numbers.as_ref().map(|numbers| Array::from_slice(device, numbers)).transpose()
        }
        Ok(ExtrasOnDevice {
            extras,
            starts_q: upload(device, &numbers.starts_q)?,
            starts_kv: upload(device, &numbers.starts_kv)?,
            used_q: upload(device, &numbers.used_q)?,
            used_kv: upload(device, &numbers.used_kv)?,
            prefix: upload(device, &numbers.prefix)?,
            ranges: match numbers.ranges.as_deref().map(|ranges| range_numbers(ranges, numbers.most_keys())) {
                Some((numbers, sizes)) => Some((Array::from_slice(device, &numbers)?, sizes)),
                None => None,
            },
            blocks: match numbers.blocks.as_ref().map(block_numbers) {
                Some((counts, lists, sizes)) => {
                    Some((Array::from_slice(device, &counts)?, Array::from_slice(device, &lists)?, sizes))
                }
                None => None,
            },
            sinks: upload(device, &numbers.sinks)?,
            slopes: upload(device, &numbers.slopes.as_ref().map(|slopes| slopes.data.clone()))?,
            bias: extras
                .bias
                .zip(numbers.bias.as_ref())
                .map(|(of, bias)| upload_bias(device, of, bias, dtype))
                .transpose()?,
        })
    }

    /// Where sequences lie.
    pub fn sequences(&self) -> Sequences<'_> {
        let mut sequences = Sequences::new();
        sequences = ints(&self.starts_q).map_or(sequences, |starts| sequences.starts_q(starts));
        sequences = ints(&self.starts_kv).map_or(sequences, |starts| sequences.starts_kv(starts));
        sequences = ints(&self.used_q).map_or(sequences, |used| sequences.used_q(used));
        ints(&self.used_kv).map_or(sequences, |used| sequences.used_kv(used))
    }

    /// The call with all of them.
    pub fn attention(&self) -> Attention<'_> {
        let Extras { left, right, chunk, softcap, approximate_tanh, dropout, .. } = self.extras;
        let sequences = self.sequences();
        let mut attention =
            Attention::new().window(left, right).align(self.extras.align()).sequences(sequences);
        attention = chunk.map_or(attention, |keys| attention.chunk(keys));
        attention = match (softcap, approximate_tanh) {
            (None, _) => attention,
            (Some(cap), false) => attention.softcap(cap),
            (Some(cap), true) => attention.approximate_softcap(cap),
        };
        attention = dropout.map_or(attention, |dropout| attention.dropout(dropout.asked()));
        attention = ints(&self.prefix).map_or(attention, |prefix| attention.prefix(prefix));
        attention = self.ranges.as_ref().map_or(attention, |(numbers, sizes)| {
            attention.key_ranges(KeyRanges::new(numbers.view(), *sizes))
        });
        attention = self.blocks.as_ref().map_or(attention, |(counts, indices, sizes)| {
            attention.block_mask(BlockMask::new(counts.view(), indices.view(), *sizes))
        });
        attention = self.slopes.as_ref().map_or(attention, |slopes| attention.alibi(slopes.view()));
        attention = self.bias.as_ref().map_or(attention, |(numbers, layout)| {
            let numbers = numbers.view();
            // SAFETY: they are as long as the layout says, and live as long as this.
            let view = unsafe { BiasView::from_raw_parts(numbers.ptr(), 2 * numbers.len(), *layout) };
            attention.bias(view)
        });
        self.sinks.as_ref().map_or(attention, |sinks| attention.sinks(sinks.view()))
    }

    /// Device addresses, as a launch takes them.
    pub fn pointers(&self) -> flashcore::Pointers {
        let ptr = |array: &Option<Array<i32>>| array.as_ref().map_or(0, |array| array.view().ptr());
        flashcore::Pointers {
            starts_q: ptr(&self.starts_q),
            starts_kv: ptr(&self.starts_kv),
            used_q: ptr(&self.used_q),
            used_kv: ptr(&self.used_kv),
            prefix: ptr(&self.prefix),
            ranges: self.ranges.as_ref().map_or(0, |(array, _)| array.view().ptr()),
            block_counts: self.blocks.as_ref().map_or(0, |(counts, ..)| counts.view().ptr()),
            block_indices: self.blocks.as_ref().map_or(0, |(_, indices, _)| indices.view().ptr()),
            sinks: self.sinks.as_ref().map_or(0, |array| array.view().ptr()),
            slopes: self.slopes.as_ref().map_or(0, |array| array.view().ptr()),
            bias: self.bias.as_ref().map_or(0, |(array, _)| array.view().ptr()),
            ..flashcore::Pointers::default()
        }
    }
}

impl Bias {
    /// For every score one.
    pub const FULL: Bias = Bias { batch: true, heads: true, queries: true, hides: false, padded: false };

    fn sizes(self, [batch, heads, queries, keys]: [usize; 4]) -> [usize; 4] {
        let size = |own: bool, size: usize| if own { size } else { 1 };
        [size(self.batch, batch), size(self.heads, heads), size(self.queries, queries), keys]
    }

    /// Where its numbers lie, of these sizes.
    fn layout(self, dtype: Dtype, sizes: [usize; 4]) -> BiasLayout {
        let [batch, heads, queries, keys] = sizes;
        let room = if self.padded { keys.next_multiple_of(8) } else { keys };
        BiasLayout { sizes, ..BiasLayout::packed(dtype, [batch, heads, queries, room]) }
    }
}

impl Ranges {
    /// Any.
    pub const fn drawn(of: PerHead) -> Self {
        Ranges { of, kind: RangeKind::Drawn }
    }

    /// Those of documents, drawn.
    pub const fn documents(of: PerHead) -> Self {
        Ranges { of, kind: RangeKind::Documents }
    }
}

impl Blocks {
    /// Any.
    pub const fn drawn(of: PerHead) -> Self {
        Blocks { of, checkerboard: false }
    }
}

impl PerHead {
    /// The same for all.
    pub const ONE: PerHead = PerHead { batch: false, heads: false };
    /// One for each.
    pub const EACH: PerHead = PerHead { batch: true, heads: true };

    fn sizes(self, batch: usize, heads: usize) -> [usize; 2] {
        [if self.batch { batch } else { 1 }, if self.heads { heads } else { 1 }]
    }
}

/// Ranges as a device has them, and their sizes. Where one goes to the end of the most keys that a sequence has, it goes
/// far beyond: kernels do not care.
pub fn range_numbers(ranges: &[Vec<Vec<Range<usize>>>], most_keys: usize) -> (Vec<i32>, [usize; 2]) {
    let sizes = [ranges.len(), ranges.first().map_or(0, Vec::len)];
    let pair = |range: &Range<usize>| {
        let first = if range.start == 0 { -5 } else { range.start as i32 };
        [first, if range.end >= most_keys { i32::MAX } else { range.end as i32 }]
    };
    (ranges.iter().flatten().flatten().flat_map(pair).collect(), sizes)
}

/// Lengths of the lists of visible blocks, these lists, and their sizes, as a device has them.
pub fn block_numbers(blocks: &Broadcast<bool>) -> (Vec<i32>, Vec<i32>, [usize; 4]) {
    let keys = blocks.sizes[3];
    let (mut counts, lists) = block_lists(&blocks.data, keys);
    counts.resize(blocks.sizes[..3].iter().product(), 0); // without keys there is no bit to count
    let longest = lists.len().checked_div(counts.len()).unwrap_or(0);
    // Room for all; what is not listed is never looked at.
    let rows = lists.chunks(longest.max(1));
    let lists = rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat(-1)).take(keys));
    let lists = if longest == 0 { vec![-1; counts.len() * keys] } else { lists.collect() };
    (counts, lists, blocks.sizes)
}

/// A copy of a bias on the device; what fills its rows up is NaN.
fn upload_bias(
    device: &Device,
    of: Bias,
    bias: &Broadcast<f32>,
    dtype: Dtype,
) -> flashcore::Result<(Array<u16>, BiasLayout)> {
    let layout = of.layout(dtype, bias.sizes);
    let (keys, room) = (bias.sizes[3], layout.strides[2]);
    let rows = bias.data.chunks(keys.max(1));
    let row =
        |row: &[f32]| (0..room).map(|key| row.get(key).map_or(u16::MAX, |&x| encode(dtype, x))).collect();
    let numbers = rows.map(row).collect::<Vec<Vec<u16>>>().concat();
    Ok((Array::from_slice(device, &numbers)?, layout))
}

impl fmt::Display for Extras {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let numbers =
            [("dv", self.head_dim_v), ("left", self.left), ("right", self.right), ("chunk", self.chunk)];
        for (name, number) in numbers {
            if let Some(number) = number {
                write!(f, "_{name}{number}")?;
            }
        }
        if let Some(softcap) = self.softcap {
            write!(f, "_{}softcap{softcap}", if self.approximate_tanh { "about_" } else { "" })?;
        }
        for (name, lengths) in [("q", self.packed_q), ("kv", self.packed_kv)] {
            if let Some(lengths) = lengths {
                write!(f, "_{name}{lengths:?}")?;
            }
        }
        let of = |PerHead { batch, heads }| {
            format!("{}{}", if batch { "b" } else { "" }, if heads { "h" } else { "" })
        };
        if let Some(ranges) = self.ranges {
            match ranges.kind {
                RangeKind::Drawn => write!(f, "_ranges")?,
                RangeKind::Documents => write!(f, "_documents")?,
                RangeKind::Given(lengths) => {
                    write!(f, "_documents")?;
                    lengths.iter().try_for_each(|length| write!(f, "-{length}"))?;
                }
            }
            write!(f, "{}", of(ranges.of))?;
        }
        if let Some(blocks) = self.blocks {
            let kind = if blocks.checkerboard { "checkerboard" } else { "blocks" };
            write!(f, "_{kind}{}", of(blocks.of))?;
        }
        if let Some(Dropout { threshold, seed, offset }) = self.dropout {
            write!(f, "_keep{threshold}_{seed:x}_{offset}")?;
        }
        if let Some(slopes) = self.alibi {
            write!(f, "_alibi_{slopes:?}")?;
        }
        if let Some(Bias { batch, heads, queries, hides, padded }) = self.bias {
            write!(f, "_bias")?;
            let parts = [(batch, "b"), (heads, "h"), (queries, "q"), (hides, "_hides"), (padded, "_padded")];
            parts.into_iter().filter(|(there, _)| *there).try_for_each(|(_, name)| write!(f, "{name}"))?;
        }
        if self.top_left {
            write!(f, "_topleft")?;
        }
        match self.prefix {
            Some(Prefix::Drawn) => write!(f, "_prefix")?,
            Some(Prefix::Keys(keys)) => write!(f, "_prefix{keys}")?,
            None => {}
        }
        let flags = [("sinks", self.sinks), ("used", self.used)];
        flags.into_iter().filter(|(_, there)| *there).try_for_each(|(name, _)| write!(f, "_{name}"))
    }
}
