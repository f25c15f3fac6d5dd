//! Warpgroup products, and the registers that they have in flight.
//!
//! Each warp computes the 16 rows of D that it holds. A product is done when it is issued or when it is waited for, as
//! the completion policy says; between, its registers belong to it, and every other instruction that touches them is
//! reported.

use std::collections::VecDeque;
use std::rc::Rc;

use rand::Rng;

use crate::device::Completion;
use crate::hazard::{Agent, Party, Record};
use crate::ir::{Mma, MmaA, MmaAccumulator, Op, Operand, Reg};
use crate::models::descriptor::{Descriptor, Matrix, OperandLayout, ROW, operand};
use crate::models::fragment;
use crate::models::tensor_core::Product;
use crate::report::Code;

use super::{Engine, SHARED_BASE, Step};

/// Rows of D that a warp holds.
const ROWS: usize = 16;

/// What products do with a narrow register.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// The last product that writes it, and that reads it as A.
    d: u32,
    a: u32,
    /// When another instruction last touched it, and last wrote it.
    touched: u32,
    written: u32,
    /// When a product last took it for D, and the shape of that: N and the type of D.
    claimed: u32,
    shape: Option<(u32, MmaAccumulator)>,
}

/// A product that has not been computed.
#[derive(Debug)]
struct Pending {
    number: u32,
    pc: u32,
    descriptors: [u64; 2],
    accumulate: bool,
}

/// The products of a warp.
#[derive(Debug)]
pub(crate) struct Products {
    /// Number of the last that was issued; of the last that has retired.
    issued: u32,
    retired: u32,
    /// Last product of each committed group.
    groups: VecDeque<u32>,
    /// Number of the last that was committed.
    committed: u32,
    pending: VecDeque<Pending>,
    /// Instructions of the products in flight.
    in_flight: VecDeque<(u32, u32)>,
    /// When the warp last executed wgmma.fence; 0: never.
    fenced: u32,
    uses: Vec<Use>,
}

impl Products {
    pub(crate) fn new(registers: u16) -> Self {
        Products {
            issued: 0,
            retired: 0,
            groups: VecDeque::new(),
            committed: 0,
            pending: VecDeque::new(),
            in_flight: VecDeque::new(),
            fenced: 0,
            uses: vec![Use::default(); usize::from(registers)],
        }
    }

    /// The instruction of a product in flight.
    fn pc_of(&self, number: u32) -> u32 {
        self.in_flight.iter().find(|(known, _)| *known == number).map_or(0, |&(_, pc)| pc)
    }
}

/// A product that some warps of a warpgroup have issued: what the others must issue too.
#[derive(Debug)]
pub(crate) struct Agreement {
    pc: u32,
    /// Descriptors of A and B, and scale-d.
    operands: [u64; 3],
    warps: u32,
}

fn narrow(reg: &Reg) -> usize {
    match reg {
        Reg::Narrow(number) => usize::from(*number),
        Reg::Pred(_) | Reg::Wide(_) => unreachable!("the decoder takes 32-bit registers only"),
    }
}

impl Engine<'_, '_> {
    /// Reports registers that an instruction touches while a product has them, and notes that it touched them.
    pub(crate) fn check_registers(&mut self, w: usize, pc: u32, op: &Op) {
        if matches!(op, Op::Mma(_)) {
            return;
        }
        let touched = &self.grid.touched[pc as usize];
        let warp = &mut self.cluster.warps[w];
        let (time, products) = (warp.time, &mut warp.products);
        let quiet = products.issued == products.retired;
        let mut wrong: Vec<(Code, u16, u32)> = Vec::new();
        for &reg in &touched.reads {
            let state = &mut products.uses[usize::from(reg)];
            state.touched = time;
            if !quiet && state.d > products.retired {
                wrong.push((Code::E06, reg, state.d));
            } else if !quiet && state.a > products.retired {
                wrong.push((Code::E09, reg, state.a));
            }
        }
        for &reg in &touched.writes {
            let state = &mut products.uses[usize::from(reg)];
            (state.touched, state.written) = (time, time);
            if !quiet && state.d > products.retired {
                wrong.push((Code::E07, reg, state.d));
            } else if !quiet && state.a > products.retired {
                wrong.push((Code::E08, reg, state.a));
            }
        }
        for (code, reg, number) in wrong {
            self.report_in_flight(w, pc, code, reg, number);
        }
    }

