//! Merging two attention states: checks, plan, call.

use std::fmt;

use flashcore_kernels::config::Dtype;
use flashcore_kernels::divisor::Divisor;
use flashcore_kernels::entry::{MERGE, MergeVariant};
use flashcore_kernels::params::{MergeParams, MergeRows};

use crate::Stream;
use crate::check::{apart, extent, of_device};
use crate::driver::Properties;
use crate::error::{Dim, Error, Operand, Result};
use crate::lse::{self, Lse, LseView};
use crate::problem::{HEAD_DIM_STEP, check_distinct_elements, check_layout};
use crate::tensor::{AsTensorView, Shape, Tensor, TensorLayout, TensorView};
use crate::tensor_map::ALIGNMENT;

/// The widest head that is merged.
pub const MAX_MERGE_HEAD_DIM: usize = 512;
/// Rows are counted in i32.
const MAX_ROWS: u64 = i32::MAX as u64;
/// Threads of a warp.
const LANES: u32 = 32;
const DIMS: [Dim; 4] = [Dim::Batch, Dim::Seqlen, Dim::Heads, Dim::HeadDim];

/// Merges two attention states, the outputs and log-sum-exps of two calls with the same queries and disjoint sets of
/// keys, into new memory: the result is the state of one call over all of these keys.
///
/// ```text
/// lse = ln(exp lse1 + exp lse2)        o = exp(lse1 - lse) o1 + exp(lse2 - lse) o2
/// ```
///
/// This is how keys are worked on in chunks: a long prompt a chunk at a time, keys spread over devices (ring
/// attention), a prefix that many sequences share (cascade inference, Ye et al. 2024), the keys of one query split for
/// the sake of parallelism (Flash-Decoding, Dao et al. 2023). Merging is associative and commutative, but for rounding.
///
/// o1 and o2 are (batch, seqlen, heads, head_dim) of one element type, f16 or bf16; head_dim is a multiple of 8 up to
/// [`MAX_MERGE_HEAD_DIM`]. lse1 and lse2 are what [`crate::Attention::forward_with_lse`] gives: natural logarithm, f32,
/// contiguous (batch, heads, seqlen). The new output lies in the order of o1. Returns before it is computed.
///
/// Weights and sums are f32, taken relative to the larger log-sum-exp of the row; the output is rounded once. So each
/// merge costs half a unit in the last place of the element type; it moves `6 * head_dim + 12` bytes a row and is as
/// fast as memory.
///
/// # Rows without keys, NaN and infinities
///
/// A state whose log-sum-exp is -inf weighs nothing, whatever its output holds; if both are, the row is zeros, and its
/// log-sum-exp -inf. A log-sum-exp of NaN or +inf makes the whole row NaN. Elements of outputs go through the formula
/// as IEEE arithmetic has it, also where a weight is so small that it is 0 in f32: a NaN stays one. bf16 elements and
/// log-sum-exps that are subnormal count as 0.
///
/// ```
/// use flashcore::{Attention, Device, Order, Shape, Tensor, merge_attention_states};
/// use half::f16;
///
/// # fn main() -> flashcore::Result<()> {
/// let device = Device::emulated(); // or Device::cuda(0)?
/// let stream = device.stream()?;
/// let tensor = |x: f32, seqlen| {
///     let shape = Shape { batch: 1, seqlen, heads: 2, head_dim: 64 };
///     Tensor::from_slice(&device, &vec![f16::from_f32(x); seqlen * 2 * 64], shape, Order::Bshd)
/// };
/// let (q, k1, v1, k2, v2) =
///     (tensor(1.0, 5)?, tensor(0.0, 30)?, tensor(1.0, 30)?, tensor(0.0, 10)?, tensor(3.0, 10)?);
/// let attention = Attention::new();
/// let (o1, lse1) = attention.forward_with_lse(&stream, &q, &k1, &v1)?;
/// let (o2, lse2) = attention.forward_with_lse(&stream, &q, &k2, &v2)?;
/// let (o, _) = merge_attention_states(&stream, &o1, lse1.view(), &o2, lse2.view())?;
/// assert_eq!(o.to_vec::<f16>()?[0].to_f32(), 1.5); // 30 keys of 1 and 10 of 3
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`merge_attention_states_into`], and [`Error::OutOfMemory`].
pub fn merge_attention_states(
    stream: &Stream,
    o1: &impl AsTensorView,
    lse1: LseView<'_>,
    o2: &impl AsTensorView,
    lse2: LseView<'_>,
) -> Result<(Tensor, Lse)> {
    let (o1, o2) = (o1.as_view(), o2.as_view());
    let shape = o1.shape();
    let out = Tensor::uninit(stream.device(), o1.dtype(), shape, o1.layout().order())?;
    let lse = Lse::new(stream.device(), shape.batch, shape.heads, shape.seqlen)?;
    merge_attention_states_into(stream, &o1, lse1, &o2, lse2, &out, Some(lse.view()))?;
    Ok((out, lse))
}

