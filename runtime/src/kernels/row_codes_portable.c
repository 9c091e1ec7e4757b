/* Plain C: the definition. */
#include "row_codes.h"

#include <string.h>

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

static int32_t encode(const float *x, size_t k, size_t padded, float inverse, int8_t *codes, size_t stride) {
    /* Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, as the other paths' instructions
     * do; lrintf would be a call of the C library here. */
    const float shift = 0x1.8p23f;
    int32_t sum = 0;
    for (size_t i = 0; i < padded; i++) {
        int32_t code = i < k ? (int32_t)((x[i] * inverse + shift) - shift) : 0;
        codes[i / 4 * stride + i % 4] = (int8_t)code;
        sum += code;
    }
    return sum;
}

const fr_row_codes fr_row_codes_portable = {peak, encode, NULL};
