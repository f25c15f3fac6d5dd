//! Everything that can go wrong, as one type. Each variant carries the offending value and the limit.

use std::fmt;

use flashcore_emulator::{Level, Report};

use crate::features::MAX_SOFTCAP;
use crate::kernels::{Dtype, Fp8};
use crate::tensor::Shape;
use crate::tensor_map::TensorMapError;

/// `std::result::Result` with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A tensor of a call, as error messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Output.
    Out,
    /// Log-sum-exp output.
    Lse,
    /// First queries of packed sequences.
    StartsQ,
    /// First keys of packed sequences.
    StartsKv,
    /// Numbers of queries that count.
    UsedQ,
    /// Numbers of keys that count.
    UsedKv,
    /// Lengths of prefixes.
    Prefix,
    /// Logits of attention sinks.
    Sinks,
    /// Slopes of ALiBi.
    Slopes,
    /// What is added to scores.
    Bias,
    /// The keys that each query may see.
    KeyRanges,
    /// Numbers of blocks that a block mask lists.
    BlockCounts,
    /// Blocks that a block mask lists.
    BlockIndices,
    /// Which weights dropout keeps.
    DropoutMask,
    /// Factors of queries of 8 bits.
    DescaleQ,
    /// Factors of keys of 8 bits.
    DescaleK,
    /// Factors of values of 8 bits.
    DescaleV,
    /// Output of the first of two states that are merged.
    O1,
    /// Its log-sum-exp.
    Lse1,
    /// Output of the second one.
    O2,
    /// Its log-sum-exp.
    Lse2,
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operand::Q => "q",
            Operand::K => "k",
            Operand::V => "v",
            Operand::Out => "out",
            Operand::Lse => "lse",
            Operand::StartsQ => "cu_seqlens_q",
            Operand::StartsKv => "cu_seqlens_kv",
            Operand::UsedQ => "seqused_q",
            Operand::UsedKv => "seqused_kv",
            Operand::Prefix => "prefix",
            Operand::Sinks => "sinks",
            Operand::Slopes => "alibi_slopes",
            Operand::Bias => "bias",
            Operand::KeyRanges => "key_ranges",
            Operand::BlockCounts => "kv_num_blocks",
            Operand::BlockIndices => "kv_indices",
            Operand::DropoutMask => "mask",
            Operand::DescaleQ => "q_descale",
            Operand::DescaleK => "k_descale",
            Operand::DescaleV => "v_descale",
            Operand::O1 => "o1",
            Operand::Lse1 => "lse1",
            Operand::O2 => "o2",
            Operand::Lse2 => "lse2",
        })
    }
}

/// A dimension of a tensor, as error messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Sequences.
    Batch,
    /// Positions in a sequence.
    Seqlen,
    /// Attention heads.
    Heads,
    /// Elements of one head.
    HeadDim,
    /// Positions of queries.
    Queries,
    /// Positions of keys.
    Keys,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dim::Batch => "batch",
            Dim::Seqlen => "seqlen",
            Dim::Heads => "heads",
            Dim::HeadDim => "head_dim",
            Dim::Queries => "seqlen_q",
            Dim::Keys => "seqlen_kv",
        })
    }
}

