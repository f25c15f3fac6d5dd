//! Every case of the table, in both element types, on every device and every kernel that can compute it.

use std::process::ExitCode;

use flashcore::Dtype;
use flashcore_tests::suite::{Suite, backends, other_schedules};
use flashcore_tests::{cases, device};

/// Times that [`device::check`] runs a case on each kernel, and one more for the public call.
const RUNS: usize = 2;

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    for (seed, case) in cases::forward().into_iter().enumerate() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            suite.case("", &case.and_thinner(), dtype, RUNS, move |gpu, case| {
                device::check(gpu, case, dtype, seed as u64)
            });
        }
    }
    let mut small = Suite::on(other_schedules());
    for (seed, case) in cases::small().into_iter().enumerate() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            small.case("", &case.and_thinner(), dtype, RUNS, move |gpu, case| {
                device::check(gpu, case, dtype, seed as u64)
            });
        }
    }
    suite.and(small).run()
}
