//! Tests that need something the machine may lack, or that is slow. What cannot run is listed as ignored, with the
//! reason.

use std::collections::HashSet;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;

use flashcore::driver::{Completion, EmulatorOptions};
use flashcore::{Device, Dtype};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::cases::Case;
use crate::device;

/// Floating-point operations of a test that the emulator takes: half a second's worth.
const EMULATED_FLOPS: f64 = 0.45e9;

/// Something that tests run on, or why there is none.
#[derive(Clone)]
pub struct Resource<T> {
    name: String,
    open: Result<Opener<T>, String>,
    /// Floating-point operations that one test may ask of it.
    flops: f64,
}

/// Makes the resource, anew for each test, so that tests that run side by side do not wait for each other.
type Opener<T> = Arc<dyn Fn() -> T + Send + Sync>;

impl<T: Clone + Send + Sync + 'static> Resource<T> {
    /// A value that all tests share, or why there is none.
    pub fn new(name: impl Into<String>, value: Result<T, String>) -> Self {
        let open = value.map(|value| Arc::new(move || value.clone()) as Opener<T>);
        Resource { name: name.into(), open, flops: f64::INFINITY }
    }
}

impl Resource<Device> {
    /// The first CUDA device.
    pub fn cuda() -> Self {
        let device = Device::cuda(0).map_err(|error| format!("skipped: no CUDA device ({error})"));
        Resource::new("cuda", device)
    }

    /// An emulated device. It takes small tests only.
    pub fn emulated(name: impl Into<String>, options: EmulatorOptions) -> Self {
        let open: Opener<Device> = Arc::new(move || Device::emulated_with(&options));
        Resource { name: name.into(), open: Ok(open), flops: EMULATED_FLOPS }
    }
}

/// The devices to test on.
pub fn backends() -> Vec<Resource<Device>> {
    vec![Resource::cuda(), few_sms()]
}

/// An emulated device of so few SMs that a CTA takes several work tiles.
pub fn few_sms() -> Resource<Device> {
    Resource::emulated("emulated", EmulatorOptions { sm_count: 4, ..EmulatorOptions::default() })
}

/// Emulated devices where events happen in other orders than on that of [`backends`]: for a few small tests.
pub fn other_schedules() -> Vec<Resource<Device>> {
    let schedules = [(0, Completion::Eager), (1, Completion::Lazy), (2, Completion::Random)];
    let resource = |(seed, completion)| {
        let name = format!("emulated_{completion:?}_{seed}").to_lowercase();
        Resource::emulated(name, EmulatorOptions { seed, completion, ..EmulatorOptions::default() })
    };
    schedules.map(resource).into()
}

/// Tests that all need a `T`.
pub struct Suite<T> {
    resources: Vec<Resource<T>>,
    trials: Vec<Trial>,
    /// Names of cases, so that none is run twice.
    cases: HashSet<String>,
}

impl<T: Send + 'static> Suite<T> {
    /// A suite that runs each of its tests once on each of the `resources`.
    pub fn on(resources: Vec<Resource<T>>) -> Self {
        Suite { resources, trials: Vec::new(), cases: HashSet::new() }
    }

    /// Adds a test. It fails by panicking or by returning an error.
    pub fn test<E: Display>(
        &mut self,
        name: impl Display,
        test: impl Fn(&T) -> Result<(), E> + Send + Sync + 'static,
    ) {
        let test = Arc::new(test);
        for resource in &self.resources {
            let test = test.clone();
            self.trials.push(resource.trial(&name, move |value| test(value)));
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

impl Suite<Device> {
    /// Adds a test of the first of `cases` that is not too much for the device, if all kernels run it `runs` times.
    pub fn case<E: Display>(
        &mut self,
        prefix: &str,
        cases: &[Case],
        dtype: Dtype,
        runs: usize,
        test: impl Fn(&Device, &Case) -> Result<(), E> + Send + Sync + 'static,
    ) {
        let test = Arc::new(test);
        for resource in &self.resources {
            let flops = |case: &&Case| runs as f64 * device::work(case, dtype);
            let fitting = cases.iter().find(|case| flops(case) <= resource.flops);
            let Some(&case) = fitting.or(cases.last()) else { continue };
            let name = format!("{prefix}{}", device::name(&case, dtype));
            if !self.cases.insert(format!("{}::{name}", resource.name)) {
                continue;
            }
            let test = test.clone();
            self.trials.push(match fitting {
                Some(_) => resource.trial(name, move |device| test(device, &case)),
                None => {
                    let (needed, limit) = (flops(&&case) / 1e9, resource.flops / 1e9);
                    resource.skipped(name, format!("skipped: {needed:.1} GFLOP, more than {limit}"))
                }
            });
        }
    }
}

impl<T: Send + 'static> Resource<T> {
    fn trial<E: Display>(
        &self,
        name: impl Display,
        test: impl Fn(&T) -> Result<(), E> + Send + 'static,
    ) -> Trial {
        match &self.open {
            Ok(open) => {
                let open = open.clone();
                Trial::test(format!("{}::{name}", self.name), move || {
                    test(&open()).map_err(|error| Failed::from(error.to_string()))
                })
            }
            Err(reason) => self.skipped(name, reason.clone()),
        }
    }

    fn skipped(&self, name: impl Display, reason: String) -> Trial {
        let failure = Failed::from(reason.clone());
        Trial::test(format!("{}::{name}", self.name), move || Err(failure))
            .with_kind(reason)
            .with_ignored_flag(true)
    }
}
