//! The instructions that the emulator knows, decoded: what lints read and the machine runs.
//!
//! A [`Module`] has kernels, a kernel has a flat list of [`Instruction`]s and branches are indices into it. Registers
//! of inline-assembly scopes have numbers of their own, so names no longer matter. Everything that the PTX text says
//! with modifiers is a field of [`Op`]; what an [`Op`] cannot express does not decode.

mod access;
mod alu;
mod cfg;
mod decode;

use std::fmt;

pub use access::{Access, Registers};
pub use alu::{Alu, AluOp, Combine, Compare, Float, Rounding, Type};
pub use cfg::{Block, Cfg};

/// A PTX file, decoded.
#[derive(Clone, Debug)]
pub struct Module {
    /// `.version`, as (major, minor).
    pub version: (u32, u32),
    /// `.target`, such as `sm_90a`.
    pub target: String,
    /// Its `.entry` functions.
    pub kernels: Vec<Kernel>,
    /// Names of the source files, by the number that `.file` gave them.
    pub files: Vec<(u32, String)>,
}

impl Module {
    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

/// An `.entry` function.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// `.maxntid`.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_ctas: Option<u32>,
    /// `.maxnreg`.
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    /// Shared-memory symbols, statically sized ones first; dynamic shared memory starts behind them.
    pub shared: Vec<SharedSymbol>,
    /// Bytes of statically sized shared memory, with padding: offset of dynamic shared memory.
    pub static_shared_bytes: u32,
    /// Bytes of local memory (a depot) that it declares.
    pub local_bytes: u32,
    /// How many registers of each class it names.
    pub registers: RegisterCounts,
    /// Its instructions.
    pub code: Vec<Instruction>,
}

impl Kernel {
    /// Bytes of all parameters, with padding.
    pub fn param_bytes(&self) -> u32 {
        self.params.last().map_or(0, |last| last.offset + last.bytes)
    }
}

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Where it starts in parameter space.
    pub offset: u32,
    /// Its size.
    pub bytes: u32,
    /// Its alignment in bytes.
    pub align: u32,
}

/// A name for shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSymbol {
    /// Its name.
    pub name: String,
    /// Where it starts, from the start of the kernel's shared memory.
    pub offset: u32,
    /// Its size; absent for dynamic shared memory (`.extern .shared name[]`).
    pub bytes: Option<u32>,
    /// Its alignment in bytes.
    pub align: u32,
}

/// Numbers of registers by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegisterCounts {
    /// Predicates.
    pub predicates: u16,
    /// Registers of up to 32 bits.
    pub narrow: u16,
    /// Registers of 64 bits.
    pub wide: u16,
}

/// A register. Numbers of different classes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reg {
    /// A predicate: one bit a lane.
    Pred(u16),
    /// 8, 16 or 32 bits a lane, zero-extended to 32.
    Narrow(u16),
    /// 64 bits a lane.
    Wide(u16),
}

/// What an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// A constant, sign-extended or IEEE bits; addresses of symbols become constants too, see [`Kernel::shared`].
    Imm(u64),
    /// The offset of a shared-memory symbol, from the start of the kernel's shared memory; the machine adds where
    /// that starts in the shared window.
    Shared(u32),
    /// The offset of a parameter in parameter space.
    Param(u32),
    /// A special register.
    Special(Special),
}

/// Special registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `%tid` along x, y or z.
    Tid(u8),
    /// `%ntid`.
    Ntid(u8),
    /// `%ctaid`.
    Ctaid(u8),
    /// `%nctaid`.
    Nctaid(u8),
    /// `%laneid`.
    Laneid,
    /// `%warpid`.
    Warpid,
    /// `%nwarpid`.
    Nwarpid,
    /// `%smid`.
    Smid,
    /// `%nsmid`.
    Nsmid,
    /// `%clusterid`.
    Clusterid(u8),
    /// `%nclusterid`.
    Nclusterid(u8),
    /// `%cluster_ctaid`.
    ClusterCtaid(u8),
    /// `%cluster_nctaid`.
    ClusterNctaid(u8),
    /// `%cluster_ctarank`.
    ClusterCtarank,
    /// `%cluster_nctarank`.
    ClusterNctarank,
    /// `%is_explicit_cluster`.
    IsExplicitCluster,
    /// `%lanemask_eq`.
    LanemaskEq,
    /// `%lanemask_le`.
    LanemaskLe,
    /// `%lanemask_lt`.
    LanemaskLt,
    /// `%lanemask_ge`.
    LanemaskGe,
    /// `%lanemask_gt`.
    LanemaskGt,
    /// `%clock`, `%clock_hi` (true: the high half).
    Clock(bool),
    /// `%clock64`.
    Clock64,
    /// `%globaltimer`.
    Globaltimer,
    /// `%dynamic_smem_size`.
    DynamicSmemSize,
    /// `%total_smem_size`.
    TotalSmemSize,
}

