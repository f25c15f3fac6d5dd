//! Arithmetic: the values are the models'.

use crate::ir::{Alu, AluOp, Operand, Reg};
use crate::models;

use super::Engine;

impl Engine<'_, '_> {
    /// Runs an arithmetic instruction.
    pub(crate) fn alu(&mut self, w: usize, mask: u32, alu: &Alu) {
        let mut src = [[0; 32]; 4];
        for (value, operand) in src.iter_mut().zip(&alu.src[..usize::from(alu.sources)]) {
            *value = self.value(w, operand);
        }
        if alu.op == AluOp::Ex2 {
            self.grid.counters.exponentials += u64::from(mask.count_ones());
        }
        let result = models::alu::evaluate(alu, &src);
        let undefined = mask & !self.defined(w, alu);
        self.write(w, alu.dst, &result, mask);
        if let Some(second) = alu.dst2 {
            self.write(w, second, &models::alu::second(alu, &src), mask);
        }
        if undefined != 0 {
            let registers = &mut self.cluster.warps[w].registers;
            std::iter::once(alu.dst).chain(alu.dst2).for_each(|reg| registers.forget(reg, undefined));
        }
    }

    /// Lanes in which everything that the result depends on was written.
    fn defined(&self, w: usize, alu: &Alu) -> u32 {
        let registers = &self.cluster.warps[w].registers;
        let written = |operand: &Operand| match operand {
            Operand::Reg(reg) => registers.written(*reg),
            _ => u32::MAX,
        };
        match (alu.op, alu.src[2]) {
            // What is not chosen does not matter.
            (AluOp::Selp, Operand::Reg(Reg::Pred(number))) => {
                let chosen = registers.predicate(number);
                written(&alu.src[2]) & (written(&alu.src[0]) & chosen | written(&alu.src[1]) & !chosen)
            }
            _ => alu.src[..usize::from(alu.sources)]
                .iter()
                .fold(u32::MAX, |lanes, operand| lanes & written(operand)),
        }
    }
}
