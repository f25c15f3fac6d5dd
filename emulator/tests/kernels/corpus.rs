//! Kernels in files, and what their comments say about them.

use std::fs;
use std::path::Path;

use flashcore_emulator::ir::Module;
use flashcore_emulator::workload::Workload;
use flashcore_emulator::{Code, Completion, Device, Limits, Options, Report};

/// When asynchronous operations may happen.
pub(crate) const POLICIES: [Completion; 3] = [Completion::Eager, Completion::Lazy, Completion::Random];

/// A kernel in a file.
pub(crate) struct Sample {
    /// The file's name without its extension.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// The kernels of a folder, by name.
pub(crate) fn samples(folder: &str) -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels").join(folder);
    let files = fs::read_dir(&folder).expect("the folder of kernels can be read");
    let mut samples: Vec<Sample> = files
        .map(|file| {
            let path = file.expect("the folder of kernels can be read").path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Sample { name, text: fs::read_to_string(&path).expect("a kernel can be read") }
        })
        .collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    samples
}

impl Sample {
    /// The code that the name starts with, such as `E05` of `E05_store_then_write`.
    pub(crate) fn code(&self) -> Option<Code> {
        code(self.name.split('_').next().unwrap_or_default())
    }

    /// The line that `// here` or `// there` stands on; a line can be both.
    pub(crate) fn marked(&self, mark: &str) -> Option<u32> {
        let comment = format!("// {mark}");
        let line = self.text.lines().position(|line| line.contains(&comment))?;
        Some(line as u32 + 1)
    }

    /// Codes that may be found beside, by the comment `// also: E05 E11`.
    pub(crate) fn also(&self) -> Vec<Code> {
        let words = self.text.lines().find_map(|line| line.strip_prefix("// also:")).unwrap_or_default();
        words.split_whitespace().filter_map(code).collect()
    }

    /// What the comment at the top says about the kernel.
    pub(crate) fn description(&self) -> String {
        let comment = self.text.lines().take_while(|line| line.starts_with("//"));
        let words: Vec<&str> = comment
            .filter(|line| !line.starts_with("// launch:") && !line.starts_with("// also:"))
            .map(|line| line.trim_start_matches("//").trim())
            .collect();
        words.join(" ")
    }
}

fn code(name: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|code| format!("{code:?}") == name)
}

/// What came of a launch.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    /// What the memory of each argument that has some held before; nothing where it was not written.
    pub(crate) inputs: Vec<Vec<u8>>,
    /// What the outputs held after.
    pub(crate) outputs: Vec<Vec<u8>>,
}

/// Launches a kernel as its comment says.
pub(crate) fn run(sample: &Sample, options: &Options) -> Result<Outcome, String> {
    let module = Module::parse(&sample.text).map_err(|error| error.to_string())?;
    let workload = Workload::of_comment(&sample.text).map_err(|error| error.to_string())?;
    let workload = workload.ok_or("no `// launch:` comment")?;
    let mut device = Device::new(Limits::h200());
    let prepared = workload.prepare(&mut device, options.seed).map_err(|error| error.to_string())?;
    let report = prepared
        .launch(&mut device, &module, &module.kernels[0], options)
        .map_err(|error| error.to_string())?;
    let outputs = prepared.outputs(&device).map_err(|error| error.to_string())?;
    let inputs = prepared.buffers.into_iter().map(|buffer| buffer.before.unwrap_or_default()).collect();
    Ok(Outcome { report, inputs, outputs })
}
