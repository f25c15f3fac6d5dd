//! Counting machine instructions.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use flashcore_ptx_builder::Artifact;
use xshell::{Shell, cmd};

use crate::tools::run_quietly;

/// Always shown: tensor cores, TMA and synchronisation, which are few.
const LANDMARKS: [&str; 6] = ["HGMMA", "WARPGROUP", "UTMALDG", "UTMASTG", "SYNCS", "BAR"];
/// So many of the most frequent mnemonics are shown beside them; the others are summed up.
const FREQUENT: usize = 9;

type Counts = BTreeMap<String, usize>;

/// How often each mnemonic stands in the machine code of each kernel.
pub(crate) fn histogram(nvdisasm: &Path, artifacts: &[Artifact]) -> Result<Table> {
    let shell = Shell::new()?;
    let mut kernels = Vec::new();
    for artifact in artifacts {
        let cubin = artifact.cubin.as_deref().context("machine code needs ptxas")?;
        let text = run_quietly(cmd!(shell, "{nvdisasm} {cubin}"))?;
        kernels.push((artifact.entry.symbol, count(&text)));
    }
    let mut totals = Counts::new();
    for (mnemonic, count) in kernels.iter().flat_map(|(_, counts)| counts) {
        *totals.entry(mnemonic.clone()).or_default() += count;
    }
    let mut frequent: Vec<_> =
        totals.iter().filter(|(name, _)| !LANDMARKS.contains(&name.as_str())).collect();
    frequent.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let frequent = frequent.into_iter().take(FREQUENT).map(|(name, _)| name.as_str());
    let columns: Vec<_> = LANDMARKS.into_iter().chain(frequent).collect();

    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["kernel", "all"].into_iter().chain(columns.iter().copied()).chain(["other"]));
    for (kernel, counts) in &kernels {
        let all: usize = counts.values().sum();
        let shown: Vec<_> =
            columns.iter().map(|name| counts.get(*name).copied().unwrap_or_default()).collect();
        let other = all - shown.iter().sum::<usize>();
        let numbers = std::iter::once(all).chain(shown).chain([other]).map(|number| number.to_string());
        table.add_row(std::iter::once((*kernel).to_owned()).chain(numbers));
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    Ok(table)
}

/// Counts the mnemonics (without modifiers) in what nvdisasm prints.
fn count(sass: &str) -> Counts {
    let mut counts = Counts::new();
    for instruction in sass.lines().filter_map(instruction) {
        let mut words = instruction.split_whitespace().filter(|word| !word.starts_with('@'));
        let mnemonic = words.next().and_then(|word| word.split(['.', ';']).next()).unwrap_or_default();
        *counts.entry(mnemonic.to_owned()).or_default() += 1;
    }
    counts
}

/// What follows the address: `/*00a0*/  @!P0 LDG.E R2, [R4] ;`.
fn instruction(line: &str) -> Option<&str> {
    let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    (address.chars().all(|c| c.is_ascii_hexdigit()) && rest.contains(';')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnemonics_are_counted_without_modifiers_and_predicates() {
        let sass = "\
            .text.k:\n\
            .L_x_1:\n        \
            /*0000*/                   LDC R1, c[0x0][0x28] ;\n        \
            /*0010*/              @!P0 MUFU.EX2 R2, R2 ;\n        \
            /*0020*/                   MUFU.RCP R3, R2 ;\n        \
            /*0030*/                   EXIT ;\n\
            /* a comment; */\n";
        let expected = [("EXIT", 1), ("LDC", 1), ("MUFU", 2)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(count(sass), Counts::from(expected));
    }
}
