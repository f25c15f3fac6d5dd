//! The rules that every kernel must keep. A kernel that breaks one may be wrong or slow without looking so; the
//! build stops.

use flashcore_kernels::config::SMEM_LIMIT;
use flashcore_kernels::entry::{Entry, Opcodes};

use crate::in_flight;
use crate::ptxas::Resources;
use crate::statements::statements;

/// A broken rule: which kernel, why, and the line that shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The kernel uses local memory.
    #[error(
        "{kernel}: local memory is used (an array indexed by a variable, or a value whose address is taken)\n  \
         PTX line {line}: {text}"
    )]
    LocalMemory {
        /// The entry's symbol.
        kernel: &'static str,
        /// Line of the finished PTX.
        line: usize,
        /// The statement.
        text: String,
    },
    /// An instruction names a register that a `wgmma` may still be writing.
    #[error(
        "{kernel}: {register} is used while the wgmma of PTX line {wgmma_line} may still be writing it (no \
         wgmma.wait_group between)\n  PTX line {line}: {text}"
    )]
    InFlight {
        /// The entry's symbol.
        kernel: &'static str,
        /// The virtual register.
        register: String,
        /// Line of the `wgmma.mma_async`.
        wgmma_line: usize,
        /// Line of the offending instruction.
        line: usize,
        /// That instruction.
        text: String,
    },
    /// Instructions that must stand a known number of times do not: something duplicated or dropped them.
    #[error("{kernel}: the PTX has {}", difference(.found, .expected))]
    Opcodes {
        /// The entry's symbol.
        kernel: &'static str,
        /// What the PTX has.
        found: Opcodes,
        /// What the table of kernels promises.
        expected: Opcodes,
    },
    /// ptxas says that it serialises wgmma or ignores `setmaxnreg`.
    #[error("{kernel}: ptxas weakens the kernel\n  {line}")]
    Weakened {
        /// The entry's symbol.
        kernel: &'static str,
        /// The line of ptxas.
        line: String,
    },
    /// Registers do not suffice: the kernel spills or has a stack frame.
    #[error(
        "{kernel}: {spill_bytes} bytes of spills and a stack frame of {stack_bytes} bytes; both must be 0\n  {line}"
    )]
    Spills {
        /// The entry's symbol.
        kernel: &'static str,
        /// Bytes of spill stores and loads.
        spill_bytes: u32,
        /// Bytes of the stack frame.
        stack_bytes: u32,
        /// The line of ptxas.
        line: String,
    },
    /// A launch would need more registers than a CTA gets.
    #[error("{kernel}: {used} registers a thread, at most {limit} fit a CTA of {threads} threads\n  {line}")]
    Registers {
        /// The entry's symbol.
        kernel: &'static str,
        /// Registers of a thread.
        used: u32,
        /// Registers it may use.
        limit: u32,
        /// Threads of a CTA.
        threads: u32,
        /// The line of ptxas.
        line: String,
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

/// How the numbers of ptxas's notes on `setmaxnreg` and wgmma begin, each of which means a slower kernel than the one
/// written: C7508 ignores `setmaxnreg`, C7510, C7514 and C7517 serialise wgmma, C7519 and C7520 put fences and waits
/// between them, and their neighbours do the like.
const WEAKENING_NOTE: &str = "(C75";

/// The rules that finished PTX breaks.
pub fn check_ptx(entry: &Entry, ptx: &str, found: Opcodes) -> Vec<GateError> {
    let kernel = entry.symbol;
    let local = statements(ptx).into_iter().find(|statement| statement.text.contains(".local"));
    let local =
        local.map(|statement| GateError::LocalMemory { kernel, line: statement.line, text: statement.text });
    let in_flight = in_flight::check(ptx).map(|violation| GateError::InFlight {
        kernel,
        register: violation.register,
        wgmma_line: violation.wgmma_line,
        line: violation.line,
        text: violation.text,
    });
    let expected = entry.opcodes.filter(|&expected| expected != found);
    let opcodes = expected.map(|expected| GateError::Opcodes { kernel, found, expected });
    [local, in_flight, opcodes].into_iter().flatten().collect()
}

/// The rules that the machine code breaks, by what ptxas printed.
pub fn check_machine_code(entry: &Entry, resources: Resources, log: &str) -> Vec<GateError> {
    let kernel = entry.symbol;
    let line_with =
        |mark: &str| log.lines().find(|line| line.contains(mark)).unwrap_or_default().trim().to_owned();
    let weakening = log.lines().filter(|line| line.contains(WEAKENING_NOTE));
    let mut errors: Vec<_> =
        weakening.map(|line| GateError::Weakened { kernel, line: line.trim().to_owned() }).collect();
    let Resources { registers, spill_bytes, stack_bytes, static_smem_bytes } = resources;
    if spill_bytes > 0 || stack_bytes > 0 {
        errors.push(GateError::Spills {
            kernel,
            spill_bytes,
            stack_bytes,
            line: line_with("bytes stack frame"),
        });
    }
    if registers > entry.max_registers {
        let (limit, threads) = (entry.max_registers, entry.threads);
        errors.push(GateError::Registers {
            kernel,
            used: registers,
            limit,
            threads,
            line: line_with("registers"),
        });
    }
    if static_smem_bytes.saturating_add(entry.smem_bytes) > SMEM_LIMIT {
        errors.push(GateError::SharedMemory {
            kernel,
            static_bytes: static_smem_bytes,
            dynamic_bytes: entry.smem_bytes,
            limit: SMEM_LIMIT,
        });
    }
    errors
}

/// `3 setmaxnreg instead of 2`, for each count that differs.
fn difference(found: &Opcodes, expected: &Opcodes) -> String {
    let counts = [
        ("wgmma.mma_async", found.wgmma, expected.wgmma),
        ("TMA loads", found.tma_load, expected.tma_load),
        ("TMA stores", found.tma_store, expected.tma_store),
        ("bar.sync", found.bar_sync, expected.bar_sync),
        ("bar.arrive", found.bar_arrive, expected.bar_arrive),
        ("setmaxnreg", found.setmaxnreg, expected.setmaxnreg),
    ];
    let differing = counts.iter().filter(|(_, found, expected)| found != expected);
    differing
        .map(|(name, found, expected)| format!("{found} {name} instead of {expected}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opcodes::count;

    const ENTRY: Entry =
        Entry { symbol: "k", threads: 384, cluster: 1, smem_bytes: 1024, max_registers: 168, opcodes: None };
    const CLEAN_LOG: &str = "\
        ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\
        ptxas info    : Function properties for k\n    \
            0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 168 registers, used 16 barriers\n";

    fn ptx(body: &str) -> Vec<GateError> {
        check_ptx(&ENTRY, body, count(body))
    }

    fn machine_code(from: &str, to: &str) -> Vec<GateError> {
        assert!(CLEAN_LOG.contains(from));
        let log = CLEAN_LOG.replace(from, to);
        check_machine_code(&ENTRY, Resources::parse(&log), &log)
    }

    /// The one broken rule, as its message.
    fn only(errors: Vec<GateError>) -> String {
        let [error] = errors.as_slice() else { panic!("one broken rule expected: {errors:?}") };
        error.to_string()
    }

    #[test]
    fn a_clean_kernel_passes() {
        assert_eq!(ptx("ld.global.b32 %r1, [%rd1];\nbar.sync 0;\n"), []);
        assert_eq!(machine_code("", ""), []);
    }

    #[test]
    fn local_memory_is_refused() {
        let message = only(ptx(".local .align 4 .b8 __local_depot0[256];\nld.local.b32 %r1, [%rd1];\n"));
        assert!(
            message.starts_with("k: local memory") && message.contains("PTX line 1: .local .align 4"),
            "{message}"
        );
    }

    #[test]
    fn a_register_in_flight_may_not_be_named() {
        let body = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1}, %rd1, %rd2, p, 1, 1, 0, 0;\n\
                    mul.f32 %f2, %f1, %f1;\n";
        let message = only(ptx(body));
        assert!(message.contains("%f1") && message.contains("PTX line 2: mul.f32"), "{message}");
    }

    #[test]
    fn a_duplicated_barrier_is_refused() {
        let body = "bar.sync 0;\nbar.sync 0;\n";
        let entry = Entry { opcodes: Some(Opcodes { bar_sync: 1, ..Opcodes::default() }), ..ENTRY };
        assert_eq!(only(check_ptx(&entry, body, count(body))), "k: the PTX has 2 bar.sync instead of 1");
    }

    #[test]
    fn every_weakening_note_is_refused() {
        for note in ["(C7508)", "(C7510)", "(C7514)", "(C7517)", "(C7519)", "(C7520)"] {
            let message = only(machine_code("0 bytes gmem", &format!("{note} something is serialized")));
            assert!(message.contains(note), "{message}");
        }
    }

    #[test]
    fn spills_and_stack_are_refused() {
        let message = only(machine_code("0 bytes spill stores", "8 bytes spill stores"));
        assert!(message.starts_with("k: 8 bytes of spills and a stack frame of 0 bytes"), "{message}");
        let message = only(machine_code("0 bytes stack frame", "16 bytes stack frame"));
        assert!(message.starts_with("k: 0 bytes of spills and a stack frame of 16 bytes"), "{message}");
    }

    #[test]
    fn too_many_registers_are_refused() {
        let message = only(machine_code("Used 168", "Used 170"));
        assert!(message.starts_with("k: 170 registers a thread, at most 168"), "{message}");
    }

    #[test]
    fn too_much_shared_memory_is_refused() {
        let message = only(machine_code("16 barriers", "16 barriers, 232448 bytes smem"));
        assert!(message.contains("232448 bytes of static and 1024 bytes of dynamic"), "{message}");
    }
}
