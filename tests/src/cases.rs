//! The shapes that the tests visit.

use std::fmt;

use flashcore::kernels::Variant;
use flashcore::{Dtype, Problem, Shape, Slopes, Strides, TensorLayout};

use crate::extras::{Extras, Numbers, PerHead, RangeKind, Ranges};
use crate::inputs::Fill;
use crate::oracle::Attention;
use crate::side_inputs::Lengths;
use crate::values::{HostTensor, Values};

/// How the tensors of a case lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// (batch, seqlen, heads, head_dim), contiguous.
    #[default]
    Bshd,
    /// (batch, heads, seqlen, head_dim), contiguous.
    Bhsd,
    /// Gaps after every head, token and sequence.
    Padded,
    /// Q, K and V are neighbours in one (batch, seqlen, 3, heads, head_dim) tensor: what a fused projection makes.
    Packed,
    /// All sequences and all heads read the same K and V: strides of 0.
    Broadcast,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Layout; 5] =
        [Layout::Bshd, Layout::Bhsd, Layout::Padded, Layout::Packed, Layout::Broadcast];

    /// Strides of an output of `shape`.
    pub fn output(self, shape: Shape) -> Strides {
        let Shape { seqlen, heads, head_dim, .. } = shape;
        match self {
            Layout::Bshd | Layout::Packed | Layout::Broadcast => {
                Strides { batch: seqlen * heads * head_dim, seqlen: heads * head_dim, heads: head_dim }
            }
            Layout::Bhsd => {
                Strides { batch: heads * seqlen * head_dim, seqlen: head_dim, heads: seqlen * head_dim }
            }
            Layout::Padded => {
                let row = head_dim + 8;
                let token = heads * row + 16;
                Strides { batch: seqlen * token + 24, seqlen: token, heads: row }
            }
        }
    }

    /// Strides of Q.
    pub fn query(self, shape: Shape) -> Strides {
        match self {
            Layout::Packed => tripled(self.output(shape)),
            _ => self.output(shape),
        }
    }

    /// Strides of K and of V.
    pub fn key(self, shape: Shape) -> Strides {
        match self {
            Layout::Packed => tripled(self.output(shape)),
            Layout::Broadcast => Strides { batch: 0, seqlen: shape.head_dim, heads: 0 },
            _ => self.output(shape),
        }
    }
}

fn tripled(strides: Strides) -> Strides {
    Strides { batch: 3 * strides.batch, seqlen: 3 * strides.seqlen, heads: strides.heads }
}

/// One attention problem: everything but the element type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Sequences.
    pub batch: usize,
    /// Queries of a sequence.
    pub seqlen_q: usize,
    /// Keys of a sequence.
    pub seqlen_kv: usize,
    /// Query heads.
    pub heads_q: usize,
    /// Key and value heads.
    pub heads_kv: usize,
    /// Columns.
    pub head_dim: usize,
    /// Whether the mask is causal.
    pub causal: bool,
    /// Factor of the scores; 1/sqrt(head_dim) if absent.
    pub scale: Option<f32>,
    /// Memory layout.
    pub layout: Layout,
    /// Inputs.
    pub fill: Fill,
    /// What it asks for beyond plain attention. Where sequences are packed, `seqlen_q` and `seqlen_kv` do not count.
    pub extras: Extras,
}

impl Default for Case {
    fn default() -> Self {
        Case {
            batch: 2,
            seqlen_q: 128,
            seqlen_kv: 128,
            heads_q: 3,
            heads_kv: 3,
            head_dim: 128,
            causal: false,
            scale: None,
            layout: Layout::Bshd,
            fill: Fill::Normal,
            extras: Extras::default(),
        }
    }
}

/// The inputs of a case, as they lie in memory, and what they mean.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Queries.
    pub q: HostTensor,
    /// Keys.
    pub k: HostTensor,
    /// Values.
    pub v: HostTensor,
    /// The numbers that go along.
    pub numbers: Numbers,
    /// The same, for the oracle.
    pub attention: Attention,
}

