//! What instructions decode to.

use flashcore_emulator::ir::{
    Alu, AluOp, AtomicOp, Bulk, BulkReduce, Combine, Compare, Fence, Float, Mbarrier, MmaA, MmaAccumulator,
    MmaType, Op, Operand, Order, Reg, Rounding, Scope, Space, Special, Type,
};

use crate::op;

fn alu(statement: &str) -> Alu {
    match op(statement) {
        Op::Alu(alu) => alu,
        other => panic!("{statement}: {other:?}"),
    }
}

/// Registers `n`, `n + 1`, ... in braces.
fn registers(prefix: &str, count: usize) -> String {
    let names: Vec<_> = (0..count).map(|n| format!("{prefix}{n}")).collect();
    format!("{{{}}}", names.join(", "))
}

// In the order of declaration: r0 is the ninth register of up to 32 bits, behind h0 to h7.
const fn h(n: u16) -> Reg {
    Reg::Narrow(n)
}
const fn r(n: u16) -> Reg {
    Reg::Narrow(8 + n)
}
const fn f(n: u16) -> Reg {
    Reg::Narrow(168 + n)
}
const fn d(n: u16) -> Reg {
    Reg::Wide(n)
}
const fn p(n: u16) -> Reg {
    Reg::Pred(n)
}

#[test]
fn arithmetic_keeps_its_operands_and_modifiers() {
    let found = alu("fma.rz.ftz.sat.f32 f0, f1, 0f3F800000, f2;");
    assert_eq!((found.op, found.ty, found.dst, found.sources), (AluOp::Fma, Type::F32, f(0), 3));
    assert_eq!(found.float, Float { rounding: Rounding::Rz, ftz: true, saturate: true, ..Float::default() });
    assert_eq!(found.src[..3], [Operand::Reg(f(1)), Operand::Imm(0x3F80_0000), Operand::Reg(f(2))]);

    assert_eq!(alu("mov.u32 r0, 0xFFFFFFFF;").src[0], alu("mov.b32 r0, -1;").src[0]);
    assert_eq!(alu("mov.b64 d0, 0b101;").src[0], Operand::Imm(5));
    assert_eq!(alu("mov.b64 d0, 017U;").src[0], Operand::Imm(15));
    assert_eq!(alu("lop3.b32 r0, r1, r2, r3, 0x96;").op, AluOp::Lop3(0x96));
    assert_eq!(alu("shf.l.wrap.b32 r0, r1, r1, 27;").op, AluOp::FunnelLeftWrap);
    assert_eq!(alu("mad.wide.u32 d0, r0, r1, d1;").dst, d(0));

    let combined = alu("setp.ge.or.s32 p0|p1, r1, -5, !p2;");
    assert_eq!((combined.op, combined.dst, combined.dst2), (AluOp::Setp(Compare::Ge), p(0), Some(p(1))));
    assert_eq!(combined.combine, Some(Combine { op: AluOp::Or, negated: true }));
    assert_eq!(combined.src[..3], [Operand::Reg(r(1)), Operand::Imm(-5i64 as u64), Operand::Reg(p(2))]);

    let packed = alu("cvt.rn.bf16x2.f32 r0, f1, f2;");
    assert_eq!((packed.op, packed.ty), (AluOp::Cvt { from: Type::F32 }, Type::Bf16x2));
    assert_eq!(packed.src[..2], [Operand::Reg(f(1)), Operand::Reg(f(2))]);
}

#[test]
fn moves_know_symbols_special_registers_and_parts() {
    assert_eq!(alu("mov.u32 r0, %ctaid.z;").src[0], Operand::Special(Special::Ctaid(2)));
    assert_eq!(alu("mov.u32 r0, smem+32;").src[0], Operand::Shared(32));
    assert_eq!(alu("mov.b64 d0, map;").src[0], Operand::Param(64));
    let Op::Unpack { dst, bits, src } = op("mov.b64 {_, r1}, d3;") else { panic!() };
    assert_eq!((&dst[..], bits, src), (&[None, Some(r(1))][..], 32, Operand::Reg(d(3))));
    let Op::Pack { dst, bits, src } = op("mov.b32 r5, {h1, h2};") else { panic!() };
    assert_eq!((dst, bits, &src[..]), (r(5), 16, &[Operand::Reg(h(1)), Operand::Reg(h(2))][..]));
}

