//! Tokens to a syntax tree: files, functions and declarations.

use super::error::{ParseError, ParseErrorKind};
use super::lexer::{Token, TokenKind, tokens};
use super::tree::{At, DirectiveValues, File, Function, Item, RegisterDecl, Variable, VariableSpace, Word};

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

    fn small(&mut self, what: &'static str) -> Result<u32> {
        let at = self.peek().at;
        let found = self.int(what)?;
        u32::try_from(found).map_err(|_| {
            ParseError::new(at, ParseErrorKind::TooMany { what, found, limit: u64::from(u32::MAX) })
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
    fn pragma(&mut self) -> Result<()> {
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

    fn local_directive(&mut self, items: &mut Vec<Item<'a>>) -> Result<()> {
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
    fn variables(&mut self, space: VariableSpace, mut push: impl FnMut(Variable<'a>)) -> Result<()> {
        push(self.variable(space)?);
        self.expect(';', "`;`")
    }

    /// `.align 8 .b64 name[4]`; of a parameter also `.u64 .ptr .global .align 16 name`.
    fn variable(&mut self, space: VariableSpace) -> Result<Variable<'a>> {
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

fn unknown<T>(word: Word) -> Result<T> {
    Err(ParseError::new(word.at, ParseErrorKind::Directive { text: format!(".{}", word.text) }))
}

pub(super) fn not_supported<T>(word: Word, what: &str) -> Result<T> {
    Err(ParseError::new(word.at, ParseErrorKind::NotSupported { what: what.to_owned() }))
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
