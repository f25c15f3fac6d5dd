//! The rules that every kernel must keep.

/// A broken rule: which kernel, why, and the line that shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The kernel uses local memory.
    #[error("{kernel}: uses local memory (an array indexed by a variable, or a value whose address is taken): {line}")]
    LocalMemory {
        /// The entry's symbol.
        kernel: String,
        /// The PTX line.
        line: String,
    },
}
