//! Arithmetic: the values are the models'.

use crate::ir::{Alu, AluOp};
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
        self.write(w, alu.dst, &result, mask);
        if let Some(second) = alu.dst2 {
            self.write(w, second, &models::alu::second(alu, &src), mask);
        }
    }
}