    fn report_in_flight(&mut self, w: usize, pc: u32, code: Code, reg: u16, number: u32) {
        let warp = &self.cluster.warps[w];
        let there = Party { pc: warp.products.pc_of(number), who: "the product in flight".to_owned() };
        let here = Party { pc, who: self.who(warp.id, None) };
        let (does, what) = match code {
            Code::E06 => ("read", "an accumulator"),
            Code::E07 => ("written", "an accumulator"),
            Code::E08 => ("written", "a part of A"),
            _ => ("read", "a part of A"),
        };
        let message =
            format!("register r{reg} is {does} while it is {what} of a product that nothing has waited for");
        self.grid.findings.add(code, here, Some(there), message.into());
    }

    /// `wgmma.fence`
    pub(crate) fn product_fence(&mut self, w: usize) {
        let warp = &mut self.cluster.warps[w];
        warp.products.fenced = warp.time;
    }

    /// `wgmma.commit_group`
    pub(crate) fn product_commit(&mut self, w: usize) {
        let products = &mut self.cluster.warps[w].products;
        products.groups.push_back(products.issued);
        products.committed = products.issued;
    }

    /// `wgmma.wait_group`
    pub(crate) fn product_wait(&mut self, w: usize, pc: u32, pending: u32) -> Step {
        let products = &mut self.cluster.warps[w].products;
        let open = products.issued > products.committed;
        let mut retired = products.retired;
        while products.groups.len() > pending as usize {
            retired = products.groups.pop_front().unwrap_or(retired);
        }
        let first_open = products.committed + 1;
        products.retired = retired;
        products.in_flight.retain(|&(number, _)| number > retired);
        if open && self.grid.options.checks {
            let there =
                Party { pc: self.cluster.warps[w].products.pc_of(first_open), who: "the product".to_owned() };
            let here = Party { pc, who: self.who(self.cluster.warps[w].id, None) };
            let message = "a wait for groups does not wait for a product that was not committed to one";
            self.grid.findings.add(Code::E11, here, Some(there), message.into());
        }
        let pending = &mut self.cluster.warps[w].products.pending;
        let done = pending.iter().take_while(|product| product.number <= retired).count();
        let done: Vec<_> = pending.drain(..done).collect();
        done.into_iter().try_for_each(|product| self.compute(w, product))?;
        if self.grid.options.checks {
            let warp = &mut self.cluster.warps[w];
            let id = warp.id;
            warp.common.order.learn_products(id, retired);
        }
        Ok(())
    }

