//! Instructions against the arithmetic of this language, and tables of what is special.

mod conversions;
mod floats;
mod integers;
mod supported;

use std::array;

use super::{Lanes, evaluate, supports};
use crate::ir::{Alu, AluOp, Compare, Float, Operand, Reg, Rounding, Type};

const NAN: u32 = 0x7FFF_FFFF;

fn instruction(op: AluOp, ty: Type, float: Float, sources: u8) -> Alu {
    let wide = matches!(op, AluOp::MulWide | AluOp::MadWide) && ty.bytes() == 4;
    let dst = match op {
        AluOp::Setp(_) | AluOp::IsFinite => Reg::Pred(0),
        _ if ty == Type::Pred => Reg::Pred(0),
        _ if wide || ty.bytes() == 8 => Reg::Wide(0),
        _ => Reg::Narrow(0),
    };
    Alu { op, ty, float, dst, dst2: None, src: [Operand::Imm(0); 4], sources, combine: None }
}

/// The result in one lane; the other lanes compute something else.
fn run(alu: &Alu, src: &[u64]) -> u64 {
    assert!(supports(alu), "{alu:?}");
    assert_eq!(usize::from(alu.sources), src.len());
    let noise = |source: usize, lane: usize| (32 * source + lane + 1) as u64 * 0x0123_4567_89AB_CDEF;
    let mut lanes: [Lanes; 4] = array::from_fn(|source| array::from_fn(|lane| noise(source, lane)));
    for (lanes, &value) in lanes.iter_mut().zip(src) {
        lanes[13] = value;
    }
    evaluate(alu, &lanes)[13]
}

fn plain() -> Float {
    Float::default()
}

fn rounded(rounding: Rounding) -> Float {
    Float { rounding, ..plain() }
}

fn ftz(float: Float) -> Float {
    Float { ftz: true, ..float }
}
