//! What is ordered before what, and who breaks it.

mod clock;
mod findings;
mod shadow;

pub(crate) use clock::View;
pub(crate) use findings::{Detail, Findings, Party};
pub(crate) use shadow::{Agent, Conflict, Record, Shadow};
