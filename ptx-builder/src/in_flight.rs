//! Accumulators in flight: from the `wgmma.mma_async` that starts writing them to the `wgmma.wait_group` that covers
//! it, no other instruction may name their registers (PTX ISA, "wgmma.mma_async"). LLVM does not know that, so the
//! finished PTX is checked.
//!
//! One forward pass over the text. At a label the state is what all paths seen so far agree on; a path that comes
//! from below (a loop) is not waited for. So a finding is a real path through the code, and none is invented; what
//! happens only from the second turn of a loop on is not seen.

use std::collections::HashMap;

use crate::statements::{Kind, Statement, registers, statements};

/// An instruction that names a register while a `wgmma` may still be writing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) register: String,
    /// Line of the `wgmma.mma_async`.
    pub(crate) wgmma_line: usize,
    /// Line of the offending instruction.
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// A register that a `wgmma` is writing.
#[derive(Clone, Copy, Debug)]
struct Flight {
    line: usize,
    /// Groups committed since, its own included; 0 while its group is open.
    commits: u32,
}

type State = HashMap<String, Flight>;

/// The first violation in the PTX of an entry, if there is one.
pub(crate) fn check(ptx: &str) -> Option<Violation> {
    let mut at_labels: HashMap<String, State> = HashMap::new();
    // `None` behind an unconditional branch: nothing falls through to the next label.
    let mut state = Some(State::new());
    for statement in statements(ptx) {
        if statement.kind == Kind::Label {
            let arriving = at_labels.remove(&statement.text);
            state = Some([state, arriving].into_iter().flatten().reduce(agree).unwrap_or_default());
        } else if let Some(flights) = &mut state {
            if let Some(violation) = step(flights, &statement) {
                return Some(violation);
            }
            let opcode = statement.opcode();
            if opcode.starts_with("bra") {
                let arriving = at_labels.remove(statement.operands());
                let flights = flights.clone();
                let agreed = arriving.into_iter().fold(flights, agree);
                at_labels.insert(statement.operands().to_owned(), agreed);
            }
            let leaves = matches!(opcode, "ret" | "exit")
                || ["bra", "brx", "trap"].iter().any(|o| opcode.starts_with(o));
            if leaves && statement.predicate().is_none() {
                state = None;
            }
        }
    }
    None
}

/// What both paths agree on; of two ages the greater, which a wait releases first.
fn agree(mut a: State, b: State) -> State {
    a.retain(|register, flight| {
        b.get(register).is_some_and(|other| {
            flight.commits = flight.commits.max(other.commits);
            true
        })
    });
    a
}

/// Moves `flights` over one instruction.
fn step(flights: &mut State, statement: &Statement) -> Option<Violation> {
    let opcode = statement.opcode();
    if opcode.starts_with("wgmma.commit_group") {
        flights.values_mut().for_each(|flight| flight.commits += 1);
    } else if opcode.starts_with("wgmma.wait_group") {
        let pending: u32 = statement.operands().parse().unwrap_or(0);
        flights.retain(|_, flight| flight.commits <= pending);
    } else {
        // The operands after the accumulator: a wgmma may add to an accumulator in flight, but not read it as A.
        let (accumulator, others) = match statement.operands().split_once('}') {
            Some((accumulator, others)) if opcode.starts_with("wgmma.mma_async") => (accumulator, others),
            _ => ("", statement.operands()),
        };
        let mut named =
            registers(others).chain(statement.predicate().map(|p| p.trim_start_matches(['@', '!'])));
        if let Some((register, flight)) = named.find_map(|register| Some((register, flights.get(register)?)))
        {
            return Some(Violation {
                register: register.to_owned(),
                wgmma_line: flight.line,
                line: statement.line,
                text: statement.text.clone(),
            });
        }
        let started =
            registers(accumulator).map(|r| (r.to_owned(), Flight { line: statement.line, commits: 0 }));
        flights.extend(started);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str =
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r1, %r2}, %rd1, %rd2, 1, 1, 1, 0, 0;\n";
    const OTHER: &str =
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r3, %r4}, %rd1, %rd2, 1, 1, 1, 0, 0;\n";
    const COMMIT: &str = "wgmma.commit_group.sync.aligned;\n";
    const USE: &str = "add.f32 %r9, %r1, %r8;\n";

    fn violation(parts: &[&str]) -> Option<(String, usize, usize)> {
        check(&parts.concat()).map(|v| (v.register, v.wgmma_line, v.line))
    }

    #[test]
    fn a_use_before_the_wait_is_found() {
        assert_eq!(violation(&[START, COMMIT, USE]), Some(("%r1".into(), 1, 3)));
        assert_eq!(
            violation(&[START, "mov.b32 %r2, 0;"]),
            Some(("%r2".into(), 1, 2)),
            "before the commit, too"
        );
    }

    #[test]
    fn a_use_after_the_wait_is_fine() {
        assert_eq!(violation(&[START, COMMIT, "wgmma.wait_group.sync.aligned 0;\n", USE]), None);
    }

    #[test]
    fn a_wait_releases_only_the_groups_it_covers() {
        let wait = "wgmma.wait_group.sync.aligned 1;\n";
        assert_eq!(violation(&[START, COMMIT, OTHER, COMMIT, wait, USE]), None);
        assert_eq!(violation(&[OTHER, COMMIT, START, COMMIT, wait, USE]), Some(("%r1".into(), 3, 6)));
        assert_eq!(
            violation(&[START, wait, USE]),
            Some(("%r1".into(), 1, 3)),
            "an open group is not covered"
        );
    }

    #[test]
    fn a_chain_on_one_accumulator_is_fine_but_reading_it_as_a_is_not() {
        assert_eq!(violation(&[START, START, COMMIT]), None);
        let reads =
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r3, %r4}, {%r1, %r5}, %rd2, 1, 1, 1, 0;\n";
        assert_eq!(violation(&[START, reads]), Some(("%r1".into(), 1, 2)));
    }

    #[test]
    fn paths_must_agree_at_a_label() {
        let wait = "wgmma.wait_group.sync.aligned 0;\n";
        let skipped = [START, COMMIT, "@%p1 bra JOIN;\n", wait, "JOIN:\n", USE];
        assert_eq!(violation(&skipped), None, "one path has waited");
        let both = [START, COMMIT, "@%p1 bra JOIN;\n", "JOIN:\n", USE];
        assert_eq!(violation(&both), Some(("%r1".into(), 1, 5)));
        let behind = [START, COMMIT, "bra.uni END;\n", "OTHER:\n", USE, "END: ret;\n"];
        assert_eq!(violation(&behind), None, "no path leads from the wgmma to the use");
    }

    #[test]
    fn spinning_on_a_barrier_does_not_lose_the_state() {
        let spin =
            "SPIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%r7], %r8;\n@p bra DONE;\nbra SPIN;\nDONE:\n";
        assert_eq!(violation(&[START, COMMIT, spin, USE]), Some(("%r1".into(), 1, 7)));
    }
}
