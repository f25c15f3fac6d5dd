//! One instruction of one part of a warp.

use crate::ir::{Address, Fence, Guard, Op, Operand, Order, Reg, Space, Special};
use crate::report::Code;

use super::knowledge::lanes;
use super::registers::Lanes;
use super::splits::Wait;
use super::{CTA_BITS, Engine, PARAM_WINDOW, SHARED_BASE, SHARED_WINDOW, Step, Stop, WINDOW_BYTES};

/// What comes after an instruction.
#[derive(Debug)]
pub(crate) enum Flow {
    /// The next one.
    Next,
    /// The next one, but others first: this one polled in vain.
    Yield,
    /// Itself again, once this has happened.
    Wait(Wait),
    /// Nothing: it has moved or ended its lanes itself.
    Done,
}

impl Engine<'_, '_> {
    /// Runs the next instruction of part `s` of warp `w`. Returns whether it polled in vain, so that others should run.
    pub(crate) fn step(&mut self, w: usize, s: usize) -> Step<bool> {
        let code = self.grid.code;
        let warp = &mut self.cluster.warps[w];
        let (pc, lanes) = (warp.splits.list[s].pc, warp.splits.list[s].mask);
        let Some(instruction) = code.get(pc as usize) else {
            self.exit(w, s, lanes)?;
            return Ok(false);
        };
        warp.time += 1;
        let mask = match instruction.guard {
            None => lanes,
            Some(Guard { predicate, negated }) => {
                self.require_written(w, pc, lanes, Reg::Pred(predicate));
                let value = self.cluster.warps[w].registers.predicate(predicate);
                lanes & if negated { !value } else { value }
            }
        };
        if let Op::Branch { target, .. } = instruction.op {
            self.grid.counters.warp_instructions += 1;
            let meet = self.grid.cfg.reconvergence(pc);
            self.cluster.warps[w].splits.branch(s, mask, target, meet);
            return Ok(false);
        }
        if mask == 0 {
            self.cluster.warps[w].splits.go(s, pc + 1);
            return Ok(false);
        }
        if self.grid.options.checks {
            self.check_registers(w, pc, &instruction.op);
        }
        let warp = &mut self.cluster.warps[w];
        warp.polls = polls(&instruction.op, warp.polls);
        let flow = self.execute(w, s, pc, mask, &instruction.op)?;
        if !matches!(flow, Flow::Wait(_)) {
            self.grid.counters.warp_instructions += 1;
        }
        let splits = &mut self.cluster.warps[w].splits;
        match flow {
            Flow::Next | Flow::Yield => splits.go(s, pc + 1),
            Flow::Wait(ref wait) => splits.list[s].wait = Some(wait.clone()),
            Flow::Done => {}
        }
        Ok(matches!(flow, Flow::Yield))
    }

