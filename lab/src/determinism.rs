//! The same bits again and again: alone, beside other work, in several streams, in any order, in a batch or not, and in
//! another process.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore::{Device, Plan, Stream};
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS};
use flashcore_tests::device::Outputs;
use flashcore_tests::kernel::{self, Elements, Inputs, OnDevice};
use flashcore_tests::values::HostTensor;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::children;
use crate::shape::{Bhsd, Dtypes, Shapes};

/// Inputs are the same in every run and every process.
const SEED: u64 = 20_261_122;
/// Streams at once.
const STREAMS: usize = 4;
/// Another process has so long.
const PROCESS_LIMIT: Duration = Duration::from_secs(180);

/// Options of `determinism`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab determinism\n  flashcore-lab determinism --repeat 100 --shape 2,24/8,900/1100,128 --causal"
)]
pub(crate) struct Options {
    #[command(flatten)]
    shapes: Shapes,
    /// Element type
    #[arg(long, value_enum, default_value_t = Dtypes::Both)]
    dtype: Dtypes,
    /// Runs of each shape under each condition
    #[arg(long, default_value_t = 1000, value_name = "N")]
    repeat: usize,
    /// Print what the bits of each shape come to, as JSON, and do nothing else: for comparisons between processes
    #[arg(long)]
    digests: bool,
}

/// What a run found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) rows: Vec<Row>,
}

/// A shape under a condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The shape and the element type.
    pub(crate) case: String,
    pub(crate) condition: Condition,
    pub(crate) runs: usize,
    /// Runs whose bits are not those of the first.
    pub(crate) differing: usize,
}

impl Row {
    /// Whether q, k and v have 8 bits.
    pub(crate) fn is_of_8_bits(&self) -> bool {
        ["_e4m3_", "_e5m2_"].iter().any(|format| self.case.contains(format))
    }
}

/// Where a run may differ from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    /// Nothing else runs.
    Alone,
    /// Another shape runs in a stream of its own.
    OtherWork,
    /// The same shape runs in several streams at once.
    Streams,
    /// All shapes follow each other, in a new order each time.
    Order,
    /// A sequence alone, by each kernel, instead of in its batch.
    Batch,
    /// Another process.
    Process,
}

impl Condition {
    fn words(self) -> &'static str {
        match self {
            Condition::Alone => "alone",
            Condition::OtherWork => "beside other work",
            Condition::Streams => "in several streams",
            Condition::Order => "in any order",
            Condition::Batch => "without its batch",
            Condition::Process => "in another process",
        }
    }
}

/// What is run.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) shapes: Vec<Bhsd>,
    /// Whether masks are causal.
    pub(crate) masks: &'static [bool],
    pub(crate) dtypes: Dtypes,
    pub(crate) repeat: usize,
}

impl Request {
    /// Every head_dim of a kernel, on lengths that are no multiple of a tile, under both masks.
    pub(crate) fn usual(repeat: usize) -> Self {
        let shape =
            |head_dim| Bhsd { batch: 2, heads_q: 24, heads_kv: 8, seqlen_q: 900, seqlen_kv: 1100, head_dim };
        Request {
            shapes: KERNEL_HEAD_DIMS.map(shape).into(),
            masks: &[false, true],
            dtypes: Dtypes::Both,
            repeat,
        }
    }

    /// Each shape under each mask, of 16 bits, and of 8 if that head_dim has such kernels.
    fn cases(&self) -> Vec<(Case, Elements)> {
        let cases =
            self.masks.iter().flat_map(|&causal| self.shapes.iter().map(move |shape| shape.case(causal)));
        let of_case = |case: Case| {
            let elements = self.dtypes.list().iter().flat_map(move |&dtype| Elements::of_case(&case, dtype));
            elements.map(move |elements| (case, elements))
        };
        cases.flat_map(of_case).collect()
    }

