//! Whatever the text, parsing ends with a module or with an error that points into the text; and what parses can be
//! checked and launched.

use flashcore_emulator::ir::{Cfg, Module};
use flashcore_emulator::lint::{self, Config};
use proptest::prelude::*;

const PIPELINE: &str = include_str!("ptx/pipeline.ptx");
const GRAMMAR: &str = include_str!("ptx/grammar.ptx");

/// Parses; what parses has branches inside of its code.
fn check(text: &str) -> Result<(), TestCaseError> {
    match Module::parse(text) {
        Ok(module) => {
            lint::check(&module, &Config { constant_time: true, ..Config::default() });
            for kernel in &module.kernels {
                let cfg = Cfg::of(kernel);
                prop_assert_eq!(
                    cfg.blocks().last().map(|block| block.code.end as usize),
                    Some(kernel.code.len())
                );
            }
        }
        Err(error) => {
            let line = text.split('\n').nth(error.line as usize - 1);
            let length = line.map(|line| line.chars().count() as u32);
            prop_assert!(length.is_some_and(|length| (1..=length + 1).contains(&error.column)), "{error}");
            prop_assert!(!error.what.to_string().is_empty());
        }
    }
    Ok(())
}

/// Words and punctuation of a text; joined with blanks they mean the same.
fn tokens(text: &str) -> Vec<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let text = code.collect::<Vec<_>>().join("\n");
    let mut tokens = vec![String::new()];
    for c in text.chars() {
        let joins = c.is_alphanumeric() || "._$%:".contains(c);
        if c.is_whitespace() || !joins {
            tokens.push(if c.is_whitespace() { String::new() } else { c.to_string() });
            tokens.push(String::new());
        } else if let Some(last) = tokens.last_mut() {
            last.push(c);
        }
    }
    tokens.retain(|token| !token.is_empty());
    tokens
}

#[derive(Clone, Debug)]
enum Mutation {
    Delete(prop::sample::Index),
    Duplicate(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Replace(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    use Mutation::*;
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Delete),
        index().prop_map(Duplicate),
        (index(), index()).prop_map(|(a, b)| Swap(a, b)),
        (index(), index()).prop_map(|(a, b)| Replace(a, b)),
    ]
}

fn mutated(mut parts: Vec<String>, mutations: &[Mutation]) -> Vec<String> {
    for mutation in mutations {
        if parts.len() < 2 {
            break;
        }
        let length = parts.len();
        let at = |index: &prop::sample::Index| index.index(length);
        match mutation {
            Mutation::Delete(a) => drop(parts.remove(at(a))),
            Mutation::Duplicate(a) => parts.insert(at(a), parts[at(a)].clone()),
            Mutation::Swap(a, b) => parts.swap(at(a), at(b)),
            Mutation::Replace(a, b) => parts[at(a)] = parts[at(b)].clone(),
        }
    }
    parts
}

