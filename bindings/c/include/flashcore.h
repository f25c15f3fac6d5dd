// flashcore: fused attention for NVIDIA Hopper (H100, H200, GH200). Made by cbindgen from the crate flashcore-c.
//
// Threads: every function may be called from any thread, at the same time and on the same device.
//
// Lifetimes: structs are read during a call and may go afterwards. Device memory must stay until the work that uses it
// has completed: fc_attention_forward, fc_attention_fp8 and fc_merge_attention_states return before that.
//
// Units: sizes and strides of tensors count elements; all other sizes count bytes.
//
// Sections named Safety say what a library cannot check: there, and only there, a mistake is undefined behaviour.


#ifndef FLASHCORE_H
#define FLASHCORE_H

#include <stddef.h>
#include <stdint.h>

// Version of the interface that this header describes. It changes when something that compiled or ran before no longer
// does; additions do not change it.
#define FC_ABI_VERSION 1

// Bytes of a device's name, its final zero included.
#define FC_NAME_BYTES 256

// What a call returns: 0, or what went wrong. `fc_last_error` has the message, with the offending value and what is
// allowed. These numbers never change; new ones may come.
enum fc_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Done, or, for `fc_attention_forward`, `fc_attention_fp8` and `fc_merge_attention_states`, submitted.
    FC_OK = 0,
    // A pointer that must not be null is null.
    FC_ERROR_NULL_ARGUMENT = 1,
    // `struct_size` is not the size of the struct that this library knows: header and library differ.
    FC_ERROR_STRUCT_SIZE = 2,
    // The device handle is null, or was closed, or was never opened.
    FC_ERROR_DEVICE_HANDLE = 3,
    // The element type is no `fc_dtype`.
    FC_ERROR_UNKNOWN_DTYPE = 4,
    // The text does not fit into the buffer; its length was written.
    FC_ERROR_BUFFER_TOO_SMALL = 5,
    // `fc_free` got an address that `fc_alloc` did not give, or that was freed before.
    FC_ERROR_NOT_ALLOCATED = 6,
    // A mistake in flashcore itself. The message says which; please report it.
    FC_ERROR_INTERNAL = 7,
    // `align` is no `fc_align`.
    FC_ERROR_UNKNOWN_ALIGN = 8,
    // `format` is no `fc_fp8`.
    FC_ERROR_UNKNOWN_FP8 = 9,
    // The handle of room for q, k and v of 8 bits is null, or was destroyed, or was never made.
    FC_ERROR_FP8_QKV_HANDLE = 10,
    // The CUDA driver library cannot be loaded.
    FC_ERROR_NO_DRIVER = 20,
    // The CUDA driver must be updated.
    FC_ERROR_DRIVER_TOO_OLD = 21,
    // There is no CUDA device of this number.
    FC_ERROR_NO_DEVICE = 22,
    // The device is not of compute capability 9.0 (H100, H200, GH200).
    FC_ERROR_NOT_HOPPER = 23,
    // Device memory is exhausted.
    FC_ERROR_OUT_OF_MEMORY = 24,
    // The CUDA driver refused a call.
    FC_ERROR_DRIVER = 25,
    // An earlier kernel crashed, of this library or another: every call fails until the process ends.
    FC_ERROR_CONTEXT_LOST = 26,
    // The stream does not belong to the device.
    FC_ERROR_WRONG_STREAM = 27,
    // The device gives a kernel less shared memory than it needs.
    FC_ERROR_SHARED_MEMORY = 28,
    // The library was built without the kernel that is needed.
    FC_ERROR_KERNEL_MISSING = 29,
    // The driver or the emulator cannot load a kernel.
    FC_ERROR_KERNEL_REFUSED = 30,
    // The emulator found that a kernel's result is undefined: tensors larger than their memory, or a mistake in the
    // kernel.
    FC_ERROR_HAZARDS = 31,
    // The emulator refused a call that a GPU would fail at, too.
    FC_ERROR_EMULATOR_REFUSED = 32,
    // A tensor, or a bias, has more bytes than an address can count.
    FC_ERROR_SHAPE_OVERFLOW = 40,
    // A dimension is larger than the kernels can index.
    FC_ERROR_DIMENSION_TOO_LARGE = 41,
    // There are more tiles of queries, or rows to merge or of a mask of dropout, than a launch can count: split the batch.
    FC_ERROR_TOO_MANY_TILES = 42,
    // head_dim is not a multiple of 8 from 8 to 512, or above 256 with a softcap, slopes, a bias, dropout, key ranges or a
    // block mask, or in 8 bits.
    FC_ERROR_HEAD_DIM = 43,
    // A dimension disagrees with that of another tensor.
    FC_ERROR_SHAPE_MISMATCH = 44,
    // The heads of q are not a multiple of those of k and v.
    FC_ERROR_HEAD_RATIO = 45,
    // The element types of the tensors differ.
    FC_ERROR_DTYPE_MISMATCH = 46,
    // The scale is not positive, finite and of ordinary size.
    FC_ERROR_SCALE = 47,
    // `softcap` is not positive, finite and of ordinary size.
    FC_ERROR_SOFTCAP = 48,
    // Prefixes beside a window to the left or chunks: a query would see two ranges of keys.
    FC_ERROR_PREFIX_UNDER_WINDOW = 49,
    // An array has not as many numbers as there are sequences, or heads.
    FC_ERROR_ARRAY_LENGTH = 50,
    // A bias beside packed sequences: those differ in length, but its rows do not.
    FC_ERROR_BIAS_OF_PACKED = 51,
    // `dropout_p` is not at least 0 and below 1.
    FC_ERROR_DROPOUT_RATE = 52,
    // Key ranges or a block mask beside a softcap, slopes, a bias or dropout.
    FC_ERROR_SPARSE_SCORES = 53,
    // What attention over 8 bits does not have, or not in this format.
    FC_ERROR_FP8_FEATURES = 54,
    // Room for numbers of 8 bits was made for another number of packed sequences.
    FC_ERROR_FP8_PACKING = 55,
    // A tensor with elements has a null address.
    FC_ERROR_NULL_POINTER = 60,
    // An address is not memory of the device.
    FC_ERROR_NOT_DEVICE_POINTER = 61,
    // An address is memory of another CUDA device.
    FC_ERROR_WRONG_DEVICE = 62,
    // An address is not aligned: 16 bytes for tensors, 4 for the log-sum-exp, a bias and arrays.
    FC_ERROR_MISALIGNED = 63,
    // A stride is not a multiple of 8 elements (16 bytes), or, of a bias, odd.
    FC_ERROR_STRIDE_MISALIGNED = 64,
    // A stride is too large.
    FC_ERROR_STRIDE_TOO_LARGE = 65,
    // Two elements of the output share an address.
    FC_ERROR_OVERLAPPING_OUTPUT = 66,
    // The memory of an output overlaps that of another tensor, and is not as a whole one that it may replace.
    FC_ERROR_ALIASING = 67,
    // With these options a tensor reaches over too much memory.
    FC_ERROR_REACHES_TOO_FAR = 68,
    // The last stride of a bias is not 1.
    FC_ERROR_BIAS_KEYS_APART = 69,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum fc_status fc_status;
