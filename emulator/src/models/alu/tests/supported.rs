//! Which combinations of operation, type and modifiers there are.

use super::*;
use crate::ir::Combine;

const TYPES: [Type; 24] = [
    Type::Pred,
    Type::B8,
    Type::B16,
    Type::B32,
    Type::B64,
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::F16x2,
    Type::Bf16,
    Type::Bf16x2,
    Type::F32,
    Type::Tf32,
    Type::F64,
    Type::E4m3x2,
    Type::E5m2x2,
    Type::F32,
    Type::F64,
];

const ROUNDINGS: [Rounding; 12] = [
    Rounding::Default,
    Rounding::Rn,
    Rounding::Rna,
    Rounding::Rz,
    Rounding::Rm,
    Rounding::Rp,
    Rounding::Rni,
    Rounding::Rzi,
    Rounding::Rmi,
    Rounding::Rpi,
    Rounding::Approx,
    Rounding::Full,
];

fn operations() -> Vec<AluOp> {
    use AluOp::*;
    let mut operations = vec![
        Mov,
        Add,
        Sub,
        Mul,
        MulHi,
        MulWide,
        Mad,
        MadHi,
        MadWide,
        Fma,
        Div,
        Rem,
        Min,
        Max,
        Neg,
        Abs,
        And,
        Or,
        Xor,
        Not,
        Cnot,
        Shl,
        Shr,
        FunnelLeftWrap,
        FunnelLeftClamp,
        FunnelRightWrap,
        FunnelRightClamp,
        Bfe,
        Bfi,
        Brev,
        Clz,
        Popc,
        Bfind,
        Lop3(0x1E),
        Prmt,
        Sad,
        Selp,
        Copysign,
        IsFinite,
        Rcp,
        Sqrt,
        Rsqrt,
        Ex2,
        Lg2,
        Sin,
        Cos,
        Tanh,
    ];
    operations.extend([Compare::Eq, Compare::Lt, Compare::Geu, Compare::Nan].map(Setp));
    operations.extend(TYPES.map(|from| Cvt { from }));
    operations.extend(TYPES.map(|from| Set { compare: Compare::Lt, from }));
    operations
}

/// Whatever is supported takes any bits, and gives no more than its result has.
#[test]
fn what_is_supported_computes() {
    let garbage = [0, u64::MAX, 0x7FC0_0001_FF80_0000, 0x8000_0000_8000_8000, 0x0123_4567_89AB_CDEF];
    let mut supported = 0;
    for (op, ty) in operations().into_iter().flat_map(|op| TYPES.map(|ty| (op, ty))) {
        for (rounding, flags) in
            ROUNDINGS.into_iter().flat_map(|rounding| (0..32).map(move |flags| (rounding, flags)))
        {
            let flag = |bit: u32| flags >> bit & 1 == 1;
            let float = Float {
                rounding,
                ftz: flag(0),
                saturate: flag(1),
                satfinite: flag(2),
                relu: flag(3),
                nan: flag(4),
                abs: false,
            };
            let by_sources = (1..=4).map(|sources| instruction(op, ty, float, sources)).filter(supports);
            for alu in by_sources {
                supported += 1;
                let src = std::array::from_fn(|source| {
                    std::array::from_fn(|lane| garbage[(lane + source * (lane / 5)) % 5])
                });
                let result = evaluate(&alu, &src);
                let most = match alu.dst {
                    Reg::Pred(_) => 1,
                    Reg::Narrow(_) => u64::from(u32::MAX),
                    Reg::Wide(_) => u64::MAX,
                };
                assert!(result.iter().all(|&bits| bits <= most), "{alu:?}: {result:x?}");
            }
        }
    }
    assert!(supported > 500, "only {supported}");
}

#[test]
fn refuses_what_the_isa_has_not() {
    use AluOp::*;
    let rn = rounded(Rounding::Rn);
    for (op, ty, float, sources) in [
        (Add, Type::S32, rn, 2),
        (Add, Type::B32, plain(), 2),
        (Add, Type::U32, Float { saturate: true, ..plain() }, 2),
        (Add, Type::F64, ftz(rn), 2),
        (Add, Type::F32, rn, 3),
        (Add, Type::Tf32, rn, 2),
        (Fma, Type::F32, plain(), 3),
        (Fma, Type::F16, rounded(Rounding::Rz), 3),
        (Fma, Type::F16, Float { saturate: true, relu: true, ..rn }, 3),
        (MulWide, Type::U64, plain(), 2),
        (Shl, Type::U32, plain(), 2),
        (And, Type::F32, plain(), 2),
        (Ex2, Type::F32, rn, 1),
        (Ex2, Type::F64, rounded(Rounding::Approx), 1),
        (Div, Type::F16, rn, 2),
        (Min, Type::F64, ftz(plain()), 2),
        (Min, Type::U32, Float { relu: true, ..plain() }, 2),
        (Setp(Compare::Lt), Type::B32, plain(), 2),
        (Setp(Compare::Ltu), Type::U32, plain(), 2),
        (Setp(Compare::Lt), Type::F16x2, plain(), 2),
        (Selp, Type::Pred, plain(), 3),
        (Cvt { from: Type::F32 }, Type::F16, plain(), 1),
        (Cvt { from: Type::F32 }, Type::S32, rn, 1),
        (Cvt { from: Type::F16 }, Type::F32, rn, 1),
        (Cvt { from: Type::F32 }, Type::E4m3x2, rn, 2),
        (Cvt { from: Type::F32 }, Type::F16x2, rn, 1),
        (Cvt { from: Type::B32 }, Type::F32, rn, 1),
        (Cvt { from: Type::F64 }, Type::F16x2, rn, 2),
        (Cvt { from: Type::U32 }, Type::Tf32, rn, 1),
    ] {
        let alu = instruction(op, ty, float, sources);
        assert!(!supports(&alu), "{alu:?}");
    }
    let combine = Some(Combine { op: And, negated: false });
    assert!(!supports(&Alu { combine, ..instruction(Add, Type::S32, plain(), 2) }));
    let combine = Some(Combine { op: Add, negated: false });
    assert!(!supports(&Alu { combine, ..instruction(Setp(Compare::Eq), Type::S32, plain(), 3) }));
}
