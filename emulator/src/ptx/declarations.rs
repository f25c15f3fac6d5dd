//! Tokens to a syntax tree: registers, variables and lines of the source.

use super::error::{ParseError, ParseErrorKind};
use super::parser::{Parser, Result, not_supported, unknown};
use super::tree::{Item, RegisterDecl, Variable, VariableSpace};

impl<'a> Parser<'a> {
    /// A directive in the body of a kernel.
    pub(super) fn local_directive(&mut self, items: &mut Vec<Item<'a>>) -> Result<()> {
        let Some(word) = self.accept_dot() else { return self.unexpected("a directive") };
        let push = |variable| items.push(Item::Variable(variable));
        match word.text {
            "reg" => self.registers(items),
            "shared" => self.variables(VariableSpace::Shared, push),
            "local" => self.variables(VariableSpace::Local, push),
            "loc" => {
                items.push(self.loc()?);
                Ok(())
            }
            "pragma" => self.pragma(),
            "param" => not_supported(word, "a call (.param in a body)"),
            _ => unknown(word),
        }
    }

    /// `.loc file line column`, then perhaps what was inlined where.
    fn loc(&mut self) -> Result<Item<'a>> {
        let file = self.small("the number of a file")?;
        let line = self.small("a line")?;
        self.small("a column")?;
        while self.accept(',') {
            match self.word("`function_name` or `inlined_at`")?.text {
                "function_name" => {
                    self.word("a label")?;
                    if self.accept('+') {
                        self.int("an offset")?;
                    }
                }
                "inlined_at" => {
                    for what in ["the number of a file", "a line", "a column"] {
                        self.int(what)?;
                    }
                }
                _ => return self.unexpected("an attribute of `.loc`"),
            }
        }
        Ok(Item::Source(file, line))
    }

    /// `.reg .b32 %a, %b<7>;`
    fn registers(&mut self, items: &mut Vec<Item<'a>>) -> Result<()> {
        let Some(ty) = self.accept_dot() else { return self.unexpected("a type") };
        loop {
            let name = self.word("the name of a register")?;
            let count = if self.accept('<') {
                let count = self.int("a number of registers")?;
                self.expect('>', "`>`")?;
                Some(count)
            } else {
                None
            };
            items.push(Item::Registers(RegisterDecl { ty, name, count }));
            if !self.accept(',') {
                return self.expect(';', "`,` or `;`");
            }
        }
    }

    /// What follows `.shared` or `.local`: one variable, to its `;`.
    pub(super) fn variables(
        &mut self,
        space: VariableSpace,
        mut push: impl FnMut(Variable<'a>),
    ) -> Result<()> {
        push(self.variable(space)?);
        self.expect(';', "`;`")
    }

    /// `.align 8 .b64 name[4]`; of a parameter also `.u64 .ptr .global .align 16 name`.
    pub(super) fn variable(&mut self, space: VariableSpace) -> Result<Variable<'a>> {
        let mut align = None;
        let mut element = None;
        while let Some(word) = self.accept_dot() {
            match (word.text, element_bytes(word.text)) {
                ("align", _) => {
                    let at = self.peek().at;
                    let value = self.small("an alignment")?;
                    if !value.is_power_of_two() {
                        let allowed = "an alignment: a power of two".to_owned();
                        let what = ParseErrorKind::Constant { value: value.to_string(), allowed };
                        return Err(ParseError::new(at, what));
                    }
                    // Behind `.ptr` it is the alignment of what the pointer points to.
                    align = if element.is_some() { align } else { Some(value) };
                }
                (_, Some(bytes)) if element.is_none() => element = Some(bytes),
                ("ptr" | "global" | "const" | "shared" | "local", _)
                    if space == VariableSpace::Param && element.is_some() => {}
                _ => return unknown(word),
            }
        }
        let Some(element) = element else { return self.unexpected("a type") };
        let name = self.word("a name")?;
        let mut bytes = Some(u64::from(element));
        while self.accept('[') {
            bytes = if self.accept(']') {
                None
            } else {
                let count = self.int("a number of elements or `]`")?;
                self.expect(']', "`]`")?;
                bytes.map(|bytes| bytes.saturating_mul(count))
            };
        }
        let bytes = bytes.map(|found| {
            let limit = u64::from(u32::MAX);
            u32::try_from(found).map_err(|_| {
                ParseError::new(
                    name.at,
                    ParseErrorKind::TooMany { what: "bytes of a variable", found, limit },
                )
            })
        });
        let variable = Variable { space, name, align: align.unwrap_or(element), bytes: bytes.transpose()? };
        if variable.bytes.is_none() && space != VariableSpace::Shared {
            let what = format!("`{}`, an array without a size,", name.text);
            return not_supported(name, &what);
        }
        Ok(variable)
    }
}

/// Bytes of an element of a variable of this type.
fn element_bytes(ty: &str) -> Option<u32> {
    match ty {
        "b8" | "u8" | "s8" => Some(1),
        "b16" | "u16" | "s16" | "f16" => Some(2),
        "b32" | "u32" | "s32" | "f32" | "f16x2" => Some(4),
        "b64" | "u64" | "s64" | "f64" => Some(8),
        _ => None,
    }
}
