//! Read-modify-write operations.

use crate::ir::{Alu, AluOp, AtomicOp, BulkReduce, Float, Operand, Reg, Rounding, Type};
use crate::models;

/// What is stored after an operation on `old` with `operand`.
pub(crate) fn combine(op: AtomicOp, ty: Type, old: u64, operand: u64) -> u64 {
    let op = match op {
        AtomicOp::Exch | AtomicOp::Cas => return operand,
        AtomicOp::Inc => return if old >= operand { 0 } else { old + 1 },
        AtomicOp::Dec => return if old == 0 || old > operand { operand } else { old - 1 },
        AtomicOp::Add => AluOp::Add,
        AtomicOp::Min => AluOp::Min,
        AtomicOp::Max => AluOp::Max,
        AtomicOp::And => AluOp::And,
        AtomicOp::Or => AluOp::Or,
        AtomicOp::Xor => AluOp::Xor,
    };
    let float = Float { rounding: Rounding::Rn, ..Float::default() };
    let src = [Operand::Imm(old), Operand::Imm(operand), Operand::Imm(0), Operand::Imm(0)];
    let alu = Alu { op, ty, float, dst: Reg::Wide(0), dst2: None, src, sources: 2, combine: None };
    models::alu::evaluate(&alu, &[[old; 32], [operand; 32], [0; 32], [0; 32]])[0]
}

impl From<BulkReduce> for AtomicOp {
    fn from(reduce: BulkReduce) -> Self {
        match reduce {
            BulkReduce::Add => AtomicOp::Add,
            BulkReduce::Min => AtomicOp::Min,
            BulkReduce::Max => AtomicOp::Max,
            BulkReduce::And => AtomicOp::And,
            BulkReduce::Or => AtomicOp::Or,
            BulkReduce::Xor => AtomicOp::Xor,
            BulkReduce::Inc => AtomicOp::Inc,
            BulkReduce::Dec => AtomicOp::Dec,
        }
    }
}
