//! Attention beyond the grid of the bench: varlen, windows, softcap, biases and the rest, flashcore and its peers
//! taking turns.

mod ours;
mod plot;
mod report;
mod rows;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use flashcore::{Device, Dtype};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::PeerOptions;
use crate::feature::Feature;
use crate::metrics::{Check, FLASHCORE, Figures, Machine};
use crate::output::{self, Origin};
use crate::peers::Peers;
use crate::sensors::Sensors;
use crate::shape::Dtypes;
use crate::timing::Protocol;
use crate::turns::take_turns;
use ours::{Ours, ours};

/// Options of `features`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab features --list\n  flashcore-lab features --only varlen --only window\n  \
                  flashcore-lab features --peers-only --without flex --rounds 1"
)]
pub(crate) struct Options {
    /// Only rows whose description (see --list) contains TEXT; may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// List the rows, and do nothing else
    #[arg(long)]
    list: bool,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtypes,
    #[command(flatten)]
    peers: PeerOptions,
    /// Time the peers alone, without flashcore
    #[arg(long, conflicts_with = "no_peers")]
    peers_only: bool,
    /// Times that flashcore and its peers take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// GPU time of each measurement, at least, in seconds
    #[arg(long, default_value_t = Protocol::STANDARD.min_ms / 1e3, value_name = "N")]
    seconds: f64,
    /// Folder for features.json, features.md and the plots
    #[arg(long, default_value = "target/flashcore/features", value_name = "DIR")]
    out: PathBuf,
}

impl Options {
    /// The rows that were asked for.
    fn rows(&self) -> Result<Vec<Feature>> {
        let mut rows = rows::rows();
        let wanted = |row: &Feature| self.only.iter().any(|text| row.to_string().contains(text.as_str()));
        rows.retain(|row| self.only.is_empty() || wanted(row));
        ensure!(!rows.is_empty(), "no row contains {}: see --list", self.only.join(" or "));
        Ok(rows)
    }
}

/// What a run measured, as it is written to a file.
#[derive(Serialize)]
struct Findings {
    #[serde(flatten)]
    origin: Origin,
    /// None where flashcore was left out, and finds no GPU.
    machine: Option<Machine>,
    /// Versions of the implementations beside flashcore.
    peers: BTreeMap<String, String>,
    /// Why an implementation, or all of them, are absent.
    missing: BTreeMap<String, String>,
    protocol: Protocol,
    rounds: u16,
    rows: Vec<Row>,
}

/// A problem in an element type.
#[derive(Serialize)]
struct Row {
    feature: Feature,
    dtype: &'static str,
    /// What the comparison of our result with the oracle said, if there was one.
    check: Option<Check>,
    #[serde(flatten)]
    figures: Figures,
}

/// Runs the rows; false if a result of ours was wrong. Peers alone run without a device of ours.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let rows = options.rows()?;
    if options.list {
        rows.iter().for_each(|row| println!("{row}"));
        return Ok(true);
    }
    let device = match options.peers_only {
        true => device.ok(),
        false => Some(device?),
    };
    let mut missing = BTreeMap::new();
    let peers = if options.peers.no_peers {
        missing.insert("all peers".to_owned(), "not asked for".to_owned());
        None
    } else {
        match Peers::start(&options.peers) {
            Ok(peers) => Some(peers),
            Err(error) if options.peers_only => return Err(error.context("there is nothing to time")),
            Err(error) => {
                eprintln!("flashcore is timed alone: {error:#}");
                missing.insert("all peers".to_owned(), format!("{error:#}"));
                None
            }
        }
    };
    let hello = peers.as_ref().map(Peers::hello);
    missing.extend(hello.map(|hello| hello.missing.clone()).unwrap_or_default());
    for (name, reason) in missing.iter().filter(|_| peers.is_some()) {
        eprintln!("{name} is left out: {reason}");
    }
    let sensors = device.as_ref().and_then(|device| Sensors::new(device.properties().ordinal));
    let mut findings = Findings {
        origin: Origin::now(),
        machine: device.as_ref().map(|device| Machine::of(device, sensors.as_ref())),
        peers: hello.map(|hello| hello.versions.clone()).unwrap_or_default(),
        missing,
        protocol: Protocol { min_ms: 1e3 * options.seconds, ..Protocol::STANDARD },
        rounds: options.rounds,
        rows: Vec::new(),
    };
    let device = device.filter(|_| !options.peers_only);
    if let Some(device) = &device {
        device.preload()?;
    }
    let mut race = Race { device, sensors, peers, protocol: findings.protocol, rounds: options.rounds };
    let bar = ProgressBar::new((rows.len() * options.dtype.list().len()) as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed}/{duration} {msg}")?);
    for &dtype in options.dtype.list() {
        for feature in &rows {
            bar.set_message(feature.to_string());
            let row = race.row(feature, dtype).with_context(|| format!("{feature}, {}", dtype.name()))?;
            findings.rows.push(row);
            // After every row: a run that is cut short leaves what it has.
            output::write(&findings, &options.out.join("features.json"))?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    report::write(&findings, &options.out)?;
    Ok(findings.rows.iter().all(|row| row.check.as_ref().is_none_or(Check::is_right)))
}

/// Who takes part, and by which rules.
struct Race {
    /// None where flashcore does not take part.
    device: Option<Device>,
    sensors: Option<Sensors>,
    peers: Option<Peers>,
    protocol: Protocol,
    rounds: u16,
}

impl Race {
    /// Times `feature` by all who can compute it; by nobody if our own result is wrong.
    fn row(&mut self, feature: &Feature, dtype: Dtype) -> Result<Row> {
        let Race { device, sensors, peers, protocol, rounds } = self;
        let mut row = Row {
            feature: feature.clone(),
            dtype: dtype.name(),
            check: None,
            figures: Figures::new(feature.flops()),
        };
        let mut unsupported = None;
        let mut recorded = None;
        if let Some(device) = device {
            match ours(device, feature, dtype, protocol.launches)? {
                Ours::Unsupported(reason) => unsupported = Some((FLASHCORE.to_owned(), reason)),
                Ours::Wrong(check) => return Ok(Row { check: Some(check), ..row }),
                Ours::Right(check, calls) => {
                    row.check = Some(check);
                    recorded = Some(calls);
                }
            }
        }
        let mut names: Vec<String> = recorded.iter().map(|_| FLASHCORE.to_owned()).collect();
        names.extend(peers.iter().flat_map(|peers| peers.hello().impls.clone()));
        let taken =
            take_turns(&names, *rounds, sensors.as_ref(), |name| match (name, &recorded, &mut *peers) {
                (FLASHCORE, Some(calls), _) => calls.measure(protocol).map(Ok),
                (_, _, Some(peers)) => peers.measure(name, feature, dtype, *protocol),
                _ => Ok(Err("nobody is there to run it".to_owned())),
            })?;
        (row.figures.measured, row.figures.skipped) = taken;
        row.figures.skipped.extend(unsupported);
        Ok(row)
    }
}