#[test]
fn the_texts_to_mutate_parse_as_they_are_and_as_tokens() {
    for text in [PIPELINE, GRAMMAR] {
        Module::parse(text).unwrap_or_else(|error| panic!("{error}"));
        Module::parse(&tokens(text).join(" ")).unwrap_or_else(|error| panic!("{error}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_characters(text in "\\PC{0,200}") {
        check(&text)?;
    }

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn token_soup(picks in prop::collection::vec(any::<prop::sample::Index>(), 0..60)) {
        let words = tokens(&format!("{PIPELINE}{GRAMMAR}"));
        let soup: Vec<_> = picks.iter().map(|pick| words[pick.index(words.len())].as_str()).collect();
        check(&soup.join(" "))?;
        check(&format!(".version 8.0 .target sm_90a .entry k() {{ {} }}", soup.join(" ")))?;
    }

    #[test]
    fn mutated_tokens(which in any::<bool>(), mutations in prop::collection::vec(mutation(), 1..4)) {
        let text = if which { PIPELINE } else { GRAMMAR };
        check(&mutated(tokens(text), &mutations).join(" "))?;
    }

    #[test]
    fn mutated_lines(which in any::<bool>(), mutations in prop::collection::vec(mutation(), 1..6)) {
        let text = if which { PIPELINE } else { GRAMMAR };
        let lines = text.lines().map(str::to_owned).collect();
        check(&mutated(lines, &mutations).join("\n"))?;
    }

    #[test]
    fn cut_short(which in any::<bool>(), at in any::<prop::sample::Index>()) {
        let text = if which { PIPELINE } else { GRAMMAR };
        check(&text[..at.index(text.len())])?;
    }
}

/// Mutants of correct kernels, launched as their kernel is.
#[cfg(feature = "cli")]
mod launches {
    use flashcore_emulator::workload::Workload;
    use flashcore_emulator::{Completion, Device, Limits, Options};

    use super::*;

    const KERNELS: [&str; 6] = [
        include_str!("kernels/clean/tma_ring.ptx"),
        include_str!("kernels/clean/wgmma_rs_pipeline.ptx"),
        include_str!("kernels/clean/divergent_votes.ptx"),
        include_str!("kernels/clean/cluster_exchange.ptx"),
        include_str!("kernels/clean/bulk_reduce.ptx"),
        include_str!("kernels/clean/registers.ptx"),
    ];

    const NUMBERS: [&str; 14] = [
        "0",
        "1",
        "-1",
        "2",
        "7",
        "8",
        "16",
        "31",
        "32",
        "64",
        "1000",
        "0x7FFFFFFF",
        "0x80000000",
        "0xFFFFFFFF",
    ];

    /// Launches a text, if it parses; whether the device took it.
    fn launch(text: &str, workload: &Workload, completion: Completion) -> bool {
        let Ok(module) = Module::parse(text) else { return false };
        let Some(kernel) = module.kernels.first() else { return false };
        let mut device = Device::new(Limits::h200());
        let prepared = workload.prepare(&mut device, 0).expect("the arguments are those of a correct kernel");
        let options = Options { completion, instruction_limit: 20_000, ..Options::default() };
        prepared.launch(&mut device, &module, kernel, &options).is_ok()
    }

    fn workload(text: &str) -> Workload {
        let workload = Workload::of_comment(text).expect("the comment of a correct kernel is right");
        workload.expect("a correct kernel says how it is launched")
    }

    #[test]
    fn the_kernels_to_mutate_run_as_tokens() {
        for text in KERNELS {
            assert!(launch(&tokens(text).join(" "), &workload(text), Completion::Lazy));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Whatever a mutant does, it ends with an error or a report.
        #[test]
        fn mutants_run(
            which in any::<prop::sample::Index>(),
            mutations in prop::collection::vec(mutation(), 1..4),
            (words, eager) in any::<(bool, bool)>(),
        ) {
            let text = which.get(&KERNELS);
            // Lost or misplaced lines mostly leave a kernel that runs, lost words seldom do.
            let mutant = match words {
                true => mutated(tokens(text), &mutations).join(" "),
                false => mutated(text.lines().map(str::to_owned).collect(), &mutations).join("\n"),
            };
            let completion = if eager { Completion::Eager } else { Completion::Lazy };
            launch(&mutant, &workload(text), completion);
        }

        /// The same with numbers that are too small, too large or just not those that belong there.
        #[test]
        fn mutants_with_other_numbers_run(
            which in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&NUMBERS[..])), 1..4),
        ) {
            let text = which.get(&KERNELS);
            let mut words = tokens(text);
            let numbers: Vec<usize> =
                (0..words.len()).filter(|&at| words[at].starts_with(|c: char| c.is_ascii_digit())).collect();
            for (at, number) in changes {
                words[*at.get(&numbers)] = number.to_owned();
            }
            launch(&words.join(" "), &workload(text), Completion::Lazy);
        }
    }
}
