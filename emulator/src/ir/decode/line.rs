//! One instruction while it is decoded: its modifiers and operands are taken in turn, and none may be left over.

use super::names::{Name, Names};
use super::types::TYPES;
use crate::ir::Type;
use crate::ptx::{self, At, ParseError, ParseErrorKind, Statement, Word};

pub(super) type Result<T, E = ParseError> = std::result::Result<T, E>;

/// An instruction and how far it is decoded.
pub(super) struct Line<'s, 'a> {
    statement: &'s Statement<'a>,
    names: &'s Names<'a>,
    next_modifier: usize,
    next_operand: usize,
}

impl<'s, 'a> Line<'s, 'a> {
    pub(super) fn new(statement: &'s Statement<'a>, names: &'s Names<'a>) -> Self {
        Line { statement, names, next_modifier: 0, next_operand: 0 }
    }

    pub(super) fn at(&self) -> At {
        self.statement.opcode.at
    }

    fn opcode(&self) -> String {
        self.statement.opcode.text.to_owned()
    }

    /// Nothing may be left over.
    pub(super) fn finish(&self) -> Result<()> {
        if self.modifier().is_some() {
            return self.wrong_modifier("");
        }
        if self.next_operand < self.statement.operands.len() {
            return self.operand_count(false);
        }
        Ok(())
    }

    // Modifiers.

    /// The modifier that comes next.
    pub(super) fn modifier(&self) -> Option<Word<'a>> {
        self.statement.modifiers.get(self.next_modifier).copied()
    }

    /// Takes this modifier, if it comes next.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let found = self.modifier().is_some_and(|word| word.text == name);
        self.next_modifier += usize::from(found);
        found
    }

    /// Takes these modifiers, which must come next, such as `sync.aligned`.
    pub(super) fn must(&mut self, names: &str) -> Result<()> {
        for name in names.split('.') {
            if !self.flag(name) {
                return self.wrong_modifier(&format!(".{name}"));
            }
        }
        Ok(())
    }

    /// Takes the next modifier, if it is in the table.
    pub(super) fn pick<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let text = self.modifier()?.text;
        let (_, value) = table.iter().find(|(name, _)| *name == text)?;
        self.next_modifier += 1;
        Some(*value)
    }

    /// Takes the next modifier, which must be in the table.
    pub(super) fn need<T: Copy>(&mut self, table: &[(&str, T)]) -> Result<T> {
        match self.pick(table) {
            Some(value) => Ok(value),
            None => {
                let names: Vec<_> = table.iter().map(|(name, _)| format!(".{name}")).collect();
                self.wrong_modifier(&names.join(" or "))
            }
        }
    }

    /// The type that the next modifier names.
    pub(super) fn peek_ty(&self) -> Option<Type> {
        let word = self.modifier()?;
        TYPES.iter().find(|(name, _)| *name == word.text).map(|(_, ty)| *ty)
    }

    /// Takes the next modifier, which must be a type.
    pub(super) fn any_ty(&mut self) -> Result<Type> {
        let Some(ty) = self.peek_ty() else { return self.wrong_modifier("a type") };
        self.next_modifier += 1;
        Ok(ty)
    }

    /// Takes the next modifier, which must be one of these types.
    pub(super) fn ty(&mut self, allowed: &[Type]) -> Result<Type> {
        if self.peek_ty().is_some_and(|ty| allowed.contains(&ty)) {
            self.any_ty()
        } else {
            self.wrong_modifier("a type")
        }
    }

    /// Takes the next modifier, which `read` must understand.
    pub(super) fn pick_with<T>(&mut self, read: impl Fn(&str) -> Option<T>, expected: &str) -> Result<T> {
        let Some(value) = self.modifier().and_then(|word| read(word.text)) else {
            return self.wrong_modifier(expected);
        };
        self.next_modifier += 1;
        Ok(value)
    }

    /// How far modifiers are taken, for [`Line::back_to`].
    pub(super) fn mark(&self) -> usize {
        self.next_modifier
    }

    /// Goes back to where `mark` was taken.
    pub(super) fn back_to(&mut self, mark: usize) {
        self.next_modifier = mark;
    }

    /// Says that a modifier is missing.
    pub(super) fn missing<T>(&self, expected: &str) -> Result<T> {
        let what = ParseErrorKind::MissingModifier { opcode: self.opcode(), expected: expected.to_owned() };
        Err(ParseError::new(self.at(), what))
    }

    /// Refuses the modifier that comes next, or says what is missing.
    pub(super) fn wrong_modifier<T>(&self, expected: &str) -> Result<T> {
        let Some(word) = self.modifier() else { return self.missing(expected) };
        let what = ParseErrorKind::Modifier { opcode: self.opcode(), modifier: word.text.to_owned() };
        Err(ParseError::new(word.at, what))
    }

    // Operands; what they mean is in `operands`.

    /// Whether operands are left.
    pub(super) fn has_more(&self) -> bool {
        self.next_operand < self.statement.operands.len()
    }

    fn operand_count<T>(&self, few: bool) -> Result<T> {
        let found = self.statement.operands.len();
        let what = ParseErrorKind::OperandCount { opcode: self.opcode(), found, few };
        Err(ParseError::new(self.at(), what))
    }

    /// The next operand, as the syntax tree has it.
    pub(super) fn operand(&mut self) -> Result<&'s ptx::Operand<'a>> {
        match self.statement.operands.get(self.next_operand) {
            Some(operand) => {
                self.next_operand += 1;
                Ok(operand)
            }
            None => self.operand_count(true),
        }
    }

    /// Refuses what PTX has, but the emulator does not.
    pub(super) fn refuse<T>(&self, what: &str) -> Result<T> {
        Err(ParseError::new(self.at(), ParseErrorKind::NotSupported { what: what.to_owned() }))
    }

    /// The next operand without taking it.
    pub(super) fn peek_operand(&self) -> Option<&'s ptx::Operand<'a>> {
        self.statement.operands.get(self.next_operand)
    }

    /// What a name means.
    pub(super) fn name(&self, name: &str) -> Option<Name> {
        self.names.get(name)
    }
}
