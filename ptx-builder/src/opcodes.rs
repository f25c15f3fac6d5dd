//! Counting the instructions that must neither be lost nor duplicated.

use flashcore_kernels::entry::Opcodes;

/// Counts the synchronising and tensor instructions in the PTX of one entry.
pub fn count(ptx: &str) -> Opcodes {
    let mut counts = Opcodes::default();
    for opcode in ptx.lines().filter_map(opcode) {
        let counter = if opcode.starts_with("wgmma.mma_async") {
            &mut counts.wgmma
        } else if opcode.starts_with("cp.async.bulk.tensor") && opcode.contains(".global.shared::cta") {
            &mut counts.tma_store
        } else if opcode.starts_with("cp.async.bulk.tensor") {
            &mut counts.tma_load
        } else if opcode.starts_with("bar.arrive") || opcode.starts_with("barrier.cta.arrive") || opcode.starts_with("barrier.arrive") {
            &mut counts.bar_arrive
        } else if opcode.starts_with("bar.sync") || opcode.starts_with("barrier.cta.sync") || opcode.starts_with("barrier.sync") {
            &mut counts.bar_sync
        } else if opcode.starts_with("setmaxnreg") {
            &mut counts.setmaxnreg
        } else {
            continue;
        };
        *counter += 1;
    }
    counts
}

/// The opcode of a line with its modifiers, without its predicate; `None` for labels, directives and blank lines.
pub fn opcode(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = match line.strip_prefix('@') {
        Some(predicated) => predicated.split_once(char::is_whitespace)?.1.trim_start(),
        None => line,
    };
    let word = line.split(|c: char| c.is_whitespace() || c == ';').next()?;
    let first = word.chars().next()?;
    (first.is_ascii_lowercase() && !word.ends_with(':')).then_some(word)
}
