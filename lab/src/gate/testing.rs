//! A run of which every figure is good, for tests that make one of them bad.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use flashcore::Dtype;
use flashcore_tests::grid;

use super::run::{Run, Stage, State};
use crate::ct::{Pair, Proof, Timed, Timing};
use crate::determinism::{self, Condition};
use crate::errors::{Errors, Fp8Errors};
use crate::latency::Latency;
use crate::metrics::{Cell, Check, FLASHCORE, Machine, Measured, Metrics};
use crate::output::Origin;
use crate::power::{self, Sustained};
use crate::profile::{self, Profile};
use crate::sanitize::{self, Summary, Tool, ToolRun};
use crate::sensors::{Readings, Sample};
use crate::timing::Protocol;

/// A folder that no other test has.
pub(crate) fn folder(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("flashcore-lab-{}-{count}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder of temporary files can be written");
    folder
}

fn machine() -> Machine {
    Machine {
        gpu: "NVIDIA H200".to_owned(),
        sm_count: 132,
        driver: Some("580.159.04".to_owned()),
        cuda: "13.0".to_owned(),
        ptxas: Some("13.0.88".to_owned()),
    }
}

fn readings(watts: f64) -> Readings {
    Readings { clock_mhz: 1990.0, watts, counter_watts: Some(watts), celsius: 60.0 }
}

fn bench() -> Metrics {
    let rounds = [1.0, 1.004, 0.997, 1.001, 0.999];
    let cell = |(index, case): (usize, flashcore_tests::cases::Case)| {
        let mut cell =
            Cell::new(&case, Dtype::F16, Check::Right { error: 1e-4, bound: 8e-4, lse_error: 1e-7 });
        let us = cell.figures.flops / 600e6;
        let of = |name: &str, factor: f64| Measured {
            name: name.to_owned(),
            us: rounds
                .iter()
                .enumerate()
                .map(|(i, round)| us * factor * (round + 1e-3 * (i + index) as f64 % 3e-3))
                .collect(),
            readings: Some(readings(650.0)),
        };
        cell.figures.measured = vec![of(FLASHCORE, 1.0), of("cudnn", 1.1), of("flash3", 1.05)];
        cell
    };
    Metrics {
        version: "0.1.0".to_owned(),
        commit: Some("0123456789ab".to_owned()),
        date: "2026-11-22T00:00:00Z".to_owned(),
        machine: machine(),
        peers: BTreeMap::from([("torch".to_owned(), "2.11.0".to_owned())]),
        missing: BTreeMap::new(),
        protocol: Protocol::STANDARD,
        rounds: rounds.len(),
        matmul_tflops: BTreeMap::from([("f16".to_owned(), 650.0)]),
        cells: [grid::large(&[1024, 8192], &[false, true]), grid::small(&[false])]
            .concat()
            .into_iter()
            .enumerate()
            .map(cell)
            .collect(),
    }
}

fn sustained(name: &str, watts: f64) -> Sustained {
    let case = grid::cell(2, 16, 8192, 128, false);
    let us = grid::flops(&case) / 600e6;
    let sample = |at: u32| Sample {
        seconds: f64::from(at) / 20.0,
        clock_mhz: 1990.0 - f64::from(at % 5),
        watts,
        celsius: 60.0,
        throttle_reasons: Some(4),
    };
    let trace = (0..40).map(sample).collect();
    Sustained { trace, ..Sustained::new(&case, Dtype::F16, name.to_owned(), us, Some(readings(watts))) }
}

fn pair(classes: [&str; 2], t: [f64; 2]) -> Pair {
    Pair {
        classes: classes.map(str::to_owned),
        samples: [8000, 8000],
        t,
        mean: [10.0, 10.0],
        deviation: 0.1,
        detectable: 0.01,
    }
}

fn profiled(implementation: &str, tensor: f64) -> Profile {
    Profile {
        implementation: implementation.to_owned(),
        kernel: "fwd_hd128_f16".to_owned(),
        report: format!("{implementation}.ncu-rep"),
        metrics: [(profile::TENSOR, tensor), (profile::DRAM, 96.0)]
            .map(|(what, value)| (what.to_owned(), value))
            .into(),
        stalls: BTreeMap::from([("gmma".to_owned(), 60.0)]),
        lines: vec![profile::Line { file: "softmax.rs".to_owned(), line: 12, samples: 3 }],
    }
}

