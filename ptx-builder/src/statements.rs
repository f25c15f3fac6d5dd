//! Cutting PTX text into statements: just enough of a parser for counting and for scans.

/// A label, or an instruction or directive up to its semicolon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Label,
    Instruction,
    Directive,
}

/// One statement and the one-based line on which it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
    /// Without comments, semicolon and line breaks; a label without its colon.
    pub(crate) text: String,
}

impl Statement {
    /// The predicate of an instruction, e.g. `@%p1`.
    pub(crate) fn predicate(&self) -> Option<&str> {
        self.text.split_whitespace().next().filter(|word| word.starts_with('@'))
    }

    /// The opcode with its modifiers; empty for a label or a directive.
    pub(crate) fn opcode(&self) -> &str {
        let mut words = self.text.split_whitespace().skip(usize::from(self.predicate().is_some()));
        words.next().filter(|_| self.kind == Kind::Instruction).unwrap_or_default()
    }

    /// What follows the opcode.
    pub(crate) fn operands(&self) -> &str {
        let opcode = self.opcode();
        self.text.split_once(opcode).map_or("", |(_, operands)| operands.trim())
    }
}

/// The virtual registers that `text` names.
pub(crate) fn registers(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.' | '%')));
    words.filter(|word| word.starts_with('%'))
}

/// `ptx` without its block comments; lines keep their numbers.
pub(crate) fn without_block_comments(ptx: &str) -> String {
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
pub(crate) fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code).trim()
}

/// The statements of `ptx`, in the order of the text.
pub(crate) fn statements(ptx: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut open: Option<Statement> = None;
    for (line, text) in (1..).zip(without_block_comments(ptx).lines()) {
        let mut rest = code(text);
        while !rest.is_empty() {
            if let Some(statement) = &mut open {
                let end = rest.find(';').unwrap_or(rest.len());
                if !statement.text.is_empty() {
                    statement.text.push(' ');
                }
                statement.text.push_str(rest[..end].trim());
                if end < rest.len() {
                    statements.extend(open.take());
                }
                rest = rest.get(end + 1..).unwrap_or_default().trim_start();
            } else if rest.starts_with(['{', '}', ';']) {
                rest = rest[1..].trim_start();
            } else if matches!(rest.split_whitespace().next(), Some(".loc" | ".file")) {
                rest = ""; // the two directives that end with their line
            } else if let Some((name, after)) = rest.split_once(':').filter(|(name, _)| is_label(name)) {
                statements.push(Statement { kind: Kind::Label, line, text: name.trim().to_owned() });
                rest = after.trim_start();
            } else {
                let kind = if rest.starts_with('.') { Kind::Directive } else { Kind::Instruction };
                open = Some(Statement { kind, line, text: String::new() });
            }
        }
    }
    statements
}

fn is_label(name: &str) -> bool {
    let name = name.trim_end();
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_may_share_a_line_and_span_several() {
        let ptx = "\
            { .reg .pred p; setp.ne.b32 p, %r1, 0; // a comment; with a semicolon\n\
            .loc 1 2 3\n\
            $L__BB0_1: @p bra.uni $L__BB0_1;\n\
            wgmma.mma_async {%r1,\n  %r2}, %rd1; }\n";
        let texts: Vec<_> = statements(ptx).into_iter().map(|s| (s.kind, s.line, s.text)).collect();
        let expected = [
            (Kind::Directive, 1, ".reg .pred p"),
            (Kind::Instruction, 1, "setp.ne.b32 p, %r1, 0"),
            (Kind::Label, 3, "$L__BB0_1"),
            (Kind::Instruction, 3, "@p bra.uni $L__BB0_1"),
            (Kind::Instruction, 4, "wgmma.mma_async {%r1, %r2}, %rd1"),
        ];
        assert_eq!(texts, expected.map(|(kind, line, text)| (kind, line, text.to_owned())));
    }

    #[test]
    fn comments_are_no_code_and_move_no_line() {
        let ptx = "/* %r1; */ // bar.sync 0;\n/* two\nlines */ ret;\n";
        let expected = Statement { kind: Kind::Instruction, line: 3, text: "ret".to_owned() };
        assert_eq!(statements(ptx), [expected]);
    }

    #[test]
    fn an_instruction_knows_its_parts() {
        let statement = &statements("@!%p1 bra.uni $L__BB0_1;")[0];
        assert_eq!(statement.predicate(), Some("@!%p1"));
        assert_eq!(statement.opcode(), "bra.uni");
        assert_eq!(statement.operands(), "$L__BB0_1");
        assert_eq!(registers("{%r1,%r2}, [%rd7+8]").collect::<Vec<_>>(), ["%r1", "%r2", "%rd7"]);
    }
}
