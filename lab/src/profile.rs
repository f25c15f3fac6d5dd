//! One launch under Nsight Compute: of ours, and of the peers on the same shape.

mod parse;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore::{Device, Dtype};
use flashcore_tests::cases::Case;
use serde::{Deserialize, Serialize};

use crate::PeerOptions;
use crate::children::{self, Ended};
use crate::feature::Feature;
use crate::metrics::FLASHCORE;
use crate::output;
use crate::peers;
use crate::shape::{Bhsd, Dtypes, mask};
use crate::timing::Protocol;

/// Reads source lines out of a report; it travels in the executable.
const LINES_SCRIPT: &str = include_str!("../ncu_lines.py");
const SECTIONS: [&str; 5] =
    ["ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "Occupancy", "SourceCounters", "WarpStateStats"];
/// Launches of ours before the one that is profiled, and of a peer's.
const LAUNCHES_BEFORE: u32 = 2;
/// Names of the peers' kernels.
const PEER_KERNELS: &str = "regex:flash|fmha|sdpa|attention";

/// A counter: what it is, its name, how it is summed up, and the factor to the unit of the first.
struct Metric {
    what: &'static str,
    base: &'static str,
    rollup: &'static str,
}

const fn metric(what: &'static str, base: &'static str, rollup: &'static str) -> Metric {
    Metric { what, base, rollup }
}

/// The share of time in which the tensor cores are busy: what the roofline of a product is about.
pub(crate) const TENSOR: &str = "tensor cores busy, %";
/// The share of the peak of device memory.
pub(crate) const DRAM: &str = "device memory, % of peak";
/// Duration of the launch.
pub(crate) const DURATION: &str = "duration, ns";

const METRICS: [Metric; 9] = [
    metric(DURATION, "gpu__time_duration", "sum"),
    metric("SM clock, Hz", "sm__cycles_elapsed", "avg.per_second"),
    metric(TENSOR, "sm__pipe_tensor_op_hmma_cycles_active", "avg.pct_of_peak_sustained_active"),
    metric("gmma instructions", "sm__inst_executed_pipe_tensor_op_gmma", "sum"),
    metric(DRAM, "dram__throughput", "avg.pct_of_peak_sustained_elapsed"),
    metric("warps active, %", "sm__warps_active", "avg.pct_of_peak_sustained_active"),
    metric("L2 sectors read", "lts__t_sectors_srcunit_tex_op_read", "sum"),
    metric("gmma bank conflicts", "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_gmma", "sum"),
    metric("issue slots busy, %", "sm__inst_issued", "avg.pct_of_peak_sustained_active"),
];

/// Options of `profile`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab profile --shape 2,16,8192,128 --causal\n  flashcore-lab profile --shape 2,16,8192,128 --vs cudnn --vs flash3"
)]
pub(crate) struct Options {
    /// A shape B,H,S,D (sequences, heads, length, head_dim)
    #[arg(long, value_name = "B,H,S,D", default_value = "2,16,8192,128")]
    shape: Bhsd,
    /// A causal mask
    #[arg(long)]
    causal: bool,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtypes,
    /// Profile this peer as well, such as cudnn or flash3; may be repeated
    #[arg(long, value_name = "NAME")]
    vs: Vec<String>,
    /// Python that has PyTorch, and FlashAttention-3 if it should be profiled
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Folder with Rust sources, if they are not where they were compiled
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
    /// Longest time of one profile, in seconds
    #[arg(long, default_value_t = 600, value_name = "N")]
    limit: u64,
    /// Folder for profile.json, the reports of ncu, and the logs
    #[arg(long, default_value = "target/flashcore/profile", value_name = "DIR")]
    out: PathBuf,
}

/// What was profiled.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Findings {
    /// The shape, the mask and the element type.
    pub(crate) problem: String,
    /// Floating-point operations of the launch.
    pub(crate) flops: f64,
    /// Ours first.
    pub(crate) profiles: Vec<Profile>,
    /// Why an implementation is absent.
    pub(crate) missing: BTreeMap<String, String>,
    /// Counters that this ncu does not know.
    pub(crate) unknown_metrics: Vec<String>,
}

/// One launch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// Name of the implementation.
    pub(crate) implementation: String,
    /// Name of the kernel.
    pub(crate) kernel: String,
    /// File of the report, for the user interface of ncu.
    pub(crate) report: String,
    /// Counters, by what they are.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Why warps waited, in percent of all samples: by ncu's names.
    pub(crate) stalls: BTreeMap<String, f64>,
    /// Where samples fell, the most first.
    pub(crate) lines: Vec<Line>,
}

