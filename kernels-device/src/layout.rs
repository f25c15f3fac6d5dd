//! Where bytes lie: shared memory of a CTA, the 128-byte swizzle, and which thread holds which element of a
//! fragment. Pure arithmetic, tested on the host.

use crate::config::{Dtype, SMEM_LIMIT, Tile, Variant, WARPGROUP_ROWS, WARPGROUP_THREADS};

/// Bytes of one row of a slab: every tile in shared memory is cut into slabs of 64 16-bit columns.
pub const SLAB_ROW_BYTES: u32 = 128;
/// Columns of a slab.
pub const SLAB_COLUMNS: u32 = SLAB_ROW_BYTES / Dtype::SIZE;
/// The 128-byte swizzle repeats after 8 rows of 128 bytes; tiles start on such a boundary.
pub const SWIZZLE_ATOM_BYTES: u32 = 1024;

/// The XOR patterns that TMA and wgmma know for shared memory. The name is the width of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// No swizzle.
    None,
    /// Rows of 32 bytes.
    B32,
    /// Rows of 64 bytes.
    B64,
    /// Rows of 128 bytes.
    B128,
}

impl Swizzle {
    /// The physical byte address of logical byte address `address`: bits 4.. are XORed with bits 7...
    ///
    /// It is its own inverse, because the bits it reads are not among those it changes.
    pub const fn apply(self, address: u32) -> u32 {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 3,
            Swizzle::B128 => 7,
        };
        address ^ ((address >> 7 & mask) << 4)
    }

    /// Bytes of a row of the pattern.
    pub const fn row_bytes(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// The two-bit code in bits 62..64 of a wgmma descriptor (the order is the reverse of the tensor map's).
    pub const fn descriptor_code(self) -> u64 {
        match self {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        }
    }
}

/// How a tile lies in shared memory: cut into slabs as wide as its swizzle, one behind the other, of all rows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileLayout {
    /// Rows.
    pub rows: u32,
    /// Slabs.
    pub slabs: u32,
    /// The swizzle, whose rows are those of a slab.
    pub swizzle: Swizzle,
}

impl TileLayout {
    /// Bytes of a row of a slab.
    pub const fn row_bytes(self) -> u32 {
        self.swizzle.row_bytes()
    }

    /// Bytes of 8 rows of a slab: what the swizzle repeats after, or half or a quarter of that.
    pub const fn group_bytes(self) -> u32 {
        8 * self.row_bytes()
    }

    /// Bytes of a slab.
    pub const fn slab_bytes(self) -> u32 {
        self.rows * self.row_bytes()
    }

    /// Bytes of the tile.
    pub const fn bytes(self) -> u32 {
        self.slabs * self.slab_bytes()
    }

    /// Where byte `byte` of the rows lies, before the swizzle.
    pub const fn at(self, byte: u32) -> u32 {
        byte / self.row_bytes() * self.slab_bytes() + byte % self.row_bytes()
    }
}

/// Byte offset of (row, column) of a 16-bit tile of `rows` rows that is stored as 128-byte-swizzled slabs.
pub const fn slab_offset(rows: u32, row: u32, column: u32) -> u32 {
    let slab = column / SLAB_COLUMNS * rows * SLAB_ROW_BYTES;
    slab + Swizzle::B128.apply(row * SLAB_ROW_BYTES + column % SLAB_COLUMNS * Dtype::SIZE)
}

/// Shared memory of a forward CTA, as byte offsets from the 1024-byte-aligned base.
///
/// Q, K and V lie as their [`TileLayout`]s say: of 16 bits, in slabs `[head_dim / 64][rows][128 bytes]`, and so does O. The
/// barriers come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FwdSmem {
    /// The Q ring: `q_stages` tiles of `block_m` rows.
    pub q: u32,
    /// The K ring: `stages` tiles of `block_n` rows.
    pub k: u32,
    /// The V ring: `stages` tiles of `block_n` rows.
    pub v: u32,
    /// The ring of tiles that are added to scores: `bias_stages` of [`WARPGROUP_ROWS`] rows, cut into slabs as they are.
    pub bias: u32,
    /// Where O is staged for its TMA store: a place of its own if there is room, else over V.
    pub o: u32,
    /// Whether O is staged over V, so that V of the next work tile must wait for the store.
    pub o_over_v: bool,
    /// The mbarriers, 8 bytes each: see [`Barrier`].
    pub barriers: u32,
    /// Slots of the Q ring: two if there is room, so that Q of the next work tile loads during this one.
    pub q_stages: u32,
    /// Slots of the K ring, and of the V ring.
    pub kv_stages: u32,
    /// Slots of the ring of biases: one or two for each consumer, or none.
    pub bias_stages: u32,
    /// Bytes of one stage of Q.
    pub q_bytes: u32,
    /// Bytes of one stage of K.
    pub k_bytes: u32,
    /// Bytes of one stage of V.
    pub v_bytes: u32,
    /// Bytes of one stage of biases.
    pub bias_bytes: u32,
    /// Bytes of the O tile.
    pub o_bytes: u32,
    /// Bytes in all: the launch's dynamic shared memory.
    pub bytes: u32,
}

/// The mbarriers of a forward CTA; rings have one for each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// Q has arrived.
    QFull,
    /// Q may be overwritten.
    QEmpty,
    /// A stage of K has arrived.
    KFull,
    /// A stage of K may be overwritten.
    KEmpty,
    /// A stage of V has arrived.
    VFull,
    /// A stage of V may be overwritten.
    VEmpty,
    /// O, staged over V, has been read.
    ORead,
    /// A stage of biases has arrived.
    BiasFull,
    /// A stage of biases may be overwritten.
    BiasEmpty,
}

