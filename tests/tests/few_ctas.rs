//! Kernels whose CTAs take many work tiles, one after the other: what one leaves to the next must fit whatever the
//! masks of both are, and no bit may tell which tiles a CTA had before.

use std::error::Error;
use std::process::ExitCode;

use flashcore::{Device, Dtype, Fp8, Plan};
use flashcore_kernels::divisor::Divisor;
use flashcore_kernels::params::Work;
use flashcore_tests::cases::{Case, FP8_HEAD_DIMS, KERNEL_HEAD_DIMS, OTHER_KERNEL_HEAD_DIMS};
use flashcore_tests::device::Failure;
use flashcore_tests::extras::{Bias, Extras};
use flashcore_tests::kernel::Elements;
use flashcore_tests::side_inputs::Lengths;
use flashcore_tests::suite::{Suite, backends};

const CTAS: u32 = 2;

const WIDE: Elements = Elements { fp8: None, dtype: Dtype::F16 };
const NARROW: Elements = Elements { fp8: Some(Fp8::E4m3), dtype: Dtype::F16 };

/// The plan, but in a grid of [`CTAS`].
fn in_few_ctas(mut plan: Plan) -> Plan {
    plan.grid = plan.grid.min(CTAS * plan.variant.cluster_ctas());
    let Work { heads, head_units, section, .. } = plan.params.work;
    let clusters = plan.grid / plan.variant.cluster_ctas();
    plan.params.work = Work::new(heads, head_units.value, section.value, clusters);
    let sequences = &mut plan.params.general.sequences;
    if sequences.teams != 0 {
        let team = if plan.variant.takes_turns() { plan.grid } else { 1 };
        (sequences.teams, sequences.team) = (plan.grid / team, Divisor::new(team));
    }
    plan
}

/// Runs the case on every kernel that gives CTAs more than one work tile, in grids of one work tile each and of
/// [`CTAS`].
fn same_bits(device: &Device, case: &Case, elements: Elements) -> Result<(), Box<dyn Error>> {
    let tensors = elements.inputs(case, 5).upload(device)?;
    let stream = device.stream()?;
    let run = |plan: &Plan| {
        tensors.poison()?;
        tensors.run_plan(plan, &stream)?;
        tensors.outputs()
    };
    for plan in tensors.plans()?.into_iter().filter(|plan| !plan.variant.splits_keys()) {
        let apart = run(&plan)?;
        let symbol = plan.variant.symbol;
        let many = run(&in_few_ctas(plan))?;
        if apart.bits() != many.bits() {
            return Err(format!("{symbol}: other bits in {CTAS} CTAs").into());
        }
    }
    Ok(())
}

/// Runs the case on every general kernel that can compute it, in a grid of [`CTAS`].
fn check(device: &Device, case: &Case, elements: Elements) -> Result<(), Failure> {
    let inputs = elements.inputs(case, 5);
    let tensors = inputs.upload(device)?;
    let stream = device.stream()?;
    for plan in tensors.plans()?.into_iter().filter(|plan| plan.variant.is_general()) {
        tensors.poison()?;
        tensors.run_plan(&in_few_ctas(plan), &stream)?;
        inputs.judge(&tensors.outputs()?, 1 << 22)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    let every = |head_dim| ((head_dim, head_dim), 1);
    // Of others a few: the emulator takes long for wide ones.
    let others = OTHER_KERNEL_HEAD_DIMS.map(|head_dims| (head_dims, 6));
    for (head_dims, step) in KERNEL_HEAD_DIMS.map(every).into_iter().chain(others) {
        let base =
            Case { batch: 1, seqlen_q: 520, seqlen_kv: 700, heads_q: 2, heads_kv: 1, ..Case::default() };
        let windows = [
            (Some(0), Some(0)),
            (Some(150), Some(90)),
            (Some(333), None),
            (None, Some(77)),
            (Some(30), Some(400)),
        ];
        let masks = windows.map(|(left, right)| Extras { left, right, ..Extras::default() });
        // With 212, a work tile that is not its CTA's first has a consumer that lets three key tiles pass before its
        // own: where O is staged over V, it must have opened the gate for them.
        let chunks =
            [64, 100, 192, 212, 257, 400].map(|keys| Extras { chunk: Some(keys), ..Extras::default() });
        let lengths = Some(Lengths::WithZeros { longest: 300 });
        let packed = Extras {
            packed_q: lengths,
            packed_kv: lengths,
            left: Some(100),
            right: Some(10),
            ..Extras::default()
        };
        let bias = Some(Bias { padded: true, heads: false, ..Bias::FULL });
        let last = [Extras { top_left: true, ..masks[1] }, packed, Extras { bias, ..masks[1] }];
        for extras in masks.into_iter().chain(chunks).chain(last).step_by(step) {
            let batch = if extras.packed_q.is_some() { 5 } else { 1 };
            let case = Case { extras, batch, ..base }.of_head_dims(head_dims);
            suite.test(format!("{case}"), move |device| check(device, &case, WIDE));
        }
    }
    for head_dim in FP8_HEAD_DIMS {
        let base =
            Case { batch: 1, seqlen_q: 330, seqlen_kv: 420, heads_q: 2, heads_kv: 1, ..Case::default() };
        let window = Extras { left: Some(150), right: Some(90), ..Extras::default() };
        let chunk = Extras { chunk: Some(212), ..Extras::default() };
        for extras in [window, chunk, Extras { softcap: Some(20.0), sinks: true, ..window }] {
            let case = Case { extras, head_dim, ..base };
            suite.test(format!("{case}_{}", NARROW.name()), move |device| check(device, &case, NARROW));
        }
    }
    let wide = KERNEL_HEAD_DIMS.map(|head_dim| (head_dim, WIDE));
    for (head_dim, elements) in wide.into_iter().chain(FP8_HEAD_DIMS.map(|head_dim| (head_dim, NARROW))) {
        for causal in [false, true] {
            let case =
                Case { batch: 1, seqlen_q: 500, seqlen_kv: 300, heads_q: 2, heads_kv: 1, ..Case::default() };
            let case = Case { causal, ..case }.of_head_dims((head_dim, head_dim));
            let name =
                if elements == WIDE { format!("{case}") } else { format!("{case}_{}", elements.name()) };
            suite.test(format!("same_bits_{name}"), move |device| same_bits(device, &case, elements));
        }
    }
    suite.run()
}