/// A source line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) samples: u64,
}

impl Findings {
    /// The profile of `name`.
    pub(crate) fn of(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.implementation == name)
    }
}

impl Profile {
    /// What holds the kernel up, in a sentence.
    pub(crate) fn bottleneck(&self) -> String {
        const BUSY: f64 = 60.0;
        let value = |what: &str| self.metrics.get(what).copied().unwrap_or(f64::NAN);
        let (tensor, dram) = (value(TENSOR), value(DRAM));
        let why = self.stalls.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let waits =
            why.map_or(String::new(), |(why, share)| format!("; warps wait most for {why} ({share:.0} %)"));
        let name = &self.implementation;
        if tensor >= BUSY && tensor >= dram {
            format!("{name} is bound by the tensor cores, which are busy {tensor:.0} % of the time{waits}.")
        } else if dram >= BUSY {
            format!("{name} is bound by device memory, at {dram:.0} % of its peak{waits}.")
        } else {
            format!(
                "{name} is bound by latency: neither the tensor cores ({tensor:.0} %) nor device memory ({dram:.0} %) \
                 are busy{waits}."
            )
        }
    }
}

/// What is profiled.
pub(crate) struct Request<'a> {
    pub(crate) case: Case,
    pub(crate) dtype: Dtype,
    /// Peers.
    pub(crate) vs: &'a [String],
    pub(crate) peers: PeerOptions,
    /// Rust sources, if they are not where they were compiled.
    pub(crate) sources: Option<PathBuf>,
    /// Longest time of one profile.
    pub(crate) limit: Duration,
}

/// Profiles ours and the peers.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let ordinal = device?.properties().ordinal;
    let &[dtype] = options.dtype.list() else { anyhow::bail!("one element type at a time: f16 or bf16") };
    let python = options.python.clone();
    let request = Request {
        case: options.shape.case(options.causal),
        dtype,
        vs: &options.vs,
        peers: PeerOptions { no_peers: false, without: Vec::new(), python, peers: None },
        sources: options.sources.clone().or_else(sources_beside_program),
        limit: Duration::from_secs(options.limit),
    };
    let file = options.out.join("profile.json");
    let ncu = find()?;
    let keep = |findings: &Findings| output::write(findings, &file);
    let findings = measure(&ncu, ordinal, &request, &options.out, keep)?;
    println!("{}\n{}", table(&findings), words(&findings));
    println!("reports and figures: {}", options.out.display());
    Ok(findings.missing.is_empty())
}

/// Where a bundle has the sources.
pub(crate) fn sources_beside_program() -> Option<PathBuf> {
    let folder = std::env::current_exe().ok()?.parent()?.join("source");
    folder.is_dir().then_some(folder)
}

/// Nsight Compute's program.
///
/// # Errors
/// This machine has none.
pub(crate) fn find() -> Result<PathBuf> {
    children::find("ncu").context(
        "ncu (Nsight Compute) was not found in PATH, /usr/local/cuda*/bin or /opt/nvidia/nsight-compute",
    )
}

/// Profiles one launch of each implementation, into `out`; `keep` is called after each.
pub(crate) fn measure(
    ncu: &Path,
    ordinal: usize,
    request: &Request,
    out: &Path,
    mut keep: impl FnMut(&Findings) -> Result<()>,
) -> Result<Findings> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let known = children::run(
        Command::new(ncu).arg("--query-metrics"),
        &out.join("query-metrics.log"),
        request.limit,
    )?;
    ensure!(known.is_success(), "ncu cannot name its counters ({}): {}", known.how(), known.last_lines());
    let is_known = |metric: &&Metric| parse::has_word(&known.text, metric.base);
    let (asked, unknown): (Vec<&Metric>, Vec<&Metric>) = METRICS.iter().partition(is_known);
    let feature = Feature::from(&request.case);
    let mut findings = Findings {
        problem: format!(
            "{}, {}, {}",
            Bhsd::from(&request.case),
            mask(request.case.causal),
            request.dtype.name()
        ),
        flops: flashcore_tests::grid::flops(&request.case),
        unknown_metrics: unknown.iter().map(|metric| metric.base.to_owned()).collect(),
        ..Findings::default()
    };
    let names = std::iter::once(FLASHCORE).chain(request.vs.iter().map(String::as_str));
    for name in names {
        eprintln!("ncu: {name}, {}", findings.problem);
        let report = out.join(format!("{name}.ncu-rep"));
        let mut command = Command::new(ncu);
        command.args(arguments(&asked, &report, request.sources.as_deref()));
        match name {
            FLASHCORE => ours(&mut command, ordinal, request)?,
            _ => theirs(&mut command, ordinal, request, name, &feature, out)?,
        }
        let ended = children::run(&mut command, &out.join(format!("{name}.log")), request.limit)?;
        match profile(ncu, name, &ended, &report, request)? {
            Ok(profile) => findings.profiles.push(profile),
            Err(reason) => {
                findings.missing.insert(name.to_owned(), reason);
            }
        }
        keep(&findings)?;
    }
    Ok(findings)
}

