//! One page with everything: no file beside it, no script, nothing from a network.

use std::fmt::{Display, Write};

use anyhow::Result;
use comfy_table::presets;

use super::report::{notes, row, stages};
use super::run::Run;
use super::table::{Judgement, Outcome, verdict};
use crate::compare::{Change, NOISE};
use crate::metrics::{FLASHCORE, Metrics};
use crate::{charts, determinism, plot, profile, sanitize};

const STYLE: &str = "\
    body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 1640px; padding: 0 1em; color: #222 }\n\
    h2 { margin-top: 2em; border-bottom: 1px solid #ccc }\n\
    table { border-collapse: collapse; margin: 1em 0 }\n\
    td, th { padding: .25em .7em; border: 1px solid #ddd; text-align: left; vertical-align: top }\n\
    td.number { text-align: right; font-variant-numeric: tabular-nums }\n\
    .pass { background: #dff2df } .bad { background: #f8d3d3 } .open { background: #f2efdc }\n\
    .verdict { font-size: 1.3em; padding: .6em 1em }\n\
    figure { display: inline-block; margin: .5em } svg { max-width: 100%; height: auto }\n\
    pre { overflow-x: auto; font-size: 13px }\n";

/// Text as it may stand in a page.
fn escaped(text: impl Display) -> String {
    let text = text.to_string();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// How a verdict looks.
fn class(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Fail | Outcome::Broken(_) | Outcome::Unfinished(_) => "bad",
        Outcome::Missed | Outcome::NotMeasurable(_) => "open",
    }
}

/// The page of a run.
///
/// # Errors
/// A plot cannot be drawn.
pub(super) fn html(
    run: &Run,
    judgements: &[Judgement],
    changes: Option<(&str, &[Change])>,
) -> Result<String> {
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>flashcore: gates</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>flashcore: gates</h1>\n"
    );
    let said = verdict(run, judgements);
    let look = if said.starts_with("PASSED") { "pass" } else { "bad" };
    _ = writeln!(text, "<p class=\"verdict {look}\">{}</p>", escaped(said));
    _ = writeln!(text, "<p>{}</p>", escaped(&run.origin));
    if let Some(machine) = &run.machine {
        _ = writeln!(text, "<p>{}</p>", escaped(machine));
    }
    table_of_gates(&mut text, judgements);
    if let Some(bench) = &run.bench {
        if let Some(roofline) = charts::roofline(bench)? {
            section(&mut text, "Roofline", [roofline]);
        }
        let plots = plot::plots(bench)?;
        section(&mut text, "Speed by sequence length", plots.into_iter().map(|plot| plot.svg));
        heat_map(&mut text, bench);
    }
    if let Some((name, changes)) = changes {
        table_of_changes(&mut text, name, changes);
    }
    if let Some(power) = &run.power
        && power.measured.iter().any(|sustained| !sustained.trace.is_empty())
    {
        section(&mut text, "Power and clock", [charts::traces(power)?]);
    }
    if !run.errors.is_empty() {
        section(&mut text, "Errors", [charts::histograms(&run.errors)?]);
    }
    let words = [
        (
            "Nsight Compute",
            run.profile.as_ref().map(|f| format!("{}\n{}", profile::table(f), profile::words(f))),
        ),
        ("Determinism", run.determinism.as_ref().map(|findings| determinism::table(findings).to_string())),
        ("compute-sanitizer", run.sanitize.as_ref().map(|findings| sanitize::table(findings).to_string())),
        ("What was done", Some(stages(run, presets::UTF8_FULL_CONDENSED).to_string())),
    ];
    for (title, words) in words {
        if let Some(words) = words {
            _ = writeln!(text, "<h2>{title}</h2>\n<pre>{}</pre>", escaped(words));
        }
    }
    text.push_str("</body>\n</html>\n");
    Ok(text)
}

fn table_of_gates(text: &mut String, judgements: &[Judgement]) {
    text.push_str(
        "<h2>Gates</h2>\n<table>\n<tr><th>gate<th>claim<th>limit<th>figure<th>of<th>verdict<th>source</tr>\n",
    );
    for judgement in judgements {
        let look = class(&judgement.outcome);
        let cells: Vec<String> =
            row(judgement).into_iter().map(|cell| format!("<td>{}", escaped(cell))).collect();
        _ = writeln!(
            text,
            "<tr class=\"{look}\">{}<td>{}</tr>",
            cells.concat(),
            escaped(&judgement.gate.source)
        );
    }
    text.push_str("</table>\n");
    for note in notes(judgements) {
        _ = writeln!(text, "<p>{}</p>", escaped(note));
    }
}

