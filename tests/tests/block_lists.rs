//! Block masks beside other masks: key tiles that are listed but hidden are not visited.

use flashcore::{Device, Dtype};
use flashcore_tests::cases::Case;
use flashcore_tests::device::OnDevice;
use flashcore_tests::extras::{Blocks, Extras, PerHead};

/// Products of a call under a checkerboard of 4 x 4 blocks.
fn products(causal: bool) -> u64 {
    let blocks = Some(Blocks { of: PerHead::ONE, checkerboard: true });
    let extras = Extras { blocks, ..Extras::default() };
    let (seqlen_q, seqlen_kv, head_dim) = (512, 512, 64);
    let case = Case {
        batch: 1,
        heads_q: 1,
        heads_kv: 1,
        seqlen_q,
        seqlen_kv,
        head_dim,
        causal,
        extras,
        ..Case::default()
    };
    let inputs = case.inputs(Dtype::F16, 1);
    let device = Device::emulated();
    let tensors = OnDevice::new(&device, &case, &inputs).unwrap();
    tensors.run(&device.stream().unwrap()).unwrap();
    tensors.outputs().unwrap().judge(&inputs, &inputs.attention.rows(usize::MAX, 0)).unwrap();
    let reports = device.emulator().unwrap().take_reports();
    reports.iter().map(|kernel| kernel.report.counters.wgmma).sum()
}

#[test]
fn hidden_key_tiles_are_not_visited() {
    // Of the eight listed blocks, two of each four rows, six are on the diagonal or below it.
    assert_eq!(4 * products(true), 3 * products(false));
}