/// How ncu is asked, whatever it profiles. The clocks are left as they are: they are shared with others, and a locked
/// clock is not what users get.
fn arguments(metrics: &[&Metric], report: &Path, sources: Option<&Path>) -> Vec<String> {
    let mut words: Vec<String> =
        ["--clock-control", "none", "--target-processes", "all", "--force-overwrite", "--launch-count", "1"]
            .map(str::to_owned)
            .into();
    // With all that templates say: the name of a function alone may be that of any kernel.
    words.extend(["--kernel-name-base", "demangled"].map(str::to_owned));
    words.extend(["--launch-skip".to_owned(), LAUNCHES_BEFORE.to_string()]);
    words.extend(["--import-source".to_owned(), "yes".to_owned()]);
    for section in SECTIONS {
        words.extend(["--section".to_owned(), section.to_owned()]);
    }
    let names: Vec<String> =
        metrics.iter().map(|metric| format!("{}.{}", metric.base, metric.rollup)).collect();
    words.extend(["--metrics".to_owned(), names.join(",")]);
    if let Some(sources) = sources {
        words.extend(["--source-folders".to_owned(), sources.display().to_string()]);
    }
    words.extend(["--export".to_owned(), report.display().to_string()]);
    words
}

/// Our launches.
fn ours(command: &mut Command, ordinal: usize, request: &Request) -> Result<()> {
    let program = std::env::current_exe().context("this program has no path")?;
    let shape = Bhsd::from(&request.case).to_string();
    command.args(["--kernel-name", "regex:^fwd_"]).arg(program);
    command.args(["--device", &ordinal.to_string(), "one", "--shape", &shape]);
    command.args(["--dtype", request.dtype.name(), if request.case.causal { "--causal" } else { "--full" }]);
    command.args(["--repeat", &(LAUNCHES_BEFORE + 1).to_string()]);
    Ok(())
}

/// Those of a peer: the script that serves them is asked once, and ends.
fn theirs(
    command: &mut Command,
    ordinal: usize,
    request: &Request,
    name: &str,
    feature: &Feature,
    out: &Path,
) -> Result<()> {
    let briefly = Protocol { launches: 1, settle_ms: 0.0, min_replays: 1, min_ms: 0.0 };
    let question = out.join(format!("{name}.request.json"));
    output::write_text(&(peers::question(name, feature, request.dtype, briefly)? + "\n"), &question)?;
    let file = fs::File::open(&question).with_context(|| format!("cannot read {}", question.display()))?;
    command.args(["--kernel-name", PEER_KERNELS]).arg(&request.peers.python);
    command.args(["-c", &peers::script(&request.peers)?]).stdin(file);
    command.env("CUDA_VISIBLE_DEVICES", ordinal.to_string());
    Ok(())
}

/// What a report says; the inner error is why there is none.
fn profile(
    ncu: &Path,
    name: &str,
    ended: &Ended,
    report: &Path,
    request: &Request,
) -> Result<Result<Profile, String>> {
    if !ended.is_success() || !report.is_file() {
        return Ok(Err(format!("{}: {}", ended.how(), ended.last_lines())));
    }
    let side_file = |extension: &str| report.with_extension(extension);
    let mut import = Command::new(ncu);
    import.arg("--import").arg(report).args(["--page", "raw", "--csv"]);
    let raw = children::run(&mut import, &side_file("csv"), request.limit)?;
    let Some(launch) = parse::raw(&raw.text)?.into_iter().next() else {
        return Ok(Err("the report has no kernel".to_owned()));
    };
    let value = |metric: &Metric| {
        let name = format!("{}.{}", metric.base, metric.rollup);
        Some((metric.what.to_owned(), *launch.values.get(&name)?))
    };
    // Without ncu's Python interface there are no lines, but everything else.
    let folder = parse::python_interface(ncu).unwrap_or_default();
    let mut script = Command::new(&request.peers.python);
    script.args(["-c", LINES_SCRIPT]).arg(report).arg(folder);
    let lines = children::run(&mut script, &side_file("lines.json"), request.limit)?;
    Ok(Ok(Profile {
        implementation: name.to_owned(),
        kernel: launch.kernel,
        report: report.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        metrics: METRICS.iter().filter_map(value).collect(),
        stalls: parse::stalls(&launch.values),
        lines: parse::lines(&lines.text),
    }))
}

