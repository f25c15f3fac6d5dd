//! `wgmma`

use super::Decoder;
use super::line::{Line, Result};
use super::operands::wrong_operand;
use crate::ir::Type::{self, *};
use crate::ir::{Mma, MmaA, MmaAccumulator, MmaType, Op, Reg};
use crate::ptx::OperandKind;

pub(super) const OPCODES: &[(&str, Decoder)] = &[("wgmma", |line| {
    let decode = line.need(ACTIONS)?;
    line.must("sync.aligned")?;
    decode(line)
})];

const ACTIONS: &[(&str, Decoder)] = &[
    ("fence", |_| Ok(Op::MmaFence)),
    ("commit_group", |_| Ok(Op::MmaCommit)),
    ("wait_group", |line| Ok(Op::MmaWait { pending: line.constant(0, u32::MAX)? })),
    ("mma_async", mma),
];

const ELEMENTS: &[(&str, MmaType)] = &[
    ("f16", MmaType::F16),
    ("bf16", MmaType::Bf16),
    ("tf32", MmaType::Tf32),
    ("e4m3", MmaType::E4m3),
    ("e5m2", MmaType::E5m2),
    ("s8", MmaType::S8),
    ("u8", MmaType::U8),
];

/// Groups of element types: within one, A and B may differ.
fn family(ty: MmaType) -> u8 {
    match ty {
        MmaType::F16 => 0,
        MmaType::Bf16 => 1,
        MmaType::Tf32 => 2,
        MmaType::E4m3 | MmaType::E5m2 => 3,
        MmaType::S8 | MmaType::U8 => 4,
    }
}

fn mma(line: &mut Line) -> Result<Op> {
    let before_shape = line.mark();
    let (n, k) = line.pick_with(shape, "a shape such as .m64n128k16")?;
    let saturate = line.flag("satfinite");
    let d_type = line.need(&[
        ("f32", MmaAccumulator::F32),
        ("f16", MmaAccumulator::F16),
        ("s32", MmaAccumulator::S32),
    ])?;
    let before_a = line.mark();
    let a_type = line.need(ELEMENTS)?;
    let before_b = line.mark();
    let b_type = line.need(ELEMENTS)?;

    let integers = family(a_type) == 4;
    let accumulates = match d_type {
        MmaAccumulator::F32 => !integers,
        MmaAccumulator::F16 => matches!(family(a_type), 0 | 3),
        MmaAccumulator::S32 => integers,
    };
    let columns = !integers || n <= 24 || n.is_multiple_of(16);
    for (wrong, mark) in [
        (!accumulates || saturate && !integers, before_a),
        (family(a_type) != family(b_type), before_b),
        (a_type.k() != k || !columns, before_shape),
    ] {
        if wrong {
            line.back_to(mark);
            return line.wrong_modifier("");
        }
    }

    let (register, count) = match d_type {
        MmaAccumulator::F32 => (F32, n / 2),
        MmaAccumulator::F16 => (F16x2, n / 4),
        MmaAccumulator::S32 => (S32, n / 2),
    };
    let d = accumulators(line, register, count as usize)?;
    let in_registers = matches!(line.peek_operand(), Some(o) if matches!(o.kind, OperandKind::Vector(_)));
    let mut a = if in_registers {
        MmaA::Registers(fragment(line)?)
    } else {
        MmaA::Shared { descriptor: line.src(B64)?, mn_major: false }
    };
    let b = line.src(B64)?;
    let scale_d = line.src(Pred)?;
    let signs = &[(1, false), (-1, true)];
    let (negate_a, negate_b) =
        if integers { (false, false) } else { (line.constant_of(signs)?, line.constant_of(signs)?) };
    // Only elements of 16 bits can lie the other way round, and only in shared memory.
    let majors = &[(0, false), (1, true)];
    let can_transpose = a_type.bytes() == 2;
    if let MmaA::Shared { mn_major, .. } = &mut a {
        *mn_major = can_transpose && line.constant_of(majors)?;
    }
    let b_mn_major = can_transpose && line.constant_of(majors)?;
    let mma = Mma { n, d_type, a_type, b_type, d, a, b, b_mn_major, scale_d, negate_a, negate_b, saturate };
    Ok(Op::Mma(Box::new(mma)))
}

/// The registers of D, each of which holds another element.
fn accumulators(line: &mut Line, ty: Type, count: usize) -> Result<Box<[Reg]>> {
    let operand = line.peek_operand();
    let registers = line.registers(ty, count)?;
    let mut sorted = registers.to_vec();
    sorted.sort_unstable();
    match operand {
        Some(operand) if sorted.windows(2).any(|pair| pair[0] == pair[1]) => {
            wrong_operand(operand, "each accumulator once")
        }
        _ => Ok(registers),
    }
}

/// The registers of A.
fn fragment(line: &mut Line) -> Result<[Reg; 4]> {
    let operand = line.operand()?;
    let OperandKind::Vector(values) = &operand.kind else { return wrong_operand(operand, A_REGISTERS) };
    let [a, b, c, d] = values[..] else { return wrong_operand(operand, A_REGISTERS) };
    Ok([line.register(a, B32)?, line.register(b, B32)?, line.register(c, B32)?, line.register(d, B32)?])
}

const A_REGISTERS: &str = "four registers of A in braces";

/// N and K of `m64nNkK`.
fn shape(text: &str) -> Option<(u32, u32)> {
    let (n, k) = text.strip_prefix("m64n")?.split_once('k')?;
    let (n, k): (u32, u32) = (n.parse().ok()?, k.parse().ok()?);
    (n.is_multiple_of(8) && (8..=256).contains(&n)).then_some((n, k))
}
