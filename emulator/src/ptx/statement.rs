//! Tokens to a syntax tree: instructions and their operands.

use super::error::{ParseError, ParseErrorKind};
use super::lexer::TokenKind;
use super::parser::{Parser, Result, not_supported};
use super::tree::{AddressExpr, Operand, OperandKind, Statement, Value, ValueKind};

impl<'a> Parser<'a> {
    /// `@p opcode.modifiers operands;`
    pub(super) fn statement(&mut self) -> Result<Statement<'a>> {
        let guard = if self.accept('@') {
            let negated = self.accept('!');
            Some((self.word("a predicate")?, negated))
        } else {
            None
        };
        let opcode = self.word("an opcode")?;
        if opcode.text == "call" {
            return not_supported(opcode, "a call");
        }
        let mut modifiers = Vec::new();
        while let Some(modifier) = self.accept_dot() {
            modifiers.push(modifier);
        }
        let mut operands = Vec::new();
        if !self.accept(';') {
            loop {
                operands.push(self.operand()?);
                if !self.accept(',') {
                    self.expect(';', "`,` or `;`")?;
                    break;
                }
            }
        }
        Ok(Statement { guard, opcode, modifiers, operands })
    }

    fn operand(&mut self) -> Result<Operand<'a>> {
        let at = self.peek().at;
        let kind = match self.peek().kind {
            TokenKind::Punct('[') => self.address()?,
            TokenKind::Punct('{') => OperandKind::Vector(self.vector()?),
            TokenKind::Punct('!') => {
                self.advance();
                OperandKind::Negated(self.value()?)
            }
            _ => {
                let value = self.value()?;
                if self.accept('|') {
                    OperandKind::Pair(value, self.value()?)
                } else {
                    match self.offset()? {
                        Some(offset) => OperandKind::Sum(value, offset),
                        None => OperandKind::Value(value),
                    }
                }
            }
        };
        Ok(Operand { kind, at })
    }

    /// `{a, b}`
    fn vector(&mut self) -> Result<Vec<Value<'a>>> {
        self.expect('{', "`{`")?;
        let mut values = vec![self.value()?];
        while self.accept(',') {
            values.push(self.value()?);
        }
        self.expect('}', "`,` or `}`")?;
        Ok(values)
    }

    /// `[base+offset]` or `[base, {coordinates}]`
    fn address(&mut self) -> Result<OperandKind<'a>> {
        self.expect('[', "`[`")?;
        let base = self.value()?;
        let offset = self.offset()?.unwrap_or(0);
        let coordinates = if self.accept(',') { Some(self.vector()?) } else { None };
        self.expect(']', "`]`")?;
        Ok(OperandKind::Address(AddressExpr { base, offset, coordinates }))
    }

    /// `+8`, `-8` or, as compilers write it, `+-8`.
    fn offset(&mut self) -> Result<Option<i64>> {
        let plus = self.accept('+');
        let minus = self.accept('-');
        if !plus && !minus {
            return Ok(None);
        }
        let at = self.peek().at;
        let magnitude = self.int("an offset")?;
        let offset = i64::try_from(magnitude).map_err(|_| {
            let allowed = "an offset of 63 bits".to_owned();
            ParseError::new(at, ParseErrorKind::Constant { value: magnitude.to_string(), allowed })
        })?;
        Ok(Some(if minus { -offset } else { offset }))
    }

    fn value(&mut self) -> Result<Value<'a>> {
        let token = self.peek();
        let kind = match token.kind {
            TokenKind::Name(name) => {
                self.advance();
                return Ok(Value {
                    kind: ValueKind::Name(name, self.accept_dot().map(|word| word.text)),
                    at: token.at,
                });
            }
            TokenKind::Int(magnitude) => ValueKind::Int(magnitude, false),
            TokenKind::F32(bits) => ValueKind::F32(bits),
            TokenKind::F64(bits) => ValueKind::F64(bits),
            TokenKind::Punct('-') => {
                self.advance();
                let kind = ValueKind::Int(self.int("an integer")?, true);
                return Ok(Value { kind, at: token.at });
            }
            _ => return self.unexpected("an operand"),
        };
        self.advance();
        Ok(Value { kind, at: token.at })
    }
}
