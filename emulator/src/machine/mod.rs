//! The machine: clusters of CTAs, their warps, and one instruction after another.
//!
//! Everything happens on one thread in an order that the seed decides, so a launch can be repeated exactly. Clusters
//! are resident together as on the device; one runs until it cannot, then the next.

mod alu;
mod atomic;
mod barrier;
mod copy;
mod knowledge;
mod lanes;
mod mbarrier;
mod memory;
mod product;
mod registers;
mod schedule;
mod splits;
mod step;
mod warp;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::device::{DeviceError, Launch, Limits, Options};
use crate::hazard::{Findings, Record, Shadow, View};
use crate::ir::Cfg;
use crate::ir::{Access, Instruction, Kernel, Module, Reg, Registers};
use crate::memory::Memory;
use crate::models::descriptor::OperandLayout;
use crate::models::tensor_core::TensorCore;
use crate::report::{Code, Counters, Report};
use crate::tensor_map::TensorMap;

use barrier::{ClusterBarrier, NamedBarrier};
use copy::PendingCopy;
use mbarrier::Mbarrier;
use product::Agreement;
use warp::Warp;

/// Where shared memory of a CTA starts in its window: the hardware keeps the first KiB.
pub(crate) const SHARED_BASE: u32 = 1024;
/// Bits of an address inside of the shared memory of one CTA; above stands the rank of the CTA plus one, or 0 for the
/// own CTA.
pub(crate) const CTA_BITS: u32 = 24;
/// Start of the shared window among generic addresses.
pub(crate) const SHARED_WINDOW: u64 = 0x7F00_0000_0000;
/// Start of the parameter window among generic addresses.
pub(crate) const PARAM_WINDOW: u64 = 0x7E00_0000_0000;
/// Size of a window.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;
/// What an encoded tensor map starts with; the number of the map follows.
pub(crate) const MAP_MAGIC: u64 = u64::from_le_bytes(*b"FCTMAP01");

/// Memory of the host for registers of resident clusters.
const REGISTER_BYTES: usize = 4 << 30;

/// The launch cannot go on; the finding that says why is noted.
#[derive(Debug)]
pub(crate) struct Stop;

pub(crate) type Step<T = ()> = Result<T, Stop>;

/// Narrow registers that an instruction touches.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) reads: Box<[u16]>,
    pub(crate) writes: Box<[u16]>,
}

/// What all clusters of a launch share.
pub(crate) struct Grid<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) code: &'a [Instruction],
    pub(crate) cfg: Cfg,
    pub(crate) touched: Vec<Touched>,
    pub(crate) launch: Launch<'a>,
    pub(crate) options: &'a Options,
    pub(crate) limits: &'a Limits,
    pub(crate) memory: &'a mut Memory,
    pub(crate) maps: &'a [TensorMap],
    pub(crate) params: Vec<u8>,
    pub(crate) findings: Findings<'a>,
    pub(crate) counters: Counters,
    pub(crate) rng: SmallRng,
    pub(crate) layouts: HashMap<(u64, bool, u32, u32), Rc<OperandLayout>>,
    pub(crate) tensor_core: TensorCore,
    /// Threads that have waited for the kernel before: warp, lane, time.
    pub(crate) waited: Vec<(u32, u32, u32)>,
    /// What was released through global memory, by address.
    pub(crate) released: BTreeMap<u64, View>,
}

