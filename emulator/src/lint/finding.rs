//! What a check finds.

use std::fmt;

use serde::Serialize;

use crate::report::{Level, Site};

/// What kind of finding it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub enum Code {
    /// Local memory is used: an array with a variable index, or a value whose address is taken.
    S01,
    /// A register that a warpgroup product uses is touched while the product is in flight, or without a fence.
    S02,
    /// `setmaxnreg` in a kernel whose registers at the start are not known, where ptxas ignores it.
    S03,
    /// An instruction that threads must execute together, where they may have parted.
    S04,
    /// Floating-point arithmetic with a slow path for some values.
    S05,
    /// Control flow, an address or a synchronisation that depends on data.
    S06,
    /// A `.version` or `.target` other than asked for.
    S07,
    /// An opcode that is not on the list.
    S08,
    /// A barrier that does not exist, or with a wrong number of threads.
    S09,
    /// ptxas spills, or weakens the kernel.
    S10,
}

impl Code {
    /// Every code, in order.
    pub const ALL: &[Code] = &[
        Code::S01,
        Code::S02,
        Code::S03,
        Code::S04,
        Code::S05,
        Code::S06,
        Code::S07,
        Code::S08,
        Code::S09,
        Code::S10,
    ];

    /// Its name, such as `local-memory`.
    pub const fn name(self) -> &'static str {
        match self {
            Code::S01 => "local-memory",
            Code::S02 => "register-in-flight",
            Code::S03 => "setmaxnreg-ignored",
            Code::S04 => "aligned-divergent",
            Code::S05 => "slow-float",
            Code::S06 => "data-dependent",
            Code::S07 => "version-or-target",
            Code::S08 => "opcode-not-allowed",
            Code::S09 => "barrier-operand",
            Code::S10 => "ptxas",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} {}", self.name())
    }
}

/// Something wrong with a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind.
    pub code: Code,
    /// How bad.
    pub level: Level,
    /// The kernel; absent if it is about the whole file.
    pub kernel: Option<String>,
    /// What is wrong, for the person who reads it.
    pub message: String,
    /// Where; absent if it is about no instruction.
    pub here: Option<Site>,
    /// The other side: the product in flight, the branch, the load that data came from.
    pub there: Option<Site>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Warn => "warning",
            Level::Deny => "error",
        };
        write!(f, "{level}[{}]: {}", self.code, self.message)?;
        match (&self.here, &self.kernel) {
            (Some(here), Some(kernel)) => write!(f, "\n  --> {kernel}, {here}")?,
            (None, Some(kernel)) => write!(f, "\n  --> {kernel}")?,
            (Some(here), None) => write!(f, "\n  --> {here}")?,
            (None, None) => {}
        }
        match &self.there {
            Some(there) => write!(f, "\n  because of {there}"),
            None => Ok(()),
        }
    }
}