/// As [`merge_attention_states`], into memory of the caller's; the log-sum-exp only if asked for. Allocates nothing,
/// waits for nothing, and may be recorded in a CUDA graph.
///
/// It may be done in place: `out` may be o1 or o2 (the same address, shape and strides), and `lse` may be lse1 or lse2.
/// Any other overlap of an output with another tensor is an error.
///
/// # Errors
/// What is wrong with the arguments (see [`enum@Error`]); nothing is launched then.
pub fn merge_attention_states_into(
    stream: &Stream,
    o1: &impl AsTensorView,
    lse1: LseView<'_>,
    o2: &impl AsTensorView,
    lse2: LseView<'_>,
    out: &impl AsTensorView,
    lse: Option<LseView<'_>>,
) -> Result<()> {
    let tensors = [o1.as_view(), o2.as_view(), out.as_view()];
    let [o1, o2, out] = &tensors;
    let plan = MergePlan::new(*o1.layout(), *o2.layout(), *out.layout(), stream.device().properties())?;
    check_memory(&plan, &tensors, [lse1, lse2], lse)?;
    if plan.grid == 0 {
        return Ok(());
    }
    let _entered = stream.device().backend().enter()?;
    let pointers = MergePointers {
        o1: o1.ptr(),
        lse1: lse1.ptr(),
        o2: o2.ptr(),
        lse2: lse2.ptr(),
        out: out.ptr(),
        lse: lse.map_or(0, |lse| lse.ptr()),
    };
    of_device(stream.device(), pointers.named())?;
    // SAFETY: the plan was checked against the views, whose makers vouch for the memory.
    unsafe { stream.launch_merge(&plan, &pointers) }
}

/// How two attention states are merged: which kernel, which grid, which parameters. Pure, and printable.
#[derive(Clone, Debug, PartialEq)]
pub struct MergePlan {
    /// The kernel.
    pub variant: MergeVariant,
    /// CTAs; 0 if there is nothing to compute.
    pub grid: u32,
    /// What the kernel is told; addresses are filled in at launch.
    pub params: MergeParams,
    o1: TensorLayout,
    o2: TensorLayout,
    out: TensorLayout,
}

/// Device addresses of a merge. `lse` is 0 if not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergePointers {
    /// Output of the first state.
    pub o1: u64,
    /// Its log-sum-exp.
    pub lse1: u64,
    /// Output of the second state.
    pub o2: u64,
    /// Its log-sum-exp.
    pub lse2: u64,
    /// The merged output.
    pub out: u64,
    /// Its log-sum-exp.
    pub lse: u64,
}

impl MergePointers {
    /// Every address that is used, and whose it is.
    fn named(&self) -> impl Iterator<Item = (Operand, u64)> {
        let MergePointers { o1, lse1, o2, lse2, out, lse } = *self;
        let always = [
            (Operand::O1, o1),
            (Operand::Lse1, lse1),
            (Operand::O2, o2),
            (Operand::Lse2, lse2),
            (Operand::Out, out),
        ];
        always.into_iter().chain((lse != 0).then_some((Operand::Lse, lse)))
    }
}

impl MergePlan {
    /// Checks shapes, types and strides, and plans the merge for a device.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(o1: TensorLayout, o2: TensorLayout, out: TensorLayout, device: &Properties) -> Result<Self> {
        let head_dim = o1.shape.head_dim;
        let limit = MAX_MERGE_HEAD_DIM;
        if !(HEAD_DIM_STEP..=limit).contains(&head_dim) || !head_dim.is_multiple_of(HEAD_DIM_STEP) {
            return Err(Error::HeadDim { head_dim, limit });
        }
        check_agreement(&o1, &[(Operand::O2, &o2), (Operand::Out, &out)])?;
        let o1 = check_layout(Operand::O1, o1.normalized())?;
        let o2 = check_layout(Operand::O2, o2.normalized())?;
        let out = check_layout(Operand::Out, out.normalized())?;
        check_distinct_elements(&out)?;
        let rows = count_rows(o1.shape)?;

