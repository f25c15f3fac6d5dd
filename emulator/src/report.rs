//! What a launch did, and what was wrong with it.

use std::fmt;
use std::ops::AddAssign;

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Against the letter of the ISA, or unsettled there; kernels in the field do it and work.
    Warn,
    /// Undefined behaviour, or a result that depends on timing.
    Deny,
}

macro_rules! codes {
    ($($code:ident $name:literal $level:ident $meaning:literal)*) => {
        /// What kind of finding it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $meaning] $code,)*
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &[Code] = &[$(Code::$code),*];

            /// Its name, such as `race-smem`.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$code => $name),* }
            }

            /// How bad it is.
            pub const fn level(self) -> Level {
                match self { $(Code::$code => Level::$level),* }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$code => $meaning),* }
            }
        }
    };
}

codes! {
    E01 "race-smem" Deny "Two accesses of the same shared memory, at least one a write, and nothing orders them."
    E02 "race-gmem" Deny "Two accesses of the same global memory, at least one a write, and nothing orders them."
    E03 "proxy-raw" Deny "The async proxy (TMA store, warpgroup product) reads what ordinary code wrote, without a proxy fence between."
    E04 "proxy-war" Deny "The async proxy writes where ordinary code has read or written, without a proxy fence between."
    E05 "stage-overwrite" Deny "A write to memory that an asynchronous operation still reads or writes."
    E06 "wgmma-acc-read" Deny "An accumulator is read while a product that writes it is in flight."
    E07 "wgmma-acc-write" Deny "An accumulator is written while a product that writes it is in flight."
    E08 "wgmma-a-write" Deny "A register of A is written while a product that reads it is in flight."
    E09 "wgmma-a-read" Warn "A register of A is read while a product that reads it is in flight."
    E10 "wgmma-no-fence" Deny "A product uses registers that other instructions wrote after the last wgmma.fence."
    E11 "wgmma-uncommitted" Deny "A product was not committed to a group before a wait, or before the end."
    E12 "desc-divergent" Deny "The warps of a warpgroup disagree about a matrix descriptor."
    E13 "desc-layout" Deny "A matrix descriptor is malformed, or points outside of shared memory."
    E20 "mbar-storage" Deny "An mbarrier is used before init, initialised twice, or its bytes are accessed as data."
    E21 "mbar-overarrive" Deny "More arrivals than the phase of an mbarrier expects."
    E22 "mbar-tx-mismatch" Deny "The bytes that arrive in a phase are not the bytes that it expects."
    E23 "mbar-parity-alias" Deny "A wait is satisfied by a phase that is not the next one of its thread."
    E24 "deadlock" Deny "Nothing can run any more, or nothing gets on."
    E25 "mbar-phase-not-observed" Warn "An arrival on a phase though nobody has waited for the one before."
    E26 "mbar-init-not-published" Deny "An mbarrier is used by a thread that its initialisation is not ordered before."
    E27 "bulk-group-wrong-thread" Deny "A bulk store is relied upon by a thread that is not the one that waited for its group."
    E28 "exit-with-pending" Deny "A CTA ends while asynchronous operations or other CTAs still use its memory."
    E30 "uninitialized" Deny "A value that was never written is used."
    E31 "out-of-bounds" Deny "An access outside of any allocation."
    E32 "misaligned" Deny "An address that is not a multiple of what the access needs."
    E33 "wrong-space" Deny "An address of another state space than the instruction's."
    E34 "aligned-divergent" Deny "A .aligned or .sync instruction that not all of its threads execute together, or in different places."
    E35 "illegal-operand" Deny "An operand outside of what the instruction allows."
    E36 "trap" Deny "The kernel trapped."
    E40 "register-pool" Deny "setmaxnreg against its rules, or for registers that the CTA does not have."
    E41 "barrier-misuse" Deny "A barrier is used for different numbers of threads at once, or twice by the same warp."
    E50 "pdl-read-before-wait" Deny "Memory of the kernel before is read ahead of griddepcontrol.wait."
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} {}", self.name())
    }
}

/// A place in a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Site {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Source file and line, where the PTX has a line table.
    pub source: Option<(String, u32)>,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}", self.line)?;
        match &self.source {
            Some((file, line)) => write!(f, " ({file}:{line})"),
            None => Ok(()),
        }
    }
}

