//! The one place where kernels are launched.

use flashcore_kernels::entry::{DROPOUT_MASK, MergeVariant, QuantizeVariant};
use flashcore_kernels::params::{DropoutMaskParams, FwdParams, MergeParams, QuantizeParams, TensorMap};

use crate::driver::{Launch, MAX_PARAMS};
use crate::error::{Error, Result};
use crate::merge::{MergePlan, MergePointers};
use crate::plan::{Plan, Pointers};
use crate::{Stream, kernels};

/// The CUDA version from which graphs can capture launches that overlap.
const OVERLAP_DRIVER: u32 = 12_030;

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

    /// Launches the kernel of `plan` on tensors at `pointers`, and returns at once. Nothing is checked any more:
    /// [`crate::Attention`] does that.
    ///
    /// # Errors
    /// [`Error::KernelMissing`], and as [`Self::launch`].
    ///
    /// # Safety
    /// Tensors of the plan's layouts must lie at the pointers, be of this device, and stay there until the kernel has
    /// completed; the outputs must overlap nothing.
    pub unsafe fn launch_plan(&self, plan: &Plan, pointers: &Pointers) -> Result<()> {
        if plan.grid == 0 {
            return Ok(());
        }
        let symbol = plan.variant.symbol;
        let kernel = match plan.problem.features.function {
            Some(function) => function.image(symbol)?,
            None => kernels::image(symbol)?,
        };
        let [q, k, v, out] = plan.tensor_maps(pointers)?;
        let encode = |desc| self.device().encode_tensor_map(desc);
        let maps = [encode(&q)?, encode(&k)?, encode(&v)?, encode(&out)?];
        let params = plan.params_at(pointers);
        let bias = plan.bias_map(pointers)?;
        let bias = bias.as_ref().map(encode).transpose()?;
        let [q, k, v, out] = maps.each_ref().map(map_bytes);
        let all = [q, k, v, out, params_bytes(&params), bias.as_ref().map_or(&[], map_bytes)];
        let launch = Launch {
            kernel,
            grid: [plan.grid, 1, 1],
            block: plan.variant.threads(),
            cluster: plan.variant.cluster_ctas(),
            smem_bytes: plan.variant.smem().bytes,
            overlaps_previous: self.may_overlap(),
            params: &all[..5 + usize::from(bias.is_some())],
        };
        // SAFETY: parameters and launch shape are those of the plan's variant; the caller vouches for the memory.
        unsafe { self.launch(&launch) }
    }

    /// Launches the kernel of `plan` on states at `pointers`, and returns at once. Nothing is checked any more:
    /// [`crate::merge_attention_states_into`] does that.
    ///
    /// # Errors
    /// [`Error::KernelMissing`], and as [`Self::launch`].
    ///
    /// # Safety
    /// Tensors of the plan's layouts must lie at the pointers, be of this device, and stay there until the kernel has
    /// completed; an output must overlap nothing, or be one of the inputs of its kind, in the same layout.
    pub unsafe fn launch_merge(&self, plan: &MergePlan, pointers: &MergePointers) -> Result<()> {
        if plan.grid == 0 {
            return Ok(());
        }
        let params = plan.params_at(pointers);
        let launch = Launch {
            kernel: kernels::image(plan.variant.symbol)?,
            grid: [plan.grid, 1, 1],
            block: MergeVariant::THREADS,
            cluster: 1,
            smem_bytes: 0,
            overlaps_previous: self.may_overlap(),
            params: &[merge_params_bytes(&params)],
        };
        // SAFETY: parameters and launch shape are those of the plan's variant; the caller vouches for the memory.
        unsafe { self.launch(&launch) }
    }

    /// Launches one of the kernels that round to 8 bits, and returns at once. Nothing is checked any more: [`crate::Fp8Qkv`] does
    /// that.
    ///
    /// # Errors
    /// [`Error::KernelMissing`], and as [`Self::launch`].
    ///
    /// # Safety
    /// The symbol is that of such a kernel, and memory is where the parameters say until it has completed.
    pub(crate) unsafe fn launch_quantize(
        &self,
        symbol: &'static str,
        grid: u32,
        params: &QuantizeParams,
    ) -> Result<()> {
        let launch = Launch {
            kernel: kernels::image(symbol)?,
            grid: [grid, 1, 1],
            block: QuantizeVariant::THREADS,
            cluster: 1,
            smem_bytes: 0,
            overlaps_previous: self.may_overlap(),
            params: &[quantize_params_bytes(params)],
        };
        // SAFETY: parameters and launch shape are those of the kernel; the caller vouches for the memory.
        unsafe { self.launch(&launch) }
    }

    /// Launches the kernel that writes a mask of dropout, and returns at once. Nothing is checked any more:
    /// [`crate::dropout_mask_into`] does that.
    ///
    /// # Errors
    /// [`Error::KernelMissing`], and as [`Self::launch`].
    ///
    /// # Safety
    /// There must be room for the mask where the parameters say, until the kernel has completed.
    pub(crate) unsafe fn launch_dropout_mask(&self, grid: u32, params: &DropoutMaskParams) -> Result<()> {
        let launch = Launch {
            kernel: kernels::image(DROPOUT_MASK.symbol)?,
            grid: [grid, 1, 1],
            block: DROPOUT_MASK.threads,
            cluster: 1,
            smem_bytes: 0,
            overlaps_previous: self.may_overlap(),
            params: &[dropout_mask_params_bytes(params)],
        };
        // SAFETY: parameters and launch shape are those of the kernel; the caller vouches for the memory.
        unsafe { self.launch(&launch) }
    }

    /// Whether a kernel may start while the one before it runs: all of this library wait for what is before them in the
    /// stream, once they have set themselves up.
    fn may_overlap(&self) -> bool {
        self.device().properties().driver_version >= OVERLAP_DRIVER
    }
}

