//! Static checks: each with kernels that it refuses and kernels that it leaves alone.

mod barriers;
mod constant_time;
mod divergence;
mod in_flight;
mod plain;

use flashcore_emulator::ir::Module;
use flashcore_emulator::lint::{self, Config, Finding};

/// What is before a body: its first line is line 1 of [`lines`].
const HEAD: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 128 .b8 smem[];\n\
    .entry k(.param .u64 in, .param .u64 lengths, .param .u32 n) .maxntid 256, 1, 1 {\n\
    .reg .pred p<8>; .reg .b32 r<64>; .reg .b64 d<16>;\n";
const HEAD_LINES: u32 = 6;

fn check(text: &str, config: &Config) -> Vec<Finding> {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    lint::check(&module, config)
}

/// Findings in a body.
fn body(body: &str, config: &Config) -> Vec<Finding> {
    check(&format!("{HEAD}{body}\n}}\n"), config)
}

/// What is found in a body, as `S02 3<1`: code, line and the line of the other side, counted from the first line of
/// the body.
fn lines(text: &str, config: &Config) -> Vec<String> {
    let line = |site: &flashcore_emulator::Site| (site.line - HEAD_LINES).to_string();
    let describe = |finding: &Finding| {
        let here = finding.here.as_ref().map(line).unwrap_or_default();
        let there = finding.there.as_ref().map(|there| format!("<{}", line(there))).unwrap_or_default();
        format!("{:?} {here}{there}", finding.code)
    };
    body(text, config).iter().map(describe).collect()
}

/// What is found in a body by the checks that are on by default.
fn found(text: &str) -> Vec<String> {
    lines(text, &Config::default())
}
