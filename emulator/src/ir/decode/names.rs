//! What names mean: registers and variables, innermost scope first.

use std::collections::HashMap;

use super::types::{REGISTER_TYPES, type_name};
use crate::ir::{Reg, RegisterCounts, Type};
use crate::ptx::{ParseError, ParseErrorKind, RegisterDecl, Word};

/// What a name means.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    /// A register and its declared type.
    Register(Reg, Type),
    /// Offset of a variable in the kernel's shared memory.
    Shared(u32),
    /// Offset of a parameter.
    Param(u32),
    /// Offset of a variable in local memory.
    Local(u32),
}

/// `%r<n>`
#[derive(Clone, Copy, Debug)]
struct Range {
    ty: Type,
    first: u16,
    count: u16,
}

#[derive(Debug, Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Name>,
    ranges: HashMap<&'a str, Range>,
}

impl Scope<'_> {
    fn get(&self, name: &str) -> Option<Name> {
        if let Some(found) = self.names.get(name) {
            return Some(*found);
        }
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let range = self.ranges.get(prefix)?;
        let digits = &name[prefix.len()..];
        let number: u16 = digits.parse().ok().filter(|number| *number < range.count)?;
        // `%r007` is not `%r7`.
        let canonical = digits.len() == 1 || !digits.starts_with('0');
        canonical.then(|| Name::Register(register(range.ty, range.first + number), range.ty))
    }
}

/// The scopes that are open, outermost first.
#[derive(Debug)]
pub(super) struct Names<'a> {
    scopes: Vec<Scope<'a>>,
    pub(super) counts: RegisterCounts,
}

impl<'a> Names<'a> {
    /// The scope of a module or kernel alone.
    pub(super) fn new() -> Self {
        Names { scopes: vec![Scope::default()], counts: RegisterCounts::default() }
    }

    pub(super) fn open(&mut self) {
        self.scopes.push(Scope::default());
    }

    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    /// The meaning of a name.
    pub(super) fn get(&self, name: &str) -> Option<Name> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }

    /// Declares a name in the innermost scope.
    pub(super) fn declare(&mut self, word: Word<'a>, name: Name) -> Result<(), ParseError> {
        let scope = self.innermost();
        if scope.get(word.text).is_some() {
            return Err(duplicate(word));
        }
        scope.names.insert(word.text, name);
        Ok(())
    }

    /// Declares what a `.reg` says in the innermost scope, with registers of its own.
    pub(super) fn declare_registers(&mut self, decl: &RegisterDecl<'a>) -> Result<(), ParseError> {
        let ty = REGISTER_TYPES.iter().find(|ty| type_name(**ty) == decl.ty.text);
        let ty = *ty.ok_or_else(|| {
            let what = format!("a register of type .{}", decl.ty.text);
            ParseError::new(decl.ty.at, ParseErrorKind::NotSupported { what })
        })?;
        let counter = match ty {
            Type::Pred => &mut self.counts.predicates,
            _ if ty.bytes() == 8 => &mut self.counts.wide,
            _ => &mut self.counts.narrow,
        };
        let first = *counter;
        let found = decl.count.unwrap_or(1).saturating_add(u64::from(first));
        *counter = u16::try_from(found).map_err(|_| {
            let limit = u64::from(u16::MAX);
            ParseError::new(
                decl.name.at,
                ParseErrorKind::TooMany { what: "registers of a class", found, limit },
            )
        })?;
        let count = *counter - first;
        if decl.count.is_none() {
            return self.declare(decl.name, Name::Register(register(ty, first), ty));
        }
        let duplicates = self.innermost().ranges.insert(decl.name.text, Range { ty, first, count });
        if duplicates.is_some() { Err(duplicate(decl.name)) } else { Ok(()) }
    }

    fn innermost(&mut self) -> &mut Scope<'a> {
        if self.scopes.is_empty() {
            self.open();
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }
}

fn register(ty: Type, number: u16) -> Reg {
    match ty {
        Type::Pred => Reg::Pred(number),
        _ if ty.bytes() == 8 => Reg::Wide(number),
        _ => Reg::Narrow(number),
    }
}

fn duplicate(word: Word) -> ParseError {
    ParseError::new(word.at, ParseErrorKind::DuplicateName { name: word.text.to_owned() })
}
