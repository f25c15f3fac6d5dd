//! What a run of the gates measured, as it is kept in metrics.json.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ct::{Proof, Timing};
use crate::errors::{Errors, Fp8Errors};
use crate::latency::Latency;
use crate::metrics::{Machine, Metrics};
use crate::output::{self, Origin};
use crate::{determinism, power, profile, sanitize};

/// The form of metrics.json; docs/gates.md describes it. A change that readers must know of gets the next number.
pub(crate) const SCHEMA: u32 = 1;
/// The file.
pub(crate) const FILE: &str = "metrics.json";

/// A run of the gates, perhaps one that did not come to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// Which program, and when.
    #[serde(flatten)]
    pub(crate) origin: Origin,
    /// None where there is no GPU.
    pub(crate) machine: Option<Machine>,
    /// What was to be done, in this order, and what became of it.
    pub(crate) stages: Vec<Progress>,
    /// What the code of the kernels tells of constant time.
    pub(crate) proof: Option<Proof>,
    /// The grid of shapes, beside the peers.
    pub(crate) bench: Option<Metrics>,
    /// Single calls.
    #[serde(default)]
    pub(crate) latency: Vec<Latency>,
    /// Errors by size.
    #[serde(default)]
    pub(crate) errors: Vec<Errors>,
    /// Those of attention over 8 bits.
    #[serde(default)]
    pub(crate) fp8: Vec<Fp8Errors>,
    /// Seconds of replays, with power and clock.
    pub(crate) power: Option<power::Findings>,
    /// The same bits again and again.
    pub(crate) determinism: Option<determinism::Findings>,
    /// Time, by classes of inputs.
    pub(crate) timing: Option<Timing>,
    /// One launch under Nsight Compute.
    pub(crate) profile: Option<profile::Findings>,
    /// compute-sanitizer.
    pub(crate) sanitize: Option<sanitize::Findings>,
    /// Bytes of every file that the run left beside this one, though nobody may have kept them all.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, u64>,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// The code of the kernels, which needs no GPU
    Proof,
    /// The grid of shapes
    Bench,
    /// Single calls
    Latency,
    /// Errors by size
    Errors,
    /// Seconds of replays
    Power,
    /// The same bits again and again
    Determinism,
    /// Constant time, measured
    Timing,
    /// Nsight Compute
    Profile,
    /// compute-sanitizer
    Sanitize,
    /// The files of the report
    Report,
}

impl Stage {
    /// All of them, in the order in which they are run: what is cheap and what others depend on first.
    pub(crate) const ALL: [Stage; 10] = [
        Stage::Proof,
        Stage::Bench,
        Stage::Latency,
        Stage::Errors,
        Stage::Power,
        Stage::Determinism,
        Stage::Timing,
        Stage::Profile,
        Stage::Sanitize,
        Stage::Report,
    ];

    /// Its name, as it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Proof => "proof",
            Stage::Bench => "bench",
            Stage::Latency => "latency",
            Stage::Errors => "errors",
            Stage::Power => "power",
            Stage::Determinism => "determinism",
            Stage::Timing => "timing",
            Stage::Profile => "profile",
            Stage::Sanitize => "sanitize",
            Stage::Report => "report",
        }
    }

    /// Whether it needs a GPU.
    pub(crate) fn needs_gpu(self) -> bool {
        !matches!(self, Stage::Proof | Stage::Report)
    }
}

/// A stage, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) stage: Stage,
    #[serde(flatten)]
    pub(crate) state: State,
    /// Wall-clock time.
    pub(crate) seconds: f64,
}

/// What became of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub(crate) enum State {
    /// Not begun.
    Planned,
    /// Begun, and not ended.
    Running,
    Done,
    /// Not for this machine, or not asked for.
    Skipped(String),
    /// It could not be done.
    Failed(String),
}

