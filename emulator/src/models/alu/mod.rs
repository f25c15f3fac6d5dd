//! Arithmetic instructions, over the 32 lanes of a warp.
//!
//! [`evaluate`] looks at the operation once and then goes over the lanes. Registers come as their bits, zero-extended
//! to 64; predicates are 0 or 1. Every result that the ISA defines is exact to the bit. Where it leaves bits open,
//! these are the emulator's choices, the same on every machine:
//!
//! * NaN results have all bits set but the sign.
//! * `.approx` functions give the value computed in f64, rounded to nearest; hardware differs in the last bits.
//! * Integer division by zero gives all ones, the remainder the dividend.
//! * Results are flushed by `.ftz` when they are subnormal after rounding.

mod approx;
mod bits;
mod compare;
mod convert;
mod exponential;
mod fast;
mod float;
mod integer;
mod modifiers;

use std::array;

use crate::ir::{Alu, AluOp, Type};

/// The bits of a register in each lane, zero-extended.
pub type Lanes = [u64; 32];

/// The result of `alu` in each lane, of sources in each lane. With `setp p|q` the result is `p`, see [`second`].
///
/// # Panics
/// If the ISA has no such instruction: ask [`supports`] once, before.
pub fn evaluate(alu: &Alu, src: &[Lanes; 4]) -> Lanes {
    computed(alu, src).expect("instructions are checked before they run")
}

/// `q` of `setp p|q`: the opposite of the comparison, combined with the same predicate.
///
/// # Panics
/// As [`evaluate`].
pub fn second(alu: &Alu, src: &[Lanes; 4]) -> Lanes {
    compare::predicate(alu, src, true).expect("instructions are checked before they run")
}

/// Whether there is such an instruction, with these types and modifiers, on sm_90a.
pub fn supports(alu: &Alu) -> bool {
    modifiers::are_known(alu) && computed(alu, &[[0; 32]; 4]).is_some()
}

fn computed(alu: &Alu, src: &[Lanes; 4]) -> Option<Lanes> {
    match alu.op {
        AluOp::Setp(_) => compare::predicate(alu, src, false),
        AluOp::Set { compare, from } => compare::set(alu, compare, from, src),
        AluOp::Cvt { from } => convert::evaluate(alu, from, src),
        _ if bits::has(alu.op) => bits::evaluate(alu.op, alu.ty, src),
        _ => match alu.ty {
            Type::F16x2 => halves(&Alu { ty: Type::F16, ..*alu }, src),
            Type::Bf16x2 => halves(&Alu { ty: Type::Bf16, ..*alu }, src),
            ty if ty.is_float() => fast::evaluate(alu, src)
                .or_else(|| approx::evaluate(alu, src))
                .or_else(|| float::evaluate(alu, src)),
            _ => integer::evaluate(alu, src),
        },
    }
}

/// An instruction on packed values: `alu` on the lower and on the upper halves.
fn halves(alu: &Alu, src: &[Lanes; 4]) -> Option<Lanes> {
    let low = computed(alu, &src.map(|lanes| lanes.map(|bits| bits & 0xFFFF)))?;
    let high = computed(alu, &src.map(|lanes| lanes.map(|bits| bits >> 16 & 0xFFFF)))?;
    Some(array::from_fn(|lane| low[lane] | high[lane] << 16))
}

fn unary(src: &[Lanes; 4], f: impl Fn(u64) -> u64) -> Lanes {
    array::from_fn(|lane| f(src[0][lane]))
}

fn binary(src: &[Lanes; 4], f: impl Fn(u64, u64) -> u64) -> Lanes {
    array::from_fn(|lane| f(src[0][lane], src[1][lane]))
}

fn ternary(src: &[Lanes; 4], f: impl Fn(u64, u64, u64) -> u64) -> Lanes {
    array::from_fn(|lane| f(src[0][lane], src[1][lane], src[2][lane]))
}

/// The low `bits` bits.
const fn low(value: u64, bits: u32) -> u64 {
    value & (u64::MAX >> (64 - bits))
}

#[cfg(test)]
mod tests;