    /// The command that prints the digests of the same cases.
    fn command(&self, ordinal: usize) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
        command.args(["--device", &ordinal.to_string(), "determinism", "--digests", "--dtype"]);
        command.arg(match self.dtypes {
            Dtypes::F16 => "f16",
            Dtypes::Bf16 => "bf16",
            Dtypes::Both => "both",
        });
        for shape in &self.shapes {
            command.args(["--shape", &shape.to_string()]);
        }
        match self.masks {
            [true] => command.arg("--causal"),
            [false] => command.arg("--full"),
            _ => &mut command,
        };
        Ok(command)
    }
}

/// Runs each shape again and again; false if a bit ever differs.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let device = device?;
    let mut request =
        Request { masks: options.shapes.masks(), dtypes: options.dtype, ..Request::usual(options.repeat) };
    if !options.shapes.list().is_empty() {
        request.shapes = options.shapes.list().to_vec();
    }
    if options.digests {
        println!("{}", serde_json::to_string(&digests(&subjects(&device, &request)?))?);
        return Ok(true);
    }
    let log = std::env::temp_dir().join(format!("flashcore-lab-determinism-{}.log", std::process::id()));
    let findings = measure(&device, &request, &log)?;
    println!("{}", table(&findings));
    Ok(findings.rows.iter().all(|row| row.differing == 0))
}

/// A shape, what it computed first, and where it can be run again.
struct Subject {
    name: String,
    case: Case,
    elements: Elements,
    inputs: Inputs,
    tensors: OnDevice,
    first: Outputs,
}

/// A number that stands for every bit of an output, the same in every process of this program.
fn digest(outputs: &Outputs) -> u64 {
    let mut hasher = DefaultHasher::new();
    outputs.bits().hash(&mut hasher);
    hasher.finish()
}

fn digests(subjects: &[Subject]) -> BTreeMap<String, u64> {
    subjects.iter().map(|subject| (subject.name.clone(), digest(&subject.first))).collect()
}

/// Every case of `request`, run once.
fn subjects(device: &Device, request: &Request) -> Result<Vec<Subject>> {
    let stream = device.stream()?;
    let subject = |(case, elements): (Case, Elements)| -> Result<Subject> {
        let inputs = elements.inputs(&case, SEED);
        let tensors = inputs.upload(device)?;
        tensors.run(&stream)?;
        let first = tensors.outputs()?;
        Ok(Subject { name: kernel::name(&case, elements), case, elements, inputs, tensors, first })
    };
    request.cases().into_iter().map(subject).collect()
}

/// Runs every case under every condition; `log` is that of the other process.
pub(crate) fn measure(device: &Device, request: &Request, log: &Path) -> Result<Findings> {
    let subjects = subjects(device, request)?;
    let repeat = request.repeat;
    let mut findings = Findings::default();
    for subject in &subjects {
        let mut add = |condition, runs, differing| {
            let row = Row { case: subject.name.clone(), condition, runs, differing };
            findings.rows.push(row);
        };
        add(Condition::Alone, repeat, alone(device, subject, repeat)?);
        add(Condition::OtherWork, repeat, beside_other_work(device, subject, repeat)?);
        let rounds = repeat.div_ceil(STREAMS);
        add(Condition::Streams, rounds * STREAMS, in_streams(device, subject, rounds)?);
        let (runs, differing) = without_batch(device, subject)?;
        add(Condition::Batch, runs, differing);
    }
    let rounds = repeat.div_ceil(subjects.len().max(1));
    for (subject, differing) in subjects.iter().zip(in_any_order(device, &subjects, rounds)?) {
        let row = Row { case: subject.name.clone(), condition: Condition::Order, runs: rounds, differing };
        findings.rows.push(row);
    }
    if device.emulator().is_none() {
        let mut command = request.command(device.properties().ordinal)?;
        let ended = children::run(&mut command, log, PROCESS_LIMIT)?;
        ensure!(ended.is_success(), "another process failed ({}): {}", ended.how(), ended.last_lines());
        findings.rows.extend(across(&digests(&subjects), &ended.text)?);
    }
    Ok(findings)
}