/// A CTA.
pub(crate) struct Cta {
    /// Its number in the grid.
    pub(crate) index: u32,
    pub(crate) coordinates: [u32; 3],
    pub(crate) smem: Vec<u8>,
    pub(crate) shadow: Shadow,
    pub(crate) mbarriers: BTreeMap<u32, Mbarrier>,
    pub(crate) barriers: [NamedBarrier; 16],
    /// Registers that no warp holds.
    pub(crate) pool: u32,
    /// An instruction that gave registers back, and whether any has taken some.
    pub(crate) gave_registers: Option<u32>,
    pub(crate) registers_wanted: bool,
    /// What all of its threads knew when they ended.
    pub(crate) end: View,
    /// Warps that have not ended.
    pub(crate) running: u32,
    /// Accesses by threads of other CTAs: what must have happened when it ends.
    pub(crate) visitors: Vec<Record>,
    /// Bulk loads into its memory: instruction, warp, number.
    pub(crate) loads: Vec<(u32, u32, u32)>,
    /// What was released through its memory, by address.
    pub(crate) released: BTreeMap<u64, View>,
    /// A thread that waited for bulk groups and had none: instruction, warp, lane.
    pub(crate) vain_wait: Option<(u32, u32, u32)>,
}

/// The CTAs of a cluster.
pub(crate) struct Cluster {
    pub(crate) ctas: Vec<Cta>,
    pub(crate) warps: Vec<Warp>,
    pub(crate) barrier: ClusterBarrier,
    /// Copies that have not happened yet.
    pub(crate) copies: Vec<PendingCopy>,
    /// Products that only some warps of a warpgroup have issued: CTA, warpgroup, number.
    pub(crate) agreements: HashMap<(usize, u32, u32), Agreement>,
    /// Arrivals at barriers so far, at the last time-out, and time-outs since then.
    pub(crate) events: u64,
    pub(crate) events_at_timeout: u64,
    pub(crate) timeouts: u32,
    /// A view of somebody who knows nothing.
    pub(crate) nothing: View,
}

/// A cluster at work.
pub(crate) struct Engine<'e, 'a> {
    pub(crate) grid: &'e mut Grid<'a>,
    pub(crate) cluster: &'e mut Cluster,
}

