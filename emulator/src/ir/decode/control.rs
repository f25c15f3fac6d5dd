//! Instructions about threads: ends, barriers, fences, registers.

use super::Decoder;
use super::line::{Line, Result};
use super::memory::SCOPES;
use crate::ir::Type::*;
use crate::ir::{Fence, Op, Order, Scope, Space};

pub(super) const OPCODES: &[(&str, Decoder)] = &[
    ("exit", |_| Ok(Op::Exit)),
    ("ret", |line| {
        line.flag("uni");
        Ok(Op::Exit)
    }),
    ("trap", |_| Ok(Op::Trap)),
    ("nanosleep", |line| {
        let ty = line.ty(&[U32])?;
        line.src(ty)?;
        Ok(Op::Nop)
    }),
    ("pmevent", |line| {
        line.flag("mask");
        line.constant(0, 0xFFFF)?;
        Ok(Op::Nop)
    }),
    ("bar", |line| {
        if line.flag("warp") {
            line.must("sync")?;
            return Ok(Op::WarpBarrier { mask: line.src(B32)? });
        }
        line.flag("cta");
        barrier(line, true)
    }),
    ("barrier", |line| {
        if line.flag("cluster") {
            return cluster_barrier(line);
        }
        line.flag("cta");
        barrier(line, false)
    }),
    ("fence", fence),
    ("membar", |line| {
        let scope = line.need(&[("cta", Scope::Cta), ("gl", Scope::Gpu), ("sys", Scope::Sys)])?;
        Ok(Op::Fence(Fence::Memory(Order::Sc, scope)))
    }),
    ("setmaxnreg", |line| {
        let increase = line.need(&[("inc", true), ("dec", false)])?;
        line.must("sync.aligned")?;
        line.ty(&[U32])?;
        Ok(Op::SetMaxRegisters { increase, registers: line.multiple(8, 24, 256)? })
    }),
    ("griddepcontrol", |line| {
        Ok(Op::GridDependency { wait: line.need(&[("wait", true), ("launch_dependents", false)])? })
    }),
];

/// What follows `bar` or `barrier`; the short form is the aligned one.
fn barrier(line: &mut Line, short: bool) -> Result<Op> {
    let waits = line.need(&[("sync", true), ("arrive", false)])?;
    let aligned = short || line.flag("aligned");
    let id = line.src(U32)?;
    let threads = if line.has_more() || !waits { Some(line.src(U32)?) } else { None };
    Ok(Op::Barrier { waits, id, threads, aligned })
}

fn cluster_barrier(line: &mut Line) -> Result<Op> {
    if line.need(&[("wait", true), ("arrive", false)])? {
        line.flag("acquire");
        return Ok(Op::ClusterWait { aligned: line.flag("aligned") });
    }
    let order = line.pick(&[("release", Order::Release), ("relaxed", Order::Relaxed)]);
    Ok(Op::ClusterArrive { order: order.unwrap_or(Order::Release), aligned: line.flag("aligned") })
}

fn fence(line: &mut Line) -> Result<Op> {
    const ORDERS: &[(&str, Order)] = &[
        ("sc", Order::Sc),
        ("acq_rel", Order::AcqRel),
        ("acquire", Order::Acquire),
        ("release", Order::Release),
    ];
    if line.flag("mbarrier_init") {
        line.must("release.cluster")?;
        return Ok(Op::Fence(Fence::MbarrierInit));
    }
    if line.flag("proxy") {
        return proxy_fence(line).map(Op::Fence);
    }
    let order = line.pick(ORDERS).unwrap_or(Order::AcqRel);
    Ok(Op::Fence(Fence::Memory(order, line.need(SCOPES)?)))
}

fn proxy_fence(line: &mut Line) -> Result<Fence> {
    const ASYNC_SPACES: &[(&str, Space)] = &[
        ("global", Space::Global),
        ("shared::cta", Space::SharedCta),
        ("shared::cluster", Space::SharedCluster),
    ];
    if line.flag("async") {
        return Ok(Fence::ProxyAsync(line.pick(ASYNC_SPACES)));
    }
    if line.flag("tensormap::generic") {
        let acquires = line.need(&[("acquire", true), ("release", false)])?;
        line.need(SCOPES)?;
        if acquires {
            line.address(Space::Generic)?;
            line.constant(128, 128)?;
        }
        return Ok(Fence::ProxyOther);
    }
    line.must("alias")?;
    Ok(Fence::ProxyOther)
}