#else
typedef int32_t fc_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Where queries stand among the keys.
enum fc_align
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Query i stands at key i + seqlen_kv - seqlen_q: the last query at the last key.
    FC_ALIGN_BOTTOM_RIGHT = 0,
    // Query i stands at key i: the first query at the first key.
    FC_ALIGN_TOP_LEFT = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum fc_align fc_align;
#else
typedef int32_t fc_align;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Element types.
enum fc_dtype
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // IEEE half precision.
    FC_F16 = 1,
    // bfloat16.
    FC_BF16 = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum fc_dtype fc_dtype;
#else
typedef int32_t fc_dtype;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Element types of 8 bits.
enum fc_fp8
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // 4 significant bits, from 2⁻⁶ to 448.
    FC_E4M3 = 1,
    // 3 significant bits, from 2⁻¹⁴ to 57344. Masks are none and causal; it goes with neither softcap nor sinks, packed
    // sequences nor numbers of rows that count.
    FC_E5M2 = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum fc_fp8 fc_fp8;
#else
typedef int32_t fc_fp8;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// An open device. Handles are not memory: they are never dereferenced, and no number is given twice, so that using one
// after `fc_device_close` is an error and not a crash.
typedef struct fc_device fc_device;

// Device memory for q, k and v of 8 bits, and their descales. As of devices, handles are never dereferenced, and no number
// is given twice, so that using one after `fc_fp8_qkv_destroy` is an error and not a crash.
typedef struct fc_fp8_qkv fc_fp8_qkv;

