//! Syntax tree to instructions.
//!
//! Each file below has the table of opcodes of one family, and functions that take the modifiers and operands of an
//! instruction in turn. What they leave over is an error, so nothing is ever skipped.

mod address;
mod arithmetic;
mod bulk;
mod control;
mod convert;
mod kernel;
mod line;
mod logic;
mod mbarrier;
mod memory;
mod mma;
mod moves;
mod names;
mod operands;
mod special;
mod types;
mod warp;

use std::collections::HashMap;
use std::sync::LazyLock;

use self::line::{Line, Result};
use super::{Alu, AluOp, Float, Module, Op, Operand, Reg, Type};
use crate::ptx::{self, ParseError, ParseErrorKind};

/// Decodes an instruction whose opcode is known.
type Decoder = fn(&mut Line) -> Result<Op>;

/// Every opcode but `bra`, whose operand is no value.
static OPCODES: LazyLock<HashMap<&str, Decoder>> = LazyLock::new(|| {
    let families = [
        address::OPCODES,
        arithmetic::OPCODES,
        bulk::OPCODES,
        control::OPCODES,
        convert::OPCODES,
        logic::OPCODES,
        mbarrier::OPCODES,
        memory::OPCODES,
        mma::OPCODES,
        moves::OPCODES,
        warp::OPCODES,
    ];
    families.into_iter().flatten().copied().collect()
});

impl Module {
    /// Decodes a PTX text.
    ///
    /// # Errors
    /// The first thing in the text that is not PTX, or that the emulator does not know: nothing is skipped.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        let file = ptx::parse(text)?;
        let kernels =
            file.functions.iter().map(|function| kernel::decode(&file, function)).collect::<Result<_>>()?;
        Ok(Module { version: file.version, target: file.target.to_owned(), kernels, files: file.files })
    }
}

/// Decodes an instruction other than `bra`.
fn decode(statement: &ptx::Statement, names: &names::Names) -> Result<Op> {
    let Some(decode) = OPCODES.get(statement.opcode.text) else {
        let text = statement.opcode.text.to_owned();
        return Err(ParseError::new(statement.opcode.at, ParseErrorKind::Opcode { text }));
    };
    let mut line = Line::new(statement, names);
    let op = decode(&mut line)?;
    line.finish()?;
    Ok(op)
}

/// An arithmetic instruction with up to four sources.
fn alu(op: AluOp, ty: Type, float: Float, dst: Reg, sources: &[Operand]) -> Op {
    let mut src = [Operand::Imm(0); 4];
    src[..sources.len()].copy_from_slice(sources);
    Op::Alu(Alu { op, ty, float, dst, dst2: None, src, sources: sources.len() as u8, combine: None })
}
