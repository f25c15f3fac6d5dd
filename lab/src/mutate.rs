//! Mutants: every mistake of synchronisation in every kernel, and whether the emulator sees it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore::kernels::Variant;
use flashcore_tests::kernel::kernels;
use flashcore_tests::mutation::{Explanation, Fate, Outcome, Subject, explanations};
use indicatif::{ParallelProgressIterator, ProgressBar, ProgressStyle};
use rayon::prelude::*;

/// Least share of the mutants that are mistakes that must be reported; of a few, the share says little.
const GOAL: f64 = 0.98;

#[derive(Args)]
#[command(after_help = "Example:\n  flashcore-lab mutate")]
pub(crate) struct Options {
    /// Only kernels whose name contains this, or the one that has just this name
    #[arg(long, default_value = "")]
    kernel: String,
    /// Only mutants whose name contains this
    #[arg(long, default_value = "")]
    mutant: String,
    /// Only every Nth mutant
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Folder for mutants.json and mutants.md
    #[arg(long, default_value = "target/flashcore/mutants")]
    out: PathBuf,
}

impl Options {
    /// Whether no mutant is left out.
    fn all(&self) -> bool {
        self.kernel.is_empty() && self.mutant.is_empty() && self.every <= 1
    }
}

/// Makes the mutants and runs them; false if one survives that nobody has explained, or too many of all do.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let named: Vec<&Variant> = kernels().filter(|variant| variant.symbol == options.kernel).collect();
    let alike = || kernels().filter(|variant| variant.symbol.contains(&options.kernel)).collect();
    let variants = if named.is_empty() { alike() } else { named };
    let subjects = variants.par_iter().map(|variant| Subject::new(variant)).collect::<Result<Vec<_>, _>>()?;
    let jobs: Vec<_> = subjects
        .iter()
        .flat_map(|subject| subject.mutants().into_iter().map(move |mutant| (subject, mutant)))
        .filter(|(_, mutant)| mutant.name.contains(&options.mutant))
        .step_by(options.every.max(1))
        .collect();
    ensure!(!jobs.is_empty(), "no mutant has that name: {:?} of {:?}", options.mutant, options.kernel);
    let bar = ProgressBar::new(jobs.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} mutants {elapsed}, {eta} left")?);
    let outcomes = jobs
        .into_par_iter()
        .progress_with(bar)
        .map(|(subject, mutant)| subject.fate(&mutant))
        .collect::<Result<Vec<_>, _>>()?;
    let known = explanations();
    let survivors: Vec<_> =
        outcomes.iter().filter(|outcome| !matches!(outcome.fate, Fate::Reported(_))).collect();
    let reported = outcomes.len() - survivors.len();
    let explanation = |outcome: &Outcome| known.iter().find(|known| known.covers(outcome));
    let harmless =
        survivors.iter().filter(|outcome| explanation(outcome).is_some_and(|known| known.harmless)).count();
    let mistakes = outcomes.len() - harmless;
    let share = reported as f64 / mistakes.max(1) as f64;
    println!("{}", table(&outcomes, presets::UTF8_FULL_CONDENSED));
    println!(
        "{reported} of {} mutants reported. {harmless} of the others are no mistakes; of the {mistakes} that are, {:.2} % are \
         reported, and at least {:.0} % must be.",
        outcomes.len(),
        100.0 * share,
        100.0 * GOAL
    );
    let unexplained: Vec<_> = survivors.iter().filter(|outcome| explanation(outcome).is_none()).collect();
    for outcome in &survivors {
        let why = explanation(outcome).map_or("NOT EXPLAINED", |known| known.why.as_str());
        println!("{} line {}: {} ({:?}): {why}", outcome.kernel, outcome.line, outcome.mutant, outcome.fate);
    }
    fs::create_dir_all(&options.out).with_context(|| format!("cannot create {}", options.out.display()))?;
    let write = |name: &str, text: String| {
        let path = options.out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("mutants.json", serde_json::to_string_pretty(&outcomes)?)?;
    write("mutants.md", markdown(&outcomes, &survivors, &known))?;
    println!("details: {}", options.out.display());
    Ok(unexplained.is_empty() && (share >= GOAL || !options.all()))
}

/// Mutants by kind of instruction and mistake: how many, how many were reported, and by which codes.
fn table(outcomes: &[Outcome], style: comfy_table::TableStyle) -> Table {
    #[derive(Default)]
    struct Row {
        count: usize,
        reported: usize,
        codes: BTreeMap<String, usize>,
    }
    let mut rows: BTreeMap<(&str, &str), Row> = BTreeMap::new();
    for outcome in outcomes {
        let row = rows.entry((outcome.kind, outcome.change)).or_default();
        row.count += 1;
        if let Fate::Reported(found) = &outcome.fate {
            row.reported += 1;
            if let Some(first) = found.first() {
                *row.codes.entry(first.to_string()).or_default() += 1;
            }
        }
    }
    let mut table = Table::new();
    table.load_style(style);
    table.set_header(["instruction", "mistake", "mutants", "reported", "first finding"]);
    for ((kind, change), Row { count, reported, codes }) in rows {
        let codes: Vec<_> = codes.into_iter().map(|(code, times)| format!("{code} {times}")).collect();
        table.add_row([
            kind.to_owned(),
            change.to_owned(),
            count.to_string(),
            reported.to_string(),
            codes.join(", "),
        ]);
    }
    for column in [2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The same for the documentation, with every survivor by name.
fn markdown(outcomes: &[Outcome], survivors: &[&Outcome], known: &[Explanation]) -> String {
    let reported = outcomes.len() - survivors.len();
    let mut text = format!(
        "{reported} of {} mutants of {} kernels are reported.\n\n{}\n",
        outcomes.len(),
        outcomes.iter().map(|outcome| outcome.kernel).collect::<std::collections::BTreeSet<_>>().len(),
        table(outcomes, presets::ASCII_MARKDOWN)
    );
    if !survivors.is_empty() {
        text += "\n## Survivors\n\n";
    }
    for outcome in survivors {
        let why = known
            .iter()
            .find(|known| known.covers(outcome))
            .map_or("not explained", |known| known.why.as_str());
        text += &format!("- `{}`, {}: {why}\n", outcome.kernel, outcome.mutant);
    }
    text
}