        let chunks = (head_dim / HEAD_DIM_STEP) as u32;
        let lanes = chunks.min(LANES);
        let warp_rows = LANES / lanes;
        let cta_rows = MergeVariant::THREADS / LANES * warp_rows;
        let grid = rows.div_ceil(cta_rows).min(device.sm_count * MergeVariant::CTAS_PER_SM);
        let order = order_in_memory(&out);
        let rows_of = |layout: &TensorLayout| MergeRows {
            ptr: 0,
            strides_bytes: order.map(|i| layout.outer_dims()[i].2 as u64 * u64::from(Dtype::SIZE)),
        };
        let sizes = o1.outer_dims().map(|(_, size, _)| size as u32);
        // (batch, heads, seqlen), in the order of `outer_dims`. As many numbers as rows, which fit.
        let [_, seqlen, heads] = sizes;
        let lse_strides = if rows == 0 { [0; 3] } else { [heads * seqlen, 1, seqlen] };
        let params = MergeParams {
            o1: rows_of(&o1),
            o2: rows_of(&o2),
            out: rows_of(&out),
            lse1: 0,
            lse2: 0,
            lse: 0,
            rows,
            chunks,
            warp_rows,
            grid_rows: grid * cta_rows,
            lanes: Divisor::new(lanes),
            middle: Divisor::new(sizes[order[1]]),
            inner: Divisor::new(sizes[order[2]]),
            lse_strides: order.map(|i| lse_strides[i]),
        };
        let dtype = o1.dtype;
        let variant = *MERGE.iter().find(|variant| variant.dtype == dtype).expect("a kernel for every type");
        Ok(MergePlan { variant, grid, params, o1, o2, out })
    }

    /// The parameters of a launch on tensors at these addresses.
    pub(crate) fn params_at(&self, pointers: &MergePointers) -> MergeParams {
        let MergePointers { o1, lse1, o2, lse2, out, lse } = *pointers;
        let at = |ptr, rows: MergeRows| MergeRows { ptr, ..rows };
        let params = self.params;
        let (o1, o2, out) = (at(o1, params.o1), at(o2, params.o2), at(out, params.out));
        MergeParams { o1, o2, out, lse1, lse2, lse, ..params }
    }

    /// Bytes that the kernel reads and writes, the log-sum-exp of the output included.
    pub fn bytes(&self) -> u64 {
        let row = 3 * (self.o1.shape.head_dim * Dtype::SIZE as usize + size_of::<f32>());
        u64::from(self.params.rows) * row as u64
    }
}

/// All tensors have the type and the shape of o1.
fn check_agreement(o1: &TensorLayout, others: &[(Operand, &TensorLayout)]) -> Result<()> {
    let sizes = |shape: Shape| [shape.batch, shape.seqlen, shape.heads, shape.head_dim];
    for &(operand, layout) in others {
        if layout.dtype != o1.dtype {
            return Err(Error::DtypeMismatch { operand, expected: o1.dtype, found: layout.dtype });
        }
        for ((dim, expected), found) in DIMS.into_iter().zip(sizes(o1.shape)).zip(sizes(layout.shape)) {
            if found != expected {
                return Err(Error::ShapeMismatch { operand, dim, expected, found });
            }
        }
    }
    Ok(())
}

fn count_rows(shape: Shape) -> Result<u32> {
    let rows = Shape { head_dim: 1, ..shape }.elements().ok_or(Error::ShapeOverflow { shape })? as u64;
    if rows > MAX_ROWS {
        return Err(Error::TooManyTiles { tiles: rows, limit: MAX_ROWS });
    }
    Ok(rows as u32)
}

/// The places of the outer dimensions in [`TensorLayout::outer_dims`], the one of the largest stride first.
fn order_in_memory(layout: &TensorLayout) -> [usize; 3] {
    let mut order = [0, 1, 2];
    order.sort_by_key(|&i| std::cmp::Reverse(layout.outer_dims()[i].2));
    order
}