// A tensor in device memory: (batch, seqlen, heads, head_dim), wherever its elements lie. All numbers count elements,
// of 2 bytes each. The elements of a head are neighbours; the strides say how far apart the rest is. Contiguous
// (batch, seqlen, heads, head_dim) has strides seqlen * heads * head_dim, heads * head_dim, head_dim; contiguous
// (batch, heads, seqlen, head_dim) has heads * seqlen * head_dim, head_dim, seqlen * head_dim.
typedef struct {
    // Device address of the first element, a multiple of 16 bytes. Not used if there are no elements.
    void *data;
    // Sequences.
    size_t batch;
    // Positions in a sequence.
    size_t seqlen;
    // Attention heads.
    size_t heads;
    // Elements of a head: a multiple of 8 up to 512, or up to 256 with a softcap, slopes, a bias, dropout, key ranges or
    // a block mask, or in 8 bits.
    size_t head_dim;
    // From one sequence to the next, a multiple of 8.
    size_t stride_batch;
    // From one position to the next, a multiple of 8.
    size_t stride_seqlen;
    // From one head to the next, a multiple of 8.
    size_t stride_heads;
    // An `fc_dtype`, the same for all tensors of a call.
    int32_t dtype;
} fc_tensor;

// Numbers in device memory that are added to scores: (batch, heads_q, seqlen_q, seqlen_kv), of the element type of q.
// Sizes and strides count elements. Where one of the first three sizes is 1, the same numbers serve all.
//
// Kernels load the numbers of two neighbouring keys at once. So the last stride is 1, the others are even, and if the
// number of keys is odd, each row goes on for one element more, which may hold anything.
typedef struct {
    // Device address of the first number, a multiple of 4 bytes. Null: there is no bias, and the rest is ignored.
    const void *data;
    // Each that of the problem, or 1 but for the keys.
    size_t sizes[4];
    // From one number to the next along each dimension; ignored where the size is 1.
    size_t strides[4];
    // An `fc_dtype`: that of q.
    int32_t dtype;
} fc_bias;

// A range of keys for each query: pairs of the first key and the one behind the last, contiguous (batch, heads, queries,
// 2), in device memory. A range may be empty; what lies beyond the sequence is ignored. Kernels visit the keys from the
// first to the last that any of 128 queries sees.
//
// Where sequences of queries are packed, ranges are those of the rows of q, and count keys from the start of the
// sequence. Ranges and block masks go with all else that says which keys a query sees, and with sinks; not with a
// softcap, slopes, a bias or dropout.
typedef struct {
    // Device address of the first number, a multiple of 4 bytes. Null: there are no ranges, and the rest is ignored.
    const int32_t *data;
    // Sequences that have ranges: the batch of q, or 1, which serves all.
    size_t batch;
    // Heads that have ranges: those of q, or 1, which serves all.
    size_t heads;
    // The seqlen of q.
    size_t queries;
} fc_key_ranges;

