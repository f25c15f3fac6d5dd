//! The rules that every kernel must keep. A kernel that breaks one may be wrong or slow without looking so; the
//! build stops.
//!
//! Most rules are the emulator's lints. What they cannot know is checked here: how often an instruction must stand in a
//! kernel, and what a launch may use.

use std::collections::BTreeMap;

use flashcore_emulator::ir::Module;
use flashcore_emulator::lint::{self, Finding};
use flashcore_emulator::{Level, ParseError};
use flashcore_kernels::config::SMEM_LIMIT;
use flashcore_kernels::entry::{Entry, Opcodes};

use crate::ptxas::Resources;
use crate::rules;

/// A broken rule: which kernel, why, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The PTX has something that no rule is known for.
    #[error("{kernel}: the PTX cannot be checked: {error}")]
    NotUnderstood {
        /// The entry's symbol.
        kernel: &'static str,
        /// Line, column and cause.
        error: ParseError,
    },
    /// A lint of the emulator finds an error.
    #[error("{0}")]
    Lint(Finding),
    /// An instruction that must stand a known number of times does not: something duplicated or dropped it.
    #[error("{kernel}: the PTX has {found} {opcode} instead of {expected}")]
    Count {
        /// The entry's symbol.
        kernel: &'static str,
        /// The opcode.
        opcode: &'static str,
        /// How often the PTX has it.
        found: usize,
        /// How often the table of kernels promises it.
        expected: usize,
    },
    /// ptxas does not say what the machine code uses.
    #[error(
        "{kernel}: ptxas does not say how many registers and how much stack the kernel uses, only:\n{log}"
    )]
    Silent {
        /// The entry's symbol.
        kernel: &'static str,
        /// What ptxas printed.
        log: String,
    },
    /// The machine code has a path that data choose, which no PTX shows.
    #[error("{kernel}: ptxas added {function}, a slow path of arithmetic that data choose")]
    SlowPath {
        /// The entry's symbol.
        kernel: &'static str,
        /// What ptxas calls it.
        function: String,
    },
    /// A launch would need more registers than a CTA gets.
    #[error("{kernel}: {used} registers a thread, at most {limit} fit a CTA of {threads} threads")]
    Registers {
        /// The entry's symbol.
        kernel: &'static str,
        /// Registers of a thread.
        used: u32,
        /// Registers it may use.
        limit: u32,
        /// Threads of a CTA.
        threads: u32,
    },
    /// A launch would need more shared memory than a CTA gets.
    #[error(
        "{kernel}: {static_bytes} bytes of static and {dynamic_bytes} bytes of dynamic shared memory, at most {limit} \
         together"
    )]
    SharedMemory {
        /// The entry's symbol.
        kernel: &'static str,
        /// Shared memory that the PTX declares.
        static_bytes: u32,
        /// Shared memory that a launch asks for.
        dynamic_bytes: u32,
        /// What a CTA may have.
        limit: u32,
    },
}

/// What the gates make of an entry.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verdict {
    /// Rules that the entry breaks; it passes if there are none.
    pub broken: Vec<GateError>,
    /// Findings that do not stop a build.
    pub warnings: Vec<Finding>,
    /// How often the PTX has each opcode, by the names of [`flashcore_emulator::lint::opcode`].
    pub opcodes: BTreeMap<&'static str, usize>,
}

impl Verdict {
    /// The verdict on the finished PTX of `entry`.
    pub fn on_ptx(entry: &Entry, ptx: &str) -> Verdict {
        let mut verdict = Verdict::default();
        match Module::parse(ptx) {
            Ok(module) => {
                verdict.sort(lint::check(&module, &rules::lints(entry)));
                verdict.opcodes = module.kernel(entry.symbol).map(lint::opcodes).unwrap_or_default();
                verdict.compare_counts(entry);
            }
            Err(error) => {
                verdict.broken.push(GateError::NotUnderstood { kernel: entry.symbol, error });
            }
        }
        verdict
    }

    /// Adds the verdict on the machine code, by what `ptxas -v` printed.
    pub fn on_machine_code(&mut self, entry: &Entry, log: &str) {
        let kernel = entry.symbol;
        let mut findings = lint::ptxas_log(log, entry.spill_limit.into());
        // Some notes come before ptxas names the kernel.
        findings.iter_mut().for_each(|finding| finding.kernel = Some(kernel.to_owned()));
        self.sort(findings);
        let Some(Resources { registers, static_smem_bytes, .. }) = Resources::parse(log) else {
            self.broken.push(GateError::Silent { kernel, log: log.to_owned() });
            return;
        };
        if registers > entry.max_registers {
            let (limit, threads) = (entry.max_registers, entry.threads);
            self.broken.push(GateError::Registers { kernel, used: registers, limit, threads });
        }
        if static_smem_bytes.saturating_add(entry.smem_bytes) > SMEM_LIMIT {
            self.broken.push(GateError::SharedMemory {
                kernel,
                static_bytes: static_smem_bytes,
                dynamic_bytes: entry.smem_bytes,
                limit: SMEM_LIMIT,
            });
        }
    }

    /// Adds the verdict on the machine code itself.
    pub fn on_cubin(&mut self, entry: &Entry, cubin: &[u8]) {
        let kernel = entry.symbol;
        let functions = lint::slow_paths(cubin).into_iter();
        self.broken.extend(functions.map(|function| GateError::SlowPath { kernel, function }));
    }

    /// How often the PTX has an opcode.
    pub fn count(&self, opcode: &str) -> usize {
        self.opcodes.get(opcode).copied().unwrap_or_default()
    }

    fn sort(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            match finding.level {
                Level::Deny => self.broken.push(GateError::Lint(finding)),
                Level::Warn => self.warnings.push(finding),
            }
        }
    }

    fn compare_counts(&mut self, entry: &Entry) {
        for (opcode, expected) in entry.opcodes.iter().flat_map(promised) {
            let (found, expected) = (self.count(opcode), expected as usize);
            if found != expected {
                self.broken.push(GateError::Count { kernel: entry.symbol, opcode, found, expected });
            }
        }
    }
}

/// The opcodes that the table of kernels counts, by name.
fn promised(opcodes: &Opcodes) -> [(&'static str, u32); 11] {
    [
        ("wgmma.mma_async", opcodes.wgmma),
        ("cp.async.bulk.tensor.shared.global", opcodes.tma_load),
        ("cp.async.bulk.tensor.global.shared", opcodes.tma_store),
        ("bar.sync", opcodes.bar_sync),
        ("bar.arrive", opcodes.bar_arrive),
        ("setmaxnreg.inc", opcodes.setmaxnreg_inc),
        ("setmaxnreg.dec", opcodes.setmaxnreg_dec),
        ("barrier.cluster.arrive", opcodes.cluster_arrive),
        ("barrier.cluster.wait", opcodes.cluster_wait),
        ("stmatrix", opcodes.stmatrix),
        ("elect.sync", opcodes.elect),
    ]
}

#[cfg(test)]
mod tests;