#[test]
fn memory_keeps_space_order_and_address() {
    let Op::Load { space, ty, dst, address, order, scope, constant } =
        op("ld.acquire.gpu.global.v2.s32 {r0, _}, [d1+-16];")
    else {
        panic!()
    };
    assert_eq!((space, ty, order, scope), (Space::Global, Type::S32, Order::Acquire, Scope::Gpu));
    assert!(!constant);
    let Op::Load { constant, .. } = op("ld.global.L1::evict_last.nc.b32 r0, [d1];") else { panic!() };
    assert!(constant);
    assert_eq!((&dst[..], address.base, address.offset), (&[Some(r(0)), None][..], Operand::Reg(d(1)), -16));

    let Op::Load { ty, .. } = op("ld.s16 h0, [d1];") else { panic!() };
    assert_eq!(ty, Type::B16, "a sign has nothing to fill in a register of the same width");
    let Op::Load { ty, .. } = op("ld.s16 r0, [d1];") else { panic!() };
    assert_eq!(ty, Type::S16);

    let Op::Store { src, address, .. } = op("st.shared.v2.b32 [smem+8], {r0, -1};") else { panic!() };
    assert_eq!(&src[..], [Operand::Reg(r(0)), Operand::Imm(u64::MAX)]);
    assert_eq!((address.base, address.offset), (Operand::Shared(0), 8));

    let Op::Atomic { op: what, dst, swap, order, scope, .. } = op("atom.cas.b32 r0, [d0], r1, r2;") else {
        panic!()
    };
    assert_eq!((what, dst, swap), (AtomicOp::Cas, Some(r(0)), Some(Operand::Reg(r(2)))));
    assert_eq!((order, scope), (Order::Relaxed, Scope::Gpu));
}

#[test]
fn fences_and_barriers_keep_their_kind() {
    let fence = |text: &str| match op(text) {
        Op::Fence(fence) => fence,
        other => panic!("{other:?}"),
    };
    assert_eq!(fence("fence.proxy.async;"), Fence::ProxyAsync(None));
    assert_eq!(fence("fence.proxy.async.shared::cta;"), Fence::ProxyAsync(Some(Space::SharedCta)));
    assert_eq!(fence("fence.mbarrier_init.release.cluster;"), Fence::MbarrierInit);
    assert_eq!(fence("fence.acq_rel.cluster;"), Fence::Memory(Order::AcqRel, Scope::Cluster));
    let Op::Barrier { waits, id, threads, aligned } = op("bar.arrive 3, 256;") else { panic!() };
    assert_eq!((waits, id, threads, aligned), (false, Operand::Imm(3), Some(Operand::Imm(256)), true));
    let Op::Barrier { waits, threads, aligned, .. } = op("barrier.sync 3;") else { panic!() };
    assert_eq!((waits, threads, aligned), (true, None, false));
}

#[test]
fn mbarriers_keep_their_action() {
    let action = |text: &str| match op(text) {
        Op::Mbarrier { action, space, .. } => (action, space),
        other => panic!("{other:?}"),
    };
    let arrive = action("mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [r0], 4096;");
    assert_eq!(
        arrive,
        (
            Mbarrier::Arrive {
                state: None,
                count: Operand::Imm(1),
                expect_tx: Some(Operand::Imm(4096)),
                drop: false,
                no_complete: false,
                order: Order::Release,
                scope: Scope::Cluster
            },
            Space::SharedCluster
        )
    );
    let wait = action("mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p1, [smem], r2, 1000;");
    let expected = Mbarrier::Wait {
        done: p(1),
        phase: Operand::Reg(r(2)),
        by_state: false,
        suspends: true,
        order: Order::Acquire,
        scope: Scope::Cta,
    };
    assert_eq!(wait, (expected, Space::SharedCta));
}