/// Where an instruction stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What the last `.loc` before it says: number of the file and line of the source.
    pub source: Option<(u32, u32)>,
}

/// `@p` or `@!p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Number of the predicate.
    pub predicate: u16,
    /// Whether the instruction runs where it is false.
    pub negated: bool,
}

/// An instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Lanes that it runs in.
    pub guard: Option<Guard>,
    /// What it does.
    pub op: Op,
    /// Where it stands.
    pub at: Position,
}

/// `base + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// A register, a symbol or a constant.
    pub base: Operand,
    /// Bytes to add.
    pub offset: i64,
}

/// State spaces of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Any window: the address says which.
    Generic,
    /// Global.
    Global,
    /// Shared memory of this CTA.
    SharedCta,
    /// Shared memory of the cluster.
    SharedCluster,
    /// Local.
    Local,
    /// Parameters.
    Param,
    /// Constants.
    Const,
}

/// Memory ordering of an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Plain.
    #[default]
    Weak,
    /// `.volatile`.
    Volatile,
    /// `.relaxed`.
    Relaxed,
    /// `.acquire`.
    Acquire,
    /// `.release`.
    Release,
    /// `.acq_rel`.
    AcqRel,
    /// `.sc` (fences only).
    Sc,
}

/// Who an ordering is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Threads of the CTA.
    #[default]
    Cta,
    /// Threads of the cluster.
    Cluster,
    /// Threads of the device.
    Gpu,
    /// Everything.
    Sys,
}

/// Read-modify-write operations of `atom` and `red`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    /// Addition; floats round to nearest even.
    Add,
    /// Minimum.
    Min,
    /// Maximum.
    Max,
    /// And.
    And,
    /// Or.
    Or,
    /// Exclusive or.
    Xor,
    /// Exchange.
    Exch,
    /// Compare and swap.
    Cas,
    /// Increment with wrap.
    Inc,
    /// Decrement with wrap.
    Dec,
}

/// Ways of `shfl.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShuffleMode {
    /// From lower lanes.
    Up,
    /// From higher lanes.
    Down,
    /// From the lane whose number differs in these bits.
    Bfly,
    /// From this lane.
    Idx,
}

/// Ways of `vote.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteMode {
    /// In all lanes.
    All,
    /// In any lane.
    Any,
    /// The same in all lanes.
    Uni,
    /// The lanes in which.
    Ballot,
}

/// Fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// `fence.{acq_rel,sc,acquire,release}.scope`, `membar`.
    Memory(Order, Scope),
    /// `fence.mbarrier_init.release.cluster`.
    MbarrierInit,
    /// `fence.proxy.async` with the space that it is restricted to.
    ProxyAsync(Option<Space>),
    /// `fence.proxy.tensormap::generic.{acquire,release}.scope`, `fence.proxy.alias`: no effect on what is checked.
    ProxyOther,
}

/// What is done with an mbarrier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mbarrier {
    /// `init` with the expected arrivals.
    Init {
        /// Arrivals of a phase.
        count: Operand,
    },
    /// `inval`.
    Inval,
    /// `arrive`, `arrive_drop`, with or without `expect_tx`.
    Arrive {
        /// The state before, if asked for.
        state: Option<Reg>,
        /// Arrivals.
        count: Operand,
        /// Bytes to expect first.
        expect_tx: Option<Operand>,
        /// Whether later phases expect one arrival less.
        drop: bool,
        /// Whether this may not complete the phase (`.noComplete`).
        no_complete: bool,
        /// Ordering: `Release`, or `Relaxed`.
        order: Order,
        /// Scope of the ordering.
        scope: Scope,
    },
    /// `expect_tx`.
    ExpectTx {
        /// Bytes.
        bytes: Operand,
    },
    /// `complete_tx`.
    CompleteTx {
        /// Bytes.
        bytes: Operand,
    },
    /// `test_wait`, `try_wait`.
    Wait {
        /// Whether the phase is complete.
        done: Reg,
        /// The parity of the phase, or with `by_state` the state that an arrive gave.
        phase: Operand,
        /// Not `.parity`.
        by_state: bool,
        /// `try_wait`: may suspend the thread.
        suspends: bool,
        /// Ordering: `Acquire`, or `Relaxed`.
        order: Order,
        /// Scope of the ordering.
        scope: Scope,
    },
    /// `pending_count` of a state: reads no barrier.
    PendingCount {
        /// The count.
        dst: Reg,
        /// The state.
        state: Operand,
    },
}

