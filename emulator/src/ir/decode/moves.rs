//! `mov`: copies, special registers, addresses of symbols, and registers put together or taken apart.

use super::line::{Line, Result};
use super::operands::{is_sink, wrong_operand};
use super::{Decoder, alu};
use crate::ir::Type::{self, *};
use crate::ir::{AluOp, Float, Op, Operand};
use crate::ptx::{OperandKind, ParseError, ParseErrorKind, Value};

pub(super) const OPCODES: &[(&str, Decoder)] = &[("mov", mov)];

const TYPES: &[Type] = &[Pred, B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64];

fn mov(line: &mut Line) -> Result<Op> {
    let ty = line.ty(TYPES)?;
    if matches!(line.peek_operand(), Some(operand) if matches!(operand.kind, OperandKind::Vector(_))) {
        return unpack(line, ty);
    }
    let dst = line.dst(ty)?;
    if let Some(operand) = line.peek_operand()
        && let OperandKind::Vector(values) = &operand.kind
    {
        let part = part(ty, values.len(), operand.describe(), operand.at)?;
        line.operand()?;
        let src = values.iter().map(|value| line.read(*value, part)).collect::<Result<_>>()?;
        return Ok(Op::Pack { dst, bits: 8 * part.bytes(), src });
    }
    let at = line.peek_operand().map_or(line.at(), |operand| operand.at);
    let src = if let Some((special, special_ty)) = line.special()? {
        if special_ty.bytes() != ty.bytes() || special_ty.is_float() != ty.is_float() {
            let what = format!("mov.{} of a special register of another width", super::types::type_name(ty));
            return Err(ParseError::new(at, ParseErrorKind::NotSupported { what }));
        }
        Operand::Special(special)
    } else if matches!(ty, B32 | U32 | S32 | B64 | U64 | S64) {
        line.src_or_symbol(ty)?
    } else {
        line.src(ty)?
    };
    Ok(alu(AluOp::Mov, ty, Float::default(), dst, &[src]))
}

/// The type of a part, if a value of this type has so many.
fn part(ty: Type, parts: usize, found: String, at: crate::ptx::At) -> Result<Type> {
    match (ty, parts) {
        (B16, 2) | (B32, 4) => Ok(B8),
        (B32, 2) | (B64, 4) => Ok(B16),
        (B64, 2) => Ok(B32),
        _ => {
            let expected = format!("the parts of a .{}", super::types::type_name(ty));
            Err(ParseError::new(at, ParseErrorKind::Operand { found, expected }))
        }
    }
}

fn unpack(line: &mut Line, ty: Type) -> Result<Op> {
    let operand = line.operand()?;
    let OperandKind::Vector(values) = &operand.kind else {
        return wrong_operand(operand, "registers in braces");
    };
    let part = part(ty, values.len(), operand.describe(), operand.at)?;
    let register =
        |value: &Value| if is_sink(*value) { Ok(None) } else { line.register(*value, part).map(Some) };
    let dst = values.iter().map(register).collect::<Result<_>>()?;
    Ok(Op::Unpack { dst, bits: 8 * part.bytes(), src: line.src(ty)? })
}
