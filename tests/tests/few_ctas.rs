//! Kernels whose CTAs take many work tiles, one after the other: what one leaves to the next must fit whatever the
//! masks of both are, and no bit may tell which tiles a CTA had before.

use std::error::Error;
use std::process::ExitCode;

use flashcore::{Device, Dtype, Plan};
use flashcore_kernels::params::Work;
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS, OTHER_KERNEL_HEAD_DIMS};
use flashcore_tests::device::{Failure, OnDevice};
use flashcore_tests::extras::{Bias, Extras};
use flashcore_tests::side_inputs::Lengths;
use flashcore_tests::suite::{Suite, backends};

const CTAS: u32 = 2;

/// The plan, but in a grid of [`CTAS`].
fn in_few_ctas(mut plan: Plan) -> Plan {
    plan.grid = plan.grid.min(CTAS * plan.variant.cluster_ctas());
    let Work { heads, head_units, section, .. } = plan.params.work;
    let clusters = plan.grid / plan.variant.cluster_ctas();
    plan.params.work = Work::new(heads, head_units.value, section.value, clusters);
    plan
}

/// Runs the case on every kernel that gives CTAs more than one work tile, in grids of one work tile each and of
/// [`CTAS`].
fn same_bits(device: &Device, case: &Case) -> Result<(), Box<dyn Error>> {
    let tensors = OnDevice::new(device, case, &case.inputs(Dtype::F16, 5))?;
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
fn check(device: &Device, case: &Case) -> Result<(), Failure> {
    let inputs = case.inputs(Dtype::F16, 5);
    let rows = inputs.attention.rows(1 << 22, 5);
    let tensors = OnDevice::new(device, case, &inputs)?;
    let stream = device.stream()?;
    for plan in tensors.plans()?.into_iter().filter(|plan| plan.variant.is_general()) {
        tensors.poison()?;
        tensors.run_plan(&in_few_ctas(plan), &stream)?;
        tensors.outputs()?.judge(&inputs, &rows)?;
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
            suite.test(format!("{case}"), move |device| check(device, &case));
        }
    }
    for head_dim in KERNEL_HEAD_DIMS {
        for causal in [false, true] {
            let case =
                Case { batch: 1, seqlen_q: 500, seqlen_kv: 300, heads_q: 2, heads_kv: 1, ..Case::default() };
            let case = Case { causal, ..case }.of_head_dims((head_dim, head_dim));
            suite.test(format!("same_bits_{case}"), move |device| same_bits(device, &case));
        }
    }
    suite.run()
}