// Which blocks of 128 queries and 128 keys are visited at all: for each block of queries a list of blocks of keys, in any
// order, none of them twice. They are the `kv_num_blocks` and `kv_indices` of PyTorch's FlexAttention, in device memory.
// `fc_block_lists` makes them of a bitmap.
//
// Where sequences of queries are packed, blocks are those of each sequence, and one beyond the lists sees nothing.
typedef struct {
    // Device address of the lengths of the lists, contiguous (batch, heads, query_blocks), a multiple of 4 bytes. Null:
    // there is no block mask, and the rest is ignored.
    const int32_t *kv_num_blocks;
    // Device address of the lists, contiguous (batch, heads, query_blocks, room), a multiple of 4 bytes. What a list holds
    // beyond its length is never looked at; blocks that it lists beyond the keys are ignored.
    const int32_t *kv_indices;
    // Sequences that have lists: all, or 1, which serves all.
    size_t batch;
    // Heads that have lists: those of q, or 1, which serves all.
    size_t heads;
    // Blocks of queries: the seqlen of q / 128, rounded up; any number where sequences of queries are packed.
    size_t query_blocks;
    // Room for blocks of keys in each list.
    size_t room;
} fc_block_mask;

// How attention is computed. All zeros but `struct_size` is the default: every query sees every key.
//
// Masks compose: where query i stands at key d, it sees the keys j for which all of these hold:
// `j <= d` if `causal`; `d - window_left <= j`; `j <= d + window_right`; j / chunk = d / chunk, rounded down; or,
// whatever these say, `j < prefix[b]`. Besides, j must be in the query's range, if there are `key_ranges`, and in one of
// the blocks that `block_mask` lists for the query's, if there is one.
//
// All arrays are contiguous, in device memory, and may change between launches of a recorded graph. Numbers in them
// that lead out of a tensor are taken for its last row, so that nothing else is ever touched; sequences of queries
// must not overlap.
typedef struct {
    // `sizeof(fc_attention_options)`, set by the caller. That of an older header will do: it asks for nothing newer.
    size_t struct_size;
    // Not 0: query i sees only the keys up to the one that it stands at; `window_right` is ignored. 0: no such limit.
    int32_t causal;
    // Not 0: `scale` counts. 0: the scale is 1 / sqrt(head_dim), and `scale` is ignored.
    int32_t has_scale;
    // What scores are multiplied with before the softmax.
    float scale;
    // An `fc_align`: which key a query stands at.
    int32_t align;
    // Keys that a query sees before the one that it stands at, if `has_window_left`.
    size_t window_left;
    // Keys that it sees after that one, if `has_window_right`.
    size_t window_right;
    // Not 0: `window_left` counts. 0: all keys before are seen, and `window_left` is ignored.
    int32_t has_window_left;
    // Not 0: `window_right` counts. 0: all keys after are seen, and `window_right` is ignored.
    int32_t has_window_right;
    // Keys of a chunk: a query sees only the chunk that it stands in. 0: there are no chunks.
    size_t chunk;
    // Scaled scores x become softcap * tanh(x / softcap). 0: they stay.
    float softcap;
    // Not 0: the GPU's own hyperbolic tangent will do, which is off by up to 2⁻¹¹ of itself. Ignored without a softcap.
    int32_t approximate_softcap;
    // Length of `prefix`, `seqused_q` and `seqused_kv`; `cu_seqlens_q` and `cu_seqlens_kv` have one number more.
    // Ignored if all of them are null.
    size_t num_sequences;
    // Where sequences begin in q and out, which have batch 1, and at last where the last one ends, in rows. The
    // log-sum-exp is (1, heads_q, seqlen of q). Null: each sequence of the batch is as long as the tensor.
    const int32_t *cu_seqlens_q;
    // The same for k and v.
    const int32_t *cu_seqlens_kv;
    // How many queries of each sequence count. Rows beyond them are neither read nor written. Null: all.
    const int32_t *seqused_q;
    // How many keys of each sequence count: it is as if there were no others. Null: all.
    const int32_t *seqused_kv;
    // How many keys at the start of each sequence all its queries see. It goes with no window to the left and no
    // chunks. Null: there are no prefixes.
    const int32_t *prefix;
    // For each query head a logit, natural, finite or -infinity: its exponential joins the sum of those of each row's
    // scores, also in the log-sum-exp. Null: there are no sinks.
    const float *sinks;
    // Length of `sinks`, which must be heads_q. Ignored if that is null.
    size_t num_sinks;
    // For each query head h a slope (ALiBi): `-slope * |i + seqlen_kv - seqlen_q - j|` is added to the score of query
    // i and key j, scaled and capped. Either (heads_q), or (sequences, heads_q). Null: nothing is added.
    const float *alibi_slopes;
    // Length of `alibi_slopes`: heads_q, or that times the number of sequences. Ignored if that is null.
    size_t num_alibi_slopes;
    // `bias[b, h, i, j]` is added to the score of query i and key j, scaled and capped; -infinity hides a key. It goes
    // with sequences that are not packed.
    fc_bias bias;
    // Each weight is left out with this probability, at least 0 and below 1; those that are kept count 1 / keep times,
    // where keep = 1 - dropout_p is rounded to a multiple of 1/256, of which it is at least one. The log-sum-exp is that
    // of all weights. Whether a weight is kept is a function of seed, offset, sequence, number of query heads, head,
    // query and key, and of nothing else; `fc_dropout_mask` writes it out. 0: nothing is left out.
    float dropout_p;
    // Tells random numbers of one seed apart: say, those of a step or of a layer.
    uint32_t dropout_offset;
    // Seed of the random numbers. Seed and offset are those of the call: each replay of a recorded graph leaves out the
    // same weights.
    uint64_t dropout_seed;
    // Each query sees only keys of its own range.
    fc_key_ranges key_ranges;
    // Blocks of queries see only the blocks of keys that are listed for them.
    fc_block_mask block_mask;
} fc_attention_options;

