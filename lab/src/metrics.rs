//! What a benchmark run measured: everything that its report says, and the rounds behind it.

use std::collections::BTreeMap;
use std::fmt;

use flashcore::Device;
use flashcore_tests::cases::Case;
use flashcore_tests::compare::Verdict;
use flashcore_tests::device::Failure;
use flashcore_tests::grid;
use serde::{Deserialize, Serialize};

use crate::sensors::{Readings, Sensors};
use crate::shape::{self, Bhsd};
use crate::timing::Protocol;

/// A run of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Metrics {
    /// Version of flashcore.
    pub(crate) version: String,
    /// Commit it was built from.
    pub(crate) commit: Option<String>,
    /// When, RFC 3339.
    pub(crate) date: String,
    /// The machine.
    pub(crate) machine: Machine,
    /// Versions of the implementations beside flashcore.
    pub(crate) peers: BTreeMap<String, String>,
    /// Why an implementation, or all of them, are absent.
    pub(crate) missing: BTreeMap<String, String>,
    /// How it was measured.
    pub(crate) protocol: Protocol,
    /// Times that flashcore and its peers took turns.
    pub(crate) rounds: usize,
    /// TFLOPS of a matrix product through cuBLAS under the same protocol: the practical ceiling.
    pub(crate) matmul_tflops: BTreeMap<String, f64>,
    /// The shapes.
    pub(crate) cells: Vec<Cell>,
}

/// The machine that a run was on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Name of the GPU.
    pub(crate) gpu: String,
    /// Its SMs.
    pub(crate) sm_count: u32,
    /// Version of the kernel driver.
    pub(crate) driver: Option<String>,
    /// CUDA version of the driver.
    pub(crate) cuda: String,
    /// ptxas that made the machine code.
    pub(crate) ptxas: Option<String>,
}

impl Machine {
    /// The machine of `device`.
    pub(crate) fn of(device: &Device, sensors: Option<&Sensors>) -> Self {
        let properties = device.properties();
        let cuda = properties.driver_version;
        Machine {
            gpu: properties.name.clone(),
            sm_count: properties.sm_count,
            driver: sensors.and_then(Sensors::driver),
            cuda: format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
            ptxas: flashcore::kernels::PTXAS_VERSION.map(str::to_owned),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Machine { gpu, sm_count, cuda, .. } = self;
        let driver = self.driver.as_deref().unwrap_or("unknown");
        let ptxas = self.ptxas.as_deref().unwrap_or("none: PTX compiled by the driver");
        write!(f, "{gpu}, {sm_count} SMs, driver {driver} (CUDA {cuda}), ptxas {ptxas}")
    }
}

/// A shape in an element type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) batch: usize,
    pub(crate) heads_q: usize,
    pub(crate) heads_kv: usize,
    /// Queries.
    pub(crate) seqlen: usize,
    /// Keys, where there are not as many as queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seqlen_kv: Option<usize>,
    pub(crate) head_dim: usize,
    pub(crate) causal: bool,
    pub(crate) dtype: String,
    /// What the comparison with the oracle said.
    pub(crate) check: Check,
    /// Nothing was measured if the result was wrong.
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// What implementations came to on one problem.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Floating-point operations of a call.
    pub(crate) flops: f64,
    /// The measurements, flashcore first.
    pub(crate) measured: Vec<Measured>,
    /// Why an implementation did not run this problem.
    pub(crate) skipped: BTreeMap<String, String>,
}

/// Comparison with the oracle, on sampled rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Check {
    /// The largest error, what it could have been, and the largest error of an LSE.
    Right { error: f64, bound: f64, lse_error: f64 },
    /// What is wrong.
    Wrong(String),
}

impl Check {
    /// Whether nothing is wrong.
    pub(crate) fn is_right(&self) -> bool {
        matches!(self, Check::Right { .. })
    }
}

impl From<Result<Verdict, Failure>> for Check {
    fn from(judged: Result<Verdict, Failure>) -> Self {
        match judged {
            Ok(Verdict { error, bound, lse_error }) => Check::Right { error, bound, lse_error },
            Err(failure) => Check::Wrong(failure.to_string()),
        }
    }
}

/// One implementation on one shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Name of the implementation.
    pub(crate) name: String,
    /// Microseconds of a call, one figure a round.
    pub(crate) us: Vec<f64>,
    /// Mean of the sensors over all rounds.
    pub(crate) readings: Option<Readings>,
}

/// flashcore, as it is named beside its peers.
pub(crate) const FLASHCORE: &str = "flashcore";

impl Measured {
    /// Microseconds of a call: the median of the rounds.
    pub(crate) fn median_us(&self) -> f64 {
        median(&mut self.us.clone())
    }
}

impl Cell {
    /// A cell that is not measured yet.
    pub(crate) fn new(case: &Case, dtype: flashcore::Dtype, check: Check) -> Self {
        Cell {
            batch: case.batch,
            heads_q: case.heads_q,
            heads_kv: case.heads_kv,
            seqlen: case.seqlen_q,
            seqlen_kv: (case.seqlen_kv != case.seqlen_q).then_some(case.seqlen_kv),
            head_dim: case.head_dim,
            causal: case.causal,
            dtype: dtype.name().into(),
            check,
            figures: Figures::new(grid::flops(case)),
        }
    }

