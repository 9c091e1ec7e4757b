/* The steps of one path; included by the files of the paths, which define before LANES and TARGET as vectors.h says. */
#include "float_steps.h"

#define MADD(a, b, c) ((a) * (b) + (c)) /* in two roundings: fused ones would differ between processors */
#include "vectors.h"

#include <math.h>

TARGET static void normalize(const float *x, const float *norm, size_t k, float epsilon, float *y) {
    vec parts[PARTS / LANES] = {{0}};
    size_t whole = k / PARTS * PARTS;
    float rest[PARTS] = {0};
    memcpy(rest, x + whole, (k - whole) * sizeof(float));
    for (size_t i = 0; i <= whole; i += PARTS)
        for (size_t part = 0; part < PARTS / LANES; part++) {
            vec v = load((i < whole ? x + i : rest) + part * LANES);
            parts[part] += v * v;
        }
    const float inverse = 1.0f / sqrtf(total(parts) / (float)k + epsilon);
    for (size_t i = 0; i < whole; i += LANES)
        store(y + i, load(x + i) * inverse * load(norm + i));
    for (size_t i = whole; i < k; i++)
        y[i] = x[i] * inverse * norm[i];
}

INLINE vec sigmoid(vec x) {
    vec e = exponential((vec)((ints)x | (ints)all(-0.0f))); /* of -|x|: nothing overflows */
    return choose(x < all(0.0f), e, all(1.0f)) / (1.0f + e);
}

TARGET static void gate(const float *gates, const float *values, size_t rows, float *y, size_t stride) {
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < FR_STEP_WIDTH; i += LANES) {
            vec g = load(gates + row * FR_STEP_WIDTH + i), u = load(values + row * FR_STEP_WIDTH + i);
            store(y + row * stride + i, g * sigmoid(g) * u);
        }
}

TARGET static void add(float *y, size_t stride, const float *addend, size_t addend_stride, size_t rows, size_t count) {
    for (size_t row = 0; row < rows; row++, y += stride, addend += addend_stride) {
        if (count == FR_STEP_WIDTH)
            for (size_t i = 0; i < FR_STEP_WIDTH; i += LANES)
                store(y + i, load(y + i) + load(addend + i));
        else
            for (size_t i = 0; i < count; i++)
                y[i] += addend[i];
    }
}

INLINE void recur_vector(const float *const x[4], float *next, float *out) {
    vec keep = sigmoid(load(x[0]));
    store(next, keep * load(x[3]) + (1.0f - keep) * tangent(load(x[1])));
    store(out, tangent(load(x[2])));
}

TARGET static void recur(const float *z, const float *state, size_t size, float *next, float *out) {
    const size_t whole = size / LANES * LANES, rest = size - whole;
    const float *const from[4] = {z, z + size, z + 2 * size, state};
    for (size_t i = 0; i < whole; i += LANES) {
        const float *const at[4] = {from[0] + i, from[1] + i, from[2] + i, from[3] + i};
        recur_vector(at, next + i, out + i);
    }
    if (rest == 0)
        return;
    float last[6][LANES] = {{0}};
    for (size_t j = 0; j < 4; j++)
        memcpy(last[j], from[j] + whole, rest * sizeof(float));
    const float *const at[4] = {last[0], last[1], last[2], last[3]};
    recur_vector(at, last[4], last[5]);
    memcpy(next + whole, last[4], rest * sizeof(float));
    memcpy(out + whole, last[5], rest * sizeof(float));
}
