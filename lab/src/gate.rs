//! Every claim of the product as a gate: measures what they are about, judges them by the table in gates.toml, and
//! leaves the figures, reports and a page with plots.

mod figures;
mod page;
mod report;
mod run;
mod stages;
mod table;
#[cfg(test)]
pub(crate) mod testing;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use flashcore::Device;

pub(crate) use run::{Run, Stage};
pub(crate) use table::Table;

use crate::{PeerOptions, children};

/// Options of `gate`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab gate\n  flashcore-lab gate --only proof --only bench --out before\n  flashcore-lab gate --baseline before\n  flashcore-lab gate --from target/flashcore/gate\n\n\
                  The exit code is the verdict: 0 if the run came to its end and no gate that binds failed."
)]
pub(crate) struct Options {
    /// Measure nothing: judge and write the run in this folder again, which needs no GPU
    #[arg(long, value_name = "DIR", conflicts_with_all = ["only", "skip", "budget", "out"])]
    from: Option<PathBuf>,
    /// Folder for metrics.json, the reports, the page, the logs and the reports of ncu
    #[arg(long, default_value = "target/flashcore/gate", value_name = "DIR")]
    out: PathBuf,
    /// Compare with the run in this folder (default: baseline beside this program, if it is there)
    #[arg(long, value_name = "DIR")]
    baseline: Option<PathBuf>,
    /// Gates other than the product's
    #[arg(long, value_name = "FILE")]
    gates: Option<PathBuf>,
    /// Only this part; may be repeated
    #[arg(long, value_enum, value_name = "STAGE")]
    only: Vec<Stage>,
    /// Not this part; may be repeated
    #[arg(long, value_enum, value_name = "STAGE")]
    skip: Vec<Stage>,
    /// Seconds after which no further part is begun
    #[arg(long, default_value_t = 480, value_name = "N")]
    budget: u64,
    #[command(flatten)]
    peers: PeerOptions,
}

/// Runs the gates, or judges an earlier run again; whether they pass.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let table = match &options.gates {
        Some(file) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            Table::parse(&text).with_context(|| format!("{}", file.display()))?
        }
        None => Table::standard()?,
    };
    let earlier = baseline(options)?;
    let earlier = earlier.as_ref().map(|(name, run)| (name.as_str(), run));
    if let Some(dir) = &options.from {
        return finish(&mut Run::load(dir)?, dir, &table, earlier);
    }
    let wanted = |stage: Stage| match stage {
        Stage::Report => true,
        _ => (options.only.is_empty() || options.only.contains(&stage)) && !options.skip.contains(&stage),
    };
    let plan = stages::Plan {
        wanted: Stage::ALL.into_iter().filter(|&stage| wanted(stage)).collect(),
        budget: Duration::from_secs(options.budget),
        peers: options.peers.clone(),
    };
    report_when_interrupted(&options.out, &options.gates)?;
    let mut run = stages::run(device, &plan, &options.out)?;
    finish(&mut run, &options.out, &table, earlier)
}

/// Judges a run, and leaves its reports in `dir`; whether it passes.
fn finish(run: &mut Run, dir: &Path, table: &Table, earlier: Option<(&str, &Run)>) -> Result<bool> {
    let judgements = report::write(run, dir, table, earlier)?;
    println!("{}", report::terminal(&judgements));
    for line in report::notes(&judgements) {
        println!("{line}");
    }
    println!("{}\nreport: {}", table::verdict(run, &judgements), dir.join(report::PAGE).display());
    Ok(table::passes(run, &judgements))
}

/// The run to compare with, and its name.
fn baseline(options: &Options) -> Result<Option<(String, Run)>> {
    let beside_program = || {
        let folder = std::env::current_exe().ok()?.parent()?.join("baseline");
        folder.is_dir().then_some(folder)
    };
    let Some(folder) = options.baseline.clone().or_else(beside_program) else { return Ok(None) };
    let run = Run::load(&folder)?;
    let name = match &run.origin.commit {
        Some(commit) => format!("{} (commit {commit}, {})", folder.display(), run.origin.date),
        None => format!("{} ({})", folder.display(), run.origin.date),
    };
    Ok(Some((name, run)))
}

/// Whoever ends this program by a signal still gets the report of what there is, which says so.
fn report_when_interrupted(dir: &Path, gates: &Option<PathBuf>) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let (dir, gates) = (dir.to_path_buf(), gates.clone());
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        children::end_all();
        let done = || -> Result<()> {
            let table = match gates {
                Some(file) => Table::parse(&std::fs::read_to_string(file)?)?,
                None => Table::standard()?,
            };
            finish(&mut Run::load(&dir)?, &dir, &table, None).map(drop)
        };
        if let Err(error) = done() {
            eprintln!("flashcore-lab: interrupted, and nothing can be reported: {error:#}");
        }
        const BY_SIGNAL: i32 = 128;
        std::process::exit(BY_SIGNAL + signal);
    });
    Ok(())
}