    fn execute(&mut self, w: usize, s: usize, pc: u32, mask: u32, op: &Op) -> Step<Flow> {
        match op {
            Op::Alu(alu) => self.alu(w, mask, alu),
            Op::Unpack { dst, bits, src } => {
                let value = self.value(w, src);
                for (part, reg) in
                    dst.iter().enumerate().filter_map(|(part, reg)| reg.map(|reg| (part as u32, reg)))
                {
                    let piece = value.map(|v| v >> (part * bits) & (u64::MAX >> (64 - bits)));
                    self.write(w, reg, &piece, mask);
                }
            }
            Op::Pack { dst, bits, src } => {
                let mut whole = [0; 32];
                for (part, operand) in src.iter().enumerate() {
                    let piece = self.value(w, operand);
                    for lane in 0..32 {
                        whole[lane] |= (piece[lane] & (u64::MAX >> (64 - bits))) << (part as u32 * bits);
                    }
                }
                self.write(w, *dst, &whole, mask);
            }
            Op::Load { space, ty, dst, address, order, .. } => {
                self.load(w, pc, mask, (*space, *ty, *order), dst, address)?;
            }
            Op::Store { space, ty, src, address, order, .. } => {
                self.store(w, pc, mask, (*space, *ty, *order), src, address)?;
            }
            Op::Atomic { .. } => self.atomic(w, pc, mask, op)?,
            Op::LoadMatrix { dst, address, transposed } => {
                self.require_whole_warp(w, pc, mask)?;
                self.load_matrix(w, pc, mask, dst, address, *transposed)?;
            }
            Op::StoreMatrix { address, src, transposed } => {
                self.require_whole_warp(w, pc, mask)?;
                self.store_matrix(w, pc, mask, address, src, *transposed)?;
            }
            Op::Mapa { dst, address, rank, generic } => {
                self.mapa(w, pc, mask, *dst, address, rank, *generic)?
            }
            Op::CtaRank { dst, address, generic } => {
                let (addresses, own) = (self.value(w, address), self.cluster.warps[w].cta as u64);
                let rank = addresses.map(|address| {
                    let inside = if *generic { address.wrapping_sub(SHARED_WINDOW) } else { address };
                    match inside >> CTA_BITS {
                        0 => own,
                        rank => rank - 1,
                    }
                });
                self.write(w, *dst, &rank, mask);
            }
            Op::Cvta { dst, src, space, to_space } => {
                let window = match space {
                    Space::SharedCta | Space::SharedCluster => SHARED_WINDOW,
                    Space::Param => PARAM_WINDOW,
                    _ => 0,
                };
                let value = self.value(w, src);
                let moved =
                    value.map(|v| if *to_space { v.wrapping_sub(window) } else { v.wrapping_add(window) });
                self.write(w, *dst, &moved, mask);
            }
            Op::IsSpace { dst, address, space } => {
                let inside = |address: u64, window: u64| address.wrapping_sub(window) < WINDOW_BYTES;
                let value = self.value(w, address).map(|address| {
                    let shared = inside(address, SHARED_WINDOW);
                    u64::from(match space {
                        Space::SharedCluster => shared,
                        Space::SharedCta => shared && (address - SHARED_WINDOW) >> CTA_BITS == 0,
                        Space::Param => inside(address, PARAM_WINDOW),
                        Space::Global => !shared && !inside(address, PARAM_WINDOW),
                        _ => false,
                    })
                });
                self.write(w, *dst, &value, mask);
            }
            Op::Prefetch { address, tensor_map, .. } => {
                let addresses = self.addresses(w, pc, mask, address)?;
                if *tensor_map {
                    for lane in lanes(mask) {
                        self.tensor_map(w, pc, addresses[lane as usize])?;
                    }
                }
            }
            Op::Branch { .. } => unreachable!("branches are handled before"),
            Op::Exit => {
                self.exit(w, s, mask)?;
                return Ok(Flow::Done);
            }
            Op::Trap => return self.stop(w, pc, Code::E36, "the kernel executes trap"),
            Op::Nop => {}
            Op::ActiveMask { dst } => self.write(w, *dst, &[u64::from(mask); 32], mask),
            Op::Shuffle { mask: members, .. }
            | Op::Vote { mask: members, .. }
            | Op::Match { mask: members, .. }
            | Op::Redux { mask: members, .. }
            | Op::Elect { mask: members, .. }
            | Op::WarpBarrier { mask: members } => return self.together(w, s, pc, mask, members, op),
            Op::Barrier { waits, id, threads, aligned } => {
                return self.named_barrier(w, s, pc, mask, (*waits, *aligned), id, threads.as_ref());
            }
            Op::ClusterArrive { order, aligned } => {
                if *aligned {
                    self.require_whole_warp(w, pc, mask)?;
                }
                self.cluster_arrive(w, pc, mask, *order)?;
            }
            Op::ClusterWait { aligned } => {
                if *aligned {
                    self.require_whole_warp(w, pc, mask)?;
                }
                return self.cluster_wait(w, pc, mask);
            }
            Op::Fence(fence) => self.fence(w, mask, *fence),
            Op::Mbarrier { action, address, space } => {
                return self.mbarrier(w, pc, mask, action, address, *space);
            }
            Op::Bulk(bulk) => self.bulk(w, pc, mask, bulk)?,
            Op::MmaFence => {
                self.require_whole_warp(w, pc, mask)?;
                self.product_fence(w);
            }
            Op::MmaCommit => {
                self.require_whole_warp(w, pc, mask)?;
                self.product_commit(w);
            }
            Op::MmaWait { pending } => {
                self.require_whole_warp(w, pc, mask)?;
                self.product_wait(w, pc, *pending)?;
            }
            Op::Mma(mma) => {
                self.require_whole_warp(w, pc, mask)?;
                self.product(w, pc, mma)?;
            }
            Op::SetMaxRegisters { increase, registers } => {
                self.require_whole_warp(w, pc, mask)?;
                return self.set_max_registers(w, pc, *increase, *registers);
            }
            Op::GridDependency { wait } => {
                if *wait && self.grid.options.programmatic {
                    let warp = &self.cluster.warps[w];
                    self.grid.waited.extend(lanes(mask).map(|lane| (warp.id, lane, warp.time)));
                }
            }
        }
        Ok(Flow::Next)
    }

