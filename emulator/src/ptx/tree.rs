//! The syntax tree. Names borrow from the text.

/// Line and column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A word and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'a> {
    pub(crate) text: &'a str,
    pub(crate) at: At,
}

/// A whole text.
#[derive(Debug)]
pub(crate) struct File<'a> {
    pub(crate) version: (u32, u32),
    pub(crate) target: &'a str,
    pub(crate) files: Vec<(u32, String)>,
    /// Variables outside of functions.
    pub(crate) variables: Vec<Variable<'a>>,
    pub(crate) functions: Vec<Function<'a>>,
}

/// An `.entry`.
#[derive(Debug)]
pub(crate) struct Function<'a> {
    pub(crate) name: Word<'a>,
    pub(crate) params: Vec<Variable<'a>>,
    pub(crate) directives: Vec<DirectiveValues<'a>>,
    /// What stands between its braces; inner scopes are flat, between [`Item::Open`] and [`Item::Close`].
    pub(crate) body: Vec<Item<'a>>,
    /// Its last brace.
    pub(crate) end: At,
}

/// A performance directive and its numbers.
#[derive(Debug)]
pub(crate) struct DirectiveValues<'a> {
    pub(crate) name: Word<'a>,
    pub(crate) values: Vec<u32>,
}

/// A part of a body.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    Open,
    Close,
    Registers(RegisterDecl<'a>),
    Variable(Variable<'a>),
    Label(Word<'a>),
    /// `.loc`: number of the file and line.
    Source(u32, u32),
    Statement(Statement<'a>),
}

/// One name of a `.reg`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegisterDecl<'a> {
    pub(crate) ty: Word<'a>,
    pub(crate) name: Word<'a>,
    /// `%r<n>` declares `%r0` to `%r(n-1)`.
    pub(crate) count: Option<u64>,
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VariableSpace {
    Shared,
    Local,
    Param,
}

/// A variable or parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variable<'a> {
    pub(crate) space: VariableSpace,
    pub(crate) name: Word<'a>,
    pub(crate) align: u32,
    /// Absent for `name[]`.
    pub(crate) bytes: Option<u32>,
}

/// An instruction.
#[derive(Debug)]
pub(crate) struct Statement<'a> {
    /// `@p` or `@!p` (true).
    pub(crate) guard: Option<(Word<'a>, bool)>,
    pub(crate) opcode: Word<'a>,
    pub(crate) modifiers: Vec<Word<'a>>,
    pub(crate) operands: Vec<Operand<'a>>,
}

/// An operand and where it starts.
#[derive(Debug)]
pub(crate) struct Operand<'a> {
    pub(crate) kind: OperandKind<'a>,
    pub(crate) at: At,
}

#[derive(Debug)]
pub(crate) enum OperandKind<'a> {
    /// `a`
    Value(Value<'a>),
    /// `!p`
    Negated(Value<'a>),
    /// `d|p`
    Pair(Value<'a>, Value<'a>),
    /// `name+8`
    Sum(Value<'a>, i64),
    /// `{a, b}`
    Vector(Vec<Value<'a>>),
    /// `[a+8]`
    Address(AddressExpr<'a>),
}

/// `[base+offset]` or `[base, {coordinates}]`.
#[derive(Debug)]
pub(crate) struct AddressExpr<'a> {
    pub(crate) base: Value<'a>,
    pub(crate) offset: i64,
    pub(crate) coordinates: Option<Vec<Value<'a>>>,
}

/// A name or a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    pub(crate) kind: ValueKind<'a>,
    pub(crate) at: At,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ValueKind<'a> {
    /// A name, with the component of `%tid.x`.
    Name(&'a str, Option<&'a str>),
    /// An integer: magnitude, and whether it is negative.
    Int(u64, bool),
    F32(u32),
    F64(u64),
}

impl Value<'_> {
    /// As a message shows it.
    pub(crate) fn describe(&self) -> String {
        match self.kind {
            ValueKind::Name(name, None) => name.to_owned(),
            ValueKind::Name(name, Some(component)) => format!("{name}.{component}"),
            ValueKind::Int(magnitude, negative) => format!("{}{magnitude}", if negative { "-" } else { "" }),
            ValueKind::F32(bits) => format!("0f{bits:08X}"),
            ValueKind::F64(bits) => format!("0d{bits:016X}"),
        }
    }
}

impl Operand<'_> {
    /// As a message shows it.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            OperandKind::Value(value) => value.describe(),
            OperandKind::Negated(value) => format!("!{}", value.describe()),
            OperandKind::Pair(a, b) => format!("{}|{}", a.describe(), b.describe()),
            OperandKind::Sum(value, offset) => format!("{}+{offset}", value.describe()),
            OperandKind::Vector(values) => format!("{{...}} of {} values", values.len()),
            OperandKind::Address(address) => format!("[{}]", address.base.describe()),
        }
    }
}
