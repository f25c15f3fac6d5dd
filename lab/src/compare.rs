//! What changed between two runs, and how surely.
//!
//! Machines differ, and a machine differs from day to day, so what is compared of a shape is our time beside that of the
//! peers that both runs have, round by round; where there are none, our time. Welch's test over the rounds says how
//! probable such a change is by chance, corrected for the number of shapes; what is no chance and larger than the noise
//! that one may expect is a change.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::gate::{self, Run};
use crate::metrics::{Cell, FLASHCORE, Figures, median};
use crate::stats::{Moments, corrected, welch};

/// Of the changes that are called so, at most this share is chance.
const CHANCE: f64 = 0.05;

/// Options of `compare`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab compare docs/results/2026-11-21-h200 target/flashcore/gate\n  flashcore-lab compare --noise 0.03 before after"
)]
pub(crate) struct Options {
    /// Folder of the earlier run: of `gate`, or of `bench`
    earlier: PathBuf,
    /// Folder of the later run
    later: PathBuf,
    /// Changes up to this share are noise, however sure they are
    #[arg(long, default_value_t = NOISE, value_name = "SHARE")]
    noise: f64,
}

/// Changes up to this share are noise, if nobody says otherwise.
pub(crate) const NOISE: f64 = 0.02;

/// One shape in both runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// The shape, the mask and the element type.
    pub(crate) problem: String,
    /// Our median time, µs.
    pub(crate) earlier_us: f64,
    pub(crate) later_us: f64,
    /// Whether times are taken beside those of peers.
    pub(crate) beside_peers: bool,
    /// How many times as slow as before.
    pub(crate) slowdown: f64,
    /// How probable that is by chance, corrected for the number of shapes; None where a run has one round only.
    pub(crate) chance: Option<f64>,
}

impl Change {
    /// What kind of change it is.
    pub(crate) fn kind(&self, noise: f64) -> Kind {
        let sure = self.chance.is_some_and(|chance| chance < CHANCE);
        if self.slowdown.is_nan() {
            return Kind::Slower;
        }
        match sure {
            true if self.slowdown > 1.0 + noise => Kind::Slower,
            true if self.slowdown < 1.0 - noise => Kind::Faster,
            _ => Kind::Same,
        }
    }
}

/// What became of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Faster,
    Same,
    Slower,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Faster => "faster",
            Kind::Same => "same",
            Kind::Slower => "SLOWER",
        }
    }
}

/// Compares two folders; false if something got slower.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let (earlier, later) = (Run::load(&options.earlier)?, Run::load(&options.later)?);
    let changes = changes(&earlier, &later);
    println!("{}", table(&changes, options.noise));
    let table = gate::Table::standard()?;
    for (before, after) in table.judge(&earlier, None).iter().zip(table.judge(&later, Some(&earlier))) {
        if before.outcome.word() != after.outcome.word() {
            let (before, now) = (before.outcome.word(), after.outcome.word());
            println!("gate {}, {}: {before}, now {now}", after.gate.id, after.gate.what);
        }
    }
    let slower = changes.iter().filter(|change| change.kind(options.noise) == Kind::Slower).count();
    let faster = changes.iter().filter(|change| change.kind(options.noise) == Kind::Faster).count();
    println!("{} shapes in both runs: {faster} faster, {slower} slower.", changes.len());
    Ok(slower == 0)
}

fn problem(cell: &Cell) -> String {
    format!("{}, {}, {}", cell.shape(), cell.mask(), cell.dtype)
}

/// Every shape that both runs have timed.
pub(crate) fn changes(earlier: &Run, later: &Run) -> Vec<Change> {
    let cells = |run: &Run| run.bench.iter().flat_map(|bench| bench.cells.clone()).collect::<Vec<_>>();
    let earlier = cells(earlier);
    let mut changes = Vec::new();
    let mut chances = Vec::new();
    for cell in cells(later) {
        let problem = problem(&cell);
        let Some(before) = earlier.iter().find(|before| self::problem(before) == problem) else { continue };
        let (Some(earlier), Some(later)) = (before.figures.of(FLASHCORE), cell.figures.of(FLASHCORE)) else {
            continue;
        };
        let peers: Vec<&str> = cell.figures.measured.iter().map(|measured| measured.name.as_str()).collect();
        let common = |peer: &&&str| **peer != FLASHCORE && before.figures.of(peer).is_some();
        let peers: Vec<&str> = peers.iter().filter(common).copied().collect();
        let (was, is) = (beside(&before.figures, &peers), beside(&cell.figures, &peers));
        let chance = Moments::of(&was).zip(Moments::of(&is)).map(|(was, is)| welch(&was, &is).p());
        chances.extend(chance);
        changes.push(Change {
            problem,
            earlier_us: earlier.median_us(),
            later_us: later.median_us(),
            beside_peers: !peers.is_empty(),
            slowdown: (median(&mut is.clone()) - median(&mut was.clone())).exp(),
            chance,
        });
    }
    let corrected = corrected(&chances);
    let tested = changes.iter_mut().filter_map(|change| change.chance.as_mut());
    tested.zip(corrected).for_each(|(chance, corrected)| *chance = corrected);
    changes
}

