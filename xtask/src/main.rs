//! `cargo xtask <verb>`: everything one does with this repository beyond `cargo build`. One verb, one file.

mod baseline;
mod bench;
mod build;
mod bundle;
mod cargo;
mod gate;
mod lab;
mod mutate;
mod profile;
mod progress;
mod python;
mod report;
mod sanitize;
mod sass;
mod setup;
mod test;
mod tools;
mod tune;
mod wheel;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests, times and inspects flashcore", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Setup(setup::Setup),
    Build(build::Build),
    Gate(gate::Gate),
    Mutate(mutate::Mutate),
    Test(test::Test),
    Bench(bench::Bench),
    Tune(tune::Tune),
    Report(report::Report),
    Lab(lab::Lab),
    Profile(profile::Profile),
    Sanitize(sanitize::Sanitize),
    Bundle(bundle::Bundle),
    Wheel(wheel::Wheel),
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    let workspace = Workspace::locate()?;
    match verb {
        Verb::Setup(verb) => verb.run(&workspace),
        Verb::Build(verb) => verb.run(&workspace),
        Verb::Gate(verb) => verb.run(&workspace),
        Verb::Mutate(verb) => verb.run(&workspace),
        Verb::Test(verb) => verb.run(&workspace),
        Verb::Bench(verb) => verb.run(&workspace),
        Verb::Tune(verb) => verb.run(&workspace),
        Verb::Report(verb) => verb.run(&workspace),
        Verb::Lab(verb) => verb.run(&workspace),
        Verb::Profile(verb) => verb.run(&workspace),
        Verb::Sanitize(verb) => verb.run(&workspace),
        Verb::Bundle(verb) => verb.run(&workspace),
        Verb::Wheel(verb) => verb.run(&workspace),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_verb_shows_an_example() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for verb in cli.get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains(&format!("cargo xtask {}", verb.get_name())),
                "{}: {help:?}",
                verb.get_name()
            );
        }
    }
}
