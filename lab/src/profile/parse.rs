//! Reading what Nsight Compute prints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Line;

/// A launch in a report.
#[derive(Debug, PartialEq)]
pub(super) struct Launch {
    /// Name of the kernel.
    pub(super) kernel: String,
    /// Every counter that is a number, by its full name; times in ns.
    pub(super) values: BTreeMap<String, f64>,
}

/// How many of a unit are one of the unit that figures are kept in.
fn factor(unit: &str) -> f64 {
    match unit {
        "usecond" | "us" => 1e3,
        "msecond" | "ms" => 1e6,
        "second" | "s" => 1e9,
        "Khz" | "cycle/msecond" | "cycle/ms" => 1e3,
        "Mhz" | "MHz" | "cycle/usecond" | "cycle/us" => 1e6,
        "Ghz" | "GHz" | "cycle/nsecond" | "cycle/ns" => 1e9,
        _ => 1.0,
    }
}

/// The launches of `ncu --page raw --csv`: a line of names, a line of units, and a line for each launch. Lines of
/// ncu's own, which begin with `==`, may stand before.
pub(super) fn raw(text: &str) -> Result<Vec<Launch>> {
    let table = text.lines().filter(|line| line.starts_with('"')).collect::<Vec<_>>().join("\n");
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(table.as_bytes());
    let mut records = reader.records();
    let Some(names) = records.next().transpose().context("the names of counters")? else {
        return Ok(Vec::new());
    };
    let units = records.next().transpose().context("the units of counters")?.unwrap_or_default();
    let mut launches = Vec::new();
    for record in records {
        let record = record.context("a launch in a report")?;
        let mut launch = Launch { kernel: String::new(), values: BTreeMap::new() };
        for ((name, unit), value) in names.iter().zip(units.iter()).zip(record.iter()) {
            if name == "Kernel Name" {
                launch.kernel = value.to_owned();
            } else if let Ok(number) = value.replace(',', "").parse::<f64>() {
                launch.values.insert(name.to_owned(), factor(unit) * number);
            }
        }
        launches.push(launch);
    }
    Ok(launches)
}

/// Why warps waited, in percent of all samples.
pub(super) fn stalls(values: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    const PREFIX: &str = "smsp__average_warps_issue_stalled_";
    const SUFFIX: &str = "_per_issue_active.ratio";
    let stalls = || {
        values.iter().filter_map(|(name, value)| {
            let why = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
            // The same once more, without warps that could have issued.
            if why.ends_with("_not_issued") {
                return None;
            }
            Some((why.replace('_', " "), *value))
        })
    };
    let all: f64 = stalls().map(|(_, value)| value).sum();
    stalls().filter(|(_, value)| *value > 0.0).map(|(why, value)| (why, 100.0 * value / all)).collect()
}

/// The lines of the first kernel, as `ncu_lines.py` prints them; none if it printed something else.
pub(super) fn lines(text: &str) -> Vec<Line> {
    #[derive(Deserialize)]
    struct Kernel {
        lines: Vec<Line>,
    }
    let kernels = text.lines().find_map(|line| serde_json::from_str::<Vec<Kernel>>(line).ok());
    kernels.into_iter().flatten().map(|kernel| kernel.lines).next().unwrap_or_default()
}

/// Whether `word` begins a line of `text`, or a line has nothing before it but spaces.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().next() == Some(word))
}

/// Where Nsight Compute keeps its Python interface: with the program, in a folder of its own in a toolkit, or where it
/// is installed alone.
pub(super) fn python_interface(ncu: &Path) -> Option<PathBuf> {
    const ALONE: &str = "/opt/nvidia/nsight-compute";
    const IN_TOOLKIT: &str = "nsight-compute";
    let program = ncu.canonicalize().ok()?;
    let below = |folder: &Path, prefix: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .collect();
        folders.sort();
        folders.reverse(); // the newest first
        folders
    };
    let own = program.ancestors().skip(1).map(Path::to_path_buf);
    let toolkit = program.ancestors().skip(1).flat_map(|folder| below(folder, IN_TOOLKIT));
    let candidates = own.chain(toolkit).chain(below(Path::new(ALONE), ""));
    candidates.map(|folder| folder.join("extras/python")).find(|folder| folder.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form of Nsight Compute 2025.3.
    const RAW: &str = include_str!("../../testdata/ncu_raw.csv");

    #[test]
    fn counters_are_read_with_their_units() {
        let launches = raw(RAW).unwrap();
        assert_eq!(launches.len(), 1);
        let Launch { kernel, values } = &launches[0];
        assert_eq!(kernel, "fwd_hd128_f16");
        assert_eq!(values["gpu__time_duration.sum"], 1_760_128.0);
        assert_eq!(values["sm__cycles_elapsed.avg.per_second"], 1.61e9);
        assert_eq!(values["sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active"], 75.25);
        assert_eq!(values["lts__t_sectors_srcunit_tex_op_read.sum"], 12_345_678.0);
        let stalls = stalls(values);
        assert_eq!(stalls.len(), 2, "{stalls:?}");
        assert!((stalls["gmma"] - 75.0).abs() < 1e-9);
    }

    #[test]
    fn a_report_without_kernels_has_none() {
        assert_eq!(raw("==WARNING== No kernels were profiled.\n").unwrap(), []);
        assert_eq!(raw("").unwrap(), []);
    }

    #[test]
    fn lines_are_those_of_the_first_kernel() {
        let text = "a warning\n[{\"kernel\": \"k\", \"lines\": [{\"file\": \"a.rs\", \"line\": 3, \"samples\": 9}]}]\n";
        assert_eq!(lines(text), [Line { file: "a.rs".to_owned(), line: 3, samples: 9 }]);
        assert_eq!(lines("ModuleNotFoundError: No module named 'ncu_report'\n"), []);
    }

    #[test]
    fn the_python_interface_is_found_in_a_toolkit() {
        let toolkit = crate::gate::testing::folder("toolkit");
        let interface = toolkit.join("nsight-compute-2025.3.1/extras/python");
        fs::create_dir_all(toolkit.join("bin")).unwrap();
        fs::create_dir_all(&interface).unwrap();
        let ncu = toolkit.join("bin/ncu");
        assert_eq!(python_interface(&ncu), None, "there is no such program");
        fs::write(&ncu, "").unwrap();
        assert_eq!(python_interface(&ncu), Some(interface.canonicalize().unwrap()));
        fs::remove_dir_all(toolkit).unwrap();
    }

    #[test]
    fn counters_are_known_by_their_whole_names() {
        let known = "Device NVIDIA H200 (GH100)\n-----\nMetric Name       Metric Type\ndram__throughput    Throughput   %\n";
        assert!(has_word(known, "dram__throughput"));
        assert!(!has_word(known, "dram__through"));
    }
}
