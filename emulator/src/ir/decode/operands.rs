//! The operands of an instruction, taken in turn as what the instruction wants them to be.

use super::line::{Line, Result};
use super::names::Name;
use super::types::{fits, type_name};
use crate::ir::{Address, Operand, Reg, Space, Special, Type};
use crate::ptx::{self, OperandKind, ParseError, ParseErrorKind, Value, ValueKind};

impl<'s, 'a> Line<'s, 'a> {
    /// The next operand, if it is a register that may stand for one of these types.
    pub(super) fn declared_next(&mut self, types: &[Type]) -> Option<Reg> {
        let OperandKind::Value(value) = self.peek_operand()?.kind else { return None };
        let (reg, declared) = self.declared(value).ok()?;
        if !types.iter().any(|ty| fits(declared, *ty)) {
            return None;
        }
        self.operand().ok()?;
        Some(reg)
    }

    /// The next operand, a name or constant.
    fn value(&mut self, expected: &str) -> Result<Value<'a>> {
        let operand = self.operand()?;
        match operand.kind {
            OperandKind::Value(value) => Ok(value),
            _ => wrong_operand(operand, expected),
        }
    }

    /// A register that is written.
    pub(super) fn dst(&mut self, ty: Type) -> Result<Reg> {
        let value = self.value("a register")?;
        self.register(value, ty)
    }

    /// A register that is written, or `_`.
    pub(super) fn dst_or_sink(&mut self, ty: Type) -> Result<Option<Reg>> {
        let value = self.value("a register or `_`")?;
        self.register_or_sink(value, ty)
    }

    /// `d`, or `d|p` with a predicate; `_` is none.
    pub(super) fn dst_pair(&mut self, ty: Type) -> Result<(Option<Reg>, Option<Reg>)> {
        let operand = self.operand()?;
        match operand.kind {
            OperandKind::Value(value) => Ok((self.register_or_sink(value, ty)?, None)),
            OperandKind::Pair(first, second) => {
                Ok((self.register_or_sink(first, ty)?, self.register_or_sink(second, Type::Pred)?))
            }
            _ => wrong_operand(operand, "a register, or two with a bar between"),
        }
    }

    /// A register or constant that is read.
    pub(super) fn src(&mut self, ty: Type) -> Result<Operand> {
        let value = self.value("a register or constant")?;
        self.read(value, ty)
    }

    /// A predicate that is read, and whether it is negated.
    pub(super) fn src_predicate(&mut self) -> Result<(Operand, bool)> {
        let operand = self.operand()?;
        match operand.kind {
            OperandKind::Value(value) => Ok((self.read(value, Type::Pred)?, false)),
            OperandKind::Negated(value) => Ok((Operand::Reg(self.register(value, Type::Pred)?), true)),
            _ => wrong_operand(operand, "a predicate"),
        }
    }

    /// A register, a constant, or the address of a symbol.
    pub(super) fn src_or_symbol(&mut self, ty: Type) -> Result<Operand> {
        let operand = self.operand()?;
        let (value, offset) = match operand.kind {
            OperandKind::Value(value) => (value, 0),
            OperandKind::Sum(value, offset) => (value, offset),
            _ => return wrong_operand(operand, "a register, a constant or a symbol"),
        };
        let symbol = match value.kind {
            ValueKind::Name(name, None) => self.name(name),
            _ => None,
        };
        let moved = |base: u32| {
            u32::try_from(i64::from(base).saturating_add(offset)).map_err(|_| {
                let allowed =
                    format!("an offset from `{}` that stays inside of its memory", value.describe());
                ParseError::new(operand.at, ParseErrorKind::Constant { value: offset.to_string(), allowed })
            })
        };
        match symbol {
            Some(Name::Shared(base)) => Ok(Operand::Shared(moved(base)?)),
            Some(Name::Param(base)) => Ok(Operand::Param(moved(base)?)),
            Some(Name::Local(base)) => Ok(Operand::Imm(u64::from(moved(base)?))),
            _ if matches!(operand.kind, OperandKind::Value(_)) => self.read(value, ty),
            _ => wrong_operand(operand, "a symbol before `+`"),
        }
    }

    /// A special register, if the next operand is one.
    pub(super) fn special(&mut self) -> Result<Option<(Special, Type)>> {
        let Some(ptx::Operand { kind: OperandKind::Value(value), .. }) = self.peek_operand() else {
            return Ok(None);
        };
        let ValueKind::Name(name, component) = value.kind else { return Ok(None) };
        if !name.starts_with('%') || (component.is_none() && self.name(name).is_some()) {
            return Ok(None);
        }
        self.operand()?;
        super::special::special(name, component).map(Some).ok_or_else(|| unknown_name(*value))
    }

    /// `{a, b}`, or `a` alone.
    pub(super) fn values(&mut self) -> Result<&'s [Value<'a>]> {
        let operand = self.operand()?;
        match &operand.kind {
            OperandKind::Value(value) => Ok(std::slice::from_ref(value)),
            OperandKind::Vector(values) => Ok(values),
            _ => wrong_operand(operand, "a register or registers in braces"),
        }
    }

    /// `{a, b, ...}` of registers of one type, this many.
    pub(super) fn registers(&mut self, ty: Type, count: usize) -> Result<Box<[Reg]>> {
        let at = self.peek_operand().map_or(self.at(), |operand| operand.at);
        let values = self.values()?;
        if values.len() != count {
            return Err(ParseError::new(
                at,
                ParseErrorKind::Operand {
                    found: format!("{{...}} of {} values", values.len()),
                    expected: format!("{count} registers in braces"),
                },
            ));
        }
        values.iter().map(|value| self.register(*value, ty)).collect()
    }

    /// An integer constant from `first` to `last`.
    pub(super) fn constant(&mut self, first: u32, last: u32) -> Result<u32> {
        self.multiple(1, first, last)
    }

    /// An integer constant from `first` to `last` that is a multiple of `step`.
    pub(super) fn multiple(&mut self, step: u32, first: u32, last: u32) -> Result<u32> {
        let value = self.value("a constant")?;
        let found = match value.kind {
            ValueKind::Int(magnitude, false) => u32::try_from(magnitude).ok(),
            _ => None,
        };
        found.filter(|found| (first..=last).contains(found) && found.is_multiple_of(step)).ok_or_else(|| {
            let kind = if step == 1 { "a constant".to_owned() } else { format!("a multiple of {step}") };
            bad_constant(value, format!("{kind} from {first} to {last}"))
        })
    }

    /// One of these integer constants.
    pub(super) fn constant_of<T: Copy>(&mut self, table: &[(i64, T)]) -> Result<T> {
        let value = self.value("a constant")?;
        let found = match value.kind {
            ValueKind::Int(magnitude, negative) => {
                i64::try_from(magnitude).ok().map(|m| if negative { -m } else { m })
            }
            _ => None,
        };
        table.iter().find(|(constant, _)| Some(*constant) == found).map(|(_, value)| *value).ok_or_else(
            || {
                let names: Vec<_> = table.iter().map(|(constant, _)| constant.to_string()).collect();
                bad_constant(value, names.join(" or "))
            },
        )
    }

    /// `[base+offset]`
    pub(super) fn address(&mut self, space: Space) -> Result<Address> {
        let operand = self.operand()?;
        match &operand.kind {
            OperandKind::Address(address) if address.coordinates.is_none() => self.address_of(address, space),
            _ => wrong_operand(operand, "an address in brackets"),
        }
    }

    /// `[base, {coordinates}]`
    pub(super) fn tensor_address(&mut self, rank: usize) -> Result<(Address, Box<[Operand]>)> {
        let operand = self.operand()?;
        match &operand.kind {
            OperandKind::Address(ptx::AddressExpr { coordinates: Some(values), .. })
                if values.len() != rank =>
            {
                wrong_operand(operand, &format!("a tensor map and {rank} coordinates"))
            }
            OperandKind::Address(address @ ptx::AddressExpr { coordinates: Some(values), .. }) => {
                let map = self.address_of(address, Space::Generic)?;
                let coordinates =
                    values.iter().map(|value| self.read(*value, Type::S32)).collect::<Result<_>>()?;
                Ok((map, coordinates))
            }
            _ => wrong_operand(operand, "a tensor map and coordinates in brackets"),
        }
    }

    fn address_of(&self, address: &ptx::AddressExpr<'a>, space: Space) -> Result<Address> {
        let value = address.base;
        let base = match value.kind {
            ValueKind::Int(..) => self.read(value, Type::B64)?,
            ValueKind::Name(name, None) => match self.name(name) {
                Some(Name::Register(reg, declared)) => {
                    // Windows of 32 bits may be addressed with 32 bits.
                    let narrow = !matches!(space, Space::Generic | Space::Global);
                    if !(fits(declared, Type::B64) || narrow && fits(declared, Type::B32))
                        || declared.is_float()
                    {
                        return Err(register_type(value, declared, Type::B64));
                    }
                    Operand::Reg(reg)
                }
                Some(symbol) => symbol_address(value, symbol, space)?,
                None => return Err(unknown_name(value)),
            },
            _ => {
                let expected = "an address: a register, a symbol or a constant".to_owned();
                return Err(ParseError::new(
                    value.at,
                    ParseErrorKind::Operand { found: value.describe(), expected },
                ));
            }
        };
        Ok(Address { base, offset: address.offset })
    }

    // Values.

    /// The register of this type that `value` names.
    pub(super) fn register(&self, value: Value, ty: Type) -> Result<Reg> {
        match self.declared(value)? {
            (reg, declared) if fits(declared, ty) => Ok(reg),
            (_, declared) => Err(register_type(value, declared, ty)),
        }
    }

    /// The register that `value` names, and its declared type.
    pub(super) fn declared(&self, value: Value) -> Result<(Reg, Type)> {
        match value.kind {
            ValueKind::Name(name, None) => match self.name(name) {
                Some(Name::Register(reg, declared)) => Ok((reg, declared)),
                Some(_) => {
                    let expected = "a register".to_owned();
                    Err(ParseError::new(
                        value.at,
                        ParseErrorKind::Operand { found: value.describe(), expected },
                    ))
                }
                None => Err(unknown_name(value)),
            },
            _ => {
                let expected = "a register".to_owned();
                Err(ParseError::new(value.at, ParseErrorKind::Operand { found: value.describe(), expected }))
            }
        }
    }

    pub(super) fn register_or_sink(&self, value: Value, ty: Type) -> Result<Option<Reg>> {
        if is_sink(value) { Ok(None) } else { self.register(value, ty).map(Some) }
    }

    /// A register or constant of this type.
    pub(super) fn read(&self, value: Value, ty: Type) -> Result<Operand> {
        match value.kind {
            ValueKind::Name("WARP_SZ", None) if !ty.is_float() => Ok(Operand::Imm(32)),
            ValueKind::Name(..) => self.register(value, ty).map(Operand::Reg),
            _ => constant(value, ty).map(Operand::Imm),
        }
    }
}

