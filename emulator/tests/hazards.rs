//! Small kernels: correct ones, of which nothing may be reported under any order of events, and ones with a single
//! defect, which must be found where it is.

#[path = "kernels/corpus.rs"]
mod corpus;
#[path = "kernels/expected.rs"]
mod expected;
#[path = "kernels/page.rs"]
mod page;

use std::collections::BTreeSet;

use corpus::{POLICIES, Sample, run};
use flashcore_emulator::{Completion, Level, Options, Site};

/// Orders of events that every correct kernel is run under, with each completion policy.
const SEEDS: u64 = 24;

#[test]
fn correct_kernels_are_clean() {
    let samples = corpus::samples("clean");
    assert!(samples.len() >= 20, "only {} kernels", samples.len());
    let failures: Vec<String> = samples.iter().filter_map(|sample| check_clean(sample).err()).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), samples.len(), failures.join("\n"));
}

fn check_clean(sample: &Sample) -> Result<(), String> {
    let expected =
        expected::of(&sample.name).ok_or_else(|| format!("{}: what should come out?", sample.name))?;
    for completion in POLICIES {
        for seed in 0..SEEDS {
            let options = Options { seed, completion, instruction_limit: 4_000_000, ..Options::default() };
            let outcome = run(sample, &options).map_err(|why| format!("{}: {why}", sample.name))?;
            let place = format!("{} (seed {seed}, {completion:?})", sample.name);
            if !outcome.report.findings.is_empty() || !outcome.report.completed {
                return Err(format!("{place}:\n{}", outcome.report));
            }
            if outcome.outputs != expected(&outcome.inputs) {
                return Err(format!("{place}: the result is wrong"));
            }
        }
    }
    Ok(())
}

#[test]
fn defects_are_found_where_they_are() {
    let samples = corpus::samples("defects");
    let failures: Vec<String> = samples.iter().filter_map(|sample| check_defect(sample).err()).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), samples.len(), failures.join("\n"));
}

fn check_defect(sample: &Sample) -> Result<(), String> {
    let code = sample.code().ok_or_else(|| format!("{}: starts with no code", sample.name))?;
    let marked: BTreeSet<u32> = ["here", "there"].iter().filter_map(|mark| sample.marked(mark)).collect();
    if marked.is_empty() {
        return Err(format!("{}: no line is marked", sample.name));
    }
    for completion in [Completion::Lazy, Completion::Eager] {
        let options = Options { completion, instruction_limit: 1_000_000, ..Options::default() };
        let report = run(sample, &options).map_err(|why| format!("{}: {why}", sample.name))?.report;
        let line = |site: &Site| site.line;
        let found = report.findings.iter().any(|finding| {
            let lines: BTreeSet<u32> =
                [Some(line(&finding.here)), finding.there.as_ref().map(line)].into_iter().flatten().collect();
            finding.code == code && marked.is_subset(&lines)
        });
        let also = sample.also();
        let strange =
            report.findings.iter().any(|finding| finding.code != code && !also.contains(&finding.code));
        if !found || strange {
            return Err(format!("{} ({completion:?}), lines {marked:?} are marked:\n{report}", sample.name));
        }
    }
    Ok(())
}

/// Every code has a kernel, but E50: it takes two launches, and a test of its own.
#[test]
fn every_code_has_a_defect() {
    let found: BTreeSet<_> = corpus::samples("defects").iter().filter_map(Sample::code).collect();
    let missing: Vec<_> = flashcore_emulator::Code::ALL
        .iter()
        .filter(|code| **code != flashcore_emulator::Code::E50 && !found.contains(code))
        .collect();
    assert!(missing.is_empty(), "no kernel has {missing:?}");
}

/// The guide lists every code with its meaning.
#[test]
fn the_guide_lists_every_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/emulator.md");
    let guide = std::fs::read_to_string(path).expect("the guide can be read");
    for code in flashcore_emulator::Code::ALL {
        let level = match code.level() {
            Level::Warn => "warning",
            Level::Deny => "error",
        };
        let row = format!("| {code:?} | {} | {level} | {} |", code.name(), code.meaning());
        assert!(guide.contains(&row), "docs/emulator.md lacks the row\n{row}");
    }
}

/// The page that shows every message is what the kernels get today. To write it anew: `UPDATE_DOCS=1 cargo test`.
#[test]
fn the_page_of_findings_is_up_to_date() {
    let page = page::write(&corpus::samples("defects"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/emulator-findings.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).expect("the page can be written");
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stored == page, "docs/emulator-findings.md is out of date: run with UPDATE_DOCS=1");
}
