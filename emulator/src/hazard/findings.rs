//! Collects findings: the same mistake at the same places is told once, and counted.

use std::collections::HashMap;

use crate::ir::{Kernel, Module};
use crate::report::{Code, Finding, Level, Site};

/// Most findings of a launch; a kernel with more is not better understood by telling them all.
const LIMIT: usize = 64;

/// One side of a finding.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    /// Index of the instruction.
    pub(crate) pc: u32,
    /// Who, as a person reads it.
    pub(crate) who: String,
}

/// The findings of a launch.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    module: &'a Module,
    kernel: &'a Kernel,
    found: HashMap<(Code, Level, u32, Option<u32>), usize>,
    pub(crate) list: Vec<Finding>,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(module: &'a Module, kernel: &'a Kernel) -> Self {
        Findings { module, kernel, found: HashMap::new(), list: Vec::new() }
    }

    /// Where an instruction stands.
    pub(crate) fn site(&self, pc: u32) -> Site {
        let at = self.kernel.code.get(pc as usize).map(|ins| ins.at).unwrap_or_default();
        let source = at.source.map(|(file, line)| {
            let name =
                self.module.files.iter().find(|(number, _)| *number == file).map(|(_, name)| name.clone());
            (name.unwrap_or_else(|| format!("file {file}")), line)
        });
        Site { line: at.line, source }
    }

    /// Whether this was told already; counts it if so.
    pub(crate) fn again(&mut self, code: Code, level: Level, here: u32, there: Option<u32>) -> bool {
        match self.found.get(&(code, level, here, there)) {
            Some(&at) => {
                if let Some(finding) = self.list.get_mut(at) {
                    finding.times += 1;
                }
                true
            }
            None => false,
        }
    }

    /// Adds a finding that was not told before.
    pub(crate) fn add(&mut self, code: Code, here: Party, there: Option<Party>, detail: Detail) {
        let level = detail.level.unwrap_or(code.level());
        let key = (code, level, here.pc, there.as_ref().map(|party| party.pc));
        if self.again(code, level, key.2, key.3) {
            return;
        }
        self.found.insert(key, self.list.len());
        if self.list.len() == LIMIT {
            return;
        }
        self.list.push(Finding {
            code,
            level,
            message: detail.message,
            here: self.site(here.pc),
            there: there.as_ref().map(|party| self.site(party.pc)),
            actors: std::iter::once(here.who).chain(there.map(|party| party.who)).collect(),
            bytes: detail.bytes,
            history: detail.history,
            times: 1,
        });
    }
}

/// What a finding says beyond its places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Detail {
    pub(crate) message: String,
    /// If not the code's own.
    pub(crate) level: Option<Level>,
    pub(crate) bytes: Option<(u64, u64)>,
    pub(crate) history: Vec<String>,
}

impl From<String> for Detail {
    fn from(message: String) -> Self {
        Detail { message, ..Detail::default() }
    }
}

impl From<&str> for Detail {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}
