/* What is done to single rows on one path: norm and rotation, codes of int8, results; included by
 * attention_path.h, which says what is defined before. */
#include "attention_vectors.h"

#include "attention_dots_path.h"

#include <math.h>

enum { KEYS = FR_ATTENTION_KEYS, ROWS = 4 /* of a tile */, LINE = 64 /* bytes of a line of the cache */ };

#define FETCH(address) __builtin_prefetch((address), 0, 3) /* to the first level: few rows wait for the second */

/* 1 / sqrt(mean(x^2) + epsilon) of `count` heads, a constant where this is inlined. */
INLINE four inverse_norms(const fr_attention_turn *turns, size_t count, size_t dim) {
    vec squares[ROWS][PARTS / LANES] = {{{0}}};
    four sums[ROWS];
    for (size_t i = 0; i < dim; i += PARTS)
#pragma GCC unroll 4
        for (size_t part = 0; part < PARTS / LANES; part++)
#pragma GCC unroll 4
            for (size_t row = 0; row < count; row++) {
                const vec x = load(turns[row].x + i + part * LANES);
                squares[row][part] += x * x; /* not fused: what goes to the caches is the same on every path */
            }
#pragma GCC unroll 4
    for (size_t row = 0; row < ROWS; row++)
        sums[row] = sums_of(squares[row]);
    return 1.0f / root_of_four(sum_of_each(sums) / (float)dim + turns->epsilon);
}

INLINE void rotate(const fr_attention_turn *turn, float *y) {
    const size_t half = turn->half;
    const float *cosine = turn->cos, *sine = turn->sin;
    size_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        const vec a = load(y + i), b = load(y + half + i), c = load(cosine + i), s = load(sine + i);
        store(y + i, a * c - b * s);
        store(y + half + i, a * s + b * c);
    }
    for (; i < half; i++) {
        const float a = y[i], b = y[i + half];
        y[i] = a * cosine[i] - b * sine[i];
        y[i + half] = a * sine[i] + b * cosine[i];
    }
}

/* `count` heads together, a constant where this is inlined: one alone would wait for its own norm. */
INLINE void prepare_some(const fr_attention_turn *turns, size_t count, size_t dim, float *y) {
    if (turns->norm != NULL) {
        const four inverses = inverse_norms(turns, count, dim);
        for (size_t i = 0; i < dim; i += LANES)
#pragma GCC unroll 4
            for (size_t row = 0; row < count; row++)
                store(y + row * dim + i, load(turns[row].x + i) * inverses[row] * load(turns->norm + i));
    } else {
        for (size_t row = 0; row < count; row++)
            memcpy(y + row * dim, turns[row].x, dim * sizeof(float));
    }
    for (size_t row = 0; turns->cos != NULL && row < count; row++)
        rotate(&turns[row], y + row * dim);
    if (turns->factor != 1.0f)
        for (size_t i = 0; i < count * dim; i += LANES)
            store(y + i, load(y + i) * turns->factor);
}

TARGET static void prepare(const fr_attention_turn *turns, size_t count, size_t dim, float *y) {
    if (count == ROWS)
        prepare_some(turns, ROWS, dim, y);
    else
        for (size_t row = 0; row < count; row++)
            prepare_some(turns + row, 1, dim, y + row * dim);
}

/* The largest size of each of `count` rows, as bits; those beyond are 0. */
INLINE four_ints sizes_of(const float *const *x, size_t count, size_t dim) {
    const ints size = (ints)all(-0.0f) ^ -1; /* all bits but the sign */
    ints peaks[ROWS] = {{0}};
    for (size_t i = 0; i < dim; i += LANES)
#pragma GCC unroll 4
        for (size_t row = 0; row < count; row++) /* floats without a sign are ordered as their bits are */
            peaks[row] = larger_ints((ints)load(x[row] + i) & size, peaks[row]);
    return largest_of_each(peaks);
}

/* `count` rows together, a constant where this is inlined. */
INLINE void encode_some(const float *const *x, size_t count, size_t dim, int8_t *codes, float *scales, int32_t *sums) {
    const four tiny = (four){0} + 0x1p-100f; /* 127 / m must not overflow, and m / 127 not be subnormal */
    const four_ints bits = sizes_of(x, count, dim), finite = bits < 0x7F800000;
    const four_ints usable = finite & ((four)bits >= tiny);
    const four inverses = 127.0f / (four)bits, none = (four){0} + NAN;
    const vec shift = all(0x1.8p23f); /* adding it rounds to an integer, which stands in the low bits then */
    const four found = (four)(((four_ints)((four)bits / 127.0f) & usable) | ((four_ints)none & ~finite));
    ints parts[ROWS] = {{0}};
    for (size_t i = 0; i < dim; i += LANES)
#pragma GCC unroll 4
        for (size_t row = 0; row < count; row++) {
            const ints shifted = (ints)(load(x[row] + i) * inverses[row] + shift);
            const ints rounded = (shifted - (ints)shift) & usable[row];
            parts[row] += rounded;
            store_bytes(rounded, codes + row * dim + i);
        }
    const four_ints totals = total_of_each(parts);
    memcpy(scales, &found, count * sizeof(float));
    memcpy(sums, &totals, count * sizeof(int32_t));
}

TARGET static void encode(const float *const *x, size_t count, size_t dim, int8_t *codes, float *scales,
                          int32_t *sums) {
    if (count == ROWS)
        encode_some(x, ROWS, dim, codes, scales, sums);
    else
        for (size_t row = 0; row < count; row++)
            encode_some(x + row, 1, dim, codes + row * dim, scales + row, sums + row);
}

TARGET static void finish(const float *acc, float sum, size_t dim, float *out) {
    for (size_t i = 0; i < dim; i += LANES)
        store(out + i, load(acc + i) / sum);
}