// Facts of a device.
typedef struct {
    // `sizeof(fc_device_properties)`, set by the caller.
    size_t struct_size;
    // Device memory, in bytes.
    uint64_t total_memory_bytes;
    // L2 cache, in bytes.
    uint64_t l2_bytes;
    // Number of the device, as CUDA counts; 0 for an emulated one.
    uint32_t ordinal;
    // 1 for an emulated device, 0 for a GPU.
    uint32_t is_emulated;
    // Compute capability, the number before the point.
    uint32_t compute_capability_major;
    // Compute capability, the number behind the point.
    uint32_t compute_capability_minor;
    // Streaming multiprocessors.
    uint32_t sm_count;
    // Shared memory that a thread block may ask for, in bytes.
    uint32_t smem_limit_bytes;
    // CUDA version of the driver, as 1000 * major + 10 * minor.
    uint32_t driver_version;
    // Name, such as "NVIDIA H200", ended by a zero byte.
    char name[FC_NAME_BYTES];
} fc_device_properties;

// How numbers become numbers of 8 bits. Each is divided by the descale of its head, a power of 2 with which the head's
// largest number just fits the format, and rounded to the nearest; kernels multiply with the descales again.
typedef struct {
    // `sizeof(fc_fp8_options)`, set by the caller.
    size_t struct_size;
    // An `fc_fp8`: that of q, k and v.
    int32_t format;
    // Not 0: q and k are rotated before they are rounded (signs and a Hadamard matrix), which spreads numbers that are
    // much larger than others. Scores are what they were. 0: they are rounded as they are.
    int32_t rotated;
    // Not 0: one descale for all heads of q, of k and of v. 0: one for each head of each sequence.
    int32_t per_tensor;
    // How many packed sequences q has, whose batch is 1; 0: none, as where the calls' `cu_seqlens_q` is null.
    size_t num_sequences_q;
    // The same of k and v.
    size_t num_sequences_kv;
} fc_fp8_options;

// By which random numbers q, k and v are rounded: each number becomes one of its two neighbours in the format, such that
// what is rounded is right on average.
typedef struct {
    // `sizeof(fc_fp8_stochastic)`, set by the caller.
    size_t struct_size;
    // What becomes of a number follows from its place, the seed and the offset, and from nothing else.
    uint64_t seed;
    // Other random numbers of the same seed: say, those of a step or of a layer.
    uint32_t offset;
} fc_fp8_stochastic;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The `FC_ABI_VERSION` of the library that is loaded: it must be that of the header.
uint32_t fc_abi_version(void);

