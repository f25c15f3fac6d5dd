//! What a run of `features` says: a table on the terminal, features.md and plots in a folder.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, TableStyle, presets};

use super::{Findings, Row, plot};
use crate::metrics::{Check, FLASHCORE, geomean};

/// Prints the table, and writes features.md and the plots into `dir`.
pub(super) fn write(findings: &Findings, dir: &Path) -> Result<()> {
    println!("{}", table(findings, presets::UTF8_FULL_CONDENSED));
    print!("{}", summary(findings));
    let plots = plot::write(findings, dir)?;
    let path = dir.join("features.md");
    fs::write(&path, markdown(findings, &plots))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("report: {}", path.display());
    Ok(())
}

impl Findings {
    /// Every implementation that was measured, or said why not, flashcore first if it took part.
    pub(super) fn names(&self) -> Vec<&str> {
        let figures = || self.rows.iter().map(|row| &row.figures);
        let skipped = || figures().flat_map(|figures| figures.skipped.keys().map(String::as_str));
        let measured =
            || figures().flat_map(|figures| figures.measured.iter().map(|measured| measured.name.as_str()));
        let mut names: Vec<&str> = Vec::new();
        for name in measured().chain(skipped()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.sort_by_key(|&name| name != FLASHCORE);
        names
    }
}

/// One row a problem: microseconds and TFLOPS of each implementation.
fn table(findings: &Findings, style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style);
    let names = findings.names();
    let ours = names.contains(&FLASHCORE);
    let mut header: Vec<String> = ["", "B,H,S,D", "mask", "scores", "dtype"].map(String::from).into();
    header.extend(names.iter().map(|name| format!("{name}\nµs, TFLOPS")));
    header.extend(ours.then(|| "of best\npeer".to_owned()));
    let width = header.len();
    table.set_header(header);
    for row in &findings.rows {
        let feature = &row.feature;
        let mut cells = vec![
            feature.name.clone(),
            feature.shape(),
            feature.mask.to_string(),
            feature.score.to_string(),
            row.dtype.to_owned(),
        ];
        match &row.check {
            Some(Check::Wrong(_)) => {
                cells.push("WRONG".into());
                cells.resize(width, String::new());
            }
            _ => {
                cells.extend(names.iter().map(|name| figure(row, name)));
                let ratio = || {
                    row.figures.best_peer().map_or_else(|| "-".to_owned(), |(_, ratio)| format!("{ratio:.3}"))
                };
                cells.extend(ours.then(ratio));
            }
        }
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Microseconds and TFLOPS of `name`, or why there are none.
fn figure(row: &Row, name: &str) -> String {
    match (row.figures.of(name), row.figures.tflops(name)) {
        (Some(measured), Some(tflops)) => format!("{:.1}, {tflops:.1}", measured.median_us()),
        _ if name == FLASHCORE => "not supported".to_owned(),
        _ => "-".to_owned(),
    }
}

/// The mean ratio, what went wrong, and who did not run what, and why.
fn summary(findings: &Findings) -> String {
    let mut text = String::new();
    let ratios = || findings.rows.iter().filter_map(|row| row.figures.best_peer()).map(|(_, ratio)| ratio);
    if let Some(mean) = geomean(ratios()) {
        _ = writeln!(
            text,
            "flashcore: {mean:.3} of the best peer (geometric mean of {} rows of {})",
            ratios().count(),
            findings.rows.len()
        );
    }
    for row in &findings.rows {
        if let Some(Check::Wrong(reason)) = &row.check {
            _ = writeln!(text, "WRONG: {}, {}: {reason}", row.feature, row.dtype);
        }
    }
    let mut reasons: BTreeMap<(&String, &String), (usize, Vec<&str>)> = BTreeMap::new();
    for row in &findings.rows {
        for (name, reason) in &row.figures.skipped {
            let (count, features) = reasons.entry((name, reason)).or_default();
            *count += 1;
            if !features.contains(&row.feature.name.as_str()) {
                features.push(&row.feature.name);
            }
        }
    }
    for ((name, reason), (count, features)) in reasons {
        _ = writeln!(text, "{name} did not run {count} rows of {}: {reason}", features.join(", "));
    }
    text
}

fn markdown(findings: &Findings, plots: &[String]) -> String {
    let Findings { origin, machine, peers, missing, protocol, rounds, .. } = findings;
    let mut text = format!("# flashcore features\n\n{origin}.\n");
    if let Some(machine) = machine {
        _ = writeln!(text, "{machine}.");
    }
    let peers: Vec<String> = peers.iter().map(|(name, version)| format!("{name} {version}")).collect();
    if !peers.is_empty() {
        _ = writeln!(text, "Peers: {}.", peers.join(", "));
    }
    for (name, reason) in missing {
        _ = writeln!(text, "Left out: {name} ({reason}).");
    }
    _ = writeln!(
        text,
        "\nRandom normal inputs. {protocol} The implementations take turns, {rounds} rounds; a ratio is the median of the \
         rounds' ratios. FLOPs are 2 (D + Dv) for each pair of a query and a key that it sees, in every head. A result of \
         ours was compared with an f64 oracle, one of a peer with the definition in f32, on sampled rows, before it was \
         timed.\n"
    );
    _ = writeln!(text, "{}\n", table(findings, presets::ASCII_MARKDOWN));
    for line in summary(findings).lines() {
        _ = writeln!(text, "- {line}");
    }
    for plot in plots {
        _ = writeln!(text, "\n![{plot}]({plot})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::rows::rows;
    use crate::metrics::{Figures, Measured};
    use crate::output::Origin;
    use crate::timing::Protocol;

    fn findings(rows: Vec<Row>) -> Findings {
        Findings {
            origin: Origin::now(),
            machine: None,
            peers: BTreeMap::from([("torch".to_owned(), "2".to_owned())]),
            missing: BTreeMap::new(),
            protocol: Protocol::STANDARD,
            rounds: 1,
            rows,
        }
    }

    fn row(index: usize, us: &[(&str, f64)], skipped: &[(&str, &str)]) -> Row {
        let feature = rows()[index].clone();
        let measured = us
            .iter()
            .map(|&(name, us)| Measured { name: name.to_owned(), us: vec![us], readings: None })
            .collect();
        let skipped = skipped.iter().map(|&(name, reason)| (name.to_owned(), reason.to_owned())).collect();
        let figures = Figures { measured, skipped, ..Figures::new(feature.flops()) };
        Row { feature, dtype: "f16", check: None, figures }
    }

    #[test]
    fn what_is_not_supported_is_said() {
        let not_yet = (FLASHCORE, "not supported yet");
        let findings = findings(vec![
            row(0, &[("flash3", 100.0)], &[not_yet, ("cudnn", "no varlen")]),
            row(8, &[(FLASHCORE, 50.0), ("flash3", 40.0)], &[("cudnn", "no varlen")]),
        ]);
        assert_eq!(findings.names(), [FLASHCORE, "flash3", "cudnn"]);
        let table = table(&findings, presets::ASCII_MARKDOWN).to_string();
        assert!(table.contains("not supported") && table.contains("0.800"), "{table}");
        let summary = summary(&findings);
        assert!(summary.contains("0.800 of the best peer (geometric mean of 1 rows of 2)"), "{summary}");
        assert!(
            summary.contains("flashcore did not run 1 rows of varlen mix: not supported yet"),
            "{summary}"
        );
        assert!(summary.contains("cudnn did not run 2 rows of varlen mix, GQA 8:1: no varlen"), "{summary}");
    }

    #[test]
    fn peers_alone_have_no_column_of_ours() {
        let findings = findings(vec![row(0, &[("flash3", 100.0)], &[])]);
        let table = table(&findings, presets::ASCII_MARKDOWN).to_string();
        assert!(!table.contains(FLASHCORE) && !table.contains("best"), "{table}");
        let text = markdown(&findings, &["plot.svg".to_owned()]);
        assert!(text.contains("Peers: torch 2.") && text.contains("![plot.svg](plot.svg)"), "{text}");
    }
}
