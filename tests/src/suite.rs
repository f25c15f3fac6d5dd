//! Tests that need something the machine may lack. Where it lacks it, they are listed as ignored, with the reason.

use std::process::ExitCode;
use std::sync::Arc;

use flashcore::Device;
use libtest_mimic::{Arguments, Failed, Trial};

/// The devices to test on, by name, or why there are none.
pub fn backends() -> Result<Vec<(String, Device)>, String> {
    match Device::cuda(0) {
        Ok(device) => Ok(vec![("cuda".into(), device)]),
        Err(error) => Err(format!("skipped: no CUDA device ({error})")),
    }
}

/// Tests that all need a `T`.
pub struct Suite<T> {
    resources: Result<Vec<(String, T)>, String>,
    trials: Vec<Trial>,
}

impl<T: Clone + Send + 'static> Suite<T> {
    /// A suite that runs each of its tests once on each of the `resources`.
    pub fn on(resources: Result<Vec<(String, T)>, String>) -> Self {
        Suite { resources, trials: Vec::new() }
    }

    /// Adds a test. It fails by panicking or by returning an error.
    pub fn test<E: std::fmt::Display>(
        &mut self,
        name: impl Into<String>,
        test: impl Fn(&T) -> Result<(), E> + Send + Sync + 'static,
    ) {
        let name = name.into();
        let test = Arc::new(test);
        match &self.resources {
            Ok(resources) => self.trials.extend(resources.iter().map(|(resource_name, resource)| {
                let (test, resource) = (test.clone(), resource.clone());
                Trial::test(format!("{resource_name}::{name}"), move || {
                    test(&resource).map_err(|error| Failed::from(error.to_string()))
                })
            })),
            Err(reason) => {
                let failure = Failed::from(reason.clone());
                self.trials
                    .push(Trial::test(name, move || Err(failure)).with_kind(reason).with_ignored_flag(true));
            }
        }
    }

    /// These tests, and those of a suite that needs something else.
    pub fn and<U>(mut self, other: Suite<U>) -> Self {
        self.trials.extend(other.trials);
        self
    }

    /// Runs the tests that the command line asks for.
    pub fn run(self) -> ExitCode {
        libtest_mimic::run(&Arguments::from_args(), self.trials).exit_code()
    }

    /// Runs them one at a time: for tests that no other call of the device may disturb.
    pub fn run_serially(self) -> ExitCode {
        let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
        libtest_mimic::run(&arguments, self.trials).exit_code()
    }
}
