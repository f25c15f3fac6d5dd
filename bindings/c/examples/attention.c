// Attention on random inputs, full and causal, compared with three loops in double. It runs on the first CUDA device,
// or, where there is no Hopper GPU, on the emulator.

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flashcore.h"

enum { BATCH = 2, QUERIES = 100, KEYS = 150, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 64 };
enum { Q_ELEMENTS = BATCH * QUERIES * HEADS * HEAD_DIM, KV_ELEMENTS = BATCH * KEYS * KV_HEADS * HEAD_DIM };
enum { ROWS = BATCH * HEADS * QUERIES };

// bfloat16 is the upper half of a float. Weights and results, all below 1, are rounded to it: by 2^-9 at most, each.
static const double OUT_TOLERANCE = 1.0 / 256;
static const double LSE_TOLERANCE = 1e-5;

static void check(fc_status status) {
    if (status != FC_OK) {
        fprintf(stderr, "error %d: %s\n", (int)status, fc_last_error());
        exit(EXIT_FAILURE);
    }
}

static float to_float(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static uint16_t to_bf16(float value) {
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    wide += 0x7FFF + (wide >> 16 & 1);
    return (uint16_t)(wide >> 16);
}

static void fill_randomly(uint16_t *data, size_t elements) {
    static uint32_t state = 1;
    for (size_t i = 0; i < elements; i++) {
        state = state * 1664525 + 1013904223;
        data[i] = to_bf16((float)(state >> 8) / (1 << 23) - 1.0f);
    }
}

static fc_device *open_device(void) {
    fc_device *device;
    fc_status status = fc_device_open_cuda(0, &device);
    if (status == FC_ERROR_NO_DRIVER || status == FC_ERROR_NO_DEVICE || status == FC_ERROR_NOT_HOPPER) {
        status = fc_device_open_emulated(&device);
    }
    check(status);
    return device;
}

// A contiguous (batch, seqlen, heads, head_dim) tensor with these elements.
static fc_tensor upload(fc_device *device, const uint16_t *data, size_t seqlen, size_t heads) {
    size_t bytes = BATCH * seqlen * heads * HEAD_DIM * sizeof *data;
    fc_tensor tensor = {
        .batch = BATCH,
        .seqlen = seqlen,
        .heads = heads,
        .head_dim = HEAD_DIM,
        .stride_batch = seqlen * heads * HEAD_DIM,
        .stride_seqlen = heads * HEAD_DIM,
        .stride_heads = HEAD_DIM,
        .dtype = FC_BF16,
    };
    check(fc_alloc(device, bytes, &tensor.data));
    check(fc_copy_to_device(device, tensor.data, data, bytes));
    return tensor;
}

static const uint16_t *row(const uint16_t *data, size_t b, size_t s, size_t h, size_t seqlen, size_t heads) {
    return data + ((b * seqlen + s) * heads + h) * HEAD_DIM;
}

// One row of the output, and its log-sum-exp.
static double reference(const uint16_t *q, const uint16_t *k, const uint16_t *v, size_t b, size_t s, size_t h,
                        int causal, double out[HEAD_DIM]) {
    size_t kv_head = h / (HEADS / KV_HEADS);
    size_t keys = causal ? s + 1 + KEYS - QUERIES : KEYS;
    const uint16_t *query = row(q, b, s, h, QUERIES, HEADS);
    double scores[KEYS], max = -INFINITY, sum = 0;
    for (size_t j = 0; j < keys; j++) {
        const uint16_t *key = row(k, b, j, kv_head, KEYS, KV_HEADS);
        scores[j] = 0;
        for (size_t d = 0; d < HEAD_DIM; d++) {
            scores[j] += (double)to_float(query[d]) * to_float(key[d]);
        }
        scores[j] /= sqrt(HEAD_DIM);
        max = fmax(max, scores[j]);
    }
    for (size_t d = 0; d < HEAD_DIM; d++) {
        out[d] = 0;
    }
    for (size_t j = 0; j < keys; j++) {
        const uint16_t *value = row(v, b, j, kv_head, KEYS, KV_HEADS);
        double weight = exp(scores[j] - max);
        sum += weight;
        for (size_t d = 0; d < HEAD_DIM; d++) {
            out[d] += weight * to_float(value[d]);
        }
    }
    for (size_t d = 0; d < HEAD_DIM; d++) {
        out[d] /= sum;
    }
    return max + log(sum);
}

int main(void) {
    if (fc_abi_version() != FC_ABI_VERSION) {
        fprintf(stderr, "the header is of version %d, the library of %d\n", FC_ABI_VERSION, (int)fc_abi_version());
        return EXIT_FAILURE;
    }
    fc_device *device = open_device();
    fc_device_properties properties = {.struct_size = sizeof properties};
    check(fc_device_get_properties(device, &properties));
    printf("device: %s%s\n", properties.name, properties.is_emulated ? " (there is no Hopper GPU)" : "");

    static uint16_t q_data[Q_ELEMENTS], k_data[KV_ELEMENTS], v_data[KV_ELEMENTS], out_data[Q_ELEMENTS];
    static float lse_data[ROWS];
    fill_randomly(q_data, Q_ELEMENTS);
    fill_randomly(k_data, KV_ELEMENTS);
    fill_randomly(v_data, KV_ELEMENTS);
    fc_tensor q = upload(device, q_data, QUERIES, HEADS);
    fc_tensor k = upload(device, k_data, KEYS, KV_HEADS);
    fc_tensor v = upload(device, v_data, KEYS, KV_HEADS);
    fc_tensor out = upload(device, out_data, QUERIES, HEADS);
    void *lse;
    check(fc_alloc(device, sizeof lse_data, &lse));

    int right = 1;
    for (int causal = 0; causal <= 1; causal++) {
        fc_attention_options options = {.struct_size = sizeof options, .causal = causal};
        void *stream = NULL; // or a cudaStream_t
        check(fc_attention_forward(device, stream, &q, &k, &v, &out, lse, &options));
        check(fc_stream_synchronize(device, stream));
        check(fc_copy_to_host(device, out_data, out.data, sizeof out_data));
        check(fc_copy_to_host(device, lse_data, lse, sizeof lse_data));

        double out_error = 0, lse_error = 0;
        int close = 1;
        for (size_t b = 0; b < BATCH; b++) {
            for (size_t h = 0; h < HEADS; h++) {
                for (size_t s = 0; s < QUERIES; s++) {
                    double expected[HEAD_DIM];
                    double error = reference(q_data, k_data, v_data, b, s, h, causal, expected);
                    error = fabs(error - lse_data[(b * HEADS + h) * QUERIES + s]);
                    close &= error <= LSE_TOLERANCE;
                    lse_error = fmax(lse_error, error);
                    for (size_t d = 0; d < HEAD_DIM; d++) {
                        error = fabs(expected[d] - to_float(row(out_data, b, s, h, QUERIES, HEADS)[d]));
                        close &= error <= OUT_TOLERANCE;
                        out_error = fmax(out_error, error);
                    }
                }
            }
        }
        printf("%s: largest error %.1e, of the log-sum-exp %.1e, %s\n", causal ? "causal" : "full", out_error,
               lse_error, close ? "right" : "WRONG");
        right &= close;
    }

    void *memory[] = {q.data, k.data, v.data, out.data, lse};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
        check(fc_free(device, memory[i]));
    }
    check(fc_device_close(device));
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
}