impl Case {
    /// What `variant` is there for, with one sequence and one head.
    pub fn of_kernel(variant: &Variant) -> Self {
        Case {
            batch: 1,
            heads_q: 1,
            heads_kv: 1,
            head_dim: variant.head_dim as usize,
            causal: variant.is_causal(),
            extras: Extras::of_kernel(variant),
            ..Case::default()
        }
    }

    /// Shape of O.
    pub fn shape_o(&self) -> Shape {
        Shape { head_dim: self.head_dim_v(), ..self.shape_q() }
    }

    /// Shape of V.
    pub fn shape_v(&self) -> Shape {
        Shape { head_dim: self.head_dim_v(), ..self.shape_kv() }
    }

    /// This case with heads of these columns: of Q and K, and of V and O.
    pub fn of_head_dims(self, (head_dim, head_dim_v): (usize, usize)) -> Self {
        let head_dim_v = (head_dim_v != head_dim).then_some(head_dim_v);
        Case { head_dim, extras: Extras { head_dim_v, ..self.extras }, ..self }
    }

    /// Columns of V and O.
    pub fn head_dim_v(&self) -> usize {
        self.extras.head_dim_v.unwrap_or(self.head_dim)
    }

    /// Shape of Q.
    pub fn shape_q(&self) -> Shape {
        let (batch, seqlen) = self.rows(self.extras.packed_q, self.seqlen_q);
        Shape { batch, seqlen, heads: self.heads_q, head_dim: self.head_dim }
    }

    /// Shape of K.
    pub fn shape_kv(&self) -> Shape {
        let (batch, seqlen) = self.rows(self.extras.packed_kv, self.seqlen_kv);
        Shape { batch, seqlen, heads: self.heads_kv, head_dim: self.head_dim }
    }

    /// Batch and seqlen of a tensor.
    fn rows(&self, packed: Option<Lengths>, seqlen: usize) -> (usize, usize) {
        packed.map_or((self.batch, seqlen), |lengths| (1, Extras::total(lengths, self.batch)))
    }

    /// The numbers that go along.
    pub fn numbers(&self, seed: u64) -> Numbers {
        self.extras.numbers(self.batch, self.seqlen_q, self.seqlen_kv, self.heads_q, seed)
    }

    /// This case, then ever smaller ones of the same lengths: one sequence, one K/V head, at most two query heads.
    pub fn and_thinner(self) -> [Case; 3] {
        let one_sequence = Case { batch: self.batch.min(1), ..self };
        let heads_q = self.heads_q.checked_div(self.heads_kv).unwrap_or(0).min(2);
        [self, one_sequence, Case { heads_q, heads_kv: self.heads_kv.min(1), ..one_sequence }]
    }

    /// The problem that this case poses in `dtype`.
    ///
    /// # Errors
    /// What flashcore refuses.
    pub fn problem(&self, dtype: Dtype) -> flashcore::Result<Problem> {
        let layout = |shape, strides| TensorLayout { dtype, shape, strides };
        let (q, kv, v, o) = (self.shape_q(), self.shape_kv(), self.shape_v(), self.shape_o());
        let (query, key) = (layout(q, self.layout.query(q)), layout(kv, self.layout.key(kv)));
        let (value, out) = (layout(v, self.layout.key(v)), layout(o, self.layout.output(o)));
        let features = self.extras.features(self.causal, [self.batch, q.heads, q.seqlen, kv.seqlen], dtype);
        Problem::with_features([query, key, value, out], features, self.scale)
    }

    /// This case with fresh inputs in `dtype`.
    pub fn inputs(&self, dtype: Dtype, seed: u64) -> Inputs {
        let [q, k, mut v] = self.fill.values(self.shape_q(), self.shape_kv(), seed);
        if self.extras.head_dim_v.is_some() {
            [_, _, v] = self.fill.values(self.shape_o(), self.shape_v(), seed);
        }
        self.inputs_with([q, k, v], dtype, self.numbers(seed))
    }

