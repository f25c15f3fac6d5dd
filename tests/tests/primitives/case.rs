//! Tests as lists of calls, and the models that predict and judge them.

use crate::call::{Call, Outcome};
use crate::{math, matrix, threads, tma, wgmma};

/// What a call is called within its case, and whether the hardware's answer is worth keeping.
pub(crate) struct Labelled {
    pub(crate) label: String,
    pub(crate) record: bool,
}

/// Calls that belong together, made when they are needed.
pub(crate) struct Case {
    pub(crate) name: String,
    make: Box<dyn Fn() -> Vec<(Labelled, Call)> + Send + Sync>,
}

impl Case {
    pub(crate) fn new(
        name: impl Into<String>,
        make: impl Fn() -> Vec<(Labelled, Call)> + Send + Sync + 'static,
    ) -> Self {
        Case { name: name.into(), make: Box::new(make) }
    }

    /// A case of one call, which is kept.
    pub(crate) fn single(name: &str, make: impl Fn() -> Call + Send + Sync + 'static) -> Self {
        Case::new(name, move || vec![(Labelled { label: "all".into(), record: true }, make())])
    }

    pub(crate) fn calls(&self) -> Vec<(Labelled, Call)> {
        (self.make)()
    }
}

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    [wgmma::cases(), tma::cases(), matrix::cases(), threads::cases(), math::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// What the model says that a call gives. Where the hardware is free, this is one of its choices.
pub(crate) fn predict(call: &Call) -> Outcome {
    match call.symbol.as_str() {
        symbol if symbol.starts_with("probe_wgmma") => wgmma::predict(call),
        symbol if symbol.starts_with("probe_tma") => tma::predict(call),
        symbol if symbol.starts_with("probe_matrix") => matrix::predict(call),
        "probe_math" => math::predict(call),
        _ => threads::predict(call),
    }
}

/// Whether the model allows what a call gave.
pub(crate) fn judge(call: &Call, seen: &Outcome) -> Result<(), String> {
    let expected = predict(call);
    if expected == *seen {
        return Ok(());
    }
    match call.symbol.as_str() {
        "probe_math" => math::judge(call, seen),
        symbol if symbol.starts_with("probe_wgmma") => wgmma::judge(call, seen),
        "probe_warp" => threads::judge_warp(call, seen),
        symbol if symbol.starts_with("probe_tma_load") => tma::judge_load(call, seen),
        _ => Err(difference(&expected, seen)),
    }
}

/// How two different outcomes differ.
pub(crate) fn difference(expected: &Outcome, seen: &Outcome) -> String {
    let bytes = |what: &str, expected: &[u8], seen: &[u8]| {
        if expected.len() != seen.len() {
            return Some(format!("{} bytes of {what} instead of {}", seen.len(), expected.len()));
        }
        let wrong: Vec<usize> = (0..seen.len()).filter(|&i| seen[i] != expected[i]).collect();
        wrong.first().map(|&i| {
            let (seen, expected, wrong) = (seen[i], expected[i], wrong.len());
            format!("byte {i:#x} of the {what} is {seen:#04x} instead of {expected:#04x}; {wrong} are wrong")
        })
    };
    if let Some(text) = bytes("output", &expected.output.0, &seen.output.0) {
        return text;
    }
    match (&expected.memory, &seen.memory) {
        (Some(expected), Some(seen)) => bytes("tensor", &expected.0, &seen.0).unwrap_or_default(),
        (None, _) => "the tensor changed".into(),
        (_, None) => "the tensor did not change".into(),
    }
}
