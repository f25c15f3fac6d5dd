//! `ld`, `st`, `atom`, `red` and prefetches.

use super::Decoder;
use super::line::{Line, Result};
use super::operands::{is_sink, register_type, wrong_operand};
use super::types::fits;
use crate::ir::Type::{self, *};
use crate::ir::{AtomicOp, Op, Operand, Order, Reg, Scope, Space};
use crate::ptx::{Value, ValueKind};

pub(super) const OPCODES: &[(&str, Decoder)] = &[
    ("ld", load),
    ("st", store),
    ("atom", |line| atomic(line, true)),
    ("red", |line| atomic(line, false)),
    ("prefetch", prefetch),
    ("prefetchu", |line| {
        line.must("L1")?;
        let address = line.address(Space::Generic)?;
        Ok(Op::Prefetch { address, space: Space::Generic, tensor_map: false })
    }),
];

pub(super) const SCOPES: &[(&str, Scope)] =
    &[("cta", Scope::Cta), ("cluster", Scope::Cluster), ("gpu", Scope::Gpu), ("sys", Scope::Sys)];

pub(super) const SHARED: &[(&str, Space)] = &[
    ("shared", Space::SharedCta),
    ("shared::cta", Space::SharedCta),
    ("shared::cluster", Space::SharedCluster),
];

const LOAD_SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::SharedCta),
    ("shared::cta", Space::SharedCta),
    ("shared::cluster", Space::SharedCluster),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("const", Space::Const),
];
const STORE_SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::SharedCta),
    ("shared::cta", Space::SharedCta),
    ("shared::cluster", Space::SharedCluster),
    ("local", Space::Local),
];
const ATOMIC_SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::SharedCta),
    ("shared::cta", Space::SharedCta),
    ("shared::cluster", Space::SharedCluster),
];

/// Hints about caches, which change no result.
const LOAD_CACHES: &[(&str, ())] = &[
    ("ca", ()),
    ("cg", ()),
    ("cs", ()),
    ("lu", ()),
    ("cv", ()),
    ("L1::evict_normal", ()),
    ("L1::evict_unchanged", ()),
    ("L1::evict_first", ()),
    ("L1::evict_last", ()),
    ("L1::no_allocate", ()),
    ("L2::evict_normal", ()),
    ("L2::evict_first", ()),
    ("L2::evict_last", ()),
    ("L2::64B", ()),
    ("L2::128B", ()),
    ("L2::256B", ()),
];
const STORE_CACHES: &[(&str, ())] = &[
    ("wb", ()),
    ("cg", ()),
    ("cs", ()),
    ("wt", ()),
    ("L1::evict_normal", ()),
    ("L1::evict_unchanged", ()),
    ("L1::evict_first", ()),
    ("L1::evict_last", ()),
    ("L1::no_allocate", ()),
    ("L2::evict_normal", ()),
    ("L2::evict_first", ()),
    ("L2::evict_last", ()),
];

const TYPES: &[Type] = &[B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F32, F64];

/// `.weak`, `.volatile`, or an ordering with its scope.
fn ordering(line: &mut Line, strong: &[(&str, Order)]) -> Result<(Order, Scope)> {
    if line.flag("volatile") {
        return Ok((Order::Volatile, Scope::Sys));
    }
    match line.pick(strong) {
        Some(order) => Ok((order, line.need(SCOPES)?)),
        None => {
            line.flag("weak");
            Ok((Order::Weak, Scope::Cta))
        }
    }
}

/// Elements of a vector access, and their type.
fn elements(line: &mut Line) -> Result<(usize, Type)> {
    let count = line.pick(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    let before = line.mark();
    let ty = line.ty(TYPES)?;
    if count * ty.bytes() as usize > 16 {
        line.back_to(before);
        return line.wrong_modifier("");
    }
    Ok((count, ty))
}

/// The operands of a vector access: registers in braces, or one alone.
fn vector<'s, 'a>(line: &mut Line<'s, 'a>, count: usize) -> Result<&'s [Value<'a>]> {
    let Some(operand) = line.peek_operand() else { return line.operand().map(|_| &[][..]) };
    let values = line.values()?;
    if values.len() == count {
        return Ok(values);
    }
    wrong_operand(operand, &format!("{count} registers"))
}

/// A register that memory is loaded to or stored from: integers may be in wider ones.
fn memory_register(line: &Line, value: Value, ty: Type) -> Result<(Reg, Type)> {
    let (reg, declared) = line.declared(value)?;
    let wider = !ty.is_float() && !declared.is_float() && declared != Pred && declared.bytes() > ty.bytes();
    if fits(declared, ty) || wider { Ok((reg, declared)) } else { Err(register_type(value, declared, ty)) }
}