/// What a call refused, or what the driver refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Environment.
    /// The CUDA driver library cannot be loaded.
    #[error("no CUDA driver: {reason}")]
    NoDriver {
        /// What the dynamic loader said.
        reason: String,
    },
    /// The driver cannot encode tensor maps or launch with attributes.
    #[error("the CUDA driver supports CUDA {}, but at least {} is needed: update the driver", version(*.found), version(*.needed))]
    DriverTooOld {
        /// CUDA version of the driver, as `1000 * major + 10 * minor`.
        found: u32,
        /// The oldest that works.
        needed: u32,
    },
    /// There is no such device.
    #[error("there is no CUDA device {ordinal}: the driver sees {count}")]
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// Number of devices.
        count: usize,
    },
    /// The device is not a Hopper GPU: sm_90a code runs on compute capability 9.0 and on no other.
    #[error(
        "device \"{name}\" has compute capability {major}.{minor}; these kernels run on exactly 9.0 (H100, H200, GH200)"
    )]
    NotHopper {
        /// Name of the device.
        name: String,
        /// Compute capability, major.
        major: u32,
        /// Compute capability, minor.
        minor: u32,
    },
    /// Device memory is exhausted.
    #[error("out of device memory: cannot allocate {bytes} bytes")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// The driver refused a call.
    #[error("{call} failed: {name} ({code}), {message}")]
    Driver {
        /// The driver function.
        call: &'static str,
        /// The `CUresult`.
        code: u32,
        /// Its name.
        name: String,
        /// Its description.
        message: String,
    },
    /// An earlier kernel crashed, and with it the process's context: every call fails until the process ends.
    #[error(
        "the device's context is lost, since a kernel crashed before {call}: {name} ({code}); restart the process"
    )]
    ContextLost {
        /// The driver function that reported it.
        call: &'static str,
        /// The `CUresult`.
        code: u32,
        /// Its name.
        name: String,
    },
    /// The stream belongs to another context than the device's primary one.
    #[error("stream {raw:#x} does not belong to the primary context of device {ordinal}")]
    WrongStream {
        /// The stream's handle.
        raw: u64,
        /// The device.
        ordinal: usize,
    },
    /// An event or graph and a stream belong to different [`crate::Device`] values, which are not clones of one.
    #[error("the event or graph and the stream were made by different devices")]
    MixedDevices,
    /// The kernel needs more shared memory than the device gives to a CTA.
    #[error("kernel {symbol} needs {needed} bytes of shared memory, but the device allows {limit}")]
    SharedMemory {
        /// The kernel.
        symbol: &'static str,
        /// What it needs.
        needed: u32,
        /// What there is.
        limit: u32,
    },
    /// No compiled kernel of this name is in the library.
    #[error("kernel {symbol} is not in this build of flashcore")]
    KernelMissing {
        /// The kernel.
        symbol: &'static str,
    },
    /// Neither the machine code nor the PTX of a kernel can be loaded.
    #[error("kernel {symbol} cannot be loaded: {reason}")]
    KernelRefused {
        /// The kernel.
        symbol: &'static str,
        /// What the driver said, with its compiler's log; or what the emulator does not understand, with the line.
        reason: String,
    },
    /// The emulator found that a kernel's result depends on timing, or is undefined. A GPU would not have said so: it
    /// may have given any result. What the kernel wrote stays in memory.
    #[error("{}", hazards(.symbol, .report))]
    Hazards {
        /// The kernel.
        symbol: &'static str,
        /// Everything that was found.
        report: Box<Report>,
    },
    /// The emulator refuses a call that a GPU would fail at, too.
    #[error("the emulated device refuses: {reason}")]
    EmulatorRefused {
        /// Why.
        reason: String,
    },
    /// Time was asked for on an emulated device.
    #[error("an emulated device has no clock: the emulator counts work, but measures no time")]
    NoClock,
    /// A launch has more parameters than any kernel of this library.
    #[error("kernel {symbol} is launched with {count} parameters; at most {limit} are supported")]
    TooManyParameters {
        /// The kernel.
        symbol: &'static str,
        /// Given.
        count: usize,
        /// Supported.
        limit: usize,
    },
    /// A tensor map that the TMA unit cannot use.
    #[error("illegal tensor map: {0}")]
    TensorMap(#[from] TensorMapError),

    // Shapes.
    /// The tensor has more bytes than an address can count.
    #[error("a tensor of shape {shape} is larger than the address space")]
    ShapeOverflow {
        /// Its shape.
        shape: Shape,
    },
    /// A dimension is beyond what the kernels can index.
    #[error("{operand} has {dim} {value}; at most {limit} is supported")]
    DimensionTooLarge {
        /// The tensor.
        operand: Operand,
        /// The dimension.
        dim: Dim,
        /// Given.
        value: usize,
        /// Supported.
        limit: usize,
    },
    /// The problem has more tiles of queries than a launch can count.
    #[error("the problem has {tiles} work tiles; at most {limit} are supported: split the batch")]
    TooManyTiles {
        /// Tiles of queries over all heads and sequences; of a merge or a mask of dropout, rows.
        tiles: u64,
        /// Supported.
        limit: u64,
    },
    /// No kernel computes this head dimension.
    #[error("head_dim {head_dim} is not supported: it must be a multiple of 8 from 8 to {limit}")]
    HeadDim {
        /// Given.
        head_dim: usize,
        /// The widest that is supported.
        limit: usize,
    },
    /// A tensor's dimension disagrees with that of q (or, for v, of k), or of o1.
    #[error("{operand} has {dim} {found}, but {expected} is needed to agree with the other tensors")]
    ShapeMismatch {
        /// The tensor.
        operand: Operand,
        /// The dimension.
        dim: Dim,
        /// What the others say.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// Query heads cannot be shared out evenly over K/V heads.
    #[error("{heads_q} query heads are not a multiple of {heads_kv} key/value heads")]
    HeadRatio {
        /// Heads of q.
        heads_q: usize,
        /// Heads of k and v.
        heads_kv: usize,
    },
    /// All tensors of a call must have one element type.
    #[error("{operand} has element type {}, but {} is needed to agree with the other tensors", .found.name(), .expected.name())]
    DtypeMismatch {
        /// The tensor.
        operand: Operand,
        /// Element type of q, or of o1.
        expected: Dtype,
        /// Given.
        found: Dtype,
    },
    /// The softmax scale is not a positive number of ordinary size, by itself or relative to a softcap.
    #[error("softmax scale {scale} is not supported: it must be positive, finite and not denormal")]
    Scale {
        /// Given.
        scale: f32,
    },
    /// The bound of the scores is not positive, denormal, or above [`MAX_SOFTCAP`].
    #[error(
        "softcap {softcap} is not supported: it must be positive, not denormal, and at most {MAX_SOFTCAP}"
    )]
    Softcap {
        /// Given.
        softcap: f32,
    },
    /// The bias reaches over more bytes than an address can count.
    #[error("a bias of shape {sizes:?} reaches over more than the address space")]
    BiasOverflow {
        /// Its sizes.
        sizes: [usize; 4],
    },
    /// Numbers of neighbouring keys must be neighbours.
    #[error("numbers of neighbouring keys must be neighbours in a bias, but they are {stride} apart")]
    BiasKeysApart {
        /// Elements from one key to the next.
        stride: usize,
    },
    /// Packed sequences differ in length, but a bias has rows of one length.
    #[error("a bias goes with sequences of one length, but those of {operand} are packed")]
    BiasOfPacked {
        /// What says so.
        operand: Operand,
    },
    /// Kernels that know ranges of keys or block masks only scale scores.
    #[error(
        "key ranges and block masks go with no softcap, ALiBi, bias or dropout; a function of scores may do all but the last"
    )]
    SparseScores,
    /// What a call asks for has no kernel for such heads.
    #[error(
        "head_dim {head_dim} is not supported with a softcap, ALiBi, a bias, dropout, key ranges or a block mask: it must be at most {limit}"
    )]
    TooWideForFeatures {
        /// Given; of two, the larger one.
        head_dim: usize,
        /// The widest that is supported.
        limit: usize,
    },
    /// A function of scores was compiled into no kernel that computes such heads.
    #[error("the function of scores has {}kernels for {} of head_dim up to {limit}, but {head_dim} is needed", of_sparse(*.sparse), .dtype.name())]
    NoScoreKernel {
        /// That of the problem.
        head_dim: usize,
        /// Element type of the problem.
        dtype: Dtype,
        /// The widest kernel's; 0 if there is none of this type.
        limit: usize,
        /// Whether sparse kernels are needed: those for key ranges and block masks.
        sparse: bool,
    },
    /// A function of scores does all that happens to them.
    #[error(
        "a function of scores goes with no softcap, ALiBi or bias of the library: let the function do it"
    )]
    ScoreModAlone,
    /// No such probability.
    #[error("a dropout of {p} is not supported: it must be at least 0 and below 1")]
    DropoutRate {
        /// Given.
        p: f32,
    },
    /// Kernels with functions of scores leave out no weights.
    #[error("dropout does not go with a function of scores")]
    DropoutOfScoreMod,
    /// Chunks without keys.
    #[error("a chunk must have at least one key, but 0 was given")]
    EmptyChunk,
    /// What a query sees would be two ranges of keys.
    #[error("a prefix goes with no limit to the left and no chunks: a query would see two ranges of keys")]
    PrefixUnderWindow,
    /// An array has not as many numbers as the call needs.
    #[error("{operand} has {found} numbers, but {expected} are needed")]
    ArrayLength {
        /// The array.
        operand: Operand,
        /// Needed.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// Packed sequences need at least the end of the last one.
    #[error("{operand} is empty; it needs a number for each sequence, and the end of the last one")]
    NoStarts {
        /// The array.
        operand: Operand,
    },
    /// A tensor reaches further than a ragged tensor map counts.
    #[error(
        "{operand} reaches over {units} steps of its strides; at most {limit} are supported with these features"
    )]
    ReachesTooFar {
        /// The tensor.
        operand: Operand,
        /// Steps of the greatest common divisor of its strides, from the first row to the end.
        units: u64,
        /// Supported.
        limit: u64,
    },

    // Memory.
    /// The address is null.
    #[error("{operand} is a null pointer")]
    NullPointer {
        /// The tensor.
        operand: Operand,
    },
    /// The address is not in device memory.
    #[error("{operand} at {ptr:#x} is not device memory")]
    NotDevicePointer {
        /// The tensor.
        operand: Operand,
        /// Its address.
        ptr: u64,
    },
    /// The address belongs to another device.
    #[error("{operand} at {ptr:#x} is memory of device {found}, but the stream is of device {expected}")]
    WrongDevice {
        /// The tensor.
        operand: Operand,
        /// Its address.
        ptr: u64,
        /// The device that owns it.
        found: usize,
        /// The device of the stream.
        expected: usize,
    },
    /// The address is not aligned.
    #[error("{operand} at {ptr:#x} is not aligned to {required} bytes")]
    Misaligned {
        /// The tensor.
        operand: Operand,
        /// Its address.
        ptr: u64,
        /// Bytes.
        required: u64,
    },
    /// The memory behind the address is smaller than shape and strides say.
    #[error("{operand} reaches over {needed} bytes, but has only {given}")]
    TooSmall {
        /// The tensor.
        operand: Operand,
        /// Bytes from the first to the last element.
        needed: usize,
        /// Bytes that there are.
        given: usize,
    },
    /// A stride is not a multiple of 16 bytes, so TMA cannot step by it.
    #[error("{operand} has {dim} stride {stride} (elements); it must be a multiple of {multiple}")]
    StrideMisaligned {
        /// The tensor.
        operand: Operand,
        /// The dimension.
        dim: Dim,
        /// Given, in elements.
        stride: usize,
        /// In elements.
        multiple: usize,
    },
    /// A stride is beyond what a tensor map holds.
    #[error("{operand} has {dim} stride {stride} (elements); it must be less than {limit}")]
    StrideTooLarge {
        /// The tensor.
        operand: Operand,
        /// The dimension.
        dim: Dim,
        /// Given, in elements.
        stride: usize,
        /// In elements.
        limit: usize,
    },
    /// Attention over tensors of 8 bits was asked for more than it can do.
    #[error(
        "q, k and v of 8 bits have no ALiBi, biases, dropout, key ranges, block masks or functions of scores; of e5m2, no packed sequences, numbers of used queries or keys, windows, chunks, prefixes, softcap or sinks either"
    )]
    Fp8Features,
    /// A tensor of 8 bits was made for other sequences than those of the call: each has descales of its own, and each packed
    /// one of v begins a group of keys.
    #[error("{operand} of 8 bits was made for {}, but the call has {}", sequences(*.found), sequences(*.expected))]
    Fp8Packing {
        /// The tensor.
        operand: Operand,
        /// How many packed sequences the call has; `None` if they are not packed.
        expected: Option<usize>,
        /// Those that the tensor was made for.
        found: Option<usize>,
    },
    /// q, k and v of 8 bits have different element types.
    #[error("{operand} has element type {}, but q has {}", .found.name(), .expected.name())]
    Fp8Mismatch {
        /// The tensor.
        operand: Operand,
        /// That of q.
        expected: Fp8,
        /// That of the tensor.
        found: Fp8,
    },
    /// A factor of a tensor of 8 bits is not a positive, normal number.
    #[error("{operand} has {descale}; descales must be positive and normal")]
    Descale {
        /// The factors.
        operand: Operand,
        /// The first that is wrong.
        descale: f32,
    },
    /// Two elements of the output share an address.
    #[error(
        "out has elements that overlap: its {dim} stride is {stride} (elements), but {needed} lie within one step"
    )]
    OverlappingOutput {
        /// The dimension.
        dim: Dim,
        /// Given, in elements.
        stride: usize,
        /// Elements that the dimensions of smaller stride reach over.
        needed: usize,
    },
    /// An output's memory overlaps that of another tensor.
    #[error("the memory of {output} overlaps that of {other}")]
    Aliasing {
        /// The output.
        output: Operand,
        /// The other tensor.
        other: Operand,
    },
    /// Host data and tensor disagree in length.
    #[error("the tensor's memory has {expected} elements, but {found} were given")]
    DataLength {
        /// Elements of the tensor's memory.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// Host data and tensor disagree in element type.
    #[error("the tensor has element type {}, but {} was asked for", .expected.name(), .found.name())]
    ElementType {
        /// Of the tensor.
        expected: Dtype,
        /// Of the host data.
        found: Dtype,
    },
}

/// Findings that the message of [`Error::Hazards`] tells.
const TOLD: usize = 3;

/// How sequences lie: packed ones, or those of a batch.
fn sequences(packed: Option<usize>) -> String {
    match packed {
        Some(count) => format!("{count} packed sequences"),
        None => "sequences of one length".to_owned(),
    }
}

fn hazards(symbol: &str, report: &Report) -> String {
    let denied: Vec<_> = report.findings.iter().filter(|finding| finding.level == Level::Deny).collect();
    let end = if report.completed { "" } else { ", and it did not get to its end" };
    let mut text = format!("kernel {symbol} is wrong{end}; findings: {}", denied.len());
    for finding in denied.iter().take(TOLD) {
        text += &format!("\n{finding}");
    }
    if denied.len() > TOLD {
        text += &format!("\nand {} more", denied.len() - TOLD);
    }
    text
}

fn of_sparse(sparse: bool) -> &'static str {
    if sparse { "sparse " } else { "" }
}

fn version(encoded: u32) -> String {
    format!("{}.{}", encoded / 1000, encoded % 1000 / 10)
}
