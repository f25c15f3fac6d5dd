//! Every case of the table, in both element types, on every device and every kernel that can compute it.

use std::process::ExitCode;

use flashcore::Dtype;
use flashcore_tests::suite::{Suite, backends};
use flashcore_tests::{cases, device};

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    for (seed, case) in cases::forward().into_iter().enumerate() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            suite.test(device::name(&case, dtype), move |gpu| device::check(gpu, &case, dtype, seed as u64));
        }
    }
    suite.run()
}
