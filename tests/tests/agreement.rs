//! The emulator against a GPU, kernel by kernel, on the same inputs: with a GPU now, else with what one has recorded.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use flashcore::Device;
use flashcore::driver::{EmulatorOptions, Numerics};
use flashcore::kernels::Variant;
use flashcore_tests::agreement::{Agreement, Recorded, UNITS, larger_case, recorded_case, run};
use flashcore_tests::cases::Case;
use flashcore_tests::kernel::kernels;
use flashcore_tests::suite::{Resource, Suite};

/// Set to a folder to record there what a GPU does.
const RECORD: &str = "FLASHCORE_RECORD_OUTPUTS";
/// The largest share of elements of O that may be far apart, if Q, K and V have 8 bits; otherwise none may. A weight that lies
/// on the edge between two numbers of 8 bits may become the other one, up to an eighth larger, and so change a row of O by
/// many units; but few lie there: of the recorded cases a row of 24, at most.
const APART: f64 = 0.05;
/// Nor may any element be further apart, in units of a row's largest element.
const FAR: f64 = 1.0 / 8.0;
/// Most that the log-sum-exp may differ by.
const LSE: f64 = 1e-5;

/// Compares the emulator's result, in both arithmetics, with a GPU's bits.
fn compare(variant: &Variant, case: &Case, gpu: (&[u16], &[u32])) -> Result<(), String> {
    // Tensor cores cut sums of 8-bit products so short that exact ones have other weights.
    let arithmetics = [Numerics::Hopper, Numerics::Exact];
    for &numerics in if variant.fp8.is_some() { &arithmetics[..1] } else { &arithmetics } {
        let device = Device::emulated_with(&EmulatorOptions { numerics, ..EmulatorOptions::default() });
        let outputs = run(&device, variant, case).map_err(|error| error.to_string())?;
        let agreement = Agreement::new(variant.dtype, case.head_dim_v(), outputs.bits(), gpu);
        println!("{} {numerics:?}: {agreement}", variant.symbol);
        let apart = if variant.fp8.is_some() { APART } else { 0.0 };
        if agreement.apart > apart || agreement.far > FAR || agreement.lse_worst > LSE {
            let allowed = format!(
                "a share of {apart} beyond {UNITS} units, none by {FAR} of a row, and {LSE:.0e}, are allowed"
            );
            return Err(format!("{numerics:?}: {agreement}; {allowed}"));
        }
    }
    Ok(())
}

/// Runs a kernel on a GPU, records that if asked to, and compares.
fn live(gpu: &Device, variant: &Variant) -> Result<(), String> {
    let text = |error: flashcore::Error| error.to_string();
    if let Some(folder) = env::var_os(RECORD).map(PathBuf::from) {
        let outputs = run(gpu, variant, &recorded_case(variant)).map_err(text)?;
        let json =
            serde_json::to_string_pretty(&Recorded::new(gpu, &outputs)).map_err(|error| error.to_string())?;
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(format!("{}.json", variant.symbol)), json + "\n"))
            .map_err(|error| error.to_string())?;
    }
    let case = larger_case(variant);
    compare(variant, &case, run(gpu, variant, &case).map_err(text)?.bits())
}

/// Compares with what a GPU has recorded.
fn replay(variant: &Variant) -> Result<(), String> {
    let recorded = Recorded::of(variant).ok_or("no GPU has recorded this kernel")?;
    let out: Vec<u16> = recorded.out.0.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes)).collect();
    compare(variant, &recorded_case(variant), (&out, &recorded.lse.words()))
}

fn main() -> ExitCode {
    let mut gpu = Suite::on(vec![Resource::cuda()]);
    let mut recorded = Suite::on(vec![Resource::new("recorded", Ok(()))]);
    let reason = "skipped: no GPU has recorded what it does".to_owned();
    let mut unrecorded = Suite::on(vec![Resource::new("recorded", Err(reason))]);
    for variant in kernels() {
        gpu.test(variant.symbol, move |device: &Device| live(device, variant));
        let suite = if Recorded::of(variant).is_none() { &mut unrecorded } else { &mut recorded };
        suite.test(variant.symbol, move |()| replay(variant));
    }
    gpu.and(recorded).and(unrecorded).run()
}