    /// This case with Q, K and V of these values.
    pub fn inputs_of(&self, values: [Values; 3], dtype: Dtype) -> Inputs {
        self.inputs_with(values, dtype, self.numbers(0))
    }

    fn inputs_with(&self, [q, k, v]: [Values; 3], dtype: Dtype, numbers: Numbers) -> Inputs {
        let q = HostTensor::lay_out(&q, dtype, self.layout.query(self.shape_q()));
        let k = HostTensor::lay_out(&k, dtype, self.layout.key(self.shape_kv()));
        let v = HostTensor::lay_out(&v, dtype, self.layout.key(self.shape_v()));
        let scale = f64::from(self.scale.unwrap_or_else(|| 1.0 / (self.head_dim as f32).sqrt()));
        let plain = Attention::new(q.values(), k.values(), v.values(), scale);
        let attention = self.extras.judged_by(self.causal, &numbers, plain);
        Inputs { q, k, v, numbers, attention }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "b{}_sq{}_sk{}_h{}_{}_d{}",
            self.batch, self.seqlen_q, self.seqlen_kv, self.heads_q, self.heads_kv, self.head_dim
        )?;
        if self.causal {
            write!(f, "_causal")?;
        }
        if let Some(scale) = self.scale {
            write!(f, "_scale{scale}")?;
        }
        if self.layout != Layout::Bshd {
            write!(f, "_{:?}", self.layout)?;
        }
        if self.fill != Fill::Normal {
            write!(f, "_{:?}", self.fill)?;
        }
        write!(f, "{}", self.extras)
    }
}

/// (seqlen_q, seqlen_kv) of FlashAttention-3's tests.
pub const FLASH3_LENGTHS: [(usize, usize); 17] = [
    (1, 1),
    (1, 239),
    (239, 1),
    (799, 3),
    (3, 799),
    (113, 203),
    (128, 217),
    (108, 256),
    (1023, 1024),
    (1024, 1023),
    (4096, 4096),
    (4224, 4224),
    (1, 339),
    (3, 1024),
    (64, 2048),
    (16, 20000),
    (2048, 3577),
];

/// The head dims that have kernels of their own.
pub const KERNEL_HEAD_DIMS: [usize; 5] = [64, 96, 128, 192, 256];

/// Those that have kernels of 8 bits.
pub const FP8_HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Head dims of which some have kernels of their own, for plain scores: of Q and K, and of V and O. The last one has
/// a general kernel only.
pub const OTHER_KERNEL_HEAD_DIMS: [(usize, usize); 3] = [(192, 128), (64, 256), (512, 512)];

/// Whether `variant` is for such head dims. The emulator takes long for them, and what is special about them does not
/// depend on the schedule: a few tests run on fewer schedules.
pub fn has_other_head_dims(variant: &Variant) -> bool {
    OTHER_KERNEL_HEAD_DIMS.contains(&(variant.head_dim as usize, variant.head_dim_v as usize))
}

/// Head dims of models in the field, and the extremes.
pub const HEAD_DIMS: [usize; 17] =
    [8, 16, 40, 64, 72, 80, 96, 104, 112, 128, 160, 192, 248, 256, 264, 320, 512];

/// Lengths around the tile edges: 64 rows of a warpgroup, `block_m` of 128 and 192, `block_n` of 80, 96, 112 and 128.
pub const EDGE_LENGTHS: [usize; 16] = [15, 16, 17, 63, 65, 79, 80, 81, 96, 97, 112, 113, 127, 129, 191, 193];