#[test]
fn bulk_copies_keep_their_operands() {
    let bulk = |text: &str| match op(text) {
        Op::Bulk(bulk) => bulk,
        other => panic!("{other:?}"),
    };
    let load = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster\
        .L2::cache_hint [r0], [d0, {r1, -8}], [r2+8], h3, d4;";
    let Bulk::TensorLoad { dst, map, coordinates, barrier, multicast, hint } = bulk(load) else { panic!() };
    assert_eq!((dst.base, map.base, barrier.offset), (Operand::Reg(r(0)), Operand::Reg(d(0)), 8));
    assert_eq!(&coordinates[..], [Operand::Reg(r(1)), Operand::Imm(-8i64 as u64)]);
    assert_eq!((multicast, hint), (Some(Operand::Reg(h(3))), Some(Operand::Reg(d(4)))));

    let reduce = bulk(
        "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [d0, {r0, r1, r2}], [r3];",
    );
    assert!(matches!(reduce, Bulk::TensorStore { reduce: Some(BulkReduce::Add), .. }));
    let plain = bulk("cp.reduce.async.bulk.global.shared::cta.bulk_group.max.bf16 [d0], [r0], 64;");
    assert!(matches!(plain, Bulk::Store { reduce: Some((BulkReduce::Max, Type::Bf16)), .. }));
    let shared =
        bulk("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [r0], [r1], 64, [r2];");
    assert!(matches!(shared, Bulk::Load { from_shared: true, .. }));
    assert!(matches!(bulk("cp.async.bulk.wait_group 0;"), Bulk::Wait { pending: 0, read: false }));
}

#[test]
fn products_of_every_type_decode() {
    let mma = |text: &str| match op(text) {
        Op::Mma(mma) => *mma,
        other => panic!("{other:?}"),
    };
    let d128 = registers("r", 128);
    let found = mma(&format!(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {d128}, d0, d1, p3, 1, -1, 0, 1;"
    ));
    assert_eq!((found.n, found.d.len(), found.d[127]), (256, 128, r(127)));
    assert_eq!((found.d_type, found.a_type), (MmaAccumulator::F32, MmaType::Bf16));
    assert_eq!(found.a, MmaA::Shared { descriptor: Operand::Reg(d(0)), mn_major: false });
    assert_eq!((found.b, found.b_mn_major), (Operand::Reg(d(1)), true));
    assert_eq!((found.scale_d, found.negate_a, found.negate_b), (Operand::Reg(p(3)), false, true));

    let from_registers = mma(&format!(
        "wgmma.mma_async.sync.aligned.m64n8k16.f16.f16.f16 {}, {{r9, r8, r7, r6}}, d1, 0, 1, 1, 1;",
        registers("r", 2)
    ));
    assert_eq!(from_registers.a, MmaA::Registers([r(9), r(8), r(7), r(6)]));
    assert_eq!((from_registers.d_type, from_registers.scale_d), (MmaAccumulator::F16, Operand::Imm(0)));

    let d4 = registers("r", 4);
    let fp8 = mma(&format!("wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e5m2 {d4}, d0, d1, p0, 1, 1;"));
    assert_eq!((fp8.a_type, fp8.b_type), (MmaType::E4m3, MmaType::E5m2));
    let tf32 = mma(&format!("wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {d4}, d0, d1, p0, 1, 1;"));
    assert_eq!(tf32.a_type.k(), 8);
    let integers =
        mma(&format!("wgmma.mma_async.sync.aligned.m64n8k32.satfinite.s32.s8.u8 {d4}, d0, d1, p0;"));
    assert_eq!((integers.d_type, integers.saturate), (MmaAccumulator::S32, true));
}
