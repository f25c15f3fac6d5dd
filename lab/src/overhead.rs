//! Host time of an eager call: what the CPU spends before it may go on, whether or not the GPU keeps up.

use std::ffi::c_void;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore::driver::Launch;
use flashcore::kernels::KernelImage;
use flashcore::{Device, Dtype, Plan, Pointers, Stream, Tensor};
use flashcore_c::{fc_attention_forward, fc_attention_options, fc_device_close, fc_device_open_cuda};
use flashcore_c::{fc_dtype, fc_status, fc_tensor};
use flashcore_tests::cases::Case;
use flashcore_tests::device::{self, OnDevice};
use flashcore_tests::grid;
use serde::Serialize;

use crate::metrics::{Machine, median};
use crate::output::{self, Origin};
use crate::shape::{Dtypes, Shapes};

/// Calls between two waits for the GPU: few enough that the driver's queue, of about a thousand, is never full.
const CALLS: usize = 200;
/// Rounds that do not count.
const WARM_UP: usize = 3;

/// What the driver alone takes: no call can take less.
static NOTHING: KernelImage = KernelImage {
    symbol: "nothing",
    ptx: ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry nothing() { ret; }\n",
    cubin: None,
};

/// Options of `overhead`.
#[derive(Args)]
#[command(after_help = "Example:\n  flashcore-lab overhead --shape 1,8,512,64 --causal")]
pub(crate) struct Options {
    #[command(flatten)]
    shapes: Shapes,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtypes,
    /// Times that 200 calls are made, one after the other
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// File for all figures
    #[arg(long, default_value = "target/flashcore/overhead.json", value_name = "FILE")]
    out: PathBuf,
}

/// What a run measured, as it is written to a file.
#[derive(Serialize)]
struct Findings {
    #[serde(flatten)]
    origin: Origin,
    machine: Machine,
    measured: Vec<Overhead>,
}

/// Host time of one thing.
#[derive(Serialize)]
struct Overhead {
    problem: String,
    what: &'static str,
    /// Microseconds of one call, the median over the rounds.
    us: f64,
    /// The same of the fastest round.
    least_us: f64,
}

/// Measures the call from Rust and from C, and its parts.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    device.preload()?;
    let usual = |&causal: &bool| grid::cell(1, 8, 512, 64, causal);
    let cases = options.shapes.cases_or(|masks| masks.iter().map(usual).collect());
    let mut measured = Vec::new();
    for case in &cases {
        for &dtype in options.dtype.list() {
            measured.extend(measure(&device, case, dtype, options.rounds)?);
        }
    }
    println!("{}", table(&measured));
    let machine = Machine::of(&device, None);
    output::write(&Findings { origin: Origin::now(), machine, measured }, &options.out)?;
    Ok(true)
}

fn measure(device: &Device, case: &Case, dtype: Dtype, rounds: u16) -> Result<Vec<Overhead>> {
    let tensors = OnDevice::new(device, case, &case.inputs(dtype, 0))?;
    let stream = device.stream()?;
    let time = |what, call: &mut dyn FnMut() -> Result<()>| -> Result<Overhead> {
        let mut times = Vec::new();
        for round in 0..WARM_UP + usize::from(rounds) {
            let start = Instant::now();
            (0..CALLS).try_for_each(|_| call())?;
            let us = start.elapsed().as_secs_f64() * 1e6 / CALLS as f64;
            stream.synchronize()?;
            if round >= WARM_UP {
                times.push(us);
            }
        }
        let least_us = times.iter().copied().fold(f64::INFINITY, f64::min);
        Ok(Overhead { problem: device::name(case, dtype), what, us: median(&mut times), least_us })
    };

    let (attention, OnDevice { q, k, v, out, lse, .. }) = (tensors.attention(), &tensors);
    let views = [q, k, v, out].map(Tensor::view);
    let [q_view, k_view, v_view, out_view] = &views;
    let plan = || -> Result<Plan> {
        let problem = attention.problem(q_view, k_view, v_view, out_view, Some(&lse.view()))?;
        Ok(Plan::new(black_box(&problem), device.properties())?)
    };
    let (planned, c) = (plan()?, FromC::new(device, &tensors)?);
    let pointers = tensors.pointers();
    let Pointers { q, k, v, out, lse, .. } = pointers;
    let addresses = [q, k, v, out, lse];
    let whole = [
        time("Rust: Attention::forward_into", &mut || Ok(tensors.run(&stream)?))?,
        time("C: fc_attention_forward", &mut || c.call(&stream))?,
    ];
    let nothing = Launch {
        kernel: &NOTHING,
        grid: [1; 3],
        block: 32,
        cluster: 1,
        smem_bytes: 0,
        overlaps_previous: false,
        params: &[],
    };
    // As whoever uses the GPU through other libraries, too, has it; and so that the parts add up.
    let _entered = device.backend().enter()?;
    let parts = [
        time("Rust, the context being current", &mut || Ok(tensors.run(&stream)?))?,
        time("  of that: checks of shapes, and the plan", &mut || plan().map(|plan| _ = black_box(plan)))?,
        time("  of that: whose memory it is", &mut || {
            Ok(addresses.iter().try_for_each(|&ptr| device.backend().locate(ptr).map(drop))?)
        })?,
        time("  of that: tensor maps", &mut || {
            let maps = planned.tensor_maps(&pointers)?;
            Ok(maps
                .iter()
                .try_for_each(|desc| device.encode_tensor_map(desc).map(|map| _ = black_box(map)))?)
        })?,
        time("  tensor maps and launch", &mut || Ok(tensors.run_plan(&planned, &stream)?))?,
        time("  a kernel that does nothing: its launch", &mut || {
            // SAFETY: it takes no parameters and touches no memory.
            Ok(unsafe { stream.launch(&nothing) }?)
        })?,
        time("on a stream made elsewhere, the context being current", &mut || {
            // SAFETY: the stream lives on.
            let borrowed = unsafe { Stream::from_raw(device, stream.raw())? };
            Ok(tensors.run(&borrowed)?)
        })?,
        time("C, the context being current", &mut || c.call(&stream))?,
    ];
    Ok(whole.into_iter().chain(parts).collect())
}