/// Every case of `forward.rs`, each to be run in both element types.
pub fn forward() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut both_masks = |case: Case| cases.extend([false, true].map(|causal| Case { causal, ..case }));
    for head_dim in KERNEL_HEAD_DIMS {
        for (seqlen_q, seqlen_kv) in FLASH3_LENGTHS {
            both_masks(Case { seqlen_q, seqlen_kv, head_dim, ..Case::default() });
        }
        for length in EDGE_LENGTHS {
            both_masks(Case { seqlen_q: length, seqlen_kv: length, head_dim, ..Case::default() });
            both_masks(Case { seqlen_q: length, seqlen_kv: 2 * length + 1, head_dim, ..Case::default() });
            both_masks(Case { seqlen_q: 2 * length + 1, seqlen_kv: length, head_dim, ..Case::default() });
        }
        for (heads_q, heads_kv) in [(1, 1), (4, 2), (6, 2), (8, 1), (7, 7), (16, 1)] {
            both_masks(Case {
                seqlen_q: 200,
                seqlen_kv: 333,
                heads_q,
                heads_kv,
                head_dim,
                ..Case::default()
            });
        }
        for layout in Layout::ALL {
            let base = Case { seqlen_q: 201, seqlen_kv: 301, head_dim, layout, ..Case::default() };
            both_masks(Case { heads_q: 6, ..base });
            both_masks(Case { batch: 1, seqlen_q: 1, heads_q: 3, heads_kv: 1, ..base });
        }
        for fill in [Fill::Large, Fill::Rising, Fill::OneHot, Fill::Constant, Fill::Masked] {
            both_masks(Case { seqlen_q: 300, seqlen_kv: 500, head_dim, fill, ..Case::default() });
        }
        for scale in [0.01, 1.0, 3.0] {
            both_masks(Case {
                seqlen_q: 150,
                seqlen_kv: 250,
                head_dim,
                scale: Some(scale),
                ..Case::default()
            });
        }
        // Large scores, in many tiles that weigh the same. Larger ones still, where the largest weight is no longer 1,
        // have a test of their own: `exponents_of_thousands`.
        both_masks(Case {
            batch: 1,
            seqlen_q: 40,
            seqlen_kv: 16_384,
            heads_q: 1,
            heads_kv: 1,
            head_dim,
            fill: Fill::Constant,
            scale: Some(4.0),
            ..Case::default()
        });
        // Many more work tiles than SMs, so that CTAs take several and the order of the tiles matters.
        both_masks(Case {
            batch: 5,
            seqlen_q: 1000,
            seqlen_kv: 1100,
            heads_q: 24,
            heads_kv: 8,
            head_dim,
            ..Case::default()
        });
        both_masks(Case {
            batch: 700,
            seqlen_q: 3,
            seqlen_kv: 5,
            heads_q: 2,
            heads_kv: 1,
            head_dim,
            ..Case::default()
        });
    }
    for head_dim in HEAD_DIMS {
        both_masks(Case { seqlen_q: 190, seqlen_kv: 270, head_dim, ..Case::default() });
        both_masks(Case {
            seqlen_q: 270,
            seqlen_kv: 190,
            head_dim,
            layout: Layout::Padded,
            ..Case::default()
        });
    }
    for head_dims in OTHER_KERNEL_HEAD_DIMS {
        for (seqlen_q, seqlen_kv) in [(1, 239), (239, 1), (113, 203), (257, 129), (1023, 1024)] {
            both_masks(Case { seqlen_q, seqlen_kv, ..Case::default() }.of_head_dims(head_dims));
        }
        let base = Case { seqlen_q: 200, seqlen_kv: 333, ..Case::default() };
        let (wide, wide_v) = head_dims;
        for (layout, narrower) in [(Layout::Bhsd, (wide - 8, wide_v)), (Layout::Padded, (wide, wide_v - 8))] {
            both_masks(Case { heads_q: 6, layout, ..base }.of_head_dims(narrower));
        }
        both_masks(Case { fill: Fill::Large, ..base }.of_head_dims(head_dims));
        // Many more work tiles than SMs.
        let many = Case { batch: 5, seqlen_q: 500, seqlen_kv: 600, heads_q: 24, heads_kv: 8, ..base };
        both_masks(many.of_head_dims(head_dims));
    }
    // Several sections of heads, so that a CTA goes from queries that see no key to some that do.
    cases.push(Case {
        batch: 1,
        seqlen_q: 4000,
        seqlen_kv: 1000,
        heads_q: 36,
        heads_kv: 36,
        head_dim: 256,
        causal: true,
        ..Case::default()
    });
    cases
}