    /// `wgmma.mma_async`
    pub(crate) fn product(&mut self, w: usize, pc: u32, mma: &Mma) -> Step {
        let a = match &mma.a {
            MmaA::Shared { descriptor, .. } => self.uniform(w, pc, descriptor)?,
            MmaA::Registers(_) => 0,
        };
        let b = self.uniform(w, pc, &mma.b)?;
        let accumulate = match mma.scale_d {
            Operand::Imm(value) => value != 0,
            ref predicate => self.uniform(w, pc, predicate)? != 0,
        };
        let products = &mut self.cluster.warps[w].products;
        products.issued += 1;
        let number = products.issued;
        products.in_flight.push_back((number, pc));
        let index = self.cluster.warps[w].index;
        if index.is_multiple_of(4) {
            let counters = &mut self.grid.counters;
            counters.wgmma += 1;
            counters.wgmma_flops += 2 * 64 * u64::from(mma.n) * u64::from(mma.a_type.k());
            let a_rows = if matches!(mma.a, MmaA::Shared { .. }) { 64 } else { 0 };
            counters.wgmma_shared_bytes += (a_rows + u64::from(mma.n)) * ROW as u64;
        }
        if self.grid.options.checks {
            self.agree(w, pc, number, [a, b, u64::from(accumulate)])?;
            self.require_operands(w, pc, mma, accumulate);
            self.claim_registers(w, pc, mma, number);
            let registers = &mut self.cluster.warps[w].registers;
            mma.d.iter().for_each(|reg| registers.promise(narrow(reg) as u16));
        }
        self.check_operands(w, pc, mma, number, [a, b])?;
        let product = Pending { number, pc, descriptors: [a, b], accumulate };
        let now = match self.grid.options.completion {
            Completion::Eager => true,
            Completion::Lazy => false,
            // Products of a warp are computed in order.
            Completion::Random => self.cluster.warps[w].products.pending.is_empty() && self.grid.rng.random(),
        };
        if now {
            return self.compute(w, product);
        }
        self.cluster.warps[w].products.pending.push_back(product);
        Ok(())
    }

    /// A value that all lanes of a warp must agree about.
    fn uniform(&mut self, w: usize, pc: u32, operand: &Operand) -> Step<u64> {
        let values = self.value(w, operand);
        if values.iter().any(|&value| value != values[0]) {
            return self.stop(
                w,
                pc,
                Code::E12,
                "the lanes of a warp disagree about an operand of a warpgroup product",
            );
        }
        Ok(values[0])
    }

    /// The four warps of a warpgroup must issue the same products.
    fn agree(&mut self, w: usize, pc: u32, number: u32, operands: [u64; 3]) -> Step {
        let warp = &self.cluster.warps[w];
        let (cta, group) = (warp.cta, warp.index / 4);
        let agreements = &mut self.cluster.agreements;
        let key = (cta, group, number);
        let agreement = agreements.entry(key).or_insert(Agreement { pc, operands, warps: 0 });
        agreement.warps += 1;
        let (other, same) = (agreement.pc, agreement.operands == operands);
        if agreement.warps == 4 {
            agreements.remove(&key);
        }
        if other != pc {
            let line = self.grid.findings.site(other);
            return self.stop(
                w,
                pc,
                Code::E34,
                format!("another warp of the warpgroup executes the product at {line} instead"),
            );
        }
        if !same {
            return self.stop(
                w,
                pc,
                Code::E12,
                "the warps of a warpgroup disagree about a matrix descriptor, or about scale-d",
            );
        }
        Ok(())
    }

    /// Reports registers that a product reads though nobody has written them.
    fn require_operands(&mut self, w: usize, pc: u32, mma: &Mma, accumulate: bool) {
        let live = self.cluster.warps[w].splits.live;
        let mut operands = vec![mma.b, mma.scale_d];
        match &mma.a {
            MmaA::Shared { descriptor, .. } => operands.push(*descriptor),
            MmaA::Registers(a) => operands.extend(a.map(Operand::Reg)),
        }
        if accumulate {
            operands.extend(mma.d.iter().map(|reg| Operand::Reg(*reg)));
        }
        for operand in operands {
            if let Operand::Reg(reg) = operand {
                self.require_written(w, pc, live, reg);
            }
        }
    }