/// Whether it is `_`.
pub(super) fn is_sink(value: Value) -> bool {
    value.kind == ValueKind::Name("_", None)
}

/// The bits of a constant of this type: integers sign-extended from its width, floats as they are.
fn constant(value: Value, ty: Type) -> Result<u64> {
    let integer_allowed = !ty.is_float() || matches!(ty, Type::Tf32 | Type::F16x2 | Type::Bf16x2);
    match value.kind {
        ValueKind::Int(magnitude, negative) if ty == Type::Pred => match (magnitude, negative) {
            (0 | 1, false) | (1, true) => Ok(magnitude),
            _ => Err(bad_constant(value, "a predicate: 0, 1 or -1".to_owned())),
        },
        ValueKind::Int(magnitude, negative) if integer_allowed => {
            let bits = 8 * ty.bytes();
            let limit = if negative { 1 << (bits - 1) } else { u64::MAX >> (64 - bits) };
            if magnitude > limit {
                return Err(bad_constant(value, format!("a constant of {bits} bits")));
            }
            let pattern = if negative { magnitude.wrapping_neg() } else { magnitude };
            let shift = 64 - bits;
            Ok(((pattern << shift).cast_signed() >> shift).cast_unsigned())
        }
        ValueKind::F32(pattern) if matches!(ty, Type::F32 | Type::B32 | Type::Tf32) => Ok(u64::from(pattern)),
        ValueKind::F64(pattern) if matches!(ty, Type::F64 | Type::B64) => Ok(pattern),
        _ => Err(bad_constant(value, format!("a constant of type .{}", type_name(ty)))),
    }
}

