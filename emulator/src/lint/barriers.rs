//! S09: numbers and thread counts of named barriers.

use std::collections::BTreeMap;

use super::uniformity::{Spread, Uniformity};
use super::{Code, Finding, Lint, opcode};
use crate::ir::{Kernel, Op, Operand};
use crate::report::Level;

/// Barriers of a CTA.
const BARRIERS: u64 = 16;

pub(super) fn check(lint: &Lint, uniformity: &Uniformity) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Of each number the count that it was first used with, and where.
    let mut counts: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
    for (index, instruction) in lint.code() {
        let Op::Barrier { id, threads, .. } = &instruction.op else { continue };
        let name = opcode(&instruction.op);
        let mut report = |message| findings.push(lint.finding(Code::S09, Level::Deny, index, message));
        let number = match id {
            Operand::Imm(number) if *number >= BARRIERS => {
                report(format!("{name}: there is no barrier {number}; the last is {}", BARRIERS - 1));
                None
            }
            Operand::Imm(number) => Some(*number),
            _ => {
                if uniformity.barrier(index) > Spread::Warps {
                    report(format!(
                        "{name}: the lanes of a warp may disagree about the number of the barrier"
                    ));
                }
                None
            }
        };
        let count = match threads {
            None => block_threads(lint.kernel, false),
            Some(Operand::Imm(count)) => {
                let limit = block_threads(lint.kernel, true);
                if *count == 0 || count % 32 != 0 {
                    report(format!("{name}: {count} threads are not whole warps"));
                } else if let Some(limit) = limit.filter(|limit| count > limit) {
                    report(format!("{name}: {count} threads are more than the {limit} of the CTA"));
                }
                Some(*count)
            }
            Some(_) => {
                report(format!("{name}: the number of threads is not a constant"));
                None
            }
        };
        let (Some(number), Some(count)) = (number, count) else { continue };
        let (first, there) = *counts.entry(number).or_insert((count, index));
        if first != count {
            let message =
                format!("barrier {number} is used with {count} threads here and with {first} there");
            let finding = lint.finding(Code::S09, Level::Deny, index, message);
            findings.push(Finding { there: Some(lint.site(there)), ..finding });
        }
    }
    findings
}

/// Threads of the CTA: as many as it must have, or with `at_most` as it may have; absent if nothing says so.
fn block_threads(kernel: &Kernel, at_most: bool) -> Option<u64> {
    let block = kernel.required_threads.or(kernel.max_threads.filter(|_| at_most))?;
    Some(block.into_iter().map(u64::from).fold(1, u64::saturating_mul))
}
