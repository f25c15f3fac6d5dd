//! Text to tokens.

use super::error::{ParseError, ParseErrorKind};
use super::tree::At;

/// A token and where it starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind<'a>,
    pub(super) at: At,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TokenKind<'a> {
    /// A name: `add`, `%r1`, `$L__BB0_1`, `_`.
    Name(&'a str),
    /// A directive or modifier without its dot: `reg`, `s32`, `shared::cta`, `4d`.
    Dot(&'a str),
    /// A non-negative integer.
    Int(u64),
    /// Bits of a `0f` constant.
    F32(u32),
    /// Bits of a `0d` constant.
    F64(u64),
    /// What stands between quotes.
    Str(&'a str),
    /// Anything else of one character.
    Punct(char),
    /// The end of the text.
    End,
}

impl TokenKind<'_> {
    /// As a message shows it.
    pub(super) fn describe(&self) -> String {
        match self {
            TokenKind::Name(name) => format!("`{name}`"),
            TokenKind::Dot(name) => format!("`.{name}`"),
            TokenKind::Int(value) => format!("`{value}`"),
            TokenKind::F32(bits) => format!("`0f{bits:08X}`"),
            TokenKind::F64(bits) => format!("`0d{bits:016X}`"),
            TokenKind::Str(text) => format!("{text:?}"),
            TokenKind::Punct(c) => format!("`{c}`"),
            TokenKind::End => "the end of the text".to_owned(),
        }
    }
}

/// All tokens of a text; the last is [`TokenKind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut lexer = Lexer { text, next: 0, at: At { line: 1, column: 1 } };
    let mut tokens = Vec::with_capacity(text.len() / 4);
    loop {
        let token = lexer.token()?;
        tokens.push(token);
        if token.kind == TokenKind::End {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    /// Byte offset of what comes next.
    next: usize,
    at: At,
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%')
}

impl<'a> Lexer<'a> {
    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.next + ahead).copied()
    }

    /// Goes on by one byte; columns count characters, so those that continue one do not.
    fn advance(&mut self) {
        match self.text.as_bytes()[self.next] {
            b'\n' => self.at = At { line: self.at.line + 1, column: 1 },
            0x80..0xC0 => {}
            _ => self.at.column += 1,
        }
        self.next += 1;
    }

    fn advance_while(&mut self, accept: impl Fn(u8) -> bool) -> &'a str {
        let start = self.next;
        while self.byte(0).is_some_and(&accept) {
            self.advance();
        }
        &self.text[start..self.next]
    }

    /// Skips what no token contains.
    fn skip(&mut self) -> Result<(), ParseError> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(byte), _) if byte.is_ascii_whitespace() => self.advance(),
                (Some(b'/'), Some(b'/')) => {
                    self.advance_while(|byte| byte != b'\n');
                }
                (Some(b'/'), Some(b'*')) => {
                    let start = self.at;
                    let length = self.text[self.next + 2..].find("*/").ok_or_else(|| {
                        ParseError::new(start, ParseErrorKind::Unclosed { what: "comment" })
                    })?;
                    let end = self.next + length + 4;
                    while self.next < end {
                        self.advance();
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn token(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip()?;
        let at = self.at;
        let kind = match self.byte(0) {
            None => TokenKind::End,
            Some(byte) if byte.is_ascii_digit() => number(self.advance_while(is_word), at)?,
            Some(byte) if is_word(byte) => TokenKind::Name(self.advance_while(is_word)),
            Some(b'.') if self.byte(1).is_some_and(is_word) => self.dotted(),
            Some(b'"') => self.string(at)?,
            Some(
                byte @ (b',' | b';' | b':' | b'[' | b']' | b'{' | b'}' | b'(' | b')' | b'<' | b'>' | b'+'
                | b'-' | b'!' | b'@' | b'|' | b'='),
            ) => {
                self.advance();
                TokenKind::Punct(char::from(byte))
            }
            Some(_) => {
                let found = self.text[self.next..].chars().next().unwrap_or_default();
                return Err(ParseError::new(at, ParseErrorKind::Character { found }));
            }
        };
        Ok(Token { kind, at })
    }

    /// `.name` or `.name::name`.
    fn dotted(&mut self) -> TokenKind<'a> {
        self.advance();
        let start = self.next;
        self.advance_while(is_word);
        while (self.byte(0), self.byte(1)) == (Some(b':'), Some(b':')) && self.byte(2).is_some_and(is_word) {
            self.advance();
            self.advance();
            self.advance_while(is_word);
        }
        TokenKind::Dot(&self.text[start..self.next])
    }

    fn string(&mut self, at: At) -> Result<TokenKind<'a>, ParseError> {
        self.advance();
        let inside = self.advance_while(|byte| !matches!(byte, b'"' | b'\n'));
        if self.byte(0) != Some(b'"') {
            return Err(ParseError::new(at, ParseErrorKind::Unclosed { what: "string" }));
        }
        self.advance();
        Ok(TokenKind::Str(inside))
    }
}

/// A number: decimal, `0x`, `0b`, octal, each with an optional `U`, or the bits of a float.
fn number(text: &str, at: At) -> Result<TokenKind<'_>, ParseError> {
    let wrong = || ParseError::new(at, ParseErrorKind::Number { text: text.to_owned() });
    // Not every text of digits that `from_str_radix` takes is a number of PTX: it allows a sign, but words have none.
    let digits = |digits: &str, radix| u64::from_str_radix(digits, radix).map_err(|_| wrong());
    let float_bits = |length: usize| text.get(2..).filter(|bits| bits.len() == length).ok_or_else(wrong);
    match text.get(..2) {
        Some("0f" | "0F") => {
            let bits = u32::from_str_radix(float_bits(8)?, 16).map_err(|_| wrong())?;
            return Ok(TokenKind::F32(bits));
        }
        Some("0d" | "0D") => return Ok(TokenKind::F64(digits(float_bits(16)?, 16)?)),
        _ => {}
    }
    let unsigned = text.strip_suffix('U').unwrap_or(text);
    let (body, radix) = match (unsigned.get(..2), unsigned.as_bytes()) {
        (Some("0x" | "0X"), _) => (&unsigned[2..], 16),
        (Some("0b" | "0B"), _) => (&unsigned[2..], 2),
        (_, [b'0', _, ..]) => (&unsigned[1..], 8),
        _ => (unsigned, 10),
    };
    digits(body, radix).map(TokenKind::Int)
}
