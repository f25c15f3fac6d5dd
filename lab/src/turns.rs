//! Implementations take turns on one problem, so that whatever changes meanwhile changes for all.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::metrics::Measured;
use crate::sensors::{Sensors, mean};
use crate::timing::Timing;

/// Lets each of `names` be measured once in each of `rounds`, unless it failed before; the measurements, and the
/// reasons of those that failed.
pub(crate) fn take_turns(
    names: &[String],
    rounds: u16,
    sensors: Option<&Sensors>,
    mut measure: impl FnMut(&str) -> Result<Result<Timing, String>>,
) -> Result<(Vec<Measured>, BTreeMap<String, String>)> {
    let mut turns: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    let mut skipped = BTreeMap::new();
    for _ in 0..rounds {
        for name in names {
            if skipped.contains_key(name) {
                continue;
            }
            let (timing, readings) = match sensors {
                Some(sensors) => sensors.during(|| measure(name)),
                None => (measure(name), None),
            };
            match timing? {
                Ok(Timing { us }) => turns.entry(name).or_default().push((us, readings)),
                Err(reason) => {
                    skipped.insert(name.clone(), reason);
                }
            }
        }
    }
    let mut measured = Vec::new();
    for name in names {
        // Rounds are compared one by one, so an implementation that failed in one of them has no figure.
        let Some(turns) = turns.remove(name.as_str()).filter(|_| !skipped.contains_key(name)) else {
            continue;
        };
        let readings: Vec<_> = turns.iter().filter_map(|&(_, readings)| readings).collect();
        let us = turns.iter().map(|&(us, _)| us).collect();
        measured.push(Measured { name: name.clone(), us, readings: mean(&readings) });
    }
    Ok((measured, skipped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_is_kept_and_who_fails_once_is_out() {
        let names = ["steady", "flaky", "absent"].map(String::from);
        let mut asked = Vec::new();
        let (measured, skipped) = take_turns(&names, 3, None, |name| {
            asked.push(name.to_owned());
            let us = asked.len() as f64;
            Ok(match name {
                "absent" => Err("not here".to_owned()),
                "flaky" if asked.len() > 3 => Err("out of memory".to_owned()),
                _ => Ok(Timing { us }),
            })
        })
        .unwrap();
        assert_eq!(asked, ["steady", "flaky", "absent", "steady", "flaky", "steady"]);
        assert_eq!(measured.len(), 1);
        assert_eq!((measured[0].name.as_str(), &measured[0].us[..]), ("steady", &[1.0, 4.0, 6.0][..]));
        assert_eq!(skipped["absent"], "not here");
        assert_eq!(skipped["flaky"], "out of memory");
    }
}