/// The arguments of the call from C.
struct FromC {
    device: *mut flashcore_c::fc_device,
    tensors: [fc_tensor; 4],
    lse: *mut f32,
    options: fc_attention_options,
}

impl FromC {
    fn new(device: &Device, on_device: &OnDevice) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes a handle.
        let opened = unsafe { fc_device_open_cuda(device.properties().ordinal as u32, &mut handle) };
        ensure!(opened == fc_status::FC_OK, "fc_device_open_cuda: {opened:?}");
        let (attention, OnDevice { q, k, v, out, lse, .. }) = (on_device.attention(), on_device);
        let scale = attention.problem(&q.view(), &k.view(), &v.view(), &out.view(), None)?.scale();
        let causal = attention == attention.causal(true);
        Ok(FromC {
            device: handle,
            tensors: [q, k, v, out].map(tensor),
            lse: std::ptr::with_exposed_provenance_mut(lse.view().ptr() as usize),
            options: fc_attention_options {
                struct_size: size_of::<fc_attention_options>(),
                causal: causal.into(),
                has_scale: 1,
                scale,
                // SAFETY: numbers and pointers, of which zeros are the default.
                ..unsafe { std::mem::zeroed() }
            },
        })
    }

    fn call(&self, stream: &Stream) -> Result<()> {
        let stream: *mut c_void = std::ptr::with_exposed_provenance_mut(stream.raw() as usize);
        let [q, k, v, out] = &self.tensors;
        // SAFETY: the tensors outlive the work, and nothing else uses the outputs.
        let status =
            unsafe { fc_attention_forward(self.device, stream, q, k, v, out, self.lse, &self.options) };
        ensure!(status == fc_status::FC_OK, "fc_attention_forward: {status:?}");
        Ok(())
    }
}

impl Drop for FromC {
    fn drop(&mut self) {
        let closed = fc_device_close(self.device);
        debug_assert_eq!(closed, fc_status::FC_OK);
    }
}

fn tensor(tensor: &Tensor) -> fc_tensor {
    let (shape, strides) = (tensor.shape(), tensor.strides());
    let dtype = match tensor.dtype() {
        Dtype::F16 => fc_dtype::FC_F16,
        Dtype::Bf16 => fc_dtype::FC_BF16,
    };
    fc_tensor {
        data: std::ptr::with_exposed_provenance_mut(tensor.ptr() as usize),
        batch: shape.batch,
        seqlen: shape.seqlen,
        heads: shape.heads,
        head_dim: shape.head_dim,
        stride_batch: strides.batch,
        stride_seqlen: strides.seqlen,
        stride_heads: strides.heads,
        dtype: dtype as i32,
    }
}

fn table(measured: &[Overhead]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["problem", "what the host does", "µs", "least"]);
    for Overhead { problem, what, us, least_us } in measured {
        table.add_row([problem.clone(), (*what).to_owned(), format!("{us:.2}"), format!("{least_us:.2}")]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
