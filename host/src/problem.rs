//! What is to be computed, checked. No addresses and no device: those are checked by `check`.

use std::ops::RangeInclusive;

use flashcore_kernels::config::{Dtype, Fp8, Mask, Score, Variant};
use flashcore_kernels::entry::{FWD, FWD_FP8};

use crate::error::{Dim, Error, Operand, Result};
use crate::features::Features;
use crate::ragged;
use crate::tensor::{Shape, TensorLayout};
use crate::tensor_map::{self, MapElement};

/// Head dimensions are multiples of this: 16 bytes, the step of TMA.
pub const HEAD_DIM_STEP: usize = tensor_map::ALIGNMENT as usize / Dtype::SIZE as usize;
/// The widest head that a kernel computes; of those that change scores, the widest is 256.
pub const MAX_HEAD_DIM: usize = 512;
/// Longest sequence, and most heads and sequences: coordinates of tiles are i32, and a tile may end, in a cluster also
/// begin, beyond the tensor.
pub const MAX_DIM: usize = i32::MAX as usize - 255;
/// Longest sequence, or packed sequences together, where a call asks for more than plain attention.
pub const MAX_GENERAL_DIM: usize = flashcore_kernels::band::UNLIMITED as usize;
/// Strides are less than this many elements.
pub const MAX_STRIDE: usize = tensor_map::STRIDE_LIMIT as usize / Dtype::SIZE as usize;

/// Scales that slopes can be divided by: not so small that what is left is out of range, nor so large that it is nothing.
const SCALES_OF_SLOPES: RangeInclusive<f32> = 1e-15..=1e15;

/// The widest head of tensors of 8 bits.
pub const MAX_FP8_HEAD_DIM: usize = 256;
/// Strides of tensors of 8 bits are multiples of this many elements: 16 bytes, the step of TMA.
pub const FP8_STEP: usize = tensor_map::ALIGNMENT as usize;

/// How q, k and v of 8 bits lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fp8Layouts {
    /// Their element type.
    pub(crate) kind: Fp8,
    /// v as it lies in memory: what it calls positions are columns, and what it calls columns are keys.
    pub(crate) values: TensorLayout,
    /// How many packed sequences v has, each of which begins a group of keys; `None` if they are not packed.
    pub(crate) packed: Option<usize>,
    /// Whether q, k and v have descales of each head, rather than one for all.
    pub(crate) per_head: [bool; 3],
}

/// An attention problem that a kernel can compute: `out = softmax(scale * q kᵀ) v`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    pub(crate) q: TensorLayout,
    pub(crate) k: TensorLayout,
    pub(crate) v: TensorLayout,
    pub(crate) out: TensorLayout,
    pub(crate) features: Features,
    pub(crate) scale: f32,
    /// How q, k and v lie if they have 8 bits.
    pub(crate) fp8: Option<Fp8Layouts>,
}

