//! Why a PTX text is refused.

use super::tree::At;

/// A PTX text that is refused: where, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {what}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Why.
    pub what: ParseErrorKind,
}

impl ParseError {
    pub(crate) fn new(at: At, what: ParseErrorKind) -> Self {
        ParseError { line: at.line, column: at.column, what }
    }
}

/// What is wrong with a PTX text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseErrorKind {
    /// A character that begins nothing.
    #[error("the character {found:?} does not belong here")]
    Character {
        /// The character.
        found: char,
    },
    /// A comment or string without an end.
    #[error("this {what} has no end")]
    Unclosed {
        /// `comment` or `string`.
        what: &'static str,
    },
    /// A number that is none, or has too many digits.
    #[error("`{text}` is not a number of up to 64 bits")]
    Number {
        /// As written.
        text: String,
    },
    /// Another token than the grammar asks for.
    #[error("{expected} expected, found {found}")]
    Unexpected {
        /// What stands there.
        found: String,
        /// What the grammar asks for.
        expected: &'static str,
    },
    /// PTX that the emulator leaves out.
    #[error("{what} is not supported")]
    NotSupported {
        /// What.
        what: String,
    },
    /// A directive that does not exist, or not here.
    #[error("the directive `{text}` is not known here")]
    Directive {
        /// As written.
        text: String,
    },
    /// An unknown opcode.
    #[error("the opcode `{text}` is not known")]
    Opcode {
        /// As written.
        text: String,
    },
    /// A modifier that the opcode does not have, or not in this place or combination.
    #[error("`{opcode}` does not take `.{modifier}` here")]
    Modifier {
        /// The opcode.
        opcode: String,
        /// The modifier, without its dot.
        modifier: String,
    },
    /// A modifier is missing.
    #[error("`{opcode}` needs {expected}")]
    MissingModifier {
        /// The opcode.
        opcode: String,
        /// What must stand there.
        expected: String,
    },
    /// Too few or too many operands.
    #[error("{found} operands are {} for this form of `{opcode}`", if *.few { "too few" } else { "too many" })]
    OperandCount {
        /// The opcode.
        opcode: String,
        /// How many there are.
        found: usize,
        /// Whether they are too few.
        few: bool,
    },
    /// An operand of another kind than the instruction takes.
    #[error("{expected} expected as operand, found `{found}`")]
    Operand {
        /// What stands there.
        found: String,
        /// What the instruction takes.
        expected: String,
    },
    /// A register of another class or width than the instruction takes.
    #[error("`{name}` is declared .{declared}, where .{needed} is needed")]
    RegisterType {
        /// The register.
        name: String,
        /// Its declared type.
        declared: &'static str,
        /// The type that the instruction has there.
        needed: &'static str,
    },
    /// A constant out of range.
    #[error("{value} is not {allowed}")]
    Constant {
        /// As written.
        value: String,
        /// What may stand there.
        allowed: String,
    },
    /// A symbol of another state space than the instruction accesses.
    #[error("`{name}` is in {space} memory, which this instruction does not access by name")]
    SymbolSpace {
        /// The symbol.
        name: String,
        /// Its state space.
        space: &'static str,
    },
    /// A name that is declared nowhere in sight.
    #[error("`{name}` is not declared")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// A name that is declared twice in one scope.
    #[error("`{name}` is declared twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A branch to a label that is not in sight.
    #[error("there is no label `{name}` in sight")]
    UnknownLabel {
        /// The label.
        name: String,
    },
    /// More of something than the emulator can count.
    #[error("{found} {what} are too many; at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
}