/// Checks addresses and sizes, and that an output overlaps nothing but, as a whole, an input of its kind. Asks no
/// device.
fn check_memory(
    plan: &MergePlan,
    [o1, o2, out]: &[TensorView<'_>; 3],
    [lse1, lse2]: [LseView<'_>; 2],
    lse: Option<LseView<'_>>,
) -> Result<()> {
    let tensor = |operand, view: &TensorView<'_>, layout: &TensorLayout| {
        extent(operand, view.ptr(), view.bytes(), layout.span_bytes()?, ALIGNMENT)
    };
    let shape = plan.o1.shape;
    let lse_bytes = lse::bytes(shape).ok_or(Error::ShapeOverflow { shape })?;
    let lse_extent = |operand, view: LseView<'_>| {
        extent(operand, view.ptr(), view.bytes(), lse_bytes, align_of::<f32>() as u64)
    };
    let used1 = (Operand::O1, &tensor(Operand::O1, o1, &plan.o1)?);
    let used2 = (Operand::O2, &tensor(Operand::O2, o2, &plan.o2)?);
    let used_out = (Operand::Out, &tensor(Operand::Out, out, &plan.out)?);
    let used_lse1 = (Operand::Lse1, &lse_extent(Operand::Lse1, lse1)?);
    let used_lse2 = (Operand::Lse2, &lse_extent(Operand::Lse2, lse2)?);
    for (used, view, layout) in [(used1, o1, &plan.o1), (used2, o2, &plan.o2)] {
        let in_place = view.ptr() == out.ptr() && *layout == plan.out;
        if !in_place {
            apart(used_out, &[used])?;
        }
    }
    apart(used_out, &[used_lse1, used_lse2])?;
    let Some(lse) = lse else { return Ok(()) };
    let used_lse = (Operand::Lse, &lse_extent(Operand::Lse, lse)?);
    for (used, view) in [(used_lse1, lse1), (used_lse2, lse2)] {
        if view.ptr() != lse.ptr() {
            apart(used_lse, &[used])?;
        }
    }
    apart(used_lse, &[used1, used2, used_out])
}