    /// Takes the registers of a product, and reports those that it must not have.
    fn claim_registers(&mut self, w: usize, pc: u32, mma: &Mma, number: u32) {
        let warp = &mut self.cluster.warps[w];
        let (time, products) = (warp.time, &mut warp.products);
        let (retired, fenced) = (products.retired, products.fenced);
        let shape = Some((mma.n, mma.d_type));
        let mut wrong: Vec<(Code, u16, u32)> = Vec::new();
        let mut unfenced = None;
        if let MmaA::Registers(a) = &mma.a {
            for reg in a {
                let state = &mut products.uses[narrow(reg)];
                if state.d > retired {
                    wrong.push((Code::E06, narrow(reg) as u16, state.d));
                }
                if state.written > fenced || fenced == 0 || state.claimed > fenced {
                    unfenced = Some(narrow(reg));
                }
                state.a = number;
            }
        }
        for reg in &mma.d {
            let state = &mut products.uses[narrow(reg)];
            // Products of one shape may follow each other on the same accumulators without a fence.
            let reshaped = state.shape.is_some() && state.shape != shape;
            if state.d > retired && reshaped {
                wrong.push((Code::E07, narrow(reg) as u16, state.d));
            }
            if state.a > retired && state.a != number {
                wrong.push((Code::E08, narrow(reg) as u16, state.a));
            }
            if state.touched > fenced || fenced == 0 || reshaped && state.claimed > fenced {
                unfenced = Some(narrow(reg));
            }
            (state.d, state.claimed, state.shape) = (number, time, shape);
        }
        for (code, reg, number) in wrong {
            self.report_in_flight(w, pc, code, reg, number);
        }
        if let Some(reg) = unfenced {
            let message = format!(
                "the product uses register r{reg}, which other instructions, or products of another shape, have touched since the last wgmma.fence"
            );
            self.find(w, pc, Code::E10, message);
        }
    }

    /// Checks descriptors, and notes what the product reads.
    fn check_operands(&mut self, w: usize, pc: u32, mma: &Mma, number: u32, [a, b]: [u64; 2]) -> Step {
        let warp = &self.cluster.warps[w];
        let (cta, id) = (warp.cta, warp.id);
        let view = self.grid.options.checks.then(|| warp.release(warp.splits.live));
        let record =
            Record { warp: id, agent: Agent::Product { number }, pc, bytes: 0, write: false, strong: false };
        let mut layouts = vec![self.layout(w, pc, b, mma.b_mn_major, mma.b_type.bytes(), mma.n)?];
        if let MmaA::Shared { mn_major, .. } = mma.a {
            // All of A: a warp needs its own rows only, but nobody says that the hardware reads them warp by warp.
            layouts.push(self.layout(w, pc, a, mn_major, mma.a_type.bytes(), 64)?);
        }
        let Some(view) = view else { return Ok(()) };
        for chunk in layouts.iter().flat_map(|layout| layout.chunks()) {
            self.note_async(w, cta, chunk.address, 16, record, &view);
        }
        Ok(())
    }

    /// Where the operand of a descriptor lies. Stops if that is not in the shared memory of the CTA.
    fn layout(
        &mut self,
        w: usize,
        pc: u32,
        descriptor: u64,
        mn_major: bool,
        bytes: u32,
        extent: u32,
    ) -> Step<Rc<OperandLayout>> {
        let key = (descriptor, mn_major, bytes, extent);
        if let Some(layout) = self.grid.layouts.get(&key) {
            return Ok(layout.clone());
        }
        let layout = match Descriptor::decode(descriptor)
            .and_then(|found| operand(&found, mn_major, bytes, extent))
        {
            Ok(layout) => Rc::new(layout),
            Err(error) => {
                return self.stop(w, pc, Code::E13, format!("matrix descriptor {descriptor:#018x}: {error}"));
            }
        };
        let end = self.cluster.ctas[self.cluster.warps[w].cta].smem.len() as u32;
        if let Some(outside) =
            layout.chunks().iter().find(|chunk| chunk.address < SHARED_BASE || chunk.address + 16 > end)
        {
            let message = format!(
                "matrix descriptor {descriptor:#018x} reaches {:#x}, outside of shared memory, which is from {SHARED_BASE:#x} to {:#x}",
                outside.address,
                end - 1
            );
            return self.stop(w, pc, Code::E13, message);
        }
        self.grid.layouts.insert(key, layout.clone());
        Ok(layout)
    }

