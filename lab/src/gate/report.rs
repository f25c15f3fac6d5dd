//! What a run leaves for people: reports, a page, and tables for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, ContentArrangement, Table as Rows, TableStyle, presets};

use super::page;
use super::run::{self, Run, Stage, State};
use super::table::{Judgement, Table, verdict};
use crate::compare::{self, Change, NOISE};
use crate::{charts, determinism, output, power, profile, sanitize};

/// The files.
pub(super) const PAGE: &str = "report.html";
pub(super) const COMPARISON: &str = "comparison.csv";
const PERFORMANCE: &str = "performance_report.md";
const POWER: &str = "power_efficiency.md";
const TRACES: &str = "power.csv";
const TRACES_PLOT: &str = "power.svg";

/// Judges a run, and writes its reports into `dir`; what every gate came to.
///
/// # Errors
/// The folder cannot be written, or a plot not be drawn.
pub(super) fn write(
    run: &mut Run,
    dir: &Path,
    table: &Table,
    earlier: Option<(&str, &Run)>,
) -> Result<Vec<Judgement>> {
    run.progress(Stage::Report).state = State::Done;
    // Twice: whether the files are there is a gate itself, and stands in them.
    render(run, dir, table, earlier)?;
    run.files.extend(files(dir)?);
    let judgements = render(run, dir, table, earlier)?;
    run.files.extend(files(dir)?);
    run.save(dir)?;
    Ok(judgements)
}

fn render(run: &Run, dir: &Path, table: &Table, earlier: Option<(&str, &Run)>) -> Result<Vec<Judgement>> {
    let judgements = table.judge(run, earlier.map(|(_, earlier)| earlier));
    let changes = earlier.map(|(name, earlier)| (name, compare::changes(earlier, run)));
    if let Some((_, changes)) = &changes {
        output::write_text(&compare::csv(changes, NOISE)?, &dir.join(COMPARISON))?;
    }
    if let Some(power) = &run.power {
        output::write_text(&power.csv()?, &dir.join(TRACES))?;
        output::write_text(&charts::traces(power)?, &dir.join(TRACES_PLOT))?;
    }
    let changes = changes.as_ref().map(|(name, changes)| (*name, changes.as_slice()));
    output::write_text(&performance(run, &judgements, changes), &dir.join(PERFORMANCE))?;
    output::write_text(&power_efficiency(run, &judgements), &dir.join(POWER))?;
    output::write_text(&page::html(run, &judgements, changes)?, &dir.join(PAGE))?;
    Ok(judgements)
}

/// Bytes of every file in `dir`, and in the folders in it, by its path; the figures themselves left out.
fn files(dir: &Path) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name != run::FILE {
                let bytes = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
                found.insert(name, bytes);
            }
        }
    }
    Ok(found)
}

/// A row for each gate, without its sources.
pub(super) fn terminal(judgements: &[Judgement]) -> Rows {
    let mut table = Rows::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["gate", "", "limit", "figure", "of", ""]);
    for judgement in judgements {
        table.add_row(row(judgement));
    }
    table
}

/// A gate in words: id, claim, limit, figure, what it is of, verdict.
pub(super) fn row(judgement: &Judgement) -> [String; 6] {
    let Judgement { gate, outcome, detail, .. } = judgement;
    let limit = format!("{} {}", gate.limit.words(), gate.unit).trim_end().to_owned();
    let of = if detail.is_empty() { outcome.reason().to_owned() } else { detail.clone() };
    [gate.id.clone(), gate.what.clone(), limit, judgement.figure(), of, outcome.word().to_owned()]
}

/// What is reachable of the gates that were missed and do not bind.
pub(super) fn notes(judgements: &[Judgement]) -> Vec<String> {
    let missed = judgements.iter().filter(|judgement| judgement.outcome.word() == "missed");
    missed
        .map(|judgement| {
            format!("{}: {}", judgement.gate.id, judgement.gate.note.as_deref().unwrap_or_default())
        })
        .collect()
}

/// The gates as a table in Markdown.
fn gates<'a>(judgements: impl Iterator<Item = &'a Judgement>) -> Rows {
    let mut table = Rows::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["gate", "claim", "limit", "figure", "of", "verdict", "where the limit comes from"]);
    for judgement in judgements {
        let cells = row(judgement).into_iter().chain([judgement.gate.source.clone()]);
        table.add_row(cells.map(|cell| cell.replace(['\n', '|'], " ")));
    }
    table
}

