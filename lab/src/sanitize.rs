//! compute-sanitizer over small shapes of every kernel, and over a planted mistake for each of its tools, which must be
//! seen: a tool that sees nothing proves nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use flashcore::Device;
use serde::{Deserialize, Serialize};

use crate::children;
use crate::faults::Fault;
use crate::output;
use crate::shape::{Bhsd, Dtypes};

/// Options of `sanitize`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab sanitize\n  flashcore-lab sanitize racecheck synccheck\n  flashcore-lab sanitize memcheck --shape 2,4/2,100/300,128 --dtype f16"
)]
pub(crate) struct Options {
    /// Tools to run (default: all of them)
    #[arg(value_enum)]
    tools: Vec<Tool>,
    /// A shape B,H,S,D, instead of a few small ones of every kernel; may be repeated
    #[arg(long = "shape", value_name = "B,H,S,D")]
    shapes: Vec<Bhsd>,
    /// Element type
    #[arg(long, value_enum, default_value_t = Dtypes::Both)]
    dtype: Dtypes,
    /// Longest time of one tool, in seconds
    #[arg(long, default_value_t = 1800, value_name = "N")]
    limit: u64,
    /// Folder for sanitize.json and the logs
    #[arg(long, default_value = "target/flashcore/sanitize", value_name = "DIR")]
    out: PathBuf,
}

/// A tool of compute-sanitizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tool {
    /// Accesses outside of allocations, misaligned ones, leaks
    Memcheck,
    /// Hazards in shared memory
    Racecheck,
    /// Misuse of barriers
    Synccheck,
    /// Reads of global memory that nobody wrote
    Initcheck,
}

impl Tool {
    /// All of them.
    pub(crate) const ALL: [Tool; 4] = [Tool::Memcheck, Tool::Racecheck, Tool::Synccheck, Tool::Initcheck];

    /// Its name, as the sanitizer takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tool::Memcheck => "memcheck",
            Tool::Racecheck => "racecheck",
            Tool::Synccheck => "synccheck",
            Tool::Initcheck => "initcheck",
        }
    }

    /// Arguments of this program that run under it, and whether there is a mistake to be seen.
    fn programs(self, matrix: &Matrix) -> Vec<(bool, Vec<String>)> {
        let planted = self.faults().iter().filter_map(|fault| {
            let name = fault.to_possible_value()?;
            Some((true, vec!["fault".to_owned(), name.get_name().to_owned()]))
        });
        planted.chain([(false, matrix.arguments.clone())]).collect()
    }

    /// The mistakes that it must see.
    fn faults(self) -> &'static [Fault] {
        match self {
            Tool::Memcheck => &[Fault::Memcheck, Fault::Leak],
            Tool::Racecheck => &[Fault::Racecheck],
            Tool::Synccheck => &[Fault::Synccheck],
            Tool::Initcheck => &[Fault::Initcheck],
        }
    }
}

/// What a run found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) runs: Vec<ToolRun>,
}

/// A tool on one program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ToolRun {
    pub(crate) tool: Tool,
    /// The arguments of this program that ran under the tool.
    pub(crate) what: String,
    /// Whether there is a mistake to be seen.
    pub(crate) planted: bool,
    /// What the tool said; None if it came to no end.
    pub(crate) summary: Option<Summary>,
    /// How the run ended, and the last that it said if that was not well.
    pub(crate) ended: String,
    /// Wall-clock time.
    pub(crate) seconds: f64,
}

/// The last words of a tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Errors, or hazards.
    pub(crate) errors: u64,
    /// Memory that was never freed.
    pub(crate) leaked_bytes: u64,
}

impl Summary {
    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        *self == Summary::default()
    }

    /// What the tool said at its end; None if it did not come so far.
    fn parse(text: &str) -> Option<Summary> {
        let mut errors = None;
        let mut leaked_bytes = 0;
        for line in text.lines().filter_map(|line| line.strip_prefix("=========")).map(str::trim) {
            let number = |label: &str| -> Option<u64> {
                line.strip_prefix(label)?.split_whitespace().next()?.parse().ok()
            };
            // Of a racecheck, warnings count as well.
            if let Some(count) = number("ERROR SUMMARY:").or_else(|| number("RACECHECK SUMMARY:")) {
                errors = Some(errors.unwrap_or(0) + count);
            }
            leaked_bytes += number("LEAK SUMMARY:").unwrap_or(0);
        }
        Some(Summary { errors: errors?, leaked_bytes })
    }
}

impl ToolRun {
    /// Whether it is what it should be: clean, or, with a planted mistake, not.
    pub(crate) fn is_right(&self) -> bool {
        self.summary.is_some_and(|summary| summary.is_clean() != self.planted)
    }
}

/// What runs under the tools.
pub(crate) struct Matrix {
    pub(crate) tools: Vec<Tool>,
    /// Arguments of this program.
    pub(crate) arguments: Vec<String>,
    /// Longest time of one tool.
    pub(crate) limit: Duration,
}

