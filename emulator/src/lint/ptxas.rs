//! S10: what ptxas says.

use super::{Code, Finding};
use crate::report::Level;

/// How the numbers of ptxas's notes on `setmaxnreg` and warpgroup products begin, each of which means a slower kernel
/// than the one written: C7508 ignores `setmaxnreg`, C7510, C7514, C7517 and C7519 make products wait for each other,
/// and their neighbours do the like.
const WEAKENING: &str = "(C75";

/// What is wrong by the log of `ptxas -v`: spills and a stack frame, of which a kernel may have `spill_limit` bytes in
/// all, and notes that it weakens the kernel.
pub fn ptxas_log(text: &str, spill_limit: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut kernel = None;
    for line in text.lines().map(str::trim) {
        let mut report = |level, message| {
            let kernel = kernel.clone();
            findings.push(Finding { code: Code::S10, level, kernel, message, here: None, there: None });
        };
        if line.contains(WEAKENING) {
            report(Level::Deny, format!("ptxas weakens the kernel: {line}"));
        } else if let Some(memory) = Memory::parse(line)
            && memory.frame + memory.stores + memory.loads > spill_limit
        {
            let Memory { frame, stores, loads } = memory;
            report(
                Level::Deny,
                format!("a stack frame of {frame} bytes, {stores} bytes of spill stores, {loads} of loads"),
            );
        } else if line.contains("entry function '") {
            kernel = line.split('\'').nth(1).map(str::to_owned);
        }
    }
    findings
}

/// Bytes of memory that ptxas took for registers.
#[derive(Debug)]
struct Memory {
    frame: u64,
    stores: u64,
    loads: u64,
}

impl Memory {
    /// `0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads`
    fn parse(line: &str) -> Option<Memory> {
        let mut parts = line.split(", ");
        let mut bytes = |what: &str| parts.next()?.strip_suffix(what)?.parse().ok();
        Some(Memory {
            frame: bytes(" bytes stack frame")?,
            stores: bytes(" bytes spill stores")?,
            loads: bytes(" bytes spill loads")?,
        })
    }
}

/// How the names begin of what ptxas adds to a kernel where an instruction has no machine code of its own: divisions
/// and roots that are rounded exactly, say, in loops and branches that depend on their operands.
const ADDED: [&[u8]; 2] = [b"$__internal", b"__cuda_sm"];

/// Functions that ptxas added to the machine code of a kernel, by name: each is a slow path that data choose.
pub fn slow_paths(cubin: &[u8]) -> Vec<String> {
    let names = cubin.split(|byte| !byte.is_ascii_graphic());
    let added = names.filter(|name| ADDED.iter().any(|prefix| contains(name, prefix)));
    let mut found: Vec<_> = added.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    found.sort();
    found.dedup();
    found
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ptxas_added_is_found_by_name() {
        let name = "$my_kernel$__internal_0_$__cuda_sm3x_div_rn_noftz_f32_slowpath";
        let cubin = format!("\x7fELF\0.text.my_kernel\0{name}\0{name}\0.nv.info\0");
        assert_eq!(slow_paths(cubin.as_bytes()), [name]);
        assert_eq!(slow_paths(b"\x7fELF\0.text.my_kernel\0__cuda_x"), [""; 0]);
    }
}