    fn fence(&mut self, w: usize, mask: u32, fence: Fence) {
        if matches!(
            fence,
            Fence::MbarrierInit | Fence::ProxyAsync(None | Some(Space::SharedCta | Space::SharedCluster))
        ) {
            self.publish_barriers(w, mask, fence == Fence::MbarrierInit);
        }
        if !self.grid.options.checks {
            return;
        }
        let warp = &mut self.cluster.warps[w];
        match fence {
            Fence::ProxyAsync(space) => {
                let shared = !matches!(space, Some(Space::Global));
                let global = matches!(space, None | Some(Space::Generic | Space::Global));
                warp.fence_proxy(mask, shared, global);
            }
            Fence::Memory(order, _) => {
                if order != Order::Acquire {
                    warp.fence_memory(mask);
                }
                if order != Order::Release
                    && let Some(view) = warp.pending_acquire.take()
                {
                    warp.acquire(mask, &view);
                }
            }
            Fence::MbarrierInit | Fence::ProxyOther => {}
        }
    }

    /// What an operand holds, in each lane.
    pub(crate) fn value(&self, w: usize, operand: &Operand) -> Lanes {
        let warp = &self.cluster.warps[w];
        match *operand {
            Operand::Reg(reg) => warp.registers.read(reg),
            Operand::Imm(value) => [value; 32],
            Operand::Shared(offset) => [u64::from(SHARED_BASE + offset); 32],
            Operand::Param(offset) => [u64::from(offset); 32],
            Operand::Special(special) => self.special(w, special),
        }
    }