impl fmt::Display for MergePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MergePlan { variant, grid, params, o1, o2, out } = self;
        let strides = |layout: &TensorLayout| {
            let strides = layout.strides;
            format!("{}/{}/{}", strides.batch, strides.seqlen, strides.heads)
        };
        writeln!(f, "kernel   {}", variant.symbol)?;
        writeln!(f, "states   {}, {}: {} rows", o1.shape, o1.dtype.name(), params.rows)?;
        writeln!(
            f,
            "strides  o1 {}, o2 {}, out {} (batch/seqlen/heads)",
            strides(o1),
            strides(o2),
            strides(out)
        )?;
        write!(
            f,
            "grid     {grid} CTAs of {} threads, {} lanes a row, {} rows a warp at a time",
            MergeVariant::THREADS,
            params.lanes.value,
            params.warp_rows
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::{Mock, OTHER_DEVICE};
    use crate::tensor::{Order, Strides};
    use crate::{Device, driver::Graph};

    const SHAPE: Shape = Shape::new(2, 5, 3, 64);
    const ROWS: usize = 2 * 5 * 3;
    const BYTES: usize = 2 * ROWS * 64;

    fn packed(shape: Shape, order: Order) -> TensorLayout {
        TensorLayout::packed(Dtype::F16, shape, order)
    }

    fn plan(o1: TensorLayout, o2: TensorLayout, out: TensorLayout) -> Result<MergePlan> {
        MergePlan::new(o1, o2, out, &Properties::h200())
    }

    /// Two states and room for a third.
    struct States {
        o: [Tensor; 3],
        lse: [Lse; 3],
    }

    impl States {
        fn new(device: &Device, order: Order) -> Self {
            States {
                o: std::array::from_fn(|_| Tensor::zeros(device, Dtype::F16, SHAPE, order).unwrap()),
                lse: std::array::from_fn(|_| Lse::new(device, 2, 3, 5).unwrap()),
            }
        }

        /// Merges 0 and 1 into these.
        fn merge(&self, stream: &Stream, out: usize, lse: usize) -> Result<()> {
            let ([o1, o2, _], [lse1, lse2, _]) = (&self.o, self.lse.each_ref().map(Lse::view));
            let lse = self.lse[lse].view();
            merge_attention_states_into(stream, o1, lse1, o2, lse2, &self.o[out], Some(lse))
        }
    }

    #[test]
    fn plans_print_as_recorded() {
        use Order::{Bhsd, Bshd};
        let wide = Strides { batch: 1 << 20, seqlen: 1 << 12, heads: 520 };
        let plans = [
            plan(packed(SHAPE, Bshd), packed(SHAPE, Bhsd), packed(SHAPE, Bshd)),
            {
                let layout = TensorLayout::packed(Dtype::Bf16, Shape::new(4, 4096, 16, 128), Bhsd);
                plan(layout, layout, layout)
            },
            {
                let layout = TensorLayout { strides: wide, ..packed(Shape::new(1, 100, 7, 512), Bshd) };
                plan(layout, layout, layout)
            },
            plan(
                packed(Shape::new(0, 5, 3, 80), Bshd),
                packed(Shape::new(0, 5, 3, 80), Bshd),
                packed(Shape::new(0, 5, 3, 80), Bshd),
            ),
        ];
        let printed = plans.map(|plan| plan.unwrap().to_string());
        insta::assert_snapshot!(printed.join("\n\n"));
    }

    /// Every row is visited once, and each of its numbers found, whatever the order of the output in memory.
    #[test]
    fn coordinates_reach_every_row_once() {
        let orders = [
            Strides { batch: 960, seqlen: 192, heads: 64 },
            Strides { batch: 960, seqlen: 64, heads: 320 },
            Strides { batch: 192, seqlen: 384, heads: 64 },
            Strides { batch: 64, seqlen: 128, heads: 640 },
        ];
        for strides in orders {
            let out = TensorLayout { strides, ..packed(SHAPE, Order::Bshd) };
            let params = plan(packed(SHAPE, Order::Bshd), packed(SHAPE, Order::Bhsd), out).unwrap().params;
            let mut seen: Vec<_> = (0..params.rows)
                .map(|row| {
                    let (rest, inner) = params.inner.split(row);
                    let (outer, middle) = params.middle.split(rest);
                    let [a, b, c] = params.lse_strides;
                    let at = [outer, middle, inner];
                    let lse = outer * a + middle * b + inner * c;
                    (lse, params.o1.address(at), params.o2.address(at), params.out.address(at))
                })
                .collect();
            assert!(seen.windows(2).all(|rows| rows[0].3 < rows[1].3), "in the order of memory");
            seen.sort_unstable();
            let mut expected = Vec::new();
            for (b, h, s) in (0..2).flat_map(|b| (0..3).flat_map(move |h| (0..5).map(move |s| (b, h, s)))) {
                let bytes = |strides: Strides| {
                    2 * (b * strides.batch + s * strides.seqlen + h * strides.heads) as u64
                };
                let lse = ((b * 3 + h) * 5 + s) as u32;
                let [o1, o2] = [Order::Bshd, Order::Bhsd].map(|order| bytes(order.strides(SHAPE)));
                expected.push((lse, o1, o2, bytes(strides)));
            }
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn layouts_are_checked() {
        let good = packed(SHAPE, Order::Bshd);
        let error = |change: &dyn Fn(&mut [TensorLayout; 3])| {
            let mut layouts = [good; 3];
            change(&mut layouts);
            let [o1, o2, out] = layouts;
            plan(o1, o2, out).unwrap_err()
        };
        for head_dim in [0, 4, 100, 520] {
            let expected = Error::HeadDim { head_dim, limit: 512 };
            assert_eq!(error(&|l| l[0].shape.head_dim = head_dim), expected);
        }
        for (i, operand) in [(1, Operand::O2), (2, Operand::Out)] {
            let dtype = Error::DtypeMismatch { operand, expected: Dtype::F16, found: Dtype::Bf16 };
            assert_eq!(error(&|l| l[i].dtype = Dtype::Bf16), dtype);
            let shape = Error::ShapeMismatch { operand, dim: Dim::Heads, expected: 3, found: 4 };
            assert_eq!(error(&|l| l[i].shape.heads = 4), shape);
        }
        let dim = Dim::Seqlen;
        let misaligned = Error::StrideMisaligned { operand: Operand::O1, dim, stride: 196, multiple: 8 };
        assert_eq!(error(&|l| l[0].strides.seqlen = 196), misaligned);
        let overlap = Error::OverlappingOutput { dim, stride: 0, needed: 64 };
        assert_eq!(error(&|l| l[2].strides.seqlen = 0), overlap);
        let mut broadcast = good;
        broadcast.strides.seqlen = 0;
        assert!(plan(broadcast, broadcast, good).is_ok());
        let rows = 1 << 31;
        let many = packed(Shape::new(1 << 11, 1 << 10, 1 << 10, 8), Order::Bshd);
        assert_eq!(plan(many, many, many).unwrap_err(), Error::TooManyTiles { tiles: rows, limit: MAX_ROWS });
    }

    #[test]
    fn a_merge_is_one_launch_of_what_the_plan_says() {
        let (mock, device) = Mock::device();
        let (stream, states) = (device.stream().unwrap(), States::new(&device, Order::Bhsd));
        let ([o1, o2, _], [lse1, lse2, _]) = (&states.o, &states.lse);
        let (out, lse) = merge_attention_states(&stream, o1, lse1.view(), o2, lse2.view()).unwrap();
        assert_eq!((out.shape(), out.strides()), (SHAPE, Order::Bhsd.strides(SHAPE)));
        let layout = packed(SHAPE, Order::Bhsd);
        let plan = plan(layout, layout, layout).unwrap();
        let pointers = MergePointers {
            o1: o1.ptr(),
            lse1: lse1.view().ptr(),
            o2: o2.ptr(),
            lse2: lse2.view().ptr(),
            out: out.ptr(),
            lse: lse.view().ptr(),
        };
        let state = mock.state();
        let [launched] = &state.launches[..] else { panic!("one launch") };
        assert_eq!((launched.symbol, launched.overlaps_previous), ("merge_states_f16", true));
        assert_eq!((launched.grid, launched.block, launched.smem_bytes), ([plan.grid, 1, 1], 128, 0));
        let [params] = &launched.params[..] else { panic!("one parameter") };
        assert_eq!(params.len(), size_of::<MergeParams>());
        // SAFETY: as many bytes as parameters have, and any bytes are parameters.
        let params = unsafe { params.as_ptr().cast::<MergeParams>().read_unaligned() };
        assert_eq!(params, plan.params_at(&pointers));
        assert_eq!((params.out.ptr, params.lse), (out.ptr(), lse.view().ptr()));
        assert_eq!(plan.bytes(), 3 * (BYTES + 4 * ROWS) as u64);
    }

    #[test]
    fn a_merge_into_given_memory_allocates_nothing() {
        let (mock, device) = Mock::device();
        let (stream, states) = (device.stream().unwrap(), States::new(&device, Order::Bshd));
        let before = mock.state().allocations.len();
        states.merge(&stream, 2, 2).unwrap();
        Graph::capture(&stream, |stream| states.merge(stream, 2, 2)).unwrap();
        let state = mock.state();
        assert_eq!((state.allocations.len(), state.launches.len()), (before, 2));
    }

    #[test]
    fn outputs_may_be_inputs() {
        let (mock, device) = Mock::device();
        let (stream, states) = (device.stream().unwrap(), States::new(&device, Order::Bshd));
        for (out, lse) in [(0, 0), (1, 1), (0, 1), (0, 2), (2, 1)] {
            states.merge(&stream, out, lse).unwrap();
        }
        // A state merged with itself, in place.
        let (o, lse) = (&states.o[0], states.lse[0].view());
        merge_attention_states_into(&stream, o, lse, o, lse, o, Some(lse)).unwrap();
        assert_eq!(mock.state().launches.len(), 6);
    }

    #[test]
    fn nothing_to_merge_launches_nothing() {
        let (mock, device) = Mock::device();
        let stream = device.stream().unwrap();
        let o = Tensor::zeros(&device, Dtype::Bf16, Shape { seqlen: 0, ..SHAPE }, Order::Bshd).unwrap();
        let lse = Lse::new(&device, 2, 3, 0).unwrap();
        let (out, lse) = merge_attention_states(&stream, &o, lse.view(), &o, lse.view()).unwrap();
        assert_eq!((out.bytes(), lse.to_vec().unwrap().len()), (0, 0));
        assert!(mock.state().launches.is_empty());
    }

    #[test]
    fn wrong_memory_is_refused() {
        const O1: u64 = 0x10_0000;
        const O2: u64 = 0x20_0000;
        const OUT: u64 = 0x30_0000;
        const LSE1: u64 = 0x40_0000;
        const LSE2: u64 = 0x50_0000;
        const LSE: u64 = 0x60_0000;
        let layout = packed(SHAPE, Order::Bshd);
        let plan = plan(layout, layout, layout).unwrap();
        let check = |o: [u64; 3], lse: [u64; 3], lse_bytes| {
            // SAFETY: nothing is launched with it.
            let tensors = o.map(|ptr| unsafe {
                TensorView::from_raw_parts(ptr, BYTES, Dtype::F16, SHAPE, layout.strides)
            });
            // SAFETY: as above.
            let [lse1, lse2, lse] = lse.map(|ptr| unsafe { LseView::from_raw_parts(ptr, lse_bytes) });
            check_memory(&plan, &tensors, [lse1, lse2], Some(lse))
        };
        let (lse, size) = ([LSE1, LSE2, LSE], 4 * ROWS);
        let aliasing = |output, other| Err(Error::Aliasing { output, other });
        let null = |operand| Err(Error::NullPointer { operand });
        assert_eq!(check([O1, O2, OUT], lse, size), Ok(()));
        assert_eq!(check([O1, 0, OUT], lse, size), null(Operand::O2));
        assert_eq!(check([O1, O2, OUT], [LSE1, 0, LSE], size), null(Operand::Lse2));
        let misaligned = Err(Error::Misaligned { operand: Operand::O1, ptr: O1 + 8, required: 16 });
        assert_eq!(check([O1 + 8, O2, OUT], lse, size), misaligned);
        let small = Error::TooSmall { operand: Operand::Lse1, needed: size, given: size - 4 };
        assert_eq!(check([O1, O2, OUT], lse, size - 4), Err(small));
        // One row further, or back.
        assert_eq!(check([O1, O2, O1 + 128], lse, size), aliasing(Operand::Out, Operand::O1));
        assert_eq!(check([O1, O2, O2 - 128], lse, size), aliasing(Operand::Out, Operand::O2));
        assert_eq!(check([O1, O2, OUT], [LSE1, LSE2, LSE1 + 4], size), aliasing(Operand::Lse, Operand::Lse1));
        assert_eq!(check([O1, O2, OUT], [LSE1, LSE2, LSE2 - 4], size), aliasing(Operand::Lse, Operand::Lse2));
        assert_eq!(check([O1, O2, LSE1], lse, size), aliasing(Operand::Out, Operand::Lse1));
        assert_eq!(check([O1, O2, OUT], [LSE1, LSE2, O1], size), aliasing(Operand::Lse, Operand::O1));
        assert_eq!(check([O1, O2, OUT], [LSE1, LSE2, OUT], size), aliasing(Operand::Lse, Operand::Out));
    }

    /// The same address is not enough: rows must lie at the same places.
    #[test]
    fn in_place_needs_the_same_layout() {
        let (mock, device) = Mock::device();
        let (stream, states) = (device.stream().unwrap(), States::new(&device, Order::Bshd));
        let ([o1, o2, _], [lse1, lse2, _]) = (&states.o, states.lse.each_ref().map(Lse::view));
        // SAFETY: nothing is launched with it.
        let transposed = unsafe {
            TensorView::from_raw_parts(o1.ptr(), BYTES, Dtype::F16, SHAPE, Order::Bhsd.strides(SHAPE))
        };
        let merged = merge_attention_states_into(&stream, o1, lse1, o2, lse2, &transposed, None);
        assert_eq!(merged, Err(Error::Aliasing { output: Operand::Out, other: Operand::O1 }));
        // SAFETY: as above.
        let foreign = unsafe { LseView::from_raw_parts(OTHER_DEVICE, 4 * ROWS) };
        let merged = merge_attention_states_into(&stream, o1, lse1, o2, foreign, &states.o[2], None);
        let wrong = Error::WrongDevice { operand: Operand::Lse2, ptr: OTHER_DEVICE, found: 1, expected: 0 };
        assert_eq!(merged, Err(wrong));
        assert!(mock.state().launches.is_empty());
    }
}
