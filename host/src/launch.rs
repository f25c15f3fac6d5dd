//! The one place where kernels are launched.

use flashcore_kernels::params::{FwdParams, TensorMap};

use crate::driver::{Launch, MAX_PARAMS};
use crate::error::{Error, Result};
use crate::plan::{Plan, Pointers};
use crate::{Stream, kernels};

impl Stream {
    /// Launches a kernel and returns at once.
    ///
    /// # Errors
    /// [`Error::TooManyParameters`], [`Error::SharedMemory`], [`Error::KernelRefused`], or what the driver refuses.
    ///
    /// # Safety
    /// The parameters must be what the kernel expects, and the memory that it uses must stay allocated until it has
    /// completed.
    pub unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let (symbol, count) = (launch.kernel.symbol, launch.params.len());
        if count > MAX_PARAMS {
            return Err(Error::TooManyParameters { symbol, count, limit: MAX_PARAMS });
        }
        let (needed, limit) = (launch.smem_bytes, self.device().properties().smem_limit_bytes);
        if needed > limit {
            return Err(Error::SharedMemory { symbol, needed, limit });
        }
        // SAFETY: the stream is live; the caller vouches for the rest.
        unsafe { self.device().backend().launch(launch, self.raw()) }
    }
}

/// Launches `plan` on tensors at `pointers`.
///
/// # Safety
/// Tensors of the plan's layouts must lie at the pointers, and stay there until the kernel has completed.
pub(crate) unsafe fn forward(stream: &Stream, plan: &Plan, pointers: &Pointers) -> Result<()> {
    let kernel = kernels::image(plan.variant.symbol)?;
    let [q, k, v, out] = plan.tensor_maps(pointers)?;
    let encode = |desc| stream.device().encode_tensor_map(desc);
    let maps = [encode(&q)?, encode(&k)?, encode(&v)?, encode(&out)?];
    let params = FwdParams { lse: pointers.lse, ..plan.params };
    let [q, k, v, out] = maps.each_ref().map(map_bytes);
    let launch = Launch {
        kernel,
        grid: [plan.grid, 1, 1],
        block: plan.variant.threads(),
        cluster: 1,
        smem_bytes: plan.variant.smem().bytes,
        params: &[q, k, v, out, params_bytes(&params)],
    };
    // SAFETY: parameters and launch shape are those of the plan's variant; the caller vouches for the memory.
    unsafe { stream.launch(&launch) }
}

fn map_bytes(map: &TensorMap) -> &[u8] {
    bytemuck::bytes_of(&map.0)
}

fn params_bytes(params: &FwdParams) -> &[u8] {
    // SAFETY: `repr(C)`, 8 + 7 * 4 + 4 = 40 bytes (asserted where it is declared), so no padding.
    unsafe { std::slice::from_raw_parts((&raw const *params).cast(), size_of::<FwdParams>()) }
}