// Version of the library, such as "0.1.0". Static: do not free it.
const char *fc_version_string(void);

// Number of kernels that the library carries.
size_t fc_kernel_count(void);

// Submits `out = softmax(scale * q k^T) v` to `stream` and returns, most often before it is computed. Allocates no
// device memory, waits for nothing, and may be recorded in a CUDA graph.
//
// q and out are (batch, seqlen_q, heads_q, head_dim), k and v (batch, seqlen_kv, heads_kv, head_dim); heads_q is a
// multiple of heads_kv, and query head h reads K/V head h / (heads_q / heads_kv). v and out may have another head_dim
// than q and k. Sums are in f32. A row that sees no
// key becomes zeros. `options` says which keys a query sees, and where sequences begin and end.
//
// `lse`, unless null, gets the natural logarithm of the sum of the exponentials of each row's scaled scores: f32,
// contiguous (batch, heads_q, seqlen_q), -infinity for a row that sees no key.
//
// After an error nothing was submitted, with two exceptions: FC_ERROR_HAZARDS and FC_ERROR_EMULATOR_REFUSED may leave
// anything in the outputs. The structs are read during the call only; `options` may be null.
//
// # Safety
// `stream` must be a live stream (`CUstream` or `cudaStream_t`), or null, the default stream. The structs must be
// null, which is an error, or readable. Everything that a tensor's shape and strides reach over, the arrays and the
// bias of `options` and the whole of `lse` must stay allocated until the work has completed; until then, nothing else
// may write inputs, or use outputs.
fc_status fc_attention_forward(const fc_device *device,
                               void *stream,
                               const fc_tensor *q,
                               const fc_tensor *k,
                               const fc_tensor *v,
                               const fc_tensor *out,
                               float *lse,
                               const fc_attention_options *options);

// Writes how the device would compute this: kernel, tiles, grid, estimated time. For people; the text changes between
// versions. Shapes, strides and options are checked as by `fc_attention_forward`, addresses are not looked at.
//
// `length` gets the length of the text without its final zero byte. If `buffer` is null that is all; otherwise the
// text is written to it, and a zero byte, or nothing if `capacity` bytes are not enough.
//
// # Safety
// `buffer` must be null, or point to `capacity` bytes; all else must be null, which is an error but for `options`, or
// point to what its type says.
fc_status fc_attention_plan_text(const fc_device *device,
                                 const fc_tensor *q,
                                 const fc_tensor *k,
                                 const fc_tensor *v,
                                 const fc_tensor *out,
                                 const fc_attention_options *options,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *length);

// The message of this thread's last call that failed, or "" if none has. It is valid until the thread's next call of
// this library: copy it if you keep it, and do not free it.
const char *fc_last_error(void);

// Opens CUDA device `ordinal`, through its primary context: memory and streams of the CUDA runtime, of PyTorch and of
// everything else in that context can be used as they are. Each call gives a new handle.
//
// # Safety
// `device` must be null, which is an error, or point to where the handle is to be written.
fc_status fc_device_open_cuda(uint32_t ordinal,
                              fc_device **device);

// Opens an H200 that is a program: it runs the kernels on the CPU, about half a million times slower than a GPU, and
// looks for races meanwhile. Its memory is its own: `fc_alloc` gives addresses that only this device understands. Its
// only stream is null, and calls return when the work is done.
//
// # Safety
// `device` must be null, which is an error, or point to where the handle is to be written.
fc_status fc_device_open_emulated(fc_device **device);

// Closes a device, when its work is done. Memory that `fc_alloc` gave is freed with it, rooms of `fc_fp8_qkv_create` are
// destroyed, and kernels are unloaded: graphs that recorded calls must not be launched any more. Calls that other threads
// are in still come to their end.
fc_status fc_device_close(fc_device *device);

// Tells facts of a device.
//
// # Safety
// `properties` must be null, which is an error, or point to a struct whose `struct_size` is set.
fc_status fc_device_get_properties(const fc_device *device, fc_device_properties *properties);

