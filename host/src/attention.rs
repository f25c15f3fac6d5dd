//! The public call: checks, plans, launches.

use crate::error::Result;
use crate::check;
use crate::lse::{Lse, LseView};
use crate::plan::{Plan, Pointers};
use crate::problem::Problem;
use crate::tensor::{AsTensorView, Tensor, TensorView};
use crate::{Stream, launch};

/// Scaled dot-product attention: `out = softmax(scale * q kᵀ) v`.
///
/// q and out are (batch, seqlen_q, heads_q, head_dim), k and v (batch, seqlen_kv, heads_kv, head_dim); heads_q is a
/// multiple of heads_kv, and query head h reads K/V head `h / (heads_q / heads_kv)`. head_dim is a multiple of 8 up to
/// 256. Everything is f16 or everything is bf16; sums are f32. A row that sees no key gives zeros and a log-sum-exp
/// of -inf. NaN and infinities among the inputs go through the formula as IEEE arithmetic has it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attention {
    causal: bool,
    scale: Option<f32>,
}

impl Attention {
    /// Attention of every query to every key, with scale `1 / sqrt(head_dim)`.
    pub const fn new() -> Self {
        Attention { causal: false, scale: None }
    }

    /// Whether query i sees only the keys up to `i + seqlen_kv - seqlen_q` (aligned bottom-right).
    pub const fn causal(self, causal: bool) -> Self {
        Attention { causal, ..self }
    }

    /// What scores are multiplied with before the softmax.
    pub const fn scale(self, scale: f32) -> Self {
        Attention { scale: Some(scale), ..self }
    }

    /// Computes the output into a new tensor, in the order of `q`. Returns before it is computed.
    ///
    /// # Errors
    /// As [`Self::forward_into`], and [`Error::OutOfMemory`].
    pub fn forward(
        &self,
        stream: &Stream,
        q: &impl AsTensorView,
        k: &impl AsTensorView,
        v: &impl AsTensorView,
    ) -> Result<Tensor> {
        let out = new_output(stream, &q.as_view())?;
        self.forward_into(stream, q, k, v, &out, None)?;
        Ok(out)
    }

    /// As [`Self::forward`], with the log-sum-exp of each row.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_with_lse(
        &self,
        stream: &Stream,
        q: &impl AsTensorView,
        k: &impl AsTensorView,
        v: &impl AsTensorView,
    ) -> Result<(Tensor, Lse)> {
        let out = new_output(stream, &q.as_view())?;
        let shape = out.shape();
        let lse = Lse::new(stream.device(), shape.batch, shape.heads, shape.seqlen)?;
        self.forward_into(stream, q, k, v, &out, Some(lse.view()))?;
        Ok((out, lse))
    }

    /// Computes the output, and the log-sum-exp if asked for, into memory of the caller's. Allocates nothing, waits
    /// for nothing, and may be recorded in a CUDA graph.
    ///
    /// # Errors
    /// What is wrong with the arguments (see [`enum@Error`]); nothing is launched then.
    pub fn forward_into(
        &self,
        stream: &Stream,
        q: &impl AsTensorView,
        k: &impl AsTensorView,
        v: &impl AsTensorView,
        out: &impl AsTensorView,
        lse: Option<LseView<'_>>,
    ) -> Result<()> {
        let (q, k, v, out) = (q.as_view(), k.as_view(), v.as_view(), out.as_view());
        let problem = self.problem(&q, &k, &v, &out, lse.as_ref())?;
        let plan = Plan::new(&problem, stream.device().properties())?;
        if plan.grid == 0 {
            return Ok(());
        }
        check::residence(stream.device(), [&q, &k, &v, &out], lse.as_ref())?;
        let pointers = Pointers {
            q: q.ptr(),
            k: k.ptr(),
            v: v.ptr(),
            out: out.ptr(),
            lse: lse.map_or(0, |lse| lse.ptr()),
        };
        // SAFETY: the problem was checked against the views, whose makers vouch for the memory.
        unsafe { launch::forward(stream, &plan, &pointers) }
    }

    /// Checks the arguments of [`Self::forward_into`], except which device their memory is of.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn problem(
        &self,
        q: &TensorView<'_>,
        k: &TensorView<'_>,
        v: &TensorView<'_>,
        out: &TensorView<'_>,
        lse: Option<&LseView<'_>>,
    ) -> Result<Problem> {
        let problem =
            Problem::new(*q.layout(), *k.layout(), *v.layout(), *out.layout(), self.causal, self.scale)?;
        check::extents(&problem, [q, k, v, out], lse)?;
        Ok(problem)
    }
}

fn new_output(stream: &Stream, q: &TensorView<'_>) -> Result<Tensor> {
    Tensor::uninit(stream.device(), q.dtype(), q.shape(), q.layout().order())
}