fn alone(device: &Device, subject: &Subject, repeat: usize) -> Result<usize> {
    let stream = device.stream()?;
    count(repeat, || {
        subject.tensors.poison()?;
        subject.tensors.run(&stream)?;
        Ok(usize::from(subject.tensors.outputs()?.bits() != subject.first.bits()))
    })
}

fn beside_other_work(device: &Device, subject: &Subject, repeat: usize) -> Result<usize> {
    let Subject { case, elements, .. } = *subject;
    let other = Case { seqlen_q: case.seqlen_q + 100, seqlen_kv: case.seqlen_kv.div_ceil(2), ..case };
    let other = elements.inputs(&other, SEED + 1).upload(device)?;
    let (stream, other_stream) = (device.stream()?, device.stream()?);
    count(repeat, || {
        subject.tensors.poison()?;
        // Before and after, so that its CTAs are there when ours begin and when ours end.
        other.run(&other_stream)?;
        other.run(&other_stream)?;
        subject.tensors.run(&stream)?;
        other.run(&other_stream)?;
        Ok(usize::from(subject.tensors.outputs()?.bits() != subject.first.bits()))
    })
}

fn in_streams(device: &Device, subject: &Subject, rounds: usize) -> Result<usize> {
    let copy = |_| -> Result<(OnDevice, Stream)> { Ok((subject.inputs.upload(device)?, device.stream()?)) };
    let copies = (0..STREAMS).map(copy).collect::<Result<Vec<_>>>()?;
    count(rounds, || {
        copies.iter().try_for_each(|(tensors, _)| tensors.poison())?;
        copies.iter().try_for_each(|(tensors, stream)| tensors.run(stream))?;
        let mut differing = 0;
        for (tensors, _) in &copies {
            differing += usize::from(tensors.outputs()?.bits() != subject.first.bits());
        }
        Ok(differing)
    })
}

/// How many runs of each subject differ.
fn in_any_order(device: &Device, subjects: &[Subject], rounds: usize) -> Result<Vec<usize>> {
    let mut random = StdRng::seed_from_u64(SEED);
    let stream = device.stream()?;
    let mut order: Vec<&Subject> = subjects.iter().collect();
    let mut differing = vec![0; subjects.len()];
    for _ in 0..rounds {
        order.shuffle(&mut random);
        order.iter().try_for_each(|subject| subject.tensors.poison())?;
        order.iter().try_for_each(|subject| subject.tensors.run(&stream))?;
        for (differing, subject) in differing.iter_mut().zip(subjects) {
            *differing += usize::from(subject.tensors.outputs()?.bits() != subject.first.bits());
        }
    }
    Ok(differing)
}

/// Runs each sequence of a batch alone, by every kernel that can compute the batch; runs, and how many differ.
fn without_batch(device: &Device, subject: &Subject) -> Result<(usize, usize)> {
    let Subject { case, inputs, tensors, .. } = subject;
    let stream = device.stream()?;
    let together: Vec<(Plan, Outputs)> = tensors
        .plans()?
        .into_iter()
        .map(|plan| {
            tensors.poison()?;
            tensors.run_plan(&plan, &stream)?;
            Ok((plan, tensors.outputs()?))
        })
        .collect::<Result<_>>()?;
    let (mut runs, mut differing) = (0, 0);
    for sequence in 0..case.batch {
        let its_tensors = inputs.sequence(sequence).upload(device)?;
        for (plan, outputs) in &together {
            its_tensors.poison()?;
            its_tensors.run_plan(&its_tensors.plan_of(&plan.variant)?, &stream)?;
            let its_outputs = its_tensors.outputs()?;
            let Outputs { out: HostTensor { bits, .. }, lse } = outputs;
            let same = its_outputs.out.bits == part(bits, sequence, case.batch)
                && its_outputs.lse == part(lse, sequence, case.batch);
            runs += 1;
            differing += usize::from(!same);
        }
    }
    Ok((runs, differing))
}

/// What belongs to one of `sequences` sequences.
fn part<T>(all: &[T], sequence: usize, sequences: usize) -> &[T] {
    let size = all.len() / sequences;
    &all[sequence * size..][..size]
}

