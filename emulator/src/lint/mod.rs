//! Static checks: what can be known of a kernel without running it.
//!
//! They look at all paths, so they find what a run may miss; and at any path, so what they find may be on one that no
//! launch takes.

mod aligned;
mod barriers;
mod constant_time;
mod dataflow;
mod finding;
mod float;
mod header;
mod in_flight;
mod opcodes;
mod ptxas;
mod register_map;
mod taint;
mod uniformity;

use std::collections::BTreeSet;

use crate::ir::{Cfg, Instruction, Kernel, Module};
use crate::report::{Level, Site};

pub use finding::{Code, Finding};
pub use opcodes::{opcode, opcodes};
pub use ptxas::{ptxas_log, slow_paths};

/// What is checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The `.target` that a file must have.
    pub target: String,
    /// The oldest `.version` that a file may have.
    pub oldest_version: (u32, u32),
    /// Opcodes that a kernel may use, by the names of [`opcodes`]; absent: all.
    pub opcodes: Option<BTreeSet<String>>,
    /// Whether [`Code::S06`] is looked for. It is a claim that a kernel may make, not a rule that all must keep.
    pub constant_time: bool,
    /// For [`Code::S06`]: offsets in parameter space of pointers to public data, such as sequence lengths.
    pub public_pointers: BTreeSet<u32>,
    /// What is not looked for.
    pub allow: BTreeSet<Code>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            target: "sm_90a".to_owned(),
            oldest_version: (8, 0),
            opcodes: None,
            constant_time: false,
            public_pointers: BTreeSet::new(),
            allow: BTreeSet::new(),
        }
    }
}

/// Everything that is wrong with a module, kernel by kernel, in the order of the codes.
pub fn check(module: &Module, config: &Config) -> Vec<Finding> {
    let mut findings = header::version_and_target(module, config);
    for kernel in &module.kernels {
        let lint = Lint { module, kernel, config, cfg: &Cfg::of(kernel) };
        let uniformity = uniformity::Uniformity::of(kernel, lint.cfg);
        findings.extend(header::local_memory(&lint));
        findings.extend(in_flight::check(&lint));
        findings.extend(header::register_reallocation(&lint));
        findings.extend(aligned::check(&lint, &uniformity));
        findings.extend(float::check(&lint));
        if config.constant_time {
            findings.extend(constant_time::check(&lint));
        }
        findings.extend(header::allowed_opcodes(&lint));
        findings.extend(barriers::check(&lint, &uniformity));
    }
    findings.retain(|finding| !config.allow.contains(&finding.code));
    findings
}

/// What a check of a kernel looks at.
struct Lint<'a> {
    module: &'a Module,
    kernel: &'a Kernel,
    config: &'a Config,
    cfg: &'a Cfg,
}

impl Lint<'_> {
    fn code(&self) -> impl Iterator<Item = (u32, &Instruction)> {
        (0..).zip(&self.kernel.code)
    }

    /// Where an instruction stands.
    fn site(&self, index: u32) -> Site {
        let at = self.kernel.code[index as usize].at;
        let source = at.source.and_then(|(file, line)| {
            let (_, name) = self.module.files.iter().find(|(number, _)| *number == file)?;
            Some((name.clone(), line))
        });
        Site { line: at.line, source }
    }

    fn finding(&self, code: Code, level: Level, here: u32, message: String) -> Finding {
        Finding {
            code,
            level,
            kernel: Some(self.kernel.name.clone()),
            message,
            here: Some(self.site(here)),
            there: None,
        }
    }
}