/// Element-wise reductions of `cp.reduce.async.bulk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkReduce {
    /// Addition.
    Add,
    /// Minimum.
    Min,
    /// Maximum.
    Max,
    /// And.
    And,
    /// Or.
    Or,
    /// Exclusive or.
    Xor,
    /// Increment with wrap.
    Inc,
    /// Decrement with wrap.
    Dec,
}

/// A bulk asynchronous copy.
#[derive(Clone, Debug, PartialEq)]
pub enum Bulk {
    /// `cp.async.bulk.tensor.Nd.shared.global`: a box of a tensor to shared memory.
    TensorLoad {
        /// Where the box goes, in shared memory (of the cluster, if `.shared::cluster`).
        dst: Address,
        /// Generic address of the tensor map.
        map: Address,
        /// Coordinates, innermost first; their number is the rank.
        coordinates: Box<[Operand]>,
        /// The mbarrier that counts the bytes.
        barrier: Address,
        /// CTAs of the cluster that all get it.
        multicast: Option<Operand>,
        /// L2 cache policy.
        hint: Option<Operand>,
    },
    /// `cp.async.bulk.tensor.Nd.global.shared`, or with a reduction `cp.reduce.async.bulk.tensor`.
    TensorStore {
        /// Generic address of the tensor map.
        map: Address,
        /// Coordinates, innermost first.
        coordinates: Box<[Operand]>,
        /// The box in shared memory.
        src: Address,
        /// How it is combined with what is there.
        reduce: Option<BulkReduce>,
        /// L2 cache policy.
        hint: Option<Operand>,
    },
    /// `cp.async.bulk.prefetch.tensor`.
    TensorPrefetch {
        /// Generic address of the tensor map.
        map: Address,
        /// Coordinates, innermost first.
        coordinates: Box<[Operand]>,
    },
    /// `cp.async.bulk.shared.global`, `cp.async.bulk.shared::cluster.shared::cta`: bytes to shared memory.
    Load {
        /// Destination.
        dst: Address,
        /// Source: global memory, or this CTA's shared memory.
        src: Address,
        /// Whether the source is shared memory.
        from_shared: bool,
        /// Bytes.
        bytes: Operand,
        /// The mbarrier that counts them.
        barrier: Address,
        /// CTAs of the cluster that all get it.
        multicast: Option<Operand>,
        /// L2 cache policy.
        hint: Option<Operand>,
    },
    /// `cp.async.bulk.global.shared`, or with a reduction `cp.reduce.async.bulk.global.shared`.
    Store {
        /// Destination, in global memory.
        dst: Address,
        /// Source, in shared memory.
        src: Address,
        /// Bytes.
        bytes: Operand,
        /// How they are combined with what is there: element type and reduction.
        reduce: Option<(BulkReduce, Type)>,
        /// L2 cache policy.
        hint: Option<Operand>,
    },
    /// `cp.async.bulk.prefetch.L2.global`.
    Prefetch {
        /// Source.
        src: Address,
        /// Bytes.
        bytes: Operand,
    },
    /// `cp.async.bulk.commit_group`.
    Commit,
    /// `cp.async.bulk.wait_group`.
    Wait {
        /// Groups that may be pending.
        pending: u32,
        /// `.read`: only the sources need have been read.
        read: bool,
    },
}

/// Element types of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MmaType {
    /// binary16, 16 columns a step.
    F16,
    /// bfloat16, 16 columns a step.
    Bf16,
    /// TF32, 8 columns a step.
    Tf32,
    /// FP8 with 4 exponent bits, 32 columns a step.
    E4m3,
    /// FP8 with 5 exponent bits, 32 columns a step.
    E5m2,
    /// Signed bytes, 32 columns a step.
    S8,
    /// Unsigned bytes, 32 columns a step.
    U8,
}

impl MmaType {
    /// Bytes of an element in shared memory.
    pub const fn bytes(self) -> u32 {
        match self {
            MmaType::F16 | MmaType::Bf16 => 2,
            MmaType::Tf32 => 4,
            MmaType::E4m3 | MmaType::E5m2 | MmaType::S8 | MmaType::U8 => 1,
        }
    }

    /// K of one instruction: 32 bytes.
    pub const fn k(self) -> u32 {
        32 / self.bytes()
    }
}

/// Accumulator types of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MmaAccumulator {
    /// One f32 a register.
    F32,
    /// Two f16 a register.
    F16,
    /// One s32 a register.
    S32,
}