    /// `full` or `causal`.
    pub(crate) fn mask(&self) -> &'static str {
        shape::mask(self.causal)
    }

    /// The shape, as it is given on the command line.
    pub(crate) fn shape(&self) -> String {
        let &Cell { batch, heads_q, heads_kv, seqlen: seqlen_q, head_dim, .. } = self;
        let seqlen_kv = self.seqlen_kv.unwrap_or(seqlen_q);
        Bhsd { batch, heads_q, heads_kv, seqlen_q, seqlen_kv, head_dim }.to_string()
    }
}

impl Figures {
    /// Figures of problems of `flops` operations, nothing being measured yet.
    pub(crate) fn new(flops: f64) -> Self {
        Figures { flops, measured: Vec::new(), skipped: BTreeMap::new() }
    }

    /// The measurement of `name`.
    pub(crate) fn of(&self, name: &str) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.name == name)
    }

    /// TFLOPS of `name`.
    pub(crate) fn tflops(&self, name: &str) -> Option<f64> {
        self.of(name).map(|measured| self.flops / measured.median_us() / 1e6)
    }

    /// Energy of an operation of `name`, pJ, if the GPU counts energy and the measurements were long enough.
    pub(crate) fn pj_per_flop(&self, name: &str) -> Option<f64> {
        let measured = self.of(name)?;
        Some(pj_per_flop(measured.readings?.counter_watts?, measured.median_us(), self.flops))
    }

    /// How many times as fast as `peer` flashcore is: the median of the rounds' ratios.
    pub(crate) fn ratio(&self, peer: &str) -> Option<f64> {
        let (ours, theirs) = (self.of(FLASHCORE)?, self.of(peer)?);
        Some(median(
            &mut ours.us.iter().zip(&theirs.us).map(|(ours, theirs)| theirs / ours).collect::<Vec<_>>(),
        ))
    }

    /// The peer that flashcore does worst against, and how many times as fast flashcore is.
    pub(crate) fn best_peer(&self) -> Option<(&str, f64)> {
        let peers =
            self.measured.iter().map(|measured| measured.name.as_str()).filter(|&name| name != FLASHCORE);
        peers.filter_map(|peer| Some((peer, self.ratio(peer)?))).min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

impl Metrics {
    /// Every implementation that was measured anywhere, flashcore first.
    pub(crate) fn implementations(&self) -> Vec<&str> {
        let mut names = vec![FLASHCORE];
        for measured in self.cells.iter().flat_map(|cell| &cell.figures.measured) {
            if !names.contains(&measured.name.as_str()) {
                names.push(&measured.name);
            }
        }
        names
    }
}

/// Energy of an operation, pJ: calls of `flops` operations and `us` microseconds, one after another, at `watts`.
pub(crate) fn pj_per_flop(watts: f64, us: f64, flops: f64) -> f64 {
    watts * us / flops * 1e6
}

/// The middle of `values`, which it sorts; the upper one of two.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    assert!(!values.is_empty(), "the median of nothing");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The geometric mean, if there are values.
pub(crate) fn geomean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        sum += value.ln();
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(measured: &[(&str, &[f64])]) -> Figures {
        let flops = grid::flops(&grid::cell(2, 8, 512, 64, false));
        let measured = measured
            .iter()
            .map(|&(name, us)| Measured { name: name.into(), us: us.into(), readings: None })
            .collect();
        Figures { measured, ..Figures::new(flops) }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds() {
        // Ratios 1.0, 2.0 and 0.5: a slow round of both does not count against either.
        let figures = figures(&[(FLASHCORE, &[10.0, 40.0, 20.0]), ("peer", &[10.0, 80.0, 10.0])]);
        assert_eq!(figures.ratio("peer"), Some(1.0));
    }

    #[test]
    fn the_best_peer_is_the_one_we_do_worst_against() {
        let figures = figures(&[(FLASHCORE, &[10.0]), ("slow", &[20.0]), ("fast", &[9.0])]);
        assert_eq!(figures.best_peer(), Some(("fast", 0.9)));
        assert_eq!(super::tests::figures(&[(FLASHCORE, &[10.0])]).best_peer(), None);
    }

    #[test]
    fn tflops_count_two_products() {
        let figures = figures(&[(FLASHCORE, &[10.0])]);
        assert_eq!(figures.flops, 4.0 * 2.0 * 8.0 * 512.0 * 512.0 * 64.0);
        assert!((figures.tflops(FLASHCORE).unwrap() - figures.flops / 1e7).abs() < 1e-9);
    }

    #[test]
    fn energy_is_power_by_time() {
        // 700 W at 700 TFLOPS.
        assert!((pj_per_flop(700.0, 1000.0, 700e9) - 1.0).abs() < 1e-12);
        let mut figures = figures(&[(FLASHCORE, &[1000.0])]);
        assert_eq!(figures.pj_per_flop(FLASHCORE), None);
        let readings =
            Readings { clock_mhz: 1.0, watts: 1.0, counter_watts: Some(figures.flops / 1e9), celsius: 1.0 };
        figures.measured[0].readings = Some(readings);
        assert!((figures.pj_per_flop(FLASHCORE).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn means() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(geomean([]), None);
        assert!((geomean([2.0, 8.0]).unwrap() - 4.0).abs() < 1e-12);
    }
}
