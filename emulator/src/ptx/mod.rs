//! PTX text: tokens, and the syntax tree that [`crate::ir`] decodes.
//!
//! Nothing here knows what an instruction means. The grammar is that of the ISA as far as kernels need it; what it
//! leaves out (functions, global variables, vector registers) is refused by name.

mod declarations;
mod error;
mod lexer;
mod parser;
mod statement;
mod tree;

pub use error::{ParseError, ParseErrorKind};
pub(crate) use parser::parse;
pub(crate) use tree::{
    AddressExpr, At, DirectiveValues, File, Function, Item, Operand, OperandKind, RegisterDecl, Statement,
    Value, ValueKind, Variable, VariableSpace, Word,
};