impl Problem {
    /// Plain attention, under a causal mask or none: checks shapes, types, strides and scale; `scale` defaults to
    /// `1 / sqrt(head_dim)`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(
        q: TensorLayout,
        k: TensorLayout,
        v: TensorLayout,
        out: TensorLayout,
        causal: bool,
        scale: Option<f32>,
    ) -> Result<Self> {
        Problem::with_features([q, k, v, out], Features::causal(causal), scale)
    }

    /// Attention with features. Where sequences are packed, the batch of those tensors is 1.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn with_features(
        [q, k, v, out]: [TensorLayout; 4],
        features: Features,
        scale: Option<f32>,
    ) -> Result<Self> {
        for head_dim in [q.shape.head_dim, v.shape.head_dim] {
            if !(HEAD_DIM_STEP..=MAX_HEAD_DIM).contains(&head_dim) || !head_dim.is_multiple_of(HEAD_DIM_STEP)
            {
                return Err(Error::HeadDim { head_dim, limit: MAX_HEAD_DIM });
            }
        }
        check_agreement(&q, &k, &v, &out, &features)?;
        features.check()?;
        let q = check_layout(Operand::Q, q.normalized())?;
        let k = check_layout(Operand::K, k.normalized())?;
        let v = check_layout(Operand::V, v.normalized())?;
        let out = check_layout(Operand::Out, out.normalized())?;
        check_distinct_elements(&out)?;
        let head_dim = q.shape.head_dim.max(v.shape.head_dim);
        match features.function {
            Some(function) => function.check(head_dim, q.dtype, features.sparse.any())?,
            None => check_width(head_dim, q.dtype, &features)?,
        }
        let mut features = features;
        if let Some(bias) = features.bias {
            let sizes = [q.shape.batch, q.shape.heads, q.shape.seqlen, k.shape.seqlen];
            features.bias = Some(bias.checked(q.dtype, sizes)?);
        }
        let sequences = features.packed_q.unwrap_or(q.shape.batch);
        let (rows, packed) = (q.shape.seqlen, features.packed_q.is_some());
        features.sparse.check(q.shape.batch, sequences, q.shape.heads, rows, packed)?;
        let scale = scale.unwrap_or(1.0 / (q.shape.head_dim as f32).sqrt());
        check_scale(scale, features.softcap)?;
        let problem = Problem { q, k, v, out, features, scale, fp8: None };
        if problem.needs_general_kernel() {
            check_general(&problem)?;
        }
        Ok(problem)
    }

    /// The same with q, k and v of 8 bits, of heads of up to [`MAX_FP8_HEAD_DIM`] columns. Layouts of q and k are in
    /// elements, that of v is not used but for its shape.
    pub(crate) fn with_fp8(
        [q, k, v, out]: [TensorLayout; 4],
        fp8: Fp8Layouts,
        features: Features,
        scale: Option<f32>,
    ) -> Result<Self> {
        let Features { alibi, bias, bias_is_aligned, dropout, function, sparse, .. } = Features::NONE;
        if features != (Features { alibi, bias, bias_is_aligned, dropout, function, sparse, ..features }) {
            return Err(Error::Fp8Features);
        }
        // No sequences at all, and nothing to compute, may lie anyhow.
        if features.packed_kv != fp8.packed && features.packed_kv != Some(0) {
            let (operand, expected, found) = (Operand::V, features.packed_kv, fp8.packed);
            return Err(Error::Fp8Packing { operand, expected, found });
        }
        let head_dim = q.shape.head_dim.max(v.shape.head_dim);
        if head_dim > MAX_FP8_HEAD_DIM {
            return Err(Error::HeadDim { head_dim, limit: MAX_FP8_HEAD_DIM });
        }
        let problem = Problem::with_features([q, k, v, out], features, scale)?;
        // Columns are bytes here, which are not always steps of TMA.
        let [q, k] = [problem.q, problem.k].map(|layout| layout.normalized_by(FP8_STEP));
        let problem = Problem { q, k, ..problem };
        let values = fp8.values.normalized();
        for (operand, layout) in [(Operand::Q, &problem.q), (Operand::K, &problem.k), (Operand::V, &values)] {
            for (dim, size, stride) in layout.outer_dims() {
                if size > 1 && !layout.shape.is_empty() && !stride.is_multiple_of(FP8_STEP) {
                    return Err(Error::StrideMisaligned { operand, dim, stride, multiple: FP8_STEP });
                }
            }
        }
        let values = check_layout(Operand::V, values)?;
        let problem = Problem { fp8: Some(Fp8Layouts { values, ..fp8 }), ..problem };
        if problem.needs_general_kernel() {
            check_general(&problem)?;
        }
        let computes =
            |v: &Variant| v.mask == problem.mask() && problem.is_scored_by(v.score) && problem.fits(v);
        if problem.kernels().iter().any(computes) { Ok(problem) } else { Err(Error::Fp8Features) }
    }

    /// Bytes of an element of q, k and v.
    pub(crate) fn element_bytes(&self) -> usize {
        if self.fp8.is_some() { 1 } else { Dtype::SIZE as usize }
    }

    /// Element type of q, k and v for TMA.
    pub(crate) fn input_element(&self) -> MapElement {
        if self.fp8.is_some() { MapElement::U8 } else { self.q.dtype.into() }
    }

    /// Element type of all tensors, or of out if others have 8 bits.
    pub fn dtype(&self) -> Dtype {
        self.q.dtype
    }

    /// Whether `variant` computes as many columns of q and k, and of v and out, in their element type.
    pub(crate) fn fits(&self, variant: &Variant) -> bool {
        variant.dtype == self.dtype()
            && variant.fp8 == self.fp8.map(|fp8| fp8.kind)
            && variant.head_dim as usize >= self.q.shape.head_dim
            && variant.head_dim_v as usize >= self.v.shape.head_dim
    }

    /// The kernels that there are for it.
    pub(crate) fn kernels(&self) -> &'static [Variant] {
        match (self.features.function, self.fp8) {
            (Some(function), _) => function.variants(),
            (None, Some(_)) => FWD_FP8,
            (None, None) => FWD,
        }
    }

    /// Whether kernels do with scores what it asks for. Some do one thing that others do among more.
    pub(crate) fn is_scored_by(&self, score: Score) -> bool {
        let Features { alibi, bias, bias_is_aligned, softcap, .. } = self.features;
        let nothing_else = softcap.is_none() && !self.features.drops_weights();
        match score {
            Score::Alibi => {
                alibi.is_some() && bias.is_none() && nothing_else && SCALES_OF_SLOPES.contains(&self.scale)
            }
            Score::BiasTiles => {
                let comes_in_tiles = bias.is_some_and(|bias| bias_is_aligned && bias.comes_in_tiles());
                comes_in_tiles && alibi.is_none() && nothing_else
            }
            Score::SoftcapApprox => {
                self.features.approximate_tanh
                    && self.features.score() == Score::Softcap
                    && self.fp8.is_none()
            }
            score => score == self.features.score(),
        }
    }

    /// Whether only general kernels compute it: by what it asks for, or because its heads are too wide for others.
    pub(crate) fn needs_general_kernel(&self) -> bool {
        matches!(self.mask(), Mask::Band | Mask::Sparse)
            || !self.kernels().iter().any(|v| v.mask == self.mask() && self.fits(v))
    }

    /// Shape of q, and of out but for its head_dim.
    pub fn q_shape(&self) -> Shape {
        self.q.shape
    }

    /// Shape of k, and of v but for its head_dim.
    pub fn kv_shape(&self) -> Shape {
        self.k.shape
    }

    /// What it asks for beyond plain attention.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The mask that a kernel needs.
    pub(crate) fn mask(&self) -> Mask {
        self.features.mask()
    }

    /// Whether general kernels, which can do without, can reach all of the tensors.
    pub(crate) fn fits_general_kernels(&self) -> bool {
        check_general(self).is_ok()
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.features.packed_q.unwrap_or(self.q.shape.batch)
    }

    /// Whether query i sees only the keys up to `i + seqlen_kv - seqlen_q`, and nothing else is asked for.
    pub fn causal(&self) -> bool {
        self.mask() == Mask::Causal
    }

    /// What scores are multiplied with before the softmax.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Query heads that share one K/V head.
    pub fn gqa_ratio(&self) -> usize {
        // No query heads, no ratio: 1 is as good as any.
        self.q.shape.heads.checked_div(self.k.shape.heads).unwrap_or(1).max(1)
    }

    /// Bytes that the log-sum-exp output needs.
    ///
    /// # Errors
    /// [`Error::ShapeOverflow`]: queries may be broadcast, so that there are more of them than memory holds.
    pub fn lse_bytes(&self) -> Result<usize> {
        crate::lse::bytes(self.q.shape).ok_or(Error::ShapeOverflow { shape: self.q.shape })
    }
}