// Loads every kernel now; otherwise each is loaded by the first call that needs it, which takes longer then.
fc_status fc_device_preload(const fc_device *device);

// Waits for all work of the device. Fails if earlier work failed.
fc_status fc_device_synchronize(const fc_device *device);

// Waits for the work of a stream. Fails if earlier work failed.
//
// # Safety
// `stream` must be a live stream (`CUstream` or `cudaStream_t`) or null, the default stream.
fc_status fc_stream_synchronize(const fc_device *device, void *stream);

// Submits to `stream` what tells which weights a call with this dropout keeps, and returns, most often before it is
// computed: bytes, 1 for a weight that is kept and 0 for one that is left out, contiguous (batch, heads_q, seqlen_q,
// seqlen_kv), of these sizes. For checks, and for who computes attention, or its gradients, in other ways. Of packed
// sequences, `batch` are all sequences, and the sizes those of the longest. Allocates no device memory, waits for
// nothing, and may be recorded in a CUDA graph.
//
// `p`, `seed` and `offset` are `dropout_p`, `dropout_seed` and `dropout_offset` of `fc_attention_options`.
//
// After an error nothing was submitted.
//
// # Safety
// `stream` must be a live stream (`CUstream` or `cudaStream_t`), or null, the default stream. `mask` must be a device
// address of as many bytes as the sizes multiply to, which stay allocated, and are not used otherwise, until the work
// has completed.
fc_status fc_dropout_mask(const fc_device *device,
                          void *stream,
                          float p,
                          uint64_t seed,
                          uint32_t offset,
                          size_t batch,
                          size_t heads_q,
                          size_t seqlen_q,
                          size_t seqlen_kv,
                          uint8_t *mask);

// Makes room for q, k and v of 8 bits, which `fc_attention_fp8` needs. Of the three tensors only batch, seqlen, heads and
// head_dim are looked at, which are those of the calls to come; head_dim is a multiple of 8 up to 256.
//
// Each call gives a new handle. Room may be used again and again, but only by one call at a time: the calls are on one
// stream (that of a thread, `cudaStreamPerThread`, is another one in each), or each waits for the one before it. Closing the device destroys it, too.
//
// # Safety
// The structs must be null, which is an error, or readable, and `options` with its `struct_size` set. `qkv` must be null,
// which is an error, or point to where the handle is to be written.
fc_status fc_fp8_qkv_create(const fc_device *device,
                            const fc_tensor *q,
                            const fc_tensor *k,
                            const fc_tensor *v,
                            const fc_fp8_options *options,
                            fc_fp8_qkv **qkv);

// Frees such room, when all work of the device is done. Null is allowed and does nothing. Graphs that recorded calls with
// it must not be launched any more.
fc_status fc_fp8_qkv_destroy(fc_fp8_qkv *qkv);

// As `fc_attention_forward` on the device of `qkv`, by way of 8 bits: submits to `stream` what rounds q, k and v into the
// room of `qkv`, and attention over what is there. Allocates no device memory, waits for nothing, and may be recorded in a
// CUDA graph.
//
// q, k and v are f16 or bf16, all of one type, of the shapes that the room was made for; out is f16 or bf16, and may lie
// where q, k or v do: they have been rounded by then. Scores, softmax and sums are f32; weights are rounded to e4m3. O is
// off by some percent of its root mean square, the log-sum-exp by what rounding does to scores.
//
// `options` may say what `fc_attention_forward` takes, but for what there is no kernel for: FC_ERROR_FP8_FEATURES. Rows that
// are no sequence's are not rounded. `stochastic` null: numbers are rounded to the nearest.
//
// After an error `out` and `lse` are as they were, with two exceptions: FC_ERROR_HAZARDS and FC_ERROR_EMULATOR_REFUSED may
// leave anything in them. The structs are read during the call only; `options` may be null.
//
// # Safety
// As of `fc_attention_forward`; besides, work that used `qkv` before must be done, or come earlier on `stream`.
fc_status fc_attention_fp8(const fc_fp8_qkv *qkv,
                           void *stream,
                           const fc_tensor *q,
                           const fc_tensor *k,
                           const fc_tensor *v,
                           const fc_tensor *out,
                           float *lse,
                           const fc_attention_options *options,
                           const fc_fp8_stochastic *stochastic);