fn load(line: &mut Line) -> Result<Op> {
    let (order, scope) = ordering(line, &[("relaxed", Order::Relaxed), ("acquire", Order::Acquire)])?;
    let space = line.pick(LOAD_SPACES).unwrap_or(Space::Generic);
    let mut constant = false;
    loop {
        if line.flag("nc") {
            constant = true;
        } else if line.pick(LOAD_CACHES).is_none() {
            break;
        }
    }
    let (count, written) = elements(line)?;
    let mut ty = written;
    let mut dst = Vec::with_capacity(count);
    for value in vector(line, count)? {
        if is_sink(*value) && count > 1 {
            dst.push(None);
            continue;
        }
        let (reg, declared) = memory_register(line, *value, written)?;
        ty = extended(line, written, declared)?;
        dst.push(Some(reg));
    }
    let address = line.address(space)?;
    Ok(Op::Load { space, ty, dst: dst.into(), address, order, scope, constant })
}

/// The type that says how the loaded value fills its register. A sign fills registers of 32 or 64 bits; where the
/// register is as wide as the value, there is nothing to fill.
fn extended(line: &Line, ty: Type, declared: Type) -> Result<Type> {
    match (ty, declared.bytes()) {
        (S8, 1) => Ok(B8),
        (S16, 2) => Ok(B16),
        (S8, 2) => line.refuse("a signed load of 8 bits to a register of 16"),
        _ => Ok(ty),
    }
}

fn store(line: &mut Line) -> Result<Op> {
    let (order, scope) = ordering(line, &[("relaxed", Order::Relaxed), ("release", Order::Release)])?;
    let space = line.pick(STORE_SPACES).unwrap_or(Space::Generic);
    while line.pick(STORE_CACHES).is_some() {}
    let (count, ty) = elements(line)?;
    let address = line.address(space)?;
    let values = vector(line, count)?;
    let src = values.iter().map(|value| stored(line, *value, ty)).collect::<Result<_>>()?;
    Ok(Op::Store { space, ty, src, address, order, scope })
}

/// A value to store: a constant, or a register as for a load.
fn stored(line: &Line, value: Value, ty: Type) -> Result<Operand> {
    match value.kind {
        ValueKind::Name(..) => memory_register(line, value, ty).map(|(reg, _)| Operand::Reg(reg)),
        _ => line.read(value, ty),
    }
}

const ATOMICS: &[(&str, AtomicOp)] = &[
    ("add", AtomicOp::Add),
    ("min", AtomicOp::Min),
    ("max", AtomicOp::Max),
    ("and", AtomicOp::And),
    ("or", AtomicOp::Or),
    ("xor", AtomicOp::Xor),
    ("inc", AtomicOp::Inc),
    ("dec", AtomicOp::Dec),
    ("exch", AtomicOp::Exch),
    ("cas", AtomicOp::Cas),
];

fn atomic(line: &mut Line, returns: bool) -> Result<Op> {
    let orders: &[(&str, Order)] = &[
        ("relaxed", Order::Relaxed),
        ("acquire", Order::Acquire),
        ("release", Order::Release),
        ("acq_rel", Order::AcqRel),
    ];
    // `red` returns nothing that could acquire.
    let orders = if returns { orders } else { &[("relaxed", Order::Relaxed), ("release", Order::Release)] };
    let order = line.pick(orders).unwrap_or(Order::Relaxed);
    let scope = line.pick(SCOPES).unwrap_or(Scope::Gpu);
    let space = line.pick(ATOMIC_SPACES).unwrap_or(Space::Generic);
    // Without a result there is nothing to exchange.
    let op = line.need(if returns { ATOMICS } else { &ATOMICS[..8] })?;
    let halves = op == AtomicOp::Add && line.flag("noftz");
    let ty = line.ty(match op {
        AtomicOp::Add if halves => &[F16, F16x2, Bf16, Bf16x2],
        AtomicOp::Add => &[U32, S32, U64, F32, F64],
        AtomicOp::Min | AtomicOp::Max => &[U32, S32, U64, S64],
        AtomicOp::Inc | AtomicOp::Dec => &[U32],
        AtomicOp::Cas => &[B16, B32, B64],
        AtomicOp::And | AtomicOp::Or | AtomicOp::Xor | AtomicOp::Exch => &[B32, B64],
    })?;
    let dst = if returns { line.dst_or_sink(ty)? } else { None };
    let address = line.address(space)?;
    let src = line.src(ty)?;
    let swap = if op == AtomicOp::Cas { Some(line.src(ty)?) } else { None };
    Ok(Op::Atomic { op, space, ty, dst, address, src, swap, order, scope })
}

fn prefetch(line: &mut Line) -> Result<Op> {
    let space = line
        .pick(&[
            ("global", Space::Global),
            ("local", Space::Local),
            ("param", Space::Param),
            ("const", Space::Const),
        ])
        .unwrap_or(Space::Generic);
    let of_maps = matches!(space, Space::Generic | Space::Param | Space::Const);
    let of_data = !matches!(space, Space::Param | Space::Const);
    let tensor_map = of_maps && line.flag("tensormap");
    if !tensor_map {
        if !of_data {
            return line.wrong_modifier(".tensormap");
        }
        line.need(&[("L1", ()), ("L2", ()), ("L2::evict_last", ()), ("L2::evict_normal", ())])?;
    }
    let address = line.address(space)?;
    Ok(Op::Prefetch { address, space, tensor_map })
}
