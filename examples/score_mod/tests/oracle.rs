//! What the functions compute agrees with the oracle, under masks and with packed sequences.

use std::ops::Range;
use std::process::ExitCode;

use flashcore::{Array, Attention, Device, Dtype};
use flashcore_example_score_mod::{ALIBI, DOCUMENTS, TANH_SOFTCAP};
use flashcore_example_score_mod_kernels::{Cap, Ids, Slopes};
use flashcore_tests::cases::{Case, Inputs};
use flashcore_tests::device::{Failure, OnDevice};
use flashcore_tests::extras::{Blocks, Extras, PerHead, Ranges};
use flashcore_tests::oracle::Modify;
use flashcore_tests::side_inputs::{Lengths, alibi_slopes};
use flashcore_tests::suite::{Suite, backends};

/// Runs `attention` on the tensors of a case, and compares all rows with the oracle.
fn judge(tensors: &OnDevice, inputs: &Inputs, attention: Attention) -> Result<(), Failure> {
    let stream = tensors.q.device().stream()?;
    let OnDevice { q, k, v, out, lse, .. } = tensors;
    attention.forward_into(&stream, q, k, v, out, Some(lse.view()))?;
    tensors.outputs()?.judge(inputs, &inputs.attention.rows(usize::MAX, 0))?;
    Ok(())
}

fn alibi(gpu: &Device, case: &Case, dtype: Dtype) -> Result<(), Failure> {
    let mut inputs = case.inputs(dtype, 1);
    let slopes = alibi_slopes(case.heads_q);
    let on_device = Array::from_slice(gpu, &slopes)?;
    let lengths: Vec<_> = std::iter::zip(&inputs.attention.queries, &inputs.attention.keys)
        .map(|(queries, keys)| keys.len as f64 - queries.len as f64)
        .collect();
    inputs.attention.scoring.modify = Some(Modify::new(move |score, b, h, i, j| {
        score - f64::from(slopes[h]) * (i as f64 + lengths[b] - j as f64).abs()
    }));
    let tensors = OnDevice::new(gpu, case, &inputs)?;
    // SAFETY: a slope for each query head, which outlives the call.
    let attention = unsafe { tensors.attention().score_mod(&ALIBI, Slopes(on_device.view().numbers())) };
    judge(&tensors, &inputs, attention)
}

fn tanh_softcap(gpu: &Device, case: &Case, dtype: Dtype) -> Result<(), Failure> {
    let mut inputs = case.inputs(dtype, 2);
    inputs.attention.scoring.softcap = Some(5.0);
    let tensors = OnDevice::new(gpu, case, &inputs)?;
    // SAFETY: no addresses.
    let attention = unsafe { tensors.attention().score_mod(&TANH_SOFTCAP, Cap::new(5.0)) };
    judge(&tensors, &inputs, attention)
}

/// Documents of 70 tokens, but the second sequence's begin 30 tokens earlier.
fn documents(gpu: &Device, case: &Case, dtype: Dtype) -> Result<(), Failure> {
    let mut inputs = case.inputs(dtype, 3);
    let (batch, seqlen) = (case.batch, case.seqlen_kv);
    let id = |b: usize, token: usize| (token + 30 * b) / 70;
    let range = |b: usize, token: usize| -> Range<usize> {
        let first = (id(b, token) * 70).saturating_sub(30 * b);
        first..(id(b, token) + 1) * 70 - 30 * b
    };
    let tokens = || (0..batch).flat_map(|b| (0..seqlen).map(move |token| (b, token)));
    let ids: Vec<i32> = tokens().map(|(b, token)| id(b, token) as i32).collect();
    inputs.attention.mask.ranges = Some(vec![tokens().map(|(b, token)| range(b, token)).collect()]);
    let on_device = Array::from_slice(gpu, &ids)?;
    let tensors = OnDevice::new(gpu, case, &inputs)?;
    // SAFETY: a number for each token of as many queries as keys, which outlive the call.
    let attention = unsafe { tensors.attention().score_mod(&DOCUMENTS, Ids(on_device.view().numbers())) };
    judge(&tensors, &inputs, attention)
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    let base = Case { batch: 2, seqlen_q: 300, seqlen_kv: 300, heads_q: 4, heads_kv: 2, ..Case::default() };
    for head_dim in [40, 128] {
        for causal in [false, true] {
            let same = Case { head_dim, causal, ..base };
            let cached = Case { seqlen_q: 130, seqlen_kv: 333, ..same };
            let window = Case { extras: Extras { left: Some(100), ..Extras::default() }, ..same };
            let lengths = Some(Lengths::WithZeros { longest: 200 });
            let packed = Extras { packed_q: lengths, packed_kv: lengths, sinks: true, ..Extras::default() };
            let packed = Case { batch: 5, extras: packed, ..same };
            for case in [same, cached, window, packed] {
                suite.test(format!("alibi_{case}_f16"), move |gpu| alibi(gpu, &case, Dtype::F16));
                suite.test(format!("tanh_softcap_{case}_f16"), move |gpu| {
                    tanh_softcap(gpu, &case, Dtype::F16)
                });
            }
            suite.test(format!("alibi_{same}_bf16"), move |gpu| alibi(gpu, &same, Dtype::Bf16));
            for case in [same, window] {
                suite.test(format!("documents_{case}_f16"), move |gpu| documents(gpu, &case, Dtype::F16));
            }
        }
    }
    let ranges = Some(Ranges::documents(PerHead::EACH));
    let blocks = Some(Blocks::drawn(PerHead::EACH));
    for extras in [Extras { ranges, ..Extras::default() }, Extras { blocks, ..Extras::default() }] {
        let case = Case { head_dim: 40, causal: true, extras, ..base };
        suite.test(format!("alibi_{case}_f16"), move |gpu| alibi(gpu, &case, Dtype::F16));
    }
    suite.run()
}