// Allocates device memory, aligned to 256 bytes, with any contents; null for 0 bytes. Memory from elsewhere in the
// primary context (cudaMalloc, PyTorch) does just as well.
//
// # Safety
// `memory` must be null, which is an error, or point to where the address is to be written.
fc_status fc_alloc(const fc_device *device,
                   size_t bytes,
                   void **memory);

// Frees what `fc_alloc` gave, when all work of the device is done. Null is allowed and does nothing.
fc_status fc_free(const fc_device *device, void *memory);

// Copies host memory to device memory. Waits for all work of the device, and returns when the copy is done.
//
// # Safety
// `from` must be null, which is an error unless `bytes` is 0, or point to `bytes` bytes.
fc_status fc_copy_to_device(const fc_device *device, void *to, const void *from, size_t bytes);

// Copies device memory to host memory. Waits for all work of the device, and returns when the copy is done.
//
// # Safety
// `to` must be null, which is an error unless `bytes` is 0, or point to `bytes` bytes that nobody else uses meanwhile.
fc_status fc_copy_to_host(const fc_device *device,
                          void *to,
                          const void *from,
                          size_t bytes);

// Submits `lse = ln(exp lse1 + exp lse2)`, `out = exp(lse1 - lse) o1 + exp(lse2 - lse) o2` to `stream` and returns,
// most often before it is computed: the states, output and log-sum-exp, of two calls of `fc_attention_forward` with
// the same queries and disjoint sets of keys become that of one call over all of these keys. Allocates no device
// memory, waits for nothing, and may be recorded in a CUDA graph.
//
// o1, o2 and out are (batch, seqlen, heads, head_dim) of one element type, head_dim a multiple of 8 up to 512. The
// log-sum-exps are f32, contiguous (batch, heads, seqlen); `lse` may be null, if it is not wanted. Sums are in f32. A
// state whose log-sum-exp is -infinity weighs nothing, whatever its output holds; if both are, the row is zeros. A
// log-sum-exp of NaN or +infinity makes its row NaN.
//
// It may be done in place: out may be o1 or o2 (the same address, shape and strides), and `lse` may be `lse1` or
// `lse2`.
//
// After an error nothing was submitted, with two exceptions: FC_ERROR_HAZARDS and FC_ERROR_EMULATOR_REFUSED may leave
// anything in the outputs. The structs are read during the call only.
//
// # Safety
// `stream` must be a live stream (`CUstream` or `cudaStream_t`), or null, the default stream. The structs must be
// null, which is an error, or readable. Everything that a tensor's shape and strides reach over, and the whole of each
// log-sum-exp, must stay allocated until the work has completed; until then, nothing else may write inputs, or use
// outputs.
fc_status fc_merge_attention_states(const fc_device *device,
                                    void *stream,
                                    const fc_tensor *o1,
                                    const float *lse1,
                                    const fc_tensor *o2,
                                    const float *lse2,
                                    const fc_tensor *out,
                                    float *lse);

// Makes the lists of a block mask of a bitmap, all in host memory: `visible` is contiguous (rows, key_blocks), a row for
// each block of queries of each head and sequence, and a byte of it is 0 where a block is hidden. `kv_num_blocks` gets as
// many numbers as there are rows, `kv_indices` one for each byte: what `fc_block_mask` calls room is `key_blocks`. Lists
// are in rising order, and zeros stand behind them.
//
// # Safety
// Each pointer must be null, which is an error unless there is nothing to read or write, or point to so many bytes or
// numbers; outputs must overlap nothing.
fc_status fc_block_lists(const uint8_t *visible,
                         size_t rows,
                         size_t key_blocks,
                         int32_t *kv_num_blocks,
                         int32_t *kv_indices);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FLASHCORE_H */
