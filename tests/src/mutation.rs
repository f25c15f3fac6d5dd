//! Mutants of the library's kernels on the emulator: does it see every mistake of synchronisation?

use flashcore::driver::{Code, Completion, EmulatorOptions};
use flashcore::kernels::{self, Tile, Variant};
use flashcore::{Device, Error};
use flashcore_emulator::ir::Module;
use flashcore_emulator::mutate::{Mutant, mutants};
use serde::{Deserialize, Serialize};

use crate::cases::Case;
use crate::device::Outputs;
use crate::kernel::{Elements, Inputs};
use crate::sections;

/// Schedules that a mutant runs under until it is noticed: seed and completion.
const SCHEDULES: [(u64, Completion); 8] = [
    (0, Completion::Lazy),
    (0, Completion::Eager),
    (1, Completion::Random),
    (2, Completion::Lazy),
    (11, Completion::Random),
    (12, Completion::Random),
    (13, Completion::Random),
    (14, Completion::Random),
];

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The emulator reported it: codes of the findings, in order.
    Reported(Vec<Code>),
    /// Nothing was reported, but the result was another one.
    WrongResult,
    /// Nothing was noticed.
    Survived,
}

/// A mutant and its fate.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The kernel.
    pub kernel: &'static str,
    /// The mutant, such as `wgmma.fence 2: left out`.
    pub mutant: String,
    /// Kind of the instruction.
    pub kind: &'static str,
    /// The mistake.
    pub change: &'static str,
    /// Line of the kernel's PTX.
    pub line: u32,
    /// What became of it.
    pub fate: Fate,
}

/// Why mutants may survive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// Kernels.
    pub kernels: Vec<String>,
    /// Mutants of each of them.
    pub mutants: Vec<String>,
    /// The reason.
    pub why: String,
    /// Whether they are no mistakes: by the rules of the ISA the kernel is right with them, too.
    #[serde(default)]
    pub harmless: bool,
}

/// The survivors that are known, with the reason of each.
///
/// # Panics
/// If the file is malformed.
pub fn explanations() -> Vec<Explanation> {
    serde_json::from_str(include_str!("../survivors.json")).expect("survivors.json is a list of explanations")
}

impl Explanation {
    /// Whether it is about this survivor.
    pub fn covers(&self, outcome: &Outcome) -> bool {
        self.kernels.iter().any(|kernel| kernel == outcome.kernel) && self.mutants.contains(&outcome.mutant)
    }
}

/// A kernel with cases that its mutants are to be noticed on.
#[derive(Debug)]
pub struct Subject {
    variant: &'static Variant,
    module: Module,
    trials: Vec<Trial>,
}

/// Inputs of a case, what the kernel makes of them, and how long that takes.
#[derive(Debug)]
struct Trial {
    inputs: Inputs,
    clusters: u32,
    expected: Outputs,
    instruction_limit: u64,
}

impl Subject {
    /// Runs the kernel as it is.
    ///
    /// # Errors
    /// What the library refuses, or what is wrong with the kernel itself.
    pub fn new(variant: &'static Variant) -> Result<Self, Error> {
        let module = Module::parse(kernels::image(variant.symbol)?.ptx)
            .map_err(|error| Error::KernelRefused { symbol: variant.symbol, reason: error.to_string() })?;
        let trials = cases(variant).into_iter().map(|(case, clusters)| {
            let device = device(variant, clusters, SCHEDULES[0], u64::MAX);
            let inputs = Elements::of(variant).inputs(&case, 1);
            let expected = run(variant, &inputs, &device)?;
            let reports = device.emulator().map(|emulator| emulator.take_reports()).unwrap_or_default();
            let instructions: u64 =
                reports.iter().map(|kernel| kernel.report.counters.warp_instructions).sum();
            Ok(Trial { inputs, clusters, expected, instruction_limit: 4 * instructions })
        });
        let mut trials = trials.collect::<Result<Vec<_>, Error>>()?;
        trials.sort_by_key(|trial| trial.instruction_limit); // the cheapest first: most mutants are noticed at once
        Ok(Subject { variant, module, trials })
    }

    /// All mutants.
    pub fn mutants(&self) -> Vec<Mutant> {
        self.module.kernel(self.variant.symbol).map(mutants).unwrap_or_default()
    }

    /// Runs a mutant under one schedule after another until it is noticed.
    ///
    /// # Errors
    /// What the library refuses.
    pub fn fate(&self, mutant: &Mutant) -> Result<Outcome, Error> {
        let module = mutant.apply(&self.module, self.variant.symbol);
        let mut fate = Fate::Survived;
        let attempts =
            SCHEDULES.iter().flat_map(|schedule| self.trials.iter().map(move |trial| (schedule, trial)));
        for (schedule, trial) in attempts {
            let device = device(self.variant, trial.clusters, *schedule, trial.instruction_limit);
            let emulator = device.emulator().expect("it is emulated");
            emulator.substitute(module.clone());
            let outputs = match run(self.variant, &trial.inputs, &device) {
                Ok(outputs) => Some(outputs),
                Err(Error::Hazards { .. }) => None,
                Err(error) => return Err(error),
            };
            let findings = emulator.take_reports().into_iter().flat_map(|kernel| kernel.report.findings);
            let mut codes: Vec<_> = findings.map(|finding| finding.code).collect();
            codes.dedup();
            if !codes.is_empty() {
                fate = Fate::Reported(codes);
                break;
            }
            if outputs.is_some_and(|outputs| outputs.bits() != trial.expected.bits()) {
                fate = Fate::WrongResult;
            }
        }
        Ok(Outcome {
            kernel: self.variant.symbol,
            mutant: mutant.name.clone(),
            kind: mutant.kind,
            change: mutant.change,
            line: mutant.at.line,
            fate,
        })
    }
}

fn device(
    variant: &Variant,
    clusters: u32,
    (seed, completion): (u64, Completion),
    instruction_limit: u64,
) -> Device {
    Device::emulated_with(&EmulatorOptions {
        sm_count: clusters * variant.cluster_ctas(),
        seed,
        completion,
        instruction_limit,
        ..EmulatorOptions::default()
    })
}

fn run(variant: &Variant, inputs: &Inputs, device: &Device) -> Result<Outputs, Error> {
    let tensors = inputs.upload(device)?;
    let plan = sections::plan(variant, &tensors)?;
    tensors.run_plan(&plan, &device.stream()?)?;
    tensors.outputs()
}

/// Cases, each with the number of clusters that share its tiles: work tiles of all kinds in turn, and several for each
/// CTA of more key tiles than there are stages, so that every barrier goes through several phases.
fn cases(variant: &Variant) -> Vec<(Case, u32)> {
    let Tile { block_m, block_n, stages, cluster, .. } = variant.tile;
    // Where CTAs have one work tile, its keys go twice through all slots.
    let key_tiles = if variant.splits_keys() { (2 * stages + 1) * variant.split_ctas() } else { 3 };
    let usual = Case {
        seqlen_q: (2 * cluster * block_m - 8) as usize,
        seqlen_kv: (key_tiles * block_n + 24) as usize,
        heads_q: 2,
        ..Case::of_kernel(variant)
    };
    let mut cases = sections::cases(variant);
    cases.push((usual, 1));
    cases
}