impl Matrix {
    /// A few small shapes of every kernel.
    pub(crate) fn small(tools: Vec<Tool>, limit: Duration) -> Self {
        Matrix { tools, arguments: ["check", "--small"].map(str::to_owned).into(), limit }
    }
}

/// Runs the tools; false if one found something, or missed what was planted.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    // Known before any tool is started, and closed again: the tools' programs open it themselves.
    let ordinal = device?.properties().ordinal;
    let tools = if options.tools.is_empty() { Tool::ALL.to_vec() } else { options.tools.clone() };
    let mut matrix = Matrix::small(tools, Duration::from_secs(options.limit));
    if !options.shapes.is_empty() {
        matrix.arguments = vec!["check".to_owned()];
        for shape in &options.shapes {
            matrix.arguments.extend(["--shape".to_owned(), shape.to_string()]);
        }
    }
    let dtype = options.dtype.to_possible_value().context("every element type has a name")?;
    matrix.arguments.extend(["--dtype".to_owned(), dtype.get_name().to_owned()]);
    let file = options.out.join("sanitize.json");
    let sanitizer = find()?;
    let keep = |findings: &Findings| output::write(findings, &file);
    let findings = measure(&sanitizer, ordinal, &matrix, &options.out, keep)?;
    println!("{}", table(&findings));
    for run in findings.runs.iter().filter(|run| !run.is_right()) {
        println!("{}, {}: {}", run.tool.name(), run.what, run.ended);
    }
    Ok(findings.runs.iter().all(ToolRun::is_right))
}

/// The program.
///
/// # Errors
/// This machine has none.
pub(crate) fn find() -> Result<PathBuf> {
    children::find("compute-sanitizer").context(
        "compute-sanitizer was not found in PATH or /usr/local/cuda*/bin; it comes with the CUDA toolkit",
    )
}

/// Runs every tool on its planted mistakes and on the matrix, with logs in `out`; `keep` is called after every run. The
/// tools run side by side: each waits for the host most of the time.
pub(crate) fn measure(
    sanitizer: &Path,
    ordinal: usize,
    matrix: &Matrix,
    out: &Path,
    mut keep: impl FnMut(&Findings) -> Result<()>,
) -> Result<Findings> {
    let mut findings = Findings::default();
    std::thread::scope(|scope| -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        for &tool in &matrix.tools {
            let sender = sender.clone();
            scope.spawn(move || {
                for (planted, arguments) in tool.programs(matrix) {
                    // Nobody listens any more only where another run could not be kept.
                    let _ =
                        sender.send(one(tool, sanitizer, ordinal, planted, &arguments, matrix.limit, out));
                }
            });
        }
        drop(sender);
        for run in receiver {
            findings.runs.push(run?);
            findings.runs.sort_by_key(|run| (run.tool, !run.planted));
            keep(&findings)?;
        }
        Ok(())
    })?;
    ensure!(!findings.runs.is_empty(), "no tool was asked for");
    Ok(findings)
}

/// Runs this program with `arguments` under a tool.
fn one(
    tool: Tool,
    sanitizer: &Path,
    ordinal: usize,
    planted: bool,
    arguments: &[String],
    limit: Duration,
    out: &Path,
) -> Result<ToolRun> {
    let program = std::env::current_exe().context("this program has no path")?;
    let what = arguments.join(" ");
    let log = out.join(format!("{}-{}.log", tool.name(), what.replace([' ', ',', '/'], "_")));
    let mut command = Command::new(sanitizer);
    command.args(["--tool", tool.name()]);
    if tool == Tool::Memcheck {
        command.args(["--leak-check", "full"]);
    }
    command.arg(program).args(["--device", &ordinal.to_string()]).args(arguments);
    eprintln!("{}: {what}", tool.name());
    let start = Instant::now();
    let ended = children::run(&mut command, &log, limit)?;
    let summary = Summary::parse(&ended.text).filter(|_| ended.status.is_some());
    // The program itself must end well where nothing is wrong: half a matrix proves nothing.
    let summary = summary.filter(|_| planted || ended.is_success());
    let how = match summary {
        Some(_) => "it ended".to_owned(),
        None => format!("{}\n{}", ended.how(), ended.last_lines()),
    };
    Ok(ToolRun { tool, what, planted, summary, ended: how, seconds: start.elapsed().as_secs_f64() })
}