/// Whether a kernel of the library does with such heads what is asked for.
fn check_width(head_dim: usize, dtype: Dtype, features: &Features) -> Result<()> {
    let (score, sparse) = (features.score(), features.mask() == Mask::Sparse);
    let kernels = FWD.iter().filter(|v| v.dtype == dtype && v.score == score && v.is_sparse() == sparse);
    let limit = kernels.map(|v| v.head_dim.min(v.head_dim_v) as usize).max().unwrap_or(0);
    if head_dim > limit { Err(Error::TooWideForFeatures { head_dim, limit }) } else { Ok(()) }
}

/// All tensors have one type, and shapes that fit together.
fn check_agreement(
    q: &TensorLayout,
    k: &TensorLayout,
    v: &TensorLayout,
    out: &TensorLayout,
    features: &Features,
) -> Result<()> {
    for (operand, layout) in [(Operand::K, k), (Operand::V, v), (Operand::Out, out)] {
        if layout.dtype != q.dtype {
            return Err(Error::DtypeMismatch { operand, expected: q.dtype, found: layout.dtype });
        }
    }
    let (heads_q, heads_kv) = (q.shape.heads, k.shape.heads);
    if heads_q != 0 && (heads_kv == 0 || !heads_q.is_multiple_of(heads_kv)) {
        return Err(Error::HeadRatio { heads_q, heads_kv });
    }
    for (operand, packed) in [(Operand::StartsQ, features.packed_q), (Operand::StartsKv, features.packed_kv)]
    {
        if let Some(value) = packed.filter(|&sequences| sequences > MAX_DIM) {
            return Err(Error::DimensionTooLarge { operand, dim: Dim::Batch, value, limit: MAX_DIM });
        }
    }
    let sequences = features.packed_q.unwrap_or(q.shape.batch);
    let q_should_be = Shape { batch: if features.packed_q.is_some() { 1 } else { sequences }, ..q.shape };
    let kv_batch = if features.packed_kv.is_some() { 1 } else { sequences };
    let k_should_be = Shape { batch: kv_batch, head_dim: q.shape.head_dim, ..k.shape };
    if let Some(found) = features.packed_kv.filter(|&found| found != sequences) {
        let operand = Operand::StartsKv;
        return Err(Error::ArrayLength { operand, expected: sequences + 1, found: found + 1 });
    }
    for (operand, found, expected) in [
        (Operand::Q, q.shape, q_should_be),
        (Operand::K, k.shape, k_should_be),
        (Operand::V, v.shape, Shape { head_dim: v.shape.head_dim, ..k_should_be }),
        (Operand::Out, out.shape, Shape { head_dim: v.shape.head_dim, ..q.shape }),
    ] {
        for (dim, found, expected) in [
            (Dim::Batch, found.batch, expected.batch),
            (Dim::Seqlen, found.seqlen, expected.seqlen),
            (Dim::Heads, found.heads, expected.heads),
            (Dim::HeadDim, found.head_dim, expected.head_dim),
        ] {
            if found != expected {
                return Err(Error::ShapeMismatch { operand, dim, expected, found });
            }
        }
    }
    Ok(())
}