fn symbol_address(value: Value, symbol: Name, space: Space) -> Result<Operand> {
    let (base, name) = match symbol {
        Name::Shared(offset) => (Operand::Shared(offset), "shared"),
        Name::Param(offset) => (Operand::Param(offset), "parameter"),
        Name::Local(offset) => (Operand::Imm(u64::from(offset)), "local"),
        Name::Register(reg, _) => return Ok(Operand::Reg(reg)),
    };
    let accessed = match symbol {
        Name::Shared(_) => matches!(space, Space::SharedCta | Space::SharedCluster),
        Name::Param(_) => space == Space::Param,
        _ => space == Space::Local,
    };
    if accessed {
        Ok(base)
    } else {
        Err(ParseError::new(value.at, ParseErrorKind::SymbolSpace { name: value.describe(), space: name }))
    }
}

/// Refuses an operand of the wrong kind.
pub(super) fn wrong_operand<T>(operand: &ptx::Operand, expected: &str) -> Result<T> {
    let what = ParseErrorKind::Operand { found: operand.describe(), expected: expected.to_owned() };
    Err(ParseError::new(operand.at, what))
}

pub(super) fn register_type(value: Value, declared: Type, needed: Type) -> ParseError {
    let (name, declared, needed) = (value.describe(), type_name(declared), type_name(needed));
    ParseError::new(value.at, ParseErrorKind::RegisterType { name, declared, needed })
}

pub(super) fn bad_constant(value: Value, allowed: String) -> ParseError {
    ParseError::new(value.at, ParseErrorKind::Constant { value: value.describe(), allowed })
}

fn unknown_name(value: Value) -> ParseError {
    ParseError::new(value.at, ParseErrorKind::UnknownName { name: value.describe() })
}