    fn special(&self, w: usize, special: Special) -> Lanes {
        let warp = &self.cluster.warps[w];
        let cta = &self.cluster.ctas[warp.cta];
        let launch = &self.grid.launch;
        let cluster = launch.cluster.map(|n| n.max(1));
        let axis = |axis: u8| usize::from(axis);
        let uniform = |value: u32| [u64::from(value); 32];
        let of_lane = |f: &dyn Fn(u32) -> u32| std::array::from_fn(|lane| u64::from(f(lane as u32)));
        match special {
            Special::Tid(of) => {
                let [x, y, _] = launch.block;
                of_lane(&|lane| {
                    let thread = warp.index * 32 + lane;
                    [thread % x, thread / x % y, thread / x / y][axis(of)]
                })
            }
            Special::Ntid(of) => uniform(launch.block[axis(of)]),
            Special::Ctaid(of) => uniform(cta.coordinates[axis(of)]),
            Special::Nctaid(of) => uniform(launch.grid[axis(of)]),
            Special::Laneid => of_lane(&|lane| lane),
            Special::Warpid => uniform(warp.index),
            Special::Nwarpid => uniform(self.cluster.warps.len() as u32 / self.cluster.ctas.len() as u32),
            Special::Smid => uniform(cta.index % self.grid.limits.sm_count),
            Special::Nsmid => uniform(self.grid.limits.sm_count),
            Special::Clusterid(of) => uniform(cta.coordinates[axis(of)] / cluster[axis(of)]),
            Special::Nclusterid(of) => uniform(launch.grid[axis(of)] / cluster[axis(of)]),
            Special::ClusterCtaid(of) => uniform(cta.coordinates[axis(of)] % cluster[axis(of)]),
            Special::ClusterNctaid(of) => uniform(cluster[axis(of)]),
            Special::ClusterCtarank => uniform(warp.cta as u32),
            Special::ClusterNctarank => uniform(self.cluster.ctas.len() as u32),
            Special::IsExplicitCluster => uniform(u32::from(self.cluster.ctas.len() > 1)),
            Special::LanemaskEq => of_lane(&|lane| 1 << lane),
            Special::LanemaskLe => of_lane(&|lane| u32::MAX >> (31 - lane)),
            Special::LanemaskLt => of_lane(&|lane| (1 << lane) - 1),
            Special::LanemaskGe => of_lane(&|lane| u32::MAX << lane),
            Special::LanemaskGt => of_lane(&|lane| (u32::MAX - 1) << lane),
            Special::Clock(high) => uniform(if high { 0 } else { warp.time }),
            Special::Clock64 | Special::Globaltimer => [self.grid.counters.warp_instructions; 32],
            Special::DynamicSmemSize => uniform(launch.shared_bytes),
            Special::TotalSmemSize => uniform(launch.shared_bytes + self.grid.kernel.static_shared_bytes),
        }
    }

    /// Writes a register in the lanes of `mask`.
    pub(crate) fn write(&mut self, w: usize, reg: Reg, value: &Lanes, mask: u32) {
        self.cluster.warps[w].registers.write(reg, value, mask);
    }

    /// The addresses of an access, in each lane.
    pub(crate) fn addresses(&mut self, w: usize, pc: u32, mask: u32, address: &Address) -> Step<Lanes> {
        if let Operand::Reg(reg) = address.base {
            self.require_written(w, pc, mask, reg);
        }
        let narrow = matches!(address.base, Operand::Reg(Reg::Narrow(_)));
        Ok(self.value(w, &address.base).map(|base| {
            let sum = base.wrapping_add_signed(address.offset);
            if narrow { sum & u64::from(u32::MAX) } else { sum }
        }))
    }

    /// Reports a register that was never written in some lane, where its value matters.
    pub(crate) fn require_written(&mut self, w: usize, pc: u32, mask: u32, reg: Reg) {
        let missing = mask & !self.cluster.warps[w].registers.written(reg);
        if missing != 0 && self.grid.options.checks {
            let message = format!(
                "register {reg} decides about an address, a branch or memory, but was never written in lanes {missing:#010x}"
            );
            self.find(w, pc, Code::E30, message);
        }
    }

    /// Reports an instruction for whole warps that only some of the lanes execute.
    pub(crate) fn require_whole_warp(&mut self, w: usize, pc: u32, mask: u32) -> Step {
        let live = self.cluster.warps[w].splits.live;
        if mask == live {
            return Ok(());
        }
        if self.cluster.warps[w].splits.parted {
            // The others cannot come: that is why these lanes went on without them.
            self.report_deadlock();
            return Err(Stop);
        }
        self.stop(
            w,
            pc,
            Code::E34,
            format!("an instruction for whole warps is executed by lanes {mask:#010x} of {live:#010x}"),
        )
    }
}

/// How many polls in vain there were, with this instruction. Atomics that change memory end the count on their own.
fn polls(op: &Op, before: u32) -> u32 {
    match op {
        Op::Atomic { .. } => before + 1,
        Op::Load { order, .. } if *order != Order::Weak => before + 1,
        Op::Store { .. } | Op::Mbarrier { .. } | Op::Bulk(_) | Op::Barrier { .. } => 0,
        _ => before,
    }
}