/// A ragged tensor map can be made of each tensor.
fn check_general(problem: &Problem) -> Result<()> {
    let tensors = [
        (Operand::Q, &problem.q),
        (Operand::K, &problem.k),
        (Operand::V, &problem.v),
        (Operand::Out, &problem.out),
    ];
    for (operand, layout) in tensors {
        let value = layout.shape.seqlen;
        if value > MAX_GENERAL_DIM {
            return Err(Error::DimensionTooLarge {
                operand,
                dim: Dim::Seqlen,
                value,
                limit: MAX_GENERAL_DIM,
            });
        }
        let units = ragged::Reach::of(layout).units();
        if units > ragged::MAX_UNITS {
            return Err(Error::ReachesTooFar { operand, units, limit: ragged::MAX_UNITS });
        }
    }
    if let Some(fp8) = &problem.fp8 {
        let (positions, units) = (fp8.values.shape.head_dim, ragged::Reach::of(&fp8.values).groups());
        if positions > MAX_GENERAL_DIM {
            let (operand, dim, limit) = (Operand::V, Dim::Seqlen, MAX_GENERAL_DIM);
            return Err(Error::DimensionTooLarge { operand, dim, value: positions, limit });
        }
        if units > ragged::MAX_UNITS {
            return Err(Error::ReachesTooFar { operand: Operand::V, units, limit: ragged::MAX_UNITS });
        }
    }
    Ok(())
}

/// A tensor map can be made of the tensor.
pub(crate) fn check_layout(operand: Operand, layout: TensorLayout) -> Result<TensorLayout> {
    for (dim, size, stride) in layout.outer_dims() {
        if size > MAX_DIM {
            return Err(Error::DimensionTooLarge { operand, dim, value: size, limit: MAX_DIM });
        }
        if !stride.is_multiple_of(HEAD_DIM_STEP) {
            return Err(Error::StrideMisaligned { operand, dim, stride, multiple: HEAD_DIM_STEP });
        }
        if stride >= MAX_STRIDE {
            return Err(Error::StrideTooLarge { operand, dim, stride, limit: MAX_STRIDE });
        }
    }
    layout.span_bytes()?;
    Ok(layout)
}