impl FwdSmem {
    /// The layout of `variant`.
    pub const fn new(variant: &Variant) -> Self {
        let Tile { block_m, block_n, stages: kv_stages, .. } = variant.tile;
        let (q_bytes, o_bytes) = (variant.q_tile().bytes(), block_m * variant.o_slabs() * SLAB_ROW_BYTES);
        let (k_bytes, v_bytes) = (variant.k_tile().bytes(), variant.v_tile().bytes());
        let rings = kv_stages * (k_bytes + v_bytes);
        let (bias_bytes, consumers) = match variant.has_bias_tiles() {
            true => (WARPGROUP_ROWS * block_n.div_ceil(SLAB_COLUMNS) * SLAB_ROW_BYTES, variant.consumers()),
            false => (0, 0),
        };
        // What fits beside K, V and a tile of biases: two stages of Q and O, or one of each, or Q alone.
        let room =
            SMEM_LIMIT - rings - consumers * bias_bytes - barrier_bytes(2, kv_stages, 2 * consumers, true);
        let (q_stages, o_over_v) =
            if room >= 2 * q_bytes + o_bytes { (2, false) } else { (1, room < q_bytes + o_bytes) };
        let left = room - q_stages * q_bytes - if o_over_v { 0 } else { o_bytes };
        let bias_stages = if left >= consumers * bias_bytes { 2 * consumers } else { consumers };
        let k = q_stages * q_bytes;
        let v = k + kv_stages * k_bytes;
        let bias = k + rings;
        let end = bias + bias_stages * bias_bytes;
        let (o, barriers) = if o_over_v { (v, end) } else { (end, end + o_bytes) };
        let bytes = barriers + barrier_bytes(q_stages, kv_stages, bias_stages, o_over_v);
        FwdSmem {
            q: 0,
            k,
            v,
            bias,
            o,
            o_over_v,
            barriers,
            q_stages,
            kv_stages,
            bias_stages,
            q_bytes,
            k_bytes,
            v_bytes,
            bias_bytes,
            o_bytes,
            bytes,
        }
    }

    /// Bytes of what a CTA's consumers come to, each under its share of the keys, as it lies over K and V: O in f32,
    /// and for each of a thread's two rows the maximum and the sum.
    pub const fn part_bytes(&self, variant: &Variant) -> u32 {
        let threads = variant.consumers() * WARPGROUP_THREADS;
        threads * (variant.head_dim_v / 2 + 4) * 4
    }

    /// Offset of a barrier of stage `stage`.
    pub const fn barrier(&self, barrier: Barrier, stage: u32) -> u32 {
        let (q, kv) = (self.q_stages, self.kv_stages);
        let first = match barrier {
            Barrier::QFull => 0,
            Barrier::QEmpty => q,
            Barrier::KFull => 2 * q,
            Barrier::KEmpty => 2 * q + kv,
            Barrier::VFull => 2 * q + 2 * kv,
            Barrier::VEmpty => 2 * q + 3 * kv,
            Barrier::ORead => 2 * q + 4 * kv,
            Barrier::BiasFull => 2 * q + 4 * kv + self.o_over_v as u32,
            Barrier::BiasEmpty => 2 * q + 4 * kv + self.o_over_v as u32 + self.bias_stages,
        };
        self.barriers + 8 * (first + stage)
    }
}

/// Bytes of the mbarriers: one for "full" and one for "empty" of each stage of each ring, and the gate of O
/// where it lies over V.
const fn barrier_bytes(q_stages: u32, kv_stages: u32, bias_stages: u32, o_over_v: bool) -> u32 {
    8 * (2 * q_stages + 4 * kv_stages + 2 * bias_stages + o_over_v as u32)
}

/// (row, column) of register `register` of thread `thread` in the f32 accumulator of a wgmma m64nN.
///
/// PTX ISA, "wgmma.mma_async register fragments", D. A warp owns 16 rows; a quad of lanes owns one row of each
/// half, and two neighbouring columns of every eight.
pub const fn accumulator_element(thread: u32, register: u32) -> (u32, u32) {
    let (warp, lane) = (thread / 32, thread % 32);
    let row = 16 * warp + lane / 4 + 8 * (register >> 1 & 1);
    let column = 8 * (register >> 2) + 2 * (lane % 4) + (register & 1);
    (row, column)
}

/// (row, k) of 16-bit element `element` (0..8) of thread `thread` in the A fragment of a wgmma m64nNk16.
///
/// Two elements a register, low half first. It equals the accumulator's map, which is why P needs no shuffle
/// between QKᵀ and PV.
pub const fn a_element(thread: u32, element: u32) -> (u32, u32) {
    let (warp, lane) = (thread / 32, thread % 32);
    let row = 16 * warp + lane / 4 + 8 * (element >> 1 & 1);
    let k = 2 * (lane % 4) + (element & 1) + 8 * (element >> 2);
    (row, k)
}

/// (row, k) of 8-bit element `element` (0..16) of thread `thread` in the A fragment of a wgmma m64nNk32.
///
/// Four elements a register, low byte first. It is not the accumulator's map: see [`crate::fp8::value_position`].
pub const fn a_element_8bit(thread: u32, element: u32) -> (u32, u32) {
    let (warp, lane) = (thread / 32, thread % 32);
    let row = 16 * warp + lane / 4 + 8 * (element >> 2 & 1);
    let k = 4 * (lane % 4) + (element & 3) + 16 * (element >> 3);
    (row, k)
}

const _: () = assert!(
    (WARPGROUP_ROWS * SLAB_ROW_BYTES).is_multiple_of(SWIZZLE_ATOM_BYTES),
    "a warpgroup's rows are whole atoms"
);
