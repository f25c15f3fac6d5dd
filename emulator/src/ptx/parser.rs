//! Tokens to a syntax tree: files and kernels.

use super::error::{ParseError, ParseErrorKind};
use super::lexer::{Token, TokenKind, tokens};
use super::tree::{At, DirectiveValues, File, Function, Item, VariableSpace, Word};

/// Deepest nesting of scopes: more is a mistake, not a kernel.
const MAX_DEPTH: u32 = 64;

/// Parses a PTX file.
pub(crate) fn parse(text: &str) -> Result<File<'_>, ParseError> {
    Parser { tokens: tokens(text)?, next: 0 }.file()
}

pub(super) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
}

pub(super) type Result<T, E = ParseError> = std::result::Result<T, E>;

impl<'a> Parser<'a> {
    /// The token that comes next; at the end it stays the end.
    pub(super) fn peek(&self) -> Token<'a> {
        self.tokens[self.next]
    }

    pub(super) fn advance(&mut self) -> Token<'a> {
        let token = self.peek();
        if token.kind != TokenKind::End {
            self.next += 1;
        }
        token
    }

    /// The kind of the token after the next.
    pub(super) fn second(&self) -> TokenKind<'a> {
        self.tokens.get(self.next + 1).map_or(TokenKind::End, |token| token.kind)
    }

    /// Skips this character, if it comes next.
    pub(super) fn accept(&mut self, punct: char) -> bool {
        let found = self.peek().kind == TokenKind::Punct(punct);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn unexpected<T>(&self, expected: &'static str) -> Result<T> {
        let Token { kind, at } = self.peek();
        Err(ParseError::new(at, ParseErrorKind::Unexpected { found: kind.describe(), expected }))
    }

    pub(super) fn expect(&mut self, punct: char, expected: &'static str) -> Result<()> {
        if self.accept(punct) { Ok(()) } else { self.unexpected(expected) }
    }

    pub(super) fn word(&mut self, expected: &'static str) -> Result<Word<'a>> {
        let Token { kind: TokenKind::Name(text), at } = self.peek() else { return self.unexpected(expected) };
        self.advance();
        Ok(Word { text, at })
    }

    pub(super) fn accept_dot(&mut self) -> Option<Word<'a>> {
        let Token { kind: TokenKind::Dot(text), at } = self.peek() else { return None };
        self.advance();
        Some(Word { text, at })
    }

    pub(super) fn int(&mut self, expected: &'static str) -> Result<u64> {
        let TokenKind::Int(value) = self.peek().kind else { return self.unexpected(expected) };
        self.advance();
        Ok(value)
    }

    pub(super) fn small(&mut self, what: &'static str) -> Result<u32> {
        let at = self.peek().at;
        let found = self.int(what)?;
        u32::try_from(found).map_err(|_| {
            let allowed = format!("{what} below 2^32");
            ParseError::new(at, ParseErrorKind::Constant { value: found.to_string(), allowed })
        })
    }

    fn file(mut self) -> Result<File<'a>> {
        let version = self.version()?;
        let target = self.target()?;
        let mut file =
            File { version, target, files: Vec::new(), variables: Vec::new(), functions: Vec::new() };
        loop {
            if self.peek().kind == TokenKind::End {
                return Ok(file);
            }
            let Some(word) = self.accept_dot() else { return self.unexpected("a directive") };
            match word.text {
                "address_size" => self.address_size()?,
                "file" => self.file_name(&mut file.files)?,
                "section" => self.section()?,
                "pragma" => self.pragma()?,
                "visible" | "weak" | "extern" => {}
                "entry" => file.functions.push(self.entry()?),
                "shared" => {
                    self.variables(VariableSpace::Shared, |variable| file.variables.push(variable))?
                }
                "func" => return not_supported(word, "a function that is no kernel (.func)"),
                "global" | "const" => return not_supported(word, "a variable in global or constant memory"),
                _ => return unknown(word),
            }
        }
    }

    fn version(&mut self) -> Result<(u32, u32)> {
        match self.accept_dot() {
            Some(word) if word.text == "version" => {}
            Some(word) => return unknown(word),
            None => return self.unexpected("`.version`"),
        }
        let major = self.small("a version such as 8.0")?;
        let minor = self.peek();
        let digits = self.accept_dot().and_then(|word| word.text.parse().ok());
        digits.map(|minor| (major, minor)).ok_or_else(|| {
            let found = minor.kind.describe();
            ParseError::new(minor.at, ParseErrorKind::Unexpected { found, expected: "a version such as 8.0" })
        })
    }

    fn target(&mut self) -> Result<&'a str> {
        match self.accept_dot() {
            Some(word) if word.text == "target" => {}
            Some(word) => return unknown(word),
            None => return self.unexpected("`.target`"),
        }
        let target = self.word("a target such as sm_90a")?.text;
        while self.accept(',') {
            let option = self.word("`debug`")?;
            if option.text != "debug" {
                return not_supported(option, &format!("the target option `{}`", option.text));
            }
        }
        Ok(target)
    }

    fn address_size(&mut self) -> Result<()> {
        let at = self.peek().at;
        match self.int("`64`")? {
            64 => Ok(()),
            bits => {
                let what = format!("an address size of {bits} bits");
                Err(ParseError::new(at, ParseErrorKind::NotSupported { what }))
            }
        }
    }

    /// `.file 1 "name"`, with an optional date and size.
    fn file_name(&mut self, files: &mut Vec<(u32, String)>) -> Result<()> {
        let number = self.small("the number of a file")?;
        let TokenKind::Str(name) = self.peek().kind else { return self.unexpected("the name of a file") };
        self.advance();
        files.push((number, name.to_owned()));
        while self.accept(',') {
            self.int("a date or size")?;
        }
        Ok(())
    }

    /// Sections hold debugging information and no code.
    fn section(&mut self) -> Result<()> {
        match self.accept_dot() {
            Some(word) if word.text.starts_with("debug_") => {}
            Some(word) => return not_supported(word, &format!("the section `.{}`", word.text)),
            None => return self.unexpected("the name of a section"),
        }
        self.expect('{', "`{`")?;
        while !self.accept('}') {
            if matches!(self.peek().kind, TokenKind::End | TokenKind::Punct('{')) {
                return self.unexpected("`}`");
            }
            self.advance();
        }
        Ok(())
    }

    /// Pragmas are hints for ptxas that change no result.
    pub(super) fn pragma(&mut self) -> Result<()> {
        loop {
            let TokenKind::Str(_) = self.peek().kind else { return self.unexpected("a string") };
            self.advance();
            if !self.accept(',') {
                return self.expect(';', "`;`");
            }
        }
    }

    fn entry(&mut self) -> Result<Function<'a>> {
        let name = self.word("the name of a kernel")?;
        let mut params = Vec::new();
        if self.accept('(') && !self.accept(')') {
            loop {
                match self.accept_dot() {
                    Some(word) if word.text == "param" => {}
                    Some(word) => return unknown(word),
                    None => return self.unexpected("`.param`"),
                }
                params.push(self.variable(VariableSpace::Param)?);
                if !self.accept(',') {
                    self.expect(')', "`,` or `)`")?;
                    break;
                }
            }
        }
        let mut directives = Vec::new();
        while let Some(name) = self.accept_dot() {
            if name.text == "pragma" {
                self.pragma()?;
                continue;
            }
            let mut values = Vec::new();
            if matches!(self.peek().kind, TokenKind::Int(_)) {
                values.push(self.small("a number")?);
                while self.accept(',') {
                    values.push(self.small("a number")?);
                }
            }
            directives.push(DirectiveValues { name, values });
        }
        self.expect('{', "a directive or `{`")?;
        let (body, end) = self.body()?;
        Ok(Function { name, params, directives, body, end })
    }

    /// What follows the opening brace of a kernel, to the brace that closes it.
    fn body(&mut self) -> Result<(Vec<Item<'a>>, At)> {
        let mut items = Vec::new();
        let mut depth = 0;
        loop {
            let Token { kind, at } = self.peek();
            match kind {
                TokenKind::Punct('{') => {
                    self.advance();
                    depth += 1;
                    if depth > MAX_DEPTH {
                        let (found, limit) = (u64::from(depth), u64::from(MAX_DEPTH));
                        let what = ParseErrorKind::TooMany { what: "nested scopes", found, limit };
                        return Err(ParseError::new(at, what));
                    }
                    items.push(Item::Open);
                }
                TokenKind::Punct('}') => {
                    self.advance();
                    if depth == 0 {
                        return Ok((items, at));
                    }
                    depth -= 1;
                    items.push(Item::Close);
                }
                TokenKind::Dot(_) => self.local_directive(&mut items)?,
                TokenKind::Name(text) if self.second() == TokenKind::Punct(':') => {
                    self.advance();
                    self.advance();
                    items.push(Item::Label(Word { text, at }));
                }
                TokenKind::Name(_) | TokenKind::Punct('@') => items.push(Item::Statement(self.statement()?)),
                _ => return self.unexpected("an instruction, a label, a declaration or `}`"),
            }
        }
    }
}

pub(super) fn unknown<T>(word: Word) -> Result<T> {
    Err(ParseError::new(word.at, ParseErrorKind::Directive { text: format!(".{}", word.text) }))
}

pub(super) fn not_supported<T>(word: Word, what: &str) -> Result<T> {
    Err(ParseError::new(word.at, ParseErrorKind::NotSupported { what: what.to_owned() }))
}