/// No two elements of the output share an address: going outwards, each step leaps over all that lies within.
pub(crate) fn check_distinct_elements(out: &TensorLayout) -> Result<()> {
    if out.shape.is_empty() {
        return Ok(());
    }
    let mut dims = out.outer_dims();
    dims.sort_by_key(|&(_, _, stride)| stride);
    let mut needed = out.shape.head_dim;
    for (dim, size, stride) in dims.into_iter().filter(|&(_, size, _)| size > 1) {
        if stride < needed {
            return Err(Error::OverlappingOutput { dim, stride, needed });
        }
        needed += (size - 1) * stride;
    }
    Ok(())
}

fn check_scale(scale: f32, softcap: Option<f32>) -> Result<()> {
    let scale_log2 = scale * std::f32::consts::LOG2_E;
    // What kernels multiply capped scores with: twice the scale, relative to the cap.
    let capped = softcap.map_or(scale_log2, |softcap| 2.0 * scale_log2 * softcap.recip());
    let usable = scale > 0.0 && scale_log2.is_normal() && capped.is_normal();
    if usable { Ok(()) } else { Err(Error::Scale { scale }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Order, Strides};

    /// q and out, then k and v: (batch 2, seqlen 100, heads 8, head_dim 128), with 2 K/V heads and 300 keys.
    fn layouts() -> [TensorLayout; 4] {
        let q = TensorLayout::packed(Dtype::F16, Shape::new(2, 100, 8, 128), Order::Bshd);
        let kv = TensorLayout::packed(Dtype::F16, Shape::new(2, 300, 2, 128), Order::Bhsd);
        [q, kv, kv, q]
    }

    fn check(change: impl FnOnce(&mut [TensorLayout; 4])) -> Result<Problem> {
        let mut layouts = layouts();
        change(&mut layouts);
        let [q, k, v, out] = layouts;
        Problem::new(q, k, v, out, false, None)
    }

    fn error(change: impl FnOnce(&mut [TensorLayout; 4])) -> Error {
        check(change).unwrap_err()
    }

    fn scaled(scale: f32) -> Result<Problem> {
        let [q, k, v, out] = layouts();
        Problem::new(q, k, v, out, false, Some(scale))
    }

    #[test]
    fn a_good_problem_passes() {
        let problem = check(|_| ()).unwrap();
        assert_eq!(problem.gqa_ratio(), 4);
        assert_eq!(problem.scale(), 1.0 / 128f32.sqrt());
        assert_eq!(problem.lse_bytes(), Ok(4 * 2 * 8 * 100));
    }

    #[test]
    fn head_dims_are_multiples_of_8_up_to_512() {
        for head_dim in (8..=512).step_by(8) {
            let resize = |l: &mut TensorLayout| {
                let shape = Shape { head_dim, ..l.shape };
                *l = TensorLayout::packed(l.dtype, shape, Order::Bshd);
            };
            assert!(check(|l| l.iter_mut().for_each(resize)).is_ok(), "{head_dim}");
        }
        for head_dim in [0, 4, 7, 100, 257, 513, 520, 1 << 20] {
            let expected = Error::HeadDim { head_dim, limit: 512 };
            assert_eq!(error(|l| l[0].shape.head_dim = head_dim), expected);
        }
    }

    #[test]
    fn values_have_a_head_dim_of_their_own() {
        let narrow = |l: &mut TensorLayout| {
            let shape = Shape { head_dim: 64, ..l.shape };
            *l = TensorLayout::packed(l.dtype, shape, Order::Bshd);
        };
        let problem = check(|l| l[2..].iter_mut().for_each(narrow)).unwrap();
        let fits = |head_dim, head_dim_v| {
            let variant = Variant { head_dim, head_dim_v, ..Variant::general(64, Dtype::F16) };
            problem.fits(&variant)
        };
        assert_eq!([fits(128, 64), fits(256, 96), fits(120, 64), fits(128, 56)], [true, true, false, false]);
        assert_eq!(problem.scale(), 1.0 / 128f32.sqrt());
        let (operand, dim, expected, found) = (Operand::Out, Dim::HeadDim, 64, 128);
        let error = Error::ShapeMismatch { operand, dim, expected, found };
        assert_eq!(check(|l| narrow(&mut l[2])), Err(error));
        let error = Error::HeadDim { head_dim: 12, limit: 512 };
        assert_eq!(check(|l| l[2].shape.head_dim = 12), Err(error));
    }

    #[test]
    fn heads_above_256_have_plain_scores_only() {
        let bias = crate::BiasLayout::packed(Dtype::F16, [1, 1, 1, 20]);
        let changes = [
            Features { softcap: Some(5.0), ..Features::NONE },
            Features { alibi: Some(crate::Slopes::PerHead), ..Features::NONE },
            Features { bias: Some(bias), ..Features::NONE },
        ];
        for features in changes {
            for head_dims in [[256, 256], [264, 264], [64, 512], [512, 8]] {
                let layout =
                    |head_dim| TensorLayout::packed(Dtype::F16, Shape::new(1, 20, 2, head_dim), Order::Bshd);
                let [qk, vo] = head_dims.map(layout);
                let widest = head_dims[0].max(head_dims[1]);
                let problem = Problem::with_features([qk, qk, vo, vo], features, None);
                let expected = Error::TooWideForFeatures { head_dim: widest, limit: 256 };
                assert_eq!(problem.err(), (widest > 256).then_some(expected), "{features} {head_dims:?}");
            }
        }
    }

    #[test]
    fn types_must_agree() {
        let mismatch = |operand| Error::DtypeMismatch { operand, expected: Dtype::F16, found: Dtype::Bf16 };
        assert_eq!(error(|l| l[1].dtype = Dtype::Bf16), mismatch(Operand::K));
        assert_eq!(error(|l| l[2].dtype = Dtype::Bf16), mismatch(Operand::V));
        assert_eq!(error(|l| l[3].dtype = Dtype::Bf16), mismatch(Operand::Out));
    }

    #[test]
    fn shapes_must_agree() {
        let mismatch = |operand, dim, expected, found| Error::ShapeMismatch { operand, dim, expected, found };
        assert_eq!(error(|l| l[1].shape.batch = 3), mismatch(Operand::K, Dim::Batch, 2, 3));
        assert_eq!(error(|l| l[1].shape.head_dim = 64), mismatch(Operand::K, Dim::HeadDim, 128, 64));
        assert_eq!(error(|l| l[2].shape.seqlen = 299), mismatch(Operand::V, Dim::Seqlen, 300, 299));
        assert_eq!(error(|l| l[2].shape.heads = 4), mismatch(Operand::V, Dim::Heads, 2, 4));
        assert_eq!(error(|l| l[3].shape.seqlen = 101), mismatch(Operand::Out, Dim::Seqlen, 100, 101));
        assert_eq!(error(|l| l[3].shape.heads = 2), mismatch(Operand::Out, Dim::Heads, 8, 2));
    }

    #[test]
    fn query_heads_are_a_multiple_of_kv_heads() {
        for heads_kv in [0, 3, 16] {
            let expected = Error::HeadRatio { heads_q: 8, heads_kv };
            assert_eq!(error(|l| (l[1].shape.heads, l[2].shape.heads) = (heads_kv, heads_kv)), expected);
        }
    }

    #[test]
    fn dimensions_fit_coordinates() {
        let value = i32::MAX as usize;
        let expected =
            Error::DimensionTooLarge { operand: Operand::K, dim: Dim::Seqlen, value, limit: MAX_DIM };
        assert_eq!(error(|l| (l[1].shape.seqlen, l[2].shape.seqlen) = (value, value)), expected);
    }

    #[test]
    fn tensors_fit_the_address_space() {
        let huge = |l: &mut TensorLayout| {
            l.shape.batch = 1 << 24;
            l.strides.batch = MAX_STRIDE - 8;
        };
        let shape = Shape::new(1 << 24, 100, 8, 128);
        assert_eq!(error(|l| l.iter_mut().for_each(huge)), Error::ShapeOverflow { shape });
    }

    #[test]
    fn strides_are_steps_of_tma() {
        let misaligned =
            Error::StrideMisaligned { operand: Operand::Q, dim: Dim::Seqlen, stride: 1028, multiple: 8 };
        assert_eq!(error(|l| l[0].strides.seqlen = 1028), misaligned);
        let limit = MAX_STRIDE;
        let large = Error::StrideTooLarge { operand: Operand::V, dim: Dim::Batch, stride: limit, limit };
        assert_eq!(error(|l| l[2].strides.batch = limit), large);
        assert!(check(|l| l[2].strides.batch = limit - 8).is_ok());
    }

    #[test]
    fn inputs_may_be_broadcast_but_the_output_may_not() {
        let broadcast = |l: &mut TensorLayout| l.strides.heads = 0;
        assert!(check(|l| l[..3].iter_mut().for_each(broadcast)).is_ok());
        let overlap = |dim, stride, needed| Error::OverlappingOutput { dim, stride, needed };
        assert_eq!(error(|l| broadcast(&mut l[3])), overlap(Dim::Heads, 0, 128));
        assert_eq!(error(|l| l[3].strides.heads = 120), overlap(Dim::Heads, 120, 128));
        assert_eq!(error(|l| l[3].strides.seqlen = 8 * 128 - 8), overlap(Dim::Seqlen, 1016, 1024));
        assert_eq!(error(|l| l[3].strides.batch = 99 * 1024), overlap(Dim::Batch, 99 * 1024, 100 * 1024));
        assert!(check(|l| l[3].strides.batch = 100 * 1024).is_ok());
    }

    #[test]
    fn strides_of_dimensions_of_size_1_do_not_matter() {
        let any = Strides { batch: 1, seqlen: usize::MAX, heads: 3 };
        let layout = TensorLayout { dtype: Dtype::Bf16, shape: Shape::new(1, 1, 1, 72), strides: any };
        let problem = Problem::new(layout, layout, layout, layout, true, None).unwrap();
        assert_eq!(problem.out.strides, Strides { batch: 72, seqlen: 72, heads: 72 });
        let kept = TensorLayout { shape: Shape::new(1, 2, 1, 72), ..layout }.normalized();
        assert_eq!(kept.strides, Strides { batch: 72, seqlen: usize::MAX, heads: 72 });
        let empty = TensorLayout { shape: Shape::new(0, 2, 3, 72), ..layout };
        assert!(Problem::new(empty, empty, empty, empty, true, None).is_ok());
    }

    #[test]
    fn scales_are_positive_and_ordinary() {
        for scale in [1.0, 1e-30, 1e30, f32::MIN_POSITIVE] {
            assert!(scaled(scale).is_ok(), "{scale}");
        }
        for scale in [0.0, -0.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40] {
            assert_eq!(scaled(scale).unwrap_err(), Error::Scale { scale });
        }
        let capped = |softcap, scale| {
            let features = Features { softcap: Some(softcap), ..Features::NONE };
            Problem::with_features(layouts(), features, Some(scale))
        };
        assert!(capped(30.0, 1.0).is_ok());
        assert_eq!(capped(1e-10, 1e30).unwrap_err(), Error::Scale { scale: 1e30 });
        assert_eq!(capped(1e4, 1e-36).unwrap_err(), Error::Scale { scale: 1e-36 });
        assert!(matches!(scaled(f32::NAN), Err(Error::Scale { scale }) if scale.is_nan()));
    }

    /// As [`check`], with features.
    fn with(features: Features, change: impl FnOnce(&mut [TensorLayout; 4])) -> Result<Problem> {
        let mut layouts = layouts();
        change(&mut layouts);
        Problem::with_features(layouts, features, None)
    }

    /// 5 sequences packed in q and out, in k and v, or in both; tensors that hold them have batch 1, others 5.
    fn packed(q: bool, kv: bool) -> (Features, impl Fn(&mut [TensorLayout; 4])) {
        let sequences = |packed: bool| packed.then_some(5);
        let features = Features { packed_q: sequences(q), packed_kv: sequences(kv), ..Features::NONE };
        let set = move |l: &mut [TensorLayout; 4]| {
            for (layout, packed) in l.iter_mut().zip([q, kv, kv, q]) {
                let shape = Shape { batch: if packed { 1 } else { 5 }, ..layout.shape };
                *layout = TensorLayout::packed(layout.dtype, shape, Order::Bshd);
            }
        };
        (features, set)
    }

    #[test]
    fn packed_tensors_have_batch_1_and_as_many_sequences() {
        for (q, kv) in [(true, true), (true, false), (false, true)] {
            let (features, set) = packed(q, kv);
            assert_eq!(with(features, &set).unwrap().sequences(), 5);
            // 2 sequences in a tensor of packed ones, or where there are 5.
            let mismatch = |operand, packed: bool| Error::ShapeMismatch {
                operand,
                dim: Dim::Batch,
                expected: if packed { 1 } else { 5 },
                found: 2,
            };
            let wrong = |i: usize| {
                let change = |l: &mut [TensorLayout; 4]| {
                    set(l);
                    l[i].shape.batch = 2;
                };
                with(features, change).unwrap_err()
            };
            // Where only keys are packed, q says how many sequences there are.
            let of_q = Error::ArrayLength { operand: Operand::StartsKv, expected: 3, found: 6 };
            assert_eq!(wrong(0), if q { mismatch(Operand::Q, q) } else { of_q });
            assert_eq!(wrong(1), mismatch(Operand::K, kv));
            assert_eq!(wrong(2), mismatch(Operand::V, kv));
            let expected = if q { 1 } else { 5 };
            assert_eq!(
                wrong(3),
                Error::ShapeMismatch { operand: Operand::Out, dim: Dim::Batch, expected, found: 2 }
            );
        }
    }

    #[test]
    fn packed_sequences_are_as_many_in_q_and_kv() {
        let (features, set) = packed(true, true);
        let features = Features { packed_kv: Some(4), ..features };
        let expected = Error::ArrayLength { operand: Operand::StartsKv, expected: 6, found: 5 };
        assert_eq!(with(features, set).unwrap_err(), expected);
    }

    #[test]
    fn sequences_are_counted_in_i32() {
        for value in [MAX_DIM + 1, usize::MAX] {
            let error =
                |operand| Error::DimensionTooLarge { operand, dim: Dim::Batch, value, limit: MAX_DIM };
            let (features, set) = packed(true, false);
            let of_q = Features { packed_q: Some(value), ..features };
            assert_eq!(with(of_q, set).unwrap_err(), error(Operand::StartsQ));
            let (features, set) = packed(false, true);
            let of_kv = Features { packed_kv: Some(value), ..features };
            assert_eq!(with(of_kv, set).unwrap_err(), error(Operand::StartsKv));
        }
    }

    #[test]
    fn general_problems_have_limits_of_their_own() {
        let sinks = Features { sinks: true, ..Features::NONE };
        let long = |l: &mut [TensorLayout; 4]| {
            for layout in &mut l[1..3] {
                let shape = Shape { seqlen: MAX_GENERAL_DIM + 1, ..layout.shape };
                *layout =
                    TensorLayout { shape, strides: Strides { batch: 0, seqlen: 0, heads: 0 }, ..*layout };
            }
        };
        let limit = MAX_GENERAL_DIM;
        let expected =
            Error::DimensionTooLarge { operand: Operand::K, dim: Dim::Seqlen, value: limit + 1, limit };
        assert_eq!(with(sinks, long).unwrap_err(), expected);
        assert!(with(Features::NONE, long).is_ok(), "plain kernels count further");

        // Steps of 8 elements from sequence to sequence, 2^38 of them.
        let far = |l: &mut [TensorLayout; 4]| {
            l[2].strides = Strides { batch: MAX_STRIDE - 8, seqlen: 128, heads: 1 << 20 };
        };
        let units = (2 * (MAX_STRIDE - 8) + 300 * 128 + 2 * (1 << 20)) as u64 / 8;
        let expected = Error::ReachesTooFar { operand: Operand::V, units, limit: ragged::MAX_UNITS };
        assert_eq!(with(sinks, far).unwrap_err(), expected);
        assert!(with(Features::NONE, far).is_ok(), "plain kernels reach further");
    }

    #[test]
    fn features_are_checked() {
        let chunk = Features { chunk: Some(0), ..Features::NONE };
        assert_eq!(with(chunk, |_| ()).unwrap_err(), Error::EmptyChunk);
        let window = Features { left: Some(1), prefix: true, ..Features::NONE };
        assert_eq!(with(window, |_| ()).unwrap_err(), Error::PrefixUnderWindow);
        let softcap = Features { softcap: Some(-1.0), ..Features::NONE };
        assert_eq!(with(softcap, |_| ()).unwrap_err(), Error::Softcap { softcap: -1.0 });
    }

    #[test]
    fn the_lse_of_broadcast_queries_may_not_fit() {
        // 2^31 sequences times 2^31 queries, all of them one: no memory, but an output that nobody can hold.
        let dim = MAX_DIM;
        let shape = Shape::new(dim, dim, 8, 8);
        let q = TensorLayout { dtype: Dtype::F16, shape, strides: Strides { batch: 0, seqlen: 0, heads: 0 } };
        assert_eq!(check_layout(Operand::Q, q), Ok(q));
        assert_eq!(crate::lse::bytes(shape), None);
    }
}
