//! Every case of the table, in both element types (on the emulator, which is slow, in one of them), on every device and
//! every kernel that can compute it.

use std::process::ExitCode;

use flashcore::{Device, Dtype};
use flashcore_tests::cases::Case;
use flashcore_tests::suite::{Resource, Suite, few_sms, other_schedules};
use flashcore_tests::{cases, device};

/// Times that [`device::check`] runs a case on each kernel, and one more for the public call.
const RUNS: usize = 2;

fn main() -> ExitCode {
    let (mut cuda, mut emulated) = (Suite::on(vec![Resource::cuda()]), Suite::on(vec![few_sms()]));
    for (seed, case) in cases::forward().into_iter().enumerate() {
        let check =
            move |dtype| move |gpu: &Device, case: &Case| device::check(gpu, case, dtype, seed as u64);
        let dtypes = [Dtype::F16, Dtype::Bf16];
        for dtype in dtypes {
            cuda.case("", &[case], dtype, RUNS, check(dtype));
        }
        // Slow: one type each.
        let dtype = dtypes[seed % 2];
        emulated.case("", &case.and_thinner(), dtype, RUNS, check(dtype));
    }
    let mut small = Suite::on(other_schedules());
    for (seed, case) in cases::small().into_iter().enumerate() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            small.case("", &case.and_thinner(), dtype, RUNS, move |gpu, case| {
                device::check(gpu, case, dtype, seed as u64)
            });
        }
    }
    cuda.and(emulated).and(small).run()
}
