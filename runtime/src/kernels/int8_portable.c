/* Plain C: the definition, one row at a time. */
#include "linear_int8.h"

#include <string.h>

static int usable(void) {
    return 1;
}

static uint32_t peak(const float *x, size_t k) {
    uint32_t largest = 0;
    for (size_t i = 0; i < k; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7FFFFFFFu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

static int32_t encode(const float *x, size_t k, float inverse, int8_t *codes, size_t stride) {
    /* Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, as the other paths' instructions
     * do; lrintf would be a call of the C library here. */
    const float shift = 0x1.8p23f;
    size_t padded = (k + FR_INT8_INPUTS - 1) / FR_INT8_INPUTS * FR_INT8_INPUTS;
    int32_t sum = 0;
    for (size_t i = 0; i < padded; i++) {
        int32_t code = i < k ? (int32_t)((x[i] * inverse + shift) - shift) : 0;
        codes[i / 4 * stride + i % 4] = (int8_t)code;
        sum += code;
    }
    return sum;
}

static void multiply(const uint8_t *weights, size_t blocks, const fr_int8_rows *rows, const fr_int8_out *out) {
    for (size_t row = 0; row < rows->count; row++) {
        int32_t sums[FR_INT8_OUTPUTS] = {0};
        for (size_t i = 0; i < blocks * (FR_INT8_INPUTS / 4); i++) {
            const int8_t *a = rows->codes + (i * rows->count + row) * 4;
            const uint8_t *w = weights + i * 4 * FR_INT8_OUTPUTS;
            for (size_t n = 0; n < FR_INT8_OUTPUTS; n++)
                for (size_t j = 0; j < 4; j++)
                    sums[n] += a[j] * (w[4 * n + j] - 128);
        }
        for (size_t n = 0; n < out->outputs; n++)
            out->y[row * out->stride + n] = (float)sums[n] * (rows->scales[row] * out->weight_scales[n]);
    }
}

const fr_int8_path fr_int8_portable = {"portable", usable, FR_INT8_MAX_ROWS, &fr_float_steps_portable,
                                       peak,       encode, multiply};
