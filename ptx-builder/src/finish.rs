//! The PTX finishing step: what rustc cannot say.
//!
//! - One module becomes one self-contained PTX text for each entry point, so that each is loaded on its own.
//! - Tensor maps (parameters of 128 bytes) get the 64-byte alignment that TMA wants; rustc knows at most 16.
//! - Launch bounds are stated. Without `.maxntid` ptxas ignores `setmaxnreg` and serialises wgmma.
//! - With line tables rustc also writes DWARF sections that ptxas does not parse; only `.file` and `.loc` stay,
//!   which is all that profilers need to show source lines.

use std::collections::HashSet;
use std::fmt::Write;

use flashcore_kernels::entry::Entry;

use crate::{Error, Result};

/// The finished PTX of each of `entries`, from the texts of the modules that rustc wrote.
///
/// # Errors
/// [`Error::MissingEntry`] if the modules lack one of them; [`Error::MalformedPtx`] if one is no PTX module.
pub fn finish(modules: &[impl AsRef<str>], entries: &[Entry]) -> Result<Vec<String>> {
    let texts: Vec<_> = modules.iter().map(|module| without_block_comments(module.as_ref())).collect();
    let modules = texts.iter().map(|text| Module::parse(text)).collect::<Result<Vec<_>>>()?;
    let finished = |entry: &Entry| {
        let found = modules.iter().find_map(|module| Some(module.only(entry, module.entry(entry.symbol)?)));
        found.ok_or_else(|| Error::MissingEntry { kernel: entry.symbol.to_owned() })
    };
    entries.iter().map(finished).collect()
}

/// A PTX module cut into its top-level items.
#[derive(Debug, Default)]
struct Module<'a> {
    /// `.version`, `.target` and `.address_size`.
    header: Vec<&'a str>,
    /// Source files of the line tables.
    files: Vec<&'a str>,
    items: Vec<Item<'a>>,
}

/// A variable, a function or an entry point.
#[derive(Debug)]
struct Item<'a> {
    name: &'a str,
    lines: Vec<&'a str>,
}

impl<'a> Module<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let mut module = Module::default();
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let first = code(line);
            match first.split_whitespace().next().unwrap_or_default() {
                "" => {}
                ".target" => module.header.push(first.trim_end_matches(", debug")),
                ".version" | ".address_size" => module.header.push(first),
                ".file" => module.files.push(line.trim()),
                label if label.ends_with(':') => {} // `$L__sec_end0:`, of the DWARF sections
                word => {
                    let item: Vec<_> = take_item(line, lines.by_ref().map(|(_, line)| line));
                    if word == ".section" {
                        continue;
                    }
                    let malformed =
                        |expected| Error::MalformedPtx { line: index + 1, expected, text: line.to_owned() };
                    let name = name(first).ok_or_else(|| malformed("a declaration"))?;
                    module.items.push(Item { name, lines: item });
                }
            }
        }
        Ok(module)
    }

    /// The entry point of this name.
    fn entry(&self, symbol: &str) -> Option<&Item<'a>> {
        self.items.iter().find(|item| item.name == symbol && item.is_entry())
    }

    /// The PTX that holds `entry`, which is `root`, and what it needs.
    fn only(&self, entry: &Entry, root: &Item<'a>) -> String {
        let needed = self.needed_by(root);
        let mut ptx = String::new();
        for line in self.header.iter().chain(&self.files) {
            ptx += line;
            ptx += "\n";
        }
        for item in self.items.iter().filter(|item| needed.contains(item.name)) {
            ptx += "\n";
            if item.name == entry.symbol { item.write_entry(entry, &mut ptx) } else { item.write(&mut ptx) }
        }
        ptx
    }

    /// The names of `root` and of all items that it reaches.
    fn needed_by(&self, root: &Item<'a>) -> HashSet<&'a str> {
        let mut needed = HashSet::from([root.name]);
        let mut open = vec![root.name];
        while let Some(name) = open.pop() {
            let words: HashSet<_> =
                self.items.iter().filter(|item| item.name == name).flat_map(Item::words).collect();
            let reached = self.items.iter().map(|item| item.name).filter(|name| words.contains(name));
            open.extend(reached.filter(|name| needed.insert(name)));
        }
        needed
    }
}

impl<'a> Item<'a> {
    fn is_entry(&self) -> bool {
        self.lines[0].contains(".entry ")
    }

    fn words(&self) -> impl Iterator<Item = &'a str> {
        self.lines.iter().flat_map(|line| line.split(|c| !is_name(c)))
    }

    /// The item as it is, without comments and without the labels that only DWARF refers to: a third less text to
    /// embed.
    fn write(&self, ptx: &mut String) {
        for line in self.lines.iter().filter(|line| !code(line).is_empty() && !is_debug_label(line)) {
            ptx.push_str(line);
            ptx.push('\n');
        }
    }

    /// The item as a finished entry point: aligned tensor maps and launch bounds.
    fn write_entry(&self, entry: &Entry, ptx: &mut String) {
        let body = self.lines.iter().position(|line| code(line) == "{").unwrap_or(self.lines.len());
        for line in &self.lines[..body] {
            let tensor_map = line.contains(".param .align 16 .b8 ") && line.contains("[128]");
            let line = if tensor_map { line.replace(".align 16", ".align 64") } else { (*line).to_owned() };
            ptx.push_str(&line);
            ptx.push('\n');
        }
        writeln!(ptx, ".maxntid {}, 1, 1\n.minnctapersm {}", entry.threads, entry.min_ctas)
            .expect("a String takes everything");
        if entry.cluster > 1 {
            writeln!(ptx, ".reqnctapercluster {}, 1, 1", entry.cluster).expect("a String takes everything");
        }
        Item { name: self.name, lines: self.lines[body..].to_vec() }.write(ptx);
    }
}

