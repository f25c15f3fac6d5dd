//! S05: floating-point arithmetic with a slow path.
//!
//! Exact reciprocals, quotients and square roots become a call for some values; without `.ftz`, approximations scale
//! subnormal operands and results, and sums and products keep them. Both make time, or results, depend on how small
//! numbers get. Comparisons and changes of sign have no slow path.

use super::{Code, Finding, Lint, opcode};
use crate::ir::{Alu, AluOp, Op, Rounding, Type};
use crate::report::Level;

pub(super) fn check(lint: &Lint) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, instruction) in lint.code() {
        let Op::Alu(alu) = &instruction.op else { continue };
        let name = opcode(&instruction.op);
        if is_exact(alu) {
            let message = format!("{name} that rounds exactly has a slow path; use .approx.ftz");
            findings.push(lint.finding(Code::S05, Level::Deny, index, message));
        } else if alu.ty == Type::F32 && has_ftz(alu.op) && !alu.float.ftz {
            let message = format!("{name}.f32 without .ftz keeps subnormal numbers");
            findings.push(lint.finding(Code::S05, Level::Warn, index, message));
        }
    }
    findings
}

fn is_exact(alu: &Alu) -> bool {
    matches!(alu.ty, Type::F32 | Type::F64)
        && matches!(alu.op, AluOp::Rcp | AluOp::Div | AluOp::Sqrt)
        && !matches!(alu.float.rounding, Rounding::Approx | Rounding::Full)
}

fn has_ftz(op: AluOp) -> bool {
    use AluOp::*;
    matches!(op, Add | Sub | Mul | Fma | Div | Min | Max | Rcp | Sqrt | Rsqrt | Ex2 | Lg2 | Sin | Cos)
}