/// Large scores of which ALiBi takes most away, so that their log-sum-exps keep the errors of large numbers.
pub fn mostly_taken_away() -> Case {
    Case {
        batch: 1,
        seqlen_q: 110,
        seqlen_kv: 20,
        heads_q: 4,
        heads_kv: 2,
        causal: true,
        scale: Some(0.6503067),
        fill: Fill::Rising,
        extras: Extras { alibi: Some(Slopes::PerHead), top_left: true, ..Extras::default() },
        ..Case::default()
    }
}

/// Random problems that failed once: each with its element type and the seed of its inputs.
pub fn failed_once() -> Vec<(Case, Dtype, u64)> {
    let ranges = Some(Ranges { of: PerHead::ONE, kind: RangeKind::Drawn });
    let one_query = Case { batch: 1, seqlen_q: 1, heads_q: 1, heads_kv: 1, ..Case::default() };
    let few_keys = Extras { ranges, packed_kv: Some(Lengths::WithOnes { longest: 2 }), ..Extras::default() };
    let rising = Case { seqlen_kv: 92, head_dim: 8, fill: Fill::Rising, ..one_query };
    vec![
        (mostly_taken_away(), Dtype::F16, 2_431_366_132_528_090_661),
        // Of one range, which ended before the keys.
        (Case { head_dim: 16, extras: few_keys, ..one_query }, Dtype::Bf16, 5_089_906_758_170_064_015),
        (
            Case { extras: Extras { ranges, ..Extras::default() }, ..rising },
            Dtype::Bf16,
            16_854_777_707_102_345_559,
        ),
    ]
}

/// For kernels of windows, and of capped scores.
pub fn banded() -> Vec<Case> {
    let window = Extras { left: Some(100), right: Some(20), ..Extras::default() };
    let capped = Extras { softcap: Some(20.0), sinks: true, ..window };
    let base = Case { batch: 1, seqlen_q: 150, seqlen_kv: 250, heads_q: 2, heads_kv: 1, ..Case::default() };
    let about = Extras { softcap: Some(20.0), approximate_tanh: true, ..Extras::default() };
    let case = |head_dim| [window, capped, about].map(|extras| Case { head_dim, extras, ..base });
    FP8_HEAD_DIMS.into_iter().flat_map(case).collect()
}

/// A few small cases that touch every variant: quick enough for a race checker.
pub fn small() -> Vec<Case> {
    let mut cases = Vec::new();
    for head_dim in KERNEL_HEAD_DIMS {
        for causal in [false, true] {
            let case = Case { batch: 1, heads_q: 2, heads_kv: 1, head_dim, causal, ..Case::default() };
            cases.push(Case { seqlen_q: 200, seqlen_kv: 300, ..case });
            cases.push(Case { seqlen_q: 1, seqlen_kv: 1, head_dim: head_dim - 8, ..case });
            cases.push(Case { seqlen_q: 70, seqlen_kv: 33, layout: Layout::Padded, ..case });
        }
    }
    for head_dims in OTHER_KERNEL_HEAD_DIMS {
        for causal in [false, true] {
            let case = Case { batch: 1, heads_q: 2, heads_kv: 1, causal, ..Case::default() };
            cases.push(Case { seqlen_q: 200, seqlen_kv: 300, ..case }.of_head_dims(head_dims));
        }
    }
    cases
}
