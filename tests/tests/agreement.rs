//! The emulator against a GPU, kernel by kernel, on the same inputs: with a GPU now, else with what one has recorded.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use flashcore::Device;
use flashcore::driver::{EmulatorOptions, Numerics};
use flashcore::kernels::{FWD, Variant};
use flashcore_tests::agreement::{Agreement, Recorded, larger_case, recorded_case, run};
use flashcore_tests::cases::Case;
use flashcore_tests::suite::{Resource, Suite};

/// Set to a folder to record there what a GPU does.
const RECORD: &str = "FLASHCORE_RECORD_OUTPUTS";
/// Most units in the last place (of a row's largest element) that O may differ by.
const UNITS: f64 = 1.0;
/// Most that the log-sum-exp may differ by.
const LSE: f64 = 1e-5;

/// Compares the emulator's result, in both arithmetics, with a GPU's bits.
fn compare(variant: &Variant, case: &Case, gpu: (&[u16], &[u32])) -> Result<(), String> {
    for numerics in [Numerics::Hopper, Numerics::Exact] {
        let device = Device::emulated_with(&EmulatorOptions { numerics, ..EmulatorOptions::default() });
        let outputs = run(&device, variant, case).map_err(|error| error.to_string())?;
        let agreement = Agreement::new(variant.dtype, case.head_dim_v(), outputs.bits(), gpu);
        println!("{} {numerics:?}: {agreement}", variant.symbol);
        if agreement.worst > UNITS || agreement.lse_worst > LSE {
            return Err(format!("{numerics:?}: {agreement}; {UNITS} and {LSE:.0e} are allowed"));
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
    for variant in FWD {
        gpu.test(variant.symbol, move |device: &Device| live(device, variant));
        let suite = if Recorded::of(variant).is_none() { &mut unrecorded } else { &mut recorded };
        suite.test(variant.symbol, move |()| replay(variant));
    }
    gpu.and(recorded).and(unrecorded).run()
}
