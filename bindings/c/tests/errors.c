// Every error that C can cause on an emulated device, and the one for a CUDA device that is not there.

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "flashcore.h"

static int failures = 0;

static void expect(const char *what, fc_status found, fc_status expected) {
    int said = found == FC_OK || strlen(fc_last_error()) > 0;
    if (found != expected || !said) {
        printf("%s: got %d, expected %d: %s\n", what, (int)found, (int)expected, fc_last_error());
        failures++;
    }
}

int main(void) {
    fc_device *device = NULL;
    expect("no message yet", strlen(fc_last_error()) == 0 ? FC_OK : FC_ERROR_INTERNAL, FC_OK);
    expect("open nowhere", fc_device_open_emulated(NULL), FC_ERROR_NULL_ARGUMENT);
    fc_status status = fc_device_open_cuda(4711, &device);
    expect("no CUDA device", status, status == FC_ERROR_NO_DEVICE ? FC_ERROR_NO_DEVICE : FC_ERROR_NO_DRIVER);
    expect("open", fc_device_open_emulated(&device), FC_OK);

    enum { SEQLEN = 64, HEAD_DIM = 64, BYTES = 2 * 2 * SEQLEN * 2 * HEAD_DIM };
    fc_tensor tensors[4];
    for (int i = 0; i < 4; i++) {
        tensors[i] = (fc_tensor){
            .batch = 2,
            .seqlen = SEQLEN,
            .heads = 2,
            .head_dim = HEAD_DIM,
            .stride_batch = SEQLEN * 2 * HEAD_DIM,
            .stride_seqlen = 2 * HEAD_DIM,
            .stride_heads = HEAD_DIM,
            .dtype = FC_F16,
        };
        expect("alloc", fc_alloc(device, BYTES, &tensors[i].data), FC_OK);
    }
    const fc_tensor *q = &tensors[0], *k = &tensors[1], *v = &tensors[2], *out = &tensors[3];
    fc_tensor t;
    fc_attention_options options = {.struct_size = sizeof options};
    void *memory, *const nowhere = (void *)(uintptr_t)0xDEAD0000;
    char text[8];
    size_t length;

#define FORWARD(q, k, v, out, lse) fc_attention_forward(device, NULL, q, k, v, out, lse, &options)
#define PLAN(q, k, v, out) fc_attention_plan_text(device, q, k, v, out, &options, NULL, 0, &length)
    static const uint16_t zeros[BYTES / 2];
    for (int i = 0; i < 3; i++) {
        expect("copy", fc_copy_to_device(device, tensors[i].data, zeros, BYTES), FC_OK);
    }
    expect("forward", FORWARD(q, k, v, out, NULL), FC_OK);
    expect("plan", PLAN(q, k, v, out), FC_OK);

    // Handles, structs, buffers.
    expect("null handle", fc_device_close(NULL), FC_ERROR_DEVICE_HANDLE);
    expect("null tensor", FORWARD(NULL, k, v, out, NULL), FC_ERROR_NULL_ARGUMENT);
    options.struct_size--;
    expect("struct size", FORWARD(q, k, v, out, NULL), FC_ERROR_STRUCT_SIZE);
    options.struct_size++;
    t = *q, t.dtype = 99;
    expect("dtype", FORWARD(&t, k, v, out, NULL), FC_ERROR_UNKNOWN_DTYPE);
    status = fc_attention_plan_text(device, q, k, v, out, NULL, text, sizeof text, &length);
    expect("buffer", status, FC_ERROR_BUFFER_TOO_SMALL);
    expect("length", length >= sizeof text ? FC_OK : FC_ERROR_INTERNAL, FC_OK);
    expect("stream", fc_stream_synchronize(device, nowhere), FC_ERROR_WRONG_STREAM);

    // Memory.
    expect("alloc too much", fc_alloc(device, (size_t)1 << 50, &memory), FC_ERROR_OUT_OF_MEMORY);
    expect("free elsewhere", fc_free(device, nowhere), FC_ERROR_NOT_ALLOCATED);
    expect("copy elsewhere", fc_copy_to_device(device, nowhere, zeros, 2), FC_ERROR_NOT_DEVICE_POINTER);
    expect("copy beyond", fc_copy_to_host(device, text, (char *)out->data + BYTES, 1), FC_ERROR_NOT_DEVICE_POINTER);
    t = *q, t.data = NULL;
    expect("null data", FORWARD(&t, k, v, out, NULL), FC_ERROR_NULL_POINTER);
    t.data = nowhere;
    expect("data elsewhere", FORWARD(&t, k, v, out, NULL), FC_ERROR_NOT_DEVICE_POINTER);
    t.data = (char *)q->data + 8;
    expect("data misaligned", FORWARD(&t, k, v, out, NULL), FC_ERROR_MISALIGNED);
    expect("lse misaligned", FORWARD(q, k, v, out, (float *)((char *)nowhere + 2)), FC_ERROR_MISALIGNED);
    expect("aliasing", FORWARD(q, k, v, q, NULL), FC_ERROR_ALIASING);
    // Behind the queries lies nothing that they could read.
    t = *q, t.stride_batch = 1 << 30;
    expect("queries larger than their memory", FORWARD(&t, k, v, out, NULL), FC_ERROR_HAZARDS);

    // Shapes and strides.
    t = *q, t.head_dim = 100;
    expect("head_dim", FORWARD(&t, k, v, out, NULL), FC_ERROR_HEAD_DIM);
    t = *v, t.seqlen = 63;
    expect("lengths", FORWARD(q, k, &t, out, NULL), FC_ERROR_SHAPE_MISMATCH);
    t = *k, t.heads = 3;
    expect("heads", FORWARD(q, &t, &t, out, NULL), FC_ERROR_HEAD_RATIO);
    t = *k, t.dtype = FC_BF16;
    expect("types", FORWARD(q, &t, v, out, NULL), FC_ERROR_DTYPE_MISMATCH);
    t = *k, t.stride_seqlen += 4;
    expect("stride misaligned", FORWARD(q, &t, v, out, NULL), FC_ERROR_STRIDE_MISALIGNED);
    t = *k, t.stride_batch = (size_t)1 << 40;
    expect("stride too large", FORWARD(q, &t, v, out, NULL), FC_ERROR_STRIDE_TOO_LARGE);
    t = *out, t.stride_heads = 0;
    expect("overlapping output", FORWARD(q, k, v, &t, NULL), FC_ERROR_OVERLAPPING_OUTPUT);
    options.has_scale = 1, options.scale = -1;
    expect("scale", FORWARD(q, k, v, out, NULL), FC_ERROR_SCALE);
    options.has_scale = 0;
    options.softcap = -1;
    expect("softcap", FORWARD(q, k, v, out, NULL), FC_ERROR_SOFTCAP);
    options.softcap = 0, options.dropout_p = 1;
    expect("dropout", FORWARD(q, k, v, out, NULL), FC_ERROR_DROPOUT_RATE);
    options.dropout_p = 0, options.align = 2;
    expect("align", FORWARD(q, k, v, out, NULL), FC_ERROR_UNKNOWN_ALIGN);
    options.align = FC_ALIGN_BOTTOM_RIGHT, options.prefix = q->data, options.num_sequences = 3;
    expect("prefixes", FORWARD(q, k, v, out, NULL), FC_ERROR_ARRAY_LENGTH);
    options.num_sequences = 2, options.chunk = 16;
    expect("prefixes and chunks", FORWARD(q, k, v, out, NULL), FC_ERROR_PREFIX_UNDER_WINDOW);
    options.prefix = NULL;
    expect("chunks", FORWARD(q, k, v, out, NULL), FC_OK);
    options.alibi_slopes = q->data, options.num_alibi_slopes = 3;
    expect("slopes", FORWARD(q, k, v, out, NULL), FC_ERROR_ARRAY_LENGTH);
    options.num_alibi_slopes = 2;
    expect("slopes of heads", FORWARD(q, k, v, out, NULL), FC_OK);
    options.alibi_slopes = NULL;
    const fc_bias bias = {
        .data = q->data, .sizes = {1, 2, 1, SEQLEN}, .strides = {0, SEQLEN, 0, 1}, .dtype = FC_F16};
    options.bias = bias;
    expect("bias", FORWARD(q, k, v, out, NULL), FC_OK);
    options.bias.dtype = 99;
    expect("type of a bias", FORWARD(q, k, v, out, NULL), FC_ERROR_UNKNOWN_DTYPE);
    options.bias = bias, options.bias.strides[3] = 2;
    expect("keys apart", FORWARD(q, k, v, out, NULL), FC_ERROR_BIAS_KEYS_APART);
    options.bias = bias, options.bias.strides[1] = SEQLEN - 1;
    expect("odd stride of a bias", FORWARD(q, k, v, out, NULL), FC_ERROR_STRIDE_MISALIGNED);
    options.bias = bias, options.bias.sizes[3] = 1;
    expect("bias of one key", FORWARD(q, k, v, out, NULL), FC_ERROR_SHAPE_MISMATCH);
    options.bias = bias, options.bias.strides[1] = (size_t)1 << 63;
    expect("reach of a bias", FORWARD(q, k, v, out, NULL), FC_ERROR_SHAPE_OVERFLOW);
    options.bias = bias, options.cu_seqlens_q = q->data, options.num_sequences = 2;
    fc_tensor packed_q = *q, packed_out = *out;
    packed_q.batch = packed_out.batch = 1;
    expect("bias of packed sequences", FORWARD(&packed_q, k, v, &packed_out, NULL), FC_ERROR_BIAS_OF_PACKED);
    options.cu_seqlens_q = NULL, options.bias.data = NULL;
    const fc_key_ranges ranges = {.data = q->data, .batch = 1, .heads = 2, .queries = SEQLEN};
    options.key_ranges = ranges;
    expect("key ranges", FORWARD(q, k, v, out, NULL), FC_OK);
    options.key_ranges.queries = SEQLEN + 1;
    expect("ranges of more queries", FORWARD(q, k, v, out, NULL), FC_ERROR_ARRAY_LENGTH);
    options.key_ranges = ranges, options.key_ranges.heads = 3;
    expect("ranges of other heads", FORWARD(q, k, v, out, NULL), FC_ERROR_SHAPE_MISMATCH);
    options.key_ranges = ranges, options.softcap = 1;
    expect("key ranges and softcap", FORWARD(q, k, v, out, NULL), FC_ERROR_SPARSE_SCORES);
    options.key_ranges.data = NULL, options.softcap = 0;
    const fc_block_mask blocks = {
        .kv_num_blocks = q->data, .kv_indices = q->data, .batch = 2, .heads = 1, .query_blocks = 1, .room = 1};
    options.block_mask = blocks;
    expect("block mask", FORWARD(q, k, v, out, NULL), FC_OK);
    options.block_mask.query_blocks = 2;
    expect("block mask of more queries", FORWARD(q, k, v, out, NULL), FC_ERROR_SHAPE_MISMATCH);
    options.block_mask = blocks, options.block_mask.kv_indices = NULL;
    expect("block mask without lists", FORWARD(q, k, v, out, NULL), FC_ERROR_NULL_POINTER);
    options.block_mask.kv_num_blocks = NULL;
    static const uint8_t visible[2][3] = {{1, 0, 1}, {0, 0, 2}};
    int32_t counts[2], lists[6];
    expect("block lists", fc_block_lists(visible[0], 2, 3, counts, lists), FC_OK);
    int right = counts[0] == 2 && counts[1] == 1 && lists[0] == 0 && lists[1] == 2 && lists[2] == 0 && lists[3] == 2;
    expect("which blocks", right ? FC_OK : FC_ERROR_INTERNAL, FC_OK);
    expect("block lists of nothing", fc_block_lists(NULL, 2, 3, counts, lists), FC_ERROR_NULL_ARGUMENT);
    status = fc_block_lists(visible[0], (size_t)1 << 40, 3, counts, lists);
    expect("too many block lists", status, FC_ERROR_DIMENSION_TOO_LARGE);
    t = *q, t.stride_batch = (size_t)1 << 36;
    expect("reach", PLAN(&t, k, v, out), FC_ERROR_REACHES_TOO_FAR);
    options.chunk = 0;
    t = *k, t.seqlen = (size_t)1 << 40;
    expect("too many keys", PLAN(q, &t, &t, out), FC_ERROR_DIMENSION_TOO_LARGE);
    t = *q, t.batch = 1 << 30, t.stride_batch = (size_t)1 << 38;
    fc_tensor kv = *k;
    kv.batch = t.batch;
    expect("overflow", PLAN(&t, &kv, &kv, &t), FC_ERROR_SHAPE_OVERFLOW);
    t = *q, t.batch = 1 << 20, t.seqlen = 1 << 20, t.stride_batch = (size_t)1 << 28;
    kv.batch = t.batch;
    expect("too many tiles", PLAN(&t, &kv, &kv, &t), FC_ERROR_TOO_MANY_TILES);

    // Merging.
    enum { ROWS = 2 * SEQLEN * 2 };
    float *lse;
    expect("alloc", fc_alloc(device, ROWS * sizeof(float), &memory), FC_OK);
    lse = memory;
    expect("copy", fc_copy_to_device(device, lse, zeros, ROWS * sizeof(float)), FC_OK);
#define MERGE(o1, o2, out) fc_merge_attention_states(device, NULL, o1, lse, o2, lse, out, NULL)
    expect("merge", MERGE(q, k, out), FC_OK);
    expect("merge in place", MERGE(q, k, q), FC_OK);
    t = *q, t.data = (char *)q->data + 16;
    t.batch = 1;
    fc_tensor one = *q;
    one.batch = 1;
    expect("merge partly in place", MERGE(&one, &one, &t), FC_ERROR_ALIASING);
    expect("merge of nothing", MERGE(q, NULL, out), FC_ERROR_NULL_ARGUMENT);
    status = fc_merge_attention_states(device, NULL, q, NULL, k, lse, out, NULL);
    expect("merge without a weight", status, FC_ERROR_NULL_POINTER);
    t = *k, t.heads = 1;
    expect("merge of other shapes", MERGE(q, &t, out), FC_ERROR_SHAPE_MISMATCH);

    // 8 bits.
    fc_fp8_qkv *qkv = NULL;
    fc_fp8_options narrow = {.struct_size = sizeof narrow, .format = FC_E4M3};
#define ROOM(q, out) fc_fp8_qkv_create(device, q, k, v, &narrow, out)
#define FP8(q, k, out) fc_attention_fp8(qkv, NULL, q, k, v, out, NULL, &options, NULL)
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    expect("room", ROOM(q, &qkv), FC_OK);
    expect("8 bits", FP8(q, k, out), FC_OK);
    expect("room for nothing", ROOM(NULL, &qkv), FC_ERROR_NULL_ARGUMENT);
    expect("room nowhere", ROOM(q, NULL), FC_ERROR_NULL_ARGUMENT);
    t = *q, t.head_dim = 264;
    expect("room for long heads", ROOM(&t, &qkv), FC_ERROR_HEAD_DIM);
    narrow.format = 3;
    expect("format", ROOM(q, &qkv), FC_ERROR_UNKNOWN_FP8);
    narrow.struct_size--;
    expect("size of formats", ROOM(q, &qkv), FC_ERROR_STRUCT_SIZE);
    t = *k, t.seqlen = 63;
    expect("other shapes than there is room for", FP8(q, &t, out), FC_ERROR_SHAPE_MISMATCH);
    t = *k, t.dtype = FC_BF16;
    expect("types of 8 bits", FP8(q, &t, out), FC_ERROR_DTYPE_MISMATCH);
    expect("8 bits of nothing", FP8(NULL, k, out), FC_ERROR_NULL_ARGUMENT);
    options.dropout_p = 0.5F;
    expect("what 8 bits do not have", FP8(q, k, out), FC_ERROR_FP8_FEATURES);
    options.dropout_p = 0;
    expect("destroy nothing", fc_fp8_qkv_destroy(NULL), FC_OK);
    expect("destroy", fc_fp8_qkv_destroy(qkv), FC_OK);
    expect("destroy twice", fc_fp8_qkv_destroy(qkv), FC_ERROR_FP8_QKV_HANDLE);
    expect("destroyed", FP8(q, k, out), FC_ERROR_FP8_QKV_HANDLE);

    expect("close", fc_device_close(device), FC_OK);
    expect("close twice", fc_device_close(device), FC_ERROR_DEVICE_HANDLE);
    expect("closed", FORWARD(q, k, v, out, NULL), FC_ERROR_DEVICE_HANDLE);
    if (failures == 0) {
        puts("all as expected");
    }
    return failures;
}
