//! What needs no analysis: version, target, local memory, declared registers, the list of opcodes.

use super::{Code, Config, Finding, Lint, opcode};
use crate::ir::{Module, Op, Space};
use crate::report::Level;

/// S07
pub(super) fn version_and_target(module: &Module, config: &Config) -> Vec<Finding> {
    let mut messages = Vec::new();
    let ((major, minor), (oldest_major, oldest_minor)) = (module.version, config.oldest_version);
    if module.version < config.oldest_version {
        messages.push(format!(".version {major}.{minor} is older than {oldest_major}.{oldest_minor}"));
    }
    if module.target != config.target {
        messages.push(format!(".target is {}, not {}", module.target, config.target));
    }
    let finding = |message| Finding {
        code: Code::S07,
        level: Level::Deny,
        kernel: None,
        message,
        here: None,
        there: None,
    };
    messages.into_iter().map(finding).collect()
}

/// S01: one finding for all uses; a depot alone counts, too.
pub(super) fn local_memory(lint: &Lint) -> Option<Finding> {
    let is_local = |op: &Op| match op {
        Op::Load { space, .. } | Op::Store { space, .. } | Op::Cvta { space, .. } => *space == Space::Local,
        _ => false,
    };
    let mut uses = lint.code().filter(|(_, instruction)| is_local(&instruction.op)).map(|(index, _)| index);
    let bytes = lint.kernel.local_bytes;
    match uses.next() {
        Some(first) => {
            let all = 1 + uses.count();
            let message = format!("{all} instructions use local memory, of which {bytes} bytes are declared");
            Some(lint.finding(Code::S01, Level::Deny, first, message))
        }
        None if bytes > 0 => {
            let message = format!("{bytes} bytes of local memory are declared");
            Some(Finding { here: None, ..lint.finding(Code::S01, Level::Deny, 0, message) })
        }
        None => None,
    }
}

/// S03
pub(super) fn register_reallocation(lint: &Lint) -> Option<Finding> {
    let kernel = lint.kernel;
    if kernel.max_threads.is_some() || kernel.required_threads.is_some() || kernel.max_registers.is_some() {
        return None;
    }
    let (first, _) = lint.code().find(|(_, i)| matches!(i.op, Op::SetMaxRegisters { .. }))?;
    let message = "setmaxnreg is ignored without .maxntid, .reqntid or .maxnreg".to_owned();
    Some(lint.finding(Code::S03, Level::Deny, first, message))
}

/// S08
pub(super) fn allowed_opcodes(lint: &Lint) -> Vec<Finding> {
    let Some(allowed) = &lint.config.opcodes else { return Vec::new() };
    let strange = lint.code().filter(|(_, instruction)| !allowed.contains(opcode(&instruction.op)));
    strange
        .map(|(index, instruction)| {
            let message = format!("{} is not on the list of opcodes", opcode(&instruction.op));
            lint.finding(Code::S08, Level::Deny, index, message)
        })
        .collect()
}
