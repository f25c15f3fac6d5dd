//! Integers, against the same in 128 bits.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

/// Values at the edges, and others.
fn value(rng: &mut StdRng) -> u64 {
    let edges =
        [0, 1, 2, 31, 32, 63, 64, 0x7F, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF];
    match rng.random_range(0..4) {
        0 => edges[rng.random_range(0..edges.len())],
        1 => u64::MAX << rng.random_range(0..64),
        2 => rng.random_range(0..100),
        _ => rng.random(),
    }
}

type Two<T> = fn(T, T) -> T;

/// Checks an operation of two operands of a type, of which `cast` takes the low bits.
fn two<T: Copy>(op: AluOp, ty: Type, cast: fn(u64) -> T, bits: fn(T) -> u64, expected: Two<T>) {
    let alu = instruction(op, ty, plain(), 2);
    let mut rng = StdRng::seed_from_u64(8);
    for _ in 0..2000 {
        let (a, b) = (value(&mut rng), value(&mut rng));
        assert_eq!(run(&alu, &[a, b]), bits(expected(cast(a), cast(b))), "{op:?} {ty:?} {a:#x} {b:#x}");
    }
}

#[test]
fn arithmetic_wraps() {
    use AluOp::*;
    let u32s: [(AluOp, Two<u32>); 8] = [
        (Add, u32::wrapping_add),
        (Sub, u32::wrapping_sub),
        (Mul, u32::wrapping_mul),
        (MulHi, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        (Div, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        (Rem, |a, b| a.checked_rem(b).unwrap_or(a)),
        (Min, u32::min),
        (Max, u32::max),
    ];
    for (op, expected) in u32s {
        two(op, Type::U32, |a| a as u32, u64::from, expected);
    }
    let s32s: [(AluOp, Two<i32>); 8] = [
        (Add, i32::wrapping_add),
        (Sub, i32::wrapping_sub),
        (Mul, i32::wrapping_mul),
        (MulHi, |a, b| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        (Div, |a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        (Rem, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        (Min, i32::min),
        (Max, i32::max),
    ];
    for (op, expected) in s32s {
        two(op, Type::S32, |a| a as i32, |a| a.cast_unsigned().into(), expected);
    }
    let u64s: [(AluOp, Two<u64>); 8] = [
        (Add, u64::wrapping_add),
        (Sub, u64::wrapping_sub),
        (Mul, u64::wrapping_mul),
        (MulHi, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        (Div, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        (Rem, |a, b| a.checked_rem(b).unwrap_or(a)),
        (Min, u64::min),
        (Max, u64::max),
    ];
    for (op, expected) in u64s {
        two(op, Type::U64, |a| a, |a| a, expected);
    }
    let s64s: [(AluOp, Two<i64>); 6] = [
        (Sub, i64::wrapping_sub),
        (Mul, i64::wrapping_mul),
        (MulHi, |a, b| ((i128::from(a) * i128::from(b)) >> 64) as i64),
        (Div, |a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        (Rem, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        (Max, i64::max),
    ];
    for (op, expected) in s64s {
        two(op, Type::S64, |a| a as i64, |a| a.cast_unsigned(), expected);
    }
    let s16s: [(AluOp, Two<i16>); 4] = [
        (Add, i16::wrapping_add),
        (Mul, i16::wrapping_mul),
        (MulHi, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16),
        (Min, i16::min),
    ];
    for (op, expected) in s16s {
        two(op, Type::S16, |a| a as i16, |a| a.cast_unsigned().into(), expected);
    }
    two(Add, Type::U16, |a| a as u16, u64::from, u16::wrapping_add);
}

#[test]
fn bits_are_bits() {
    use AluOp::*;
    let b32s: [(AluOp, Two<u32>); 4] = [
        (And, |a, b| a & b),
        (Or, |a, b| a | b),
        (Xor, |a, b| a ^ b),
        (Shl, |a, b| a.checked_shl(b).unwrap_or(0)),
    ];
    for (op, expected) in b32s {
        two(op, Type::B32, |a| a as u32, u64::from, expected);
    }
    two(Shr, Type::U32, |a| a as u32, u64::from, |a, b| a.checked_shr(b).unwrap_or(0));
    two(Shr, Type::S32, |a| a as i32, |a| a.cast_unsigned().into(), |a, b| a >> b.cast_unsigned().min(31));
    let narrow = |op, ty, n| run(&instruction(op, ty, plain(), 2), &[0xF8001, n]);
    assert_eq!((narrow(Shl, Type::B16, 15), narrow(Shl, Type::B16, 0x1_0000)), (0x8000, 0));
    assert_eq!(
        (narrow(Shr, Type::U16, 15), narrow(Shr, Type::S16, 15), narrow(Shr, Type::S16, 99)),
        (1, 0xFFFF, 0xFFFF)
    );
    let one = |op, ty, a| run(&instruction(op, ty, plain(), 1), &[a]);
    assert_eq!(one(Not, Type::B32, 0xFFFF_FFFF_0F0F_0F0F), 0xF0F0_F0F0);
    assert_eq!(one(Not, Type::Pred, 1), 0);
    assert_eq!(one(Cnot, Type::B32, 0xF_0000_0000), 1);
    assert_eq!(one(Brev, Type::B32, 0x0000_0003), 0xC000_0000);
    assert_eq!(one(Brev, Type::B64, 1), 1 << 63);
    assert_eq!((one(Clz, Type::B32, 0), one(Clz, Type::B32, 1), one(Clz, Type::B64, 1)), (32, 31, 63));
    assert_eq!(one(Popc, Type::B32, 0xFF_FFFF_FFFF), 32);
    assert_eq!((one(Bfind, Type::U32, 0x100), one(Bfind, Type::U32, 0)), (8, 0xFFFF_FFFF));
    assert_eq!((one(Bfind, Type::S32, 0xFFFF_FFFE), one(Bfind, Type::S32, 0xFFFF_FFFF)), (0, 0xFFFF_FFFF));
    assert_eq!((one(Bfind, Type::S64, u64::MAX << 40), one(Bfind, Type::U64, u64::MAX)), (39, 63));
    assert_eq!((one(Neg, Type::S32, 5), one(Abs, Type::S32, 0x8000_0000)), (0xFFFF_FFFB, 0x8000_0000));
    assert_eq!((one(Mov, Type::F32, 0x1_2345_6789), one(Mov, Type::Pred, 1)), (0x2345_6789, 1));
}

/// `bfe` as the ISA writes it, bit by bit.
fn extracted(a: u64, start: u64, length: u64, width: u64, signed: bool) -> u64 {
    let (start, length, top) = (start & 0xFF, length & 0xFF, width - 1);
    let sign = if !signed || length == 0 { 0 } else { a >> (start + length - 1).min(top) & 1 };
    (0..width).map(|i| (if i < length && start + i <= top { a >> (start + i) & 1 } else { sign }) << i).sum()
}

/// `bfi` as the ISA writes it.
fn inserted(a: u64, b: u64, start: u64, length: u64, width: u64) -> u64 {
    let (start, length) = (start & 0xFF, length & 0xFF);
    let mut f = b & (u64::MAX >> (64 - width));
    for i in (0..length).take_while(|i| start + i < width) {
        f = f & !(1 << (start + i)) | (a >> i & 1) << (start + i);
    }
    f
}

#[test]
fn fields_and_tables() {
    let mut rng = StdRng::seed_from_u64(9);
    for _ in 0..3000 {
        let (a, b) = (value(&mut rng), value(&mut rng));
        let [start, length] =
            [0, 1].map(|_| if rng.random() { rng.random_range(0..70) } else { rng.random_range(0..300) });
        for (ty, width, signed) in
            [(Type::U32, 32, false), (Type::S32, 32, true), (Type::U64, 64, false), (Type::S64, 64, true)]
        {
            let seen = run(&instruction(AluOp::Bfe, ty, plain(), 3), &[a, start, length]);
            assert_eq!(seen, extracted(a, start, length, width, signed), "{ty:?} {a:#x} {start} {length}");
        }
        for (ty, width) in [(Type::B32, 32), (Type::B64, 64)] {
            let seen = run(&instruction(AluOp::Bfi, ty, plain(), 4), &[a, b, start, length]);
            assert_eq!(seen, inserted(a, b, start, length, width), "{ty:?} {a:#x} {b:#x} {start} {length}");
        }
        let (c, table) = (value(&mut rng), rng.random::<u8>());
        let bit = |i: u32| (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
        let expected = (0..32).map(|i| u64::from(table >> bit(i) & 1) << i).sum::<u64>();
        assert_eq!(run(&instruction(AluOp::Lop3(table), Type::B32, plain(), 3), &[a, b, c]), expected);
    }
    let permute = |a, b, c| run(&instruction(AluOp::Prmt, Type::B32, plain(), 3), &[a, b, c]);
    assert_eq!(permute(0x3322_1100, 0x7766_5544, 0x7531), 0x7755_3311);
    assert_eq!(permute(0x3322_1180, 0x7766_5544, 0x4_8C08), 0xFF00_80FF);
    let funnel = |op, n| run(&instruction(op, Type::B32, plain(), 3), &[0x8765_4321, 0x0FED_CBA9, n]);
    assert_eq!(funnel(AluOp::FunnelLeftWrap, 36), 0xFEDC_BA98);
    assert_eq!(funnel(AluOp::FunnelLeftClamp, 36), 0x8765_4321);
    assert_eq!(funnel(AluOp::FunnelRightWrap, 36), 0x9876_5432);
    assert_eq!(funnel(AluOp::FunnelRightClamp, 36), 0x0FED_CBA9);
    assert_eq!(funnel(AluOp::FunnelLeftWrap, 0), 0x0FED_CBA9);
}

#[test]
fn products_and_sums() {
    let mut rng = StdRng::seed_from_u64(10);
    for _ in 0..2000 {
        let [a, b, c] = [0; 3].map(|_| value(&mut rng));
        let three = |op, ty| run(&instruction(op, ty, plain(), 3), &[a, b, c]);
        let (x, y) = (a as u32, b as u32);
        let (i, j, k) = (a as i32, b as i32, c as i32);
        let product = i64::from(i) * i64::from(j);
        assert_eq!(three(AluOp::Mad, Type::U32), u64::from(x.wrapping_mul(y).wrapping_add(c as u32)));
        assert_eq!(three(AluOp::Mad, Type::U64), a.wrapping_mul(b).wrapping_add(c));
        assert_eq!(three(AluOp::MadWide, Type::U32), (u64::from(x) * u64::from(y)).wrapping_add(c));
        assert_eq!(three(AluOp::MadWide, Type::S32), product.wrapping_add(c as i64).cast_unsigned());
        assert_eq!(
            three(AluOp::MadHi, Type::S32),
            ((product >> 32) as i32).wrapping_add(k).cast_unsigned().into()
        );
        assert_eq!(three(AluOp::Sad, Type::S32), u64::from(i.abs_diff(j).wrapping_add(c as u32)));
        assert_eq!(three(AluOp::Selp, Type::B32), u64::from(if c != 0 { x } else { y }));
        let wide = |ty| run(&instruction(AluOp::MulWide, ty, plain(), 2), &[a, b]);
        assert_eq!(wide(Type::S32), product.cast_unsigned());
        assert_eq!(wide(Type::U32), u64::from(x) * u64::from(y));
        assert_eq!(wide(Type::S16), u64::from((i32::from(a as i16) * i32::from(b as i16)).cast_unsigned()));
        let saturated = Float { saturate: true, ..plain() };
        let two = |op, float| run(&instruction(op, Type::S32, float, 2), &[a, b]);
        assert_eq!(two(AluOp::Add, saturated), i.saturating_add(j).cast_unsigned().into());
        assert_eq!(two(AluOp::Sub, saturated), i.saturating_sub(j).cast_unsigned().into());
        let high = run(&instruction(AluOp::MadHi, Type::S32, saturated, 3), &[a, b, c]);
        assert_eq!(high, ((product >> 32) as i32).saturating_add(k).cast_unsigned().into());
        let relu = Float { relu: true, ..plain() };
        assert_eq!(two(AluOp::Min, relu), i.min(j).max(0).cast_unsigned().into());
        assert_eq!(two(AluOp::Max, relu), i.max(j).max(0).cast_unsigned().into());
    }
}

#[test]
fn comparisons() {
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..3000 {
        let a = value(&mut rng);
        let b = if rng.random() { value(&mut rng) } else { a };
        let holds = |compare, ty| run(&instruction(AluOp::Setp(compare), ty, plain(), 2), &[a, b]) == 1;
        let (x, y, i, j) = (a as u32, b as u32, a as i32, b as i32);
        for (compare, unsigned, signed) in [
            (Compare::Eq, x == y, i == j),
            (Compare::Ne, x != y, i != j),
            (Compare::Lt, x < y, i < j),
            (Compare::Le, x <= y, i <= j),
            (Compare::Gt, x > y, i > j),
            (Compare::Ge, x >= y, i >= j),
        ] {
            assert_eq!(holds(compare, Type::U32), unsigned);
            assert_eq!(holds(compare, Type::S32), signed);
        }
        assert_eq!(holds(Compare::Ne, Type::B64), a != b);
        assert_eq!(holds(Compare::Lt, Type::S64), (a as i64) < b as i64);
        assert_eq!(holds(Compare::Gt, Type::U16), a as u16 > b as u16);
        let set = instruction(AluOp::Set { compare: Compare::Lt, from: Type::S32 }, Type::U32, plain(), 2);
        assert_eq!(run(&set, &[a, b]), if i < j { 0xFFFF_FFFF } else { 0 });
    }
}

#[test]
fn comparisons_combine_with_predicates() {
    for (op, negated) in
        [AluOp::And, AluOp::Or, AluOp::Xor].into_iter().flat_map(|op| [(op, false), (op, true)])
    {
        let combine = Some(crate::ir::Combine { op, negated });
        let alu = Alu { combine, ..instruction(AluOp::Setp(Compare::Lt), Type::S32, plain(), 3) };
        assert!(supports(&alu));
        for (a, c) in [(1, 0), (1, 1), (9, 0), (9, 1)] {
            let src = [[a; 32], [5; 32], [c; 32], [0; 32]];
            let (holds, other) = (a < 5, (c == 1) != negated);
            let expected = |holds: bool| match op {
                AluOp::And => holds & other,
                AluOp::Or => holds | other,
                _ => holds ^ other,
            };
            assert_eq!(evaluate(&alu, &src), [expected(holds).into(); 32]);
            assert_eq!(super::super::second(&alu, &src), [expected(!holds).into(); 32]);
        }
    }
}
