//! What calls return, and what they say when they fail.

use flashcore::Error;

/// What a call returns: 0, or what went wrong. `fc_last_error` has the message, with the offending value and what is
/// allowed. These numbers never change; new ones may come.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum fc_status {
    /// Done, or, for `fc_attention_forward`, `fc_attention_fp8` and `fc_merge_attention_states`, submitted.
    FC_OK = 0,

    /// A pointer that must not be null is null.
    FC_ERROR_NULL_ARGUMENT = 1,
    /// `struct_size` is not the size of the struct that this library knows: header and library differ.
    FC_ERROR_STRUCT_SIZE = 2,
    /// The device handle is null, or was closed, or was never opened.
    FC_ERROR_DEVICE_HANDLE = 3,
    /// The element type is no `fc_dtype`.
    FC_ERROR_UNKNOWN_DTYPE = 4,
    /// The text does not fit into the buffer; its length was written.
    FC_ERROR_BUFFER_TOO_SMALL = 5,
    /// `fc_free` got an address that `fc_alloc` did not give, or that was freed before.
    FC_ERROR_NOT_ALLOCATED = 6,
    /// A mistake in flashcore itself. The message says which; please report it.
    FC_ERROR_INTERNAL = 7,
    /// `align` is no `fc_align`.
    FC_ERROR_UNKNOWN_ALIGN = 8,
    /// `format` is no `fc_fp8`.
    FC_ERROR_UNKNOWN_FP8 = 9,
    /// The handle of room for q, k and v of 8 bits is null, or was destroyed, or was never made.
    FC_ERROR_FP8_QKV_HANDLE = 10,

    /// The CUDA driver library cannot be loaded.
    FC_ERROR_NO_DRIVER = 20,
    /// The CUDA driver must be updated.
    FC_ERROR_DRIVER_TOO_OLD = 21,
    /// There is no CUDA device of this number.
    FC_ERROR_NO_DEVICE = 22,
    /// The device is not of compute capability 9.0 (H100, H200, GH200).
    FC_ERROR_NOT_HOPPER = 23,
    /// Device memory is exhausted.
    FC_ERROR_OUT_OF_MEMORY = 24,
    /// The CUDA driver refused a call.
    FC_ERROR_DRIVER = 25,
    /// An earlier kernel crashed, of this library or another: every call fails until the process ends.
    FC_ERROR_CONTEXT_LOST = 26,
    /// The stream does not belong to the device.
    FC_ERROR_WRONG_STREAM = 27,
    /// The device gives a kernel less shared memory than it needs.
    FC_ERROR_SHARED_MEMORY = 28,
    /// The library was built without the kernel that is needed.
    FC_ERROR_KERNEL_MISSING = 29,
    /// The driver or the emulator cannot load a kernel.
    FC_ERROR_KERNEL_REFUSED = 30,
    /// The emulator found that a kernel's result is undefined: tensors larger than their memory, or a mistake in the
    /// kernel.
    FC_ERROR_HAZARDS = 31,
    /// The emulator refused a call that a GPU would fail at, too.
    FC_ERROR_EMULATOR_REFUSED = 32,

    /// A tensor, or a bias, has more bytes than an address can count.
    FC_ERROR_SHAPE_OVERFLOW = 40,
    /// A dimension is larger than the kernels can index.
    FC_ERROR_DIMENSION_TOO_LARGE = 41,
    /// There are more tiles of queries, or rows to merge or of a mask of dropout, than a launch can count: split the batch.
    FC_ERROR_TOO_MANY_TILES = 42,
    /// head_dim is not a multiple of 8 from 8 to 512, or above 256 with a softcap, slopes, a bias, dropout, key ranges or a
    /// block mask, or in 8 bits.
    FC_ERROR_HEAD_DIM = 43,
    /// A dimension disagrees with that of another tensor.
    FC_ERROR_SHAPE_MISMATCH = 44,
    /// The heads of q are not a multiple of those of k and v.
    FC_ERROR_HEAD_RATIO = 45,
    /// The element types of the tensors differ.
    FC_ERROR_DTYPE_MISMATCH = 46,
    /// The scale is not positive, finite and of ordinary size.
    FC_ERROR_SCALE = 47,
    /// `softcap` is not positive, finite and of ordinary size.
    FC_ERROR_SOFTCAP = 48,
    /// Prefixes beside a window to the left or chunks: a query would see two ranges of keys.
    FC_ERROR_PREFIX_UNDER_WINDOW = 49,
    /// An array has not as many numbers as there are sequences, or heads.
    FC_ERROR_ARRAY_LENGTH = 50,
    /// A bias beside packed sequences: those differ in length, but its rows do not.
    FC_ERROR_BIAS_OF_PACKED = 51,
    /// `dropout_p` is not at least 0 and below 1.
    FC_ERROR_DROPOUT_RATE = 52,
    /// Key ranges or a block mask beside a softcap, slopes, a bias or dropout.
    FC_ERROR_SPARSE_SCORES = 53,
    /// What attention over 8 bits does not have, or not in this format.
    FC_ERROR_FP8_FEATURES = 54,
    /// Room for numbers of 8 bits was made for another number of packed sequences.
    FC_ERROR_FP8_PACKING = 55,

    /// A tensor with elements has a null address.
    FC_ERROR_NULL_POINTER = 60,
    /// An address is not memory of the device.
    FC_ERROR_NOT_DEVICE_POINTER = 61,
    /// An address is memory of another CUDA device.
    FC_ERROR_WRONG_DEVICE = 62,
    /// An address is not aligned: 16 bytes for tensors, 4 for the log-sum-exp, a bias and arrays.
    FC_ERROR_MISALIGNED = 63,
    /// A stride is not a multiple of 8 elements (16 bytes), or, of a bias, odd.
    FC_ERROR_STRIDE_MISALIGNED = 64,
    /// A stride is too large.
    FC_ERROR_STRIDE_TOO_LARGE = 65,
    /// Two elements of the output share an address.
    FC_ERROR_OVERLAPPING_OUTPUT = 66,
    /// The memory of an output overlaps that of another tensor, and is not as a whole one that it may replace.
    FC_ERROR_ALIASING = 67,
    /// With these options a tensor reaches over too much memory.
    FC_ERROR_REACHES_TOO_FAR = 68,
    /// The last stride of a bias is not 1.
    FC_ERROR_BIAS_KEYS_APART = 69,
}