/// A row for each counter, a column for each implementation.
pub(crate) fn table(findings: &Findings) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let names = findings.profiles.iter().map(|profile| profile.implementation.clone());
    table.set_header(std::iter::once(findings.problem.clone()).chain(names));
    let number = |value: Option<&f64>| value.map_or_else(|| "-".to_owned(), |value| short(*value));
    for metric in &METRICS {
        let values = findings.profiles.iter().map(|profile| number(profile.metrics.get(metric.what)));
        table.add_row(std::iter::once(metric.what.to_owned()).chain(values));
    }
    let mut stalls: Vec<&String> =
        findings.profiles.iter().flat_map(|profile| profile.stalls.keys()).collect();
    stalls.sort();
    stalls.dedup();
    for stall in stalls {
        let values = findings.profiles.iter().map(|profile| number(profile.stalls.get(stall)));
        table.add_row(std::iter::once(format!("waits for {stall}, %")).chain(values));
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// A number with as many digits as one can read.
fn short(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Bottlenecks, the hottest lines, and who is absent.
pub(crate) fn words(findings: &Findings) -> String {
    let mut text = String::new();
    for profile in &findings.profiles {
        _ = writeln!(text, "{}", profile.bottleneck());
    }
    for profile in findings.profiles.iter().filter(|profile| !profile.lines.is_empty()) {
        let all: u64 = profile.lines.iter().map(|line| line.samples).sum();
        _ = writeln!(text, "Hottest lines of {}:", profile.implementation);
        for Line { file, line, samples } in &profile.lines {
            _ = writeln!(text, "  {:5.1} %  {file}:{line}", 100.0 * *samples as f64 / all as f64);
        }
    }
    if findings.of(FLASHCORE).is_some_and(|ours| ours.lines.is_empty()) {
        _ = writeln!(
            text,
            "No source lines: they take kernels with line tables (cargo xtask bundle --line-tables) and the Python interface of ncu."
        );
    }
    for (name, reason) in &findings.missing {
        _ = writeln!(text, "{name} was not profiled: {reason}");
    }
    if !findings.unknown_metrics.is_empty() {
        _ = writeln!(text, "This ncu does not know {}.", findings.unknown_metrics.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(tensor: f64, dram: f64) -> Profile {
        Profile {
            implementation: FLASHCORE.to_owned(),
            kernel: "fwd_hd128_f16".to_owned(),
            report: "flashcore.ncu-rep".to_owned(),
            metrics: [(TENSOR, tensor), (DRAM, dram)].map(|(what, value)| (what.to_owned(), value)).into(),
            stalls: [("barrier", 10.0), ("gmma", 55.0)].map(|(why, share)| (why.to_owned(), share)).into(),
            lines: vec![Line { file: "softmax.rs".to_owned(), line: 12, samples: 3 }],
        }
    }

    #[test]
    fn bottlenecks_are_named() {
        let sentence = profile(71.0, 8.0).bottleneck();
        assert!(sentence.contains("bound by the tensor cores, which are busy 71 %"), "{sentence}");
        assert!(sentence.contains("wait most for gmma (55 %)"), "{sentence}");
        assert!(profile(20.0, 90.0).bottleneck().contains("bound by device memory"));
        assert!(profile(20.0, 9.0).bottleneck().contains("bound by latency"));
        assert!(profile(f64::NAN, f64::NAN).bottleneck().contains("bound by latency"));
    }

    #[test]
    fn implementations_stand_side_by_side() {
        let peer = Profile { implementation: "cudnn".to_owned(), ..profile(76.0, 7.0) };
        let findings = Findings {
            problem: "2,16,8192,128, full, f16".to_owned(),
            profiles: vec![profile(71.0, 8.0), peer],
            missing: [("flash3".to_owned(), "not here".to_owned())].into(),
            ..Findings::default()
        };
        let table = table(&findings).to_string();
        assert!(
            table.contains("71.0") && table.contains("76.0") && table.contains("waits for gmma"),
            "{table}"
        );
        let words = words(&findings);
        assert!(words.contains("100.0 %  softmax.rs:12"), "{words}");
        assert!(words.contains("flash3 was not profiled: not here"), "{words}");
    }

    /// As much of ncu's Python interface as the script uses: a kernel with samples at three addresses, two of which are
    /// of one line.
    const INTERFACE: &str = r#"
class Ids:
    def as_uint64(self, i): return 16 * i
class Metric:
    def num_instances(self): return 4
    def as_uint64(self, i): return [5, 1, 7, 100][i]
    def correlation_ids(self): return Ids()
class Source:
    def __init__(self, line): self.number = line
    def file_name(self): return "softmax.rs"
    def line(self): return self.number
class Action:
    def name(self): return "fwd"
    def metric_by_name(self, name): return Metric() if name == "smsp__pcsamp_sample_count" else None
    def source_info(self, address): return {0: Source(10), 16: Source(20), 32: Source(10)}.get(address)
class Range:
    def num_actions(self): return 1
    def action_by_idx(self, i): return Action()
class Context:
    def num_ranges(self): return 1
    def range_by_idx(self, i): return Range()
def load_report(path):
    assert path == "some.ncu-rep"
    return Context()
"#;

    #[test]
    fn the_script_sums_samples_by_line() {
        let folder = crate::gate::testing::folder("ncu-report");
        fs::write(folder.join("ncu_report.py"), INTERFACE).unwrap();
        let mut script = Command::new("python3");
        script.args(["-c", LINES_SCRIPT, "some.ncu-rep"]).arg(&folder);
        let ended = children::run(&mut script, &folder.join("log"), Duration::from_secs(60)).unwrap();
        assert!(ended.is_success(), "{}", ended.text);
        assert_eq!(parse::lines(&ended.text), lines());
        fs::remove_dir_all(folder).unwrap();
    }

    /// What there is in [`INTERFACE`].
    fn lines() -> [Line; 2] {
        [(10, 12), (20, 1)].map(|(line, samples)| Line { file: "softmax.rs".to_owned(), line, samples })
    }

    /// Answers as ncu does: it knows two counters, writes reports, but none of flash3, and reads them.
    const STAND_IN: &str = r#"#!/bin/sh
case "$*" in
  --query-metrics) echo "gpu__time_duration  Counter"; echo "sm__pipe_tensor_op_hmma_cycles_active  Counter" ;;
  --import*) cat "$(dirname "$0")/raw.csv" ;;
  *flash3.ncu-rep*) echo "==ERROR== nothing was profiled"; exit 1 ;;
  *) while [ "$1" != --export ]; do shift; done; echo report > "$2" ;;
esac
"#;

    #[test]
    fn ours_and_the_peers_are_profiled_one_after_the_other() {
        use std::os::unix::fs::PermissionsExt;
        let folder = crate::gate::testing::folder("profile");
        let ncu = folder.join("ncu");
        fs::write(&ncu, STAND_IN).unwrap();
        fs::set_permissions(&ncu, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("raw.csv"), include_str!("../testdata/ncu_raw.csv")).unwrap();
        let interface = folder.join("extras/python");
        fs::create_dir_all(&interface).unwrap();
        fs::write(interface.join("ncu_report.py"), INTERFACE.replace("assert path", "assert True or path"))
            .unwrap();
        let request = Request {
            case: flashcore_tests::grid::cell(2, 16, 8192, 128, true),
            dtype: Dtype::F16,
            vs: &["cudnn", "flash3"].map(str::to_owned),
            peers: PeerOptions {
                no_peers: false,
                without: Vec::new(),
                python: "python3".into(),
                peers: None,
            },
            sources: None,
            limit: Duration::from_secs(60),
        };
        let findings = measure(&ncu, 0, &request, &folder.join("out"), |_| Ok(())).unwrap();
        assert_eq!(findings.problem, "2,16,8192,128, causal, f16");
        assert_eq!(findings.unknown_metrics.len(), METRICS.len() - 2);
        let ours = findings.of(FLASHCORE).unwrap();
        assert_eq!((ours.metrics[TENSOR], ours.report.as_str()), (75.25, "flashcore.ncu-rep"));
        assert_eq!(ours.lines, lines());
        assert!(findings.of("cudnn").is_some());
        assert!(findings.missing["flash3"].contains("nothing was profiled"), "{:?}", findings.missing);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn ncu_is_asked_for_what_the_table_shows() {
        let metrics: Vec<&Metric> = METRICS.iter().collect();
        let words = arguments(&metrics, Path::new("out/a.ncu-rep"), Some(Path::new("source")));
        let after = |word: &str| &words[words.iter().position(|known| known == word).unwrap() + 1];
        assert_eq!(after("--clock-control"), "none");
        assert_eq!(after("--source-folders"), "source");
        assert!(
            after("--metrics")
                .contains("sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active")
        );
        assert_eq!(words.iter().filter(|word| *word == "--section").count(), SECTIONS.len());
    }
}