/// A row a run.
pub(crate) fn table(findings: &Findings) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["tool", "program", "errors", "leaked bytes", "seconds", ""]);
    for run in &findings.runs {
        let number = |of: fn(&Summary) -> u64| {
            run.summary.as_ref().map_or_else(|| "-".to_owned(), |summary| of(summary).to_string())
        };
        let verdict = match (run.is_right(), run.planted, run.summary) {
            (true, false, _) => "clean",
            (true, true, _) => "seen, as it must be",
            (false, _, None) => "came to no end",
            (false, true, _) => "NOT SEEN",
            (false, false, _) => "NOT CLEAN",
        };
        table.add_row([
            run.tool.name().to_owned(),
            run.what.clone(),
            number(|summary| summary.errors),
            number(|summary| summary.leaked_bytes),
            format!("{:.1}", run.seconds),
            verdict.to_owned(),
        ]);
    }
    table
        .column_iter_mut()
        .skip(2)
        .take(3)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_each_tool_are_understood() {
        let summary = |errors, leaked_bytes| Some(Summary { errors, leaked_bytes });
        for (text, wanted) in [
            ("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n", summary(0, 0)),
            (
                "========= Invalid __global__ write of size 4 bytes\n=========     at fault_memcheck+0x90\n\
                 ========= LEAK SUMMARY: 256 bytes leaked in 1 allocations\n========= ERROR SUMMARY: 2 errors\n",
                summary(2, 256),
            ),
            (
                "kernels passed\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n",
                summary(0, 0),
            ),
            ("========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)\n", summary(1, 0)),
            ("========= COMPUTE-SANITIZER\nERROR SUMMARY: 0 errors\n", None),
            ("", None),
        ] {
            assert_eq!(Summary::parse(text), wanted, "{text}");
        }
    }

    /// Speaks as the tools do: of an error where there is a planted one, but of none to synccheck; never ends as
    /// initcheck.
    const STAND_IN: &str = r#"#!/bin/sh
case "$2/$*" in
  racecheck/*fault*) echo "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"; exit 1 ;;
  racecheck/*) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
  synccheck/*) echo "========= ERROR SUMMARY: 0 errors" ;;
  initcheck/*) sleep 600 ;;
  memcheck/*leak) echo "========= LEAK SUMMARY: 256 bytes leaked in 1 allocations"; echo "========= ERROR SUMMARY: 1 error" ;;
  memcheck/*fault*) echo "========= ERROR SUMMARY: 1 error" ;;
  memcheck/*) echo "========= ERROR SUMMARY: 0 errors"; exit 9 ;;
esac
"#;

    #[test]
    fn tools_run_side_by_side_and_are_judged_one_by_one() {
        use std::os::unix::fs::PermissionsExt;
        let folder = crate::gate::testing::folder("sanitize");
        let stand_in = folder.join("compute-sanitizer");
        std::fs::write(&stand_in, STAND_IN).unwrap();
        std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755)).unwrap();
        let matrix = Matrix::small(Tool::ALL.into(), Duration::from_secs(4));
        let mut kept = 0;
        let findings = measure(&stand_in, 0, &matrix, &folder, |findings| {
            kept += 1;
            assert_eq!(findings.runs.len(), kept);
            Ok(())
        })
        .unwrap();
        let right: Vec<(&str, bool, bool)> =
            findings.runs.iter().map(|run| (run.tool.name(), run.planted, run.is_right())).collect();
        let wanted = [
            ("memcheck", true, true),
            ("memcheck", true, true),
            ("memcheck", false, false), // its program failed
            ("racecheck", true, true),
            ("racecheck", false, true),
            ("synccheck", true, false), // not seen
            ("synccheck", false, true),
            ("initcheck", true, false), // took too long, both
            ("initcheck", false, false),
        ];
        assert_eq!(right, wanted);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn clean_is_right_unless_a_mistake_was_planted() {
        let run = |planted, summary| ToolRun {
            tool: Tool::Memcheck,
            what: "check --small".to_owned(),
            planted,
            summary,
            ended: String::new(),
            seconds: 1.0,
        };
        let dirty = Summary { errors: 1, leaked_bytes: 0 };
        let leaking = Summary { errors: 0, leaked_bytes: 1 };
        for (planted, summary, right) in [
            (false, Some(Summary::default()), true),
            (false, Some(dirty), false),
            (false, Some(leaking), false),
            (false, None, false),
            (true, Some(dirty), true),
            (true, Some(leaking), true),
            (true, Some(Summary::default()), false),
            (true, None, false),
        ] {
            let run = run(planted, summary);
            assert_eq!(run.is_right(), right, "{run:?}");
            assert_eq!(
                table(&Findings { runs: vec![run] }).to_string().contains("NO"),
                !right && summary.is_some()
            );
        }
    }

    #[test]
    fn every_tool_has_a_mistake_to_see() {
        let matrix = Matrix::small(Tool::ALL.into(), Duration::from_secs(1));
        for tool in Tool::ALL {
            let programs = tool.programs(&matrix);
            assert!(programs.iter().any(|(planted, arguments)| *planted && arguments[0] == "fault"));
            assert_eq!(programs.last().unwrap(), &(false, vec!["check".to_owned(), "--small".to_owned()]));
        }
    }
}
