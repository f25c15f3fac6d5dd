//! Goldens: calls with what the hardware made of them, recorded once, replayed everywhere.

use std::path::PathBuf;
use std::{env, fs};

use flashcore::Device;
use flashcore_tests::probes;
use flashcore_tests::suite::Resource;
use serde::{Deserialize, Serialize};

use crate::call::{Call, Outcome};
use crate::case::{Case, Labelled, difference, judge, predict};
use crate::{hardware, math};

// Written by the build script: `GOLDENS`, names and texts.
include!(concat!(env!("OUT_DIR"), "/goldens.rs"));

/// Set to a folder to record there.
const VARIABLE: &str = "FLASHCORE_RECORD_GOLDENS";
/// Most bytes of one golden, and of all.
const LIMIT: usize = 64 << 10;
const TOTAL_LIMIT: usize = 500 << 10;

/// A call, and what a device made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Golden {
    device: String,
    driver: u32,
    ptxas: Option<String>,
    call: Call,
    outcome: Outcome,
}

impl Golden {
    fn to_json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map(|json| json + "\n").map_err(|error| error.to_string())
    }

    /// Whether the model allows what the hardware did.
    pub(crate) fn replay(&self) -> Result<(), String> {
        judge(&self.call, &self.outcome)
    }

    /// Whether the emulator does what the hardware did, bit for bit, but for the last bits of approximate functions.
    pub(crate) fn replay_emulated(&self) -> Result<(), String> {
        let emulated = hardware::run(&Device::emulated(), &self.call).map_err(|error| error.to_string())?;
        match self.call.symbol.as_str() {
            "probe_math" => math::agree(&self.call, &self.outcome, &emulated),
            _ if emulated == self.outcome => Ok(()),
            _ => Err(difference(&self.outcome, &emulated)),
        }
    }
}

/// The goldens that were recorded, by name.
pub(crate) fn recorded() -> Vec<Resource<Golden>> {
    let parse = |&(name, text): &(&str, &str)| match serde_json::from_str(text) {
        Ok(golden) => Resource::new(name, Ok(golden)),
        Err(error) => panic!("{name}.json is no golden: {error}"),
    };
    GOLDENS.iter().map(parse).collect()
}

/// Records what `device` made of a call, if recording is asked for and the device is real.
pub(crate) fn record(
    device: &Device,
    case: &Case,
    labelled: &Labelled,
    call: &Call,
    outcome: &Outcome,
) -> Result<(), String> {
    let wanted = labelled.record && device.emulator().is_none();
    let Some(folder) = env::var_os(VARIABLE).map(PathBuf::from).filter(|_| wanted) else {
        return Ok(());
    };
    let properties = device.properties();
    let golden = Golden {
        device: properties.name.clone(),
        driver: properties.driver_version,
        ptxas: probes::PTXAS_VERSION.map(str::to_owned),
        call: call.clone(),
        outcome: outcome.clone(),
    };
    let (path, json) = (folder.join(format!("{}_{}.json", case.name, labelled.label)), golden.to_json()?);
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, json))
        .map_err(|error| format!("could not write {}: {error}", path.display()))
}

/// What would be recorded, of devices that do as the models say, is small, and reads back as it was.
pub(crate) fn goldens_are_small() -> Result<(), String> {
    let mut total = 0;
    for case in crate::case::all() {
        for (labelled, call) in case.calls().into_iter().filter(|(labelled, _)| labelled.record) {
            let outcome = predict(&call);
            let golden = Golden { device: "model".into(), driver: 0, ptxas: None, call, outcome };
            let json = golden.to_json()?;
            let name = format!("{}_{}", case.name, labelled.label);
            if json.len() > LIMIT {
                return Err(format!("{name} has {} bytes; {LIMIT} are allowed", json.len()));
            }
            let read: Golden = serde_json::from_str(&json).map_err(|error| error.to_string())?;
            if read != golden {
                return Err(format!("{name} does not read back as it was"));
            }
            read.replay().map_err(|error| format!("{name}: {error}"))?;
            total += json.len();
        }
    }
    if total <= TOTAL_LIMIT { Ok(()) } else { Err(format!("{total} bytes; {TOTAL_LIMIT} are allowed")) }
}