/// What another process printed, beside our own digests.
fn across(ours: &BTreeMap<String, u64>, printed: &str) -> Result<Vec<Row>> {
    let theirs: BTreeMap<String, u64> =
        printed.lines().find_map(|line| serde_json::from_str(line).ok()).context("it printed no digests")?;
    let row = |(case, digest): (&String, &u64)| Row {
        case: case.clone(),
        condition: Condition::Process,
        runs: 1,
        differing: usize::from(theirs.get(case) != Some(digest)),
    };
    Ok(ours.iter().map(row).collect())
}

/// The sum of what `rounds` calls count.
fn count(rounds: usize, mut round: impl FnMut() -> Result<usize>) -> Result<usize> {
    (0..rounds).map(|_| round()).sum()
}

/// A row for each condition: over all shapes.
pub(crate) fn table(findings: &Findings) -> Table {
    let mut sums: BTreeMap<Condition, (usize, usize, usize)> = BTreeMap::new();
    for row in &findings.rows {
        let (cases, runs, differing) = sums.entry(row.condition).or_default();
        *cases += 1;
        *runs += row.runs;
        *differing += row.differing;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "",
        "shapes",
        "runs",
        "differ from the first",
    ]);
    for (condition, (cases, runs, differing)) in sums {
        table.add_row([
            condition.words().to_owned(),
            cases.to_string(),
            runs.to_string(),
            differing.to_string(),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulator_is_deterministic_under_every_condition() {
        let shape = "2,2/1,40/70,64".parse().unwrap();
        let request = Request { shapes: vec![shape], masks: &[true], dtypes: Dtypes::F16, repeat: 1 };
        let findings = measure(&Device::emulated(), &request, Path::new("unused")).unwrap();
        let conditions: Vec<_> = findings.rows.iter().map(|row| row.condition).collect();
        let of_subject = [Condition::Alone, Condition::OtherWork, Condition::Streams, Condition::Batch];
        assert_eq!(conditions, [&of_subject[..], &of_subject, &of_subject, &[Condition::Order; 3]].concat());
        assert!(findings.rows.iter().all(|row| row.runs > 0 && row.differing == 0), "{findings:?}");
        assert_eq!(findings.rows.iter().filter(|row| row.is_of_8_bits()).count(), 10);
        assert!(table(&findings).to_string().contains("without its batch"));
    }

    #[test]
    fn other_bits_are_seen() {
        let request = Request {
            shapes: vec!["1,1,30,96".parse().unwrap()], // of 16 bits only
            masks: &[false],
            dtypes: Dtypes::F16,
            repeat: 1,
        };
        let device = Device::emulated();
        let mut subjects = subjects(&device, &request).unwrap();
        let right = digests(&subjects);
        subjects[0].first.out.bits[7] ^= 1;
        assert_eq!(alone(&device, &subjects[0], 1).unwrap(), 1);
        assert_eq!(in_streams(&device, &subjects[0], 1).unwrap(), STREAMS);
        assert_eq!(in_any_order(&device, &subjects, 2).unwrap(), [2]);
        // Another process that prints what is right differs from what we have now.
        let printed = format!("some words\n{}\n", serde_json::to_string(&right).unwrap());
        assert_eq!(across(&right, &printed).unwrap()[0].differing, 0);
        assert_eq!(across(&digests(&subjects), &printed).unwrap()[0].differing, 1);
        assert!(across(&right, "nothing").is_err());
    }

    #[test]
    fn another_process_is_asked_for_the_same_cases() {
        let request = Request { masks: &[true], ..Request::usual(1) };
        let command = request.command(2).unwrap();
        let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        let wanted =
            ["--device", "2", "determinism", "--digests", "--dtype", "both", "--shape", "2,24/8,900/1100,64"];
        assert_eq!(arguments[..wanted.len()], wanted);
        assert_eq!(arguments.last().unwrap(), "--causal");
    }
}