/// Why a call failed: what flashcore says, or what only C can do wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Host(#[from] Error),
    #[error("argument {argument} is null")]
    NullArgument { argument: &'static str },
    #[error("{argument} has struct_size {found}, but this library needs {expected}")]
    StructSize { argument: &'static str, found: usize, expected: usize },
    #[error("the device handle {handle:#x} is not open")]
    DeviceHandle { handle: usize },
    #[error("{operand} has element type {found}, which is no fc_dtype")]
    UnknownDtype { operand: &'static str, found: i32 },
    #[error("align is {found}, which is no fc_align")]
    UnknownAlign { found: i32 },
    #[error("format is {found}, which is no fc_fp8")]
    UnknownFp8 { found: i32 },
    #[error("the handle {handle:#x} is no room for q, k and v of 8 bits")]
    Fp8QkvHandle { handle: usize },
    #[error("the text needs {needed} bytes, but the buffer has {capacity}")]
    BufferTooSmall { needed: usize, capacity: usize },
    #[error("{ptr:#x} is not memory that fc_alloc gave, or was freed before")]
    NotAllocated { ptr: u64 },
    #[error("{bytes} bytes at {ptr:#x} are not memory of this device")]
    NotDeviceMemory { ptr: u64, bytes: usize },
    #[error("flashcore panicked: {message}")]
    Panic { message: String },
}

impl Failure {
    pub(crate) fn status(&self) -> fc_status {
        match self {
            Failure::Host(error) => of_host(error),
            Failure::NullArgument { .. } => fc_status::FC_ERROR_NULL_ARGUMENT,
            Failure::StructSize { .. } => fc_status::FC_ERROR_STRUCT_SIZE,
            Failure::DeviceHandle { .. } => fc_status::FC_ERROR_DEVICE_HANDLE,
            Failure::UnknownDtype { .. } => fc_status::FC_ERROR_UNKNOWN_DTYPE,
            Failure::UnknownAlign { .. } => fc_status::FC_ERROR_UNKNOWN_ALIGN,
            Failure::UnknownFp8 { .. } => fc_status::FC_ERROR_UNKNOWN_FP8,
            Failure::Fp8QkvHandle { .. } => fc_status::FC_ERROR_FP8_QKV_HANDLE,
            Failure::BufferTooSmall { .. } => fc_status::FC_ERROR_BUFFER_TOO_SMALL,
            Failure::NotAllocated { .. } => fc_status::FC_ERROR_NOT_ALLOCATED,
            Failure::NotDeviceMemory { .. } => fc_status::FC_ERROR_NOT_DEVICE_POINTER,
            Failure::Panic { .. } => fc_status::FC_ERROR_INTERNAL,
        }
    }
}

fn of_host(error: &Error) -> fc_status {
    match error {
        Error::NoDriver { .. } => fc_status::FC_ERROR_NO_DRIVER,
        Error::DriverTooOld { .. } => fc_status::FC_ERROR_DRIVER_TOO_OLD,
        Error::NoDevice { .. } => fc_status::FC_ERROR_NO_DEVICE,
        Error::NotHopper { .. } => fc_status::FC_ERROR_NOT_HOPPER,
        Error::OutOfMemory { .. } => fc_status::FC_ERROR_OUT_OF_MEMORY,
        Error::Driver { .. } => fc_status::FC_ERROR_DRIVER,
        Error::ContextLost { .. } => fc_status::FC_ERROR_CONTEXT_LOST,
        Error::WrongStream { .. } => fc_status::FC_ERROR_WRONG_STREAM,
        Error::SharedMemory { .. } => fc_status::FC_ERROR_SHARED_MEMORY,
        Error::KernelMissing { .. } => fc_status::FC_ERROR_KERNEL_MISSING,
        Error::KernelRefused { .. } => fc_status::FC_ERROR_KERNEL_REFUSED,
        Error::Hazards { .. } => fc_status::FC_ERROR_HAZARDS,
        Error::EmulatorRefused { .. } => fc_status::FC_ERROR_EMULATOR_REFUSED,
        Error::ShapeOverflow { .. } | Error::BiasOverflow { .. } => fc_status::FC_ERROR_SHAPE_OVERFLOW,
        Error::DimensionTooLarge { .. } => fc_status::FC_ERROR_DIMENSION_TOO_LARGE,
        Error::TooManyTiles { .. } => fc_status::FC_ERROR_TOO_MANY_TILES,
        Error::HeadDim { .. } | Error::TooWideForFeatures { .. } => fc_status::FC_ERROR_HEAD_DIM,
        Error::ShapeMismatch { .. } => fc_status::FC_ERROR_SHAPE_MISMATCH,
        Error::HeadRatio { .. } => fc_status::FC_ERROR_HEAD_RATIO,
        Error::DtypeMismatch { .. } => fc_status::FC_ERROR_DTYPE_MISMATCH,
        Error::Scale { .. } => fc_status::FC_ERROR_SCALE,
        Error::Softcap { .. } => fc_status::FC_ERROR_SOFTCAP,
        Error::PrefixUnderWindow => fc_status::FC_ERROR_PREFIX_UNDER_WINDOW,
        Error::ArrayLength { .. } => fc_status::FC_ERROR_ARRAY_LENGTH,
        Error::BiasOfPacked { .. } => fc_status::FC_ERROR_BIAS_OF_PACKED,
        Error::DropoutRate { .. } => fc_status::FC_ERROR_DROPOUT_RATE,
        Error::SparseScores => fc_status::FC_ERROR_SPARSE_SCORES,
        Error::Fp8Features => fc_status::FC_ERROR_FP8_FEATURES,
        Error::Fp8Packing { .. } => fc_status::FC_ERROR_FP8_PACKING,
        Error::NullPointer { .. } => fc_status::FC_ERROR_NULL_POINTER,
        Error::NotDevicePointer { .. } => fc_status::FC_ERROR_NOT_DEVICE_POINTER,
        Error::WrongDevice { .. } => fc_status::FC_ERROR_WRONG_DEVICE,
        Error::Misaligned { .. } => fc_status::FC_ERROR_MISALIGNED,
        Error::StrideMisaligned { .. } => fc_status::FC_ERROR_STRIDE_MISALIGNED,
        Error::StrideTooLarge { .. } => fc_status::FC_ERROR_STRIDE_TOO_LARGE,
        Error::OverlappingOutput { .. } => fc_status::FC_ERROR_OVERLAPPING_OUTPUT,
        Error::Aliasing { .. } => fc_status::FC_ERROR_ALIASING,
        Error::ReachesTooFar { .. } => fc_status::FC_ERROR_REACHES_TOO_FAR,
        Error::BiasKeysApart { .. } => fc_status::FC_ERROR_BIAS_KEYS_APART,
        // About events, graphs, time, host data, tensor maps, chunks and starts of nothing, and tensors of 8 bits of the
        // caller's, which this interface does not have.
        _ => fc_status::FC_ERROR_INTERNAL,
    }
}