/// Something wrong with a kernel. The same mistake at the same two places is one finding, however often it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind.
    pub code: Code,
    /// How bad.
    pub level: Level,
    /// What happened, for the person who reads it.
    pub message: String,
    /// Where.
    pub here: Site,
    /// The other side: the earlier access, the initialisation, the product in flight.
    pub there: Option<Site>,
    /// Who: "CTA 0 warp 3 lane 17", and who is on the other side.
    pub actors: Vec<String>,
    /// First and last byte, as addresses of the state space.
    pub bytes: Option<(u64, u64)>,
    /// What led there: the last events of the barrier concerned.
    pub history: Vec<String>,
    /// How often it happened.
    pub times: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Warn => "warning",
            Level::Deny => "error",
        };
        writeln!(f, "{level}[{}]: {}", self.code, self.message)?;
        write!(f, "  at {}", self.here)?;
        if let Some(there) = &self.there {
            write!(f, "\n  against {there}")?;
        }
        if !self.actors.is_empty() {
            write!(f, "\n  by {}", self.actors.join(" and "))?;
        }
        if let Some((first, last)) = self.bytes {
            write!(f, "\n  bytes {first:#x} to {last:#x}")?;
        }
        for line in &self.history {
            write!(f, "\n    {line}")?;
        }
        if self.times > 1 {
            write!(f, "\n  {} times", self.times)?;
        }
        Ok(())
    }
}

/// What a launch did. No time: the emulator has no clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Instructions issued by warps.
    pub warp_instructions: u64,
    /// Warpgroup products.
    pub wgmma: u64,
    /// Multiplications and additions of warpgroup products, each counted as one.
    pub wgmma_flops: u64,
    /// `ex2.approx`, one a thread.
    pub exponentials: u64,
    /// Bytes that bulk loads brought from global to shared memory; a multicast counts once.
    pub bulk_load_bytes: u64,
    /// Bytes that bulk loads wrote to shared memory; a multicast counts in each CTA.
    pub bulk_fill_bytes: u64,
    /// Bytes that bulk stores wrote to global memory.
    pub bulk_store_bytes: u64,
    /// Bytes of ordinary loads from global memory.
    pub global_load_bytes: u64,
    /// Bytes of ordinary stores to global memory.
    pub global_store_bytes: u64,
    /// Bytes of ordinary loads from shared memory.
    pub shared_load_bytes: u64,
    /// Bytes of ordinary stores to shared memory.
    pub shared_store_bytes: u64,
    /// Bytes of shared memory that warpgroup products read.
    pub wgmma_shared_bytes: u64,
    /// Passes over the banks of shared memory that ordinary accesses needed.
    pub shared_passes: u64,
    /// Those beyond what their bytes need: bank conflicts.
    pub bank_conflicts: u64,
    /// Waits on mbarriers that were not satisfied at once.
    pub blocked_waits: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        let Counters {
            warp_instructions,
            wgmma,
            wgmma_flops,
            exponentials,
            bulk_load_bytes,
            bulk_fill_bytes,
            bulk_store_bytes,
            global_load_bytes,
            global_store_bytes,
            shared_load_bytes,
            shared_store_bytes,
            wgmma_shared_bytes,
            shared_passes,
            bank_conflicts,
            blocked_waits,
        } = other;
        self.warp_instructions += warp_instructions;
        self.wgmma += wgmma;
        self.wgmma_flops += wgmma_flops;
        self.exponentials += exponentials;
        self.bulk_load_bytes += bulk_load_bytes;
        self.bulk_fill_bytes += bulk_fill_bytes;
        self.bulk_store_bytes += bulk_store_bytes;
        self.global_load_bytes += global_load_bytes;
        self.global_store_bytes += global_store_bytes;
        self.shared_load_bytes += shared_load_bytes;
        self.shared_store_bytes += shared_store_bytes;
        self.wgmma_shared_bytes += wgmma_shared_bytes;
        self.shared_passes += shared_passes;
        self.bank_conflicts += bank_conflicts;
        self.blocked_waits += blocked_waits;
    }
}

/// The outcome of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was wrong, in order of appearance.
    pub findings: Vec<Finding>,
    /// What was done.
    pub counters: Counters,
    /// Whether all threads got to their end.
    pub completed: bool,
}

impl Report {
    /// Whether it ran to its end and nothing worse than a warning was found.
    pub fn is_clean(&self) -> bool {
        self.completed && self.findings.iter().all(|finding| finding.level == Level::Warn)
    }

    /// Adds what another launch of the same kernel did: counters are summed, and findings of one kind at the same two
    /// places become one.
    pub fn absorb(&mut self, other: Report) {
        self.counters += other.counters;
        self.completed &= other.completed;
        for finding in other.findings {
            let is_same = |known: &&mut Finding| {
                (known.code, &known.here, &known.there) == (finding.code, &finding.here, &finding.there)
            };
            match self.findings.iter_mut().find(is_same) {
                Some(known) => known.times += finding.times,
                None => self.findings.push(finding),
            }
        }
    }

    /// Whether a finding of this kind is among them.
    pub fn has(&self, code: Code) -> bool {
        self.findings.iter().any(|finding| finding.code == code)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let denied = self.findings.iter().filter(|finding| finding.level == Level::Deny).count();
        let end = if self.completed { "ran to its end" } else { "did not get to its end" };
        write!(f, "{denied} errors, {} warnings; {end}", self.findings.len() - denied)
    }
}
