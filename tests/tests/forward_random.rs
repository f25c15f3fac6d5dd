//! Random problems: shapes, strides, element types, masks, scales and inputs that no table thought of.

use std::process::ExitCode;

use flashcore::Dtype;
use flashcore_tests::cases::{Case, Layout};
use flashcore_tests::device;
use flashcore_tests::inputs::Fill;
use flashcore_tests::suite::{Suite, backends};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

/// How large problems get, and how many are tried.
#[derive(Clone, Copy)]
struct Effort {
    longest: usize,
    heads: usize,
    problems: u32,
}

const ON_GPU: Effort = Effort { longest: 1500, heads: 4, problems: 400 };
const EMULATED: Effort = Effort { longest: 200, heads: 2, problems: 100 };

/// Short lengths often, long ones now and then.
fn length(longest: usize) -> impl Strategy<Value = usize> {
    prop_oneof![1..20usize, 1..longest / 5, 1..longest]
}

fn problem(effort: Effort) -> impl Strategy<Value = (Case, Dtype, u64)> {
    let Effort { longest, heads, .. } = effort;
    let sizes = (1..heads, length(longest), length(longest), 1..heads, 1..=heads, 1..=32usize);
    let scale = prop_oneof![Just(None), (0.01f32..2.0).prop_map(Some)];
    let fills = vec![Fill::Normal, Fill::Large, Fill::Rising, Fill::OneHot, Fill::Constant, Fill::Masked];
    let rest =
        (any::<bool>(), scale, select(Layout::ALL.to_vec()), select(fills), any::<bool>(), any::<u64>());
    (sizes, rest).prop_map(|((batch, seqlen_q, seqlen_kv, heads_kv, gqa_ratio, eighths), rest)| {
        let (causal, scale, layout, fill, half, seed) = rest;
        let heads_q = heads_kv * gqa_ratio;
        let head_dim = 8 * eighths;
        // Large inputs times a large scale leave nothing but rounding.
        let scale = if fill == Fill::Large { None } else { scale };
        let case =
            Case { batch, seqlen_q, seqlen_kv, heads_q, heads_kv, head_dim, causal, scale, layout, fill };
        (case, if half { Dtype::F16 } else { Dtype::Bf16 }, seed)
    })
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    suite.test("random_problems", |gpu| {
        let effort = if gpu.emulator().is_some() { EMULATED } else { ON_GPU };
        let config = Config { cases: effort.problems, failure_persistence: None, ..Config::default() };
        TestRunner::new(config).run(&problem(effort), |(case, dtype, seed)| {
            device::check(gpu, &case, dtype, seed)
                .map_err(|failure| TestCaseError::fail(format!("{}: {failure}", device::name(&case, dtype))))
        })
    });
    suite.run()
}
