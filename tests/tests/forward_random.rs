//! Random problems: shapes, strides, element types, masks, scales and inputs that no table thought of.

use std::process::ExitCode;

use flashcore::{Dtype, Slopes};
use flashcore_tests::cases::{Case, Layout, failed_once};
use flashcore_tests::device;
use flashcore_tests::extras::{Bias, Blocks, Dropout, Extras, PerHead, Prefix, RangeKind, Ranges};
use flashcore_tests::inputs::Fill;
use flashcore_tests::side_inputs::Lengths;
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

/// Eighths of a head_dim, seldom of one above 256.
fn eighths() -> impl Strategy<Value = usize> {
    prop_oneof![15 => 1..=32usize, 1 => 33..=64usize]
}

/// Nothing, as often as something, beyond plain attention.
fn extras(longest: usize) -> impl Strategy<Value = Extras> {
    let keys = move || prop_oneof![3 => Just(None), 1 => (0..longest).prop_map(Some), 1 => (0..20usize).prop_map(Some)];
    let packed = move || {
        prop_oneof![
            2 => Just(None),
            1 => (1..longest).prop_map(|longest| Some(Lengths::Uniform { longest })),
            1 => (1..longest).prop_map(|longest| Some(Lengths::WithZeros { longest })),
            1 => (1..longest).prop_map(|longest| Some(Lengths::WithOnes { longest })),
        ]
    };
    let mask = (keys(), keys(), any::<bool>(), keys(), prop::bool::weighted(0.3));
    let softcap = prop_oneof![2 => Just((None, false)), 1 => ((1.0..60.0f32).prop_map(Some), any::<bool>())];
    let rest = (softcap, prop::bool::weighted(0.3), packed(), packed(), prop::bool::weighted(0.3));
    let slopes = [Slopes::PerHead, Slopes::PerSequenceAndHead].map(Some);
    let bias = any::<[bool; 5]>().prop_map(|[batch, heads, queries, hides, padded]| Bias {
        batch,
        heads,
        queries,
        hides,
        padded,
    });
    let dropout = (1..256u32, any::<u64>(), any::<u32>()).prop_map(|(threshold, seed, offset)| Dropout {
        threshold,
        seed,
        offset,
    });
    let added = (
        select(vec![None, None, slopes[0], slopes[1]]),
        prop_oneof![3 => Just(None), 1 => bias.prop_map(Some)],
        prop_oneof![3 => Just(None), 1 => dropout.prop_map(Some)],
    );
    let head_dim_v = prop_oneof![2 => Just(None), 1 => eighths().prop_map(|eighths| Some(8 * eighths))];
    let of = any::<[bool; 2]>().prop_map(|[batch, heads]| PerHead { batch, heads });
    let kind = select(vec![RangeKind::Drawn, RangeKind::Documents]);
    let ranges = (of.clone(), kind).prop_map(|(of, kind)| Ranges { of, kind });
    let sparse = (
        prop_oneof![3 => Just(None), 1 => ranges.prop_map(Some)],
        prop_oneof![3 => Just(None), 1 => of.prop_map(|of| Some(Blocks::drawn(of)))],
    );
    let some = (mask, rest, added, sparse, head_dim_v).prop_map(|(mask, rest, added, sparse, head_dim_v)| {
        let ((alibi, bias, dropout), (ranges, blocks)) = (added, sparse);
        let (left, right, top_left, chunk, prefix) = mask;
        let ((softcap, approximate_tanh), sinks, packed_q, packed_kv, used) = rest;
        let chunk = chunk.map(|keys| keys + 1);
        let prefix = (prefix && left.is_none() && chunk.is_none()).then_some(Prefix::Drawn);
        // Packed sequences have no bias.
        let bias = bias.filter(|_| packed_q.is_none() && packed_kv.is_none());
        // Sparse kernels only scale scores.
        let scales = softcap.is_none() && alibi.is_none() && bias.is_none() && dropout.is_none();
        let (ranges, blocks) = (ranges.filter(|_| scales), blocks.filter(|_| scales));
        Extras {
            left,
            right,
            top_left,
            chunk,
            prefix,
            ranges,
            blocks,
            softcap,
            approximate_tanh,
            sinks,
            alibi,
            bias,
            packed_q,
            packed_kv,
            used,
            head_dim_v,
            dropout,
        }
    });
    prop_oneof![Just(Extras::default()), some]
}

fn problem(effort: Effort) -> impl Strategy<Value = (Case, Dtype, u64)> {
    let Effort { longest, heads, .. } = effort;
    let sizes = (1..heads, length(longest), length(longest), 1..heads, 1..=heads, eighths());
    let scale = prop_oneof![Just(None), (0.01f32..2.0).prop_map(Some)];
    let fills = vec![Fill::Normal, Fill::Large, Fill::Rising, Fill::OneHot, Fill::Constant, Fill::Masked];
    let rest =
        (any::<bool>(), scale, select(Layout::ALL.to_vec()), select(fills), any::<bool>(), any::<u64>());
    let parts = (sizes, rest, extras(longest));
    parts.prop_map(|((batch, seqlen_q, seqlen_kv, heads_kv, gqa_ratio, eighths), rest, extras)| {
        let (causal, scale, layout, fill, half, seed) = rest;
        let heads_q = heads_kv * gqa_ratio;
        let head_dim = 8 * eighths;
        // Kernels of such heads have plain scores, and are not sparse.
        let wide = head_dim.max(extras.head_dim_v.unwrap_or(0)) > 256;
        let mut plain = Extras {
            softcap: None,
            approximate_tanh: false,
            alibi: None,
            bias: None,
            dropout: None,
            ..extras
        };
        (plain.ranges, plain.blocks) = (None, None);
        let extras = if wide { plain } else { extras };
        // Large inputs times a large scale leave nothing but rounding.
        let scale = if fill == Fill::Large { None } else { scale };
        // Rows of all sequences that share one row in memory are no packed sequences.
        let layout =
            if extras.packed_kv.is_some() && layout == Layout::Broadcast { Layout::Bshd } else { layout };
        let case = Case {
            batch,
            seqlen_q,
            seqlen_kv,
            heads_q,
            heads_kv,
            head_dim,
            causal,
            scale,
            layout,
            fill,
            extras,
        };
        (case, if half { Dtype::F16 } else { Dtype::Bf16 }, seed)
    })
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    suite.test("random_problems", |gpu| {
        let effort = if gpu.emulator().is_some() { EMULATED } else { ON_GPU };
        let config = Config { cases: effort.problems, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(&problem(effort), |(case, dtype, seed)| {
            device::check(gpu, &case, dtype, seed)
                .map_err(|failure| TestCaseError::fail(format!("{}: {failure}", device::name(&case, dtype))))
        });
        result.map_err(|error| error.to_string())
    });
    for (case, dtype, seed) in failed_once() {
        let name = format!("failed_once_{}", device::name(&case, dtype));
        suite.test(name, move |gpu| device::check(gpu, &case, dtype, seed));
    }
    suite.run()
}