impl Run {
    /// A run that is to do all stages.
    pub(crate) fn planned(machine: Option<Machine>) -> Self {
        let planned = |stage| Progress { stage, state: State::Planned, seconds: 0.0 };
        Run {
            schema: SCHEMA,
            origin: Origin::now(),
            machine,
            stages: Stage::ALL.map(planned).into(),
            proof: None,
            bench: None,
            latency: Vec::new(),
            errors: Vec::new(),
            fp8: Vec::new(),
            power: None,
            determinism: None,
            timing: None,
            profile: None,
            sanitize: None,
            files: BTreeMap::new(),
        }
    }

    /// What became of a stage.
    pub(crate) fn state(&self, stage: Stage) -> &State {
        let found = self.stages.iter().find(|progress| progress.stage == stage);
        found.map_or(&State::Planned, |progress| &progress.state)
    }

    /// The same, to change it.
    pub(crate) fn progress(&mut self, stage: Stage) -> &mut Progress {
        let at = self.stages.iter().position(|progress| progress.stage == stage).unwrap_or_else(|| {
            self.stages.push(Progress { stage, state: State::Planned, seconds: 0.0 });
            self.stages.len() - 1
        });
        &mut self.stages[at]
    }

    /// Stages that were begun or planned, and did not end: a run that was interrupted has some.
    pub(crate) fn unfinished(&self) -> Vec<&'static str> {
        let unfinished = |state: &State| matches!(state, State::Planned | State::Running);
        let stages = self.stages.iter().filter(|progress| unfinished(&progress.state));
        stages.map(|progress| progress.stage.name()).collect()
    }

    /// Reads a run from its folder. A folder of `bench` will do as well, and one with several of them below and
    /// power.json beside: what they have not measured is skipped.
    ///
    /// # Errors
    /// There is none, or it is of a version of this program that writes another form.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let file = dir.join(FILE);
        if file.is_file() {
            let content: Value = output::read(&file)?;
            if let Some(schema) = content.get("schema") {
                ensure!(
                    *schema == SCHEMA,
                    "{} is of form {schema}; this program reads form {SCHEMA}",
                    file.display()
                );
                return serde_json::from_value(content).with_context(|| format!("{}", file.display()));
            }
        }
        Self::of_verbs(dir)
    }

    /// A run of what `bench` and `power` left.
    fn of_verbs(dir: &Path) -> Result<Self> {
        let mut benches: Vec<Metrics> = Vec::new();
        let mut folders = vec![dir.to_path_buf()];
        let below = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        folders.extend(below.filter_map(|entry| Some(entry.ok()?.path())));
        folders.sort();
        for file in folders.iter().map(|folder| folder.join(FILE)).filter(|file| file.is_file()) {
            benches.push(output::read(&file)?);
        }
        let power_file = dir.join("power.json");
        let power: Option<power::Findings> =
            power_file.is_file().then(|| output::read(&power_file)).transpose()?;
        let mut run = Run::planned(None);
        if let Some(first) = benches.first() {
            let (version, commit, date) = (first.version.clone(), first.commit.clone(), first.date.clone());
            run.origin = Origin { version, commit, date };
            run.machine = Some(first.machine.clone());
        } else if let Some(power) = &power {
            (run.origin, run.machine) = (power.origin.clone(), Some(power.machine.clone()));
        } else {
            bail!("{} has no {FILE} of gate or bench, and no power.json", dir.display());
        }
        for progress in &mut run.stages {
            progress.state = match progress.stage {
                Stage::Bench if !benches.is_empty() => State::Done,
                Stage::Power if power.is_some() => State::Done,
                _ => State::Skipped("not part of this run".to_owned()),
            };
        }
        run.bench = benches.into_iter().reduce(|mut all, more| {
            all.matmul_tflops.extend(more.matmul_tflops);
            all.peers.extend(more.peers);
            all.missing.extend(more.missing);
            all.cells.extend(more.cells);
            all
        });
        run.power = power;
        Ok(run)
    }

    /// Writes the run to its folder.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        output::write(self, &dir.join(FILE))
    }
}