impl<'a> Grid<'a> {
    /// Checks that the launch is possible.
    pub(crate) fn new(
        module: &'a Module,
        kernel: &'a Kernel,
        launch: &Launch<'a>,
        options: &'a Options,
        limits: &'a Limits,
        memory: &'a mut Memory,
        maps: &'a [TensorMap],
    ) -> Result<Self, DeviceError> {
        check_launch(kernel, launch, limits)?;
        let mut params = vec![0; kernel.param_bytes() as usize];
        for (param, bytes) in kernel.params.iter().zip(launch.params) {
            params[param.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        Ok(Grid {
            kernel,
            code: &kernel.code,
            cfg: Cfg::of(kernel),
            touched: kernel.code.iter().map(touched).collect(),
            launch: *launch,
            options,
            limits,
            memory,
            maps,
            params,
            findings: Findings::new(module, kernel),
            counters: Counters::default(),
            rng: SmallRng::seed_from_u64(options.seed),
            layouts: HashMap::new(),
            tensor_core: TensorCore::default(),
            waited: Vec::new(),
            released: BTreeMap::new(),
        })
    }

    /// Runs all clusters to their end, or until something stops the launch.
    pub(crate) fn run(mut self) -> Report {
        let completed = self.run_clusters().is_ok();
        Report { findings: self.findings.list, counters: self.counters, completed }
    }

    fn run_clusters(&mut self) -> Step {
        let size = self.launch.cluster.map(|n| n.max(1));
        let per_cluster = size.iter().product::<u32>();
        let total = self.launch.grid.iter().product::<u32>() / per_cluster;
        // As many as the device holds at once, as far as the host has memory for their registers.
        let registers = self.kernel.registers;
        let warp_bytes = usize::from(registers.narrow) * 160 + usize::from(registers.wide) * 256;
        let warps = product(self.launch.block).div_ceil(32) as usize * per_cluster as usize;
        let fitting = REGISTER_BYTES / (warp_bytes * warps).max(1);
        let resident = ((self.limits.sm_count / per_cluster) as usize).min(fitting).max(1);
        let mut next = 0;
        let mut clusters: Vec<Cluster> = Vec::new();
        while next < total || !clusters.is_empty() {
            // One more a round: those that run usually end before another starts, which is kind to the host's caches.
            let starts = next < total && clusters.len() < resident;
            if starts {
                clusters.push(self.cluster(next));
                next += 1;
            }
            let mut advanced = starts;
            let mut at = 0;
            while at < clusters.len() {
                let progress = Engine { grid: self, cluster: &mut clusters[at] }.run()?;
                advanced |= progress.advanced;
                if progress.done {
                    clusters.remove(at);
                } else {
                    at += 1;
                }
            }
            if !advanced {
                Engine { grid: self, cluster: &mut clusters[0] }.report_deadlock();
                return Err(Stop);
            }
        }
        Ok(())
    }

    /// A fresh cluster.
    fn cluster(&self, number: u32) -> Cluster {
        let size = self.launch.cluster.map(|n| n.max(1));
        let threads = self.launch.block.iter().product::<u32>();
        let warps_per_cta = threads.div_ceil(32);
        let ranks = size.iter().product::<u32>();
        let first_warp = number * ranks * warps_per_cta;
        let nothing = View::new(first_warp, ranks * warps_per_cta);
        let registers = self.launch_registers();
        let clusters = std::array::from_fn::<_, 3, _>(|axis| self.launch.grid[axis] / size[axis]);
        let origin =
            [number % clusters[0], number / clusters[0] % clusters[1], number / clusters[0] / clusters[1]];
        let mut ctas = Vec::new();
        let mut warps = Vec::new();
        for rank in 0..ranks {
            let inside = [rank % size[0], rank / size[0] % size[1], rank / size[0] / size[1]];
            let coordinates = std::array::from_fn(|axis| origin[axis] * size[axis] + inside[axis]);
            let [x, y, z] = coordinates;
            let index = (z * self.launch.grid[1] + y) * self.launch.grid[0] + x;
            let bytes = (SHARED_BASE + self.kernel.static_shared_bytes + self.launch.shared_bytes) as usize;
            ctas.push(Cta {
                index,
                coordinates,
                smem: vec![0xA5; bytes],
                shadow: Shadow::of_shared(if self.options.checks { bytes } else { 0 }),
                mbarriers: BTreeMap::new(),
                barriers: std::array::from_fn(|_| NamedBarrier::new(&nothing)),
                pool: 0,
                gave_registers: None,
                registers_wanted: false,
                end: nothing.clone(),
                running: warps_per_cta,
                visitors: Vec::new(),
                loads: Vec::new(),
                released: BTreeMap::new(),
                vain_wait: None,
            });
            for index in 0..warps_per_cta {
                let threads = (threads - index * 32).min(32);
                let id = first_warp + rank * warps_per_cta + index;
                warps.push(Warp::new(
                    id,
                    rank as usize,
                    index,
                    threads,
                    registers,
                    self.kernel.registers,
                    &nothing,
                ));
            }
        }
        let threads = ranks * warps_per_cta;
        Cluster {
            ctas,
            warps,
            barrier: ClusterBarrier::new(threads, &nothing),
            copies: Vec::new(),
            agreements: HashMap::new(),
            events: 0,
            events_at_timeout: 0,
            timeouts: 0,
            nothing,
        }
    }

    /// Registers of a thread at launch: what ptxas may use under the kernel's bounds.
    fn launch_registers(&self) -> u32 {
        let threads = self.kernel.max_threads.or(self.kernel.required_threads).unwrap_or(self.launch.block);
        let threads = product(threads).div_ceil(32).max(1).saturating_mul(32);
        let ctas = u64::from(self.kernel.min_ctas.unwrap_or(1).max(1));
        let bound = u64::from(self.limits.registers) / threads.saturating_mul(ctas);
        self.kernel.max_registers.unwrap_or(255).min(bound as u32 / 8 * 8)
    }
}

/// The product of three extents, or the most there is.
fn product(extents: [u32; 3]) -> u64 {
    extents.iter().fold(1, |product: u64, &extent| product.saturating_mul(u64::from(extent)))
}

fn touched(instruction: &Instruction) -> Touched {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    instruction.registers(&mut |reg, access| {
        if let Reg::Narrow(number) = reg {
            match access {
                Access::Read => reads.push(number),
                Access::Write => writes.push(number),
            }
        }
    });
    Touched { reads: reads.into(), writes: writes.into() }
}

/// What the hardware would refuse.
fn check_launch(kernel: &Kernel, launch: &Launch, limits: &Limits) -> Result<(), DeviceError> {
    let refuse = |why: String| Err(DeviceError::Launch { why });
    let threads = product(launch.block);
    if threads == 0 || threads > 1024 {
        return refuse(format!("{threads} threads in a CTA; 1 to 1024 are possible"));
    }
    if launch.grid[0] == 0
        || launch.grid[0] > i32::MAX as u32
        || launch.grid[1..].iter().any(|n| !(1..=65535).contains(n))
    {
        return refuse(format!("a grid of {:?} CTAs", launch.grid));
    }
    if product(launch.grid) > u64::from(u32::MAX) / 1024 {
        return refuse(format!("a grid of {:?} CTAs is more than the emulator counts", launch.grid));
    }
    let cluster = launch.cluster.map(|n| n.max(1));
    let ranks = product(cluster);
    if ranks > 16 || std::iter::zip(launch.grid, cluster).any(|(grid, size)| grid % size != 0) {
        return refuse(format!("clusters of {cluster:?} in a grid of {:?} CTAs", launch.grid));
    }
    if let Some(required) = kernel.cluster.filter(|required| *required != cluster) {
        return refuse(format!("clusters of {cluster:?}, but the kernel wants {required:?}"));
    }
    if let Some(required) = kernel.required_threads.filter(|required| *required != launch.block) {
        return refuse(format!("{:?} threads in a CTA, but the kernel wants {required:?}", launch.block));
    }
    if let Some(most) = kernel.max_threads.filter(|most| product(*most) < threads) {
        return refuse(format!("{threads} threads in a CTA, but the kernel is for at most {most:?}"));
    }
    let shared = u64::from(kernel.static_shared_bytes) + u64::from(launch.shared_bytes);
    if shared > u64::from(limits.shared_bytes) {
        return refuse(format!("{shared} bytes of shared memory; a CTA has at most {}", limits.shared_bytes));
    }
    let (wanted, given): (Vec<_>, Vec<_>) = (
        kernel.params.iter().map(|p| p.bytes as usize).collect(),
        launch.params.iter().map(|p| p.len()).collect(),
    );
    if wanted != given {
        return refuse(format!("parameters of {given:?} bytes, but the kernel has {wanted:?}"));
    }
    Ok(())
}

impl Engine<'_, '_> {
    /// "CTA 0 warp 3", with a lane if one is meant.
    pub(crate) fn who(&self, warp: u32, lane: Option<u32>) -> String {
        let ranks = self.cluster.ctas.len() as u32;
        let per_cta = self.cluster.warps.len() as u32 / ranks;
        let first = self.cluster.warps[0].id;
        let cta = match warp.checked_sub(first).map(|local| (local / per_cta) as usize) {
            Some(rank) if rank < self.cluster.ctas.len() => self.cluster.ctas[rank].index,
            _ => warp / per_cta,
        };
        let lane = lane.map_or(String::new(), |lane| format!(" lane {lane}"));
        format!("CTA {cta} warp {}{lane}", warp % per_cta)
    }

    /// Notes a finding of a warp at its instruction.
    pub(crate) fn find(&mut self, w: usize, pc: u32, code: Code, detail: impl Into<crate::hazard::Detail>) {
        let who = self.who(self.cluster.warps[w].id, None);
        self.grid.findings.add(code, crate::hazard::Party { pc, who }, None, detail.into());
    }

    /// Notes a finding that the kernel cannot survive.
    pub(crate) fn stop<T>(
        &mut self,
        w: usize,
        pc: u32,
        code: Code,
        detail: impl Into<crate::hazard::Detail>,
    ) -> Step<T> {
        self.find(w, pc, code, detail);
        Err(Stop)
    }
}