/// The lines of the item that starts with `first`: up to the brace that closes it, or to its semicolon.
fn take_item<'a>(first: &'a str, mut rest: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut item = Vec::new();
    let mut depth = 0;
    let mut next = Some(first);
    while let Some(line) = next {
        let code = code(line);
        depth += code.matches('{').count() as i64 - code.matches('}').count() as i64;
        item.push(line);
        let complete = depth == 0 && code.ends_with([';', '}']);
        next = if complete { None } else { rest.next() };
    }
    item
}

/// The name that a declaration declares.
fn name(declaration: &str) -> Option<&str> {
    let function = [".entry", ".func"].iter().find_map(|kind| declaration.split_once(kind));
    let name = match function {
        Some((_, after)) => {
            let after = after.trim_start();
            // A function may name its results first: `.func (.param .b32 retval) name(`.
            let after = if after.starts_with('(') { after.split_once(')')?.1.trim_start() } else { after };
            after.split(|c| !is_name(c)).next()?
        }
        None => declaration.split(['[', '=', ';']).next()?.split_whitespace().next_back()?,
    };
    (!name.is_empty() && name.chars().all(is_name)).then_some(name)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$')
}

/// `ptx` without its block comments; lines keep their numbers.
fn without_block_comments(ptx: &str) -> String {
    let mut text = String::with_capacity(ptx.len());
    let mut rest = ptx;
    while let Some((before, after)) = rest.split_once("/*") {
        let (comment, behind) = after.split_once("*/").unwrap_or((after, ""));
        text.push_str(before);
        text.extend(comment.chars().filter(|&c| c == '\n'));
        rest = behind;
    }
    text + rest
}

/// `line` without its comment.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code).trim()
}

fn is_debug_label(line: &str) -> bool {
    let label = line.trim();
    label.ends_with(':')
        && ["$L__tmp", "$L__func_begin", "$L__func_end"].iter().any(|prefix| label.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = include_str!("../testdata/two_entries.ptx");

    fn entry(symbol: &'static str, cluster: u32) -> Entry {
        Entry {
            symbol,
            threads: 384,
            cluster,
            min_ctas: 1,
            smem_bytes: 0,
            max_registers: 168,
            spill_limit: 0,
            public_pointers: &[],
            takes_tickets: false,
            opcodes: None,
        }
    }

    #[test]
    fn an_entry_takes_along_what_it_needs_and_no_more() {
        let ptx = finish(&[MODULE], &[entry("first", 1), entry("second", 1)]).unwrap();
        assert!(ptx[0].contains(".func  (.param .b32 func_retval0) helper("), "called by the entry");
        assert!(ptx[0].contains(".global .align 4 .b8 TABLE[16]"), "read by what the entry calls");
        assert!(!ptx[0].contains("dyn_smem") && !ptx[0].contains(".entry second"));
        assert!(ptx[1].contains(".extern .shared .align 1024 .b8 dyn_smem[];"));
        assert!(!ptx[1].contains("helper") && !ptx[1].contains("TABLE"));
    }

    #[test]
    fn tensor_maps_are_aligned_and_other_parameters_are_not() {
        let ptx = &finish(&[MODULE], &[entry("first", 1)]).unwrap()[0];
        assert!(ptx.contains(".param .align 64 .b8 first_param_0[128]"));
        assert!(ptx.contains(".param .align 16 .b8 first_param_1[48]"));
    }

    #[test]
    fn launch_bounds_stand_between_the_parameters_and_the_body() {
        let second = Entry { min_ctas: 8, ..entry("second", 2) };
        let ptx = finish(&[MODULE], &[entry("first", 1), second]).unwrap();
        assert!(ptx[0].contains(")\n.maxntid 384, 1, 1\n.minnctapersm 1\n{\n"), "{}", ptx[0]);
        assert!(ptx[1].contains(".minnctapersm 8\n.reqnctapercluster 2, 1, 1\n{\n"), "{}", ptx[1]);
    }

    #[test]
    fn of_debug_information_only_lines_remain() {
        let ptx = &finish(&[MODULE], &[entry("first", 1)]).unwrap()[0];
        assert!(ptx.contains(".target sm_90a\n"));
        assert!(ptx.contains(".file\t1 \"src/lib.rs\"") && ptx.contains(".loc\t1 11 0"));
        for gone in ["inline asm", ".section", ".debug_", "$L__sec_end", "$L__tmp", "$L__func_", ", debug"] {
            assert!(!ptx.contains(gone), "{gone} in {ptx}");
        }
    }

    #[test]
    fn comments_are_no_code_and_move_no_line() {
        let error = finish(&["/* .entry k(\n\n) { */ // }\nfn main() {}\n"], &[]).unwrap_err();
        assert!(matches!(error, Error::MalformedPtx { line: 4, .. }), "{error}");
    }

    #[test]
    fn a_missing_entry_is_named() {
        let error = finish(&[MODULE], &[entry("third", 1)]).unwrap_err();
        assert_eq!(error.to_string(), "third: the PTX has no entry point of this name");
    }

    #[test]
    fn what_is_no_ptx_is_refused() {
        let error = finish(&["fn main() {\n}\n"], &[]).unwrap_err();
        assert!(matches!(error, Error::MalformedPtx { line: 1, .. }), "{error}");
    }
}