fn tools() -> Vec<ToolRun> {
    let run = |tool, planted, errors| ToolRun {
        tool,
        what: if planted { "fault".to_owned() } else { "check --small".to_owned() },
        planted,
        summary: Some(Summary { errors, leaked_bytes: 0 }),
        ended: "it ended".to_owned(),
        seconds: 1.0,
    };
    Tool::ALL.into_iter().flat_map(|tool| [run(tool, true, 1), run(tool, false, 0)]).collect()
}

/// The run. Every gate passes, those of the plan that no card reaches included.
pub(crate) fn good() -> Run {
    let mut run = Run::planned(Some(machine()));
    run.origin.date = "2026-11-22T00:00:00Z".to_owned();
    run.stages.iter_mut().for_each(|progress| (progress.state, progress.seconds) = (State::Done, 1.0));
    run.proof = Some(Proof {
        kernels: 94,
        cubins: 94,
        findings: Vec::new(),
        slow_paths: Vec::new(),
        control: vec!["error[S06 data-dependent]: bra: whether it is executed depends on data".to_owned()],
    });
    run.bench = Some(bench());
    run.latency = [("1,12,2048,128", 60.0), ("1,8,512,64", 6.0)]
        .map(|(shape, us)| Latency {
            shape: shape.to_owned(),
            mask: "full".to_owned(),
            dtype: "f16".to_owned(),
            flops: 25.8e9,
            calls: 2000,
            p50_us: us,
            p99_us: 1.1 * us,
            max_us: 2.0 * us,
        })
        .into();
    run.errors = vec![Errors {
        case: "b2_f16".to_owned(),
        checked: 1000,
        rmse: 1e-5,
        max: 1e-4,
        histogram: (0..32).map(|bin| if bin < 16 { 10 * bin } else { 0 }).collect(),
        samples: vec![0.5, -0.25],
    }];
    run.fp8 = vec![Fp8Errors {
        case: "b1_f16".to_owned(),
        kernel: "fwd_hd128_e4m3_f16".to_owned(),
        check: Check::Right { error: 0.02, bound: 0.04, lse_error: 1e-4 },
    }];
    run.power = Some(power::Findings {
        origin: Origin::now(),
        machine: machine(),
        seconds: 2.0,
        measured: vec![sustained(FLASHCORE, 680.0), sustained("cudnn", 690.0)],
    });
    let row =
        |case: &str, condition| determinism::Row { case: case.to_owned(), condition, runs: 40, differing: 0 };
    let conditions = [
        Condition::Alone,
        Condition::OtherWork,
        Condition::Streams,
        Condition::Order,
        Condition::Batch,
        Condition::Process,
    ];
    let rows = |condition| ["b2_f16", "b2_e4m3_f16"].map(|case| row(case, condition));
    run.determinism = Some(determinism::Findings { rows: conditions.map(rows).concat() });
    run.timing = Some(Timing {
        shapes: vec![Timed {
            shape: "1,4,1024,128, full, f16".to_owned(),
            pairs: vec![pair(["zeros", "random"], [0.5, -1.0])],
            cycles: vec![pair(["zeros", "random"], [-0.25, 1.5])],
        }],
        control: pair(["zeros", "random"], [900.0, 901.0]),
        control_cycles: Some(pair(["zeros", "random"], [910.0, 915.0])),
        trace: Vec::new(),
    });
    run.profile = Some(profile::Findings {
        problem: "2,16,8192,128, full, f16".to_owned(),
        flops: 1e12,
        profiles: vec![profiled(FLASHCORE, 97.5), profiled("cudnn", 76.0)],
        missing: BTreeMap::new(),
        unknown_metrics: Vec::new(),
    });
    run.sanitize = Some(sanitize::Findings { runs: tools() });
    let files = [
        "performance_report.md",
        "power_efficiency.md",
        "comparison.csv",
        "report.html",
        "ncu/flashcore.ncu-rep",
    ];
    run.files = files.map(|name| (name.to_owned(), 1000)).into();
    assert_eq!(run.stages.len(), Stage::ALL.len());
    run
}