/// A of a warpgroup product.
#[derive(Clone, Debug, PartialEq)]
pub enum MmaA {
    /// A descriptor of shared memory, and whether it is MN-major.
    Shared {
        /// The descriptor.
        descriptor: Operand,
        /// `imm-trans-a`.
        mn_major: bool,
    },
    /// Four registers.
    Registers([Reg; 4]),
}

/// `wgmma.mma_async.sync.aligned.m64nNkK`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mma {
    /// Columns of B and D: 8 to 256.
    pub n: u32,
    /// Accumulator type.
    pub d_type: MmaAccumulator,
    /// Element type of A.
    pub a_type: MmaType,
    /// Element type of B.
    pub b_type: MmaType,
    /// Accumulators of a thread.
    pub d: Box<[Reg]>,
    /// A.
    pub a: MmaA,
    /// Descriptor of B.
    pub b: Operand,
    /// `imm-trans-b`.
    pub b_mn_major: bool,
    /// `scale-d`: whether D is added to (a predicate or a constant).
    pub scale_d: Operand,
    /// `imm-scale-a` is -1.
    pub negate_a: bool,
    /// `imm-scale-b` is -1.
    pub negate_b: bool,
    /// `.satfinite` (integers).
    pub saturate: bool,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Op {
    /// Arithmetic on registers of one lane.
    Alu(Alu),
    /// `mov.b64 {a, b}, c`, `mov.b32 {a, b}, c`: parts of a register, low first; `_` is none.
    Unpack {
        /// Parts, low first.
        dst: Box<[Option<Reg>]>,
        /// Bits of a part.
        bits: u32,
        /// What is split.
        src: Operand,
    },
    /// `mov.b64 a, {b, c}`: a register from parts.
    Pack {
        /// The whole.
        dst: Reg,
        /// Bits of a part.
        bits: u32,
        /// Parts, low first.
        src: Box<[Operand]>,
    },
    /// `ld`, vectors included.
    Load {
        /// Where.
        space: Space,
        /// Type of an element. A sign fills the register, to 32 or 64 bits; where the register is as narrow as the
        /// element, the type is untyped bits.
        ty: Type,
        /// Elements; `_` is none.
        dst: Box<[Option<Reg>]>,
        /// Address of the first.
        address: Address,
        /// Ordering.
        order: Order,
        /// Scope of the ordering.
        scope: Scope,
        /// Whether nobody writes there while the kernel runs (`.nc`).
        constant: bool,
    },
    /// `st`, vectors included; `st.async` is not known.
    Store {
        /// Where.
        space: Space,
        /// Type of an element.
        ty: Type,
        /// Elements.
        src: Box<[Operand]>,
        /// Address of the first.
        address: Address,
        /// Ordering.
        order: Order,
        /// Scope of the ordering.
        scope: Scope,
    },
    /// `atom`, and without `dst` `red`.
    Atomic {
        /// What is done.
        op: AtomicOp,
        /// Where.
        space: Space,
        /// Type.
        ty: Type,
        /// The value before.
        dst: Option<Reg>,
        /// Address.
        address: Address,
        /// Operand; for compare and swap what is compared with.
        src: Operand,
        /// For compare and swap what is stored.
        swap: Option<Operand>,
        /// Ordering.
        order: Order,
        /// Scope of the ordering.
        scope: Scope,
    },
    /// `ldmatrix.sync.aligned.m8n8`.
    LoadMatrix {
        /// One register a matrix: 1, 2 or 4.
        dst: Box<[Reg]>,
        /// Address of a row, a lane each.
        address: Address,
        /// `.trans`.
        transposed: bool,
    },
    /// `stmatrix.sync.aligned.m8n8`.
    StoreMatrix {
        /// Address of a row, a lane each.
        address: Address,
        /// One register a matrix: 1, 2 or 4.
        src: Box<[Reg]>,
        /// `.trans`.
        transposed: bool,
    },
    /// `mapa`: the address of the same place in another CTA of the cluster.
    Mapa {
        /// Result, in the shared (or with a 64-bit generic form in the generic) window.
        dst: Reg,
        /// Address in this CTA.
        address: Operand,
        /// Rank of the CTA.
        rank: Operand,
        /// Whether addresses are generic.
        generic: bool,
    },
    /// `getctarank`.
    CtaRank {
        /// Result.
        dst: Reg,
        /// An address in shared memory.
        address: Operand,
        /// Whether it is generic.
        generic: bool,
    },
    /// `cvta`: to the generic window, or `cvta.to` out of it.
    Cvta {
        /// Result.
        dst: Reg,
        /// Address.
        src: Operand,
        /// The other window.
        space: Space,
        /// `cvta.to`.
        to_space: bool,
    },
    /// `isspacep`.
    IsSpace {
        /// Result, a predicate.
        dst: Reg,
        /// A generic address.
        address: Operand,
        /// The window asked for.
        space: Space,
    },
    /// `prefetch`, `prefetchu`; `tensormap` if it is of a tensor map.
    Prefetch {
        /// Address.
        address: Address,
        /// Space of the address.
        space: Space,
        /// `prefetch.tensormap`.
        tensor_map: bool,
    },
    /// `bra`.
    Branch {
        /// Index of the instruction.
        target: u32,
        /// `.uni`.
        uniform: bool,
    },
    /// `ret`, `exit`.
    Exit,
    /// `trap`.
    Trap,
    /// `nanosleep`, `pmevent`: no effect that can be seen.
    Nop,
    /// `shfl.sync.b32`.
    Shuffle {
        /// Way.
        mode: ShuffleMode,
        /// What arrives.
        dst: Reg,
        /// Whether it came from a lane in range.
        in_range: Option<Reg>,
        /// What is sent.
        src: Operand,
        /// Lane, distance or bits.
        lane: Operand,
        /// Clamp and segment mask.
        clamp: Operand,
        /// Lanes that take part.
        mask: Operand,
    },
    /// `vote.sync`.
    Vote {
        /// Way.
        mode: VoteMode,
        /// A predicate, or for a ballot a register.
        dst: Reg,
        /// The predicate.
        src: Operand,
        /// Whether it is negated.
        negated: bool,
        /// Lanes that take part.
        mask: Operand,
    },
    /// `match.sync`.
    Match {
        /// `.all`, not `.any`.
        all: bool,
        /// Mask of lanes with the same value.
        dst: Reg,
        /// For `.all`: whether all have it.
        same: Option<Reg>,
        /// The value.
        src: Operand,
        /// Lanes that take part.
        mask: Operand,
    },
    /// `redux.sync`.
    Redux {
        /// What is done: add, min, max, and, or, xor.
        op: AtomicOp,
        /// Type.
        ty: Type,
        /// Result.
        dst: Reg,
        /// The value.
        src: Operand,
        /// Lanes that take part.
        mask: Operand,
    },
    /// `activemask`.
    ActiveMask {
        /// Result.
        dst: Reg,
    },
    /// `elect.sync`.
    Elect {
        /// The elected lane.
        dst: Option<Reg>,
        /// Whether it is this one.
        leader: Reg,
        /// Lanes that take part.
        mask: Operand,
    },
    /// `bar.warp.sync`.
    WarpBarrier {
        /// Lanes that take part.
        mask: Operand,
    },
    /// `bar.sync`, `bar.arrive`, `barrier.cta.*`.
    Barrier {
        /// Whether it waits: `sync`, not `arrive`.
        waits: bool,
        /// Number, 0 to 15.
        id: Operand,
        /// Threads; absent: all of the CTA.
        threads: Option<Operand>,
        /// Whether whole warps execute it (`bar`, `.aligned`).
        aligned: bool,
    },
    /// `barrier.cluster.arrive`.
    ClusterArrive {
        /// Ordering: `Release` or `Relaxed`.
        order: Order,
        /// `.aligned`.
        aligned: bool,
    },
    /// `barrier.cluster.wait`.
    ClusterWait {
        /// `.aligned`.
        aligned: bool,
    },
    /// Fences.
    Fence(Fence),
    /// mbarriers.
    Mbarrier {
        /// What is done.
        action: Mbarrier,
        /// The barrier.
        address: Address,
        /// `SharedCta`, `SharedCluster` or `Generic`.
        space: Space,
    },
    /// Bulk copies.
    Bulk(Bulk),
    /// `wgmma.fence.sync.aligned`.
    MmaFence,
    /// `wgmma.commit_group.sync.aligned`.
    MmaCommit,
    /// `wgmma.wait_group.sync.aligned`.
    MmaWait {
        /// Groups that may be pending.
        pending: u32,
    },
    /// `wgmma.mma_async`.
    Mma(Box<Mma>),
    /// `setmaxnreg`.
    SetMaxRegisters {
        /// `.inc`, not `.dec`.
        increase: bool,
        /// Registers of a thread.
        registers: u32,
    },
    /// `griddepcontrol.wait` (true) and `.launch_dependents` (false).
    GridDependency {
        /// `.wait`.
        wait: bool,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reg::Pred(n) => write!(f, "p{n}"),
            Reg::Narrow(n) => write!(f, "r{n}"),
            Reg::Wide(n) => write!(f, "rd{n}"),
        }
    }
}
