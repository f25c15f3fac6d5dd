//! What each kernel takes, beside what it took when somebody last wrote it down.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use flashcore_ptx_builder::{Artifact, BuildReport};
use serde::{Deserialize, Serialize};

/// Where it is written down.
pub(crate) const FILE: &str = "docs/results/baseline.json";

/// Every kernel, by name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// Version of ptxas.
    pub(crate) ptxas: String,
    pub(crate) kernels: BTreeMap<String, Cost>,
}

/// What a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Registers of a thread at launch.
    registers: u32,
    /// Shared memory of a CTA, in bytes.
    smem_bytes: u32,
    /// Spill stores and loads, in bytes.
    spill_bytes: u32,
    /// Instructions of the PTX.
    ptx_instructions: usize,
    /// Those of them that are warpgroup products.
    wgmma: usize,
    /// Size of the machine code with all that goes along.
    cubin_bytes: u64,
}

/// A figure: its heading, and itself.
type Figure = (&'static str, fn(&Cost) -> u64);

/// Figures, in the order of the table.
const FIGURES: [Figure; 6] = [
    ("regs", |cost| cost.registers.into()),
    ("smem", |cost| cost.smem_bytes.into()),
    ("spills", |cost| cost.spill_bytes.into()),
    ("PTX", |cost| cost.ptx_instructions as u64),
    ("wgmma", |cost| cost.wgmma as u64),
    ("cubin", |cost| cost.cubin_bytes),
];

impl Cost {
    fn of(artifact: &Artifact) -> Result<Self> {
        let resources =
            artifact.resources.context("what a kernel takes is known of machine code: this needs ptxas")?;
        let cubin = artifact.cubin.as_deref().context("an assembled kernel has machine code")?;
        let size = cubin.metadata().with_context(|| format!("{} was just written", cubin.display()))?;
        Ok(Cost {
            registers: resources.registers,
            smem_bytes: artifact.entry.smem_bytes + resources.static_smem_bytes,
            spill_bytes: resources.spill_bytes,
            ptx_instructions: artifact.verdict.opcodes.values().sum(),
            wgmma: artifact.verdict.count("wgmma.mma_async"),
            cubin_bytes: size.len(),
        })
    }
}

impl Baseline {
    /// What a build came to.
    ///
    /// # Errors
    /// It was not assembled.
    pub(crate) fn of(report: &BuildReport, ptxas: &str) -> Result<Self> {
        let cost = |artifact: &Artifact| Ok((artifact.entry.symbol.to_owned(), Cost::of(artifact)?));
        let kernels = report.artifacts.iter().map(cost).collect::<Result<_>>()?;
        Ok(Baseline { ptxas: ptxas.to_owned(), kernels })
    }

    /// What was written down; nothing, if nobody did.
    ///
    /// # Errors
    /// The file is something else.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Ok(Baseline::default());
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no baseline", path.display()))
    }

    /// Writes it down.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// A row for each kernel: its figures, and what they were where they changed. Kernels that are gone come last.
    pub(crate) fn table(&self, before: &Baseline) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["kernel", ""].into_iter().chain(FIGURES.map(|(heading, _)| heading)));
        for (symbol, cost) in &self.kernels {
            let was = before.kernels.get(symbol);
            let figure = |of: fn(&Cost) -> u64| match was.map(of).filter(|was| *was != of(cost)) {
                Some(was) => format!("{was} -> {}", of(cost)),
                None => of(cost).to_string(),
            };
            let state = match was {
                None => "new",
                Some(was) if was == cost => "",
                Some(_) => "changed",
            };
            let figures = FIGURES.map(|(_, of)| figure(of));
            table.add_row([symbol.clone(), state.to_owned()].into_iter().chain(figures));
        }
        for (symbol, cost) in before.kernels.iter().filter(|(symbol, _)| !self.kernels.contains_key(*symbol))
        {
            let figures = FIGURES.map(|(_, of)| of(cost).to_string());
            table.add_row([symbol.clone(), "gone".to_owned()].into_iter().chain(figures));
        }
        table.column_iter_mut().skip(2).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table
    }

    /// How many kernels changed, in a sentence.
    pub(crate) fn summary(&self, before: &Baseline) -> String {
        let is_other = |(symbol, cost): &(&String, &Cost)| before.kernels.get(*symbol) != Some(*cost);
        let changed = self.kernels.iter().filter(is_other).count();
        let gone = before.kernels.keys().filter(|symbol| !self.kernels.contains_key(*symbol)).count();
        let assembler = match before.ptxas == self.ptxas {
            true => format!("ptxas {}", self.ptxas),
            false => format!("ptxas {} instead of {:?}", self.ptxas, before.ptxas),
        };
        format!(
            "{changed} of {} kernels are not as in {FILE}, {gone} are gone ({assembler})",
            self.kernels.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        registers: 168,
        smem_bytes: 200_000,
        spill_bytes: 0,
        ptx_instructions: 2000,
        wgmma: 40,
        cubin_bytes: 30_000,
    };

    fn baseline(kernels: &[(&str, Cost)]) -> Baseline {
        let kernels = kernels.iter().map(|&(symbol, cost)| (symbol.to_owned(), cost)).collect();
        Baseline { ptxas: "13.0.88".to_owned(), kernels }
    }

    #[test]
    fn what_changed_is_shown_with_what_it_was() {
        let before = baseline(&[("same", COST), ("worse", COST), ("gone", COST)]);
        let now = baseline(&[("same", COST), ("worse", Cost { spill_bytes: 16, ..COST }), ("new", COST)]);
        let table = now.table(&before).to_string();
        assert_eq!(table.matches("->").count(), 1, "{table}");
        assert!(table.contains("0 -> 16") && table.contains("gone") && table.contains("new"), "{table}");
        assert_eq!(
            now.summary(&before),
            "2 of 3 kernels are not as in docs/results/baseline.json, 1 are gone (ptxas 13.0.88)"
        );
        assert!(now.summary(&now).starts_with("0 of 3"));
    }

    #[test]
    fn what_is_written_can_be_read_and_nothing_is_no_error() {
        let path = std::env::temp_dir().join(format!("flashcore-baseline-{}.json", std::process::id()));
        assert_eq!(Baseline::read(&path).unwrap(), Baseline::default());
        let now = baseline(&[("kernel", COST)]);
        now.write(&path).unwrap();
        assert_eq!(Baseline::read(&path).unwrap(), now);
        std::fs::write(&path, "{}").unwrap();
        assert!(Baseline::read(&path).is_err());
        std::fs::remove_file(path).unwrap();
    }
}