/// Logarithms of our time in each round, beside the mean of the peers' in the same round.
fn beside(figures: &Figures, peers: &[&str]) -> Vec<f64> {
    let ours = figures.of(FLASHCORE).map(|ours| ours.us.clone()).unwrap_or_default();
    let theirs: Vec<&Vec<f64>> = peers.iter().filter_map(|peer| Some(&figures.of(peer)?.us)).collect();
    let of_round = |(round, us): (usize, &f64)| {
        let logarithms = theirs.iter().filter_map(|us| Some(us.get(round)?.ln()));
        us.ln() - logarithms.sum::<f64>() / theirs.len().max(1) as f64
    };
    ours.iter().enumerate().map(of_round).collect()
}

/// A row for each shape.
fn table(changes: &[Change], noise: f64) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["B,H,S,D", "µs", "µs now", "slowdown", "chance", ""]);
    for change in changes {
        let beside = if change.beside_peers { "beside peers" } else { "alone" };
        table.add_row([
            change.problem.clone(),
            format!("{:.2}", change.earlier_us),
            format!("{:.2}", change.later_us),
            format!("{:.3} {beside}", change.slowdown),
            change.chance.map_or_else(|| "one round".to_owned(), |chance| format!("{chance:.3}")),
            change.kind(noise).word().to_owned(),
        ]);
    }
    table
        .column_iter_mut()
        .skip(1)
        .take(4)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// The same for programs: a row for each shape.
pub(crate) fn csv(changes: &[Change], noise: f64) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "shape",
        "earlier_us",
        "later_us",
        "beside_peers",
        "slowdown",
        "chance",
        "change",
    ])?;
    for change in changes {
        writer.write_record([
            change.problem.clone(),
            change.earlier_us.to_string(),
            change.later_us.to_string(),
            change.beside_peers.to_string(),
            change.slowdown.to_string(),
            change.chance.map(|chance| chance.to_string()).unwrap_or_default(),
            change.kind(noise).word().to_owned(),
        ])?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::testing;

    /// The run of which every figure is good, with our times so many times as long, and the machine so many times as
    /// slow.
    fn slower(ours: f64, machine: f64) -> Run {
        let mut run = testing::good();
        let measured = run
            .bench
            .iter_mut()
            .flat_map(|bench| &mut bench.cells)
            .flat_map(|cell| &mut cell.figures.measured);
        for measured in measured {
            let factor = machine * if measured.name == FLASHCORE { ours } else { 1.0 };
            measured.us.iter_mut().for_each(|us| *us *= factor);
        }
        run
    }

    fn kinds(later: &Run) -> Vec<Kind> {
        changes(&testing::good(), later).iter().map(|change| change.kind(NOISE)).collect()
    }

    #[test]
    fn a_run_is_like_itself_and_like_one_on_a_slower_machine() {
        assert!(!kinds(&testing::good()).is_empty());
        for same in [testing::good(), slower(1.0, 1.3), slower(1.005, 1.0)] {
            assert!(kinds(&same).iter().all(|kind| *kind == Kind::Same));
        }
    }

    #[test]
    fn what_is_slower_than_noise_is_seen() {
        let changes = changes(&testing::good(), &slower(1.1, 1.2));
        assert!(changes.iter().all(|change| (change.slowdown - 1.1).abs() < 1e-9 && change.beside_peers));
        assert!(changes.iter().all(|change| change.kind(NOISE) == Kind::Slower), "{changes:?}");
        assert!(changes.iter().all(|change| change.kind(0.2) == Kind::Same));
        assert!(kinds(&slower(0.9, 1.2)).iter().all(|kind| *kind == Kind::Faster));
        let text = csv(&changes, NOISE).unwrap();
        assert!(text.starts_with("shape,earlier_us") && text.contains("SLOWER"), "{text}");
    }

    #[test]
    fn one_round_proves_nothing() {
        let mut short = slower(1.5, 1.0);
        for cell in short.bench.iter_mut().flat_map(|bench| &mut bench.cells) {
            cell.figures.measured.iter_mut().for_each(|measured| measured.us.truncate(1));
        }
        let changes = changes(&testing::good(), &short);
        assert!(changes.iter().all(|change| change.chance.is_none() && change.kind(NOISE) == Kind::Same));
        assert!(table(&changes, NOISE).to_string().contains("one round"));
    }

    #[test]
    fn alone_times_are_compared_as_they_are() {
        let alone = |mut run: Run| {
            for cell in run.bench.iter_mut().flat_map(|bench| &mut bench.cells) {
                cell.figures.measured.retain(|measured| measured.name == FLASHCORE);
            }
            run
        };
        let changes = changes(&alone(testing::good()), &alone(slower(1.0, 1.2)));
        assert!(changes.iter().all(|change| !change.beside_peers && change.kind(NOISE) == Kind::Slower));
    }
}