/// A heading and plots.
fn section(text: &mut String, title: &str, plots: impl IntoIterator<Item = String>) {
    _ = writeln!(text, "<h2>{title}</h2>");
    for plot in plots {
        _ = writeln!(text, "<figure>{plot}</figure>");
    }
}

/// The colour of a ratio: green where we are faster, red where we are not, white between.
fn heat(ratio: f64) -> String {
    /// A ratio so far from 1 has the full colour.
    const FULL: f64 = 0.3;
    let strength = (ratio.ln().abs() / (1.0 + FULL).ln()).min(1.0);
    let faded = (255.0 - 130.0 * strength) as u8;
    if ratio >= 1.0 { format!("rgb({faded},235,{faded})") } else { format!("rgb(245,{faded},{faded})") }
}

fn heat_map(text: &mut String, bench: &Metrics) {
    let peers: Vec<&str> = bench.implementations().into_iter().filter(|&name| name != FLASHCORE).collect();
    if peers.is_empty() {
        return;
    }
    text.push_str("<h2>How many times as fast as each peer</h2>\n<table>\n<tr><th>B,H,S,D<th>mask<th>type");
    for peer in &peers {
        _ = write!(text, "<th>{}", escaped(peer));
    }
    text.push_str("</tr>\n");
    for cell in &bench.cells {
        _ = write!(text, "<tr><td>{}<td>{}<td>{}", escaped(cell.shape()), cell.mask(), escaped(&cell.dtype));
        for peer in &peers {
            match cell.figures.ratio(peer) {
                Some(ratio) => {
                    _ = write!(text, "<td class=\"number\" style=\"background:{}\">{ratio:.3}", heat(ratio));
                }
                None => text.push_str("<td>-"),
            }
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table>\n");
}

fn table_of_changes(text: &mut String, name: &str, changes: &[Change]) {
    _ = writeln!(text, "<h2>Since {}</h2>\n<table>", escaped(name));
    text.push_str("<tr><th>shape<th>µs<th>µs now<th>slowdown<th>chance<th></tr>\n");
    for change in changes {
        let chance = change.chance.map_or_else(|| "one round".to_owned(), |chance| format!("{chance:.3}"));
        _ = writeln!(
            text,
            "<tr><td>{}<td class=\"number\">{:.2}<td class=\"number\">{:.2}<td class=\"number\" style=\"background:{}\">{:.3}\
             <td class=\"number\">{chance}<td>{}</tr>",
            escaped(&change.problem),
            change.earlier_us,
            change.later_us,
            heat(1.0 / change.slowdown),
            change.slowdown,
            change.kind(NOISE).word()
        );
    }
    text.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Table, testing};

    fn page() -> String {
        let run = testing::good();
        let judgements = Table::standard().unwrap().judge(&run, Some(&testing::good()));
        let changes = crate::compare::changes(&testing::good(), &run);
        html(&run, &judgements, Some(("an <earlier> run", &changes))).unwrap()
    }

    #[test]
    fn the_page_needs_nothing_beside_it() {
        let page = page();
        for foreign in ["<script", "<link", "<img", "<iframe", " src=", "@import", "url(", "href="] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        // The name of the language of plots is no address that is asked.
        assert_eq!(page.matches("://").count(), page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    }

    #[test]
    fn the_page_shows_everything() {
        let page = page();
        let wanted = [
            "PASSED",
            "7.1a",
            "Roofline",
            "Speed by sequence length",
            "each peer",
            "Power and clock",
            "Errors",
            "Since an &lt;earlier&gt; run",
        ];
        for wanted in wanted {
            assert!(page.contains(wanted), "{wanted}");
        }
        assert!(page.matches("<svg").count() >= 5);
    }

    #[test]
    fn colours_tell_faster_from_slower() {
        assert_eq!(heat(1.0), "rgb(255,235,255)");
        assert_eq!(heat(2.0), "rgb(125,235,125)");
        assert_eq!(heat(0.1), "rgb(245,125,125)");
    }
}
