//! The page that shows what every defect is told about.

use std::fmt::Write;

use flashcore_emulator::{Code, Options};

use crate::corpus::{Sample, run};

const HEAD: &str = "# Every finding, with a kernel that gets it

This page is written by a test: each kernel is in `emulator/tests/kernels/defects`, and the message is what the emulator
says about it today, with its default options. [The guide](emulator.md) says how to run them.
";

/// The page: every code, its meaning, and the message that each of its kernels gets.
pub(crate) fn write(samples: &[Sample]) -> String {
    let mut page = HEAD.to_owned();
    for code in Code::ALL {
        let mut examples = samples.iter().filter(|sample| sample.code() == Some(*code)).peekable();
        if examples.peek().is_none() {
            continue;
        }
        write!(page, "\n## {code}\n\n{}\n", code.meaning()).expect("a string takes all");
        for sample in examples {
            let options = Options { instruction_limit: 1_000_000, ..Options::default() };
            let report = run(sample, &options).unwrap_or_else(|why| panic!("{}: {why}", sample.name)).report;
            let finding = report.findings.iter().find(|finding| finding.code == *code);
            let message = finding.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            let (name, about) = (&sample.name, sample.description());
            write!(page, "\n**`{name}.ptx`** {about}\n\n```text\n{message}\n```\n")
                .expect("a string takes all");
        }
    }
    page
}