fn map_bytes(map: &TensorMap) -> &[u8] {
    bytemuck::bytes_of(&map.0)
}

fn params_bytes(params: &FwdParams) -> &[u8] {
    // SAFETY: `repr(C)`, and as large as its parts (as is asserted where they are declared): no padding.
    unsafe { std::slice::from_raw_parts((&raw const *params).cast(), size_of::<FwdParams>()) }
}

fn merge_params_bytes(params: &MergeParams) -> &[u8] {
    // SAFETY: `repr(C)`, u64 and then an even number of 32-bit words (as is asserted where it is declared): no padding.
    unsafe { std::slice::from_raw_parts((&raw const *params).cast(), size_of::<MergeParams>()) }
}

fn dropout_mask_params_bytes(params: &DropoutMaskParams) -> &[u8] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts((&raw const *params).cast(), size_of::<DropoutMaskParams>()) }
}

fn quantize_params_bytes(params: &QuantizeParams) -> &[u8] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts((&raw const *params).cast(), size_of::<QuantizeParams>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::KernelImage;
    use crate::mock::Mock;

    const KERNEL: KernelImage = KernelImage { symbol: "probe", ptx: "", cubin: None };

    fn launch(smem_bytes: u32, params: usize) -> Result<()> {
        let params = &vec![&[0u8][..]; params];
        let (_mock, device) = Mock::device();
        let launch = Launch {
            kernel: &KERNEL,
            grid: [1; 3],
            block: 128,
            cluster: 1,
            smem_bytes,
            overlaps_previous: false,
            params,
        };
        // SAFETY: the mock runs nothing.
        unsafe { device.stream()?.launch(&launch) }
    }

    #[test]
    fn launches_stay_within_the_limits() {
        assert_eq!(launch(232_448, MAX_PARAMS), Ok(()));
        let shared_memory = Error::SharedMemory { symbol: "probe", needed: 232_449, limit: 232_448 };
        assert_eq!(launch(232_449, 0), Err(shared_memory));
        let parameters =
            Error::TooManyParameters { symbol: "probe", count: MAX_PARAMS + 1, limit: MAX_PARAMS };
        assert_eq!(launch(0, MAX_PARAMS + 1), Err(parameters));
    }
}