    /// Computes the rows of a product that a warp holds.
    fn compute(&mut self, w: usize, product: Pending) -> Step {
        let Pending { pc, descriptors: [a, b], accumulate, .. } = product;
        let Op::Mma(mma) = &self.grid.code[pc as usize].op else {
            unreachable!("a product's instruction is one")
        };
        let b = self.layout(w, pc, b, mma.b_mn_major, mma.b_type.bytes(), mma.n)?;
        let warp = &self.cluster.warps[w];
        let smem = &self.cluster.ctas[warp.cta].smem;
        let read = |at: u32| std::array::from_fn(|byte| smem[at as usize + byte]);
        let b = b.gather(read);
        let a = match &mma.a {
            MmaA::Registers(registers) => {
                let mut rows = vec![[0; ROW]; ROWS];
                for (index, reg) in registers.iter().enumerate() {
                    for (lane, word) in warp.registers.narrow(narrow(reg) as u16).iter().enumerate() {
                        let (row, byte) = fragment::operand(0, index, lane);
                        rows[row][byte..byte + 4].copy_from_slice(&word.to_le_bytes());
                    }
                }
                Matrix { rows }
            }
            MmaA::Shared { mn_major, .. } => {
                let first = (warp.index % 4) as usize * ROWS;
                let all = self.layout(w, pc, a, *mn_major, mma.a_type.bytes(), 64)?;
                let smem = &self.cluster.ctas[self.cluster.warps[w].cta].smem;
                let all = all.gather(|at: u32| std::array::from_fn(|byte| smem[at as usize + byte]));
                Matrix { rows: all.rows[first..first + ROWS].to_vec() }
            }
        };
        let n = mma.n as usize;
        let packed = mma.d_type == MmaAccumulator::F16;
        let registers = &mut self.cluster.warps[w].registers;
        let mut d = vec![0; ROWS * n];
        for (index, reg) in mma.d.iter().enumerate() {
            for (lane, &word) in registers.narrow(narrow(reg) as u16).iter().enumerate() {
                if packed {
                    let (row, column) = fragment::accumulator(0, 2 * index, lane);
                    (d[row * n + column], d[row * n + column + 1]) = (word & 0xFFFF, word >> 16);
                } else {
                    let (row, column) = fragment::accumulator(0, index, lane);
                    d[row * n + column] = word;
                }
            }
        }
        let what = Product {
            a: mma.a_type,
            b: mma.b_type,
            d: mma.d_type,
            negate_a: mma.negate_a,
            negate_b: mma.negate_b,
            accumulate,
            saturate: mma.saturate,
        };
        let numerics = self.grid.options.numerics;
        if let Err(error) = self.grid.tensor_core.multiply(what, &a, &b, &mut d, numerics) {
            return self.stop(w, pc, Code::E35, error.to_string());
        }
        let registers = &mut self.cluster.warps[w].registers;
        for (index, reg) in mma.d.iter().enumerate() {
            let words = registers.narrow_mut(narrow(reg) as u16);
            for (lane, word) in words.iter_mut().enumerate() {
                *word = if packed {
                    let (row, column) = fragment::accumulator(0, 2 * index, lane);
                    d[row * n + column] & 0xFFFF | d[row * n + column + 1] << 16
                } else {
                    let (row, column) = fragment::accumulator(0, index, lane);
                    d[row * n + column]
                };
            }
        }
        Ok(())
    }

    /// At the end of a warp: its products must have been waited for.
    pub(crate) fn end_products(&mut self, w: usize, pc: u32) {
        let products = &self.cluster.warps[w].products;
        if products.retired < products.issued && self.grid.options.checks {
            let there = Party { pc: products.pc_of(products.retired + 1), who: "the product".to_owned() };
            let here = Party { pc, who: self.who(self.cluster.warps[w].id, None) };
            let message = "a warp ends though nothing has waited for one of its products";
            self.grid.findings.add(Code::E11, here, Some(there), message.into());
        }
    }
}
