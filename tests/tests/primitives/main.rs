//! Every Hopper primitive against a plain model of it: on the GPU and on the emulator, and, on what a GPU once did,
//! everywhere. The emulator must also do, bit for bit, what that GPU did.
//!
//! The models are written from the PTX ISA, not from the kernels: a mistake would have to be made twice.

mod call;
mod case;
mod fragment;
mod goldens;
mod hardware;
mod math;
mod matrix;
mod operand;
mod pattern;
mod threads;
mod tma;
mod wgmma;

use std::process::ExitCode;

use flashcore::Device;
use flashcore_tests::suite::{Resource, Suite, backends};
use rand::{Rng, SeedableRng, rngs::StdRng};

use case::{Case, judge, predict};

/// How many failures of a case are told.
const TOLD: usize = 4;

/// Runs every call of a case, and tells which went wrong.
fn compare(device: &Device, case: &Case) -> Result<(), String> {
    let (calls, mut failures) = (case.calls(), Vec::new());
    for (labelled, call) in &calls {
        let outcome = hardware::run(device, call).map_err(|error| format!("{}: {error}", labelled.label))?;
        goldens::record(device, case, labelled, call, &outcome)?;
        failures.extend(judge(call, &outcome).err().map(|why| format!("{}: {why}", labelled.label)));
    }
    if failures.is_empty() {
        return Ok(());
    }
    let told = failures.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>();
    Err(format!("{} of {} calls are wrong:\n{}", failures.len(), calls.len(), told.join("\n")))
}

/// A judge lets pass what its own model says, and notices when a byte of it changes.
fn judges_notice_a_changed_byte() -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(6);
    for case in case::all() {
        for (labelled, call) in case.calls().iter().take(3) {
            let name = format!("{}, {}", case.name, labelled.label);
            let predicted = predict(call);
            judge(call, &predicted).map_err(|why| format!("{name}: {why}"))?;
            let mut spoilt = predicted.clone();
            let bytes = spoilt.memory.as_mut().unwrap_or(&mut spoilt.output);
            if bytes.0.is_empty() {
                continue;
            }
            // A high bit of a word, which no bound forgives.
            let at = rng.random_range(0..bytes.0.len() / 4) * 4 + 3;
            bytes.0[at] ^= 0x40;
            if judge(call, &spoilt).is_ok() {
                return Err(format!("{name}: byte {at} may be anything"));
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut gpu = Suite::on(backends());
    for case in case::all() {
        gpu.test(case.name.clone(), move |device| compare(device, &case));
    }

    let mut replays = Suite::on(goldens::recorded());
    replays.test("golden", |golden: &goldens::Golden| golden.replay());
    replays.test("golden_emulated", goldens::Golden::replay_emulated);

    let mut models = Suite::on(vec![Resource::new("model", Ok(()))]);
    type Check = fn() -> Result<(), String>;
    let checks: [(&str, Check); 13] = [
        ("patterns_are_the_librarys", pattern::is_the_librarys),
        ("fragments_are_the_librarys", fragment::are_the_librarys),
        ("operand_addresses_are_cutes", operand::addresses_are_cutes),
        ("descriptors_decode", operand::descriptors_decode),
        ("wgmma_multiplies", wgmma::model_multiplies),
        ("tma_loads_are_operands", tma::loads_are_operands),
        ("tma_boxes_are_slabs", tma::boxes_are_slabs),
        ("matrix_loads_undo_stores", matrix::loads_undo_stores),
        ("mbarrier_phases_alternate", threads::phases_alternate),
        ("one_lane_is_elected", threads::one_lane_is_elected),
        ("math_bounds_are_tight", math::bounds_are_tight),
        ("judges_notice_a_changed_byte", judges_notice_a_changed_byte),
        ("goldens_are_small", goldens::goldens_are_small),
    ];
    for (name, check) in checks {
        models.test(name, move |()| check());
    }

    gpu.and(replays).and(models).run()
}