/// When, on what, and what was done.
fn head(title: &str, run: &Run, judgements: &[Judgement]) -> String {
    let mut text = format!("# {title}\n\n{}\n\n{}.\n", verdict(run, judgements), run.origin);
    match &run.machine {
        Some(machine) => _ = writeln!(text, "{machine}.\n"),
        None => text.push_str("No GPU.\n\n"),
    }
    text
}

/// A row for each stage.
pub(super) fn stages(run: &Run, style: TableStyle) -> Rows {
    let mut table = Rows::new();
    table.load_style(style).set_header(["part", "", "seconds"]);
    for progress in &run.stages {
        let state = match &progress.state {
            State::Planned => "not begun".to_owned(),
            State::Running => "begun, and not ended".to_owned(),
            State::Done => "done".to_owned(),
            State::Skipped(reason) => format!("skipped: {reason}"),
            State::Failed(reason) => format!("FAILED: {reason}"),
        };
        let seconds = format!("{:.1}", progress.seconds);
        table.add_row([progress.stage.name().to_owned(), state.replace(['\n', '|'], " "), seconds]);
    }
    table.column_iter_mut().skip(2).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

fn performance(run: &Run, judgements: &[Judgement], changes: Option<(&str, &[Change])>) -> String {
    let mut text = head("Performance", run, judgements);
    _ = writeln!(text, "{}\n", gates(judgements.iter()));
    for note in notes(judgements) {
        _ = writeln!(text, "- {note}");
    }
    _ = writeln!(text, "\n## What was done\n\n{}\n", stages(run, presets::ASCII_MARKDOWN));
    if let Some(bench) = &run.bench {
        _ = writeln!(text, "## Speed\n\n{}\n", bench.protocol);
        _ = writeln!(text, "{}\n", crate::report::table(bench, presets::ASCII_MARKDOWN));
        for line in crate::report::summary(bench).lines() {
            _ = writeln!(text, "- {line}");
        }
    }
    if let Some((name, changes)) = changes {
        let of = |kind| changes.iter().filter(|change| change.kind(NOISE) == kind).count();
        _ = writeln!(
            text,
            "\n## Since {name}\n\n{} shapes in both runs: {} faster, {} slower ([{COMPARISON}]({COMPARISON})).",
            changes.len(),
            of(compare::Kind::Faster),
            of(compare::Kind::Slower)
        );
    }
    if !run.latency.is_empty() {
        text.push_str("\n## Single calls\n\n");
        for latency in &run.latency {
            let crate::latency::Latency { shape, mask, dtype, flops, calls, p50_us, p99_us, max_us } =
                latency;
            let tflops = flops / p50_us / 1e6;
            _ = writeln!(
                text,
                "- {shape}, {mask}, {dtype}: median {p50_us:.2} µs ({tflops:.0} TFLOPS), 99 of 100 within {p99_us:.2} µs, \
                 the slowest of {calls} {max_us:.2} µs"
            );
        }
    }
    if let Some(findings) = &run.profile {
        _ = writeln!(
            text,
            "\n## One launch under Nsight Compute\n\n```text\n{}\n{}```",
            profile::table(findings),
            profile::words(findings)
        );
    }
    if let Some(findings) = &run.determinism {
        _ = writeln!(text, "\n## Determinism\n\n```text\n{}\n```", determinism::table(findings));
    }
    if let Some(findings) = &run.sanitize {
        _ = writeln!(text, "\n## compute-sanitizer\n\n```text\n{}\n```", sanitize::table(findings));
    }
    text
}

fn power_efficiency(run: &Run, judgements: &[Judgement]) -> String {
    let mut text = head("Power", run, judgements);
    let of_power = judgements.iter().filter(|judgement| judgement.gate.stage() == Stage::Power);
    _ = writeln!(text, "{}\n", gates(of_power));
    match &run.power {
        None => text.push_str("Nothing was measured.\n"),
        Some(findings) => {
            _ = writeln!(text, "{} s of replays each, one after the other.\n", findings.seconds);
            _ = writeln!(text, "{}\n", power::table(&findings.measured, presets::ASCII_MARKDOWN));
            for line in power::iso_tflops(findings).lines() {
                _ = writeln!(text, "- {line}");
            }
            _ = writeln!(
                text,
                "\n![power and clock over time]({TRACES_PLOT}), all samples: [{TRACES}]({TRACES})"
            );
        }
    }
    text
}
